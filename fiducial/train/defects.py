"""Train BGNet: the weights of `inspect`."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from fiducial import weights
from fiducial.datasets import BOX_MARGIN_PX, InspectionPair, is_deeppcb, listed, read_pairs
from fiducial.defects.inspector import DefectInspector
from fiducial.defects.network import BGNet, Config, slim
from fiducial.defects.samples import CLASSES, Pool, batch_loss, collate, make_sample
from fiducial.device import choose_device, has_fast_bf16
from fiducial.evaluate.defects import fit_calibration
from fiducial.records import InputError
from fiducial.train.loop import Schedule, Task, begin, check_start, fit, publisher


def train_defects(
    pool: Pool,
    config: Config,
    schedule: Schedule,
    out: Path,
    card: Mapping[str, str],
    *,
    start: BGNet | None = None,
    size: int = 256,
) -> BGNet:
    """Train a BGNet on pairs and textures in folder `out`, from scratch or from another network's weights.

    A start with other classes lends everything but the last layer.

    Raises:
        InputError: a mask holds a class that the configuration does not name, or the start's sizes differ.
    """
    _check_classes(pool.pairs, config.classes)
    torch.manual_seed(schedule.seed)
    network = BGNet(config)
    if start is not None:
        lend(start, network)
    task = Task(partial(make_sample, pool, size=size), collate, batch_loss)
    trained = fit(network, task, schedule, out, publisher("defects", card))
    assert isinstance(trained, BGNet)
    return trained


def train_defects_on(
    data: Path,
    out: Path,
    classes: str | None,
    steps: int,
    *,
    start: Path | None = None,
    scratch: bool = False,
    hold_out: str = "",
) -> BGNet:
    """Train on a folder of pairs as the command line asks: the slim size, from given, the shipped or no weights.

    Probabilities are fitted on the groups held out; without any, the weights stay uncalibrated, and `inspect` refuses them.

    Raises:
        InputError: no pairs in the folder, or as `train_defects`.
    """
    known = begin(out, "defects", start, scratch=scratch)
    begun = None if known is None else known.network
    assert begun is None or isinstance(begun, BGNet)
    names = CLASSES if classes is None else listed(classes)
    held = listed(hold_out)
    pairs, others = read_pairs(data, but=held), read_pairs(data, held) if held else ()
    margin = BOX_MARGIN_PX if is_deeppcb(data) else 0.0
    card = {"data": f"{len(pairs)} pairs of {data.name}", "license": "the user's", "recipe": "fiducial train defects"}
    config = replace(slim(names) if begun is None else begun.config, classes=names, box_margin_px=margin)
    pool = Pool(pairs, (), boards=names == CLASSES)
    network = train_defects(pool, config, Schedule(steps), out, card, start=begun)
    if others:
        where = choose_device("auto")
        inspector = DefectInspector(network, None, where, bf16=has_fast_bf16(where))
        weights.save(out / "weights.safetensors", "defects", network, card, fit_calibration(inspector, others))
    return network


def _check_classes(pairs: tuple[InspectionPair, ...], classes: tuple[str, ...]) -> None:
    highest = max((int(pair.mask.max()) for pair in pairs), default=0)
    if highest > len(classes):
        raise InputError(f"masks hold classes up to {highest}, but {len(classes)} are named: {', '.join(classes)}")


def lend(start: BGNet, network: BGNet) -> None:
    """Copy the parameters of one network into another; the last layer only where the classes agree.

    Raises:
        InputError: the two differ in more than their classes.
    """
    own = network.config
    check_start(replace(start.config, classes=own.classes, box_margin_px=own.box_margin_px), own)
    lent = start.state_dict()
    if start.config.classes != own.classes:
        lent |= {name: tensor for name, tensor in network.state_dict().items() if name.startswith("fusion.head.")}
    network.load_state_dict(lent)
