"""Draw records over the images they speak of."""

import math

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Shaped, UInt8
from PIL import Image as PillowImage

from fiducial.coords import Matrix, apply_transform, corners_yx, facing, resize_transform, yx_to_pixel_edges
from fiducial.images import to_gray
from fiducial.records import Blobs, Defects, Keypoints, Places, Registration

OVERLAY_PX = 4096  # longest side of an overlay
_READABLE_PX = 900  # smaller sources are enlarged towards it, so that what is written on them can be read

_NOTABLE = 0.02  # least probability of other places that are drawn beside one that was found

# Colors of classes 1, 2, ... on overlays: Okabe & Ito's, told apart by color-blind readers too.
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))

# Colors of blobs from an even chance to certainty, bright enough for dark images; orange and blue-green differ to all eyes.
_LIKELY = ((0.5, (255, 130, 0)), (0.75, (250, 220, 60)), (1.0, (0, 225, 185)))
_DOT_FROM_PX = 4.0  # least radius, on the canvas, of a circle that leaves room for a dot at its center
_EDGED_FROM_PX = 8.0  # and of one that gets dark edges, which set it off from bright images
_SQUARES = 8  # of a checkerboard, along the picture's shorter side
_STRIP = 4  # times as long as it is wide is a strip
_LINES = 4  # of text, at least, for which a picture has room
_FAR_PX = 2**20  # corners farther away than this, on the canvas, are not drawn
_TONES_PX = 250_000  # pixels that tell which tones are black and white
_SHIFT = 6  # fractional bits of coordinates handed to OpenCV


def draw_defects(record: Defects, image: Shaped[np.ndarray, "h w *c"] | None) -> PillowImage.Image:
    """Draw tinted masks, boxes and class names over the sample or a reduced copy of it, and the verdict.

    A small sample is enlarged. Over black, at most `OVERLAY_PX` a side, if no image is given.
    """
    canvas = _enlarge(np.zeros((*_shown_size(record.size), 3), np.uint8) if image is None else _to_rgb(image))
    size = (canvas.shape[0], canvas.shape[1])
    mask = record.mask if size == record.size else cv2.resize(record.mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    for k in np.unique(mask[mask > 0]).tolist():
        own = mask == k
        canvas[own] = (0.4 * canvas[own] + 0.6 * np.array(_COLORS[(k - 1) % len(_COLORS)])).astype(np.uint8)
    thickness, font = max(1, round(_reach(size) / 600)), max(0.4, _reach(size) / 1500)
    edges = yx_to_pixel_edges(record.boxes_yxyx) * np.tile(np.divide(size, record.size), 2)
    for box, label, score in zip(edges, record.label.tolist(), record.score.tolist(), strict=True):
        y0, x0, y1, x1 = box.round().astype(int).tolist()
        color = _COLORS[(label - 1) % len(_COLORS)]
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), color, thickness)
        below = y1 + round(24 * font)
        _write(canvas, f"{record.classes[label - 1]} {score:.2f}", (x0, y0 - 3 if y0 > 24 * font else below), font, color)
    text = record.verdict + (f": {len(record)}" if record.verdict == "bad" else "")
    color = {"good": (0, 200, 90), "bad": (255, 80, 60), "refused": (255, 190, 0)}[record.verdict]
    _write(canvas, text, (6, 0), 1.6 * font, color)
    return PillowImage.fromarray(canvas)


def draw_places(
    record: Places, source: Shaped[np.ndarray, "h w *c"] | None, query: Shaped[np.ndarray, "i j *d"] | None
) -> PillowImage.Image:
    """Draw places over the source or a reduced copy of it; beside it the query, and what the source shows at the best place.

    Where the query was found it is drawn into the source. A dot marks the query's top left corner. A small source is enlarged.
    Over black, at most `OVERLAY_PX` a side, if no source is given.
    """
    canvas = _enlarge(np.zeros((*_shown_size(record.source_size), 3), np.uint8) if source is None else _to_rgb(source))
    size = (canvas.shape[0], canvas.shape[1])
    to_canvas = resize_transform(record.source_size, size)
    side = None if query is None or not len(record) else _comparison(record, canvas, to_canvas, _to_rgb(query))
    if record.found and query is not None:
        shown = _to_rgb(query)
        matrix = to_canvas @ record.query_to_source[0] @ resize_transform((shown.shape[0], shown.shape[1]), record.query_size)
        cv2.warpAffine(shown, matrix[:2], size[::-1], dst=canvas, borderMode=cv2.BORDER_TRANSPARENT)
    thickness, font = max(1, round(_reach(size) / 500)), max(0.5, _reach(size) / 1500)
    shown_places = [i for i in range(len(record)) if i == 0 or not record.found or record.score[i] >= _NOTABLE]
    for i in reversed(shown_places):
        best = i == 0 and record.found
        color = (0, 220, 100) if best else (255, 190, 0) if i == 0 else (150, 150, 150)
        outline = _points(apply_transform(to_canvas, record.corners_yx[i]))
        cv2.polylines(canvas, [outline], isClosed=True, color=color, thickness=thickness + best, lineType=cv2.LINE_AA)
        cv2.circle(canvas, outline[0].tolist(), 3 * thickness, color, -1, cv2.LINE_AA)
        x, y = outline.min(axis=0).tolist()
        _write(canvas, f"{record.score[i]:.2f}", (x, y - 3 if y > 24 * font else y + round(24 * font)), font, color)
    text = f"found: {record.scale[0]:.3g} x, {record.angle_deg[0]:z.1f} deg" if record.found else "not here"
    _write(canvas, text, (6, size[0] - 8), 1.3 * font, (0, 220, 100) if record.found else (255, 190, 0))
    return PillowImage.fromarray(canvas if side is None else np.hstack([canvas, side]))


def draw_blobs(record: Blobs, image: Shaped[np.ndarray, "h w *c"] | None) -> PillowImage.Image:
    """Draw a circle of each blob's radius over the image or a reduced copy of it, and how many there are.

    The color tells the probability: orange at 0.5 and below, over yellow, to blue-green at 1. 8-bit color is shown in color,
    any other image in gray. A small image is enlarged. Over black, at most `OVERLAY_PX` a side, if no image is given.
    """
    canvas = _enlarge(np.zeros((*_shown_size(record.size), 3), np.uint8) if image is None else in_color(image))
    size = (canvas.shape[0], canvas.shape[1])
    to_canvas = resize_transform(record.size, size)
    center_yx = apply_transform(to_canvas, record.yx)
    radius = np.maximum(record.radius * np.sqrt(to_canvas[0, 0] * to_canvas[1, 1]), 1.0)
    thickness, font = max(1, round(_reach(size) / 1500)), max(0.5, _reach(size) / 1500)
    for i in np.argsort(record.score, kind="stable").tolist():  # the most probable last, on top
        at_xy = [round(v * 2**_SHIFT) for v in center_yx[i, ::-1].tolist()]
        around, color = round(float(radius[i]) * 2**_SHIFT), _likely(float(record.score[i]))
        if radius[i] >= _EDGED_FROM_PX:
            cv2.circle(canvas, at_xy, around, (20, 20, 20), thickness + 2, cv2.LINE_AA, _SHIFT)
        cv2.circle(canvas, at_xy, around, color, thickness, cv2.LINE_AA, _SHIFT)
        if radius[i] >= _DOT_FROM_PX:
            cv2.circle(canvas, at_xy, thickness << _SHIFT, color, -1, cv2.LINE_AA, _SHIFT)
    text = f"{record.count or 'no'} blob{'s' * (record.count != 1)} ({record.count_interval[0]} to {record.count_interval[1]})"
    _write(canvas, text, (6, size[0] - 8), 1.3 * font, _likely(1.0))
    return PillowImage.fromarray(canvas)


def draw_keypoints(record: Keypoints, image: Shaped[np.ndarray, "h w *c"] | None) -> PillowImage.Image:
    """Draw a dot at each point over the image or a reduced copy of it, and how many there are.

    The color tells the score: orange at 0, over yellow, to blue-green at 1. 8-bit color is shown in color, any other image in
    gray. A small image is enlarged. Over black, at most `OVERLAY_PX` a side, if no image is given.
    """
    canvas = _enlarge(np.zeros((*_shown_size(record.size), 3), np.uint8) if image is None else in_color(image))
    size = (canvas.shape[0], canvas.shape[1])
    at_yx = apply_transform(resize_transform(record.size, size), record.yx)
    for i in np.argsort(record.score, kind="stable").tolist():  # the best last, on top
        _dot(canvas, at_yx[i], _likely((1 + float(record.score[i])) / 2))
    font = max(0.5, _reach(size) / 1500)
    _write(canvas, f"{len(record)} point{'s' * (len(record) != 1)}", (6, size[0] - 8), 1.3 * font, _likely(1.0))
    return PillowImage.fromarray(canvas)


def draw_registration(
    record: Registration, fixed: Shaped[np.ndarray, "h w *c"] | None, moving: Shaped[np.ndarray, "i j *d"] | None
) -> PillowImage.Image:
    """Draw the moving image in magenta over the fixed one in green, and the tie points: gray where both are equally bright.

    Either image may be a reduced copy; the drawing has the fixed one's size, a small one is enlarged. Over black, at most
    `OVERLAY_PX` a side, if the fixed image is not given. The magenta outline is the moving image's. What was found is drawn,
    too, where it was refused.
    """
    size = _shown_size(record.fixed_size) if fixed is None else (fixed.shape[0], fixed.shape[1])
    green = np.zeros(size, np.uint8) if fixed is None else _stretch(fixed)
    magenta, _ = _lay(record, moving, size)
    canvas = _enlarge(np.dstack([magenta, green, magenta]))
    to_canvas = resize_transform(record.fixed_size, (canvas.shape[0], canvas.shape[1]))
    if record.moving_to_fixed is not None:
        matrix, corners = to_canvas @ facing(record.moving_to_fixed, record.moving_size), corners_yx(record.moving_size)
        in_front = np.column_stack([corners[:, ::-1], np.ones(4)]) @ matrix[2] > 0
        outline = apply_transform(matrix, corners) if in_front.all() else np.full((4, 2), np.inf)
        if np.abs(outline).max() < _FAR_PX:
            thickness = max(1, round(_reach(canvas.shape[:2]) / 1500))
            cv2.polylines(canvas, [_points(outline)], isClosed=True, color=(255, 0, 255), thickness=thickness)
    for at_yx in apply_transform(to_canvas, record.fixed_yx):
        _dot(canvas, at_yx, (255, 225, 0))
    _write_outcome(canvas, record)
    return PillowImage.fromarray(canvas)


def draw_checkerboard(
    record: Registration, fixed: Shaped[np.ndarray, "h w *c"], moving: Shaped[np.ndarray, "i j *d"]
) -> PillowImage.Image:
    """Draw squares of the fixed image and of the moving one laid on it in turn, the fixed one also where that does not reach.

    Both are shown in gray and may be reduced copies; the drawing has the fixed one's size, a small one is enlarged.
    """
    size = (fixed.shape[0], fixed.shape[1])
    aligned, covered = _lay(record, moving, size)
    rows, columns = np.ogrid[: size[0], : size[1]]
    square = max(1, round(min(size) / _SQUARES))
    turn = (rows // square + columns // square) % 2 == 1
    board = np.where(turn & covered, aligned, _stretch(fixed))
    canvas = _enlarge(board)
    _write_outcome(canvas, record)
    return PillowImage.fromarray(canvas)


def _lay(
    record: Registration, moving: Shaped[np.ndarray, "i j *c"] | None, size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Return the moving image in gray on the fixed one's grid, drawn at `size`, and which pixels it covers; 0 elsewhere."""
    if moving is None or record.moving_to_fixed is None:
        return np.zeros(size, np.uint8), np.zeros(size, np.bool_)
    shown = _stretch(moving)
    to_fixed = resize_transform(record.fixed_size, size) @ facing(record.moving_to_fixed, record.moving_size)
    matrix = to_fixed @ resize_transform((shown.shape[0], shown.shape[1]), record.moving_size)
    factor = float(np.sqrt(np.abs(np.linalg.det(matrix))))  # size of its pixels on the canvas, at its center
    if factor < 1:
        less = (max(1, round(shown.shape[0] * factor)), max(1, round(shown.shape[1] * factor)))
        matrix = matrix @ resize_transform(less, (shown.shape[0], shown.shape[1]))
        shown = cv2.resize(shown, less[::-1], interpolation=cv2.INTER_AREA)
    aligned = cv2.warpPerspective(shown, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    covered = cv2.warpPerspective(np.full_like(shown, 1), matrix, size[::-1], flags=cv2.INTER_NEAREST) > 0
    rows, columns = np.ogrid[: size[0], : size[1]]
    by_x, by_y, alone = np.linalg.inv(matrix)[2].tolist()
    covered &= by_x * columns + by_y * rows + alone > 0  # a homography mirrors what lies behind it
    return np.where(covered, aligned, np.uint8(0)), covered


def _write_outcome(canvas: UInt8[np.ndarray, "h w *c"], record: Registration) -> None:
    counted = f"{len(record)} tie point{'s' * (len(record) != 1)}"
    if record.accepted:
        text, color = f"error about {record.error_px:.2g} px, {counted}", (240, 240, 240)
    else:
        reached = math.floor(100 * record.score) / 100  # never rounded up to what was asked for
        text, color = f"refused: probability {reached:.2f}, {counted}", (255, 190, 0)
    font = 1.3 * max(0.5, _reach(canvas.shape[:2]) / 1500)
    _write(canvas, text, (6, canvas.shape[0] - 8), font, color)


def _dot(canvas: UInt8[np.ndarray, "h w 3"], at_yx: Float64[np.ndarray, "2"], color: tuple[int, int, int]) -> None:
    """Draw a small dot with a dark edge, to parts of a pixel."""
    at_xy, radius = [round(v * 2**_SHIFT) for v in at_yx[::-1].tolist()], max(2, round(_reach(canvas.shape[:2]) / 450))
    cv2.circle(canvas, at_xy, (radius + 1) << _SHIFT, (20, 20, 20), -1, cv2.LINE_AA, _SHIFT)
    cv2.circle(canvas, at_xy, radius << _SHIFT, color, -1, cv2.LINE_AA, _SHIFT)


def _shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which an image is drawn that is not given."""
    factor = min(1.0, OVERLAY_PX / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _enlarge(canvas: UInt8[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "k l *c"]:
    """Return a small canvas enlarged by a whole factor, so that what is written on it can be read."""
    factor = max(1, round(_READABLE_PX / max(canvas.shape[:2])))
    return cv2.resize(canvas, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)


def _reach(size: tuple[int, ...]) -> int:
    """Return the side that says how large lines, dots and text are: the longer one, but of a strip four times the shorter."""
    return min(max(size), _STRIP * min(size))


def _likely(probability: float) -> tuple[int, int, int]:
    at = [p for p, _ in _LIKELY]
    red, green, blue = (round(float(np.interp(probability, at, [color[i] for _, color in _LIKELY]))) for i in range(3))
    return red, green, blue


def in_color(image: Shaped[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return 8-bit color as it is, any other image in gray, stretched between its percentiles."""
    if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] in (3, 4):
        return np.ascontiguousarray(image[..., :3])
    return _to_rgb(image)


def _points(yx: Float64[np.ndarray, "n 2"]) -> np.ndarray:
    return yx[:, ::-1].round().astype(np.int32)


def _comparison(
    record: Places, canvas: UInt8[np.ndarray, "h w 3"], to_canvas: Matrix, query: UInt8[np.ndarray, "i j 3"]
) -> UInt8[np.ndarray, "h k 3"]:
    """Return a column of the canvas's height: the query, and below it the source at the best place, both upright."""
    height = canvas.shape[0]
    fit = min((height // 2 - 8) / query.shape[0], (0.6 * height) / query.shape[1])
    size = (max(1, round(query.shape[0] * fit)), max(1, round(query.shape[1] * fit)))
    shown = cv2.resize(query, size[::-1], interpolation=cv2.INTER_AREA if fit < 1 else cv2.INTER_LINEAR)
    from_panel = to_canvas @ record.query_to_source[0] @ resize_transform(size, record.query_size)
    there = cv2.warpAffine(canvas, from_panel[:2], size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    column = np.full((height, size[1] + 16, 3), 24, np.uint8)
    for top, panel in ((4, shown), (height // 2 + 4, there)):
        column[top : top + size[0], 8 : 8 + size[1]] = panel
    return column


def _write(
    canvas: UInt8[np.ndarray, "h w *c"], text: str, at_xy: tuple[int, int], font: float, color: tuple[int, int, int]
) -> None:
    """Write text with a dark outline; on a gray picture it has the color's red.

    It is made smaller where it would be wider than the picture or higher than a quarter of it, and moved inside.
    """
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, font, max(1, round(1.6 * font)))
    room_y, room_x = canvas.shape[0] / _LINES, max(1, canvas.shape[1] - 4)
    font *= min(1.0, room_x / width, room_y / (height + below))
    thickness = max(1, round(1.6 * font))
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, font, thickness)
    x = max(1, min(at_xy[0], canvas.shape[1] - width - 2))
    y = min(max(at_xy[1], height + 4), canvas.shape[0] - below - 2)
    outline = [(dx, dy, (20, 20, 20)) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    for dx, dy, shade in [*outline, (0, 0, color)]:
        cv2.putText(canvas, text, (x + dx, y + dy), cv2.FONT_HERSHEY_SIMPLEX, font, shade, thickness, cv2.LINE_AA)


def _to_rgb(image: Shaped[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    return cv2.cvtColor(_stretch(image), cv2.COLOR_GRAY2RGB)


def _stretch(image: Shaped[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w"]:
    """Return gray values with the 0.5th percentile brought to 0 and the 99.5th to 255; what is not finite becomes 0.

    The percentiles are those of evenly spread pixels.
    """
    gray = to_gray(image, "the image")
    step = max(1, math.isqrt(gray.size // _TONES_PX))
    some = gray[::step, ::step]
    some = some[np.isfinite(some)]
    low, high = np.percentile(some, [0.5, 99.5]).tolist() if some.size else (0.0, 0.0)
    if high <= low:
        low, high = (float(bound(gray, where=np.isfinite(gray), initial=low)) for bound in (np.min, np.max))
    scale = 255 / (high - low) if high > low else 0.0
    return np.clip((np.where(np.isfinite(gray), gray, np.float32(low)) - low) * scale, 0, 255).astype(np.uint8)
