"""Fit the probabilities of `locate` on images that it has not learned from, and write the file that ships.

Prints the SHA-256 for fiducial/weights.py.

python recipes/places_slim_calibrate.py --data ../shared/data --weights runs/places_slim/weights.safetensors
"""

import argparse
import hashlib
from pathlib import Path

from places_data import CALIBRATED, read_sem

from fiducial import weights
from fiducial.device import choose_device, has_fast_bf16
from fiducial.evaluate.places import fit_places
from fiducial.places.locator import PlaceLocator
from fiducial.places.network import FTFY
from fiducial.train.loop import calibrating


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="weights fresh from training")
    parser.add_argument("--cases", type=int, default=504)
    parser.add_argument("--out", type=Path, default=weights.FOLDER / "places_slim.safetensors")
    args = parser.parse_args()
    loaded, where = weights.load("places", args.weights), choose_device("auto")
    assert isinstance(loaded.network, FTFY)
    locator = PlaceLocator(loaded.network, None, where, bf16=has_fast_bf16(where))
    with calibrating() as progress:
        found = fit_places(locator, read_sem(args.data, CALIBRATED), args.cases, progress)
    print(found)
    weights.save(args.out, "places", loaded.network, loaded.card, found)
    print(args.out, hashlib.sha256(args.out.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
