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


def test_quad_iou_of_squares_is_their_areas() -> None:
    square = np.array([[0.0, 0], [0, 10], [10, 10], [10, 0]])
    assert metrics.quad_iou(square, square) == pytest.approx(1)
    assert metrics.quad_iou(square, square + np.array([0, 5])) == pytest.approx(50 / 150)
    assert metrics.quad_iou(square, square + 11) == 0
    turned = np.array([[-5.0, 5], [5, 15], [15, 5], [5, -5]])  # of twice the area, about the same middle, by 45°
    assert metrics.quad_iou(square, turned) == pytest.approx(100 / 200)


def test_one_quadrilateral_against_several_is_each_by_itself(rng: np.random.Generator) -> None:
    square, flat = np.array([[0.0, 0], [0, 8], [8, 8], [8, 0]]), np.zeros((4, 2))
    others = np.stack([square * rng.uniform(0.5, 2) + rng.uniform(-9, 9, 2) for _ in range(20)] + [flat])
    found = metrics.quad_ious(square, others)
    np.testing.assert_array_equal(found, [metrics.quad_iou(square, other) for other in others])
    assert (found > 0.1).any()
    assert (found == 0).any()
    assert metrics.quad_iou(flat, flat) == 0
    assert metrics.quad_ious(square, np.zeros((0, 4, 2))).shape == (0,)


def test_corner_error_counts_in_sides() -> None:
    square = np.array([[0.0, 0], [0, 10], [10, 10], [10, 0]])
    assert metrics.corner_error(square + np.array([0.3, 0.4]), square) == pytest.approx(0.05)


def test_false_accepts_are_counted_where_95_of_100_present_ones_are_accepted() -> None:
    present = np.arange(100) / 100
    assert metrics.false_accept_rate(present, np.array([0.01, 0.03, 0.5, 0.9])) == 0.5
    assert metrics.auroc(np.array([0.9, 0.4]), np.array([0.4, 0.1])) == pytest.approx(3.5 / 4)


def test_a_method_that_answers_too_few_present_cases_has_no_rate_of_false_accepts() -> None:
    absent = np.array([-np.inf, -np.inf, 0.2])
    few, enough = (np.concatenate([np.full(n, -np.inf), np.linspace(0.1, 1, 100 - n)]) for n in (6, 4))
    assert np.isnan(metrics.false_accept_rate(few, absent))
    assert metrics.score_reached(few) == -np.inf
    assert metrics.false_accept_rate(enough, absent) == pytest.approx(1 / 3)
    assert 0.1 <= metrics.score_reached(enough) < 0.2
    assert np.isnan(metrics.false_accept_rate(np.full(9, -np.inf), absent))
    assert metrics.auroc(few, absent) == pytest.approx((94 * 2 + 6) / 300 + (few > 0.2).mean() / 3)


def test_quad_iou_of_nearly_equal_quadrilaterals_is_nearly_one(rng: np.random.Generator) -> None:
    for _ in range(300):
        angle, side = rng.uniform(0, 2 * np.pi), rng.uniform(5, 500)
        turn = side * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        quad = np.array([[0.0, 0], [0, 1], [1, 1], [1, 0]]) @ turn + rng.uniform(0, 1000, 2)
        assert metrics.quad_iou(quad, quad + 10 ** rng.uniform(-8, -4)) > 0.999


def test_scores_without_cases_are_nan() -> None:
    assert np.isnan(metrics.auroc(np.zeros(0), np.ones(2)))
    assert np.isnan(metrics.false_accept_rate(np.ones(2), np.zeros(0)))
    assert np.isnan(metrics.false_accept_rate(np.zeros(0), np.ones(2)))


def test_repeatability_is_the_mean_of_both_views_and_nan_without_points() -> None:
    a = np.array([[0.0, 0], [10, 10], [20, 20], [40, 7]])
    b = np.array([[0.0, 2], [11, 10], [10, 12], [30, 30], [22.5, 20], [50, 50]])  # two of a are near b, three of b near a
    assert metrics.repeatability(a, b, 2.0) == pytest.approx((2 / 4 + 3 / 6) / 2)
    assert metrics.repeatability(b[:1], a, 2.0) == pytest.approx((1 + 1 / 4) / 2)
    assert metrics.repeatability(a, a + 100, 2.0) == 0
    assert np.isnan(metrics.repeatability(a, np.zeros((0, 2)), 2.0))
    assert np.isnan(metrics.repeatability(np.zeros((0, 2)), a, 2.0))
