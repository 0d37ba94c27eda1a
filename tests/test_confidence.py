"""Probabilities mean what they say, and a budget of false alarms is kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiducial.confidence import (
    Calibration,
    evidence_to_probability,
    fit_evidence,
    fit_probability,
    threshold_for_budget,
    to_probability,
    with_alarms,
)
from fiducial.metrics import calibration_error
from fiducial.records import InputError


def test_fitted_probabilities_are_calibrated_on_new_scores(rng: np.random.Generator) -> None:
    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        raw = rng.random(n)
        return raw, rng.random(n) < raw**3

    calibration = Calibration(*fit_probability(*draw(5000)), (), 0)
    raw, true = draw(5000)
    assert calibration_error(to_probability(calibration, raw), true) < 0.04
    assert calibration_error(raw, true) > 0.15


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_probabilities_keep_the_order_and_are_never_certain(rng: np.random.Generator, share: float) -> None:
    raw = np.sort(rng.random(300))
    probability = to_probability(Calibration(*fit_probability(raw, rng.random(300) < share), (), 0), raw)
    assert np.all(np.diff(probability) > 0)
    assert 0 < probability[0] < probability[-1] < 1
    assert probability.mean() == pytest.approx(share, abs=0.1)


def test_no_scores_cannot_be_calibrated() -> None:
    with pytest.raises(InputError, match="at least one"):
        fit_probability(np.zeros(0), np.zeros(0, bool))


@given(st.integers(1, 60), st.integers(0, 200), st.floats(0.02, 5))
def test_the_budget_is_kept_on_the_good_images(images: int, alarms: int, budget: float) -> None:
    score = np.random.default_rng(alarms).random(alarms).round(2)
    calibration = with_alarms(Calibration(1.0, 0.0, (), 0), score, images)
    if budget * images < 1:
        with pytest.raises(InputError, match="good images"):
            threshold_for_budget(calibration, budget)
        return
    threshold = threshold_for_budget(calibration, budget)
    assert (score > threshold).sum() <= budget * images
    assert threshold == 0 or (score >= threshold).sum() > np.floor(budget * images)


def test_the_threshold_is_the_largest_alarm_that_does_not_fit_the_budget() -> None:
    calibration = with_alarms(Calibration(1.0, 0.0, (), 0), np.array([0.7, 0.9, 0.8]), 1)
    assert [threshold_for_budget(calibration, k) for k in (1, 2, 3)] == [0.8, 0.7, 0.0]


@pytest.mark.parametrize("budget", [-1.0, 0.0, float("nan"), float("inf")])
def test_budgets_that_mean_nothing_are_refused(budget: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        threshold_for_budget(Calibration(1.0, 0.0, (), 10), budget)


def test_evidence_becomes_calibrated_probabilities(rng: np.random.Generator) -> None:
    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        evidence = rng.normal([3, 100], [1, 20], (n, 2))
        return evidence, rng.random(n) < 1 / (1 + np.exp(-2 * (evidence[:, 0] - 3) + 0.05 * (evidence[:, 1] - 100)))

    fitted = fit_evidence(("a", "b"), *draw(4000))
    evidence, true = draw(4000)
    assert calibration_error(evidence_to_probability(fitted, evidence), true) < 0.04
    assert fitted.weight[0] > 0 > fitted.weight[1]
    assert evidence_to_probability(fitted, np.zeros((0, 2))).shape == (0,)


def test_evidence_of_one_kind_alone_gives_finite_doubt() -> None:
    fitted = fit_evidence(("a",), np.arange(5.0)[:, None], np.ones(5, dtype=bool))
    assert 0.5 < evidence_to_probability(fitted, np.array([[2.0]]))[0] < 0.95
    with pytest.raises(InputError, match="at least one"):
        fit_evidence(("a",), np.zeros((0, 1)), np.zeros(0, dtype=bool))
