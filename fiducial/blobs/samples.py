"""Make training samples of crowds: an image at a drawn scale, and the target maps.

Glossary
    view: the transform from pixels of the sample to pixels of the image it is cut from.
    Y, w targets and weights as in `loss`. Radii are those in pixels of the sample.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import nn

from fiducial import augment
from fiducial.blobs.loss import CONTRAST, Truth, contrast_loss, loss, neighbors
from fiducial.blobs.network import CADSN
from fiducial.coords import Matrix, image_center_yx, resize_transform, shift, similarity
from fiducial.crowds import NOTHING, Crowd, draw_crowd, heat_map, in_bytes
from fiducial.datasets import CrowdImage

RADII_PX = (2.0, 36.0)  # of blobs that are to be found; smaller ones are not judged
TOO_LARGE_PX = 52.0  # radius from which a blob is not to be found at this scale; those between are not judged
TYPICAL_PX = (3.0, 22.0)  # the median radius of a sample, log-uniform
WIDTH, LEAST_PX = 0.42, 1.0  # of the Gaussians of Y, in parts of the radius and in pixels
DRAWN, COLORED = 0.2, 0.4  # share of samples that are drawn, and of these in color
EMPTY = 0.15  # share of samples that hold no blob
STRETCHED = 0.1  # of the linear part of half the views: deviation of each entry
SQUEEZED, NARROWEST = 0.15, 2.4  # share of views in which all blobs are narrow and lie side by side, and the most they can be
APART_PX, BACKGROUND_PX, TRIES = 8.0, (64, 256), 40  # background: distance to any blob, side; windows that are tried
EACH_VIEW = 60  # blobs of a view that are contrasted

Color = Float32[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Pool:
    """Images to learn from, in groups (of one look, one laboratory), each with the share of the samples it gives.

    `textures` hold no blobs.
    """

    groups: tuple[tuple[CrowdImage, ...], ...]
    shares: tuple[float, ...]
    textures: tuple[UInt8[np.ndarray, "h w *c"], ...] = ()


@dataclass(frozen=True)
class Sample:
    """One view of a crowd, normalized; `crowd` are the parts of blobs that it shows, judged ones only."""

    image: Color
    heat: Float32[np.ndarray, "h w"]
    radius: Float32[np.ndarray, "h w"]
    weight: Float32[np.ndarray, "h w"]
    crowd: Crowd


class Batch(NamedTuple):
    """Images (B, 3, H, W) and the maps of `loss.Truth`."""

    image: torch.Tensor
    heat: torch.Tensor
    radius: torch.Tensor
    weight: torch.Tensor


class PairBatch(NamedTuple):
    """Two views of each crowd, first all the first ones; and the blobs that both show.

    yx, other_yx (N, 2) and radius, other_radius (N,) in pixels of each view; pair (N,) the index of each blob's pair of views.
    """

    image: torch.Tensor
    heat: torch.Tensor
    radius: torch.Tensor
    weight: torch.Tensor
    yx: torch.Tensor
    blob_radius: torch.Tensor
    other_yx: torch.Tensor
    other_radius: torch.Tensor
    pair: torch.Tensor


def make_sample(pool: Pool, rng: np.random.Generator, size: int) -> Sample:
    """Draw one view of size × size pixels."""
    pixels, crowd, drawn = _source(pool, rng, size)
    view = _draw_view(pixels, crowd, rng, size, drawn=drawn)
    return _look(pixels, crowd, view, rng, size)[0]


def make_pair(pool: Pool, rng: np.random.Generator, size: int) -> tuple[Sample, Sample, np.ndarray]:
    """Draw two views of one crowd that differ in light, angle and scale, and the indices (n, 2) of the blobs in both."""
    pixels, crowd, drawn = _source(pool, rng, size)
    view = _draw_view(pixels, crowd, rng, size, drawn=drawn)
    cy, cx = image_center_yx((size, size))
    moved = augment.random_affine(rng, (size, size), 0.05 * size, 12.0, 0.05)
    zoomed = shift(cy, cx) @ similarity(float(np.exp(rng.uniform(-0.2, 0.2))), 0.0) @ shift(-cy, -cx)
    (first, own), (second, other) = (_look(pixels, crowd, v, rng, size) for v in (view, view @ moved @ zoomed))
    common, at_first, at_second = np.intersect1d(own, other, return_indices=True)
    chosen = rng.permutation(len(common))[:EACH_VIEW]
    return first, second, np.stack([at_first[chosen], at_second[chosen]], axis=1)


def _source(pool: Pool, rng: np.random.Generator, size: int) -> tuple[UInt8[np.ndarray, "h w *c"], Crowd, bool]:
    if rng.random() < EMPTY:
        return _without_blobs(pool, rng, size), NOTHING, False
    if not pool.groups or rng.random() < DRAWN:
        typical = float(np.exp(rng.uniform(np.log(1.8), np.log(24))))
        spread = float(np.exp(rng.uniform(0, 0.8)))
        nearest = float(rng.uniform(0.55, 1.1))
        share = float(np.exp(rng.uniform(np.log(0.02), np.log(0.7))))
        radii = (max(1.5, typical / spread), max(1.6, typical * spread))
        image, crowd = draw_crowd(rng, (size + 48, size + 48), radii, (nearest, nearest + float(rng.uniform(0, 0.8))), share)
        return _in_bytes(image, rng), crowd.shown((size + 48, size + 48)), True
    chosen = _choose(pool, rng)
    return chosen.pixels, chosen.crowd, False


def _choose(pool: Pool, rng: np.random.Generator) -> CrowdImage:
    group = pool.groups[int(rng.choice(len(pool.groups), p=pool.shares))]
    return group[int(rng.integers(len(group)))]


def _in_bytes(image: Float32[np.ndarray, "h w"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w *c"]:
    """Spread the tones of a drawn image, and color some."""
    drawn = in_bytes(image)
    return (paint(drawn / np.float32(255), rng) * 255).astype(np.uint8) if rng.random() < COLORED else drawn


def _without_blobs(pool: Pool, rng: np.random.Generator, size: int) -> UInt8[np.ndarray, "h w *c"]:
    """Draw an image that holds no blob: stripes or lines, a ground, one of the pool's textures, or background of its crowds."""
    kind = rng.choice(["pattern", "texture", "background", "ground"], p=[0.3, 0.25, 0.25, 0.2])
    if kind == "pattern":
        return _in_bytes(draw_pattern(rng, (size + 48, size + 48)), rng)
    if kind == "texture" and pool.textures:
        return pool.textures[int(rng.integers(len(pool.textures)))]
    if kind == "background" and pool.groups and (window := background(_choose(pool, rng), rng)) is not None:
        return window
    return _in_bytes(draw_crowd(rng, (size + 48, size + 48), (4.0, 8.0), (1.0, 1.0), 0.0)[0], rng)


def draw_pattern(rng: np.random.Generator, size: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """Draw stripes, bent ones too, or straight lines, on an uneven ground with noise: bright and dark, but no blobs."""
    if rng.random() < 0.6:
        y, x = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
        angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(4), np.log(80)))
        bend = rng.uniform(0, 2) * (rng.random() < 0.5) * augment.smooth_field(rng, size, int(rng.integers(2, 5)))
        wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period + bend)
        hard = float(rng.uniform(0.2, 6))  # from a sine to a square wave
        pattern = np.tanh(hard * (wave - rng.uniform(-0.8, 0.8))).astype(np.float32)
    else:
        pattern = np.zeros(size, np.float32)
        for _ in range(int(rng.integers(1, 14))):
            start, end = (rng.uniform(-0.5, 1.5, (2, 2)) * size[::-1]).round().astype(int).tolist()
            width, tone = int(rng.integers(1, 12)), float(rng.uniform(-1, 1))
            cv2.line(pattern, start, end, color=(tone,), thickness=width, lineType=cv2.LINE_AA)
        pattern = augment.blur(pattern, float(rng.uniform(0, 2)))
    ground = float(rng.uniform(0, 0.4)) * augment.smooth_field(rng, size, int(rng.integers(2, 6)))
    contrast, noise = float(rng.uniform(0.1, 1)), float(rng.uniform(0, 0.25)) * float(rng.random())
    return augment.add_noise(contrast * pattern + ground, rng, noise)


def is_background(crowd: Crowd, first: np.ndarray, end: np.ndarray) -> bool:
    """Say whether all blobs stay away, by `APART_PX`, from the pixels from `first` to before `end` (row, column)."""
    apart = np.linalg.norm(crowd.yx - np.clip(crowd.yx, first, end - 1), axis=1)
    longest = 2 * np.sqrt(np.linalg.eigvalsh(crowd.moments)[:, -1])  # half of an ellipse's length
    return bool((apart > longest + APART_PX).all())


def background(image: CrowdImage, rng: np.random.Generator) -> UInt8[np.ndarray, "i j *c"] | None:
    """Return a window that all blobs of the image stay away from; None if none was met with."""
    full = np.array(image.pixels.shape[:2])
    for _ in range(TRIES):
        side = np.minimum(full, round(float(np.exp(rng.uniform(*np.log(BACKGROUND_PX))))))
        corner = rng.integers(0, full - side + 1)
        if is_background(image.crowd, corner, corner + side):
            return image.pixels[corner[0] : corner[0] + side[0], corner[1] : corner[1] + side[1]]
    return None


def _draw_view(
    pixels: UInt8[np.ndarray, "h w *c"], crowd: Crowd, rng: np.random.Generator, size: int, *, drawn: bool
) -> Matrix:
    """Draw scale, angle, mirror and place: the median radius comes to a drawn size, as far as that enlarges not too much."""
    full = (pixels.shape[0], pixels.shape[1])
    scale = float(np.exp(rng.uniform(-0.15, 0.15)))  # pixels of the image per pixel of the sample
    if len(crowd) and not drawn:
        wanted = float(np.exp(rng.uniform(*np.log(TYPICAL_PX))))
        if rng.random() < 0.08:
            wanted = float(rng.uniform(40, 110))
        scale = max(float(np.median(crowd.radius)) / wanted, 0.4)
    elif not drawn:
        scale = float(np.exp(rng.uniform(-0.7, 0.7)))
    scale = min(scale, 1.15 * max(full) / size) if scale > 1 else scale
    near = crowd.yx[int(rng.integers(len(crowd)))] if len(crowd) and rng.random() < 0.8 else rng.uniform(0, 1, 2) * full
    half = scale * size / 2
    center = [
        float(np.clip(n + rng.uniform(-0.7, 0.7) * half, half, s - half)) if s > 2 * half else s / 2
        for n, s in zip(near, full, strict=True)
    ]
    cy, cx = image_center_yx((size, size))
    mirror = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    angle = float(rng.choice(augment.TURNS_DEG) + rng.uniform(-45, 45) * (rng.random() < 0.5))
    stretched = augment.random_affine(rng, (size, size), 0.0, 0.0, STRETCHED * (rng.random() < 0.5))
    squeezed = _squeeze(rng) if rng.random() < SQUEEZED else np.eye(3)
    return shift(*center) @ similarity(scale, angle) @ mirror @ squeezed @ shift(-cy, -cx) @ stretched


def _squeeze(rng: np.random.Generator) -> Matrix:
    """Draw a transform about the origin that stretches one direction and narrows the other, and keeps areas."""
    half = float(np.exp(rng.uniform(0, np.log(NARROWEST)) / 2))
    turn = similarity(1.0, float(rng.uniform(0, 180)))
    return turn @ np.diag([half, 1 / half, 1.0]) @ np.linalg.inv(turn)


def _look(
    pixels: UInt8[np.ndarray, "h w *c"], crowd: Crowd, view: Matrix, rng: np.random.Generator, size: int
) -> tuple[Sample, np.ndarray]:
    """Photograph a view; also return which blobs of the crowd are those of the sample."""
    seen = crowd.moved(np.linalg.inv(view)).cut((size, size))
    shown = np.flatnonzero(seen.radius)
    heat, weight, radius = targets(seen.only(shown), (size, size))
    image = photograph(_resample(pixels, view, (size, size)), rng)
    judged = np.flatnonzero((seen.radius >= RADII_PX[0]) & (seen.radius <= RADII_PX[1]))
    return Sample(image, heat, radius, weight, seen.only(judged)), judged


def targets(
    crowd: Crowd, size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Return Y, w and the radii of a crowd: blobs too large are background, those of a size in between have no weight.

    Small blobs weigh more per pixel, so that each counts, whatever its size.
    """
    r = crowd.radius
    found = crowd.only((r >= RADII_PX[0]) & (r <= RADII_PX[1]))
    between = crowd.only((r < RADII_PX[0]) | ((r > RADII_PX[1]) & (r < TOO_LARGE_PX)))
    heat, radius = heat_map(found, size, WIDTH, LEAST_PX)
    weight = np.clip(8 / np.maximum(radius, 2.0), 0.4, 3.0).astype(np.float32)
    weight[radius == 0] = 1.0
    if len(between):
        unsure, _ = heat_map(between, size, WIDTH, LEAST_PX)
        weight[(unsure > 0.05) & (unsure > heat)] = 0.0
    return heat, weight, radius


def _resample(pixels: UInt8[np.ndarray, "h w *c"], view: Matrix, size: tuple[int, int]) -> Float32[np.ndarray, "i j *c"]:
    """Cut a view out of an image, reduced by area first where it shrinks; 0 to 1."""
    scale = float(np.sqrt(abs(np.linalg.det(view[:2, :2]))))
    full = (pixels.shape[0], pixels.shape[1])
    if scale > 1.2:
        small = (max(1, round(full[0] / scale)), max(1, round(full[1] / scale)))
        pixels = cv2.resize(pixels, small[::-1], interpolation=cv2.INTER_AREA)
        view = resize_transform(full, small) @ view
    how = (cv2.INTER_LINEAR if scale > 0.8 else cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP
    out = cv2.warpAffine(pixels, view[:2], size[::-1], flags=how, borderMode=cv2.BORDER_CONSTANT, borderValue=_rim(pixels))
    return out.astype(np.float32) / 255


def _rim(pixels: UInt8[np.ndarray, "h w *c"]) -> tuple[float, ...]:
    """Return the median color, which fills what lies outside an image."""
    values = np.median(pixels[::4, ::4].reshape(-1, pixels.shape[2] if pixels.ndim == 3 else 1), axis=0)
    return tuple(float(v) for v in values)


def photograph(image: Float32[np.ndarray, "h w *c"], rng: np.random.Generator) -> Color:
    """Normalize nearly as `detector` does, then draw another exposure: tones, light, blur, noise, negative, color."""
    strength = float(rng.uniform(0, 1))
    if image.ndim == 3:
        image = image @ rng.dirichlet((1, 1, 1)).astype(np.float32) if rng.random() < 0.2 else restain(image, rng)
    channels = [image] if image.ndim == 2 else [image[..., i] for i in range(3)]
    gray = image if image.ndim == 2 else image.mean(axis=2)
    low, high = (float(v) for v in np.quantile(gray[::2, ::2], [0.002, 0.998]))
    span = max(high - low, 0.02)
    gamma = float(np.exp(rng.normal(0, 0.45)))
    sigma, noise = float(rng.uniform(0, 1.2)) * strength * (rng.random() < 0.6), float(rng.uniform(0, 0.09)) * strength
    light = augment.add_light_gradient(np.ones(image.shape[:2], np.float32), rng, 0.5 * strength)
    negative = rng.random() < (0.25 if image.ndim == 2 else 0.08)
    out = []
    for channel in channels:
        x = augment.change_gamma((channel - np.float32(low)) / np.float32(span), gamma) * light
        x = augment.blur(x * np.float32(1 + rng.normal(0, 0.08) * (len(channels) > 1)), sigma)
        out.append(augment.invert(x) if negative else x)
    shared = rng.standard_normal(image.shape[:2], dtype=np.float32) * np.float32(noise)
    gain, offset = np.float32(np.exp(rng.normal(0, 0.12))), np.float32(rng.normal(0, 0.05))
    seen = np.stack([x * gain + offset + shared for x in (out if len(out) == 3 else out * 3)], axis=2)
    return np.clip(seen, -0.5, 2.0)


def restain(image: Float32[np.ndarray, "h w 3"], rng: np.random.Generator) -> Color:
    """Draw other stains: the channels' optical densities are mixed a little, and two channels may change places."""
    density = -np.log(np.clip(image, 1 / 255, 1))
    mixed = density @ (np.eye(3) + rng.normal(0, 0.12, (3, 3))).astype(np.float32)
    order = rng.permutation(3) if rng.random() < 0.15 else np.arange(3)
    return np.exp(-np.clip(mixed * np.exp(rng.normal(0, 0.2)), 0, 6))[..., order].astype(np.float32)


def paint(gray: Float32[np.ndarray, "h w"], rng: np.random.Generator) -> Color:
    """Color a drawn crowd: from the color of the ground, mostly a bright one, to that of the blobs."""
    ground, blob = rng.uniform(0.55, 1.0, 3), rng.uniform(0.0, 0.75, 3)
    if rng.random() < 0.25:
        ground, blob = blob, ground
    return (ground + gray[..., None] * (blob - ground)).astype(np.float32)


def collate(samples: list[Sample]) -> Batch:
    """Stack samples into tensors."""
    image = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2)
    maps = (torch.from_numpy(np.stack(m))[:, None] for m in zip(*((s.heat, s.radius, s.weight) for s in samples), strict=True))
    return Batch(image, *maps)


def collate_pairs(pairs: list[tuple[Sample, Sample, np.ndarray]]) -> PairBatch:
    """Stack pairs of views into tensors, the first views before the second."""
    batch = collate([pair[0] for pair in pairs] + [pair[1] for pair in pairs])
    index = np.concatenate([np.full(len(shared), i) for i, (_, _, shared) in enumerate(pairs)])
    yx, radius = _of_crowds([first.crowd.only(shared[:, 0]) for first, _, shared in pairs])
    other_yx, other_radius = _of_crowds([second.crowd.only(shared[:, 1]) for _, second, shared in pairs])
    return PairBatch(*batch, yx, radius, other_yx, other_radius, torch.from_numpy(index))


def _of_crowds(crowds: list[Crowd]) -> tuple[torch.Tensor, torch.Tensor]:
    yx, radius = np.concatenate([c.yx for c in crowds]), np.concatenate([c.radius for c in crowds])
    return torch.from_numpy(yx.astype(np.float32)), torch.from_numpy(radius.astype(np.float32))


def batch_loss(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the loss of the first stage on a batch."""
    output = network(batch.image.contiguous(memory_format=torch.channels_last))
    return loss(output, Truth(batch.heat, batch.radius, batch.weight))


def pair_loss(network: nn.Module, batch: PairBatch) -> torch.Tensor:
    """Return the loss of the second stage: that of the first on both views, and the contrast of their blobs (eq. 12)."""
    assert isinstance(network, CADSN)
    output = network(batch.image.contiguous(memory_format=torch.channels_last))
    found = loss(output, Truth(batch.heat, batch.radius, batch.weight))
    if not len(batch.pair):
        return found
    pairs = len(batch.image) // 2
    e = network.embeddings(output.fused, batch.yx, batch.blob_radius, batch.pair)
    positive = network.embeddings(output.fused, batch.other_yx, batch.other_radius, batch.pair + pairs)
    return found + CONTRAST * contrast_loss(e, positive, neighbors(batch.yx, batch.blob_radius, batch.pair))
