"""Draw images whose truth is known because we drew them.

Boards are binary images (255 copper, 0 laminate) of traces, pads and pours; damage is one of DeepPCB's six kinds.
Stains are defects of any picture: blots, scratches, displaced patches, smears. All randomness comes from `rng`.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

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


def damage_board(
    board: Binary, rng: np.random.Generator, count: int, taken: Binary | None = None, *, by_hand: bool = False
) -> tuple[Binary, Binary]:
    """Return a copy of a board with up to `count` defects, and its mask of classes (0 where nothing changed).

    Defects are rounded patches; `by_hand`, also strokes, scribbles, strips along edges, and what is ragged or dithered, with
    gaps of one pixel marked too. An open or a short divides what it crosses, a mousebite or a spur does not, a pinhole or
    spurious copper touches no edge. With `taken`, the mask of what is wrong with the board already, new defects keep away
    from it and join it in the mask.
    """
    sample, mask = board.copy(), np.zeros_like(board) if taken is None else taken.copy()
    inner = cv2.distanceTransform(board, cv2.DIST_L2, 5)
    outer = cv2.distanceTransform(255 - board, cv2.DIST_L2, 5)
    for kind in rng.integers(OPEN, PINHOLE + 1, count).tolist():
        copper, depth = (0, inner) if kind in (OPEN, MOUSEBITE, PINHOLE) else (255, outer)
        draw = _divide if kind in (OPEN, SHORT) else _nibble if kind in (MOUSEBITE, SPUR) else _islet
        shape = draw(board, depth, rng, by_hand=by_hand)
        if shape is None:
            continue
        window = _around(shape, 8)
        near = cv2.dilate(shape[window], np.ones((9, 9), np.uint8))
        if (mask[window][near > 0] > 0).any():
            continue
        new = (shape[window] > 0) & (sample[window] != copper)
        if new.sum() >= 12 and _fits(kind, board[window] != copper, new):
            sample[window][new] = copper
            mask[window][_whole(new) if by_hand else new] = kind
    return sample, mask


def _around(shape: Binary, margin: int) -> tuple[slice, slice]:
    x, y, w, h = cv2.boundingRect(shape)
    return slice(max(0, y - margin), y + h + margin), slice(max(0, x - margin), x + w + margin)


def _fits(kind: int, material: Bool[np.ndarray, "_ _"], new: Bool[np.ndarray, "_ _"]) -> bool:
    """Say whether a class does what its name says when pixels are taken out of the material that it eats."""
    pieces = _count_pieces(material & ~_whole(new)) - _count_pieces(material)
    touches = ((cv2.dilate(new.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & ~material).any()
    return pieces > 0 if kind in (OPEN, SHORT) else bool(touches) and pieces <= 0 if kind in (MOUSEBITE, SPUR) else not touches


def _count_pieces(material: Bool[np.ndarray, "_ _"]) -> int:
    _, _, stats, _ = cv2.connectedComponentsWithStats(material.astype(np.uint8), connectivity=4)
    return int((stats[1:, cv2.CC_STAT_AREA] >= 20).sum())


def _whole(new: Bool[np.ndarray, "_ _"]) -> Bool[np.ndarray, "_ _"]:
    """Close the gaps of one pixel between changed pixels, so that what is dithered is one defect."""
    framed = cv2.copyMakeBorder(new.astype(np.uint8), 2, 2, 2, 2, cv2.BORDER_CONSTANT)
    closed: Bool[np.ndarray, "_ _"] = cv2.morphologyEx(framed, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))[2:-2, 2:-2] > 0
    return closed


def _blob(size: tuple[int, int], center_yx: tuple[float, float], radius: float, rng: np.random.Generator) -> Binary:
    """Draw a star-shaped patch whose radius varies by about a quarter around its outline."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    phase, weight = rng.uniform(0, 2 * np.pi, 3), rng.normal(0, 0.14, 3)
    wave = 1 + sum(weight[i] * np.cos((i + 1) * angle + phase[i]) for i in range(3))
    outline = np.stack([center_yx[1] + radius * wave * np.cos(angle), center_yx[0] + radius * wave * np.sin(angle)], axis=1)
    out = np.zeros(size, np.uint8)
    cv2.fillPoly(out, [np.round(outline * 16).astype(np.int32)], 255, shift=4)
    return out


def _patch(size: tuple[int, int], center_yx: tuple[float, float], radius: float, rng: np.random.Generator) -> Binary:
    """Draw what a hand may leave in a place: a patch, one with a ragged outline, a sprayed one, or a scribble."""
    style = rng.random()
    if style < 0.3:
        return _scribble(size, center_yx, radius, rng)
    shape = _blob(size, center_yx, radius, rng)
    return shape if style < 0.6 else _roughen(shape, rng) if style < 0.75 else _dither(shape, rng)


def jitter_edges(board: Binary, rng: np.random.Generator, share: float) -> Binary:
    """Return a binary image in which that share of the pixels on both sides of every edge is set at random."""
    block = np.ones((3, 3), np.uint8)
    rim = (cv2.dilate(board, block) > cv2.erode(board, block)) & (rng.random(board.shape) < share)
    out = board.copy()
    out[rim] = np.where(rng.random(int(rim.sum())) < 0.5, 255, 0)
    return out


def _roughen(shape: Binary, rng: np.random.Generator) -> Binary:
    out, window = shape.copy(), _around(shape, 2)
    out[window] = jitter_edges(shape[window], rng, 1.0)
    return out


def _dither(shape: Binary, rng: np.random.Generator) -> Binary:
    """Thin a shape to a share of its pixels, at random or in a pattern."""
    out, window = shape.copy(), _around(shape, 0)
    h, w = shape[window].shape
    if rng.random() < 0.6:
        cell = int(rng.integers(1, 3))
        kept = rng.random((-(-h // cell), -(-w // cell))) < rng.uniform(0.35, 0.8)
        kept = np.kron(kept, np.ones((cell, cell), dtype=bool))[:h, :w]
    else:
        tile = rng.random(rng.integers(2, 5, 2).tolist()) < rng.uniform(0.45, 0.8)
        kept = np.tile(tile, (h // tile.shape[0] + 1, w // tile.shape[1] + 1))[:h, :w]
    out[window][~kept] = 0
    return out


def _way(start_yx: np.ndarray, end_yx: np.ndarray, rng: np.random.Generator) -> Float64[np.ndarray, "n 2"]:
    """Return points about 3 px apart on a wavering line between two points."""
    along = end_yx - start_yx
    length = max(float(np.hypot(*along)), 1.0)
    share = np.linspace(0, 1, int(length / 3) + 2)
    aside = np.cumsum(rng.normal(0, rng.uniform(0, 1.5), len(share)))
    aside -= aside[0] + share * (aside[-1] - aside[0])
    out: Float64[np.ndarray, "n 2"] = start_yx + share[:, None] * along + aside[:, None] * along[::-1] * (-1, 1) / length
    return out


def _draw_way(size: tuple[int, int], way_yx: Float64[np.ndarray, "n 2"], rng: np.random.Generator) -> Binary:
    """Draw a way with a plain pen of 1 to 5 px, a ragged or a dithered one, or as a row of stamps."""
    out, style = np.zeros(size, np.uint8), rng.random()
    corners = [np.round(way_yx[:, ::-1]).astype(np.int32)]
    if style < 0.75:
        width = rng.choice([1, 2, 2, 3, 3, 3, 4, 5] if style < 0.5 else [3, 4, 5, 6, 7])
        cv2.polylines(out, corners, False, 255, int(width))
        return out if style < 0.5 else _roughen(out, rng) if style < 0.6 else _dither(out, rng)
    cv2.polylines(out, corners, False, 255, 1)
    window, gap = _around(out, 4), int(rng.integers(2, 5))
    places = np.flatnonzero(out[window])
    inside = np.zeros_like(out[window])
    inside.flat[places[::gap]] = 255
    stamp = (cv2.MORPH_CROSS, cv2.MORPH_RECT, cv2.MORPH_ELLIPSE)[int(rng.integers(0, 3))]
    side = int(rng.integers(3, 6))
    out[window] = cv2.dilate(inside, cv2.getStructuringElement(stamp, (side, side)))
    return out


def _scribble(size: tuple[int, int], center_yx: tuple[float, float], radius: float, rng: np.random.Generator) -> Binary:
    """Draw to and fro inside a circle."""
    turns = int(rng.integers(2, 7))
    angle, reach = rng.uniform(0, 2 * np.pi, turns), radius * rng.uniform(0.5, 1.2, turns)
    corners = np.array(center_yx) + np.stack([reach * np.sin(angle), reach * np.cos(angle)], axis=1)
    ways = [_way(corners[i], corners[i + 1], rng) for i in range(turns - 1)]
    return _draw_way(size, np.concatenate(ways), rng)


def _crossing(board: Binary, place: tuple[int, int], reach: float, rng: np.random.Generator) -> Binary:
    """Draw one to three wavering strokes across the trace or gap whose middle is `place`, from side to side."""
    edge = int(reach) + 3
    y0, x0 = max(0, place[0] - edge), max(0, place[1] - edge)
    window = board[y0 : place[0] + edge + 1, x0 : place[1] + edge + 1]
    others = np.argwhere(window != board[place]) + np.array([y0 - place[0], x0 - place[1]])
    across = others[np.square(others).sum(1).argmin()] if len(others) else np.array([0, 1])
    slant = rng.normal(0, 0.25) if rng.random() < 0.6 else rng.uniform(-1.2, 1.2)
    angle, reach = np.arctan2(across[0], across[1]) + slant, reach / np.cos(slant)
    ahead = np.array([np.sin(angle), np.cos(angle)])
    out = np.zeros_like(board)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        middle = np.array(place) + rng.normal(0, 2.5) * ahead[::-1] * (-1, 1)
        start, end = (middle + sign * (reach * 1.1 + rng.uniform(1, 5)) * ahead for sign in (-1, 1))
        out |= _draw_way(board.shape, _way(start, end, rng), rng)
    return out


def _chord(board: Binary, depth: np.ndarray, rng: np.random.Generator) -> Binary | None:
    """Draw a bent stroke from one place on an edge to another, as if to cut a corner or a piece off."""
    on_edge = (depth > 0.5) & (depth < 2)
    start = _pick(on_edge, rng)
    if start is None:
        return None
    y0, x0 = max(0, start[0] - 40), max(0, start[1] - 40)
    near = np.argwhere(on_edge[y0 : start[0] + 41, x0 : start[1] + 41]) + np.array([y0, x0])
    far = near[np.hypot(*(near - start).T) > 10]
    if not len(far):
        return None
    end = far[rng.integers(len(far))]
    way = _way(np.array(start), end, rng)
    along = (end - start).astype(np.float64)
    aside = along[::-1] * (-1, 1) * rng.uniform(-0.5, 0.5)
    way += np.sin(np.linspace(0, np.pi, len(way)))[:, None] * aside
    over = along / np.hypot(*along) * rng.uniform(1, 5)
    return _draw_way(board.shape, np.concatenate([[way[0] - over], way, [way[-1] + over]]), rng)


def _pick(where: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    places = np.flatnonzero(where)
    if not len(places):
        return None
    y, x = divmod(int(rng.choice(places)), where.shape[1])
    return y, x


def _ridge(depth: np.ndarray, widest: float) -> Bool[np.ndarray, "_ _"]:
    """Return the middles of what is at most 2 · `widest` across, from its depth below the edge."""
    ridge: Bool[np.ndarray, "_ _"] = depth >= cv2.dilate(depth, np.ones((3, 3), np.uint8)) - 0.01
    return ridge & (depth > 2) & (depth < widest)


def _divide(board: Binary, depth: np.ndarray, rng: np.random.Generator, *, by_hand: bool) -> Binary | None:
    """Draw what cuts a trace, a pad (or a gap) in two, from the depth below its edge: strokes, or a wide patch."""
    style = rng.random() if by_hand else 1.0
    if style < 0.25:
        return _chord(board, depth, rng)
    place = _pick(_ridge(depth, 18 if style < 0.7 else 10), rng)
    if place is None:
        return None
    reach = float(depth[place])
    if style < 0.7:
        return _crossing(board, place, reach, rng)
    return (_patch if by_hand else _blob)(board.shape, place, reach * 1.45 + 2.5, rng)


def _nibble(board: Binary, depth: np.ndarray, rng: np.random.Generator, *, by_hand: bool) -> Binary | None:
    """Draw what sits on an edge, on the side whose depth below it is given: a patch, a strip along it, or whiskers."""
    place, style = _pick((depth > 0.5) & (depth < 2), rng), rng.random()
    if place is None:
        return None
    if not by_hand:
        return _blob(board.shape, place, rng.uniform(3.5, 6.5), rng)
    if style < 0.45:
        return _patch(board.shape, place, rng.uniform(3, 8), rng)
    if style < 0.65:
        return _strip(depth, place, rng)
    out = np.zeros_like(board)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        angle, root = rng.uniform(0, 2 * np.pi), place + rng.normal(0, 3, 2)
        end = root + rng.uniform(5, 22) * np.array([np.sin(angle), np.cos(angle)])
        out |= _draw_way(board.shape, _way(root, end, rng), rng)
    return out


def _strip(depth: np.ndarray, place: tuple[int, int], rng: np.random.Generator) -> Binary | None:
    """Draw a strip along the edge beside a place, of at most 0.6 of the depth there."""
    shape = _blob((depth.shape[0], depth.shape[1]), place, rng.uniform(6, 28), rng)
    shape[depth > min(rng.uniform(2.5, 9), 0.6 * float(depth[shape > 0].max(initial=0)))] = 0
    _, parts = cv2.connectedComponents(shape, connectivity=4)
    shape[parts != parts[place]] = 0
    return shape if shape[place] else None


def _islet(board: Binary, depth: np.ndarray, rng: np.random.Generator, *, by_hand: bool) -> Binary | None:
    """Draw a patch that touches no edge."""
    place = _pick(depth > 7, rng)
    if place is None:
        return None
    radius = rng.uniform(2.5, min(14, max(3, depth[place] - 3)))
    shape = (_patch if by_hand else _blob)(board.shape, place, radius, rng)
    shape[depth <= 2] = 0
    return shape


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
