"""Train the triplet network that `locate` starts from and is compared with: fiducial/weights/places_triplet.safetensors.

    python recipes/places_triplet.py --data ../shared/data --steps 500

Lab book: in recipes/places_slim.py. What ships is runs/places_triplet/weights.safetensors, as it is.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from fiducial.datasets import list_images, read_textures
from fiducial.places.network import slim
from fiducial.places.samples import Pool, make_pool
from fiducial.train.loop import Schedule
from fiducial.train.places import train_triplets

# The SEM images, by how their names begin: probabilities are fitted on the first, scores are measured on the second; the
# networks learn from the others.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sem/, emps/, dsb2018/, volkov/")
    parser.add_argument("--out", type=Path, default=Path("runs/places_triplet"))
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    card = {
        "data": f"{', '.join(SEM)} but {', '.join(CALIBRATED + VALIDATED)}; {', '.join(TEXTURES)}",
        "license": LICENSE,
        "recipe": f"recipes/places_triplet.py --steps {args.steps}",
    }
    train_triplets(pool(args.data), slim(), Schedule(args.steps, batch=32), args.out, card)


if __name__ == "__main__":
    main()
