r"""Train the shipped weights of `inspect`: fiducial/weights/defects_slim.safetensors.

    python recipes/defects_slim.py --data ../shared/data --steps 6500
    python recipes/defects_slim.py --data ../shared/data --steps 2000 --rate 4e-4 --out runs/defects_strokes \
        --start runs/defects_slim/weights.safetensors
    python recipes/defects_slim.py --data ../shared/data --steps 2800 --rate 5e-4 --out runs/defects_more \
        --start runs/defects_strokes/weights.safetensors

Lab book. 2026-11-21 and 22, two cores of an EPYC with avx512_bf16, bf16, 8 crops of 256 px a step. The shipped file comes from
three runs, of which the first two were resumed from their checkpoints, and the first drew other defects than this file does
today: unbroken runs of it reproduce the weights in kind only.

1. 6,500 steps, about 0.75 s each, in four legs: the first 1,400 steps taught negatives without exchanging their classes, and
   the schedule was drawn for 4,500, then 7,000, then 6,500 steps, so the learning rate rose once between legs. Drawn defects
   were rounded patches, on drawn boards alone (8 % of the samples).
2. 2,000 steps from the averaged weights of the first in float16, 0.9 to 2 s each: defects drawn as by hand, on drawn boards
   (10 %) and beside the annotated ones of real pairs (35 %). Oblique cuts, cut corners and strips along edges joined at about
   step 630; the schedule was drawn for 3,200, then 3,050, 2,850 and, from about step 750, 2,000 steps.
3. 2,800 steps from the averaged weights of the second in float16, 1.3 s each on one core. On 13 pairs of group 50600 that
   nothing was fitted on, aligned: DeepPCB mAP 0.942 to 0.976, F 0.968 to 0.975, mIoU 0.693 to 0.724, region F 0.930 to 0.925.

A fourth, of 3,600 steps from these at a rate of 6e-4, brought nothing and is not shipped: on 25 such pairs mAP 0.980 to 0.969,
mIoU 0.715 to 0.717, region F 0.913 to 0.919. It saw the samples of the third again (`--seed` came later).

Of groups 44000 and 77000, aligned, the second raised the DeepPCB F from 0.917 to 0.949 and the mAP from 0.874 to 0.922; the
region F stayed at 0.943, and mIoU fell from 0.759 to 0.748. The third raised F to 0.967, mAP to 0.951, region F to 0.946, mIoU
to 0.771. Other scores: docs/model_cards/defects_slim.md, from benchmarks/. Should reach a DeepPCB F of 0.96 there.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from defects_data import TEXTURES, TRAINED, pool

from fiducial import weights
from fiducial.datasets import BOX_MARGIN_PX
from fiducial.defects.network import BGNet, slim
from fiducial.defects.samples import CLASSES
from fiducial.train.defects import train_defects
from fiducial.train.loop import Schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with deeppcb/, sem/, emps/, dsb2018/, volkov/")
    parser.add_argument("--out", type=Path, default=Path("runs/defects_slim"))
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of the samples; a run that goes on from another draws its own")
    parser.add_argument("--start", type=Path, default=None, help="weights to go on from")
    args = parser.parse_args()
    start = None if args.start is None else weights.load("defects", args.start)
    before = "" if start is None else f" --start, from {start.card['recipe']}"
    card = {
        "data": "DeepPCB trainval groups " + ", ".join(TRAINED) + "; pictures of " + ", ".join(TEXTURES) + " with drawn stains",
        "license": "weights Apache-2.0; DeepPCB: MIT license file, its readme says research purpose only",
        "recipe": f"recipes/defects_slim.py --steps {args.steps} --rate {args.rate} --seed {args.seed}{before}",
    }
    config = replace(slim(CLASSES), box_margin_px=BOX_MARGIN_PX)
    schedule = Schedule(args.steps, learning_rate=args.rate, seed=args.seed)
    network = None if start is None else start.network
    assert network is None or isinstance(network, BGNet)
    train_defects(pool(args.data), config, schedule, args.out, card, start=network)


if __name__ == "__main__":
    main()
