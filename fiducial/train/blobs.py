"""Train CADSN: the weights of `detect`, in the paper's two stages."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from fiducial import weights
from fiducial.blobs.network import CADSN, Config
from fiducial.blobs.samples import Pool, batch_loss, collate, collate_pairs, make_pair, make_sample, pair_loss
from fiducial.records import InputError
from fiducial.train.loop import Schedule, Task, fit

SHARE_OF_CONTRAST = 0.25  # steps of the second stage, in parts of those of the first
SLOWER = 0.3  # learning rate of the second stage, in parts of that of the first


def train_blobs(
    pool: Pool,
    config: Config,
    schedule: Schedule,
    out: Path,
    card: Mapping[str, str],
    *,
    start: CADSN | None = None,
    size: int = 256,
) -> CADSN:
    """Train a CADSN in folder `out`: `warmup/` for centers and radii, then `contrast/` with the contrastive loss too.

    The second stage has a quarter of the steps and, as each of its samples is two views, half the batch.

    Raises:
        InputError: the start has another configuration.
    """
    torch.manual_seed(schedule.seed)
    network = CADSN(config)
    if start is not None:
        if start.config != config:
            raise InputError(f"a start must have the configuration {config}, got {start.config}")
        network.load_state_dict(start.state_dict())

    def publish(trained: nn.Module, path: Path) -> None:
        assert isinstance(trained, CADSN)
        weights.save(path, "blobs", trained, card)

    first = Task(partial(make_sample, pool, size=size), collate, batch_loss)
    warm = fit(network, first, schedule, out / "warmup", publish)
    second = Task(partial(make_pair, pool, size=size), collate_pairs, pair_loss)
    steps, batch = max(1, round(SHARE_OF_CONTRAST * schedule.steps)), max(2, schedule.batch // 2)
    shorter = replace(schedule, steps=steps, batch=batch, learning_rate=SLOWER * schedule.learning_rate)
    trained = fit(warm, second, shorter, out / "contrast", publish)
    assert isinstance(trained, CADSN)
    publish(trained, out / "weights.safetensors")
    return trained
