"""Measure how well points are found again after a known homography and a change of light, beside what people use today.

    python benchmarks/blobs_repeatability.py --data ../shared/data
    python benchmarks/blobs_repeatability.py --data ../shared/data --every 10 --weights runs/blobs_slim/weights.safetensors

Images: those that recipes/blobs_data.py sets aside to measure on (fluorescence and particles with at least 40 blobs), and two
photographs of scikit-image. Each, A, is turned by up to 30°, scaled by 0.8 to 1.25, tilted a little, and re-lit (gamma 0.6 to
1.6, gain, noise): B. In the area that both show, less a margin, each method's n best points of A and of B are compared; n is
200 or, where some method has fewer in A or B, as many as all have. `repeatability` is the share of points with a partner
within 3 px, one to one, the mean of counting in A's frame and in B's. `chance` is the same for points of another image's B,
stretched to the size of this one. LoG and DoG look for bright or for dark blobs, whichever repeats better on the image, which
flatters them; no method has a threshold. The mean is over images, and so are the intervals, which are bootstrapped.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from blobs_baselines import (
    POLARITIES,
    dog_space,
    load_detector,
    log_space,
    made_bright,
    normalized_gray,
    peaks_of,
    pruned,
    smaller_rivals,
)
from jaxtyping import Float64, UInt8
from keypoints_baselines import PLENTY, find_features, orb, sift
from options import options, read_options
from result_files import mean_bounds, write_result
from skimage import data

from fiducial.augment import add_noise, change_gamma, map_from_matrix, resample
from fiducial.blobs.detector import BlobDetector
from fiducial.coords import Matrix, apply_transform, image_center_yx, resize_transform, shift, similarity
from fiducial.crowds import NOTHING
from fiducial.datasets import CrowdImage
from fiducial.images import from_array, to_gray
from fiducial.metrics import match_points

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from blobs_data import split

SEED, LEAST_BLOBS = 5, 40
POINTS, FEWEST, REACH_PX, MARGIN_PX = 200, 8, 3.0, 16.0
LEAST_RESPONSE = 0.003  # of LoG and DoG, for intensities from 0 to 1

Picture = UInt8[np.ndarray, "h w"]
Points = Float64[np.ndarray, "n 2"]
Find = Callable[[Picture], Points]


@dataclass(frozen=True)
class Pair:
    """A method's points in an image and in a changed copy of it, all of them, best first."""

    size: tuple[int, int]
    a_to_b: Matrix
    a_yx: Points
    b_yx: Points


def read_pictures(folder: Path, every: int) -> list[Picture]:
    """Read the images as gray, those with many blobs first."""
    validated = split(folder).validated
    crowded = [im for kind in ("fluorescence", "particles") for im in validated[kind] if len(im.crowd) >= LEAST_BLOBS]
    photographs = [data.coins(), data.hubble_deep_field()[:512, :512]]
    gray = [to_gray(pixels, "image") for pixels in [*(image.pixels for image in crowded), *photographs]]
    return [image.round().astype(np.uint8) for image in gray[::every]]


def draw_homography(rng: np.random.Generator, size: tuple[int, int]) -> Matrix:
    """Draw a transform about the middle of an image: angle, scale, and a tilt that moves corners by up to about 5 %."""
    angle, scale = float(rng.uniform(-30, 30)), float(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
    cy, cx = image_center_yx(size)
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-0.1, 0.1, 2) / max(size)
    return shift(cy, cx) @ similarity(scale, angle) @ tilt @ shift(-cy, -cx)


def change(image: Picture, a_to_b: Matrix, rng: np.random.Generator) -> Picture:
    """Return the image as the transform moves it, in other light."""
    size = (image.shape[0], image.shape[1])
    moved = resample(image.astype(np.float32) / 255, map_from_matrix(np.linalg.inv(a_to_b), size))
    lit = change_gamma(moved, float(np.exp(rng.uniform(np.log(0.6), np.log(1.6))))) * np.float32(rng.uniform(0.7, 1.1))
    return np.clip(add_noise(lit, rng, float(rng.uniform(0, 0.04))) * 255, 0, 255).round().astype(np.uint8)


def find_blobs(detector: BlobDetector, image: Picture) -> Points:
    """Return our candidates by descending probability."""
    found, evidence = detector.candidates(from_array(image))
    return found.yx[np.argsort(-detector.probability(evidence), kind="stable")]


def find_peaks(space: Callable[..., tuple[np.ndarray, np.ndarray]], polarity: str, image: Picture) -> Points:
    """Return the peaks of a scale space by descending height, overlapping ones pruned."""
    gray = normalized_gray(CrowdImage("image", image, NOTHING))
    peaks = peaks_of(*space(made_bright(gray, polarity)), LEAST_RESPONSE)
    return peaks.yx[pruned(peaks, smaller_rivals(peaks), len(peaks.yx))].astype(np.float64)


def finders(detector: BlobDetector) -> dict[str, Find]:
    """Return the methods; LoG and DoG once for bright and once for dark blobs, told apart after the comma."""
    return {
        "fiducial detect": partial(find_blobs, detector),
        **{f"LoG,{polarity}": partial(find_peaks, log_space, polarity) for polarity in POLARITIES},
        **{f"DoG,{polarity}": partial(find_peaks, dog_space, polarity) for polarity in POLARITIES},
        "SIFT": partial(find_features, sift(), most=PLENTY),
        "ORB": partial(find_features, orb(), most=PLENTY),
    }


def pairs_of(images: Sequence[Picture], views: int, methods: dict[str, Find]) -> Iterator[dict[str, Pair]]:
    """Yield, for each view and then each image, what the methods find in the image and in that view of it."""
    found = [{name: find(image) for name, find in methods.items()} for image in images]
    for view in range(views):
        for i, image in enumerate(images):
            rng, size = np.random.default_rng([SEED, i, view]), (image.shape[0], image.shape[1])
            a_to_b = draw_homography(rng, size)
            changed = change(image, a_to_b, rng)
            yield {name: Pair(size, a_to_b, found[i][name], find(changed)) for name, find in methods.items()}
        print(f"{view + 1} of {views} views", file=sys.stderr, flush=True)


def common(points: Points, transform: Matrix, size: tuple[int, int]) -> Points:
    """Return the points that lie inside their own image and the other one, both less a margin."""
    low, high = MARGIN_PX, np.array(size) - 1 - MARGIN_PX
    there = apply_transform(transform, points)
    return points[((points >= low) & (points <= high) & (there >= low) & (there <= high)).all(axis=1)]


def matched(first: Points, second: Points, first_to_second: Matrix) -> float:
    """Return the share of points that have a partner, the mean of both frames."""
    fewer = min(len(first), len(second))
    if not fewer:
        return float("nan")
    back = np.linalg.inv(first_to_second)
    there = match_points(apply_transform(first_to_second, first), second, np.full(len(second), REACH_PX))
    here = match_points(apply_transform(back, second), first, np.full(len(first), REACH_PX))
    return float(((there >= 0).sum() + (here >= 0).sum()) / 2 / fewer)


def compare(pairs: dict[str, Pair], other: dict[str, Pair], image: int) -> list[dict[str, object]]:
    """Return a row for each method, if all have points enough."""
    kept = {}
    for name, pair in pairs.items():
        stretched = apply_transform(resize_transform(other[name].size, pair.size), other[name].b_yx)
        back = np.linalg.inv(pair.a_to_b)
        parts = ((pair.a_yx, pair.a_to_b), (pair.b_yx, back), (stretched, back))
        kept[name] = [common(points, transform, pair.size) for points, transform in parts]
    n = min(POINTS, *(len(points) for a, b, _ in kept.values() for points in (a, b)))
    if n < FEWEST:
        return []
    rows = []
    for name, (a, b, strange) in kept.items():
        method, _, polarity = name.partition(",")
        scores = [matched(a[:n], points[:n], pairs[name].a_to_b) for points in (b, strange)]
        row = {"image": image, "method": method, "polarity": polarity, "points": n}
        rows.append(row | dict(zip(("repeatability", "chance"), scores, strict=True)))
    return rows


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the means of each method over images, of the better polarity for each image."""
    by_image = rows.groupby(["method", "image", "polarity"], sort=False).mean().reset_index()
    better = by_image.loc[by_image.groupby(["method", "image"], sort=False)["repeatability"].idxmax()]
    table = []
    for method, own in better.groupby("method", sort=False):
        row = {"method": method, **own[["repeatability", "chance", "points"]].mean(), "images": len(own)}
        table.append(row | mean_bounds("repeatability", own["repeatability"]))
    return pd.DataFrame(table)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--views", type=int, default=3, help="changed copies of each image")
    parser.add_argument("--every", type=int, default=1, help="take every N-th image")
    parser.add_argument("--weights", type=Path, default=None, help="of blobs; the shipped ones by default")
    args = read_options(parser, {"views": 1, "every": 10}, ("dsb2018", "emps"))
    images = read_pictures(args.data, args.every)
    if len(images) < 2:
        parser.error(f"--every must leave at least 2 images, got {args.every}, which leaves {len(images)}")
    pairs = list(pairs_of(images, args.views, finders(load_detector(args.weights))))
    others = [pairs[i - i % len(images) + (i + 1) % len(images)] for i in range(len(pairs))]
    rows = [
        row for i, (own, other) in enumerate(zip(pairs, others, strict=True)) for row in compare(own, other, i % len(images))
    ]
    write_result("blobs_repeatability", summarize(pd.DataFrame(rows)), args.out)


if __name__ == "__main__":
    main()
