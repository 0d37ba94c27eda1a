"""Train the keypoint network short and alike: without the term against collapse, by its parts, with other weights of scales.

    python recipes/keypoints_slim.py --data ../shared/data           # its folder features/ holds descriptors without keypoints
    python benchmarks/keypoints_ablation.py --data ../shared/data --start runs/keypoints_slim/features/weights.safetensors

Every row learns the third stage of fiducial.train.keypoints from the same samples (192 px, batch 4), with the same seed, from
the same convolutions and descriptors (`--start`, without it from nothing); DCN-0 to DCN-2 always begin anew. Rows of `loss`
leave terms out: Huber's loss alone is the paper's eq. (1). Rows of `network` are those of its Table 1, rows of `weights` the
combinations of its Table 2: the nine of 0, 0.1, 0.3, 0.6 and 1 that sum to 1, NetDCN being (0.1, 0.3, 0.6).

Measured on optical / SAR crops as benchmarks/keypoints_repeatability.py draws them: `repeatability`, `chance` and `excess` of
the 300 best points at 2 px; `confident_points`, how many of an image have a confidence above 0.6, with their repeatability and
chance; `o_mean` and `o_spread`, the mean of the map O, and its deviation over its mean, which is 0 for a map that says nothing.
One run each: differences of a few hundredths mean nothing.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from keypoints_baselines import Picture, Points
from keypoints_repeatability import (
    POINTS,
    SENSORS_PX,
    crops_of,
    elsewhere,
    find_confident,
    find_keypoints,
)
from options import MISSING, options, read_options
from result_files import write_result
from torch import Tensor, nn

from fiducial import weights
from fiducial.datasets import AlignedPair, read_aligned
from fiducial.geometry import equalize, tone_curve
from fiducial.landmarks.loss import contrast_loss, huber_loss, on_grid_of_a
from fiducial.landmarks.network import Config, KeypointNet
from fiducial.landmarks.samples import Batch, Pool, batch_loss, collate, make_sample, see
from fiducial.metrics import repeatability
from fiducial.train.loop import Schedule, Task, fit

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from keypoints_data import VALIDATED, pool

SIDE_PX, SEED = 192, 0
SCALE_WEIGHTS = (
    (1.0, 0.0, 0.0),
    (0.0, 1.0, 0.0),
    (0.0, 0.0, 1.0),
    (0.1, 0.6, 0.3),
    (0.3, 0.1, 0.6),
    (0.3, 0.6, 0.1),
    (0.6, 0.1, 0.3),
    (0.6, 0.3, 0.1),
)  # and (0.1, 0.3, 0.6), the default

Loss = Callable[[nn.Module, Batch], Tensor]


def huber_alone(network: nn.Module, batch: Batch) -> Tensor:
    """Return the paper's loss."""
    a, b, truth = see(network, batch)
    return huber_loss(a.score, *on_grid_of_a(b.score, truth))


def huber_and_contrast(network: nn.Module, batch: Batch) -> Tensor:
    """Return the whole loss but for the agreement of windows."""
    a, b, truth = see(network, batch)
    return contrast_loss(a.descriptors, b.descriptors, truth) + huber_loss(a.score, *on_grid_of_a(b.score, truth))


ROWS: tuple[tuple[str, str, Config, Loss], ...] = (
    ("loss", "Huber alone", Config(), huber_alone),
    ("loss", "Huber and descriptors, no agreement", Config(), huber_and_contrast),
    ("network", "NetBase", Config(deformable=False, scale_weights=(0.0, 0.0, 1.0)), batch_loss),
    ("network", "NetMS", Config(deformable=False), batch_loss),
    ("network", "NetDCN", Config(), batch_loss),
    *(("weights", str(combination), Config(scale_weights=combination), batch_loss) for combination in SCALE_WEIGHTS),
)


def begin(config: Config, start: KeypointNet | None) -> KeypointNet:
    """Return a network with the convolutions and descriptors of another one, and new deformable convolutions."""
    torch.manual_seed(SEED)
    network = KeypointNet(config)
    if start is not None:
        shared = {name: value for name, value in start.state_dict().items() if not name.startswith("dcn")}
        network.load_state_dict(network.state_dict() | shared)
    return network


def publish(network: nn.Module, path: Path) -> None:
    assert isinstance(network, KeypointNet)
    weights.save(path, "keypoints", network, {"data": "Volkov's", "license": "", "recipe": "benchmarks/keypoints_ablation.py"})


def train(network: KeypointNet, loss: Loss, scenes: Pool, schedule: Schedule, out: Path) -> KeypointNet:
    """Train one row in a folder that is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    task = Task(partial(make_sample, scenes, network.config, size=SIDE_PX), collate, loss)
    trained = fit(network, task, schedule, out, publish)
    assert isinstance(trained, KeypointNet)
    publish(trained, out / "weights.safetensors")
    return trained.eval()


@torch.inference_mode()
def map_of(network: KeypointNet, image: Picture) -> tuple[float, float]:
    """Return the mean of O over an image, and its deviation over its mean."""
    gray = image.astype(np.float32)
    seen = torch.from_numpy(equalize(gray, tone_curve(gray.ravel())))[None, None]
    score = network(seen.to(next(network.parameters()).device)).score.float()
    return float(score.mean()), float(score.std() / score.mean())


def repeat(found: Sequence[tuple[Points, Points]], others: Sequence[int]) -> tuple[float, float]:
    """Return the mean repeatability of crops, and that with the SAR of other crops; NaN where none has points."""
    own = [repeatability(a, b, SENSORS_PX) for a, b in found]
    chance = [repeatability(found[i][0], found[j][1], SENSORS_PX) for i, j in enumerate(others)]
    means = (np.nanmean(values) if np.isfinite(values).any() else np.nan for values in (own, chance))
    return float(next(means)), float(next(means))


def measure(network: KeypointNet, file: Path, crops: Sequence[AlignedPair]) -> dict[str, float]:
    """Return the scores of trained weights."""
    best = [(find_keypoints(file, c.a, POINTS), find_keypoints(file, c.b, POINTS)) for c in crops]
    sure = [(find_confident(file, c.a), find_confident(file, c.b)) for c in crops]
    own, chance = repeat(best, elsewhere(crops))
    confident, confident_chance = repeat(sure, elsewhere(crops))
    mean, spread = np.mean([map_of(network, image) for c in crops for image in (c.a, c.b)], axis=0)
    return {
        "repeatability": own,
        "chance": chance,
        "excess": own - chance,
        "confident_points": float(np.mean([len(yx) for both in sure for yx in both])),
        "confident_repeatability": confident,
        "confident_chance": confident_chance,
        "o_mean": float(mean),
        "o_spread": float(spread),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--start", type=Path, default=None, help="weights whose convolutions and descriptors every row has")
    parser.add_argument("--parts", default="loss,network,weights", help="of the table, separated by commas")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=7.5e-4, help="peak learning rate")
    parser.add_argument("--every", type=int, default=2, help="measure on every N-th crop")
    parser.add_argument("--runs", type=Path, default=Path("runs/keypoints_ablation"))
    args = read_options(parser, {"steps": 1, "every": 20, "parts": "loss"}, ("volkov", "sem", "emps"))
    if args.start is not None and not args.start.is_file():
        print(f"needs {args.start}, the descriptors of recipes/keypoints_slim.py: run that first", file=sys.stderr)
        raise SystemExit(MISSING)
    start = None if args.start is None else weights.load("keypoints", args.start).network
    assert start is None or isinstance(start, KeypointNet)
    scenes, crops = pool(args.data), crops_of(read_aligned(args.data / "volkov", VALIDATED), args.every)
    schedule = Schedule(args.steps, batch=4, learning_rate=args.rate, warmup=min(50, args.steps), average=0.97, seed=SEED)
    chosen = [row for row in ROWS if row[0] in args.parts.split(",")]
    rows = []
    for i, (part, name, config, loss) in enumerate(chosen):
        out = args.runs / str(i)
        network = train(begin(config, start), loss, scenes, schedule, out)
        row = {"part": part, "configuration": name, "steps": args.steps, "crops": len(crops)}
        rows.append(row | measure(network, out / "weights.safetensors", crops))
        print(f"{i + 1} of {len(chosen)} trainings", flush=True)
        write_result("keypoints_ablation", pd.DataFrame(rows), args.out)


if __name__ == "__main__":
    main()
