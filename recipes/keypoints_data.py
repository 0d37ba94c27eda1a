"""Say which scenes the weights of `register` learn from, are calibrated on, and are validated on.

Volkov's tiles lie on a grid of 10 km around Los Angeles. The validated ones are of its eastern end, at least two tiles from
any that is learned from; the calibrated ones two more of these, and its north-western corner. All others are learned from.
Probabilities are also fitted on tissue (dsb2018), of which nothing is learned: each image beside itself as another sensor might
show it. Cells that look alike are what unrelated images agree on by chance.
"""

from pathlib import Path

import numpy as np

from fiducial.datasets import AlignedPair, read_aligned, read_textures
from fiducial.landmarks.samples import Pool, change_modality, make_pool

VALIDATED = ("162", "171", "172", "196", "207", "208")
CALIBRATED = ("014", "015", "018", "019", "021", "030", "157", "216")
TEXTURES = ("sem/nanomfg", "sem/nasa", "emps/images")
# Of eq. 7. On the calibrated scenes the excess of repeatability was 0.20 with these, 0.17 with (0.1, 0.3, 0.6).
SCALE_WEIGHTS = (0.1, 0.0, 0.9)
TISSUE_PX, TISSUES = 600, 8  # least side of an image of tissue, and how many are calibrated on
LICENSE = (
    "Modified Copernicus Sentinel data 2020 (VolkovVl/Optical-SAR-dataset @34d7e20), free to use with attribution; "
    "nanoMFG/unet-sem and nasa/pretrained-microscopy-models, MIT; EMPS (by256/emps), MIT"
)


def learned(data: Path) -> tuple[AlignedPair, ...]:
    """Return the pairs to learn from, as they come."""
    return tuple(pair for pair in read_aligned(data / "volkov") if pair.name not in VALIDATED + CALIBRATED)


def pool(data: Path, pairs: tuple[AlignedPair, ...] | None = None) -> Pool:
    """Return the scenes to learn from; `pairs` in place of those of `learned`."""
    pairs = learned(data) if pairs is None else pairs
    textures = read_textures(tuple(data / name for name in TEXTURES), longest_px=1024)
    return make_pool(pairs, (*(pair.a for pair in pairs for _ in range(4)), *textures))


def calibrated(data: Path) -> tuple[AlignedPair, ...]:
    """Return the pairs to fit probabilities on."""
    tissues = [
        image for image in read_textures((data / "dsb2018" / "images",), longest_px=2048) if min(image.shape) >= TISSUE_PX
    ]
    shown = []
    for i, image in enumerate(tissues[:TISSUES]):
        other = change_modality(image.astype(np.float32) / 255, np.random.default_rng([5, i]))
        shown.append(AlignedPair(f"tissue_{i}", image, np.clip(other * 255, 0, 255).astype(np.uint8)))
    return (*read_aligned(data / "volkov", CALIBRATED), *shown)
