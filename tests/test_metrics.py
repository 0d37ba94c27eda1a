"""Scores equal sums done by hand."""

import numpy as np
import pytest

from fiducial import metrics
from fiducial.metrics import Counts
from fiducial.regions import label_regions


def test_precision_recall_and_f_are_the_papers() -> None:
    counts = Counts(6, 2, 4)
    assert counts.precision == 6 / 8
    assert counts.recall == 6 / 10
    assert counts.f(2) == pytest.approx(5 * 0.75 * 0.6 / (4 * 0.75 + 0.6))
    assert (Counts(1, 0, 2) + Counts(0, 3, 1)) == Counts(1, 3, 3)


def test_undefined_scores_are_nan() -> None:
    nothing = Counts(0, 0, 0)
    assert all(np.isnan(v) for v in (nothing.precision, nothing.recall, nothing.f()))
    assert np.isnan(metrics.average_precision(np.zeros(0), np.zeros(0, bool), 0))
    assert np.isnan(metrics.calibration_error(np.zeros(0), np.zeros(0, bool)))


def test_pixel_scores_follow_equations_17_to_21() -> None:
    truth = np.array([[0, 0, 1, 1], [2, 2, 2, 0]], np.uint8)
    predicted = np.array([[0, 1, 1, 1], [2, 2, 0, 0]], np.uint8)
    matrix = metrics.confusion(truth, predicted, 4)
    assert matrix.sum() == 8
    assert metrics.mean_iou(matrix) == pytest.approx((2 / 4 + 2 / 3 + 2 / 3) / 3)
    assert metrics.mean_accuracy(matrix) == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    assert metrics.foreground_counts(matrix) == Counts(4, 1, 1)


def test_box_and_region_iou() -> None:
    a, b = np.array([[0.0, 0, 4, 6]]), np.array([[2.0, 3, 6, 9], [10, 10, 12, 12]])
    np.testing.assert_allclose(metrics.box_iou(a, b), [[6 / 42, 0]])
    left, right = np.zeros((2, 12, 14), bool)
    left[0:4, 0:6] = right[2:6, 3:9] = True
    np.testing.assert_allclose(metrics.region_iou(label_regions(left), label_regions(right)), [[6 / 42]])


def test_matching_is_one_to_one_and_best_first() -> None:
    iou = np.array([[0.5, 0.4], [0.9, 0.0], [0.4, 0.35]])
    np.testing.assert_array_equal(metrics.match(iou, 0.33), [0, -1, 1])
    assert metrics.match_counts(iou, 0.33) == Counts(2, 1, 0)
    assert metrics.match_counts(np.zeros((0, 3)), 0.33) == Counts(0, 0, 3)


def test_average_precision_is_the_area_under_the_envelope() -> None:
    score, true = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, True])
    assert metrics.average_precision(score, true, 4) == pytest.approx((1 + 0.75 + 0.75) / 4)


def test_calibration_error_of_honest_and_boastful_probabilities(rng: np.random.Generator) -> None:
    p = rng.random(40_000)
    true = rng.random(40_000) < p
    assert metrics.calibration_error(p, true) < 0.02
    assert metrics.calibration_error(np.ones(100), np.arange(100) < 30) == pytest.approx(0.7)
