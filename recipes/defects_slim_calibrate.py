"""Fit the probabilities of the shipped weights, and write them into the package.

    python recipes/defects_slim_calibrate.py --data ../shared/data --weights runs/defects_slim/weights.safetensors

Raw scores become probabilities by a logistic map fitted on DeepPCB's group 50600, which the network was not trained on and on
which no score is reported; false alarms are counted on its templates as good boards. Prints the SHA-256 for
fiducial/weights.py.
"""

import argparse
import hashlib
from pathlib import Path

import torch
from defects_data import CALIBRATED

from fiducial import weights
from fiducial.datasets import read_deeppcb
from fiducial.defects.inspector import DefectInspector
from fiducial.device import has_fast_bf16
from fiducial.evaluate.defects import fit_calibration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=weights.FOLDER / weights.SHIPPED["defects"][0])
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    loaded, cpu = weights.load("defects", args.weights), torch.device("cpu")
    inspector = DefectInspector(loaded.network, None, cpu, bf16=has_fast_bf16(cpu))
    calibration = fit_calibration(inspector, list(read_deeppcb(args.data / "deeppcb", CALIBRATED, args.every)))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    weights.save(args.out, "defects", loaded.network, loaded.card, calibration)
    print(calibration)
    print(args.out, hashlib.sha256(args.out.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
