"""Train the triplet network that `locate` starts from and is compared with: fiducial/weights/places_triplet.safetensors.

    python recipes/places_triplet.py --data ../shared/data --steps 500

So few steps are enough to start from; beside `locate` they show where it began, and are no tuned rival. Lab book: in
recipes/places_slim.py. What ships is runs/places_triplet/weights.safetensors, as it is.
"""

import argparse
from pathlib import Path

from places_data import CALIBRATED, LICENSE, SEM, TEXTURES, VALIDATED, pool

from fiducial.places.network import slim
from fiducial.train.loop import Schedule
from fiducial.train.places import train_triplets


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
