"""Scores of blobs equal those of plain loops over all pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiducial import metrics

NOBODY = np.zeros((0, 2))


def points(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.uniform(0, 1, (count, 2)) * (30, 50)


def match_by_hand(found_yx: np.ndarray, true_yx: np.ndarray, reach: np.ndarray) -> list[int]:
    """Take the nearest pair within reach, strike both out, and again."""
    partner = [-1] * len(true_yx)
    apart = np.linalg.norm(found_yx[:, None] - true_yx[None], axis=2)
    apart[apart > reach[None]] = np.inf
    while np.isfinite(apart).any():
        i, j = np.unravel_index(apart.argmin(), apart.shape)
        partner[j] = int(i)
        apart[i], apart[:, j] = np.inf, np.inf
    return partner


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 1000))
def test_points_are_matched_one_to_one_nearest_first(found: int, true: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found_yx, true_yx, reach = points(rng, found), points(rng, true), rng.uniform(2, 20, true)
    partner = metrics.match_points(found_yx, true_yx, reach)
    assert partner.tolist() == (match_by_hand(found_yx, true_yx, reach) if found and true else [-1] * true)
    taken = partner[partner >= 0]
    assert len(set(taken.tolist())) == len(taken)


def test_the_nearer_of_two_claims_a_detection_and_the_other_takes_what_is_left() -> None:
    found, true = np.array([[10.0, 21.0], [10.0, 27.0]]), np.array([[10.0, 20.0], [10.0, 23.0]])
    np.testing.assert_array_equal(metrics.match_points(found, true, np.array([4.0, 5.0])), [0, 1])
    np.testing.assert_array_equal(metrics.match_points(found, true, np.array([4.0, 3.0])), [0, -1])
    np.testing.assert_array_equal(metrics.match_points(found[:1], true, np.array([0.5, 5.0])), [-1, 0])


def test_a_detection_at_the_reach_counts() -> None:
    found, true = np.array([[3.0, 4.0]]), np.zeros((1, 2))
    assert metrics.match_points(found, true, np.array([5.0])).tolist() == [0]
    assert metrics.match_points(found, true, np.array([4.99])).tolist() == [-1]


def test_the_reach_is_half_a_radius_but_no_less_than_two_pixels() -> None:
    np.testing.assert_allclose(metrics.blob_reach(np.array([1.0, 4.0, 5.0, 30.0])), [2, 2, 2.5, 15])


@given(st.integers(0, 40), st.integers(0, 1000))
def test_adjacent_pairs_are_those_nearer_than_one_and_a_half_sums_of_radii(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    yx, radius = points(rng, count), np.exp(rng.uniform(-1, 2, count))
    expected = {
        (i, j) for i in range(count) for j in range(i + 1, count) if np.hypot(*(yx[i] - yx[j])) < 1.5 * (radius[i] + radius[j])
    }
    pairs = metrics.adjacent_pairs(yx, radius)
    assert len(pairs) == len(expected)
    assert {(int(min(p)), int(max(p))) for p in pairs} == expected


def test_discrimination_is_the_share_of_pairs_found_whole() -> None:
    pairs = np.array([[0, 1], [1, 2], [2, 3], [0, 3]])
    assert metrics.adjacent_discrimination([(pairs, np.array([5, 2, -1, 0]))]) == 0.5
    assert metrics.adjacent_discrimination([(pairs, np.full(4, -1))]) == 0
    assert metrics.adjacent_discrimination([(pairs, np.arange(4))]) == 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_discrimination_without_adjacent_pairs_is_undefined(count: int) -> None:
    yx, radius = np.array([[5.0, 5.0], [5.0, 45.0]])[:count], np.full(count, 3.0)
    pairs = metrics.adjacent_pairs(yx, radius)
    assert pairs.shape == (0, 2)
    assert np.isnan(metrics.adjacent_discrimination([(pairs, np.arange(count))]))


def test_merging_two_touching_blobs_costs_discrimination_but_not_that_of_others() -> None:
    true, radius = np.array([[10.0, 10.0], [10.0, 18.0], [30.0, 10.0], [30.0, 18.0]]), np.full(4, 4.0)
    found = np.array([[10.0, 14.0], [30.0, 10.5], [30.0, 17.5]])  # one answer between the first two
    partner = metrics.match_points(found, true, metrics.blob_reach(radius))
    assert metrics.adjacent_discrimination([(metrics.adjacent_pairs(true, radius), partner)]) == 0.5


def test_nothing_found_or_nothing_true_is_a_well_shaped_answer() -> None:
    assert metrics.match_points(NOBODY, np.ones((3, 2)), np.full(3, 9.0)).tolist() == [-1, -1, -1]
    assert metrics.match_points(np.ones((3, 2)), NOBODY, np.zeros(0)).shape == (0,)
    assert metrics.blob_reach(np.zeros(0)).shape == (0,)
