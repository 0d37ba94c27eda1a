"""Ask how exact the optical / SAR pairs are that `register` is measured against, without any network.

    python benchmarks/keypoints_reference.py --data ../shared/data

Each tile is cut into four parts; for each, the shift of the SAR image that maximizes the normalized mutual information with
the optical one (both smoothed, tones as ranks) is found within 16 px, in steps of 2 px. Were the pairs exact, it would be 0.
Lengths and means are of these shifts, in px; `at_end`: parts whose best shift lies at the end of the range, which says nothing;
they are left out of the others. The interval of the median is bootstrapped over parts.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from options import options, read_options
from result_files import bounds, write_result
from scipy.stats import rankdata
from skimage.metrics import normalized_mutual_information

from fiducial.datasets import read_aligned

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from keypoints_data import CALIBRATED, VALIDATED

REACH_PX, STEP_PX, PART_PX, SMOOTH_PX, BINS = 16, 2, 480, 1.5, 24


def ranks(image: np.ndarray) -> np.ndarray:
    """Return each pixel's rank after smoothing, from 0 to 1."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), SMOOTH_PX)
    return rankdata(smooth).reshape(image.shape) / image.size


def best_shift(optical: np.ndarray, sar: np.ndarray) -> tuple[int, int]:
    """Return by how many pixels (y, x) what the SAR image shows lies beside what the optical one shows."""
    fixed, other = ranks(optical)[REACH_PX:-REACH_PX:2, REACH_PX:-REACH_PX:2], ranks(sar)
    steps, best = range(-REACH_PX, REACH_PX + 1, STEP_PX), (-np.inf, 0, 0)
    for dy in steps:
        for dx in steps:
            moved = other[REACH_PX + dy : len(other) - REACH_PX + dy : 2, REACH_PX + dx : other.shape[1] - REACH_PX + dx : 2]
            best = max(best, (float(normalized_mutual_information(fixed, moved, bins=BINS)), dy, dx))
    return best[1], best[2]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every N-th tile")
    args = read_options(parser, {"every": 6}, ("volkov",))
    table = []
    for name, tiles in (("validated", VALIDATED), ("calibrated", CALIBRATED)):
        shifts = []
        for pair in read_aligned(args.data / "volkov", tiles[:: args.every]):
            for y in (20, 524):
                for x in (20, 524):
                    part = slice(y, y + PART_PX), slice(x, x + PART_PX)
                    shifts.append(best_shift(pair.a[part], pair.b[part]))
            print(name, pair.name, shifts[-4:], file=sys.stderr, flush=True)
        yx = np.array(shifts)
        inner = np.abs(yx).max(axis=1) < REACH_PX
        length = np.linalg.norm(yx[inner], axis=1)
        row = {"tiles": name, "parts": len(yx), "at_end": int((~inner).sum()), "median_length_px": np.median(length)}
        row |= bounds("median_length_px", len(length), lambda i, length=length: float(np.median(length[i])))
        row |= {"length_90_percent_px": np.quantile(length, 0.9), "over_5_px": np.mean(length > 5)}
        table.append(row | {"mean_y_px": yx[inner, 0].mean(), "mean_x_px": yx[inner, 1].mean()})
    write_result("keypoints_reference", pd.DataFrame(table), args.out)


if __name__ == "__main__":
    main()
