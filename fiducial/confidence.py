"""Turn raw scores into probabilities, and a budget of false alarms into a threshold; say in words how much each is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import expit, logit

from fiducial.records import InputError

KEEP_ALARMS = 2000  # probabilities of false alarms that a file of weights holds at most
_Z95 = 1.959964  # of the normal distribution
_LEAST_ODDS = 1e-12  # against an answer: none is beyond doubt
_LEAST_VARIANCE = 0.1  # of the number of blobs where any are seen: no probability is right to the last digit
_MOST_DIGITS = 6  # of a probability in words
_TOO_LONG = 1e15  # a number from which on an exponent is easier to read


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

    @property
    def units(self) -> float:
        """How many negatives the alarms come from."""
        return float(self.good_images)


@dataclass(frozen=True)
class EvidenceCalibration:
    """How several pieces of evidence for one answer become its probability: a logistic regression.

    Attributes:
        names: of the pieces. mean, deviation: of each over the cases it was fitted on. weight: of each, standardized.
        intercept: log-odds where every piece has its mean.
        alarms: the probability that each negative reached, largest first: a query of its best place in a source that does not
            show it, a pair of different scenes of its best transform; 0 where nothing was found.
        negatives: how many there were; 0 if that is not known.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    weight: tuple[float, ...]
    intercept: float
    alarms: tuple[float, ...] = ()
    negatives: int = 0

    @property
    def units(self) -> float:
        """How many negatives the alarms come from."""
        return float(self.negatives)


def fit_evidence(
    names: tuple[str, ...],
    evidence: Float64[np.ndarray, "n k"],
    true: Bool[np.ndarray, " n"],
    against: tuple[str, ...] = (),
    either: tuple[str, ...] = (),
) -> EvidenceCalibration:
    """Fit the logistic regression from evidence to probability, with Platt's targets and a weak normal prior on the weights.

    No weight gets a sign that would make more of a piece speak against an answer; for those in `against` the reverse, those in
    `either` are free. So chance in few cases cannot make worse evidence count for better.

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

    from scipy.optimize import minimize  # noqa: PLC0415 (a third of a second, and only fits need it)

    signs = [(None, 0.0) if name in against else (None, None) if name in either else (0.0, None) for name in names]
    found = minimize(loss, np.zeros(1 + len(names)), method="L-BFGS-B", bounds=[(None, None), *signs]).x
    return EvidenceCalibration(
        names, tuple(mean.tolist()), tuple(deviation.tolist()), tuple(found[1:].tolist()), float(found[0])
    )


def evidence_to_probability(
    calibration: EvidenceCalibration, evidence: Float64[np.ndarray, "n k"]
) -> Float64[np.ndarray, " n"]:
    """Map evidence, in the order of the calibration's names, to probabilities."""
    x = (evidence - np.array(calibration.mean)) / np.array(calibration.deviation)
    return expit(x @ np.array(calibration.weight) + calibration.intercept)


def share_probability(own: float, others: Sequence[float]) -> float:
    """Return the probability of one answer among others, each of them probable by itself, if at most one can be right."""
    odds = [p / max(1 - p, _LEAST_ODDS) for p in (own, *others)]
    return odds[0] / (1 + sum(odds))


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

    from scipy.optimize import minimize  # noqa: PLC0415 (as above)

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


def largest_alarms(probability: Float64[np.ndarray, " n"]) -> tuple[float, ...]:
    """Return the probabilities of false alarms that a calibration keeps, largest first."""
    return tuple(np.sort(probability)[::-1][:KEEP_ALARMS].tolist())


def with_alarms(calibration: Calibration, alarms: Float64[np.ndarray, " n"], good_images: int) -> Calibration:
    """Return the calibration with the false alarms of another set of good images."""
    return replace(calibration, alarms=largest_alarms(alarms), good_images=good_images)


def with_negatives(calibration: EvidenceCalibration, reached: Float64[np.ndarray, " n"]) -> EvidenceCalibration:
    """Return the calibration with the probability that each of a set of negatives reached."""
    return replace(calibration, alarms=largest_alarms(reached), negatives=len(reached))


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

    @property
    def units(self) -> float:
        """How many negatives, megapixels that is, the alarms come from."""
        return self.megapixels


AnyCalibration = Calibration | CrowdCalibration | EvidenceCalibration


def crowd_probability(calibration: CrowdCalibration, evidence: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
    """Map evidence, in the order of the calibration's names, to probabilities."""
    c = calibration
    return evidence_to_probability(EvidenceCalibration(c.names, c.mean, c.deviation, c.weight, c.intercept), evidence)


def count_interval(probability: Float64[np.ndarray, " n"], inflation: float, spread: float) -> tuple[int, int]:
    """Return the least and the largest number of blobs with 95 % confidence.

    The number is taken as normal about the sum of the probabilities; its variance is `inflation` times that of as many tosses
    of a coin, at least 0.1 unless nothing at all is seen, and the square of `spread` times the sum.
    """
    expected, variance = float(probability.sum()), float((probability * (1 - probability)).sum())
    variance = max(variance, _LEAST_VARIANCE) if expected > 0 else 0.0
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
    variances, best = np.maximum(variances, _LEAST_VARIANCE), (np.inf, 1.0, 0.0)
    for spread in np.linspace(0, 1, 51).tolist():
        needed = (np.square((counts - sums) / _Z95) - np.square(spread * sums)) / variances
        inflation = max(1.0, float(np.quantile(needed, 0.95, method="higher")))
        width = float(np.log(np.sqrt(inflation * variances + np.square(spread * sums)) + 1.0).mean())
        best = min(best, (width, inflation, spread))
    return best[1], best[2]


def threshold_for_budget(calibration: AnyCalibration, budget: float, unit: tuple[str, str]) -> float:
    """Return the probability that negatives exceed at most `budget` times each on average; answers must lie above it.

    The budget holds on the negatives of the calibration; elsewhere in expectation, if they resemble them in content and size.
    `unit` names one negative, and several: "good image", "good images".

    Raises:
        InputError: the budget is no number above 0, above 1 where a negative can be taken for a positive only once, smaller or
            larger than the calibration can tell, or the calibration knows of no negatives.
    """
    one, many = unit
    most = 1.0 if isinstance(calibration, EvidenceCalibration) else np.inf
    if not (isinstance(budget, Real) and 0 < budget < np.inf and budget <= most):
        bound = "above 0" if most > 1 else "above 0 and at most 1"
        raise InputError(f"false alarms per {one} must be {bound}, got {budget!r}")
    if not calibration.units:
        raise InputError(
            f"these weights were calibrated on no {many}, which a budget of false alarms is judged by: ask for a least "
            "probability, or calibrate them again"
        )
    allowed = int(np.floor(budget * calibration.units + 1e-9))
    if allowed < 1:
        needed = float(np.ceil(1 / budget - 1e-9))
        raise InputError(
            f"a budget of {budget:g} false alarms per {one} needs at least {written(needed)} {many} to be judged by, "
            f"the calibration has {written(calibration.units, 4)}: calibrate on more, or ask for more"
        )
    if allowed < len(calibration.alarms):
        return calibration.alarms[allowed]
    if len(calibration.alarms) == KEEP_ALARMS < calibration.units * most:
        told = KEEP_ALARMS / calibration.units
        raise InputError(
            f"the calibration tells at most {written(told)} false alarms per {one}, got {written(budget, 6)}: ask for less"
        )
    return 0.0


def below(probability: float, least: float) -> str:
    """Return a probability under the least that is asked for, in so many digits that it reads as less: never rounded up."""
    exact, asked = Decimal(str(probability)), Decimal(str(least))
    for digits in range(2, 1 + _MOST_DIGITS):
        step = Decimal(1).scaleb(-digits)
        cut = exact.quantize(step, ROUND_DOWN)
        if cut != asked.quantize(step, ROUND_DOWN) or cut == exact:
            break
    return str(cut)


def written(value: float, digits: int = 3, decimals: int = 0) -> str:
    """Return a number in so many digits, in more where its units and so many decimals need them: 1100, not 1.1e+03."""
    whole = len(f"{abs(value):.0f}") if abs(value) < _TOO_LONG else 0
    return f"{value:.{max(digits, whole + decimals)}g}"


def read_calibration(kind: type[AnyCalibration], stated: Mapping[str, Any]) -> AnyCalibration:
    """Return the calibration of these values, one for each field.

    Raises:
        ValueError: numbers that are none or not finite, lists of different lengths, alarms out of order or range.
    """
    for name, value in stated.items():
        several = name in ("names", "mean", "deviation", "weight", "alarms")
        values = value if isinstance(value, tuple) else (value,)
        fits = all(isinstance(one, str) if name == "names" else _is_number(one) for one in values)
        if several != isinstance(value, tuple) or not fits:
            raise ValueError(f"{name} cannot be {str(value)[:60]}")
    known = kind(**stated)
    if not isinstance(known, Calibration):
        lengths = {len(known.names), len(known.mean), len(known.deviation), len(known.weight)}
        if len(lengths) > 1 or min(known.deviation, default=1.0) <= 0:
            raise ValueError("names, mean, deviation (above 0) and weight must be of one length")
    edges = np.array([1.0, *known.alarms, 0.0])
    if known.units < 0 or (np.diff(edges) > 0).any():
        raise ValueError("alarms must be probabilities, largest first, of no less than 0 negatives")
    if isinstance(known, EvidenceCalibration) and len(known.alarms) != min(known.negatives, KEEP_ALARMS):
        raise ValueError(f"each of {known.negatives} negatives must have its probability, got {len(known.alarms)}")
    return known


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
