"""Inspect a 10,000 x 10,000 pair from TIFF files and write down time and peak resident memory.

    python benchmarks/defects_large.py

The board is drawn (fiducial.synth), damaged, and its template displaced by a few pixels and a tenth of a degree. A second
process inspects; its peak resident memory is read from the kernel.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import pandas as pd
import tifffile
from result_files import write_result

import fiducial
from fiducial import metrics, synth
from fiducial.coords import image_center_yx, shift, similarity
from fiducial.regions import label_regions

PATCH_PX = 2500


def draw(folder: Path, side: int) -> np.ndarray:
    """Write template and sample and return the mask of the damage."""
    rng = np.random.default_rng(0)
    template, sample, mask = (np.zeros((side, side), np.uint8) for _ in range(3))
    for y in range(0, side, PATCH_PX):
        for x in range(0, side, PATCH_PX):
            patch = np.s_[y : y + PATCH_PX, x : x + PATCH_PX]
            template[patch] = synth.draw_board(rng, template[patch].shape)
            sample[patch], mask[patch] = synth.damage_board(template[patch], rng, 40)
    matrix = shift(4.0, -3.0) @ similarity(1.0, 0.1, image_center_yx((side, side)))
    moved = cv2.warpPerspective(255 - template, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    tifffile.imwrite(folder / "template.tif", moved, tile=(256, 256), compression="zlib")
    tifffile.imwrite(folder / "sample.tif", 255 - sample, tile=(256, 256), compression="zlib")
    return mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder is not None:
        record = fiducial.inspect(args.folder / "sample.tif", args.folder / "template.tif")
        record.save(args.folder / "mask.tif")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, record.verdict, record.alignment_score)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mask = draw(folder, args.side)
        start = perf_counter()
        words = [sys.executable, __file__, "--folder", name]
        peak, verdict, score = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        seconds = perf_counter() - start
        found = label_regions(tifffile.imread(folder / "mask.tif") > 0)
        counts = metrics.match_counts(metrics.region_iou(found, label_regions(mask > 0)), 0.33)
    row = {
        "side_px": args.side,
        "seconds": seconds,
        "peak_resident_gib": int(peak) / 2**30,
        "verdict": verdict,
        "alignment_score": float(score),
        "region_precision": counts.precision,
        "region_recall": counts.recall,
    }
    write_result("defects_large", pd.DataFrame([row]))


if __name__ == "__main__":
    main()
