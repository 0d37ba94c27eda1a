"""Find blobs as people do today: LoG, DoG and DoH of scikit-image, Otsu with a watershed; each told its best setting.

A setting is chosen on the very images that are measured on, which flatters the method: the threshold, the range of σ, and
whether blobs are bright or dark. To choose it, a method's scale space is computed once per image; a threshold keeps the peaks
above it, of which overlapping ones are pruned. What is then measured, time included, is scikit-image's own function with the
setting chosen. That both have the same peaks is checked on every image (`SpaceMethod.run`): each blob of scikit-image must be
among the peaks above the threshold. Only which of overlapping blobs is dropped may differ, as scikit-image decides that by the
order of a set.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64
from result_files import bounds, share_bounds
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.feature import blob_dog, blob_doh, blob_log, hessian_matrix_det, peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label
from skimage.segmentation import watershed

from fiducial import metrics, weights
from fiducial.blobs.detector import PERCENTILES, BlobDetector
from fiducial.blobs.network import CADSN
from fiducial.confidence import CrowdCalibration
from fiducial.crowds import crowd_of_labels
from fiducial.datasets import CrowdImage
from fiducial.device import has_fast_bf16
from fiducial.evaluate.blobs import Findings, Judged, find, judge
from fiducial.images import to_gray
from fiducial.metrics import Counts

MIN_SIGMA, MAX_SIGMA, SIGMAS, DOG_RATIO = 1.5, 40.0, 10, 1.6  # of LoG, in equal ratios; radius = √2 σ
LEAST_PROBABILITY = 0.5  # of what `detect` reports unless told otherwise
OVERLAP = 0.5  # part of the smaller of two blobs above which it is dropped
POLARITIES = ("bright", "dark")
MIN_DISTANCES, SMALLEST_PX = (2, 4, 6, 9, 13, 18, 25), (8, 30, 100)

Gray = Float64[np.ndarray, "h w"]


@dataclass(frozen=True)
class Setting:
    """What a method is told: which blobs to look for, and its threshold and scales, or for the watershed its two sizes."""

    polarity: str
    threshold: float = math.nan
    sigmas: tuple[float, ...] = ()
    min_distance: int = 0
    smallest_px: int = 0

    def __str__(self) -> str:
        """Return the setting in words."""
        if self.min_distance:
            return f"{self.polarity}, peaks {self.min_distance} px apart, at least {self.smallest_px} px"
        return f"{self.polarity}, threshold {self.threshold:.3g}, σ {self.sigmas[0]:.3g} to {self.sigmas[-1]:.3g}"


class Method(Protocol):
    """A method that has settings: what it finds with each of them, and with one of them."""

    def scan(self, gray: Gray) -> Iterator[tuple[Setting, Float64[np.ndarray, "n 2"]]]:
        """Yield each setting and the centers found with it."""

    def run(self, image: CrowdImage, setting: Setting) -> Findings:
        """Find with one setting; the time is that from the pixels to the answer."""


def load_detector(file: Path | None) -> BlobDetector:
    """Load the detector on the CPU; the shipped weights if no file is given."""
    loaded, cpu = weights.load("blobs", file), torch.device("cpu")
    assert isinstance(loaded.network, CADSN)
    assert loaded.calibration is None or isinstance(loaded.calibration, CrowdCalibration)
    return BlobDetector(loaded.network, loaded.calibration, cpu, bf16=has_fast_bf16(cpu))


def measure_candidates(detector: BlobDetector, images: Sequence[CrowdImage]) -> list[Judged]:
    """Judge all that our detector sees, however improbable, after one run to warm up."""
    find(detector, images[0])
    return [judge(image.crowd, find(detector, image, 0.0)) for image in images]


def reported(candidates: Sequence[Judged]) -> list[Judged]:
    """Judge what of them is probable enough to be reported."""
    kept = []
    for judged in candidates:
        found, n = judged.found, int((judged.found.score >= LEAST_PROBABILITY).sum())  # best first
        own = Findings(found.yx[:n], found.radius[:n], found.score[:n], found.interval, found.seconds)
        kept.append(judge(judged.crowd, own))
    return kept


def measure_detector(detector: BlobDetector, images: Sequence[CrowdImage]) -> list[Judged]:
    """Judge what our detector reports."""
    return reported(measure_candidates(detector, images))


def crowd_bounds(judged: Sequence[Judged], cluster: Sequence[int] | None = None) -> dict[str, float]:
    """Return the intervals of F1, of the share of neighbors both found, and of the share of counts covered.

    The first two are bootstrapped over the clusters that images belong to, each of one image by default.
    """
    _, own = np.unique(range(len(judged)) if cluster is None else cluster, return_inverse=True)
    pairs = [metrics.adjacent_pairs(j.crowd.yx, j.crowd.radius) for j in judged]
    counts, both = np.zeros((own.max() + 1, 3), dtype=np.int64), np.zeros((own.max() + 1, 2), dtype=np.int64)
    for i, j, p in zip(own, judged, pairs, strict=True):
        counts[i] += (j.counts.true_positive, j.counts.false_positive, j.counts.false_negative)
        both[i] += ((j.partner[p] >= 0).all(axis=1).sum(), len(p))

    def f1(chosen: Int64[np.ndarray, " n"]) -> float:
        return Counts(*counts[chosen].sum(axis=0).tolist()).f()

    def adjacent(chosen: Int64[np.ndarray, " n"]) -> float:
        found, there = both[chosen].sum(axis=0).tolist()
        return found / there if there else math.nan

    covered = [j.found.interval[0] <= len(j.crowd) <= j.found.interval[1] for j in judged if j.found.interval is not None]
    out = bounds("f1", len(counts), f1) | bounds("adjacent", len(both), adjacent)
    return out | share_bounds("count_covered", covered)


def measure_method(method: Method, images: Sequence[CrowdImage]) -> tuple[Setting, list[Judged]]:
    """Judge what a method finds with the setting that is best on these images."""
    setting = best_setting(method, images)
    return setting, [judge(image.crowd, method.run(image, setting)) for image in images]


def best_setting(method: Method, images: Sequence[CrowdImage]) -> Setting:
    """Return the setting of the best F1 over all images."""
    total: dict[Setting, Counts] = {}
    for image in images:
        reach = metrics.blob_reach(image.crowd.radius)
        for setting, yx in method.scan(normalized_gray(image)):
            hits = int((metrics.match_points(yx, image.crowd.yx, reach) >= 0).sum())
            own = Counts(hits, len(yx) - hits, len(image.crowd) - hits)
            total[setting] = total.get(setting, Counts(0, 0, 0)) + own
    return max(total, key=lambda setting: np.nan_to_num(total[setting].f()))


def normalized_gray(image: CrowdImage) -> Gray:
    """Return luminance, 0 and 1 at the percentiles that our detector takes, clipped."""
    gray = to_gray(image.pixels, image.name).astype(np.float64)
    zero, one = np.percentile(gray, PERCENTILES)
    return np.clip((gray - zero) / max(one - zero, 1e-9), 0, 1)


def made_bright(gray: Gray, polarity: str) -> Gray:
    """Return the image, or its negative if dark blobs are looked for."""
    return 1 - gray if polarity == "dark" else gray


@dataclass(frozen=True)
class Peaks:
    """Local maxima of a scale space, highest first."""

    yx: Int[np.ndarray, "n 2"]
    sigma: Float64[np.ndarray, " n"]
    height: Float64[np.ndarray, " n"]


def log_space(gray: Gray) -> tuple[Float64[np.ndarray, "h w s"], Float64[np.ndarray, " s"]]:
    """Return the Laplacians of Gaussian, bright blobs above 0, and their σ, as `blob_log` computes them."""
    sigmas = np.geomspace(MIN_SIGMA, MAX_SIGMA, SIGMAS)
    return np.stack([-ndimage.gaussian_laplace(gray, s) * s**2 for s in sigmas], axis=-1), sigmas


def dog_space(gray: Gray) -> tuple[Float64[np.ndarray, "h w s"], Float64[np.ndarray, " s"]]:
    """Return the differences of Gaussians and their smaller σ, as `blob_dog` computes them."""
    count = int(math.log(MAX_SIGMA / MIN_SIGMA) / math.log(DOG_RATIO) + 1)
    sigmas = MIN_SIGMA * DOG_RATIO ** np.arange(count + 1)
    smooth = np.stack([gaussian(gray, sigma=s, mode="reflect") for s in sigmas], axis=-1)
    return (smooth[..., :-1] - smooth[..., 1:]) / (DOG_RATIO - 1), sigmas[:-1]


def doh_space(gray: Gray) -> tuple[Float64[np.ndarray, "h w s"], Float64[np.ndarray, " s"]]:
    """Return the determinants of the Hessian, above 0 for bright and dark blobs alike, and their σ, as `blob_doh` does."""
    sigmas = np.geomspace(math.sqrt(2) * MIN_SIGMA, math.sqrt(2) * MAX_SIGMA, SIGMAS)
    return np.stack([hessian_matrix_det(gray, s) for s in sigmas], axis=-1), sigmas


def peaks_of(space: Float64[np.ndarray, "h w s"], sigmas: Float64[np.ndarray, " s"], least: float) -> Peaks:
    """Return the local maxima above `least`."""
    at = np.nonzero((space == ndimage.maximum_filter(space, size=3, mode="nearest")) & (space > least))
    order = np.argsort(-space[at], kind="stable")
    y, x, s = (part[order] for part in at)
    return Peaks(np.stack([y, x], axis=1), sigmas[s], space[y, x, s])


def smaller_rivals(peaks: Peaks) -> list[Int[np.ndarray, " k"]]:
    """Return, for each peak, those that overlap it by more than OVERLAP of their area and yield to it: not larger ones.

    Of two peaks of one size the higher one yields, as scikit-image has it. A disk's radius is √2 σ, DoH's too.
    """
    if not len(peaks.yx):
        return []
    radius, number = math.sqrt(2) * peaks.sigma, np.arange(len(peaks.yx))
    rivals = []
    for i, near in enumerate(cKDTree(peaks.yx).query_ball_point(peaks.yx, radius)):
        j = np.array(near, dtype=np.int64)
        j = j[(radius[j] < radius[i]) | ((radius[j] == radius[i]) & (number[j] < i))]
        apart = np.linalg.norm(peaks.yx[j] - peaks.yx[i], axis=1)
        rivals.append(j[_overlap(apart, radius[i], radius[j]) > OVERLAP])
    return rivals


def _overlap(apart: Float64[np.ndarray, " k"], large: float, small: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
    """Return the area that two disks share, in parts of the smaller one's."""
    inside, d = apart <= large - small, np.maximum(apart, 1e-9)
    a = np.arccos(np.clip((d**2 + small**2 - large**2) / (2 * d * small), -1, 1))
    b = np.arccos(np.clip((d**2 + large**2 - small**2) / (2 * d * large), -1, 1))
    kite = np.sqrt(np.maximum((-d + small + large) * (d + small - large) * (d - small + large) * (d + small + large), 0))
    shared = (small**2 * a + large**2 * b - kite / 2) / (np.pi * small**2)
    return np.where(inside, 1.0, np.where(apart >= large + small, 0.0, shared))


def pruned(peaks: Peaks, rivals: Sequence[Int[np.ndarray, " k"]], n: int) -> Int[np.ndarray, " k"]:
    """Return which of the n highest peaks are left where overlapping ones yield, the largest deciding first."""
    alive = np.arange(len(peaks.yx)) < n
    for i in np.lexsort((-np.arange(n), -peaks.sigma[:n])).tolist():
        if alive[i]:
            alive[rivals[i]] = False
    return np.flatnonzero(alive)


@dataclass(frozen=True)
class SpaceMethod:
    """A detector of scikit-image that thresholds the maxima of a scale space.

    Attributes:
        space: computes it. blobs: calls scikit-image's function. radius: of a blob over its σ.
        ranges: first and last of the scales that a setting may have, as a slice.
    """

    space: Callable[[Gray], tuple[Float64[np.ndarray, "h w s"], Float64[np.ndarray, " s"]]]
    blobs: Callable[[Gray, Setting], Float64[np.ndarray, "n 3"]]
    radius: float
    thresholds: tuple[float, ...]
    polarities: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...]

    def scan(self, gray: Gray) -> Iterator[tuple[Setting, Float64[np.ndarray, "n 2"]]]:
        """Yield each setting and the centers found with it."""
        for polarity in self.polarities:
            space, sigmas = self.space(made_bright(gray, polarity))
            for first, last in self.ranges:
                own = sigmas[first:last]
                peaks = peaks_of(space[..., first:last], own, min(self.thresholds))
                rivals = smaller_rivals(peaks)
                for threshold in self.thresholds:
                    kept = pruned(peaks, rivals, int((peaks.height > threshold).sum()))
                    yield Setting(polarity, threshold, tuple(own.tolist())), peaks.yx[kept].astype(np.float64)

    def run(self, image: CrowdImage, setting: Setting) -> Findings:
        """Find with scikit-image's function.

        Raises:
            RuntimeError: it finds what `scan` does not see.
        """
        begin = perf_counter()
        gray = made_bright(normalized_gray(image), setting.polarity)
        found = self.blobs(gray, setting)
        seconds = perf_counter() - begin
        space, sigmas = self.space(gray)
        own = np.isin(sigmas, setting.sigmas)
        seen = peaks_of(space[..., own], sigmas[own], 0.999 * setting.threshold)
        if unseen := set(_rounded(found)) - set(_rounded(np.column_stack([seen.yx, seen.sigma]))):
            raise RuntimeError(f"peaks must be those of scikit-image, {image.name} lacks {sorted(unseen)[:3]} and others")
        return Findings(found[:, :2], self.radius * found[:, 2], np.full(len(found), np.nan), None, seconds)


def _rounded(blobs: Float64[np.ndarray, "n 3"]) -> list[tuple[float, ...]]:
    return [tuple(row) for row in np.round(blobs.astype(np.float64), 6).tolist()]


@dataclass(frozen=True)
class Watershed:
    """Otsu's threshold of the smoothed image, cut by a watershed of the distance from the background."""

    def scan(self, gray: Gray) -> Iterator[tuple[Setting, Float64[np.ndarray, "n 2"]]]:
        """Yield each setting and the centers found with it."""
        for polarity in POLARITIES:
            for distance in MIN_DISTANCES:
                crowd = crowd_of_labels(_cut(gray, polarity, distance), smallest_px=1)
                for area in SMALLEST_PX:
                    yield Setting(polarity, min_distance=distance, smallest_px=area), crowd.yx[np.pi * crowd.radius**2 >= area]

    def run(self, image: CrowdImage, setting: Setting) -> Findings:
        """Find with one setting."""
        begin = perf_counter()
        labels = _cut(normalized_gray(image), setting.polarity, setting.min_distance)
        crowd = crowd_of_labels(labels, smallest_px=1)
        crowd = crowd.only(np.pi * crowd.radius**2 >= setting.smallest_px)
        return Findings(crowd.yx, crowd.radius, np.full(len(crowd), np.nan), None, perf_counter() - begin)


def _cut(gray: Gray, polarity: str, min_distance: int) -> Int[np.ndarray, "h w"]:
    smooth = gaussian(gray, sigma=1)
    if np.ptp(smooth) == 0:
        return np.zeros(gray.shape, dtype=np.int64)
    level = threshold_otsu(smooth)
    mask = smooth < level if polarity == "dark" else smooth > level
    parts = label(mask)
    mask &= np.bincount(parts.ravel())[parts] >= min(SMALLEST_PX)  # specks, which no setting counts
    distance, parts = ndimage.distance_transform_edt(mask), label(mask)
    at = peak_local_max(gaussian(distance, sigma=1), min_distance=min_distance, labels=parts, exclude_border=False)
    markers = np.zeros(gray.shape, dtype=np.int64)
    markers[tuple(at.T)] = np.arange(1, len(at) + 1)
    return watershed(-distance, markers, mask=mask)


def _log(gray: Gray, setting: Setting) -> Float64[np.ndarray, "n 3"]:
    s = setting.sigmas
    return blob_log(gray, s[0], s[-1], len(s), setting.threshold, OVERLAP, log_scale=True)


def _dog(gray: Gray, setting: Setting) -> Float64[np.ndarray, "n 3"]:
    s = setting.sigmas
    between = s[-1] * math.sqrt(DOG_RATIO)  # the largest σ is the last one below
    return blob_dog(gray, s[0], between, DOG_RATIO, setting.threshold, OVERLAP)


def _doh(gray: Gray, setting: Setting) -> Float64[np.ndarray, "n 3"]:
    s = setting.sigmas
    return blob_doh(gray, s[0], s[-1], len(s), setting.threshold, OVERLAP, log_scale=True)


LEVELS = tuple(np.geomspace(0.02, 0.6, 16).tolist())
DOH_LEVELS = tuple(np.geomspace(0.0003, 0.1, 16).tolist())
RANGES = ((0, 10), (0, 7), (0, 5), (2, 7), (4, 10))
DOG_RANGES = ((0, 7), (0, 5), (0, 4), (1, 5), (3, 7))
BASELINES: dict[str, Method] = {
    "LoG, tuned": SpaceMethod(log_space, _log, math.sqrt(2), LEVELS, POLARITIES, RANGES),
    "DoG, tuned": SpaceMethod(dog_space, _dog, math.sqrt(2), LEVELS, POLARITIES, DOG_RANGES),
    "DoH, tuned": SpaceMethod(doh_space, _doh, 1.0, DOH_LEVELS, ("either",), RANGES),
    "Otsu and watershed, tuned": Watershed(),
}
