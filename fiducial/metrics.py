"""Define every score once. Undefined is NaN."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import shapely
from jaxtyping import Bool, Float64, Int, Int64, UInt8
from scipy.spatial import cKDTree

from fiducial.regions import Regions


@dataclass(frozen=True)
class Counts:
    """True positives, false positives, false negatives; counts of several images add up."""

    true_positive: int
    false_positive: int
    false_negative: int

    def __add__(self, other: "Counts") -> "Counts":
        """Return the counts of both."""
        return Counts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
        )

    @property
    def precision(self) -> float:
        """TP / (TP + FP) (eq. 17 of BGNet)."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """TP / (TP + FN) (eq. 18 of BGNet)."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    def f(self, beta: float = 1.0) -> float:
        """(1 + β²) P R / (β² P + R) (eq. 19 of BGNet with β = 2)."""
        b = beta**2
        return _ratio(
            (1 + b) * self.true_positive, (1 + b) * self.true_positive + b * self.false_negative + self.false_positive
        )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def confusion(truth: UInt8[np.ndarray, "h w"], predicted: UInt8[np.ndarray, "h w"], classes: int) -> Int64[np.ndarray, "k k"]:
    """Count pixels by true class (rows) and predicted class (columns), 0 to classes - 1; matrices of images add up."""
    known = (truth < classes) & (predicted < classes)
    index = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(index, minlength=classes**2).reshape(classes, classes)


def mean_iou(matrix: Int64[np.ndarray, "k k"]) -> float:
    """Average TP / (TP + FP + FN) over the classes that occur (eq. 20 of BGNet)."""
    hit, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return float(np.mean(hit[union > 0] / union[union > 0])) if union.any() else float("nan")


def mean_accuracy(matrix: Int64[np.ndarray, "k k"]) -> float:
    """Average TP / (TP + FN) over the classes that occur in the truth (eq. 21 of BGNet)."""
    hit, total = np.diag(matrix), matrix.sum(1)
    return float(np.mean(hit[total > 0] / total[total > 0])) if total.any() else float("nan")


def foreground_counts(matrix: Int64[np.ndarray, "k k"]) -> Counts:
    """Count pixels of any class above 0 against background."""
    hit, truth, predicted = matrix[1:, 1:].sum(), matrix[1:].sum(), matrix[:, 1:].sum()
    return Counts(int(hit), int(predicted - hit), int(truth - hit))


def box_iou(a_yxyx: Float64[np.ndarray, "n 4"], b_yxyx: Float64[np.ndarray, "m 4"]) -> Float64[np.ndarray, "n m"]:
    """Return area of intersection over area of union of each pair of boxes; 0 where both are empty."""
    low = np.maximum(a_yxyx[:, None, :2], b_yxyx[None, :, :2])
    high = np.minimum(a_yxyx[:, None, 2:], b_yxyx[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=-1)
    area_a, area_b = (np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (a_yxyx, b_yxyx))
    union = area_a[:, None] + area_b[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def region_iou(a: Regions, b: Regions) -> Float64[np.ndarray, "n m"]:
    """Return pixels in common over pixels in either of each pair of regions of two masks of one size."""
    both = (a.number > 0) & (b.number > 0)
    pairs = (a.number[both].astype(np.int64) - 1) * len(b.area_px) + b.number[both] - 1
    common = np.bincount(pairs, minlength=len(a.area_px) * len(b.area_px)).reshape(len(a.area_px), len(b.area_px))
    return common / np.maximum(a.area_px[:, None] + b.area_px[None] - common, 1)


def match(iou: Float64[np.ndarray, "n m"], above: float) -> Int[np.ndarray, " n"]:
    """Assign to each row, in order, the free column of largest IoU above a limit; -1 where there is none."""
    partner = np.full(len(iou), -1)
    free = np.ones(iou.shape[1], dtype=bool)
    for i in range(len(iou)):
        candidates = np.where(free, iou[i], 0.0)
        if len(candidates) and candidates.max() > above:
            partner[i] = int(candidates.argmax())
            free[partner[i]] = False
    return partner


def match_counts(iou: Float64[np.ndarray, "n m"], above: float) -> Counts:
    """Count matches of n detections, best first, to m objects at an IoU above a limit."""
    hits = int((match(iou, above) >= 0).sum())
    return Counts(hits, len(iou) - hits, iou.shape[1] - hits)


def average_precision(score: Float64[np.ndarray, " n"], true: Bool[np.ndarray, " n"], objects: int) -> float:
    """Return the area under precision over recall, precision made falling (VOC 2010's rule); NaN without objects."""
    if not objects:
        return float("nan")
    hits = np.cumsum(true[np.argsort(-score, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(np.concatenate([[0], hits])) > 0
    return float(envelope[steps].sum() / objects)


@dataclass(frozen=True)
class Bins:
    """Answers by the probability that they state, in equal bins of it.

    Attributes:
        low, high: of each bin; an answer that states `high` belongs to the next one, 1 to the last.
        answers: how many there are. stated: mean probability of them, NaN of none. true: how many are true.
    """

    low: Float64[np.ndarray, " b"]
    high: Float64[np.ndarray, " b"]
    answers: Int64[np.ndarray, " b"]
    stated: Float64[np.ndarray, " b"]
    true: Int64[np.ndarray, " b"]

    @property
    def error(self) -> float:
        """Expected calibration error: |mean probability - share of true| averaged over the answers; NaN without any."""
        n, full = self.answers.sum(), self.answers > 0
        gaps = np.abs(self.answers[full] * self.stated[full] - self.true[full])
        return float(gaps.sum() / n) if n else float("nan")


def reliability(probability: Float64[np.ndarray, " n"], true: Bool[np.ndarray, " n"], bins: int = 10) -> Bins:
    """Return how often answers are true by the probability that they state."""
    which = np.minimum((probability * bins).astype(int), bins - 1)
    answers = np.bincount(which, minlength=bins)
    sums = np.bincount(which, probability, minlength=bins)
    stated = np.divide(sums, answers, out=np.full(bins, np.nan), where=answers > 0)
    edges = np.arange(bins + 1) / bins
    return Bins(edges[:-1], edges[1:], answers, stated, np.bincount(which[true], minlength=bins))


def calibration_error(probability: Float64[np.ndarray, " n"], true: Bool[np.ndarray, " n"], bins: int = 10) -> float:
    """Return the expected calibration error: |mean probability - share of true| averaged over equal bins of probability."""
    return reliability(probability, true, bins).error


def bootstrap_interval(
    cases: int, score: Callable[[Int64[np.ndarray, " n"]], float], draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a score over cases: what it lies between if cases are drawn anew.

    Args:
        cases: how many there are; what varies together, such as the blobs of an image, is one case.
        score: of the cases with these numbers, some of them repeated; where it is NaN, the draw is left out.
        draws: how many samples of as many cases.
        seed: of the draws.

    NaN with fewer than two cases, or where half of the draws or more have no score.
    """
    if cases < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(cases, size=(draws, cases))
    values = np.array([score(chosen) for chosen in drawn], dtype=np.float64)
    known = values[np.isfinite(values)]
    if 2 * len(known) <= draws:
        return float("nan"), float("nan")
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)


def quad_iou(a_yx: Float64[np.ndarray, "4 2"], b_yx: Float64[np.ndarray, "4 2"]) -> float:
    """Return the intersection over union of two convex quadrilaterals."""
    return float(quad_ious(a_yx, b_yx[None])[0])


def quad_ious(a_yx: Float64[np.ndarray, "4 2"], b_yx: Float64[np.ndarray, "n 4 2"]) -> Float64[np.ndarray, " n"]:
    """Return the intersection over union of one convex quadrilateral with each of several; 0 where all have no area."""
    a, b = shapely.polygons(a_yx), shapely.polygons(b_yx)
    shared = shapely.area(shapely.intersection(a, b))
    whole = shapely.area(a) + shapely.area(b) - shared
    return np.divide(shared, whole, out=np.zeros(len(b_yx)), where=whole > 0)


def corner_error(found_yx: Float64[np.ndarray, "4 2"], true_yx: Float64[np.ndarray, "4 2"]) -> float:
    """Return the mean distance of corners in parts of the true box's mean side."""
    side = np.linalg.norm(true_yx - np.roll(true_yx, 1, axis=0), axis=1).mean()
    return float(np.linalg.norm(found_yx - true_yx, axis=1).mean() / side)


def score_reached(present: Float64[np.ndarray, " n"], share: float = 0.95) -> float:
    """Return the score that the best `share` of cases reach; -inf where it falls on cases without an answer; NaN of none.

    A case without an answer scores -inf.
    """
    if not len(present):
        return float("nan")
    below = float(np.quantile(present, 1 - share, method="lower"))
    return float(np.quantile(present, 1 - share)) if np.isfinite(below) else below


def false_accept_rate(present: Float64[np.ndarray, " n"], absent: Float64[np.ndarray, " m"], accept: float = 0.95) -> float:
    """Return the share of absent cases that score as high as the best `accept` of the present ones.

    NaN without either, and where not so many of the present ones have an answer: a case without one scores -inf.
    """
    least = score_reached(present, accept)
    return float((absent >= least).mean()) if len(absent) and np.isfinite(least) else float("nan")


def auroc(present: Float64[np.ndarray, " n"], absent: Float64[np.ndarray, " m"]) -> float:
    """Return the chance that a present case scores above an absent one; ties count half; NaN without either."""
    if not len(present) or not len(absent):
        return float("nan")
    above, equal = (present[:, None] > absent).mean(), (present[:, None] == absent).mean()
    return float(above + equal / 2)


def match_points(
    found_yx: Float64[np.ndarray, "n 2"], true_yx: Float64[np.ndarray, "m 2"], reach: Float64[np.ndarray, " m"]
) -> Int[np.ndarray, " m"]:
    """Assign to each true point a found one within its `reach`, nearest pairs first, one to one; -1 where there is none."""
    partner = np.full(len(true_yx), -1)
    if not len(found_yx) or not len(true_yx):
        return partner
    near = cKDTree(found_yx).query_ball_point(true_yx, reach)
    pairs = [(float(np.hypot(*(found_yx[i] - true_yx[j]))), i, j) for j, own in enumerate(near) for i in own]
    free = np.ones(len(found_yx), dtype=bool)
    for _, i, j in sorted(pairs):
        if free[i] and partner[j] < 0:
            partner[j], free[i] = i, False
    return partner


def repeatability(a_yx: Float64[np.ndarray, "n 2"], b_yx: Float64[np.ndarray, "m 2"], reach_px: float) -> float:
    """Return the share of points of each view within `reach_px` of a point of the other, the mean of both views.

    Both are in one frame. NaN if either view has no points.
    """
    if not len(a_yx) or not len(b_yx):
        return float("nan")
    apart = (cKDTree(theirs).query(own)[0] for own, theirs in ((a_yx, b_yx), (b_yx, a_yx)))
    return float(np.mean([np.mean(np.asarray(distance) <= reach_px) for distance in apart]))


def blob_reach(radius: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return how far from the center of a blob a detection may lie to count as that blob: max(2 px, r / 2)."""
    return np.maximum(2.0, radius / 2)


def adjacent_pairs(yx: Float64[np.ndarray, "n 2"], radius: Float64[np.ndarray, " n"]) -> Int[np.ndarray, "k 2"]:
    """Return the pairs of blobs whose centers are nearer than 1.5 (r1 + r2)."""
    if len(yx) < 2:
        return np.zeros((0, 2), np.int64)
    pairs = cKDTree(yx).query_pairs(3.0 * float(radius.max()), output_type="ndarray")
    apart = np.linalg.norm(yx[pairs[:, 0]] - yx[pairs[:, 1]], axis=1)
    return np.asarray(pairs[apart < 1.5 * radius[pairs].sum(axis=1)], dtype=np.int64)


def adjacent_discrimination(images: Iterable[tuple[Int[np.ndarray, "k 2"], Int[np.ndarray, " n"]]]) -> float:
    """Return the share of adjacent pairs of which both blobs are matched, over images; NaN without pairs.

    Each image gives its pairs (`adjacent_pairs`) and its matches (`match_points`).
    """
    both = [(partner[pairs] >= 0).all(axis=1) for pairs, partner in images]
    return float(np.concatenate(both).mean()) if sum(map(len, both)) else float("nan")
