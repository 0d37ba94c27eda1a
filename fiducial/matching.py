"""Compare a small image pixel by pixel with a place in a larger one, near a first guess, and refine the place.

Images are compared as looks: local contrast and edges. Contrast may be inverted; edges are also compared with contrast, since
some detectors show edges alone. Transforms are similarities.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from fiducial.coords import Matrix, apply_transform, corners_yx, image_center_yx, resize_transform, shift, similarity
from fiducial.geometry import local_contrast
from fiducial.images import intensity_range, read_reduced
from fiducial.metrics import quad_ious
from fiducial.records import Image

CONTRAST_PX = 10.0  # range over which contrast is normalized
SAME_IOU = 0.3  # places that overlap more are one
ALIKE_IOU = 0.6  # and guesses at places: of two that overlap less, either may come to the true one
_CONTRAST, _EDGES = 0, 1  # fields of a look
# Which look of the query is compared with which of the source; only contrast may be inverted.
_CHANNELS = ((_CONTRAST, _CONTRAST), (_EDGES, _EDGES), (_CONTRAST, _EDGES))
_AT, _BESIDE = 2.0, 4.0  # shifts that are none, and shifts to other places, in pixels
WORK_PX, FINE_PX = 40, 112  # side of an image while places are compared, and largest while one is refined

Gray = Float32[np.ndarray, "_ _"]


class Look(NamedTuple):
    """An image as verification sees it."""

    contrast: Gray
    edges: Gray


@dataclass(frozen=True)
class Rung:
    """A source reduced by `factor` along each side, its look, and the transform from pixels of the source to its own."""

    image: Gray
    look: Look
    from_source: Matrix
    factor: float


@dataclass(frozen=True)
class Match:
    """A place that was compared pixel by pixel.

    Attributes:
        matrix: from pixels of the query to pixels of the source.
        correlation: normalized, without sign, in the best of the looks. channel: which (an index into `_CHANNELS`).
        confidence: of the proposal that it comes from.
        detail: correlation of fine detail alone, once refined. sharpness: by how much the correlation exceeds that at any
            place shifted by more than a few pixels: about 0 on a straight edge, which looks the same along itself.
        phase: log of the phase correlation at the place over the highest one elsewhere; 0 where that is higher. It counts all
            frequencies alike, and so knows weak fine structure in strong uneven light.
    """

    matrix: Matrix
    correlation: float
    confidence: float
    channel: int = 0
    detail: float = 0.0
    sharpness: float = 0.0
    phase: float = 0.0

    @property
    def scale(self) -> float:
        """Size of a query's pixel in pixels of the source."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:2, :2]))))


def look(image: Gray) -> Look:
    """Return local contrast and the local contrast of the gradient's magnitude."""
    contrast = local_contrast(image, CONTRAST_PX)
    return Look(contrast, local_contrast(_edges(contrast), CONTRAST_PX))


def _seen(image: Gray, field: int) -> Gray:
    """Return one field of an image's look."""
    contrast = local_contrast(image, CONTRAST_PX)
    return contrast if field == _CONTRAST else local_contrast(_edges(contrast), CONTRAST_PX)


def _edges(contrast: Gray) -> Gray:
    smooth = cv2.GaussianBlur(contrast, (0, 0), 1.0)
    out = cv2.Sobel(smooth, cv2.CV_32F, 1, 0)
    np.multiply(out, out, out=out)
    dy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    np.multiply(dy, dy, out=dy)
    np.add(out, dy, out=out)
    return np.sqrt(out, out=out)


def read_with_side(image: Image, side: float) -> Gray:
    """Return an image's gray values brought to a shorter side and normalized once for the whole image.

    The 1st and 99th percentile become -1 and 1, what lies beyond -4 and 4 is clipped to them. NaN and infinite values become
    0, as what lies beyond the border of a resampled window does.

    Raises:
        InputError: constant, without finite values, or not gray or color.
    """
    low, high = intensity_range(image)
    middle, half = (low + high) / 2, (high - low) / 2
    gray = read_reduced(image, round(max(image.size) * min(1.0, side / min(image.size))), undefined=middle)
    gray -= np.float32(middle)
    gray /= np.float32(half)
    return with_side(np.clip(gray, -4, 4, out=gray), image.size, side)


def with_side(image: Gray, full_size: tuple[int, int], side: float) -> Gray:
    """Resize an image so that the shorter of its full size's sides comes to `side`."""
    h, w = (max(1, round(n * side / min(full_size))) for n in full_size)
    how = cv2.INTER_AREA if h < image.shape[0] else cv2.INTER_LINEAR
    return image if image.shape == (h, w) else cv2.resize(image, (w, h), interpolation=how)


def outline(match: Match, size: tuple[int, int]) -> Float64[np.ndarray, "4 2"]:
    """Return the corners of an image of `size` at its place."""
    return apply_transform(match.matrix, corners_yx(size))


def apart(matches: list[Match], size: tuple[int, int], keep: int, iou: float = SAME_IOU) -> list[Match]:
    """Keep the first `keep` matches that overlap none before them by as much as `iou`."""
    kept: list[Match] = []
    outlines = np.zeros((0, 4, 2))
    for match in matches:
        own = outline(match, size)
        if len(kept) < keep and (quad_ious(own, outlines) < iou).all():
            kept.append(match)
            outlines = np.concatenate([outlines, own[None]])
    return kept


def _rung_for(match: Match, query_to_small: Matrix, rungs: list[Rung]) -> Rung:
    """Return the coarsest rung on which the place is not smaller than the query compared with it."""
    small_to_source = match.matrix @ np.linalg.inv(query_to_small)
    step = float(np.sqrt(abs(np.linalg.det(small_to_source[:2, :2]))))  # of a pixel of the small query, in the source's
    fine = [rung for rung in rungs if step * rung.factor >= 0.8]
    return fine[-1] if fine else rungs[0]


def compare(
    small: Look,
    query_to_small: Matrix,
    rungs: list[Rung],
    match: Match,
    *,
    angles: tuple[float, ...],
    stretches: tuple[float, ...],
    pad: float,
) -> Match:
    """Return the best match near a start: shifts up to `pad` sides, those angles in degrees, those factors of scale."""
    rung = _rung_for(match, query_to_small, rungs)
    margin = max(2, round(pad * min(small.contrast.shape)))
    y, x = image_center_yx((small.contrast.shape[0], small.contrast.shape[1]))
    small_to_rung = rung.from_source @ match.matrix @ np.linalg.inv(query_to_small)
    best = replace(match, correlation=-1.0)
    for angle in angles:
        for stretch in stretches:
            matrix = small_to_rung @ similarity(stretch, angle, (y, x))
            value, offset, channel = _correlate(small, rung.look, matrix, margin)
            if value > best.correlation:
                moved = np.linalg.inv(rung.from_source) @ matrix @ shift(*offset) @ query_to_small
                best = Match(moved, value, match.confidence, channel)
    return best


def _window(source: Gray, small_to_source: Matrix, size: tuple[int, ...], margin: int) -> Gray:
    """Resample a source on the query's grid, with a margin on every side."""
    to_source = small_to_source @ shift(-margin, -margin)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(source, to_source[:2], (size[1] + 2 * margin, size[0] + 2 * margin), flags=flags)


def _correlate(small: Look, source: Look, matrix: Matrix, margin: int) -> tuple[float, tuple[float, float], int]:
    """Return the largest normalized correlation within a margin, its offset (dy, dx), and the channel it was found in."""
    size = small.contrast.shape
    windows = [_window(image, matrix, size, margin) for image in source]
    best, offset, best_channel = -1.0, (0.0, 0.0), 0
    for channel, (own, theirs) in enumerate(_CHANNELS):
        surface = cv2.matchTemplate(windows[theirs], small[own], cv2.TM_CCOEFF_NORMED)
        surface = np.abs(surface) if channel == 0 else surface
        surface = np.where(surface <= 1, surface, 0)  # where a window is constant, OpenCV divides by next to nothing
        y, x = np.unravel_index(int(surface.argmax()), surface.shape)
        if surface[y, x] > best:
            best, offset, best_channel = float(surface[y, x]), (float(y) - margin, float(x) - margin), channel
    return best, offset, best_channel


def refine(query: Gray, rungs: list[Rung], match: Match) -> Match:
    """Refine a match to sub-pixel accuracy by ECC in its channel, at up to FINE_PX pixels a side.

    The later passes normalize the contrast of what the source shows within the query's outline alone, as the query's own
    was: a window that knows what lies beyond draws the outline inward or outward.
    """
    size = (query.shape[0], query.shape[1])
    side = float(np.clip(match.scale * min(size) * rungs[0].factor, WORK_PX, FINE_PX))
    small = with_side(query, size, side)
    query_to_small = resize_transform(size, (small.shape[0], small.shape[1]))
    rung = _rung_for(match, query_to_small, rungs)
    own, theirs = _CHANNELS[match.channel]
    template, placed = _seen(small, own), rung.from_source @ match.matrix @ np.linalg.inv(query_to_small)
    was, sign = _agreement(template, rung, placed, match.channel)
    template, best = (sign * template).astype(np.float32), placed
    for margin, alone in ((round(0.1 * side), False), (0, True), (0, True)):
        source = rung.image if alone else rung.look[theirs]
        window = _window(source, best, template.shape, margin)
        step = _ecc_step(template, _seen(window, theirs) if alone else window, margin)
        best = best if step is None else best @ step
    now, _ = _agreement(template, rung, best, match.channel)
    best, correlation = (best, now) if now > was else (placed, was)
    back = np.linalg.inv(rung.from_source) @ best @ query_to_small
    return Match(back, correlation, match.confidence, match.channel, *_distinctness(template, rung, best, theirs))


def _distinctness(template: Gray, rung: Rung, matrix: Matrix, theirs: int) -> tuple[float, float, float]:
    """Return the correlation of fine detail at a place, by how much the place outdoes its neighborhood, and its phase."""
    margin = round(0.2 * min(template.shape))
    seen = _seen(_window(rung.image, matrix, template.shape, margin), theirs)
    fine, there = (cv2.GaussianBlur(image, (0, 0), 1.0) - cv2.GaussianBlur(image, (0, 0), 2.5) for image in (template, seen))
    inside = np.ascontiguousarray(there[margin:-margin, margin:-margin])
    detail = float(cv2.matchTemplate(inside, fine, cv2.TM_CCOEFF_NORMED)[0, 0])
    smooth, window = (cv2.GaussianBlur(image, (0, 0), 1.0) for image in (template, seen))
    surface = np.clip(cv2.matchTemplate(window, smooth, cv2.TM_CCOEFF_NORMED), -1, 1)
    y, x = np.mgrid[-margin : margin + 1, -margin : margin + 1]
    away = np.hypot(y, x) > max(3.0, 0.06 * min(template.shape))
    sharpness = float(surface[margin, margin] - surface[away].max())
    return (detail if abs(detail) <= 1 else 0.0), sharpness, _phase(template, seen[margin:-margin, margin:-margin])


def _phase(template: Gray, there: Gray) -> float:
    """Return the log of the phase correlation of two images at a shift of next to nothing over the highest at any other."""
    h, w = template.shape
    taper = cv2.createHanningWindow((w, h), cv2.CV_32F)
    own, other = (np.fft.rfft2((image - np.average(image, weights=taper)) * taper) for image in (template, there))
    cross = own * other.conj()
    surface = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9), s=(h, w))
    apart = np.hypot(*np.meshgrid(h * np.fft.fftfreq(h), w * np.fft.fftfreq(w), indexing="ij"))
    here, elsewhere = (float(surface[which].max()) for which in (apart < _AT, apart > _BESIDE))
    return float(np.log(max(here / max(elsewhere, 1e-9), 1.0)))


def _agreement(template: Gray, rung: Rung, matrix: Matrix, channel: int) -> tuple[float, float]:
    """Return the correlation with what the source shows in the outline alone, from 0 to 1, and the sign of the contrast."""
    there = _seen(_window(rung.image, matrix, template.shape, 0), _CHANNELS[channel][1])
    smooth, seen = (cv2.GaussianBlur(image, (0, 0), 1.0) for image in (template, there))
    value = float(cv2.matchTemplate(seen, smooth, cv2.TM_CCOEFF_NORMED)[0, 0])
    value = value if abs(value) <= 1 else 0.0
    return (abs(value), -1.0 if value < 0 else 1.0) if channel == 0 else (max(value, 0.0), 1.0)


def _ecc_step(template: Gray, window: Gray, margin: int) -> Matrix | None:
    """Return the similarity that takes pixels of the template to where the window shows them; None where ECC fails."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-5)
    start = shift(margin, margin)[:2].astype(np.float32)
    try:
        _, linear = cv2.findTransformECC(template, window, start, cv2.MOTION_AFFINE, stop, None, 5)
    except cv2.error:  # ECC raises where it does not converge
        return None
    affine = np.vstack([linear, [0.0, 0.0, 1.0]]).astype(np.float64)
    step = shift(-margin, -margin) @ _as_similarity(affine, (template.shape[0], template.shape[1]))
    return step if 0.8 < step[0, 0] ** 2 + step[1, 0] ** 2 < 1.25 else None


def _as_similarity(matrix: Matrix, size: tuple[int, int]) -> Matrix:
    """Return the similarity that maps an image's middle as an affine transform does, and its axes in the mean."""
    a, b = (matrix[0, 0] + matrix[1, 1]) / 2, (matrix[1, 0] - matrix[0, 1]) / 2
    middle = image_center_yx(size)
    y, x = apply_transform(matrix, np.array([middle]))[0]
    turn = np.array([[a, -b, 0.0], [b, a, 0.0], [0.0, 0.0, 1.0]])
    return shift(y, x) @ turn @ shift(-middle[0], -middle[1])
