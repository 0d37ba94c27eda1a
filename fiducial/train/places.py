"""Train FTFY and its triplet network: the weights of `locate`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from fiducial import weights
from fiducial.datasets import read_textures
from fiducial.device import choose_device, has_fast_bf16
from fiducial.evaluate.places import draw_cases, fit_places
from fiducial.places.locator import PlaceLocator
from fiducial.places.network import FTFY, Config, TripletNet
from fiducial.places.samples import (
    Pool,
    batch_loss,
    collate,
    collate_triplets,
    make_pool,
    make_sample,
    make_triplet,
    triplet_batch_loss,
)
from fiducial.train.loop import Schedule, Task, begin, calibrating, check_start, fit, hold_out, publisher


def train_triplets(pool: Pool, config: Config, schedule: Schedule, out: Path, card: Mapping[str, str]) -> TripletNet:
    """Train a triplet network on patches of a pool in folder `out`."""
    torch.manual_seed(schedule.seed)
    task = Task(partial(make_triplet, pool, config), collate_triplets, triplet_batch_loss)
    trained = fit(TripletNet(config), task, schedule, out, publisher("triplets", card))
    assert isinstance(trained, TripletNet)
    return trained


def train_places(
    pool: Pool,
    config: Config,
    schedule: Schedule,
    out: Path,
    card: Mapping[str, str],
    *,
    start: FTFY | TripletNet | None = None,
) -> FTFY:
    """Train an FTFY network on a pool in folder `out`, from a triplet network's extractor, another FTFY network or nothing.

    Raises:
        InputError: the start has another configuration.
    """
    torch.manual_seed(schedule.seed)
    network = FTFY(config)
    if start is not None:
        check_start(start.config, config)
        lent, target = (start, network) if isinstance(start, FTFY) else (start.extractor, network.extractor)
        target.load_state_dict(lent.state_dict())
    task = Task(partial(make_sample, pool, config), collate, batch_loss)
    trained = fit(network, task, schedule, out, publisher("places", card))
    assert isinstance(trained, FTFY)
    return trained


def train_places_on(data: Path, out: Path, steps: int, *, start: Path | None = None, scratch: bool = False) -> FTFY:
    """Train on a folder of images as the command line asks: the slim size, from given, the shipped or no weights.

    Probabilities are fitted on the last fifth of the images, by name, which is not trained on.

    Raises:
        InputError: fewer than five images in the folder, or as `train_places`.
    """
    known = begin(out, "places", start, scratch=scratch)
    begun = None if known is None else known.network
    assert begun is None or isinstance(begun, FTFY)
    images, held = hold_out(read_textures((data,), longest_px=4096), data)
    card = {
        "data": f"{len(images)} images of {data.name}",
        "license": "the user's",
        "recipe": "fiducial train places",
    }
    config = Config() if begun is None else begun.config
    pool = make_pool(images)
    next(draw_cases(held, 1, seed=0))  # refuses what is too small to calibrate on before the training, not after it
    network = train_places(pool, config, Schedule(steps, batch=16), out, card, start=begun)
    where = choose_device("auto")
    locator = PlaceLocator(network, None, where, bf16=has_fast_bf16(where))
    with calibrating() as progress:
        fitted = fit_places(locator, held, progress=progress)
    weights.save(out / "weights.safetensors", "places", network, card, fitted)
    return network
