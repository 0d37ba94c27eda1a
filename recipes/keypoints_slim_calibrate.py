"""Fit the probabilities of `register` on scenes that it has not learned from, and write the file that ships.

Prints the SHA-256 for fiducial/weights.py.

python recipes/keypoints_slim_calibrate.py --data ../shared/data --weights runs/keypoints_slim/weights.safetensors
"""

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

from keypoints_data import SCALE_WEIGHTS, calibrated

from fiducial import weights
from fiducial.device import choose_device, has_fast_bf16
from fiducial.evaluate.keypoints import fit_registrations
from fiducial.landmarks.network import KeypointNet
from fiducial.landmarks.registrar import ImageRegistrar
from fiducial.train.loop import calibrating

REFERENCE_PX = 5.0  # by mutual information, optical and SAR images of these pairs lie that far apart in many places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="weights fresh from training")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--out", type=Path, default=weights.FOLDER / "keypoints_slim.safetensors")
    args = parser.parse_args()
    loaded, where = weights.load("keypoints", args.weights), choose_device("auto")
    assert isinstance(loaded.network, KeypointNet)
    loaded.network.config = replace(loaded.network.config, scale_weights=SCALE_WEIGHTS)
    registrar = ImageRegistrar(loaded.network, None, where, bf16=has_fast_bf16(where))
    with calibrating() as progress:
        found = fit_registrations(registrar, calibrated(args.data), args.cases, progress, reference_px=REFERENCE_PX)
    print(found)
    weights.save(args.out, "keypoints", loaded.network, loaded.card, found)
    print(args.out, hashlib.sha256(args.out.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
