"""Say which board groups of DeepPCB the weights of `inspect` learn from, are calibrated on, and are measured on.

A group holds boards of one design, so that no design stands on two sides. Stains are drawn on pictures of other kinds.
"""

from pathlib import Path

from fiducial.datasets import read_deeppcb, read_textures
from fiducial.defects.samples import Pool

TRAINED = ("00041", "13000", "20085", "92000")
CALIBRATED = ("50600",)
VALIDATED = ("44000", "77000")
TEXTURES = ("sem/nanomfg", "sem/nasa", "emps/images", "dsb2018/images", "volkov/opt")


def pool(data: Path) -> Pool:
    """Return what the network learns from."""
    pictures = read_textures(tuple(data / folder for folder in TEXTURES))
    return Pool(tuple(read_deeppcb(data / "deeppcb", TRAINED)), tuple(pictures))
