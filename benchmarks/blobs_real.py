"""Measure `detect` on micrographs that it was not trained on, beside what people use today, on the same images in one run.

    python benchmarks/blobs_real.py --data ../shared/data
    python benchmarks/blobs_real.py --data ../shared/data --every 20 --weights runs/blobs_slim/weights.safetensors --out out

Images are those that recipes/blobs_data.py sets aside to measure on: nuclei in fluorescence and stained (dsb2018), particles
(EMPS). The detector is the same for all. The others are told, for each kind, the setting of the best F1 on these very images:
threshold, range of sizes, and whether blobs are bright or dark (benchmarks/blobs_baselines.py).

A finding counts if it lies within max(2 px, r / 2) of a blob's center, one to one. `adjacent` is the share of pairs of
neighbors of which both are found; `radius_error` the mean of |log(found / true)|; `count_error` the median of
|found - true| / true; `count_covered` the share of images whose count lies in the stated interval. `seconds` are the median of
an image, from pixels to answer; `time_ratio` is over LoG's on the same kind. Writes blobs_real.csv, and blobs_speed.csv: crops
of 512 × 512 px, beside blob_log with its defaults. scikit-image uses one thread. Times are wall clock; run it while nothing
else runs.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from blobs_baselines import BASELINES, load_detector, measure_detector, measure_method, normalized_gray
from result_files import FOLDER, write_result
from skimage.feature import blob_log

from fiducial.blobs.detector import BlobDetector
from fiducial.crowds import disks
from fiducial.datasets import CrowdImage
from fiducial.evaluate.blobs import find, summarize

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from blobs_data import split

SPEED_PX, SPEED_RUNS = 512, 5
REFERENCE = "LoG, tuned"


def measure_kind(kind: str, images: Sequence[CrowdImage], detector: BlobDetector) -> list[dict[str, object]]:
    """Return a row for each method."""
    rows = [{"method": "fiducial detect", "kind": kind, **summarize(measure_detector(detector, images)), "setting": "none"}]
    print(f"{kind}: fiducial detect", file=sys.stderr, flush=True)
    for name, method in BASELINES.items():
        setting, judged = measure_method(method, images)
        rows.append({"method": name, "kind": kind, **summarize(judged), "setting": str(setting)})
        print(f"{kind}: {name}: {setting}", file=sys.stderr, flush=True)
    reference = next(row["seconds"] for row in rows if row["method"] == REFERENCE)
    return [row | {"time_ratio": row["seconds"] / reference} for row in rows]


def measure_speed(images: Mapping[str, Sequence[CrowdImage]], detector: BlobDetector) -> pd.DataFrame:
    """Time the top left corner of the first image of each kind that is large enough; `ratio` is our time over blob_log's."""
    rows = []
    for kind, own in images.items():
        large = [image for image in own if min(image.pixels.shape[:2]) >= SPEED_PX]
        if not large:
            continue
        nothing = disks(np.zeros((0, 2)), np.zeros(0))
        crop = CrowdImage(large[0].name, large[0].pixels[:SPEED_PX, :SPEED_PX], nothing)
        ours, theirs = [], []
        for _ in range(SPEED_RUNS + 1):  # the first to warm up
            ours.append(find(detector, crop).seconds)
            begin = perf_counter()
            blob_log(normalized_gray(crop))
            theirs.append(perf_counter() - begin)
        fast, slow = (float(np.median(seconds[1:])) for seconds in (ours, theirs))
        rows.append({"kind": kind, "fiducial_seconds": fast, "blob_log_seconds": slow, "ratio": fast / slow})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dsb2018 and emps")
    parser.add_argument("--every", type=int, default=1, help="take every N-th image of each kind")
    parser.add_argument("--weights", type=Path, default=None, help="of blobs; the shipped ones by default")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    detector = load_detector(args.weights)
    images = split(args.data).validated
    rows = [row for kind, own in images.items() for row in measure_kind(kind, own[:: args.every], detector)]
    write_result("blobs_real", pd.DataFrame(rows), args.out)
    write_result("blobs_speed", measure_speed(images, detector), args.out)


if __name__ == "__main__":
    main()
