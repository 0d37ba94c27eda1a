"""Make fiducial/weights/blobs_slim.safetensors of trained weights: fit probabilities, counts and false alarms.

    python recipes/blobs_slim_calibrate.py --data ../shared/data --weights runs/blobs_slim/weights.safetensors

Fitted on clusters of dsb2018 and emps that the network did not learn from (blobs_data.py), on their background, on drawn
crowds and on drawn images of nothing. Prints the SHA-256 that fiducial/weights.py must state.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from blobs_data import split

from fiducial import weights
from fiducial.blobs.detector import BlobDetector
from fiducial.blobs.network import CADSN
from fiducial.blobs.samples import background
from fiducial.crowds import NOTHING, draw_crowd, in_bytes
from fiducial.datasets import CrowdImage
from fiducial.device import choose_device, has_fast_bf16
from fiducial.evaluate.blobs import fit_crowds
from fiducial.train.loop import calibrating

DRAWN, EMPTY = 16, 8  # images drawn of crowds, and of nothing
BACKGROUNDS = 24  # windows without blobs


def drawn_crowds(count: int = DRAWN) -> list[CrowdImage]:
    """Draw crowds of many sizes, every other one dark on bright."""
    crowds = []
    for i in range(count):
        rng = np.random.default_rng([11, i])
        radius = float(np.exp(rng.uniform(np.log(2.5), np.log(20))))
        image, crowd = draw_crowd(rng, (320, 352), (radius / 1.3, radius * 1.3), (0.7, 1.3), float(rng.uniform(0.05, 0.5)))
        bright = in_bytes(image)
        crowds.append(CrowdImage(f"drawn_{i}", 255 - bright if i % 2 else bright, crowd.shown(bright.shape)))
    return crowds


def without_blobs(images: list[CrowdImage]) -> list[CrowdImage]:
    """Return windows that all blobs of their image stay away from, and drawn backgrounds, each as an image of its own."""
    windows = [background(image, np.random.default_rng([12, i])) for i, image in enumerate(images)]
    found = [window for window in windows if window is not None]
    chosen = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, BACKGROUNDS).round().astype(int))] if found else []
    for i in range(EMPTY):
        drawn, _ = draw_crowd(np.random.default_rng([13, i]), (320, 352), (4.0, 8.0), (1.0, 1.0), 0.0)
        chosen.append(in_bytes(drawn))
    return [CrowdImage(f"empty_{i}", pixels, NOTHING) for i, pixels in enumerate(chosen)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dsb2018/, emps/ and volkov/")
    parser.add_argument("--weights", type=Path, default=Path("runs/blobs_slim/weights.safetensors"))
    parser.add_argument("--out", type=Path, default=weights.FOLDER / "blobs_slim.safetensors")
    args = parser.parse_args()
    loaded = weights.load("blobs", args.weights)
    assert isinstance(loaded.network, CADSN)
    device = choose_device("auto")
    detector = BlobDetector(loaded.network, None, device, bf16=has_fast_bf16(device))
    real = [image for own in split(args.data).calibrated.values() for image in own]
    images = real + drawn_crowds() + without_blobs(real)
    with calibrating() as progress:
        fitted = fit_crowds(detector, images, progress)
    card = {**loaded.card, "calibration": "recipes/blobs_slim_calibrate.py"}
    weights.save(args.out, "blobs", loaded.network, card, fitted)
    print(f"counts: inflation {fitted.inflation:.2f}, spread {fitted.spread:.3f}")
    print(f"{len(fitted.alarms)} false alarms on {fitted.megapixels:.1f} megapixels")
    print(hashlib.sha256(args.out.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
