"""Measure `detect` on micrographs that it was not trained on, beside what people use today, on the same images in one run.

    python benchmarks/blobs_real.py --data ../shared/data
    python benchmarks/blobs_real.py --data ../shared/data --every 20 --weights runs/blobs_slim/weights.safetensors --out out

Images are those that recipes/blobs_data.py sets aside to measure on: nuclei in fluorescence and stained (dsb2018), particles
(EMPS). The detector is the same for all. The others are told, for each kind, the setting of the best F1 on these very images:
threshold, range of sizes, and whether blobs are bright or dark (benchmarks/blobs_baselines.py).

A finding counts if it lies within max(2 px, r / 2) of a blob's center, one to one. `adjacent` is the share of pairs of
neighbors of which both are found; `radius_error` the mean of |log(found / true)|; `count_error` the median of
|found - true| / true; `count_covered` the share of images whose count lies in the stated interval. `seconds` are the median of
an image, from pixels to answer; `time_ratio` is over LoG's on the same kind. Intervals are bootstrapped over images, that of
`count_covered` is Wilson's. Writes blobs_real.csv; reliability_blobs.csv, of all candidates, also those too improbable to be
reported; and blobs_speed.csv: crops of 512 × 512 px, beside blob_log with its defaults. scikit-image uses one thread. Times are
wall clock; run it while nothing else runs.
"""

import sys
from collections.abc import Mapping, Sequence
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
from options import options, read_options
from reliability import reliability_table
from result_files import write_result
from skimage.feature import blob_log

from fiducial.blobs.detector import BlobDetector
from fiducial.crowds import NOTHING
from fiducial.datasets import CrowdImage
from fiducial.evaluate.blobs import Judged, find, summarize

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from blobs_data import split

SPEED_PX, SPEED_RUNS = 512, 5
REFERENCE = "LoG, tuned"


def measure_kind(kind: str, images: Sequence[CrowdImage], candidates: Sequence[Judged]) -> list[dict[str, object]]:
    """Return a row for each method, ours from what it sees."""
    own = reported(candidates)
    rows = [{"method": "fiducial detect", "kind": kind, **summarize(own), **crowd_bounds(own), "setting": "none"}]
    for name, method in BASELINES.items():
        setting, judged = measure_method(method, images)
        rows.append({"method": name, "kind": kind, **summarize(judged), **crowd_bounds(judged), "setting": str(setting)})
        print(f"{kind}: {name}: {setting}", file=sys.stderr, flush=True)
    reference = next(row["seconds"] for row in rows if row["method"] == REFERENCE)
    return [row | {"time_ratio": row["seconds"] / reference} for row in rows]


def measure_speed(images: Mapping[str, Sequence[CrowdImage]], detector: BlobDetector, runs: int) -> pd.DataFrame:
    """Time the top left corner of the first image of each kind that is large enough; `ratio` is our time over blob_log's."""
    rows = []
    for kind, own in images.items():
        large = [image for image in own if min(image.pixels.shape[:2]) >= SPEED_PX]
        if not large:
            continue
        crop = CrowdImage(large[0].name, large[0].pixels[:SPEED_PX, :SPEED_PX], NOTHING)
        ours, theirs = [], []
        for _ in range(runs + 1):  # the first to warm up
            ours.append(find(detector, crop).seconds)
            begin = perf_counter()
            blob_log(normalized_gray(crop))
            theirs.append(perf_counter() - begin)
        fast, slow = (float(np.median(seconds[1:])) for seconds in (ours, theirs))
        rows.append({"kind": kind, "fiducial_seconds": fast, "blob_log_seconds": slow, "ratio": fast / slow})
    return pd.DataFrame(rows)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every N-th image of each kind")
    parser.add_argument("--weights", type=Path, default=None, help="of blobs; the shipped ones by default")
    args = read_options(parser, {"every": 20}, ("dsb2018", "emps"))
    detector = load_detector(args.weights)
    validated = split(args.data).validated
    images = {kind: own[:: args.every] for kind, own in validated.items()}
    rows, answers = [], {}
    for kind, own in images.items():
        candidates = measure_candidates(detector, own)
        print(f"{kind}: fiducial detect", file=sys.stderr, flush=True)
        rows += measure_kind(kind, own, candidates)
        answers[kind] = tuple(np.concatenate(part) for part in zip(*((j.found.score, j.true) for j in candidates), strict=True))
    write_result("blobs_real", pd.DataFrame(rows), args.out)
    write_result("reliability_blobs", reliability_table(answers), args.out)
    write_result("blobs_speed", measure_speed(validated, detector, 1 if args.quick else SPEED_RUNS), args.out)


if __name__ == "__main__":
    main()
