"""Estimate and apply transforms between images that nearly show the same thing.

Transforms are 3×3 on (x, y, 1). `align` finds the affine transform from a moving to a fixed image of one kind (a template and
its sample): candidates from the identity, phase correlation, SIFT and an exhaustive search over quarter turns, angles and
scales; each refined by ECC (Evangelidis & Psarakis 2008); the best by correlation wins. It does not decide on trust.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from fiducial.coords import Matrix, apply_transform, image_center_yx, resize_transform, shift, similarity

Gray = Float32[np.ndarray, "_ _"]
Known = Bool[np.ndarray, "_ _"] | None

NOTHING = -1.0  # correlation of what cannot be compared
SURE = 0.9  # correlation at which no further candidate is tried
_TONES = 1024  # steps, even in rank, between the knots of a tone curve
_LIGHT_PX = 20.0  # what changes more slowly is taken for light
_SIMPLER = 0.002  # gain in correlation that a less simple transform must bring
_SEARCH_MIN_PX = 16  # a shorter side holds too little for a correlation
_SEARCH_PX = 128  # longest side during the exhaustive search
_STRIPES = 0.45  # offsets of lines beside detail, in the median, from which an image counts as striped
_LEAST_MATCHES = 6  # of SIFT that must agree: two determine a similarity, the others support it
_NEAR_PX = 9  # side of a neighborhood in which a pixel without a value tells on the blurred image
_BLUR_PX = 1.5  # before correlation: what alignment judges is larger than noise and edge jitter


@dataclass(frozen=True)
class ToneCurve:
    """Gray values in increasing order, and what each becomes, from -1 to 1."""

    values: Float32[np.ndarray, " n"]
    ranks: Float32[np.ndarray, " n"]


@dataclass(frozen=True)
class Alignment:
    """A transform from moving to fixed image and the correlation of the two where they overlap.

    Attributes:
        score: normalized correlation of the blurred images, times twice the share of the fixed image that is covered if that
            is under one half; where images have pixels without a value, of the share that is known of the one that has more
            of these. -1 if nothing can be compared.
    """

    moving_to_fixed: Matrix
    score: float


def local_contrast(image: Gray, range_px: float) -> Gray:
    """Return an image less its local mean, over its local deviation (Gaussian windows of `range_px`), within ±4.

    Where there is next to no contrast, a fifth of the whole image's deviation stands in for the local one.
    """
    out = cv2.GaussianBlur(image, (0, 0), range_px, borderType=cv2.BORDER_REFLECT_101)
    np.subtract(image, out, out=out)  # in place from here on: of a large source few copies fit into memory
    deviation = cv2.GaussianBlur(out * out, (0, 0), range_px, borderType=cv2.BORDER_REFLECT_101)
    deviation += 0.04 * float(deviation.mean()) + 1e-8
    np.sqrt(deviation, out=deviation)
    np.divide(out, deviation, out=out)
    return np.clip(out, -4, 4, out=out)


def tone_curve(values: Float32[np.ndarray, " n"]) -> ToneCurve:
    """Return the curve that spreads these gray values evenly over [-1, 1]: each goes to its mean rank among them.

    It is the same for an image and for that image with any increasing change of tones. NaN and infinite values are left out;
    if nothing is left, everything goes to 0.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return ToneCurve(np.zeros(1, np.float32), np.zeros(1, np.float32))
    own, count = np.unique(finite, return_counts=True)
    rank = (np.cumsum(count) - count / 2) / finite.size  # from 0 to 1
    even = np.searchsorted(rank, np.linspace(rank[0], rank[-1], _TONES))
    kept = np.unique(np.append(even, even - 1).clip(0, len(own) - 1))  # the value before, too: its rank may lie far below
    return ToneCurve(own[kept].astype(np.float32), (2 * rank[kept] - 1).astype(np.float32))


def equalize(image: Gray, curve: ToneCurve) -> Gray:
    """Return an image's gray values along a curve; NaN becomes 0."""
    return np.nan_to_num(np.interp(image, curve.values, curve.ranks), nan=0.0).astype(np.float32)


def remove_stripes(image: Gray, range_px: float = 6.0) -> Gray:
    """Return an image without offsets of single scan lines, as charging leaves them, if it has such stripes all over.

    A line's offset is the median, along it, of its difference from the lines around (a Gaussian of `range_px`): structure
    counts as a stripe only where it fills more than half of a line. If the offsets are small beside the image's own
    detail, the image is returned as it is.
    """
    around = cv2.GaussianBlur(image, (1, 0), sigmaX=0.1, sigmaY=range_px, borderType=cv2.BORDER_REFLECT_101)
    apart = image - around
    offset = np.median(apart, axis=1, keepdims=True)
    detail = float(np.median(np.abs(apart - offset)))
    striped = float(np.median(np.abs(offset))) > _STRIPES * detail
    return (image - offset).astype(np.float32) if striped else image


def warp(image: Gray, matrix: Matrix, size: tuple[int, int]) -> tuple[Gray, Bool[np.ndarray, "h w"]]:
    """Resample `image` by `matrix` (from its pixels to the result's) onto a grid of `size`, and say what it covers."""
    how = cv2.INTER_NEAREST if _is_whole_shift(matrix) else cv2.INTER_LINEAR
    out = cv2.warpPerspective(image, matrix, size[::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)
    covered = cv2.warpPerspective(np.ones_like(image), matrix, size[::-1], flags=how)
    return out, covered > 0.999


def _is_whole_shift(matrix: Matrix) -> bool:
    return np.array_equal(matrix[:2, :2], np.eye(2)) and np.array_equal(matrix, np.round(matrix))


def correlation(a: Gray, b: Gray, valid: Bool[np.ndarray, "h w"]) -> float:
    """Return the normalized correlation of two images where `valid`; -1 if either is constant there or nothing is valid."""
    if not valid.any():
        return NOTHING
    x, y = a[valid], b[valid]
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else NOTHING


def score(moving: Gray, fixed: Gray, matrix: Matrix, moving_known: Known = None, fixed_known: Known = None) -> float:
    """Return the score of an alignment, as `Alignment` defines it; the images are blurred already.

    The images are compared only where both are known, if that is given.
    """
    moved, covered = warp(moving, matrix, fixed.shape)
    if moving_known is not None:
        covered &= warp(moving_known.astype(np.float32), matrix, fixed.shape)[0] > 0.999
    if fixed_known is not None:
        covered &= fixed_known
    if not covered.any():
        return NOTHING
    could_be = min((float(known.mean()) for known in (moving_known, fixed_known) if known is not None), default=1.0)
    return correlation(moved, fixed, covered) * min(1.0, 2 * float(covered.mean()) / could_be)


def align(moving: Gray, fixed: Gray, moving_known: Known = None, fixed_known: Known = None) -> Alignment:
    """Find the affine transform that lays `moving` on `fixed`.

    Made for views of one object from one kind of sensor: any shift with half the area in common, any angle within ±15°
    of a quarter turn, scales of 0.9 to 1.1, changes of light. Both images need intensities near [0, 1]. What is known of
    an image are its pixels that have a value, if some have none; these should be filled with what lies around.
    """
    known = (_far_from_gaps(moving_known), _far_from_gaps(fixed_known))
    blurred_moving, blurred_fixed = (_flatten(image) for image in (moving, fixed))
    best = Alignment(np.eye(3), score(blurred_moving, blurred_fixed, np.eye(3), *known))
    for candidate in _candidates(blurred_moving, blurred_fixed):
        refined = refine(blurred_moving, blurred_fixed, candidate, *known)
        if refined.score > best.score + _SIMPLER:
            best = refined
        if best.score > SURE:
            break
    return best


def _far_from_gaps(known: Known) -> Known:
    """Return where nothing in the neighborhood lacks a value, if anything does."""
    return None if known is None else cv2.erode(known.astype(np.uint8), np.ones((_NEAR_PX, _NEAR_PX), np.uint8)) > 0


def _flatten(image: Gray) -> Gray:
    """Blur noise away and subtract what changes slowly, which is mostly light."""
    blurred = cv2.GaussianBlur(image, (0, 0), _BLUR_PX)
    return blurred - cv2.GaussianBlur(image, (0, 0), _LIGHT_PX)


def _candidates(moving: Gray, fixed: Gray) -> Iterator[Matrix]:
    """Yield starting points from the most likely and cheapest to the exhaustive search."""
    yield np.eye(3)
    if min(*moving.shape, *fixed.shape) < _SEARCH_MIN_PX:
        return
    if moving.shape == fixed.shape:
        yield phase_shift(moving, fixed)
    yield from feature_similarity(moving, fixed)
    yield from search_similarity(moving, fixed)


def phase_shift(moving: Gray, fixed: Gray) -> Matrix:
    """Return the shift between two images of one size by phase correlation under a Hann window."""
    window = cv2.createHanningWindow(fixed.shape[::-1], cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(moving, fixed, window)
    return shift(dy, dx)


def feature_similarity(moving: Gray, fixed: Gray) -> Iterator[Matrix]:
    """Yield the similarity that most SIFT matches agree on (RANSAC), if at least six do."""
    sift = cv2.SIFT_create(2000)  # type: ignore[attr-defined]  # OpenCV's stubs lack it
    (points_m, desc_m), (points_f, desc_f) = (sift.detectAndCompute(_to_uint8(image), None) for image in (moving, fixed))
    if desc_m is None or desc_f is None or min(len(desc_m), len(desc_f)) < _LEAST_MATCHES:
        return
    pairs = [p for p in cv2.BFMatcher().knnMatch(desc_m, desc_f, k=2) if len(p) == 2 and p[0].distance < 0.85 * p[1].distance]
    if len(pairs) < _LEAST_MATCHES:
        return
    source = np.array([points_m[p[0].queryIdx].pt for p in pairs])
    target = np.array([points_f[p[0].trainIdx].pt for p in pairs])
    linear, inliers = cv2.estimateAffinePartial2D(source, target, method=cv2.RANSAC, ransacReprojThreshold=3.0)
    if linear is None or inliers.sum() < _LEAST_MATCHES:
        return
    matrix = np.vstack([linear, [0.0, 0.0, 1.0]])
    if _is_plausible(matrix):
        yield matrix


def _to_uint8(image: Gray) -> UInt8[np.ndarray, "h w"]:
    return np.clip(image * 128 + 127, 0, 255).astype(np.uint8)


def search_similarity(moving: Gray, fixed: Gray, keep: int = 4) -> Iterator[Matrix]:
    """Yield the best similarities among quarter turns, angles within ±16° and scales of 0.88 to 1.12, best first.

    At each the shift comes from the correlation of edge maps, by FFT on images reduced to 128 px.
    """
    factor = _SEARCH_PX / max(*moving.shape, *fixed.shape)
    (small_m, up_m), (small_f, up_f) = (_reduce(image, factor) for image in (moving, fixed))
    spectrum = np.fft.rfft2(_edges(small_f), (2 * _SEARCH_PX, 2 * _SEARCH_PX))
    center_m, center_f = image_center_yx(small_m.shape), image_center_yx(small_f.shape)
    found = []
    for turn in (0, 90, 180, 270):
        for angle in np.arange(-16, 16.1, 2.0):
            for scale in (0.88, 0.92, 0.96, 1.0, 1.04, 1.08, 1.12):
                around = shift(*center_f) @ similarity(scale, turn + angle) @ shift(-center_m[0], -center_m[1])
                peak, matrix = _best_shift(small_m, small_f.shape, spectrum, around)
                found.append((peak, matrix))
    for _, matrix in sorted(found, key=lambda item: -item[0])[:keep]:
        yield np.linalg.inv(up_f) @ matrix @ up_m


def _reduce(image: Gray, factor: float) -> tuple[Gray, Matrix]:
    size = (max(8, round(image.shape[0] * factor)), max(8, round(image.shape[1] * factor)))
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=how), resize_transform((image.shape[0], image.shape[1]), size)


def _edges(image: Gray) -> Gray:
    """Return the root of the gradient's magnitude, less its mean and tapered at the border: blind to slow changes of light."""
    dx, dy = (cv2.Scharr(image, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    root = np.sqrt(np.sqrt(dx * dx + dy * dy))  # so that a few strong edges do not decide alone
    window = cv2.createHanningWindow(image.shape[::-1], cv2.CV_32F)
    return (root - root.mean()) * np.sqrt(window)


def _best_shift(moving: Gray, size: tuple[int, ...], spectrum: np.ndarray, around: Matrix) -> tuple[float, Matrix]:
    height, width = size
    moved = cv2.warpPerspective(moving, around, (width, height), borderMode=cv2.BORDER_REPLICATE)
    edges = _edges(moved)
    surface = np.fft.irfft2(spectrum * np.fft.rfft2(edges, (2 * _SEARCH_PX, 2 * _SEARCH_PX)).conj())
    y, x = np.unravel_index(int(surface.argmax()), surface.shape)
    dy, dx = (int(v) - 2 * _SEARCH_PX if v >= _SEARCH_PX else int(v) for v in (y, x))
    norm = float(np.linalg.norm(edges))
    return (float(surface[y, x]) / norm if norm > 0 else 0.0), shift(dy, dx) @ around


def refine(moving: Gray, fixed: Gray, start: Matrix, moving_known: Known = None, fixed_known: Known = None) -> Alignment:
    """Refine a transform by ECC, coarse to fine; return the simplest of start, similarity and affine that scores best.

    ECC is free to shear where a picture has no structure; a similarity fitted to its answer where there is some is
    preferred unless the affine transform correlates better by `_SIMPLER`.
    """
    matrix = start
    for factor in _pyramid(max(fixed.shape)):
        (small_m, up_m), (small_f, up_f) = (_reduce(image, factor) for image in (moving, fixed))
        guess = np.linalg.inv(up_f @ matrix @ np.linalg.inv(up_m))
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
        try:
            _, linear = cv2.findTransformECC(small_f, small_m, guess[:2].astype(np.float32), cv2.MOTION_AFFINE, stop, None, 1)
        except cv2.error:  # ECC raises where it does not converge: the last level stands
            break
        inverse = np.vstack([linear, [0.0, 0.0, 1.0]])
        if not _is_plausible(inverse):
            break
        matrix = np.linalg.inv(up_f) @ np.linalg.inv(inverse) @ up_m
    best = Alignment(start, score(moving, fixed, start, moving_known, fixed_known))
    for candidate in (_nearest_similarity(matrix, moving), matrix):
        value = score(moving, fixed, candidate, moving_known, fixed_known)
        if value > best.score + _SIMPLER:
            best = Alignment(candidate, value)
    return best


def _is_plausible(matrix: Matrix) -> bool:
    stretch = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    return bool(stretch.min() > 0.75 and stretch.max() < 1.33)


def _nearest_similarity(matrix: Matrix, moving: Gray) -> Matrix:
    """Return the similarity nearest to an affine transform on the strongest edges of the moving image."""
    from skimage.transform import estimate_transform  # noqa: PLC0415 (slow to load, and only the inspection needs it)

    dx, dy = (cv2.Scharr(moving, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    strength = np.sqrt(dx * dx + dy * dy)
    points = np.argwhere(strength >= np.quantile(strength[::3, ::3], 0.95))[::7].astype(np.float64)
    moved = apply_transform(matrix, points)
    found = estimate_transform("similarity", points[:, ::-1], moved[:, ::-1])
    return np.asarray(found.params, dtype=np.float64) if found else matrix


def _pyramid(longest: int) -> list[float]:
    """Return the reductions at which to refine: about 160, 320 and 640 px, none enlarged."""
    return [min(1.0, side / longest) for side in (160, 320, 640) if side <= max(longest, 160)]
