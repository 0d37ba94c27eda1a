"""Train the multimodal keypoint network: the weights of `register`, in three stages from easy to hard."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from fiducial import weights
from fiducial.datasets import ALIGNED_FOLDERS, AlignedPair, list_images, read_aligned, read_textures
from fiducial.device import choose_device, has_fast_bf16
from fiducial.evaluate.keypoints import check_sides, fit_registrations
from fiducial.landmarks.network import Config, KeypointNet
from fiducial.landmarks.registrar import ImageRegistrar
from fiducial.landmarks.samples import Pool, batch_loss, change_modality, collate, contrast_batch_loss, make_pool, make_sample
from fiducial.records import InputError
from fiducial.train.loop import Schedule, Task, begin, calibrating, check_start, fit, hold_out, publisher

CASES, SEED = 120, 3  # that probabilities are fitted on; of the changes of modality
LEAST = 10  # pairs or images, of which two are held out: cases need a second scene
EASE = 0.4  # of the first stage's homographies
SHARES = (0.15, 0.6, 0.25)  # of the steps, by stage
SLOWER = 0.5  # learning rate of the third stage, in parts of that of the others


def train_keypoints(
    pool: Pool,
    config: Config,
    schedule: Schedule,
    out: Path,
    card: Mapping[str, str],
    *,
    start: KeypointNet | None = None,
    size: int = 192,
) -> KeypointNet:
    """Train a keypoint network in folder `out`.

    `near/` teaches descriptors between views that differ little, `features/` between all views, and `peaks/`, on half the
    batch, keypoints too. With a `start` the first stage is left out.

    Raises:
        InputError: the start has another configuration, or the folder a run that had one where this has none.
    """
    torch.manual_seed(schedule.seed)
    network: nn.Module = KeypointNet(config)
    if start is not None:
        check_start(start.config, config)
        network.load_state_dict(start.state_dict())

    publish = publisher("keypoints", card)
    draw = partial(make_sample, pool, config, size=size)
    near, features, peaks = (replace(schedule, steps=max(1, round(share * schedule.steps))) for share in SHARES)
    peaks = replace(peaks, batch=max(2, schedule.batch // 2), learning_rate=SLOWER * schedule.learning_rate)
    if start is None:
        if (out / "features" / "state.safetensors").is_file() and not (out / "near" / "state.safetensors").is_file():
            raise InputError(
                f"{out} is a run that began with weights: resume it with the same options, or choose another folder"
            )
        network = fit(network, Task(partial(draw, ease=EASE), collate, contrast_batch_loss), near, out / "near", publish)
    network = fit(network, Task(draw, collate, contrast_batch_loss), features, out / "features", publish)
    network = fit(network, Task(draw, collate, batch_loss), peaks, out / "peaks", publish)
    assert isinstance(network, KeypointNet)
    publish(network, out / "weights.safetensors")
    return network


def train_keypoints_on(data: Path, out: Path, steps: int, *, start: Path | None = None, scratch: bool = False) -> KeypointNet:
    """Train on a folder as the command line asks: the slim size, from given, the shipped or no weights.

    The folder holds aligned pairs, or single images, each of which is then paired with itself under changes of modality.
    Probabilities are fitted on the last fifth by name, which is not trained on.

    Raises:
        InputError: fewer than ten pairs or images in the folder, one that is too small or too large, or as `train_keypoints`.
    """
    known = begin(out, "keypoints", start, scratch=scratch)
    begun = None if known is None else known.network
    assert begun is None or isinstance(begun, KeypointNet)
    paired = any((data / first).is_dir() for first, _ in ALIGNED_FOLDERS)
    images = () if paired else zip(list_images(data), read_textures((data,), longest_px=2048), strict=True)
    pairs = read_aligned(data) if paired else tuple(_with_itself(p.stem, image, i) for i, (p, image) in enumerate(images))
    if len(pairs) < LEAST:
        raise InputError(f"training needs at least {LEAST} pairs or images, {data} holds {len(pairs)}")
    check_sides(pairs)  # before the training: it would not end on some, and those held out are too small for cases after it
    kept, held = hold_out(pairs, data)
    card = {"data": f"{len(kept)} scenes of {data.name}", "license": "the user's", "recipe": "fiducial train keypoints"}
    singles = tuple(pair.a for pair in kept)
    pool = make_pool(kept if paired else (), singles)
    network = train_keypoints(pool, Config() if begun is None else begun.config, Schedule(steps), out, card, start=begun)
    where = choose_device("auto")
    registrar = ImageRegistrar(network, None, where, bf16=has_fast_bf16(where))
    with calibrating() as progress:
        fitted = fit_registrations(registrar, held, CASES, progress)
    weights.save(out / "weights.safetensors", "keypoints", network, card, fitted)
    return network


def _with_itself(name: str, image: UInt8[np.ndarray, "_ _"], number: int) -> AlignedPair:
    """Return an image beside itself as another sensor might see it."""
    other = change_modality(image.astype(np.float32) / 255, np.random.default_rng([SEED, number]))
    return AlignedPair(name, image, np.clip(other * 255, 0, 255).astype(np.uint8))
