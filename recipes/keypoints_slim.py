r"""Train the weights of `register`; recipes/keypoints_slim_calibrate.py makes fiducial/weights/keypoints_slim.safetensors.

python recipes/keypoints_slim.py --data ../shared/data --steps 5000
python recipes/keypoints_slim_calibrate.py --data ../shared/data --weights runs/keypoints_slim/weights.safetensors
"""

import argparse
from pathlib import Path

from keypoints_data import LICENSE, pool

from fiducial import weights
from fiducial.landmarks.network import KeypointNet, slim
from fiducial.train.keypoints import train_keypoints
from fiducial.train.loop import Schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with volkov/, sem/, emps/")
    parser.add_argument("--out", type=Path, default=Path("runs/keypoints_slim"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--start", type=Path, default=None, help="weights to go on from")
    args = parser.parse_args()
    start = None if args.start is None else weights.load("keypoints", args.start)
    before = "" if start is None else f" --start, from {start.card['recipe']}"
    card = {
        "data": "26 optical / SAR scenes of Volkov's (recipes/keypoints_data.py); sem, emps and these scenes as single images",
        "license": LICENSE,
        "recipe": f"recipes/keypoints_slim.py --steps {args.steps} --rate {args.rate}{before}",
    }
    network = None if start is None else start.network
    assert network is None or isinstance(network, KeypointNet)
    schedule = Schedule(args.steps, batch=8, learning_rate=args.rate)
    train_keypoints(pool(args.data), slim(), schedule, args.out, card, start=network)


if __name__ == "__main__":
    main()
