"""Measure `detect` on micrographs that it was not trained on, beside what people use today, on the same images in one run.

    python benchmarks/blobs_real.py --data ../shared/data
    python benchmarks/blobs_real.py --data ../shared/data --every 20 --weights runs/blobs_slim/weights.safetensors --out out

Images are those that recipes/blobs_data.py sets aside to measure on: nuclei in fluorescence and stained (dsb2018), particles
(EMPS). The detector is the same for all. The others are told, for each kind, the setting of the best F1 on these very images:
threshold, range of sizes, and whether blobs are bright or dark (benchmarks/blobs_baselines.py).

A finding counts if it lies within max(2 px, r / 2) of a blob's center, one to one. `adjacent` is the share of pairs of
neighbors of which both are found; `radius_error` the mean of |log(found / true)|; `count_error` the median of
|found - true| / true; `count_covered` the share of images whose count lies in the stated interval. `seconds` are the median of
an image, from pixels to answer; `time_ratio` is over LoG's on the same kind. Nuclei are split by clusters of images that look
alike, but an image may have a nearer one in another cluster: "none alike trained on" are the images of a kind without any
trained one within the distance at which clusters are cut; the settings are those of the whole kind. Intervals are bootstrapped
over these clusters (particles: over images), that of `count_covered` is Wilson's.

Writes blobs_real.csv; reliability_blobs.csv, of all candidates, also those too improbable to be reported; and blobs_speed.csv:
up to 8 crops of 512 × 512 px of each kind, spread evenly over all that there are, and the crowds of blobs_crowds.py at spacing
1, beside blob_log with its defaults; medians over the crops, and the largest ratio. scikit-image uses one thread. Times are
wall clock; run it while nothing else runs.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from blobs_baselines import (
    BASELINES,
    crowd_bounds,
    load_detector,
    measure_candidates,
    measure_method,
    normalized_gray,
    reported,
)
from blobs_crowds import SPACINGS, draw
from options import options, read_options
from reliability import reliability_table
from result_files import write_result
from skimage.feature import blob_log

from fiducial.blobs.detector import BlobDetector
from fiducial.crowds import NOTHING
from fiducial.datasets import CrowdImage, read_crowds
from fiducial.evaluate.blobs import Judged, find, summarize

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from blobs_data import ALIKE, Split, clusters, look, split, without_slivers

SPEED_PX, SPEED_CROPS, SPEED_RUNS = 512, 8, 3
REFERENCE = "LoG, tuned"
APART = "none alike trained on"
TOUCHING = SPACINGS.index(1.0)


@dataclass(frozen=True)
class Kind:
    """Images of a kind; the cluster of each, and whether none that looks like it was trained on."""

    name: str
    images: Sequence[CrowdImage]
    cluster: Sequence[int]
    apart: Sequence[bool]


def read_kinds(data: Path, parts: Split, every: int) -> list[Kind]:
    """Return every N-th image of each kind; particles, which are split by their names, are each a cluster."""
    nuclei = [without_slivers(image) for image in read_crowds(data / "dsb2018")]
    cluster = {image.name: int(number) for image, number in zip(nuclei, clusters(nuclei), strict=True)}
    trained = np.stack([look(image) for group in parts.trained.groups for image in group])
    kinds = []
    for name, images in parts.validated.items():
        own = images[::every]
        known = all(image.name in cluster for image in own)
        apart = [not known or bool((np.linalg.norm(trained - look(image), axis=1) >= ALIKE).all()) for image in own]
        kinds.append(Kind(name, own, [cluster[im.name] if known else i for i, im in enumerate(own)], apart))
    return kinds


def rows_of(method: str, setting: str, kind: Kind, judged: Sequence[Judged]) -> list[dict[str, object]]:
    """Return the scores of a method on a kind, and on the images that none alike was trained on if these are a part of it."""
    chosen = {kind.name: range(len(judged))}
    if 0 < sum(kind.apart) < len(judged):
        chosen[f"{kind.name}, {APART}"] = np.flatnonzero(kind.apart).tolist()
    rows = []
    for name, numbers in chosen.items():
        own = [judged[i] for i in numbers]
        scores = summarize(own) | crowd_bounds(own, [kind.cluster[i] for i in numbers])
        rows.append({"method": method, "kind": name, **scores, "setting": setting})
    return rows


def measure_kind(kind: Kind, candidates: Sequence[Judged]) -> list[dict[str, object]]:
    """Return the rows of each method, ours from what it sees, those of the whole kind first."""
    rows = rows_of("fiducial detect", "none", kind, reported(candidates))
    for name, method in BASELINES.items():
        setting, judged = measure_method(method, kind.images)
        rows += rows_of(name, str(setting), kind, judged)
        print(f"{kind.name}: {name}: {setting}", file=sys.stderr, flush=True)
    rows = sorted(rows, key=lambda row: row["kind"] != kind.name)
    reference = next(row["seconds"] for row in rows if row["method"] == REFERENCE)
    return [row | {"time_ratio": row["seconds"] / reference if row["kind"] == kind.name else np.nan} for row in rows]


def crops_of(images: Sequence[CrowdImage], most: int) -> list[CrowdImage]:
    """Return up to `most` crops of SPEED_PX a side, spread evenly over all that lie side by side in the images."""
    crops = [
        CrowdImage(image.name, image.pixels[top : top + SPEED_PX, left : left + SPEED_PX], NOTHING)
        for image in images
        for top in range(0, image.pixels.shape[0] - SPEED_PX + 1, SPEED_PX)
        for left in range(0, image.pixels.shape[1] - SPEED_PX + 1, SPEED_PX)
    ]
    return [crops[i] for i in np.unique(np.linspace(0, len(crops) - 1, min(most, len(crops))).round().astype(int))]


def time_crop(crop: CrowdImage, detector: BlobDetector, runs: int) -> tuple[float, float]:
    """Return our median seconds, and blob_log's."""
    ours, theirs = [], []
    for _ in range(runs):
        ours.append(find(detector, crop).seconds)
        begin = perf_counter()
        blob_log(normalized_gray(crop))
        theirs.append(perf_counter() - begin)
    return float(np.median(ours)), float(np.median(theirs))


def measure_speed(sets: Mapping[str, Sequence[CrowdImage]], detector: BlobDetector, runs: int) -> pd.DataFrame:
    """Time crops of each kind; `ratio` is our time over blob_log's on the same crop."""
    rows = []
    for kind, crops in sets.items():
        if not crops:
            continue
        time_crop(crops[0], detector, 1)  # to warm up
        ours, theirs = np.array([time_crop(crop, detector, runs) for crop in crops]).T
        row = {"kind": kind, "crops": len(crops), "fiducial_seconds": np.median(ours), "blob_log_seconds": np.median(theirs)}
        rows.append(row | {"ratio": np.median(ours / theirs), "ratio_largest": (ours / theirs).max()})
        print(f"{kind}: timed {len(crops)} crops", file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every N-th image of each kind")
    parser.add_argument("--weights", type=Path, default=None, help="of blobs; the shipped ones by default")
    args = read_options(parser, {"every": 20}, ("dsb2018", "emps"))
    detector = load_detector(args.weights)
    parts = split(args.data)
    rows, answers = [], {}
    for kind in read_kinds(args.data, parts, args.every):
        candidates = measure_candidates(detector, kind.images)
        print(f"{kind.name}: fiducial detect", file=sys.stderr, flush=True)
        rows += measure_kind(kind, candidates)
        stated = zip(*((j.found.score, j.true) for j in candidates), strict=True)
        answers[kind.name] = tuple(np.concatenate(part) for part in stated)
    write_result("blobs_real", pd.DataFrame(rows), args.out)
    write_result("reliability_blobs", reliability_table(answers), args.out)
    crops, runs = (1, 1) if args.quick else (SPEED_CROPS, SPEED_RUNS)
    sets = {kind: crops_of(images, crops) for kind, images in parts.validated.items()}
    sets["drawn crowds, spacing 1"] = [draw(TOUCHING, number) for number in range(crops)]
    write_result("blobs_speed", measure_speed(sets, detector, runs), args.out)


if __name__ == "__main__":
    main()
