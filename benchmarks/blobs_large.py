"""Detect on a TIFF of 20,000 × 20,000 pixels: peak memory and time; and tiles against the whole on images that fit.

    python benchmarks/blobs_large.py --data ../shared/data

The giant image repeats a drawn crowd with fresh noise, is written by tiles (zlib), and is given to the command line in a
process of its own whose peak resident memory is what the system says. Agreement: the share of centers of either answer that the
other has within 0.5 px.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import tifffile
from result_files import write_result

from fiducial import api, metrics
from fiducial.crowds import draw_crowd
from fiducial.datasets import read_color
from fiducial.images import from_array

SIDE_PX, BLOCK_PX = 20_000, 1000


def draw_giant(path: Path) -> None:
    """Write the giant image."""
    rng = np.random.default_rng(5)
    image, _ = draw_crowd(rng, (BLOCK_PX, BLOCK_PX), (6, 14), (0.9, 1.4), 0.05)
    plain = (image - image.min()) / np.ptp(image) * 40_000
    pixels = np.zeros((SIDE_PX, SIDE_PX), np.uint16)
    for y in range(0, SIDE_PX, BLOCK_PX):
        for x in range(0, SIDE_PX, BLOCK_PX):
            pixels[y : y + BLOCK_PX, x : x + BLOCK_PX] = np.clip(plain + rng.normal(0, 500, plain.shape), 0, 65_535)
    tifffile.imwrite(path, pixels, tile=(512, 512), compression="zlib")


def giant() -> dict[str, float | str]:
    """Run the command line on the giant image and return time and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "giant.tif"
        draw_giant(path)
        begin = perf_counter()
        command = [sys.executable, "-m", "fiducial.cli", "detect", str(path), "-o", folder, "--json"]
        subprocess.run(command, check=True, capture_output=True)
        seconds = perf_counter() - begin
        count = pd.read_csv(Path(folder) / "summary.csv")["count"][0]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"what": f"{SIDE_PX:,} × {SIDE_PX:,} px, uint16", "blobs": int(count), "seconds": seconds, "peak_gib": peak}


def agreement(data: Path) -> dict[str, float | str]:
    """Return how far tiled and untiled answers agree on the largest validation images."""
    _, detector, least = api.check_detection(None, "auto", 0.5, None)
    same, total = 0, 0
    paths = sorted((data / "dsb2018" / "images").iterdir())[::23] + sorted((data / "emps" / "images").iterdir())[::15]
    for path in paths:
        answers = []
        for tile_px in (4096, 300):
            found, evidence = detector.candidates(from_array(read_color(path)), tile_px=tile_px)
            answers.append(found.yx[detector.probability(evidence) >= least])
        partner = metrics.match_points(answers[0], answers[1], np.full(len(answers[1]), 0.5))
        same, total = same + 2 * int((partner >= 0).sum()), total + len(answers[0]) + len(answers[1])
    return {"what": f"tiles of 300 px against the whole, {len(paths)} images", "blobs": total // 2, "agreement": same / total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    args = parser.parse_args()
    write_result("blobs_large", pd.DataFrame([agreement(args.data), giant()]))


if __name__ == "__main__":
    main()
