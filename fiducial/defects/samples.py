"""Make training samples of defects: a sample, a nearly aligned template, and the truth.

Glossary
    H, W size of the crop in pixels; L = (H/8)·(W/8), M = (H/32)·(W/32) cells of the matching scales.
    view: the transform from crop to source image, the same for sample, template and mask.
    residual: the small displacement of the template that alignment leaves.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import nn

from fiducial import augment, synth
from fiducial.coords import Matrix, apply_transform, cell_centers_yx, nearest_cell
from fiducial.datasets import DEEPPCB_CLASSES, Gray, InspectionPair
from fiducial.defects.loss import IGNORE, Truth, loss

CLASSES = (*DEEPPCB_CLASSES, "other")
OTHER = len(CLASSES)  # the class of whatever is none of DeepPCB's

# The class of each class in the negative of an image: open and short, mousebite and spur, copper and pinhole trade places.
_NEGATIVE = np.array([0, 2, 1, 4, 3, 6, 5, 7], np.uint8)


@dataclass(frozen=True)
class Pool:
    """What samples are made from.

    Attributes:
        pairs: annotated pairs. textures: pictures of anything, to be stained.
        boards: the classes are those of bare boards, so that drawn boards and negatives may be mixed in.
    """

    pairs: tuple[InspectionPair, ...]
    textures: tuple[UInt8[np.ndarray, "..."], ...]
    boards: bool = True


@dataclass(frozen=True)
class Sample:
    """One training sample; images have intensities near [0, 1], mask and partners are as in `loss.Truth`."""

    sample: Float32[np.ndarray, "h w"]
    template: Float32[np.ndarray, "h w"]
    mask: UInt8[np.ndarray, "h w"]
    detail_partner: Int64[np.ndarray, " l"]
    semantic_partner: Int64[np.ndarray, " m"]
    origin_yx: Int64[np.ndarray, "2"]


class Batch(NamedTuple):
    """A batch of samples as tensors, images (B, 1, H, W); the rest as in `loss.Truth`."""

    sample: torch.Tensor
    template: torch.Tensor
    mask: torch.Tensor
    detail_partner: torch.Tensor
    semantic_partner: torch.Tensor
    origin_yx: torch.Tensor


def make_sample(pool: Pool, rng: np.random.Generator, size: int) -> Sample:
    """Draw one sample of size × size pixels."""
    kind = rng.random()
    if pool.textures and (kind < 0.15 or not pool.pairs):
        return _stained(pool, rng, size)
    if pool.boards and (kind < 0.25 or not pool.pairs):
        template = synth.draw_board(rng, (size + 64, size + 64))
        sample, mask = synth.damage_board(template, rng, int(rng.integers(0, 16)), by_hand=True)
        sample, template = (synth.jitter_edges(board, rng, rng.uniform(0, 0.15)) for board in (sample, template))
        return _from_board((255 - sample, 255 - template, mask), rng, size, negatives=True)  # DeepPCB shows copper dark
    pair = pool.pairs[int(rng.integers(len(pool.pairs)))]
    board, mask = _damage_further(pair, rng) if pool.boards and kind < 0.6 else (pair.sample, pair.mask)
    return _from_board((board, pair.template, mask), rng, size, negatives=pool.boards)


def _damage_further(pair: InspectionPair, rng: np.random.Generator) -> tuple[Gray, UInt8[np.ndarray, "h w"]]:
    """Return the sample and the mask of a pair with drawn defects beside its own: real copper, other hands."""
    copper = np.where(pair.sample > 127, 0, 255).astype(np.uint8)
    drawn, mask = synth.damage_board(copper, rng, int(rng.integers(6, 36)), pair.mask, by_hand=True)
    return np.where(drawn != copper, 255 - drawn, pair.sample), mask


def _from_board(
    images: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator, size: int, *, negatives: bool
) -> Sample:
    """Make a sample from sample, template and mask of a board."""
    board, good, mask = images
    binary = rng.random() < 0.35
    view = augment.random_view(rng, mask.shape, (size, size), _center(mask, rng), 0.0 if binary or rng.random() < 0.4 else 1.0)
    seen = augment.map_from_matrix(view, (size, size))
    residual = _draw_residual(rng, size)
    moved = augment.move_map(view, residual.mapping)
    levels = (0.0, 1.0) if binary else (rng.uniform(0, 0.15), rng.uniform(0.75, 1))
    if negatives and rng.random() < 0.25:  # the negative: what was copper now reads as laminate, an open as a short
        levels, mask = levels[::-1], _NEGATIVE[mask]
    pictures = []
    for image, mapping in ((board, seen), (good, moved)):
        gray = augment.resample(image.astype(np.float32) / 255, mapping)
        pictures.append(levels[0] + (levels[1] - levels[0]) * gray if binary else _develop(gray, levels, rng))
    truth = augment.resample(mask, seen, nearest=True)
    return _finish(pictures, truth, residual, rng)


def _develop(laminate: np.ndarray, levels: tuple[float, ...], rng: np.random.Generator) -> Float32[np.ndarray, "h w"]:
    """Turn the share of laminate in each pixel into a gray photograph of a board."""
    dark, light = (level + rng.normal(0, 0.04) for level in levels)
    gray = dark + (light - dark) * laminate
    gray += augment.smooth_field(rng, laminate.shape, int(rng.integers(3, 40))) * np.float32(rng.uniform(0, 0.05))
    return augment.photograph(gray.astype(np.float32), rng, float(rng.uniform(0.1, 1)))


def _stained(pool: Pool, rng: np.random.Generator, size: int) -> Sample:
    source = pool.textures[int(rng.integers(len(pool.textures)))]
    low, high = np.percentile(source[::4, ::4], [1, 99])
    picture = ((source - low) / max(high - low, 16)).astype(np.float32)
    center = rng.uniform(0, source.shape[0]), rng.uniform(0, source.shape[1])
    view = augment.random_view(rng, source.shape, (size, size), center, 1.0)
    seen = augment.map_from_matrix(view, (size, size))
    residual = _draw_residual(rng, size)
    clean = augment.resample(picture, seen)
    stained, mask = synth.stain(clean, rng, int(rng.integers(0, 6)))
    template = augment.resample(picture, augment.move_map(view, residual.mapping))
    strength = float(rng.uniform(0, 0.7))
    pictures = [augment.photograph(image, rng, strength) for image in (stained, template)]
    return _finish(pictures, mask * np.uint8(OTHER), residual, rng)


def _center(mask: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    places = np.flatnonzero(mask) if rng.random() < 0.7 else np.zeros(0, np.int64)
    if not len(places):
        return rng.uniform(0, mask.shape[0]), rng.uniform(0, mask.shape[1])
    y, x = divmod(int(rng.choice(places)), mask.shape[1])
    return y + rng.uniform(-80, 80), x + rng.uniform(-80, 80)


def _draw_residual(rng: np.random.Generator, size: int) -> "Residual":
    kind = rng.random()
    shift_px, angle, stretch, warp_px = (
        (0.0, 0.0, 0.0, 0.0) if kind < 0.2 else (0.5, 0.05, 0.001, 0.25) if kind < 0.75 else (2.5, 0.5, 0.004, 0.8)
    )
    matrix = augment.random_affine(rng, (size, size), shift_px, angle, stretch)
    return Residual(matrix, augment.smooth_warp(rng, (size, size), warp_px * rng.random()))


@dataclass(frozen=True)
class Residual:
    """The displacement of the template: its pixel p shows what the sample shows at matrix·p + warp(p)."""

    matrix: Matrix
    warp: augment.GeometricMap

    @property
    def mapping(self) -> augment.GeometricMap:
        """For each pixel of the template the place in the sample that it shows."""
        return augment.map_from_matrix(self.matrix, (self.warp.shape[0], self.warp.shape[1])) + self.warp

    def template_yx(self, sample_yx: np.ndarray) -> np.ndarray:
        """Return where in the template the sample's points lie; the warp is inverted to first order."""
        inverse = np.linalg.inv(self.matrix)
        h, w = self.warp.shape[:2]
        near = apply_transform(inverse, sample_yx).round().astype(int).clip(0, (h - 1, w - 1))
        return apply_transform(inverse, sample_yx - self.warp[near[:, 0], near[:, 1]])


def _finish(pictures: list[np.ndarray], mask: UInt8[np.ndarray, "h w"], residual: Residual, rng: np.random.Generator) -> Sample:
    size = mask.shape
    shown = residual.template_yx(np.argwhere(np.ones(size, dtype=bool)).astype(np.float64))
    outside = ((shown < 0) | (shown > np.array(size) - 1)).any(axis=1).reshape(size)
    truth = np.where(outside & (mask > 0), IGNORE, mask).astype(np.uint8)
    partners = []
    for stride in (8, 32):
        centers = cell_centers_yx(size, stride)
        partner = nearest_cell(residual.template_yx(centers), size, stride)
        cells = truth.reshape(size[0] // stride, stride, size[1] // stride, stride).swapaxes(1, 2)
        damaged = ((cells > 0) & (cells != IGNORE)).mean(axis=(2, 3)).ravel() > 0.1
        partners.append(np.where(damaged, -1, partner))
    sample, template = (picture.astype(np.float32) for picture in pictures)
    return Sample(sample, template, truth, partners[0], partners[1], rng.integers(0, 16, 2))


def collate(samples: list[Sample]) -> Batch:
    """Stack samples into tensors."""
    image = [
        torch.from_numpy(np.stack(stack))[:, None] for stack in ([s.sample for s in samples], [s.template for s in samples])
    ]
    mask = torch.from_numpy(np.stack([s.mask for s in samples]).astype(np.int64))
    detail = torch.from_numpy(np.stack([s.detail_partner for s in samples]))
    semantic = torch.from_numpy(np.stack([s.semantic_partner for s in samples]))
    origin = torch.from_numpy(np.stack([s.origin_yx for s in samples]))
    return Batch(image[0], image[1], mask, detail, semantic, origin)


def batch_loss(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the loss of a network on a batch; the position code starts where its first sample says, as on a larger image."""
    origin = batch.origin_yx[0].tolist()
    sample, template = (image.to(memory_format=torch.channels_last) for image in (batch.sample, batch.template))
    output = network(sample, template, (origin[0], origin[1]))
    return loss(output, Truth(batch.mask, batch.detail_partner, batch.semantic_partner))
