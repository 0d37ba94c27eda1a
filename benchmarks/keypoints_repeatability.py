"""Measure how well keypoints are found again by another sensor, and by the same one in other light and from elsewhere.

    python benchmarks/keypoints_repeatability.py --data ../shared/data
    python benchmarks/keypoints_repeatability.py --data ../shared/data --every 8 --only sift,orb,harris --out /tmp/results

Images: crops of 240 × 240 px, 16 of each scene that recipes/keypoints_data.py sets aside to measure on, optical and SAR, pixel
on pixel. Every method gives its 300 best points.

`keypoints_repeatability`: optical against SAR within 2 px; `chance` is the same for optical points and those of another scene's
SAR, `excess` what lies above it. `pairs` counts the crops where the method has points in both.

`keypoints_same_sensor`: each crop against itself, turned by up to 30°, scaled by 0.8 to 1.25, tilted a little, and re-lit
(gamma 0.6 to 1.6, gain, noise), within 3 px, the mean of both frames. Only points of the area that both show count, less a
margin of 16 px; of these each method gives its 300 best or, where some method has fewer in either view, as many as all have.

`keypoints_scenes`: the paper's protocol, confidence above 0.6 and 2 px, on six scenes that are like those of its Table 3,
beside what the paper reports for its own; with the numbers of points, on which chance depends, and at 300 points. There is no
port and no coast here: the nearest is the shore of a lake.

Intervals are bootstrapped over crops.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from blobs_repeatability import change, common, draw_homography
from keypoints_baselines import PLENTY, Find, Picture, Points, finders
from options import options, read_options
from result_files import mean_bounds, write_result

from fiducial import api
from fiducial.coords import Matrix, apply_transform
from fiducial.datasets import AlignedPair, read_aligned
from fiducial.metrics import repeatability

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from keypoints_data import VALIDATED

SEED = 7
SIDE_PX, STARTS = 240, (0, 256, 512, 768)
POINTS, SENSORS_PX, SAME_PX, FEWEST = 300, 2.0, 3.0, 8
CONFIDENT = 0.6
OURS = "fiducial keypoints"
NAMES = {"ours": OURS, "sift": "SIFT", "orb": "ORB", "harris": "Harris", "akaze": "AKAZE", "random": "random points"}


@dataclass(frozen=True)
class Scene:
    """A crop of a scene and its first pixel; what the paper reports for its own scene of that kind."""

    kind: str
    tile: str
    top: int
    left: int
    paper: float


SCENES = (
    Scene("urban", "172", 300, 140, 0.566),
    Scene("suburban", "208", 130, 420, 0.547),
    Scene("industrial", "171", 560, 520, 0.608),
    Scene("ponds", "196", 385, 525, 0.511),
    Scene("lake shore (for a port)", "207", 650, 30, 0.610),
    Scene("mountain", "162", 540, 440, 0.556),
)


def find_keypoints(weights: Path | None, image: Picture, most: int) -> Points:
    return api.keypoints(image, most=most, weights=weights).yx


def find_confident(weights: Path | None, image: Picture) -> Points:
    """Return all keypoints of confidence above CONFIDENT."""
    found = api.keypoints(image, most=PLENTY, weights=weights)
    return found.yx[found.score > CONFIDENT]


def crop(pair: AlignedPair, top: int, left: int) -> AlignedPair:
    window = (slice(top, top + SIDE_PX), slice(left, left + SIDE_PX))
    return AlignedPair(f"{pair.name} {top} {left}", pair.a[window].copy(), pair.b[window].copy())


def crops_of(pairs: Sequence[AlignedPair], every: int) -> list[AlignedPair]:
    """Return every N-th crop, in an order that is drawn once and for all."""
    whole = [crop(pair, top, left) for pair in pairs for top in STARTS for left in STARTS]
    return [whole[i] for i in np.random.default_rng(SEED).permutation(len(whole))[::every]]


def elsewhere(crops: Sequence[AlignedPair]) -> list[int]:
    """Return, for each crop, which is the next one of another scene."""
    scene, n = [c.name.split()[0] for c in crops], len(crops)
    return [next((i + k) % n for k in range(1, n) if scene[(i + k) % n] != scene[i]) for i in range(n)]


def across_sensors(crops: Sequence[AlignedPair], methods: Mapping[str, Find]) -> pd.DataFrame:
    """Return the means of each method over optical / SAR crops."""
    table = []
    for name, find in methods.items():
        a, b = ([find(image, POINTS) for image in images] for images in ([c.a for c in crops], [c.b for c in crops]))
        own = [repeatability(a[i], b[i], SENSORS_PX) for i in range(len(crops))]
        chance = [repeatability(a[i], b[j], SENSORS_PX) for i, j in enumerate(elsewhere(crops))]
        row = {"method": name, "repeatability": np.nanmean(own), "chance": np.nanmean(chance)}
        row |= {"excess": row["repeatability"] - row["chance"], "points": np.mean([len(yx) for yx in (*a, *b)])}
        row |= mean_bounds("repeatability", own) | mean_bounds("excess", np.array(own) - np.array(chance))
        table.append(row | {"pairs": int(np.isfinite(own).sum())})
        print(f"{name}: {len(crops)} crops by two sensors", file=sys.stderr, flush=True)
    return pd.DataFrame(table)


def in_both_frames(a_yx: Points, b_yx: Points, a_to_b: Matrix) -> float:
    """Return the repeatability of two views, the mean of either frame."""
    there = repeatability(apply_transform(a_to_b, a_yx), b_yx, SAME_PX)
    here = repeatability(a_yx, apply_transform(np.linalg.inv(a_to_b), b_yx), SAME_PX)
    return (there + here) / 2


def compare_views(image: Picture, other: Picture, methods: Mapping[str, Find], view: int) -> Iterator[dict[str, object]]:
    """Yield, for each method, how it finds points again in a changed view of an image, and in one of another image."""
    rng = np.random.default_rng([SEED, view])
    a_to_b = draw_homography(rng, (SIDE_PX, SIDE_PX))
    changed, strange = (change(picture, a_to_b, rng) for picture in (image, other))
    back = np.linalg.inv(a_to_b)
    kept = {}
    for name, find in methods.items():
        seen = ((image, a_to_b), (changed, back), (strange, back))
        kept[name] = [common(find(picture, PLENTY), matrix, (SIDE_PX, SIDE_PX)) for picture, matrix in seen]
    n = min(POINTS, *(len(points) for views in kept.values() for points in views))
    if n < FEWEST:
        return
    for name, (a, b, c) in kept.items():
        own, chance = (in_both_frames(a[:n], points[:n], a_to_b) for points in (b, c))
        yield {"method": name, "repeatability": own, "chance": chance, "excess": own - chance, "points": n}


def same_sensor(crops: Sequence[AlignedPair], methods: Mapping[str, Find]) -> pd.DataFrame:
    """Return the means of each method over views by one sensor."""
    rows: list[dict[str, object]] = []
    for sensor, images in (("optical", [c.a for c in crops]), ("SAR", [c.b for c in crops])):
        for i, j in enumerate(elsewhere(crops)):
            rows += [{"sensor": sensor, **row} for row in compare_views(images[i], images[j], methods, i)]
        print(f"{len(images)} views by one sensor, {sensor}", file=sys.stderr, flush=True)
    if not rows:
        return pd.DataFrame()
    table = []
    for (sensor, method), own in pd.DataFrame(rows).groupby(["sensor", "method"], sort=False):
        row = {"sensor": sensor, "method": method, **own[["repeatability", "chance", "excess", "points"]].mean()}
        row |= mean_bounds("repeatability", own["repeatability"]) | mean_bounds("excess", own["excess"])
        table.append(row | {"pairs": len(own)})
    return pd.DataFrame(table)


def scenes(pairs: Sequence[AlignedPair], weights: Path | None) -> pd.DataFrame:
    """Return our repeatability on scenes like the paper's, by its protocol."""
    tiles = {pair.name: pair for pair in pairs}
    crops = [crop(tiles[scene.tile], scene.top, scene.left) for scene in SCENES]
    found = [(find_confident(weights, c.a), find_confident(weights, c.b)) for c in crops]
    table = []
    for i, scene in enumerate(SCENES):
        (a, b), others = found[i], [found[j][1] for j in range(len(SCENES)) if j != i]
        best = [find_keypoints(weights, image, POINTS) for image in (crops[i].a, crops[i].b)]
        row = {"scene": scene.kind, "crop": crops[i].name, "paper": scene.paper}
        row |= {"repeatability": repeatability(a, b, SENSORS_PX)}
        row |= {"chance": np.mean([repeatability(a, other, SENSORS_PX) for other in others])}
        row |= {"points_optical": len(a), "points_sar": len(b)}
        table.append(row | {"repeatability_300": repeatability(best[0], best[1], SENSORS_PX)})
    return pd.DataFrame(table)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every N-th crop")
    parser.add_argument("--only", default=",".join(NAMES), help="methods, separated by commas")
    parser.add_argument("--weights", type=Path, default=None, help="of keypoints; the shipped ones by default")
    args = read_options(parser, {"every": 16}, ("volkov",))
    chosen = args.only.split(",")
    if set(chosen) - set(NAMES):
        parser.error(f"--only must name some of {','.join(NAMES)}, got {args.only}")
    known: dict[str, Find] = {OURS: partial(find_keypoints, args.weights), **finders(SEED)}
    methods = {NAMES[name]: known[NAMES[name]] for name in NAMES if name in chosen and NAMES[name] in known}
    for name in set(chosen) - {name for name in NAMES if NAMES[name] in methods}:
        print(f"this OpenCV, {cv2.__version__}, has no {NAMES[name]}", file=sys.stderr)
    pairs = read_aligned(args.data / "volkov", VALIDATED)
    crops = crops_of(pairs, args.every)
    if not methods or len({c.name.split()[0] for c in crops}) < 2:
        parser.error(
            f"no method that this OpenCV has, or crops of fewer than 2 scenes: got --only {args.only}, {len(crops)} crops"
        )
    write_result("keypoints_repeatability", across_sensors(crops, methods), args.out)
    compared = {name: find for name, find in methods.items() if name != NAMES["random"]}
    views = same_sensor(crops, compared)
    if len(views):
        write_result("keypoints_same_sensor", views, args.out)
    if "ours" in chosen:
        write_result("keypoints_scenes", scenes(pairs, args.weights), args.out)


if __name__ == "__main__":
    main()
