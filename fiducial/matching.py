"""Compare a small image pixel by pixel with a place in a larger one, near a first guess, and refine the place.

Images are compared as looks: local contrast and edges. Contrast may be inverted; edges are also compared with contrast, since
some detectors show edges alone. Transforms are similarities.

What an image does not show is a gap, and NaN in everything made of it: a local mean is one of what is known around, and two
images are compared over what both show. Where nothing is missing, each step is the plain one.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from fiducial.coords import Matrix, apply_transform, corners_yx, image_center_yx, resize_transform, shift, similarity
from fiducial.geometry import local_contrast
from fiducial.images import averaged, intensity_range, read_reduced
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
_GAP_PX = 3  # least width of a gap: what is missing on less is dead pixels, and filled from around
_FEATHER_PX = 3.0  # over which an image fades out at a gap, before its spectrum is taken
_LEAST = 1e-5  # variance of what both looks show: below, nothing is there to be compared

Gray = Float32[np.ndarray, "_ _"]


class Look(NamedTuple):
    """An image as verification sees it; 0 in gaps."""

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
        correlation: normalized, without sign, in the best of the looks; of what both images show, times the root of its
            share of the outline, since what is wrong correlates as much better by chance. channel: which of the looks (an
            index into `_CHANNELS`).
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
    contrast = contrast_of(image)
    return Look(without_gaps(contrast), without_gaps(contrast_of(_edges(contrast))))


def _seen(image: Gray, field: int) -> Gray:
    """Return one field of an image's look."""
    contrast = contrast_of(image)
    return contrast if field == _CONTRAST else contrast_of(_edges(contrast))


def _has_gaps(image: Gray) -> bool:
    return bool(np.isnan(image.min()))


def without_gaps(image: Gray) -> Gray:
    """Return an image with 0 in its gaps: of a look, no contrast."""
    return np.where(np.isnan(image), np.float32(0), image) if _has_gaps(image) else image


def _with_gaps(image: Gray, other: Gray) -> Gray:
    """Return an image with gaps where another one has them."""
    return np.where(np.isnan(other), np.float32(np.nan), image) if _has_gaps(other) else image


def contrast_of(image: Gray) -> Gray:
    """Return local contrast as `geometry.local_contrast` does; mean and deviation around a pixel are of what is known."""
    if not _has_gaps(image):
        return local_contrast(image, CONTRAST_PX)
    known = ~np.isnan(image)
    if not known.any():
        return image
    around = np.maximum(cv2.GaussianBlur(known.astype(np.float32), (0, 0), CONTRAST_PX), np.float32(1e-6))
    out = np.where(known, image, np.float32(0))
    out -= cv2.GaussianBlur(out, (0, 0), CONTRAST_PX) / around
    out[~known] = 0
    deviation = cv2.GaussianBlur(out * out, (0, 0), CONTRAST_PX)
    deviation /= around
    deviation += 0.04 * float(deviation[known].mean()) + 1e-8
    np.divide(out, np.sqrt(deviation, out=deviation), out=out)
    np.clip(out, -4, 4, out=out)
    out[~known] = np.nan
    return out


def _spread(image: Gray, sigma_px: float) -> Gray:
    """Return an image blurred, each value a mean of what is known around; so it reaches a little into gaps, which end in 0."""
    if not _has_gaps(image):
        return cv2.GaussianBlur(image, (0, 0), sigma_px)
    around = cv2.GaussianBlur((~np.isnan(image)).astype(np.float32), (0, 0), sigma_px)
    return cv2.GaussianBlur(without_gaps(image), (0, 0), sigma_px) / np.maximum(around, np.float32(1e-3))


def _smooth(image: Gray, sigma_px: float) -> Gray:
    """Return an image blurred; its gaps stay."""
    return _with_gaps(_spread(image, sigma_px), image)


def _edges(contrast: Gray) -> Gray:
    smooth = _spread(contrast, 1.0)
    out = cv2.Sobel(smooth, cv2.CV_32F, 1, 0)
    np.multiply(out, out, out=out)
    dy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    np.multiply(dy, dy, out=dy)
    np.add(out, dy, out=out)
    return _with_gaps(np.sqrt(out, out=out), contrast)


def read_with_side(image: Image, side: float) -> Gray:
    """Return an image's gray values brought to a shorter side and normalized once for the whole image.

    The 1st and 99th percentile become -1 and 1, what lies beyond -4 and 4 is clipped to them. NaN and infinite values are
    gaps, and NaN; single dead pixels and lines are filled from around.

    Raises:
        InputError: constant, without finite values, or not gray or color.
    """
    low, high = intensity_range(image)
    middle, half = (low + high) / 2, (high - low) / 2
    gray = read_reduced(image, round(max(image.size) * min(1.0, side / min(image.size))), undefined=np.nan)
    gray -= np.float32(middle)
    gray /= np.float32(half)
    return with_side(_without_dead_pixels(np.clip(gray, -4, 4, out=gray)), image.size, side)


def _without_dead_pixels(image: Gray) -> Gray:
    if not _has_gaps(image):
        return image
    missing = np.isnan(image)
    gaps = cv2.morphologyEx(missing.astype(np.uint8), cv2.MORPH_OPEN, np.ones((_GAP_PX, _GAP_PX), np.uint8)) > 0
    return np.where(missing & ~gaps, _spread(image, 1.0), image)


def with_side(image: Gray, full_size: tuple[int, int], side: float) -> Gray:
    """Resize an image so that the shorter of its full size's sides comes to `side`."""
    h, w = (max(1, round(n * side / min(full_size))) for n in full_size)
    if image.shape == (h, w):
        return image
    return averaged(image, (w, h), np.nan) if h < image.shape[0] else cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)


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


def _correlation(window: Gray, template: Gray) -> Float32[np.ndarray, "i j"]:
    """Return the normalized correlation of a template with a window at each shift.

    Where either has a gap, it is that of what both show, times the root of its share of the template.
    """
    if not (_has_gaps(window) or _has_gaps(template)):
        return cv2.matchTemplate(window, template, cv2.TM_CCOEFF_NORMED)
    shown, known = ((~np.isnan(image)).astype(np.float32) for image in (window, template))
    w, t = (_centered(image) for image in (window, template))

    def sums(of_window: Gray, of_template: Gray) -> Gray:
        return cv2.matchTemplate(of_window, of_template, cv2.TM_CCORR)

    count = np.maximum(np.rint(sums(shown, known)), 1)
    w_mean, t_mean = sums(w, known) / count, sums(shown, t) / count
    w_spread, t_spread = sums(w * w, known) / count - w_mean**2, sums(shown, t * t) / count - t_mean**2
    varied = (w_spread > _LEAST) & (t_spread > _LEAST)
    norm = np.sqrt(np.where(varied, w_spread * t_spread, 1))
    value = np.where(varied, (sums(w, t) / count - w_mean * t_mean) / norm, 0)
    return (np.clip(value, -1, 1) * np.sqrt(count / template.size)).astype(np.float32)


def _centered(image: Gray) -> Gray:
    """Return an image less its mean, 0 in gaps."""
    known = ~np.isnan(image)
    return np.where(known, image - without_gaps(image).sum() / max(int(known.sum()), 1), np.float32(0)).astype(np.float32)


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
    was, sign = _agreement(small, template, rung, placed, match.channel)
    small, template, best = sign * small, (sign * template).astype(np.float32), placed
    for margin, alone in ((round(0.1 * side), False), (0, True), (0, True)):
        window = _window(rung.image if alone else rung.look[theirs], best, template.shape, margin)
        step = _ecc_step(*(_facing(small, template, window, match.channel) if alone else (template, window)), margin)
        best = best if step is None else best @ step
    now, _ = _agreement(small, template, rung, best, match.channel)
    best, correlation = (best, now) if now > was else (placed, was)
    back = np.linalg.inv(rung.from_source) @ best @ query_to_small
    return Match(back, correlation, match.confidence, match.channel, *_distinctness(template, rung, best, theirs))


def _facing(small: Gray, template: Gray, there: Gray, channel: int) -> tuple[Gray, Gray]:
    """Return the looks of a small query and of what the source shows in its outline: where either has a gap, both have.

    `template` is the query's look where neither has one. Contrast that is normalized over more in one image than in the
    other would draw the outline, too.
    """
    own, theirs = _CHANNELS[channel]
    if not (_has_gaps(small) or _has_gaps(there)):
        return template, _seen(there, theirs)
    return _seen(_with_gaps(small, there), own), _seen(_with_gaps(there, small), theirs)


def _distinctness(template: Gray, rung: Rung, matrix: Matrix, theirs: int) -> tuple[float, float, float]:
    """Return the correlation of fine detail at a place, by how much the place outdoes its neighborhood, and its phase."""
    margin = round(0.2 * min(template.shape))
    seen = _seen(_window(rung.image, matrix, template.shape, margin), theirs)
    fine, there = (_smooth(image, 1.0) - _smooth(image, 2.5) for image in (template, seen))
    inside = np.ascontiguousarray(there[margin:-margin, margin:-margin])
    detail = float(_correlation(inside, fine)[0, 0])
    smooth, window = (_smooth(image, 1.0) for image in (template, seen))
    surface = np.clip(_correlation(window, smooth), -1, 1)
    y, x = np.mgrid[-margin : margin + 1, -margin : margin + 1]
    away = np.hypot(y, x) > max(3.0, 0.06 * min(template.shape))
    sharpness = float(surface[margin, margin] - surface[away].max())
    return (detail if abs(detail) <= 1 else 0.0), sharpness, _phase(template, seen[margin:-margin, margin:-margin])


def _phase(template: Gray, there: Gray) -> float:
    """Return the log of the phase correlation of two images at a shift of next to nothing over the highest at any other."""
    h, w = template.shape
    taper = cv2.createHanningWindow((w, h), cv2.CV_32F)
    if _has_gaps(template) or _has_gaps(there):
        shown = (~(np.isnan(template) | np.isnan(there))).astype(np.float32)
        taper *= shown * np.clip(2 * cv2.GaussianBlur(shown, (0, 0), _FEATHER_PX) - 1, 0, 1)
        if not taper.any():
            return 0.0
        template, there = without_gaps(template), without_gaps(there)
    own, other = (np.fft.rfft2((image - np.average(image, weights=taper)) * taper) for image in (template, there))
    cross = own * other.conj()
    surface = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9), s=(h, w))
    apart = np.hypot(*np.meshgrid(h * np.fft.fftfreq(h), w * np.fft.fftfreq(w), indexing="ij"))
    here, elsewhere = (float(surface[which].max()) for which in (apart < _AT, apart > _BESIDE))
    return float(np.log(max(here / max(elsewhere, 1e-9), 1.0)))


def _agreement(small: Gray, template: Gray, rung: Rung, matrix: Matrix, channel: int) -> tuple[float, float]:
    """Return the correlation with what the source shows in the outline alone, from 0 to 1, and the sign of the contrast."""
    facing = _facing(small, template, _window(rung.image, matrix, template.shape, 0), channel)
    smooth, seen = (_smooth(image, 1.0) for image in facing)
    value = float(_correlation(seen, smooth)[0, 0])
    value = value if abs(value) <= 1 else 0.0
    return (abs(value), -1.0 if value < 0 else 1.0) if channel == 0 else (max(value, 0.0), 1.0)


def _ecc_step(template: Gray, window: Gray, margin: int) -> Matrix | None:
    """Return the similarity that takes pixels of the template to where the window shows them; None where ECC fails."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-5)
    start, shown = shift(margin, margin)[:2].astype(np.float32), None
    if _has_gaps(template) or _has_gaps(window):
        shown = np.where(np.isnan(window), 0, 255).astype(np.uint8)  # before OpenCV 5 a template has no mask
        template, window = (without_gaps(image) for image in (template, window))
    try:
        _, linear = cv2.findTransformECC(template, window, start, cv2.MOTION_AFFINE, stop, shown, 5)
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
