"""Hold, draw and move crowds of blobs: each a center and a shape.

Glossary
    Σ second moments of a blob's area about its center, in px², rows and columns y, x: r²/4 · I for a disk of radius r.
    radius: that of a disk of the same area, 2·det(Σ)^(1/4). ρ distance from a center in units of the outline's radius there.
    spacing: distance of two centers over the sum of their radii.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Integer, UInt8

from fiducial.augment import add_noise, blur, smooth_field
from fiducial.coords import Matrix, apply_transform, corners_yx

Gray = Float32[np.ndarray, "_ _"]

MOST = 400  # blobs of a drawn crowd

# Points spread evenly over the unit disk (Vogel's spiral).
_TURN = np.pi * (3 - math.sqrt(5)) * np.arange(400)
_IN_DISK = np.sqrt(np.arange(1, 800, 2) / 800)[:, None] * np.stack([np.sin(_TURN), np.cos(_TURN)], axis=1)


@dataclass(frozen=True)
class Crowd:
    """Blobs of an image: centers in pixels, and Σ of each."""

    yx: Float64[np.ndarray, "n 2"]
    moments: Float64[np.ndarray, "n 2 2"]

    def __len__(self) -> int:
        """Return the number of blobs."""
        return len(self.yx)

    @property
    def radius(self) -> Float64[np.ndarray, " n"]:
        """Radius of the disk of each blob's area, in pixels."""
        return 2 * np.maximum(np.linalg.det(self.moments), 0) ** 0.25

    def moved(self, matrix: Matrix) -> "Crowd":
        """Return the crowd as an affine transform of (x, y, 1) moves it."""
        linear = matrix[1::-1, 1::-1]
        return Crowd(apply_transform(matrix, self.yx), linear @ self.moments @ linear.T)

    def only(self, which: np.ndarray) -> "Crowd":
        """Return those blobs."""
        return Crowd(self.yx[which], self.moments[which])

    def cut(self, size: tuple[int, int]) -> "Crowd":
        """Return what an image of that size shows of each blob, taken for an ellipse; Σ is 0 where that is nothing."""
        reach, (first, _, last, _) = 2 * np.sqrt(np.diagonal(self.moments, axis1=1, axis2=2)), corners_yx(size)
        across = np.flatnonzero(((self.yx - reach < first) | (self.yx + reach > last)).any(axis=1))
        values, vectors = np.linalg.eigh(self.moments[across])
        half_axes = 2 * np.sqrt(np.maximum(values, 0))[:, None] * vectors  # (N, 2, 2), as columns
        places = self.yx[across, None] + _IN_DISK @ np.swapaxes(half_axes, 1, 2)  # (N, K, 2)
        shown = ((places >= first) & (places <= last)).all(axis=2)
        weight = shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)
        center = np.einsum("nk,nki->ni", weight, places)
        off = places - center[:, None]
        own = self.moments[across] * shown.any(axis=1)[:, None, None] / len(_IN_DISK)  # a place stands for an area
        part = Crowd(center, np.einsum("nk,nki,nkj->nij", weight, off, off) + own)
        area = shown.mean(axis=1) * self.radius[across] ** 2 / np.maximum(part.radius**2, 1e-9)
        out = replace(self, yx=self.yx.copy(), moments=self.moments.copy())
        out.yx[across], out.moments[across] = center, part.moments * area[:, None, None]
        return out

    def shown(self, size: tuple[int, int], smallest_px: int = 4) -> "Crowd":
        """Return the parts that lie in an image of that size, as its labels would, without those under `smallest_px` pixels."""
        parts = self.cut(size)
        return parts.only(np.pi * parts.radius**2 >= smallest_px)


def disks(yx: Float64[np.ndarray, "n 2"], radius: Float64[np.ndarray, " n"]) -> Crowd:
    """Return round blobs."""
    return Crowd(yx, (radius**2 / 4)[:, None, None] * np.eye(2))


NOTHING = disks(np.zeros((0, 2)), np.zeros(0))  # the crowd of an image without blobs


def crowd_of_labels(labels: Integer[np.ndarray, "h w"], smallest_px: int = 4) -> Crowd:
    """Measure the regions of a label image (background is 0 or less), without those under `smallest_px` pixels.

    Σ is scaled to the region's area, so that holes and dents do not enlarge the radius.
    """
    y, x = (part.astype(np.float64) for part in np.nonzero(labels > 0))
    number = np.unique(labels[labels > 0], return_inverse=True)[1]  # numbers may be as large as they like
    area = np.bincount(number).astype(np.float64)
    mean = [np.bincount(number, part) / area for part in (y, x)]
    dy, dx = y - mean[0][number], x - mean[1][number]
    yy, yx, xx = (np.bincount(number, product) / area for product in (dy * dy, dy * dx, dx * dx))
    moments = np.stack([yy, yx, yx, xx], axis=1).reshape(-1, 2, 2) + np.eye(2) / 12  # a pixel is a square, not a point
    crowd = Crowd(np.stack(mean, axis=1).reshape(-1, 2), moments)
    scale = area / np.pi / crowd.radius**2
    return replace(crowd, moments=moments * scale[:, None, None]).only(area >= smallest_px)


def heat_map(crowd: Crowd, size: tuple[int, int], width: float, least: float) -> tuple[Gray, Gray]:
    """Return the highest of the blobs' Gaussians at each pixel, and the radius of the blob it belongs to (0 where none).

    A Gaussian has its blob's shape, 1 at the center and exp(-1/2) where ρ = `width`, but no axis below `least` px.
    """
    heat, radius = np.zeros(size, np.float32), np.zeros(size, np.float32)
    values, vectors = np.linalg.eigh(crowd.moments)
    spread = np.maximum(4 * values * width**2, least**2)  # variance along each axis: (width · semi-axis)²
    inverse = vectors @ (np.swapaxes(vectors, 1, 2) / spread[..., None])
    reach = 3.2 * np.sqrt(spread.max(axis=1, initial=0.0)) + 1
    for (y, x), form, far, r in zip(crowd.yx, inverse, reach, crowd.radius, strict=True):
        y0, x0 = max(0, int(y - far)), max(0, int(x - far))
        y1, x1 = min(size[0], int(y + far) + 2), min(size[1], int(x + far) + 2)
        if y1 <= y0 or x1 <= x0:
            continue
        dy, dx = np.arange(y0, y1)[:, None] - y, np.arange(x0, x1)[None] - x
        own = np.exp(-0.5 * (form[0, 0] * dy * dy + 2 * form[0, 1] * dy * dx + form[1, 1] * dx * dx)).astype(np.float32)
        higher = own > heat[y0:y1, x0:x1]
        heat[y0:y1, x0:x1][higher] = own[higher]
        radius[y0:y1, x0:x1][higher & (own > 0.005)] = r
    return heat, radius


@dataclass(frozen=True)
class Style:
    """How blobs of a drawn crowd look.

    Attributes:
        kind: "disk", "dome", "gauss" (a point source) or "rim" (bright edge); over: opaque, else light adds up.
        contrast: least and largest brightness over the background. softness: of the outline, in parts of the radius.
        texture, ragged: strength of patterns inside, and of the outline's waves. stretch: log of the axes' ratio, deviation.
    """

    kind: str
    over: bool
    contrast: tuple[float, float]
    softness: float
    texture: float
    ragged: float
    stretch: float


def draw_style(rng: np.random.Generator) -> Style:
    """Draw a style: cells, particles, parts, stars."""
    kind = str(rng.choice(["disk", "dome", "gauss", "rim"], p=[0.35, 0.25, 0.25, 0.15]))
    low = rng.uniform(0.15, 0.7)
    return Style(
        kind=kind,
        over=kind != "gauss" and rng.random() < 0.6,
        contrast=(low, min(1.0, low + rng.uniform(0.05, 0.6))),
        softness=rng.uniform(0.03, 0.25),
        texture=rng.uniform(0, 0.35) * (rng.random() < 0.6),
        ragged=rng.uniform(0, 0.12) * (rng.random() < 0.6),
        stretch=rng.uniform(0, 0.35) * (rng.random() < 0.7) * (kind != "gauss"),
    )


def scatter(
    rng: np.random.Generator, size: tuple[int, int], radius: tuple[float, float], spacing: tuple[float, float], share: float
) -> Crowd:
    """Place blobs of radii between two bounds (log-uniform) until they would cover `share` of the image, or no room is left.

    Most stand beside another one, at a spacing drawn from `spacing`; none is nearer to any than spacing[0].
    """
    yx, r, n = np.zeros((MOST, 2)), np.zeros(MOST), 0
    covered, tries, goal = 0.0, 0, share * size[0] * size[1]
    draws = rng.random((8 * MOST, 5))
    for kind, u, v, turn, gap in draws:
        if covered >= goal or n == MOST or tries > 60 + 4 * n:
            break
        new_r = radius[0] * (radius[1] / radius[0]) ** u
        if n and kind < 0.75:
            i, angle = int(v * n), 2 * np.pi * turn
            reach = (spacing[0] + gap * (spacing[1] - spacing[0])) * (r[i] + new_r)
            y, x = yx[i, 0] + reach * math.sin(angle), yx[i, 1] + reach * math.cos(angle)
        else:
            y, x = v * size[0], turn * size[1]
        outside = y < -new_r or x < -new_r or y > size[0] + new_r or x > size[1] + new_r
        least = 0.999 * spacing[0] * (r[:n] + new_r)
        if outside or (np.square(yx[:n] - (y, x)).sum(axis=1) < least * least).any():
            tries += 1
            continue
        yx[n], r[n] = (y, x), new_r
        n, covered = n + 1, covered + math.pi * new_r**2
    return disks(yx[:n], r[:n])


def stretch(crowd: Crowd, rng: np.random.Generator, deviation: float) -> Crowd:
    """Make blobs elliptical, in random directions, of the same area."""
    ratio = np.exp(rng.normal(0, deviation, len(crowd)))
    angle = rng.uniform(0, np.pi, len(crowd))
    c, s = np.cos(angle), np.sin(angle)
    turn = np.stack([c, -s, s, c], axis=1).reshape(-1, 2, 2)
    axes = np.stack([ratio, 1 / ratio], axis=1)[:, :, None] * np.eye(2)
    return replace(crowd, moments=(crowd.radius**2 / 4)[:, None, None] * turn @ axes @ np.swapaxes(turn, 1, 2))


def render_crowd(crowd: Crowd, size: tuple[int, int], style: Style, rng: np.random.Generator) -> Gray:
    """Draw a crowd bright on dark, intensities from 0 to about 1, without background or noise."""
    image = np.zeros(size, np.float32)
    pattern = (
        smooth_field(rng, size, max(4, int(max(size) / max(2.0, float(np.median(crowd.radius)) / 2)))) if len(crowd) else image
    )
    inverse = np.linalg.inv(crowd.moments) / 4  # ρ² = dᵀ Σ⁻¹ d / 4
    for (y, x), form, r in zip(crowd.yx, inverse, crowd.radius, strict=True):
        far = (2.4 if style.kind == "gauss" else 1.3) * r * math.exp(1.5 * style.stretch) + 3
        y0, x0 = max(0, int(y - far)), max(0, int(x - far))
        y1, x1 = min(size[0], int(y + far) + 2), min(size[1], int(x + far) + 2)
        if y1 <= y0 or x1 <= x0:
            continue
        dy, dx = np.arange(y0, y1)[:, None] - y, np.arange(x0, x1)[None] - x
        rho = np.sqrt(np.maximum(form[0, 0] * dy * dy + 2 * form[0, 1] * dy * dx + form[1, 1] * dx * dx, 0))
        if style.ragged:
            phase, angle = rng.uniform(0, 2 * np.pi, 2), np.arctan2(dy, dx)
            rho = rho / (1 + style.ragged * (np.cos(2 * angle + phase[0]) + np.cos(3 * angle + phase[1])))
        value = _profile(rho, style, max(style.softness, 0.5 / r))
        value *= rng.uniform(*style.contrast) * (1 + style.texture * pattern[y0:y1, x0:x1])
        seen = image[y0:y1, x0:x1]
        if style.over:
            opaque = 1 / (1 + np.exp(np.clip((rho - 1) * 4 / max(style.softness, 0.5 / r), -40, 40)))
            seen *= 1 - opaque
        seen += value
    return image


def _profile(rho: np.ndarray, style: Style, softness: float) -> Gray:
    if style.kind == "gauss":
        return np.exp(-(rho**2)).astype(np.float32)  # LoG's rule: radius = √2 σ
    inside = 1 / (1 + np.exp(np.clip((rho - 1) * 4 / softness, -40, 40)))
    if style.kind == "dome":
        inside = inside * (0.35 + 0.65 * np.sqrt(np.clip(1 - rho**2, 0, 1)))
    elif style.kind == "rim":
        inside = inside * (0.45 + 0.55 * np.exp(-(((rho - 0.88) / 0.14) ** 2)))
    return inside.astype(np.float32)


def in_bytes(image: Gray) -> UInt8[np.ndarray, "h w"]:
    """Return an image with its tones spread over 8 bits, from its least to its largest."""
    return np.clip((image - image.min()) / max(float(np.ptp(image)), 1e-6) * 255, 0, 255).astype(np.uint8)


def draw_crowd(
    rng: np.random.Generator, size: tuple[int, int], radius: tuple[float, float], spacing: tuple[float, float], share: float
) -> tuple[Gray, Crowd]:
    """Draw an image of a crowd with background, blur and noise, bright on dark, and its truth.

    Blobs too faint to be told from the noise are not part of the truth.
    """
    style = draw_style(rng)
    crowd = stretch(scatter(rng, size, radius, spacing, share), rng, style.stretch)
    bright = blur(render_crowd(crowd, size, style, rng), float(rng.uniform(0, 0.12)) * radius[0])
    uneven = float(rng.uniform(0, 0.25)) * (rng.random() < 0.6)
    background = uneven * smooth_field(rng, size, int(rng.integers(2, 6)))
    if rng.random() < 0.3:
        background = background + np.float32(rng.uniform(0, 0.06)) * smooth_field(rng, size, int(rng.integers(30, 90)))
    noise = float(rng.uniform(0, 0.12)) * float(rng.random())
    image = add_noise((bright + background).astype(np.float32), rng, noise)
    reach = style.contrast[1] if style.kind == "gauss" else style.contrast[0]
    return image, crowd if reach > 2 * noise else crowd.only(np.zeros(len(crowd), dtype=bool))
