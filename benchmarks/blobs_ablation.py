"""Train CADSN short and alike with parts switched off (Table 3 of the paper) and with other ways to fuse the streams.

    python benchmarks/blobs_ablation.py --data ../shared/data --steps 400
    python benchmarks/blobs_ablation.py --data ../shared/data --recount    # nothing is trained: `million_parameters` alone

Every row learns from the same samples (crops of 128 px, batch 8) and is measured on every fourth validation image of
fluorescence and particles by P itself, at the threshold that is best for it there: short trainings are not calibrated. With the
contrastive loss, the last fifth of the steps is the second stage. One run each: differences of a few hundredths mean nothing.

The backbone is a half-width ResNet-18, from scratch. `million_parameters` counts those that the row's loss reaches: without the
pyramid over strides, the network ends at stride 8, and what lies beyond takes no part.
"""

import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from options import options, read_options
from result_files import write_result
from torch import nn

from fiducial.blobs.detector import BlobDetector
from fiducial.blobs.network import CADSN, Config
from fiducial.blobs.samples import (
    Batch,
    PairBatch,
    Pool,
    Sample,
    batch_loss,
    collate,
    collate_pairs,
    make_pair,
    make_sample,
    pair_loss,
)
from fiducial.datasets import CrowdImage
from fiducial.device import choose_device, has_fast_bf16
from fiducial.evaluate.blobs import Findings, judge, summarize
from fiducial.images import from_array
from fiducial.train.loop import Schedule, Task, fit

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from blobs_data import split

FULL = Config(encoder="resnet18_half", fine_dim=32)
PLAIN = replace(FULL, pyramid=False, edges=False, pooling=False)
ROWS: tuple[tuple[str, Config, bool], ...] = (
    ("baseline (single stream)", PLAIN, False),
    ("+ MSFS", replace(PLAIN, pyramid=True), False),
    ("+ EAS (no CSAM)", replace(FULL, fusion="gated", pooling=False), False),
    ("+ CSAM", replace(FULL, pooling=False), False),
    ("+ SAPP", FULL, False),
    ("+ CBD loss (full)", FULL, True),
    ("full, fused by concatenation", replace(FULL, fusion="concatenation"), True),
    ("full, fused by addition", replace(FULL, fusion="addition"), True),
    ("full, fused by the gate alone", replace(FULL, fusion="gated"), True),
)
SIDE_PX = 128
THRESHOLDS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)


def train(config: Config, pool: Pool, steps: int, *, contrast: bool, out: Path) -> CADSN:
    """Train one row in a folder that is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    torch.manual_seed(0)
    schedule = Schedule(steps, batch=8, learning_rate=1.5e-3, warmup=30, average=0.97)
    first = steps - steps // 5 if contrast else steps

    def publish(network: nn.Module, path: Path) -> None:
        """Short trainings are not kept."""

    single, paired = stages(pool)
    trained = fit(CADSN(config), single, replace(schedule, steps=first), out / "first", publish)
    if contrast:
        later = replace(schedule, steps=steps // 5, batch=4, learning_rate=5e-4)
        trained = fit(trained, paired, later, out / "second", publish)
    assert isinstance(trained, CADSN)
    return trained


def stages(pool: Pool) -> tuple[Task[Sample, Batch], Task[tuple[Sample, Sample, np.ndarray], PairBatch]]:
    """Return what the first and the second stage learn."""
    single = Task(partial(make_sample, pool, size=SIDE_PX), collate, batch_loss)
    return single, Task(partial(make_pair, pool, size=SIDE_PX), collate_pairs, pair_loss)


def million_parameters(config: Config, pool: Pool, *, contrast: bool) -> float:
    """Return how many parameters have a gradient after one backward pass of a row's loss, in millions."""
    network, task = CADSN(config), stages(pool)[contrast]
    samples = [task.draw(np.random.default_rng([0, i])) for i in range(8)]
    task.loss(network, task.collate(samples)).backward()
    return sum(p.numel() for p in network.parameters() if p.grad is not None) / 1e6


def recount(path: Path, counts: dict[str, float]) -> None:
    """Put the counts of parameters into a table of before; all else stays, also where and when it was measured."""
    table = pd.read_csv(path, dtype={"commit": str})
    table["million_parameters"] = table["configuration"].map(counts)
    table.round(4).to_csv(path, index=False, lineterminator="\n")


def measure(network: CADSN, images: list[CrowdImage]) -> dict[str, float]:
    """Return the scores at the best threshold of P."""
    device = choose_device("auto")
    detector = BlobDetector(network, None, device, bf16=has_fast_bf16(device))
    found = [detector.candidates(from_array(image.pixels))[0] for image in images]
    best: dict[str, float] = {"f1": -1.0}
    for least in THRESHOLDS:
        kept = [f.only(np.flatnonzero(f.p >= least)) for f in found]
        judged = [judge(image.crowd, Findings(f.yx, f.radius, f.p, None, 0.0)) for image, f in zip(images, kept, strict=True)]
        scores = summarize(judged)
        best = scores if scores["f1"] > best["f1"] else best
    return {name: best[name] for name in ("f1", "adjacent", "error_px")}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=4, help="measure on every N-th image")
    parser.add_argument("--runs", type=Path, default=Path("runs/blobs_ablation"), help="folder for the trainings")
    parser.add_argument("--recount", action="store_true", help="train nothing; count the parameters of the table in --out anew")
    args = read_options(parser, {"steps": 5, "every": 40}, ("dsb2018", "emps"))
    parts = split(args.data)
    counts = {name: million_parameters(config, parts.trained, contrast=contrast) for name, config, contrast in ROWS}
    if args.recount:
        recount(args.out / "blobs_ablation.csv", counts)
        return
    images = [image for kind in ("fluorescence", "particles") for image in parts.validated[kind][:: args.every]]
    rows = []
    for name, config, contrast in ROWS:
        network = train(config, parts.trained, args.steps, contrast=contrast, out=args.runs)
        row = {"configuration": name, "steps": args.steps, "million_parameters": counts[name]}
        rows.append(row | measure(network, images))
        print(rows[-1], flush=True)
    write_result("blobs_ablation", pd.DataFrame(rows), args.out)


if __name__ == "__main__":
    main()
