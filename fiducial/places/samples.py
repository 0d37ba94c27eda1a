"""Make training pairs of places: a block of a source, patches cut from it at finer scale, and where they lie (section 5).

Glossary
    F side of a patch in pixels of its image; k factor by which the source is reduced (1 to 10).
    key: the square that a patch group is built on (set A); sets B, C, D: squares shifted to an IoU of [0.7, 1), [0.5, 0.7)
        and [0.3, 0.5) with it, four of each. R the rectangle that holds them all.
    view: a transform from pixels of a patch or block to pixels of the image it is cut from.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, UInt8
from torch import nn

from fiducial import augment
from fiducial.augment import Pyramid, build_pyramid
from fiducial.coords import Matrix, apply_transform, image_center_yx, resize_transform, shift, similarity
from fiducial.geometry import local_contrast, remove_stripes
from fiducial.matching import CONTRAST_PX
from fiducial.places.loss import Truth, loss, triplet_loss
from fiducial.places.network import Config
from fiducial.records import InputError

FACTORS = (1, 2, 4, 6, 8, 10)
IOU_RANGES = ((0.7, 1.0), (0.5, 0.7), (0.3, 0.5))  # sets B, C, D
SHIFTS = 4  # patches of each of them
SMALLEST_PX = 24.0  # side of a patch in pixels of its reduced source
PATCHES = 4  # of a block, and one from elsewhere

Gray = Float32[np.ndarray, "_ _"]


@dataclass(frozen=True)
class Pool:
    """What samples are made from."""

    pyramids: tuple[Pyramid, ...]


def make_pool(images: tuple[UInt8[np.ndarray, "_ _"], ...]) -> Pool:
    """Reduce each image by halves down to 24 px.

    Raises:
        InputError: an image is too small to cut patches from.
    """
    pyramids = []
    for image in images:
        if min(image.shape) < 2 * SMALLEST_PX:
            raise InputError(f"an image to learn from must have at least {2 * SMALLEST_PX:.0f} px a side, got {image.shape}")
        pyramids.append(build_pyramid(image, 2 * SMALLEST_PX))
    return Pool(tuple(pyramids))


@dataclass(frozen=True)
class Sample:
    """A block, patches, and the boxes of the patches in it: center y and x, height, width, angle (NaN: not in the block)."""

    source: Gray
    patches: Float32[np.ndarray, "n k k"]
    boxes: Float64[np.ndarray, "n 5"]


class Batch(NamedTuple):
    """Blocks (S, 1, H, W) and patches (Q, 1, K, K) as tensors; pairs of them by index, with the boxes of each pair."""

    source: torch.Tensor
    query: torch.Tensor
    source_index: torch.Tensor
    query_index: torch.Tensor
    box: torch.Tensor
    present: torch.Tensor


def shifted(rng: np.random.Generator, side: float, iou_range: tuple[float, float]) -> tuple[float, float]:
    """Draw a shift (dy, dx) that brings the IoU of a square with itself into a range."""
    iou = rng.uniform(*iou_range)
    shared, split = 2 * iou / (1 + iou), rng.random()  # two squares of area 1 share `shared` and cover 2 - shared
    dy, dx = 1 - shared**split, 1 - shared ** (1 - split)
    return float(rng.choice([-1, 1]) * dy * side), float(rng.choice([-1, 1]) * dx * side)


def draw_group(rng: np.random.Generator, size: tuple[int, int], side: float) -> Float64[np.ndarray, "n 2"]:
    """Draw the centers of a patch group in an image: the key, then sets B, C and D."""
    key = [rng.uniform(side / 2, max(n - side / 2, side / 2)) for n in size]
    moves = [(0.0, 0.0), *(shifted(rng, side, bounds) for bounds in IOU_RANGES for _ in range(SHIFTS))]
    centers = np.array(key) + np.array(moves)
    return np.clip(centers, side / 2 - 1, np.maximum(np.array(size) - side / 2, side / 2 - 1))


def make_sample(pool: Pool, config: Config, rng: np.random.Generator) -> Sample:
    """Draw a block with PATCHES patches of one group in it, and one patch of the same image that is not in the block."""
    pyramid = pool.pyramids[int(rng.integers(len(pool.pyramids)))]
    size = (pyramid[0].shape[0], pyramid[0].shape[1])
    side, factor = _draw_scale(rng, min(size))
    least = max(config.box_px[0], config.block_px * side / (1.5 * max(size)))  # a block may exceed the image, not by far
    box_px = float(np.exp(rng.uniform(np.log(min(least, config.box_px[1] - 1)), np.log(config.box_px[1]))))
    group = draw_group(rng, size, side)
    window = config.block_px / box_px * side
    block = (config.block_px, config.block_px)
    middle = [_window_center(rng, group[:, i], window, size[i], side) for i in (0, 1)]
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    turned = rng.uniform(-180, 180)
    to_image = _view((middle[0], middle[1]), window / config.block_px, turned, mirror, block)
    source = render(pyramid, to_image, block, float(factor))
    chosen = rng.choice(len(group), PATCHES, replace=False)
    stranger = _stranger(pool, rng, pyramid, side, (middle[0], middle[1]), window)
    patches, boxes = [], []
    for shown, center in [*((pyramid, center) for center in group[chosen]), stranger]:
        angle = turned + rng.uniform(-config.turn_deg, config.turn_deg)
        patch_px = (config.query_px, config.query_px)
        stretch = float(np.exp(rng.normal(0, 0.06)))  # patches of one group differ a little in size
        view = _view((center[0], center[1]), stretch * side / config.query_px, angle, mirror, patch_px)
        drift = augment.scan_drift(rng, patch_px, float(rng.uniform(0, 0.8)))
        patches.append(_finish(render(shown, view, patch_px, 1.0, drift), rng, cut=True))
        box = box_of(np.linalg.inv(to_image) @ view, patch_px)
        inside = (box[:2] > 4).all() and (box[:2] < config.block_px - 5).all() and center is not stranger[1]
        boxes.append(box if inside else np.full(5, np.nan))
    return Sample(_finish(source, rng), np.stack(patches), np.stack(boxes))


def _draw_scale(rng: np.random.Generator, shortest: int) -> tuple[float, int]:
    """Draw F, and k such that the patch keeps SMALLEST_PX in its source."""
    side = float(np.exp(rng.uniform(np.log(SMALLEST_PX * 1.2), np.log(0.8 * shortest))))
    return side, int(rng.choice([k for k in FACTORS if k == 1 or side / k >= SMALLEST_PX]))


def _window_center(
    rng: np.random.Generator, group: Float64[np.ndarray, " n"], window: float, length: int, side: float
) -> float:
    """Draw where a window's middle lies along one axis: holding R where it can, within the image where it can."""
    room = window / 2 - side / 2
    low, high = group.max() - room, group.min() + room
    low, high = (low, high) if low < high else (group[0] - room / 2, group[0] + room / 2)
    center = rng.uniform(low, high)
    return float(np.clip(center, window / 2, length - window / 2)) if window < length else float(length / 2)


def _stranger(
    pool: Pool, rng: np.random.Generator, pyramid: Pyramid, side: float, middle: tuple[float, float], window: float
) -> tuple[Pyramid, Float64[np.ndarray, " 2"]]:
    """Draw the center of a patch that a block does not show: of the same image if eight tries find one, or of another."""
    tries = _centers(rng, pyramid, side, 8)
    away = np.abs(tries - np.array(middle)).max(axis=1)
    if away.max() > (window + side) / 2:
        return pyramid, tries[away.argmax()]
    other = _another(pool, rng, pyramid)
    return other, _centers(rng, other, side, 1)[0]


def _another(pool: Pool, rng: np.random.Generator, pyramid: Pyramid) -> Pyramid:
    """Draw another image of a pool, which may hold an image several times; the same one if it has no other."""
    others = [other for other in pool.pyramids if other[0] is not pyramid[0]]
    return others[int(rng.integers(len(others)))] if others else pyramid


def _centers(rng: np.random.Generator, pyramid: Pyramid, side: float, count: int) -> Float64[np.ndarray, "n 2"]:
    return np.stack([rng.uniform(min(side, n) / 2, max(n - side / 2, side / 2 + 1), count) for n in pyramid[0].shape], axis=1)


def _view(center_yx: tuple[float, float], scale: float, angle: float, mirror: Matrix, size: tuple[int, int]) -> Matrix:
    """Return the transform from pixels of a view to the image's: scale, then turn about a center."""
    y, x = image_center_yx(size)
    return shift(*center_yx) @ mirror @ similarity(scale, angle) @ shift(-y, -x)


def render(
    pyramid: Pyramid,
    view: Matrix,
    size: tuple[int, int],
    factor: float,
    drift: augment.GeometricMap | None = None,
) -> Gray:
    """Resample an image along a view, without detail finer than `factor` pixels of the image; 0 to 1, and NaN outside.

    `drift` displaces each pixel of the view, in pixels of the view.
    """
    scale = float(np.sqrt(abs(np.linalg.det(view[:2, :2]))))
    if factor > 1.25 * scale:  # the source was reduced further than the block shows: it is drawn small and enlarged
        small = (max(8, round(size[0] * scale / factor)), max(8, round(size[1] * scale / factor)))
        coarse = render(pyramid, view @ resize_transform(small, size), small, 0.0)
        wide = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR)
        return wide if drift is None else augment.resample(wide, augment.map_from_matrix(np.eye(3), size) + drift)
    level = int(np.clip(np.floor(np.log2(max(scale, 1.0)) + 0.25), 0, len(pyramid) - 1))
    image = pyramid[level]
    full = (pyramid[0].shape[0], pyramid[0].shape[1])
    matrix = resize_transform(full, (image.shape[0], image.shape[1])) @ view
    mapping = augment.map_from_matrix(matrix, size)
    if drift is not None:
        mapping = augment.move_map(matrix, augment.map_from_matrix(np.eye(3), size) + drift)
    seen = cv2.remap(image, mapping[..., 1], mapping[..., 0], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    limits = np.array(image.shape) - 1
    outside = ((mapping < -1) | (mapping > limits + 1)).any(axis=-1)
    return np.where(outside, np.float32(np.nan), seen.astype(np.float32) / 255)


def change_look(image: Gray, rng: np.random.Generator) -> Gray:
    """Draw another exposure of a view: another detector, other light, charging, blur and noise."""
    low, high = (float(v) for v in np.quantile(image[::2, ::2], [0.02, 0.98]))
    out = (image - low) / max(high - low, 0.03)
    kind = rng.random()
    if kind < 0.2:
        out = augment.gradient_look(out, float(rng.uniform(0.7, 2)))
    elif kind < 0.32:
        out = augment.random_tones(out, rng)
    if rng.random() < 0.2:
        out = augment.invert(out)
    strength = float(rng.uniform(0, 1))
    if rng.random() < 0.3:
        out = augment.charge(out, rng, strength)
    out = augment.photograph(out, rng, strength)
    out = augment.add_shot_noise(out, rng, float(rng.uniform(0, 0.25)) * float(rng.random()))
    return np.clip(out, -0.3, 1.5)


def _finish(image: Gray, rng: np.random.Generator, *, cut: bool = False) -> Gray:
    """Change the look and normalize; pixels without content are 0.

    A patch is `cut`: its stripes are taken out, as they will be from a query, and so is what lies outside a turned frame.
    """
    valid = np.isfinite(image)
    if not valid.any():
        return np.zeros_like(image)
    seen = change_look(np.where(valid, image, image[valid].mean()), rng)
    out = local_contrast(remove_stripes(seen) if cut else seen, CONTRAST_PX)
    if cut:
        valid &= turned_frame(image.shape[0], float(rng.uniform(-45, 45)))
    return np.where(valid, out, np.float32(0))


def turned_frame(side: int, angle: float) -> Bool[np.ndarray, "k k"]:
    """Say which pixels of a square lie in the same square turned about its center."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    return np.maximum(np.abs(c * x + s * y), np.abs(c * y - s * x)) <= side / 2


def box_of(query_to_source: Matrix, query_size: tuple[int, int]) -> Float64[np.ndarray, " 5"]:
    """Return the box (center y, x, height, width, angle in radians) of a query under a similarity."""
    center = apply_transform(query_to_source, np.array([image_center_yx(query_size)]))[0]
    scale = np.sqrt(abs(np.linalg.det(query_to_source[:2, :2])))
    angle = np.arctan2(query_to_source[1, 0], query_to_source[0, 0])
    return np.array([*center, scale * query_size[0], scale * query_size[1], angle])


def collate(samples: list[Sample]) -> Batch:
    """Stack samples; each block meets its own patches and one of each of two other blocks."""
    blocks, n = len(samples), PATCHES + 1
    source = torch.from_numpy(np.stack([s.source for s in samples]))[:, None]
    query = torch.from_numpy(np.concatenate([s.patches for s in samples]))[:, None]
    own = np.concatenate([s.boxes for s in samples])
    source_index = np.concatenate([np.repeat(np.arange(blocks), n), np.repeat(np.arange(blocks), 2)])
    strangers = [((b + 1 + j) % blocks) * n + (b + j) % n for b in range(blocks) for j in range(2)]
    query_index = np.concatenate([np.arange(blocks * n), np.array(strangers)])
    boxes = np.concatenate([own, np.full((2 * blocks, 5), np.nan)])
    present = np.isfinite(boxes[:, 0])
    if blocks < 3:  # too few for strangers: a block would meet its own patches
        source_index, query_index, boxes, present = (part[: blocks * n] for part in (source_index, query_index, boxes, present))
    return Batch(
        source,
        query,
        torch.from_numpy(source_index),
        torch.from_numpy(query_index),
        torch.from_numpy(np.where(present[:, None], boxes, 1.0).astype(np.float32)),
        torch.from_numpy(present),
    )


def batch_loss(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the loss of an FTFY network on a batch."""
    source, query = (image.contiguous(memory_format=torch.channels_last) for image in (batch.source, batch.query))
    output = network(source, query, batch.source_index, batch.query_index)
    return loss(output, Truth(batch.box, batch.present))


class Triplets(NamedTuple):
    """Anchors, positives and negatives (B, 1, K, K)."""

    anchor: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor


def make_triplet(pool: Pool, config: Config, rng: np.random.Generator) -> Float32[np.ndarray, "3 k k"]:
    """Draw anchor, positive and negative by one of the three methods of section 5.1.

    The negative comes from a set of lower IoU than the positive's, from another place of the image, or from another image.
    """
    pyramid = pool.pyramids[int(rng.integers(len(pool.pyramids)))]
    size = (pyramid[0].shape[0], pyramid[0].shape[1])
    side, factor = _draw_scale(rng, min(size))
    centers = draw_group(rng, size, side)
    mirror, turned = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0]), float(rng.uniform(-180, 180))

    def cut(shown: Pyramid, center: Float64[np.ndarray, " 2"], factor: float) -> Gray:
        patch_px = (config.query_px, config.query_px)
        angle = turned + float(rng.uniform(-1, 1)) * config.turn_deg / 2
        view = _view((center[0], center[1]), side / config.query_px, angle, mirror, patch_px)
        return _finish(render(shown, view, patch_px, float(factor)), rng)

    method = int(rng.integers(3))
    first_of = (0, 1, 1 + SHIFTS, 1 + 2 * SHIFTS, len(centers))  # where sets A, B, C, D begin
    near = int(rng.integers(0, 3 if method == 0 else 2))
    anchor, positive = (cut(pyramid, centers[i], k) for i, k in ((0, 1), (_one_of(rng, first_of, near), factor)))
    if method == 0:
        far = int(rng.integers(near + 1, 4))
        negative = cut(pyramid, centers[_one_of(rng, first_of, far)], factor)
    elif method == 1:
        negative = cut(*_stranger(pool, rng, pyramid, side, (centers[0, 0], centers[0, 1]), side), factor)
    else:
        other = _another(pool, rng, pyramid)
        negative = cut(other, _centers(rng, other, side, 1)[0], factor)
    return np.stack([anchor, positive, negative])


def _one_of(rng: np.random.Generator, first_of: tuple[int, ...], which: int) -> int:
    return int(rng.integers(first_of[which], first_of[which + 1]))


def collate_triplets(samples: list[Float32[np.ndarray, "3 k k"]]) -> Triplets:
    """Stack triplets into tensors."""
    stack = torch.from_numpy(np.stack(samples))[:, :, None]
    return Triplets(stack[:, 0], stack[:, 1], stack[:, 2])


def triplet_batch_loss(network: nn.Module, batch: Triplets) -> torch.Tensor:
    """Return the loss of a triplet network on a batch."""
    patches = torch.cat([batch.anchor, batch.positive, batch.negative]).contiguous(memory_format=torch.channels_last)
    a, p, n = network(patches).chunk(3)
    return triplet_loss(a, p, n)
