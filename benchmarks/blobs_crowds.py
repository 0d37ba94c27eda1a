"""Measure `detect` on drawn crowds by density, beside what people use today, on the same images in one run.

    python benchmarks/blobs_crowds.py
    python benchmarks/blobs_crowds.py --images 2 --weights runs/blobs_slim/weights.safetensors --out /tmp/results

`spacing` is the distance of neighboring centers over the sum of their radii: below 1 blobs overlap, and point sources (a
quarter of the images, radius √2 σ) merge into one peak from about 0.7 on. Each density has disks, domes, point sources and
rims, with radii of 5 to 12 px and moderate noise, drawn with other seeds than those trained on. The detector is the same for
all and sees half of the images as negatives; the others see only bright blobs. They are told, for each density, the setting of
the best F1 on these very images (benchmarks/blobs_baselines.py). Intervals are bootstrapped over images.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from blobs_baselines import BASELINES, crowd_bounds, load_detector, measure_detector, measure_method
from options import options, read_options
from result_files import write_result

from fiducial.augment import add_noise, smooth_field
from fiducial.blobs.detector import BlobDetector
from fiducial.crowds import Style, in_bytes, render_crowd, scatter, stretch
from fiducial.datasets import CrowdImage
from fiducial.evaluate.blobs import summarize

SPACINGS = (1.5, 1.2, 1.0, 0.8, 0.7, 0.6)
KINDS = ("disk", "dome", "gauss", "rim")
SEED, SIZE, RADII_PX, SHARE = 7, (512, 512), (5.0, 12.0), 0.25
COLUMNS = ("blobs", "f1", "f1_low", "f1_high", "precision", "recall", "error_px", "adjacent", "adjacent_low", "adjacent_high")


def draw(density: int, number: int) -> CrowdImage:
    """Draw an image, bright on dark; its truth are the parts of blobs that it shows."""
    rng = np.random.default_rng([SEED, density, number])
    kind = KINDS[number % len(KINDS)]
    style = Style(
        kind=kind,
        over=kind != "gauss" and rng.random() < 0.5,
        contrast=(0.5, 0.9),
        softness=float(rng.uniform(0.05, 0.2)),
        texture=float(rng.uniform(0, 0.2)),
        ragged=float(rng.uniform(0, 0.06)),
        stretch=0.0 if kind == "gauss" else 0.1,
    )
    spacing = SPACINGS[density]
    crowd = stretch(scatter(rng, SIZE, RADII_PX, (spacing, spacing + 0.05), SHARE), rng, style.stretch)
    image = render_crowd(crowd, SIZE, style, rng) + np.float32(0.05) * smooth_field(rng, SIZE, 4)
    image = add_noise(image, rng, float(rng.uniform(0.02, 0.08)))
    return CrowdImage(f"{spacing}_{number}", in_bytes(image), crowd.shown(SIZE))


def half_negative(images: Sequence[CrowdImage]) -> list[CrowdImage]:
    """Return the images, of every two rounds of KINDS the second one dark on bright."""
    dark = [i // len(KINDS) % 2 == 1 for i in range(len(images))]
    return [replace(image, pixels=255 - image.pixels) if d else image for image, d in zip(images, dark, strict=True)]


def measure_density(spacing: float, images: Sequence[CrowdImage], detector: BlobDetector) -> list[dict[str, object]]:
    """Return a row for each method."""
    ours = measure_detector(detector, half_negative(images))
    scores = summarize(ours) | crowd_bounds(ours)
    rows = [{"method": "fiducial detect", "spacing": spacing, **scores, "setting": "none"}]
    for name, method in BASELINES.items():
        setting, judged = measure_method(method, images)
        rows.append({"method": name, "spacing": spacing, **summarize(judged), **crowd_bounds(judged), "setting": str(setting)})
    print(f"spacing {spacing}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=8, help="of each density")
    parser.add_argument("--every", type=int, default=1, help="take every N-th density")
    parser.add_argument("--weights", type=Path, default=None, help="of blobs; the shipped ones by default")
    args = read_options(parser, {"images": 1, "every": 3})
    detector = load_detector(args.weights)
    rows = []
    for density, spacing in list(enumerate(SPACINGS))[:: args.every]:
        rows += measure_density(spacing, [draw(density, number) for number in range(args.images)], detector)
    write_result("blobs_crowds", pd.DataFrame(rows)[["method", "spacing", *COLUMNS, "setting"]], args.out)


if __name__ == "__main__":
    main()
