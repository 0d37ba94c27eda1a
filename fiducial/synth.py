"""Draw images whose truth is known because we drew them.

Boards are binary images (255 copper, 0 laminate) of traces, pads and pours; damage is one of DeepPCB's six kinds.
Stains are defects of any picture: blots, scratches, displaced patches, smears. All randomness comes from `rng`.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from fiducial.augment import smooth_field

Binary = UInt8[np.ndarray, "_ _"]
Gray = Float32[np.ndarray, "_ _"]

OPEN, SHORT, MOUSEBITE, SPUR, COPPER, PINHOLE = range(1, 7)


def draw_board(rng: np.random.Generator, size: tuple[int, int]) -> Binary:
    """Draw the copper of a bare board: traces in steps of 45°, pads with holes, and pours."""
    h, w = size
    board = np.zeros(size, np.uint8)
    pitch = int(rng.integers(22, 40))
    for _ in range(int(rng.integers(0, 3))):
        y, x = int(rng.integers(0, h)), int(rng.integers(0, w))
        cv2.rectangle(board, (x, y), (x + int(rng.integers(40, 160)), y + int(rng.integers(40, 160))), 255, -1)
    for _ in range(h * w // (pitch * pitch * 6) + 1):
        _draw_trace(board, rng, pitch)
    for _ in range(h * w // (pitch * pitch * 12) + 1):
        center = int(rng.integers(0, w) // pitch * pitch), int(rng.integers(0, h) // pitch * pitch)
        radius = int(rng.integers(pitch // 4, pitch // 2))
        cv2.circle(board, center, radius + 4, 0, -1)
        cv2.circle(board, center, radius, 255, -1)
        if rng.random() < 0.5:
            cv2.circle(board, center, max(2, radius // 3), 0, -1)
    return board


def _draw_trace(board: Binary, rng: np.random.Generator, pitch: int) -> None:
    h, w = board.shape
    x, y = int(rng.integers(0, w) // pitch * pitch), int(rng.integers(0, h) // pitch * pitch)
    width, heading = int(rng.integers(5, max(6, pitch // 2))), int(rng.integers(0, 8))
    for _ in range(int(rng.integers(2, 6))):
        length = int(rng.integers(1, 6)) * pitch
        dx, dy = (round(np.cos(heading * np.pi / 4)), round(np.sin(heading * np.pi / 4)))
        end = x + dx * length, y + dy * length
        cv2.line(board, (x, y), end, 255, width)
        (x, y), heading = end, heading + int(rng.choice([-1, 1]))


def damage_board(board: Binary, rng: np.random.Generator, count: int) -> tuple[Binary, Binary]:
    """Return a copy of a board with up to `count` defects, and its mask of classes (0 where nothing changed)."""
    sample, mask = board.copy(), np.zeros_like(board)
    inner = cv2.distanceTransform(board, cv2.DIST_L2, 5)
    outer = cv2.distanceTransform(255 - board, cv2.DIST_L2, 5)
    for kind in rng.integers(OPEN, PINHOLE + 1, count).tolist():
        changed = _DAMAGE[kind](board, inner, outer, rng)
        if changed is None:
            continue
        shape, copper = changed
        near = cv2.dilate(shape, np.ones((9, 9), np.uint8))
        if (mask[near > 0] > 0).any():
            continue
        new = (shape > 0) & (sample != copper)
        if new.sum() >= 12:
            sample[new], mask[new] = copper, kind
    return sample, mask


Damage = Callable[[Binary, np.ndarray, np.ndarray, np.random.Generator], tuple[Binary, int] | None]


def _blob(size: tuple[int, int], center_yx: tuple[float, float], radius: float, rng: np.random.Generator) -> Binary:
    """Draw a star-shaped patch whose radius varies by about a quarter around its outline."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    phase, weight = rng.uniform(0, 2 * np.pi, 3), rng.normal(0, 0.14, 3)
    wave = 1 + sum(weight[i] * np.cos((i + 1) * angle + phase[i]) for i in range(3))
    outline = np.stack([center_yx[1] + radius * wave * np.cos(angle), center_yx[0] + radius * wave * np.sin(angle)], axis=1)
    out = np.zeros(size, np.uint8)
    cv2.fillPoly(out, [np.round(outline * 16).astype(np.int32)], 255, shift=4)
    return out


def _pick(where: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    places = np.flatnonzero(where)
    if not len(places):
        return None
    y, x = divmod(int(rng.choice(places)), where.shape[1])
    return y, x


def _open(board: Binary, inner: np.ndarray, outer: np.ndarray, rng: np.random.Generator) -> tuple[Binary, int] | None:
    ridge = (inner > 2) & (inner < 9) & (inner >= cv2.dilate(inner, np.ones((3, 3), np.uint8)) - 0.01)
    place = _pick(ridge, rng)
    return None if place is None else (_blob(board.shape, place, float(inner[place]) * 1.5 + 3, rng), 0)


def _short(board: Binary, inner: np.ndarray, outer: np.ndarray, rng: np.random.Generator) -> tuple[Binary, int] | None:
    ridge = (outer > 2) & (outer < 11) & (outer >= cv2.dilate(outer, np.ones((3, 3), np.uint8)) - 0.01)
    place = _pick(ridge, rng)
    return None if place is None else (_blob(board.shape, place, float(outer[place]) * 1.4 + 2, rng), 255)


def _mousebite(board: Binary, inner: np.ndarray, outer: np.ndarray, rng: np.random.Generator) -> tuple[Binary, int] | None:
    place = _pick((inner > 0.5) & (inner < 2), rng)
    return None if place is None else (_blob(board.shape, place, rng.uniform(3.5, 6.5), rng), 0)


def _spur(board: Binary, inner: np.ndarray, outer: np.ndarray, rng: np.random.Generator) -> tuple[Binary, int] | None:
    place = _pick((outer > 0.5) & (outer < 2), rng)
    return None if place is None else (_blob(board.shape, place, rng.uniform(3.5, 6.5), rng), 255)


def _copper(board: Binary, inner: np.ndarray, outer: np.ndarray, rng: np.random.Generator) -> tuple[Binary, int] | None:
    place = _pick(outer > 10, rng)
    return None if place is None else (_blob(board.shape, place, rng.uniform(3.5, min(14, outer[place] - 4)), rng), 255)


def _pinhole(board: Binary, inner: np.ndarray, outer: np.ndarray, rng: np.random.Generator) -> tuple[Binary, int] | None:
    place = _pick(inner > 7, rng)
    return None if place is None else (_blob(board.shape, place, rng.uniform(2.5, min(7, inner[place] - 3)), rng), 0)


_DAMAGE: dict[int, Damage] = {
    OPEN: _open,
    SHORT: _short,
    MOUSEBITE: _mousebite,
    SPUR: _spur,
    COPPER: _copper,
    PINHOLE: _pinhole,
}


def stain(image: Gray, rng: np.random.Generator, count: int) -> tuple[Gray, UInt8[np.ndarray, "h w"]]:
    """Return a copy of a picture (intensities near [0, 1]) with `count` stains, and a mask of 0 and 1.

    A stain is a blot lighter or darker than its place, a scratch, a patch taken from elsewhere, or a smear. The mask marks
    what changed by more than 0.08; a stain that changes less anywhere is not marked.
    """
    out = image.copy()
    for _ in range(count):
        shape = _scratch(image.shape, rng) if rng.random() < 0.35 else _blot(image.shape, rng)
        soft = cv2.GaussianBlur(shape.astype(np.float32) / 255, (0, 0), rng.uniform(0.4, 1.4))
        out += soft * (_paint(out, rng) - out)
    changed = cv2.GaussianBlur(np.abs(out - image), (0, 0), 0.8) > 0.08
    mask = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    _, regions, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    large = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= 12)
    return out, (np.isin(regions, large[large > 0])).astype(np.uint8)


def _paint(image: Gray, rng: np.random.Generator) -> Gray:
    kind = rng.random()
    if kind < 0.6:
        sign = rng.choice([-1.0, 1.0])
        return image * np.float32(rng.uniform(0.2, 1)) + np.float32(sign * rng.uniform(0.2, 0.8))
    if kind < 0.85:
        return np.roll(image, rng.integers(20, 120, 2).tolist(), axis=(0, 1))
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(2.5, 6))


def _scratch(size: tuple[int, int], rng: np.random.Generator) -> Binary:
    h, w = size
    out = np.zeros(size, np.uint8)
    x, y = rng.uniform(0, w), rng.uniform(0, h)
    heading, bend, thickness = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.15), int(rng.integers(1, 5))
    for _ in range(int(rng.integers(3, 14))):
        heading += bend + rng.normal(0, 0.1)
        end = x + 8 * np.cos(heading), y + 8 * np.sin(heading)
        cv2.line(out, (round(x), round(y)), (round(end[0]), round(end[1])), 255, thickness)
        x, y = end
    return out


def _blot(size: tuple[int, int], rng: np.random.Generator) -> Binary:
    h, w = size
    radius = float(np.exp(rng.uniform(np.log(3), np.log(24))))
    shape = _blob(size, (rng.uniform(0, h), rng.uniform(0, w)), radius, rng)
    if radius > 10 and rng.random() < 0.3:
        shape[smooth_field(rng, size, 24) > 0.6] = 0
    return shape
