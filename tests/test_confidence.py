"""Probabilities mean what they say, and a budget of false alarms is kept."""

import math
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

import fiducial
from fiducial.confidence import (
    Calibration,
    CrowdCalibration,
    EvidenceCalibration,
    below,
    count_interval,
    evidence_to_probability,
    fit_counts,
    fit_evidence,
    fit_probability,
    largest_alarms,
    read_calibration,
    share_probability,
    threshold_for_budget,
    to_probability,
    with_alarms,
    with_negatives,
    written,
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


GOOD, MEGA, ABSENT = ("good image", "good images"), ("megapixel", "megapixels"), ("absent query", "absent queries")


def crowd(alarms: tuple[float, ...], megapixels: float) -> CrowdCalibration:
    return CrowdCalibration(("a",), (0.0,), (1.0,), (1.0,), 0.0, 1.0, 0.0, alarms, megapixels)


def weighed(reached: np.ndarray) -> EvidenceCalibration:
    return with_negatives(EvidenceCalibration(("a",), (0.0,), (1.0,), (1.0,), 0.0), reached)


@given(st.integers(1, 60), st.integers(0, 200), st.floats(0.02, 5))
def test_the_budget_is_kept_on_the_negatives_of_every_calibration(units: int, alarms: int, budget: float) -> None:
    score = np.random.default_rng(alarms).random(alarms).round(2)
    once = np.random.default_rng(alarms).random(units).round(2)
    known = (
        (with_alarms(Calibration(1.0, 0.0, (), 0), score, units), GOOD, score),
        (crowd(largest_alarms(score), float(units)), MEGA, score),
        (weighed(once), ABSENT, once),
    )
    for calibration, unit, reached in known:
        if budget * units < 1 or (budget > 1 and unit is ABSENT):
            with pytest.raises(InputError, match=unit[1] if budget < 1 else "at most 1"):
                threshold_for_budget(calibration, budget, unit)
            continue
        threshold = threshold_for_budget(calibration, budget, unit)
        assert (reached > threshold).sum() <= budget * units + 1e-6
        assert threshold == 0 or (reached >= threshold).sum() > np.floor(budget * units)


def test_the_threshold_is_the_largest_alarm_that_does_not_fit_the_budget() -> None:
    calibration = with_alarms(Calibration(1.0, 0.0, (), 0), np.array([0.7, 0.9, 0.8]), 1)
    assert [threshold_for_budget(calibration, k, GOOD) for k in (1, 2, 3)] == [0.8, 0.7, 0.0]
    known = crowd((0.9, 0.7, 0.6, 0.2), 2.0)
    assert [threshold_for_budget(known, k, MEGA) for k in (1.0, 0.5, 100)] == [0.6, 0.7, 0.0]
    absent = weighed(np.array([0.0, 0.3, 0.1, 0.6]))
    assert [threshold_for_budget(absent, k, ABSENT) for k in (0.25, 0.5, 1.0)] == [0.3, 0.1, 0.0]


@pytest.mark.parametrize("budget", [-1.0, 0.0, float("nan"), float("inf")])
def test_budgets_that_mean_nothing_are_refused(budget: float) -> None:
    for known in (Calibration(1.0, 0.0, (), 10), crowd((), 10.0), weighed(np.zeros(10))):
        with pytest.raises(InputError, match="above 0"):
            threshold_for_budget(known, budget, GOOD)


def test_budgets_beyond_what_a_calibration_can_tell_are_refused() -> None:
    with pytest.raises(InputError, match=r"needs at least 20 absent queries .* has 10"):
        threshold_for_budget(weighed(np.zeros(10)), 0.05, ABSENT)
    with pytest.raises(InputError, match=r"at most 1, got 1\.5"):
        threshold_for_budget(weighed(np.zeros(10)), 1.5, ABSENT)
    full = largest_alarms(np.linspace(0.1, 0.9, 3000))
    for known, unit in ((Calibration(1.0, 0.0, full, 10), GOOD), (crowd(full, 10.0), MEGA)):
        assert threshold_for_budget(known, 199.9, unit) == full[-1]
        with pytest.raises(InputError, match="at most 200"):
            threshold_for_budget(known, 200, unit)


def test_a_budget_too_small_is_told_what_it_needs_never_what_is_there() -> None:
    for units, budget, line in (
        (333, 0.003, "needs at least 334 good images to be judged by, the calibration has 333"),
        (800, 0.001, "needs at least 1000 good images to be judged by, the calibration has 800"),
        (1234, 0.0008, "needs at least 1250 good images to be judged by, the calibration has 1234"),
    ):
        with pytest.raises(InputError, match=line):
            threshold_for_budget(Calibration(1.0, 0.0, (), units), budget, GOOD)
    full = largest_alarms(np.linspace(0.1, 0.9, 3000))
    with pytest.raises(InputError, match=r"at most 1250 false alarms per megapixel, got 1250000: ask for less"):
        threshold_for_budget(crowd(full, 1.6), 1.25e6, MEGA)


OPTIONS_THAT_ARE_NO_NUMBERS = """
import numpy as np, fiducial
c = np.eye(64)
for ask in (
    lambda: fiducial.detect(c, min_probability="0.9"),
    lambda: fiducial.detect(c, false_alarms="1"),
    lambda: fiducial.register(c, c, turn_deg="30"),
    lambda: fiducial.locate(c, c, scale="0.1-0.5"),
    lambda: fiducial.locate(c, c, scale=np.array(["0.1", "0.5"])),
):
    try:
        ask()
    except ValueError as error:
        print(error)
"""


def test_options_that_are_no_numbers_are_refused_in_a_line() -> None:
    shown = subprocess.run([sys.executable, "-c", OPTIONS_THAT_ARE_NO_NUMBERS], capture_output=True, text=True, check=False)
    assert shown.stderr == ""
    assert shown.stdout.splitlines()[:3] == [
        "min_probability must lie between 0 and 1, got '0.9'",
        "false alarms per megapixel must be above 0, got '1'",
        "turn_deg must lie between 0 and 180, got '30'",
    ]
    assert [line.split(" got ")[1] for line in shown.stdout.splitlines()[3:]] == [
        "'0.1-0.5'",
        "array(['0.1', '0.5'], dtype='<U3')",
    ]


@pytest.mark.parametrize(
    ("probability", "least", "word"),
    [
        (0.0955, 0.5, "0.09"), (0.4999, 0.5, "0.49"), (0.95, 0.999, "0.95"), (0.9985, 0.999, "0.998"),
        (0.99985, 0.9999, "0.9998"), (0.29, 0.3, "0.29"), (0.9, 0.905, "0.90"), (3e-5, 1e-4, "0.0000"), (0.0, 1e-10, "0.00"),
    ],
)  # fmt: skip
def test_a_probability_that_is_too_low_reads_so(probability: float, least: float, word: str) -> None:
    assert below(probability, least) == word


def test_answers_that_are_all_but_probable_enough_say_how_much_is_missing() -> None:
    scene = np.asarray(data.camera())[100:300, 120:340]
    for found in (
        fiducial.locate(scene[40:140, 60:180], scene, scale=1.0, min_probability=1.0),
        fiducial.register(scene, 255 - scene, turn_deg=0.0, scale=1.0, min_probability=1.0),
    ):
        reached = float(np.ravel(found.score)[0])
        assert 0.995 < reached < 1
        assert f"probability {below(reached, 1.0)}, needs 1" in found.reason
        assert "probability 1" not in found.reason


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_probability_in_words_is_none_that_was_not_reached(a: float, b: float) -> None:
    low, high = sorted((a, b))
    word = below(low, high)
    assert float(word) <= low
    assert low - float(word) < 0.01
    assert float(word) < float(f"{high:g}") or high - low < 2e-6


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (1100.4, "1100"), (909.09, "909"), (999.97, "1000"), (12.3456, "12.3"), (-40000.6, "-40001"), (0.00012345, "0.000123"),
        (0.0, "0"), (1e-7, "1e-07"), (123456789012345.0, "123456789012345"), (1e300, "1e+300"), (math.inf, "inf"),
    ],
)  # fmt: skip
def test_numbers_keep_their_units_and_need_no_exponent_for_them(value: float, word: str) -> None:
    assert written(value) == word


def test_a_calibration_that_knows_no_negatives_says_so() -> None:
    with pytest.raises(InputError, match="calibrated on no absent queries"):
        threshold_for_budget(EvidenceCalibration(("a",), (0.0,), (1.0,), (1.0,), 0.0), 0.5, ABSENT)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"mean": (0.0, 1.0)}, "one length"), ({"names": ()}, "one length"), ({"deviation": (0.0,)}, "one length"),
        ({"weight": ("1",)}, "weight"), ({"weight": 1.0}, "weight"), ({"intercept": float("nan")}, "intercept"),
        ({"names": (1,)}, "names"), ({"alarms": (0.2, 0.3)}, "largest first"), ({"alarms": (1.2, 0.3)}, "largest first"),
        ({"negatives": 3}, "each of 3"), ({"negatives": True}, "negatives"),
    ],
)  # fmt: skip
def test_calibrations_whose_parts_do_not_fit_are_named(change: dict[str, Any], says: str) -> None:
    known = asdict(weighed(np.array([0.4, 0.2])))
    assert read_calibration(EvidenceCalibration, known) == weighed(np.array([0.4, 0.2]))
    with pytest.raises(ValueError, match=says):
        read_calibration(EvidenceCalibration, known | change)


def test_evidence_becomes_calibrated_probabilities(rng: np.random.Generator) -> None:
    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        evidence = rng.normal([3, 100], [1, 20], (n, 2))
        return evidence, rng.random(n) < 1 / (1 + np.exp(-2 * (evidence[:, 0] - 3) + 0.05 * (evidence[:, 1] - 100)))

    fitted = fit_evidence(("a", "b"), *draw(4000), against=("b",))
    evidence, true = draw(4000)
    assert calibration_error(evidence_to_probability(fitted, evidence), true) < 0.04
    assert fitted.weight[0] > 0 > fitted.weight[1]
    assert evidence_to_probability(fitted, np.zeros((0, 2))).shape == (0,)


def test_chance_does_not_make_worse_evidence_count_for_better(rng: np.random.Generator) -> None:
    evidence = rng.normal(0, 1, (60, 3))
    true = rng.random(60) < 1 / (1 + np.exp(evidence[:, 0] - evidence[:, 1] - evidence[:, 2]))
    free = fit_evidence(("a", "b", "c"), evidence, true, either=("a", "b", "c"))
    assert np.sign(free.weight).tolist() == [-1, 1, 1]
    bound = fit_evidence(("a", "b", "c"), evidence, true, against=("b",), either=("c",))
    assert bound.weight[:2] == (0, 0)
    assert bound.weight[2] > 0


def test_evidence_of_one_kind_alone_gives_finite_doubt() -> None:
    fitted = fit_evidence(("a",), np.arange(5.0)[:, None], np.ones(5, dtype=bool))
    assert 0.5 < evidence_to_probability(fitted, np.array([[2.0]]))[0] < 0.95
    with pytest.raises(InputError, match="at least one"):
        fit_evidence(("a",), np.zeros((0, 1)), np.zeros(0, dtype=bool))


def test_counts_of_sure_blobs_have_little_doubt_and_unsure_ones_have_the_binomial_one() -> None:
    assert count_interval(np.ones(30), 1.0, 0.0) == (29, 31)  # 30 ± 1.96 · √0.1
    assert count_interval(np.ones(30), 9.0, 0.0) == (28, 32)
    assert count_interval(np.zeros(5), 1.0, 0.3) == (0, 0)
    low, high = count_interval(np.full(400, 0.5), 1.0, 0.0)
    assert (low, high) == (180, 220)  # 200 ± 1.96 · 10
    assert count_interval(np.full(400, 0.5), 4.0, 0.0) == (160, 240)
    assert count_interval(np.ones(100), 1.0, 0.1) == (80, 120)


def test_fitted_intervals_cover_what_they_were_fitted_on_and_are_no_wider_than_needed(rng: np.random.Generator) -> None:
    probability = [rng.uniform(0, 1, int(n)) for n in rng.integers(20, 300, 200)]
    sums, variances = (np.array([f(p) for p in probability]) for f in (np.sum, lambda p: (p * (1 - p)).sum()))
    counts = np.array([float((rng.uniform(0, 1, len(p)) < p).sum()) for p in probability])
    inflation, spread = fit_counts(sums, variances, counts)
    covered = [a <= n <= b for p, n in zip(probability, counts, strict=True) for a, b in [count_interval(p, inflation, spread)]]
    assert np.mean(covered) >= 0.95
    assert inflation < 2.0
    assert spread < 0.05
    doubled = fit_counts(sums, variances, sums * 1.3)
    assert doubled[1] > 0.1 or doubled[0] > 4
    assert fit_counts(np.zeros(0), np.zeros(0), np.zeros(0)) == (1.0, 0.0)


@pytest.mark.parametrize("far", [0.15, 0.5])
def test_fitted_intervals_cover_crowds_that_are_seen_too_surely(far: float) -> None:
    probability, count = np.full(50, 0.9995), 40  # of 40 such images, some hold two blobs more or less
    counts = 50.0 + np.where(np.arange(count) < far * count, np.where(np.arange(count) % 2, 2, -2), 0)
    sums, variances = np.full(count, probability.sum()), np.full(count, (probability * (1 - probability)).sum())
    low, high = count_interval(probability, *fit_counts(sums, variances, counts))
    assert ((low <= counts) & (counts <= high)).mean() >= 0.95
    assert (low, high) == (47, 52)


def test_the_shipped_calibration_says_of_ordinary_crowds_what_it_said(rng: np.random.Generator) -> None:
    inflation, spread = 3.2587043899871633, 0.1
    for n in (3, 5, 30, 400):
        probability = rng.uniform(0.5, 1, n) if n > 3 else np.full(3, 0.95)
        expected, variance = probability.sum(), (probability * (1 - probability)).sum()
        reach = 1.959964 * np.sqrt(inflation * variance + (spread * expected) ** 2)
        assert variance > 0.1
        said = max(0, math.floor(expected - reach)), math.ceil(expected + reach)
        assert count_interval(probability, inflation, spread) == said


def test_answers_of_which_one_can_be_right_share_their_probability() -> None:
    assert share_probability(0.8, []) == pytest.approx(0.8)
    assert share_probability(0.999, [0.999]) == pytest.approx(0.5, abs=1e-3)
    assert share_probability(0.999, [0.999]) < 0.5
    assert share_probability(0.999, [0.001]) == pytest.approx(0.999, abs=1e-5)
    assert share_probability(1.0, [1.0, 1.0]) == pytest.approx(1 / 3)
    some = [0.7, 0.4, 0.2]
    assert sum(share_probability(own, some[:i] + some[i + 1 :]) for i, own in enumerate(some)) < 1
