"""Turn raw scores into probabilities, and a budget of false alarms into a threshold."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64
from scipy.optimize import minimize
from scipy.special import expit, logit

from fiducial.records import InputError

KEEP_ALARMS = 2000
_Z95 = 1.959964  # of the normal distribution


@dataclass(frozen=True)
class Calibration:
    """What is known of a family's raw scores, which lie between 0 and 1.

    Attributes:
        slope, intercept: of the map from the raw score's log-odds to the probability's; the slope is positive.
        alarms: probabilities of what was found on good images, largest first: each is a false alarm.
        good_images: how many good images they come from.
    """

    slope: float
    intercept: float
    alarms: tuple[float, ...]
    good_images: int


@dataclass(frozen=True)
class EvidenceCalibration:
    """How several pieces of evidence for one answer become its probability: a logistic regression.

    Attributes:
        names: of the pieces. mean, deviation: of each over the cases it was fitted on. weight: of each, standardized.
        intercept: log-odds where every piece has its mean.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    weight: tuple[float, ...]
    intercept: float


def fit_evidence(
    names: tuple[str, ...], evidence: Float64[np.ndarray, "n k"], true: Bool[np.ndarray, " n"]
) -> EvidenceCalibration:
    """Fit the logistic regression from evidence to probability, with Platt's targets and a weak normal prior on the weights.

    Raises:
        InputError: no cases.
    """
    if not len(true):
        raise InputError("calibration needs at least one answer, got none: train longer, or calibrate on more images")
    mean, deviation = evidence.mean(axis=0), np.maximum(evidence.std(axis=0), 1e-6)
    x, target = (evidence - mean) / deviation, _platt_targets(true)

    def loss(parameters: Float64[np.ndarray, " k"]) -> float:
        z = x @ parameters[1:] + parameters[0]
        return float((np.logaddexp(0, z) - target * z).sum() + (parameters[1:] ** 2).sum() / 2)

    found = minimize(loss, np.zeros(1 + len(names))).x
    return EvidenceCalibration(
        names, tuple(mean.tolist()), tuple(deviation.tolist()), tuple(found[1:].tolist()), float(found[0])
    )


def evidence_to_probability(
    calibration: EvidenceCalibration, evidence: Float64[np.ndarray, "n k"]
) -> Float64[np.ndarray, " n"]:
    """Map evidence, in the order of the calibration's names, to probabilities."""
    x = (evidence - np.array(calibration.mean)) / np.array(calibration.deviation)
    return expit(x @ np.array(calibration.weight) + calibration.intercept)


def fit_probability(raw: Float64[np.ndarray, " n"], true: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """Return slope and intercept of the logistic map from raw scores to probabilities (Platt 1999).

    Platt's targets, a hair inside 0 and 1, keep the answer finite where all or none are true; a wide prior on the slope
    keeps it near 1 where the scores say nothing of it.

    Raises:
        InputError: no scores.
    """
    if not len(raw):
        raise InputError("calibration needs at least one detection, got none: train longer, or calibrate on more pairs")
    x, target = _log_odds(raw), _platt_targets(true)

    def loss(parameters: Float64[np.ndarray, " 2"]) -> float:
        z = np.exp(parameters[0]) * x + parameters[1]
        return float((np.logaddexp(0, z) - target * z).sum() + parameters[0] ** 2 / 2)

    log_slope, intercept = minimize(loss, np.zeros(2)).x
    return float(np.exp(log_slope)), float(intercept)


def _platt_targets(true: Bool[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    right = int(true.sum())
    return np.where(true, (right + 1) / (right + 2), 1 / (len(true) - right + 2))


def to_probability(calibration: Calibration, raw: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Map raw scores to probabilities; the order stays."""
    return expit(calibration.slope * _log_odds(raw) + calibration.intercept)


def _log_odds(raw: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return logit(np.clip(raw, 1e-6, 1 - 1e-6))


def with_alarms(calibration: Calibration, alarms: Float64[np.ndarray, " n"], good_images: int) -> Calibration:
    """Return the calibration with the false alarms of another set of good images."""
    largest = np.sort(alarms)[::-1][:KEEP_ALARMS]
    return replace(calibration, alarms=tuple(largest.tolist()), good_images=good_images)


def threshold_for_budget(calibration: Calibration, alarms_per_image: float) -> float:
    """Return the probability that good images exceed at most `alarms_per_image` times per image on average.

    Scores must lie above it. The budget holds on the good images of the calibration; elsewhere in expectation, if they
    resemble them in content and size.

    Raises:
        InputError: the budget is not above 0, or smaller than that many good images can tell.
    """
    if not 0 < alarms_per_image < np.inf:
        raise InputError(f"false alarms per image must be above 0, got {alarms_per_image:g}")
    if calibration.good_images * alarms_per_image < 1:
        raise InputError(
            f"a budget of {alarms_per_image:g} false alarms per image needs at least {int(np.ceil(1 / alarms_per_image))} good "
            f"images to be judged by, the calibration has {calibration.good_images}: calibrate on more, or ask for more"
        )
    allowed = int(np.floor(alarms_per_image * calibration.good_images + 1e-9))
    if allowed < len(calibration.alarms):
        return calibration.alarms[allowed]
    return calibration.alarms[-1] if len(calibration.alarms) == KEEP_ALARMS else 0.0


@dataclass(frozen=True)
class CrowdCalibration:
    """What is known of the blobs that a detector proposes.

    Attributes:
        names, mean, deviation, weight, intercept: of the probability, as in `EvidenceCalibration`.
        inflation, spread: how far counts differ from the sum of the probabilities (`count_interval`).
        alarms: probabilities of the false detections on the images it was fitted on, largest first.
        megapixels: how large these images are together.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    weight: tuple[float, ...]
    intercept: float
    inflation: float
    spread: float
    alarms: tuple[float, ...]
    megapixels: float


def crowd_probability(calibration: CrowdCalibration, evidence: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
    """Map evidence, in the order of the calibration's names, to probabilities."""
    c = calibration
    return evidence_to_probability(EvidenceCalibration(c.names, c.mean, c.deviation, c.weight, c.intercept), evidence)


def count_interval(probability: Float64[np.ndarray, " n"], inflation: float, spread: float) -> tuple[int, int]:
    """Return the least and the largest number of blobs with 95 % confidence.

    The number is taken as normal about the sum of the probabilities; its variance is `inflation` times that of as many tosses
    of a coin, and the square of `spread` times the sum.
    """
    expected, variance = float(probability.sum()), float((probability * (1 - probability)).sum())
    deviation = float(np.sqrt(inflation * variance + (spread * expected) ** 2))
    low, high = expected - _Z95 * deviation, expected + _Z95 * deviation
    return max(0, int(np.floor(low + 1e-9))), int(np.ceil(high - 1e-9))


def fit_counts(
    sums: Float64[np.ndarray, " n"], variances: Float64[np.ndarray, " n"], counts: Float64[np.ndarray, " n"]
) -> tuple[float, float]:
    """Return the inflation and the spread of the narrowest intervals (geometric mean) that cover 95 % of the images.

    `sums` and `variances` are those of the probabilities of each image, `counts` the true numbers of blobs.
    """
    if not len(counts):
        return 1.0, 0.0
    best = (np.inf, 1.0, 0.0)
    for spread in np.linspace(0, 1, 51).tolist():
        needed = (np.square((counts - sums) / _Z95) - np.square(spread * sums)) / np.maximum(variances, 0.1)
        inflation = max(1.0, float(np.quantile(needed, 0.95, method="higher")))
        width = float(np.log(np.sqrt(inflation * variances + np.square(spread * sums)) + 1.0).mean())
        best = min(best, (width, inflation, spread))
    return best[1], best[2]


def threshold_for_rate(calibration: CrowdCalibration, alarms_per_megapixel: float) -> float:
    """Return the probability that at most `alarms_per_megapixel` false detections per megapixel exceed on average.

    Raises:
        InputError: the rate is not above 0, or smaller or larger than the calibration can tell.
    """
    if not 0 < alarms_per_megapixel < np.inf:
        raise InputError(f"false alarms per megapixel must be above 0, got {alarms_per_megapixel:g}")
    allowed = int(np.floor(alarms_per_megapixel * calibration.megapixels + 1e-9))
    if allowed < 1:
        raise InputError(
            f"a budget of {alarms_per_megapixel:g} false alarms per megapixel needs {1 / alarms_per_megapixel:.0f} megapixels "
            f"to be judged by, the calibration has {calibration.megapixels:.1f}: ask for more"
        )
    if allowed >= len(calibration.alarms) == KEEP_ALARMS:
        most = KEEP_ALARMS / calibration.megapixels
        raise InputError(f"the calibration tells at most {most:.0f} false alarms per megapixel, got {alarms_per_megapixel:g}")
    return calibration.alarms[allowed] if allowed < len(calibration.alarms) else 0.0
