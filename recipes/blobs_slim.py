"""Train the weights of `detect`; recipes/blobs_slim_calibrate.py makes fiducial/weights/blobs_slim.safetensors of them.

python recipes/blobs_slim.py --data ../shared/data --steps 4000
python recipes/blobs_slim_calibrate.py --data ../shared/data --weights runs/blobs_slim/weights.safetensors
"""

import argparse
from pathlib import Path

from blobs_data import LICENSE, split

from fiducial import weights
from fiducial.blobs.network import CADSN, slim
from fiducial.train.blobs import train_blobs
from fiducial.train.loop import Schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dsb2018/ and emps/")
    parser.add_argument("--out", type=Path, default=Path("runs/blobs_slim"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--start", type=Path, default=None, help="weights to go on from")
    args = parser.parse_args()
    start = None if args.start is None else weights.load("blobs", args.start)
    before = "" if start is None else f" --start, from {start.card['recipe']}"
    card = {
        "data": "clusters of dsb2018 and EMPS (recipes/blobs_data.py), and drawn crowds",
        "license": LICENSE,
        "recipe": f"recipes/blobs_slim.py --steps {args.steps} --rate {args.rate}{before}",
    }
    network = None if start is None else start.network
    assert network is None or isinstance(network, CADSN)
    schedule = Schedule(args.steps, batch=8, learning_rate=args.rate)
    train_blobs(split(args.data).trained, slim(), schedule, args.out, card, start=network)


if __name__ == "__main__":
    main()
