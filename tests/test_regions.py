"""Regions join small gaps, know their boxes, and their run lengths come back."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fiducial.regions import (
    classes_of,
    find_regions,
    from_run_lengths,
    label_regions,
    outlined,
    run_lengths,
    run_lengths_of,
)


def test_fragments_are_one_region_over_gaps_up_to_the_limit() -> None:
    mask = np.zeros((20, 31), bool)
    mask[3:6, 4:9] = mask[3:6, 11:13] = True  # a gap of 2
    mask[12:15, 4:9] = mask[12:15, 13:15] = True  # a gap of 4
    regions = label_regions(mask, join_px=2)
    assert sorted(regions.area_px.tolist()) == [6, 15, 21]
    assert [2.5, 3.5, 5.5, 12.5] in regions.boxes_yxyx.tolist()


def test_windows_hold_the_pixels_of_their_region(rng: np.random.Generator) -> None:
    regions = label_regions(rng.random((40, 57)) > 0.985, join_px=2)
    assert len(regions.area_px) > 3
    for i, area in enumerate(regions.area_px.tolist()):
        assert regions.pixels(i).sum() == area == (regions.number == i + 1).sum()


def test_an_empty_mask_has_no_regions() -> None:
    regions = label_regions(np.zeros((5, 6), bool))
    assert regions.boxes_yxyx.shape == (0, 4)
    assert regions.area_px.shape == (0,)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_come_back(mask: np.ndarray) -> None:
    lengths = run_lengths(mask)
    np.testing.assert_array_equal(from_run_lengths(lengths, mask.shape), mask)
    assert sum(lengths[1::2]) == mask.sum()


def test_run_lengths_count_down_the_columns_from_zeros() -> None:
    assert run_lengths(np.array([[0, 1], [0, 1], [1, 0]], bool)) == [2, 3, 1]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]
    with pytest.raises(ValueError, match="add up"):
        from_run_lengths([3], (2, 2))


@pytest.mark.parametrize("join_px", [0, 1, 2, 10])
def test_regions_found_band_by_band_are_those_of_the_whole(rng: np.random.Generator, join_px: int) -> None:
    for share in (0.5, 0.97, 0.995, 1.0):
        mask = rng.random((330, 47)) > share
        mask[100:290, 20:23] = share < 1  # over several seams
        whole = label_regions(mask, join_px)
        banded = find_regions((330, 47), lambda rows, mask=mask: mask[rows], join_px, band_px=1)
        assert run_lengths_of((330, 47), lambda columns, mask=mask: mask[:, columns], band_px=1) == run_lengths(mask)
        pairs = set(zip(whole.number[mask].tolist(), banded.number[mask].tolist(), strict=True))
        assert len(pairs) == len(whole.area_px) == len(banded.area_px)
        assert sorted(map(tuple, whole.boxes_yxyx)) == sorted(map(tuple, banded.boxes_yxyx))
        assert [banded.pixels(i).sum() for i in range(len(banded.area_px))] == banded.area_px.tolist()
        np.testing.assert_array_equal(banded.number > 0, mask)


def test_rough_regions_are_laid_to_where_the_images_differ(rng: np.random.Generator) -> None:
    truth, rough = np.zeros((2, 60, 80), bool)
    truth[10:20, 12:30] = truth[35:50, 50:56] = True
    rough[9:22, 14:31] = rough[34:48, 48:58] = True  # too large on some sides, too small on others
    difference = rng.normal(0.05, 0.003, truth.shape)
    difference[10:20, 12:30], difference[35:50, 50:56] = 0.8, 0.12  # each beside its own contrast
    np.testing.assert_array_equal(outlined(rough, difference.astype(np.float32)), truth)
    shifted = outlined(np.roll(rough, (5, -7), (0, 1)), np.roll(difference, (5, -7), (0, 1)).astype(np.float32))
    np.testing.assert_array_equal(shifted, np.roll(truth, (5, -7), (0, 1)))


def test_noise_within_a_region_taken_too_large_is_left_out(rng: np.random.Generator) -> None:
    truth, rough = np.zeros((2, 60, 80), bool)
    truth[20:32, 30:45], rough[12:42, 22:56] = True, True  # most of what is suspected does not differ
    difference = np.abs(cv2.GaussianBlur(rng.normal(0, 0.2, truth.shape), (0, 0), 1.5)) + 0.6 * truth
    found = outlined(rough, difference.astype(np.float32))
    assert found[truth].all()
    assert (found & ~truth).sum() <= 9  # one chance speck


@pytest.mark.parametrize("thickness", [0, 2])
def test_where_nothing_or_only_a_line_differs_a_rough_region_stays(thickness: int) -> None:
    rough, difference = np.zeros((40, 50), bool), np.zeros((40, 50), np.float32)
    rough[10:20, 5:45] = True
    difference[14 : 14 + thickness, 5:45] = 1
    np.testing.assert_array_equal(outlined(rough, difference), rough)


def test_where_all_is_suspect_there_is_nothing_to_lay_it_to(rng: np.random.Generator) -> None:
    rough = np.ones((30, 40), bool)
    np.testing.assert_array_equal(outlined(rough, rng.random(rough.shape, dtype=np.float32)), rough)


def test_edges_beside_a_region_stay_outside() -> None:
    rough, difference = np.zeros((40, 50), bool), np.zeros((40, 50), np.float32)
    rough[10:20, 10:20] = True
    difference[10:20, 10:20] = difference[:, 21:22] = 1  # an edge that lies one pixel beside itself
    np.testing.assert_array_equal(outlined(rough, difference), rough)


def test_the_classes_of_a_mask_are_its_values_but_0() -> None:
    mask = np.zeros((9, 7), np.uint8)
    mask[2, 3], mask[8, 0], mask[0, 6] = 200, 3, 3
    assert classes_of(mask) == [3, 200]
