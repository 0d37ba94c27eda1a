"""Ask how exact the optical / SAR pairs are that `register` is measured against, without any network.

    python benchmarks/keypoints_reference.py --data ../shared/data

Each tile is cut into four parts; for each, the shift of the SAR image that maximizes the normalized mutual information with
the optical one (both smoothed, tones as ranks) is found within 16 px, in steps of 2 px. Were the pairs exact, it would be 0.
Lengths and means are of these shifts, in px; `at_end`: parts whose best shift lies at the end of the range, which says nothing;
they are left out of the others. Intervals of medians are bootstrapped over parts.

How exact the estimate itself is: each part is also judged by two halves of its area by themselves, the fields of a chessboard
of 56 px. `halves_apart_px` is the median distance of their best shifts, `halves_over_5_px` the share of parts where it is over
5 px. `agreeing` parts are those where it is at most 3 px; `agreeing_length_px`, `agreeing_over_5_px` are their median length
and share over 5 px, by the whole part. Rows by tile, of those measured on, come last.
"""

import sys
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from options import options, read_options
from result_files import bounds, write_result
from scipy.stats import rankdata
from skimage.metrics import normalized_mutual_information

from fiducial.datasets import read_aligned

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from keypoints_data import CALIBRATED, VALIDATED

REACH_PX, STEP_PX, PART_PX, SMOOTH_PX, BINS = 16, 2, 480, 1.5, 24
SAMPLED = 2  # every second pixel is compared
PARTS = [(slice(y, y + PART_PX), slice(x, x + PART_PX)) for y in (20, 524) for x in (20, 524)]  # of a tile
FIELD_PX, AGREE_PX, FAR_PX = 56, 3.0, 5.0


def ranks(image: np.ndarray) -> np.ndarray:
    """Return each pixel's rank after smoothing, from 0 to 1."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), SMOOTH_PX)
    return rankdata(smooth).reshape(image.shape) / image.size


def best_shifts(optical: np.ndarray, sar: np.ndarray) -> Int64[np.ndarray, "3 2"]:
    """Return by how many pixels (y, x) what the SAR image shows lies beside what the optical one shows.

    By the whole area, and by each half of it: the fields of a chessboard.
    """
    inner = slice(REACH_PX, -REACH_PX, SAMPLED)
    fixed, other = ranks(optical)[inner, inner], ranks(sar)
    row, column = (np.arange(n) * SAMPLED // FIELD_PX for n in fixed.shape)
    dark = np.add.outer(row, column) % 2 == 1
    areas = (np.ones_like(dark), dark, ~dark)
    steps = range(-REACH_PX, REACH_PX + 1, STEP_PX)
    best = [(-np.inf, 0, 0)] * len(areas)
    for dy, dx in product(steps, steps):
        rows, columns = (slice(REACH_PX + d, n - REACH_PX + d, SAMPLED) for d, n in zip((dy, dx), other.shape, strict=True))
        moved = other[rows, columns]
        scores = (float(normalized_mutual_information(fixed[area], moved[area], bins=BINS)) for area in areas)
        best = [max(known, (score, dy, dx)) for known, score in zip(best, scores, strict=True)]
    return np.array([shift for _, *shift in best])


def summarize(name: str, shifts: Int64[np.ndarray, "n 3 2"]) -> dict[str, object]:
    """Return the row of some tiles."""
    inner = np.abs(shifts[:, 0]).max(axis=1) < REACH_PX
    whole, first, second = shifts[inner].swapaxes(0, 1)
    length, apart = np.linalg.norm(whole, axis=1), np.linalg.norm(first - second, axis=1)
    agreeing = length[apart <= AGREE_PX]

    def median_of(column: str, values: Float64[np.ndarray, " n"]) -> dict[str, float]:
        middle = float(np.median(values)) if len(values) else np.nan
        return {column: middle, **bounds(column, len(values), lambda i: float(np.median(values[i])))}

    return {
        "tiles": name,
        "parts": len(shifts),
        "at_end": int((~inner).sum()),
        **median_of("median_length_px", length),
        "length_90_percent_px": np.quantile(length, 0.9),
        "over_5_px": np.mean(length > FAR_PX),
        "mean_y_px": whole[:, 0].mean(),
        "mean_x_px": whole[:, 1].mean(),
        **median_of("halves_apart_px", apart),
        "halves_over_5_px": np.mean(apart > FAR_PX),
        "agreeing": len(agreeing),
        **median_of("agreeing_length_px", agreeing),
        "agreeing_over_5_px": np.mean(agreeing > FAR_PX) if len(agreeing) else np.nan,
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every N-th tile")
    args = read_options(parser, {"every": 6}, ("volkov",))
    table, by_tile = [], []
    for name, tiles in (("validated", VALIDATED), ("calibrated", CALIBRATED)):
        shifts = []
        for pair in read_aligned(args.data / "volkov", tiles[:: args.every]):
            own = np.array([best_shifts(pair.a[part], pair.b[part]) for part in PARTS])
            print(name, pair.name, own.tolist(), file=sys.stderr, flush=True)
            by_tile += [summarize(pair.name, own)] if tiles == VALIDATED else []
            shifts.append(own)
        table.append(summarize(name, np.concatenate(shifts)))
    write_result("keypoints_reference", pd.DataFrame([*table, *by_tile]), args.out)


if __name__ == "__main__":
    main()
