"""Make training pairs: two views of one scene, by two sensors or by one whose image is changed as if it were another.

Glossary
    view: the transform from pixels of a sample to pixels of the scene.
    a, b the two views of a pair; a_to_b the homography between them.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import nn

from fiducial import augment
from fiducial.augment import Pyramid, build_pyramid
from fiducial.coords import Matrix, apply_transform, image_center_yx, resize_transform, shift, similarity
from fiducial.datasets import AlignedPair
from fiducial.geometry import equalize, tone_curve
from fiducial.landmarks.loss import Truth, contrast_loss, loss
from fiducial.landmarks.network import Config, KeypointNet, Output

POINTS = 256  # contrasted in each pair
SCALES = (0.5, 2.8)  # pixels of the scene in a pixel of a view
TURNED = 0.25  # share of pairs at any angle, whose descriptors need not agree
HIDDEN = 0.15  # share of views of which a part is without data
LEVELS, HALVED_FROM_PX = 3, 64  # of a pyramid at most; shorter side from which a level is halved once more

Gray = Float32[np.ndarray, "_ _"]


@dataclass(frozen=True)
class Pool:
    """Scenes to learn from: pairs by two sensors, and single images; `share` of the samples comes from the pairs."""

    pairs: tuple[tuple[Pyramid, Pyramid], ...]
    singles: tuple[Pyramid, ...]
    share: float


@dataclass(frozen=True)
class Sample:
    """Two views, equalized to [-1, 1], and the fields of `loss.Truth` for them."""

    a: Gray
    b: Gray
    a_to_b: Matrix
    shown_a: Bool[np.ndarray, "h w"]
    shown_b: Bool[np.ndarray, "h w"]
    points_a: Float32[np.ndarray, "k 2"]
    points_b: Float32[np.ndarray, "k 2"]
    near: bool


class Batch(NamedTuple):
    """Views (2N, 1, H, W), first all of a, then all of b, and the fields of `loss.Truth`."""

    image: torch.Tensor
    a_to_b: torch.Tensor
    shown_a: torch.Tensor
    shown_b: torch.Tensor
    points_a: torch.Tensor
    points_b: torch.Tensor
    near: torch.Tensor


def make_pool(pairs: tuple[AlignedPair, ...], singles: tuple[UInt8[np.ndarray, "_ _"], ...], share: float = 0.6) -> Pool:
    """Build the pyramids of pairs and single images; `share` counts only if there are both."""
    build = partial(build_pyramid, halved_from_px=HALVED_FROM_PX, levels=LEVELS)
    part = float(bool(pairs)) if not pairs or not singles else share
    return Pool(tuple((build(pair.a), build(pair.b)) for pair in pairs), tuple(build(image) for image in singles), part)


def make_sample(pool: Pool, config: Config, rng: np.random.Generator, size: int, ease: float = 1.0) -> Sample:
    """Draw two views of size × size pixels; `ease` from 0 to 1 scales the differences of geometry between them."""
    while True:
        paired = rng.random() < pool.share
        one, other = _draw_scene(pool, rng, paired=paired)
        view = _draw_view(rng, one[0].shape, size)
        near = rng.random() >= TURNED * ease
        a_to_b = draw_homography(rng, config, size, ease, near=near)
        a, shown_a = _look(one, view, size, rng, change=not paired and rng.random() < 0.5)
        b, shown_b = _look(other, view @ np.linalg.inv(a_to_b), size, rng, change=not paired)
        points = _common_points(rng, a_to_b, shown_a, shown_b)
        if len(points) == POINTS:
            moved = apply_transform(a_to_b, points)
            return Sample(a, b, a_to_b, shown_a, shown_b, points.astype(np.float32), moved.astype(np.float32), bool(near))


def _draw_scene(pool: Pool, rng: np.random.Generator, *, paired: bool) -> tuple[Pyramid, Pyramid]:
    if not paired:
        single = pool.singles[int(rng.integers(len(pool.singles)))]
        return single, single
    a, b = pool.pairs[int(rng.integers(len(pool.pairs)))]
    return (b, a) if rng.random() < 0.5 else (a, b)


def _draw_view(rng: np.random.Generator, full: tuple[int, ...], size: int) -> Matrix:
    """Draw a view of any angle and scale whose middle lies where most of it shows the scene."""
    largest = max(min(SCALES[1], min(full) / size), SCALES[0] * 1.1)
    scale = float(np.exp(rng.uniform(np.log(SCALES[0]), np.log(largest))))
    half = 0.5 * scale * size
    center = [rng.uniform(half, n - half) if n > 2 * half else n / 2 for n in full]
    y, x = image_center_yx((size, size))
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    return shift(center[0], center[1]) @ mirror @ similarity(scale, float(rng.uniform(-180, 180))) @ shift(-y, -x)


def draw_homography(rng: np.random.Generator, config: Config, size: int, ease: float = 1.0, *, near: bool = True) -> Matrix:
    """Draw a homography between views: turn, scale, shift, shear and tilt; any turn if not `near`."""
    turn = float(rng.uniform(-config.turn_deg, config.turn_deg) * ease if near else rng.uniform(-180, 180))
    scale = float(np.exp(rng.uniform(-1, 1) * np.log(config.stretch) * ease))
    linear = similarity(scale, turn)
    linear[:2, :2] = linear[:2, :2] @ (np.eye(2) + rng.normal(0, 0.03 * ease, (2, 2)))
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-0.08, 0.08, 2) * ease / size
    y, x = image_center_yx((size, size))
    dy, dx = rng.uniform(-0.15, 0.15, 2) * size
    return shift(y + dy, x + dx) @ linear @ tilt @ shift(-y, -x)


def _look(
    pyramid: Pyramid, view: Matrix, size: int, rng: np.random.Generator, *, change: bool
) -> tuple[Gray, Bool[np.ndarray, "h w"]]:
    """Draw a view of a scene with its own tones, or as another kind of sensor might see it; and which pixels show it."""
    image, shown = _resample(pyramid, view, size)
    if change:
        low, high = (float(v) for v in np.quantile(image[::2, ::2], [0.02, 0.98]))
        image = change_modality((image - low) / max(high - low, 8.0), rng)
    if rng.random() < 0.3:
        image = augment.add_noise(image, rng, float(image.std() * rng.uniform(0, 0.3)))
    if rng.random() < HIDDEN:
        shown &= _half_plane(rng, size)
    seen = equalize(image, tone_curve(image[shown][::5]))
    gamma = float(np.exp(rng.normal(0, 0.25)))  # tones are spread by the whole image, of which this is a part
    seen = 2 * np.power((seen + 1) / 2, np.float32(gamma)) - 1
    return np.where(shown, seen, np.float32(0)), shown


def _resample(pyramid: Pyramid, view: Matrix, size: int) -> tuple[Gray, Bool[np.ndarray, "h w"]]:
    """Resample a scene along a view, from the level of its pyramid that is nearest in scale."""
    scale = float(np.sqrt(abs(np.linalg.det(view[:2, :2]))))
    level = int(np.clip(round(np.log2(max(scale, 1.0))), 0, len(pyramid) - 1))
    full, image = pyramid[0].shape, pyramid[level]
    to_level = resize_transform((full[0], full[1]), (image.shape[0], image.shape[1]))
    mapping = augment.map_from_matrix(to_level @ view, (size, size))
    inside = np.asarray(((mapping >= 0) & (mapping <= np.array(image.shape) - 1)).all(axis=-1))
    return augment.resample(image, mapping).astype(np.float32), inside


def change_modality(image: Gray, rng: np.random.Generator) -> Gray:
    """Show an image as another kind of sensor might: other tones, edges, the negative, speckle, blur."""
    out, kind = image, rng.random()
    if kind < 0.45:
        out = augment.random_tones(out, rng)
    elif kind < 0.7:
        out = augment.gradient_look(out, float(rng.uniform(0.7, 2)))
    if rng.random() < 0.4:
        out = augment.invert(out)
    if rng.random() < 0.5:
        out = augment.blur(out, float(rng.uniform(0.3, 1.8)))
    if rng.random() < 0.5:
        out = augment.add_speckle(np.clip(out, 0.02, None), rng, float(np.exp(rng.uniform(0, np.log(16)))))
    return augment.add_light_gradient(out, rng, 0.4)


def _half_plane(rng: np.random.Generator, size: int) -> Bool[np.ndarray, "h w"]:
    """Draw a half plane that covers at least about two thirds of a view."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    return y * np.sin(angle) + x * np.cos(angle) < rng.uniform(0.15, 0.5)


def _common_points(
    rng: np.random.Generator, a_to_b: Matrix, shown_a: Bool[np.ndarray, "h w"], shown_b: Bool[np.ndarray, "h w"]
) -> np.ndarray:
    """Draw up to POINTS points of a that both views show."""
    tries = rng.uniform(0, np.array(shown_a.shape) - 1, (8 * POINTS, 2))
    moved = apply_transform(a_to_b, tries)
    kept = (moved >= 0).all(1) & (moved <= np.array(shown_b.shape) - 1).all(1)
    tries, moved = tries[kept], moved[kept]
    (ya, xa), (yb, xb) = (points.round().astype(int).T for points in (tries, moved))
    return tries[shown_a[ya, xa] & shown_b[yb, xb]][:POINTS]


def collate(samples: list[Sample]) -> Batch:
    """Stack samples into tensors."""
    images = np.stack([s.a for s in samples] + [s.b for s in samples])[:, None]
    stacked = (np.stack([getattr(s, name) for s in samples]) for name in Batch._fields[1:])
    return Batch(torch.from_numpy(images), *(torch.from_numpy(np.asarray(part)) for part in stacked))


def contrast_batch_loss(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the loss of the descriptors alone on a batch: the first stage of training."""
    assert isinstance(network, KeypointNet)
    described = network.describe(batch.image.contiguous(memory_format=torch.channels_last))
    a, b = described.chunk(2)
    return contrast_loss(a, b, Truth(*batch[1:]))


def see(network: nn.Module, batch: Batch) -> tuple[Output, Output, Truth]:
    """Return what a network says of the views a and b of a batch, and how these lie on each other."""
    output = network(batch.image.contiguous(memory_format=torch.channels_last))
    n = len(batch.a_to_b)
    a, b = (Output(output.score[part], output.descriptors[part]) for part in (slice(n), slice(n, None)))
    return a, b, Truth(*batch[1:])


def batch_loss(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the whole loss on a batch: the second stage of training."""
    return loss(*see(network, batch))
