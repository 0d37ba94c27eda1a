"""Train CADSN: the weights of `detect`, in the paper's two stages."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from fiducial import weights
from fiducial.blobs.detector import BlobDetector
from fiducial.blobs.network import CADSN, Config, slim
from fiducial.blobs.samples import Pool, batch_loss, collate, collate_pairs, make_pair, make_sample, pair_loss
from fiducial.confidence import CrowdCalibration
from fiducial.datasets import read_crowds
from fiducial.device import choose_device, has_fast_bf16
from fiducial.evaluate.blobs import check_blobs, fit_crowds
from fiducial.train.loop import Schedule, Task, begin, calibrating, check_start, fit, hold_out, publisher

SHARE_OF_CONTRAST = 0.1  # steps of the second stage, in parts of those of the first
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

    The second stage has a tenth of the steps and, as each of its samples is two views, half the batch.

    Raises:
        InputError: the start has another configuration.
    """
    torch.manual_seed(schedule.seed)
    network = CADSN(config)
    if start is not None:
        check_start(start.config, config)
        network.load_state_dict(start.state_dict())

    publish = publisher("blobs", card)
    first = Task(partial(make_sample, pool, size=size), collate, batch_loss)
    warm = fit(network, first, schedule, out / "warmup", publish)
    second = Task(partial(make_pair, pool, size=size), collate_pairs, pair_loss)
    steps, batch = max(1, round(SHARE_OF_CONTRAST * schedule.steps)), max(2, schedule.batch // 2)
    shorter = replace(
        schedule,
        steps=steps,
        batch=batch,
        learning_rate=SLOWER * schedule.learning_rate,
        warmup=min(schedule.warmup, max(1, steps // 10)),
    )
    trained = fit(warm, second, shorter, out / "contrast", publish)
    assert isinstance(trained, CADSN)
    publish(trained, out / "weights.safetensors")
    return trained


def train_blobs_on(data: Path, out: Path, steps: int, *, start: Path | None = None, scratch: bool = False) -> CADSN:
    """Train on a folder of crowds as the command line asks: the slim size, from given, the shipped or no weights.

    Probabilities are fitted on the last fifth of the images, by name, which is not trained on.

    Raises:
        InputError: fewer than five images in the folder, or as `train_blobs`.
    """
    from_weights = begin(out, "blobs", start, scratch=scratch)
    known = weights.load("blobs") if from_weights is None else from_weights
    begun = None if from_weights is None else from_weights.network
    assert begun is None or isinstance(begun, CADSN)
    assert known.calibration is None or isinstance(known.calibration, CrowdCalibration)
    images, held = hold_out(read_crowds(data), data)
    check_blobs(images)
    check_blobs(held)
    card = {
        "data": f"{len(images)} images of {data.name}, and drawn crowds",
        "license": "the user's",
        "recipe": "fiducial train blobs",
    }
    config = slim() if begun is None else begun.config
    pool = Pool((images,), (1.0,))
    network = train_blobs(pool, config, Schedule(steps), out, card, start=begun)
    where = choose_device("auto")
    detector = BlobDetector(network, known.calibration, where, bf16=has_fast_bf16(where))
    with calibrating() as progress:
        fitted = fit_crowds(detector, held, progress)
    weights.save(out / "weights.safetensors", "blobs", network, card, fitted)
    return network
