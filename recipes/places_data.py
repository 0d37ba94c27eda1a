"""Say which images the weights of `locate` learn from, are calibrated on, and are measured on.

SEM images are told by how their names begin: probabilities are fitted on the calibrated ones, scores are measured on the
validated ones, and the networks learn from the others.
"""

from pathlib import Path

import cv2
import numpy as np

from fiducial.datasets import list_images, read_textures
from fiducial.places.samples import Pool, make_pool

CALIBRATED = ("Old_data_image3", "super1_spot6", "super1_spot7", "ebc1_111418", "ebc1_S879")
VALIDATED = ("Set_1_", "Set_2_", "super2_")
SEM = ("sem/nanomfg", "sem/nasa")
TEXTURES = {"emps/images": 2, "dsb2018/images": 8, "volkov/opt": 1}  # every n-th image
SEM_SHARE = 4  # each SEM image counts as so many
LICENSE = "weights Apache-2.0; nanomfg, nasa, emps: MIT; dsb2018: CC0; volkov: modified Copernicus Sentinel data 2020"


def read_sem(data: Path, beginnings: tuple[str, ...] = (), but: tuple[str, ...] = ()) -> list[np.ndarray]:
    """Read the SEM images whose names begin so, or all `but` some."""
    paths = [path for folder in SEM for path in list_images(data / folder)]
    chosen = [p for p in paths if p.name.startswith(beginnings or "") and not p.name.startswith(but or "\0")]
    return [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in chosen]


def pool(data: Path) -> Pool:
    """Return what both networks learn from."""
    images = SEM_SHARE * read_sem(data, but=CALIBRATED + VALIDATED)
    for folder, every in TEXTURES.items():
        images += read_textures((data / folder,), longest_px=1400)[::every]
    return make_pool(tuple(images))
