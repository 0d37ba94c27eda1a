"""Turn raw scores into probabilities, and a budget of false alarms into a threshold."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64
from scipy.optimize import isotonic_regression

from fiducial.records import InputError

_KEEP_ALARMS = 2000
_PRIOR = 0.5  # successes, and failures, added to each group of scores


@dataclass(frozen=True)
class Calibration:
    """What is known of a family's raw scores.

    Attributes:
        raw, probability: knots of the piecewise linear, rising map from raw score to probability.
        alarms: probabilities of what was found on good images, largest first: each is a false alarm.
        good_images: how many good images they come from.
    """

    raw: tuple[float, ...]
    probability: tuple[float, ...]
    alarms: tuple[float, ...]
    good_images: int


def fit_probability(
    raw: Float64[np.ndarray, " n"], true: Bool[np.ndarray, " n"], knots: int = 16
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return knots of the rising map from raw score to probability that fits best (isotonic regression, thinned).

    Half a success and half a failure are added to each group, so that no probability is 0 or 1.

    Raises:
        ValueError: fewer than two distinct scores.
    """
    order = np.argsort(raw, kind="stable")
    x, y = raw[order], true[order].astype(np.float64)
    if len(np.unique(x)) < 2:
        raise ValueError(f"calibration needs at least two distinct scores, got {len(np.unique(x))}")
    fitted = isotonic_regression(y).x
    edges = np.unique(np.linspace(0, len(x) - 1, knots + 1).round().astype(int))
    groups = [slice(a, b) for a, b in zip(edges[:-1], [*edges[1:-1], len(x)], strict=True)]
    level = np.array([(fitted[g].sum() + _PRIOR) / (len(fitted[g]) + 2 * _PRIOR) for g in groups])
    place = np.array([x[g].mean() for g in groups])
    keep = np.concatenate([[True], np.diff(place) > 0])
    return tuple(place[keep].tolist()), tuple(np.maximum.accumulate(level[keep]).tolist())


def to_probability(calibration: Calibration, raw: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Map raw scores to probabilities; beyond the outer knots the outer probability holds."""
    return np.interp(raw, calibration.raw, calibration.probability)


def with_alarms(calibration: Calibration, alarms: Float64[np.ndarray, " n"], good_images: int) -> Calibration:
    """Return the calibration with the false alarms of another set of good images."""
    largest = np.sort(alarms)[::-1][:_KEEP_ALARMS]
    return replace(calibration, alarms=tuple(largest.tolist()), good_images=good_images)


def threshold_for_budget(calibration: Calibration, alarms_per_image: float) -> float:
    """Return the probability that good images exceed at most `alarms_per_image` times per image on average.

    Scores must lie above it. The budget holds on the good images of the calibration; elsewhere in expectation, if they
    resemble them.

    Raises:
        InputError: the budget is negative, or smaller than that many good images can tell.
    """
    if alarms_per_image < 0:
        raise InputError(f"false alarms per image must be 0 or more, got {alarms_per_image:g}")
    if calibration.good_images * max(alarms_per_image, 0) < 1:
        raise InputError(
            f"a budget of {alarms_per_image:g} false alarms per image needs at least "
            f"{'one alarm' if alarms_per_image == 0 else f'{int(np.ceil(1 / alarms_per_image))} good images'} to be judged by, "
            f"the calibration has {calibration.good_images}: run `fiducial calibrate` on more, or ask for more"
        )
    allowed = int(np.floor(alarms_per_image * calibration.good_images + 1e-9))
    return calibration.alarms[allowed] if allowed < len(calibration.alarms) else 0.0
