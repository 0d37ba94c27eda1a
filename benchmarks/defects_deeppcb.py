"""Measure `inspect` on DeepPCB groups it was not trained on, beside the plain script, in one run.

    python benchmarks/defects_deeppcb.py --data ../shared/data

Groups 44000 and 77000 (150 pairs). Masks are derived from boxes (fiducial.datasets.mask_from_boxes). The template is displaced,
the sample stays. The plain script is what a user has today: ECC alignment, absolute difference, threshold, opening, components.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from result_files import write_result

from fiducial import weights
from fiducial.datasets import read_deeppcb
from fiducial.defects.inspector import SMALLEST_AREA_PX, DefectInspector, decode
from fiducial.device import has_fast_bf16
from fiducial.evaluate.defects import Answer, evaluate_pairs, inspector_method

GROUPS = ("44000", "77000")


def plain_script(sample: np.ndarray, template: np.ndarray) -> Answer:
    """Align by ECC (Euclidean), subtract, threshold at a quarter of the range, open 3x3, keep components of 12 px."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    matrix = np.eye(2, 3, dtype=np.float32)
    try:
        _, matrix = cv2.findTransformECC(sample, template, matrix, cv2.MOTION_EUCLIDEAN, stop, None, 5)
    except cv2.error:
        matrix = np.eye(2, 3, dtype=np.float32)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(template, matrix, sample.shape[::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)
    reach = np.ptp(np.percentile(sample, [1, 99])) or 255
    smooth, moved = (cv2.GaussianBlur(image, (3, 3), 0) for image in (sample, moved))
    difference = (cv2.absdiff(smooth, moved) > reach / 4).astype(np.uint8)
    opened = cv2.morphologyEx(difference, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    found = decode(opened.astype(np.float16), np.ones_like(opened), None, 12 / (12 + SMALLEST_AREA_PX), 10.0)
    return Answer(found, found, refused=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1, help="measure every n-th pair")
    parser.add_argument("--weights", type=Path, default=None)
    args = parser.parse_args()
    pairs = list(read_deeppcb(args.data / "deeppcb", GROUPS, args.every))
    loaded, cpu = weights.load("defects", args.weights), torch.device("cpu")
    inspector = DefectInspector(loaded.network, loaded.calibration, cpu, bf16=has_fast_bf16(cpu))
    ours = evaluate_pairs(inspector_method(inspector), pairs)
    script = evaluate_pairs(plain_script, pairs)
    ratio = ours["seconds_per_pair"] / script["seconds_per_pair"]
    table = pd.concat(
        [ours.assign(method="fiducial inspect", time_ratio=ratio), script.assign(method="plain script", time_ratio=1.0)]
    )
    write_result("defects_deeppcb", table[["method", *[c for c in table.columns if c != "method"]]])


if __name__ == "__main__":
    main()
