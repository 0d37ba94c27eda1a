"""Count what `detect` finds where nothing is to be found.

    python benchmarks/blobs_negatives.py --data ../shared/data

Drawn: a constant with noise; a slope of light with noise; clouds (a smooth random field) with noise; stripes with noise; 256 ×
384 px, 8 bits. Real: windows of 96 × 128 px of the images that recipes/blobs_data.py sets aside to measure on, from which every
annotated blob stays away by its radius and 8 px more; textures without blobs that scikit-image brings (`brick`, `grass`), in
windows of 256 × 256 px. Each window is an image of its own, whose tones are spread by themselves. Every finding of a
probability of at least 0.5 counts as false; where annotators left a blob out, it does so wrongly. `false_per_megapixel` has a
bootstrap interval over images, `images_with_any` Wilson's.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from blobs_baselines import LEAST_PROBABILITY, load_detector
from jaxtyping import Float64, Int64
from options import options, read_options
from result_files import bounds, share_bounds, write_result
from skimage import data

from fiducial.augment import smooth_field
from fiducial.blobs.detector import BlobDetector
from fiducial.blobs.samples import is_background
from fiducial.crowds import NOTHING
from fiducial.datasets import CrowdImage
from fiducial.evaluate.blobs import find

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from blobs_data import split

SEED, SIZE, WINDOW, TEXTURE_PX = 13, (256, 384), (96, 128), 256
WINDOWS = 2  # of an image, at most
NOISE = (0.01, 0.08)

Gray = Float64[np.ndarray, "h w"]


def draw_constant(_: np.random.Generator) -> Gray:
    return np.zeros(SIZE)


def draw_slope(rng: np.random.Generator) -> Gray:
    y, x = np.meshgrid(np.linspace(0, 1, SIZE[0]), np.linspace(0, 1, SIZE[1]), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    return 0.4 * (np.cos(angle) * x + np.sin(angle) * y)


def draw_clouds(rng: np.random.Generator) -> Gray:
    return 0.15 * smooth_field(rng, SIZE, 3).astype(np.float64)


def draw_stripes(rng: np.random.Generator) -> Gray:
    y, x = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]), indexing="ij")
    angle, period = rng.uniform(0, np.pi), rng.uniform(8, 40)
    return 0.2 * np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period)


DRAWN: dict[str, Callable[[np.random.Generator], Gray]] = {
    "constant and noise": draw_constant,
    "slope and noise": draw_slope,
    "clouds and noise": draw_clouds,
    "stripes and noise": draw_stripes,
}


def draw(kind: str, number: int) -> np.ndarray:
    """Draw an image of a kind by its number alone, 8 bits."""
    rng = np.random.default_rng([SEED, list(DRAWN).index(kind), number])
    noisy = rng.uniform(0.2, 0.7) + DRAWN[kind](rng) + rng.normal(0, rng.uniform(*NOISE), SIZE)
    return np.clip(noisy * 255, 0, 255).round().astype(np.uint8)


def empty_windows(image: CrowdImage) -> list[np.ndarray]:
    """Return up to WINDOWS windows that no blob comes near and that do not overlap, in the order of reading."""
    h, w = WINDOW
    found: list[np.ndarray] = []
    for top in range(0, image.pixels.shape[0] - h + 1, h):
        for left in range(0, image.pixels.shape[1] - w + 1, w):
            corner = np.array([top, left])
            if is_background(image.crowd, corner, corner + WINDOW) and len(found) < WINDOWS:
                found.append(image.pixels[top : top + h, left : left + w].copy())
    return found


def textures() -> list[np.ndarray]:
    """Return the windows of scikit-image's pictures of brick and grass."""
    steps = range(0, 512, TEXTURE_PX)
    pictures = (data.brick(), data.grass())
    return [p[y : y + TEXTURE_PX, x : x + TEXTURE_PX].copy() for p in pictures for y in steps for x in steps]


def measure(detector: BlobDetector, sets: Mapping[str, Sequence[np.ndarray]]) -> pd.DataFrame:
    """Return a row for each set of images."""
    table = []
    for name, images in sets.items():
        if not images:
            continue
        found = [find(detector, CrowdImage(name, image, NOTHING), LEAST_PROBABILITY) for image in images]
        false = np.array([len(f.yx) for f in found])
        megapixels = np.array([image.shape[0] * image.shape[1] for image in images]) / 1e6

        def rate(chosen: Int64[np.ndarray, " n"], false: np.ndarray = false, area: np.ndarray = megapixels) -> float:
            return float(false[chosen].sum() / area[chosen].sum())

        row = {"images_of": name, "images": len(images), "megapixels": megapixels.sum(), "false": false.sum()}
        row |= {"false_per_megapixel": rate(np.arange(len(images))), **bounds("false_per_megapixel", len(images), rate)}
        row |= {"images_with_any": (false > 0).mean(), **share_bounds("images_with_any", false > 0)}
        highest = [float(f.score.max()) for f in found if len(f.score)]
        table.append(row | {"highest_probability": max(highest, default=np.nan)})
        print(f"{name}: {false.sum()} in {len(images)} images", file=sys.stderr, flush=True)
    return pd.DataFrame(table)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=12, help="of each drawn kind")
    parser.add_argument("--every", type=int, default=1, help="take every N-th real image")
    parser.add_argument("--weights", type=Path, default=None, help="of blobs; the shipped ones by default")
    args = read_options(parser, {"images": 2, "every": 8}, ("dsb2018", "emps"))
    sets = {kind: [draw(kind, number) for number in range(args.images)] for kind in DRAWN}
    for kind, images in split(args.data).validated.items():
        sets[f"background, {kind}"] = [window for image in images[:: args.every] for window in empty_windows(image)]
    sets["textures"] = textures()[:: args.every]
    write_result("blobs_negatives", measure(load_detector(args.weights), sets), args.out)


if __name__ == "__main__":
    main()
