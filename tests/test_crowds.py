"""Crowds are measured, moved and drawn as their glossary says, on shapes whose size is known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiducial import crowds
from fiducial.coords import apply_transform, shift, similarity
from fiducial.crowds import NOTHING, Crowd, Style, crowd_of_labels, disks, heat_map, in_bytes

PLAIN = Style("disk", over=True, contrast=(1.0, 1.0), softness=0.05, texture=0.0, ragged=0.0, stretch=0.0)


def ellipse(center: tuple[float, float], along: float, across: float, angle_deg: float) -> Crowd:
    """Return one blob whose semi-axis `along` points `angle_deg` from x towards y."""
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    turn = np.array([[s, c], [c, -s]])  # columns: the two axes, as (y, x)
    return Crowd(np.array([center], dtype=np.float64), (turn @ np.diag([along**2 / 4, across**2 / 4]) @ turn.T)[None])


def rho(crowd: Crowd, size: tuple[int, int]) -> np.ndarray:
    """Return, at each pixel, the distance from the one blob's center in units of its outline."""
    offset = np.stack(np.mgrid[: size[0], : size[1]], axis=-1) - crowd.yx[0]
    return np.sqrt(np.einsum("hwi,ij,hwj->hw", offset, np.linalg.inv(crowd.moments[0]), offset) / 4)


def label(*blobs: Crowd, size: tuple[int, int] = (70, 90)) -> np.ndarray:
    labels = np.zeros(size, np.int64)
    for number, blob in enumerate(blobs, start=1):
        labels[rho(blob, size) <= 1] = number
    return labels


def spacing_by_hand(crowd: Crowd) -> np.ndarray:
    apart = np.linalg.norm(crowd.yx[:, None] - crowd.yx[None], axis=2) / (crowd.radius[:, None] + crowd.radius[None])
    np.fill_diagonal(apart, np.inf)
    return apart.min(axis=1, initial=np.inf)


# Measuring


@given(st.floats(25, 40), st.floats(25, 60), st.floats(4, 20))
def test_a_labelled_disk_gives_its_center_and_radius_to_sub_pixel(y: float, x: float, radius: float) -> None:
    crowd = crowd_of_labels(label(disks(np.array([[y, x]]), np.array([radius]))))
    np.testing.assert_allclose(crowd.yx, [[y, x]], atol=0.2)
    np.testing.assert_allclose(crowd.radius, radius, atol=0.2)


@given(st.floats(28, 40), st.floats(28, 60), st.floats(12, 24), st.floats(6, 12), st.floats(0, 180))
def test_a_labelled_ellipse_gives_its_axes_and_direction(y: float, x: float, along: float, across: float, angle: float) -> None:
    true = ellipse((y, x), along, across, angle)
    crowd = crowd_of_labels(label(true))
    np.testing.assert_allclose(crowd.yx, true.yx, atol=0.2)
    np.testing.assert_allclose(crowd.radius, math.sqrt(along * across), rtol=0.02)
    np.testing.assert_allclose(crowd.moments, true.moments, atol=0.04 * along**2 / 4)


def test_regions_are_told_apart_by_their_numbers_however_large() -> None:
    blobs = disks(np.array([[20.0, 20.0], [40.0, 60.0]]), np.array([6.0, 11.0]))
    labels = label(blobs.only(np.array([0])), blobs.only(np.array([1])))
    labels[labels == 1] = 2**40
    crowd = crowd_of_labels(labels)  # in the order of their numbers
    np.testing.assert_allclose(crowd.yx, blobs.yx[::-1], atol=0.01)
    np.testing.assert_allclose(crowd.radius, [11, 6], atol=0.1)


def test_holes_and_dents_do_not_enlarge_a_blob() -> None:
    whole = label(disks(np.array([[35.0, 45.0]]), np.array([15.0])))
    ring, dented = whole.copy(), whole.copy()
    ring[label(disks(np.array([[35.0, 45.0]]), np.array([9.0]))) > 0] = 0
    dented[30:40, 50:] = 0
    radius = [crowd_of_labels(labels).radius[0] for labels in (whole, ring, dented)]
    np.testing.assert_allclose(radius, np.sqrt([(labels > 0).sum() / np.pi for labels in (whole, ring, dented)]))
    assert max(radius[1:]) < radius[0]


def test_specks_and_what_is_not_positive_are_no_blobs() -> None:
    labels = label(disks(np.array([[35.0, 45.0]]), np.array([15.0])))
    labels[2, 3:6] = 2
    labels[60:] = -1
    assert len(crowd_of_labels(labels)) == 1
    assert len(crowd_of_labels(labels, smallest_px=3)) == 2
    assert len(crowd_of_labels(np.zeros((7, 9), np.int64))) == 0


def test_a_single_pixel_is_a_disk_of_its_area() -> None:
    labels = np.zeros((7, 9), np.uint8)
    labels[2, 5] = 9
    crowd = crowd_of_labels(labels, smallest_px=1)
    np.testing.assert_allclose(crowd.radius, math.sqrt(1 / np.pi))
    np.testing.assert_allclose(crowd.yx, [[2, 5]])


# Moving


@given(st.floats(-180, 180), st.floats(0.4, 2.5), st.sampled_from([-1.0, 1.0]), st.floats(-0.5, 0.5))
def test_a_moved_crowd_has_the_outlines_that_the_transform_gives(
    angle: float, scale: float, mirror: float, shear: float
) -> None:
    crowd = ellipse((12, 30), 9, 4, 25)
    matrix = shift(3, -7) @ similarity(scale, angle) @ np.array([[mirror, shear, 0], [0, 1, 0], [0, 0, 1.0]])
    values, vectors = np.linalg.eigh(crowd.moments[0])
    turn = np.linspace(0, 2 * np.pi, 12)
    outline = crowd.yx + (np.stack([np.cos(turn), np.sin(turn)], axis=1) * 2 * np.sqrt(values)) @ vectors.T
    moved = crowd.moved(matrix)
    offset = apply_transform(matrix, outline) - moved.yx
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", offset, np.linalg.inv(moved.moments[0]), offset) / 4, 1, rtol=1e-9)
    np.testing.assert_allclose(moved.radius, 6 * scale, rtol=1e-9)  # a shear keeps the area


def test_a_quarter_turn_and_a_scale_are_seen_in_the_moments() -> None:
    moved = ellipse((10, 20), 8, 3, 0).moved(similarity(2.0, 90))  # along x before, along y after
    np.testing.assert_allclose(moved.yx, [[40, -20]], atol=1e-12)
    np.testing.assert_allclose(moved.moments, [np.diag([16.0**2 / 4, 6.0**2 / 4])], atol=1e-9)


def test_some_of_a_crowd_are_chosen_by_index_or_by_mask() -> None:
    crowd = disks(np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([1.0, 2, 3]))
    np.testing.assert_allclose(crowd.only(np.array([2, 0])).radius, [3, 1])
    np.testing.assert_allclose(crowd.only(np.array([False, True, False])).yx, [[3, 4]])


# The map of centers


def test_a_gaussian_is_one_at_the_center_and_falls_by_the_root_of_e_at_its_width() -> None:
    heat, radius = heat_map(disks(np.array([[30.0, 40.0]]), np.array([20.0])), (61, 83), 0.5, 1.0)
    assert heat[30, 40] == 1
    np.testing.assert_allclose([heat[20, 40], heat[40, 40], heat[30, 30], heat[36, 48]], math.exp(-0.5), rtol=1e-5)
    assert (radius[heat > 0.01] == 20).all()
    assert not radius[heat == 0].any()


@given(st.floats(0, 180), st.floats(0.3, 1.0))
def test_a_gaussian_has_its_blobs_shape(angle: float, width: float) -> None:
    crowd = ellipse((30.25, 44.5), 16, 7, angle)
    heat, _ = heat_map(crowd, (61, 83), width, 1.0)
    np.testing.assert_allclose(heat, np.exp(-0.5 * (rho(crowd, (61, 83)) / width) ** 2), atol=0.007)


def test_no_axis_of_a_gaussian_is_narrower_than_the_least() -> None:
    heat, _ = heat_map(ellipse((20, 30), 10, 0.5, 0), (41, 61), 0.4, 2.0)
    assert heat[20, 34] == pytest.approx(math.exp(-0.5), rel=1e-5)  # 0.4 · 10 px along
    assert heat[22, 30] == pytest.approx(math.exp(-0.5), rel=1e-5)  # the least across


def test_of_two_blobs_the_higher_counts_and_gives_its_radius() -> None:
    both = disks(np.array([[20.0, 20.0], [20.0, 32.0]]), np.array([6.0, 12.0]))
    heat, radius = heat_map(both, (41, 61), 0.5, 1.0)
    alone = [heat_map(both.only(np.array([i])), (41, 61), 0.5, 1.0)[0] for i in (0, 1)]
    np.testing.assert_array_equal(heat, np.maximum(*alone))
    np.testing.assert_array_equal(radius[heat > 0.01], np.where(alone[0] >= alone[1], 6, 12)[heat > 0.01])
    swapped = heat_map(both.only(np.array([1, 0])), (41, 61), 0.5, 1.0)
    np.testing.assert_array_equal(heat, swapped[0])
    clear = (heat > 0.01) & (alone[0] != alone[1])
    np.testing.assert_array_equal(radius[clear], swapped[1][clear])


def test_a_blob_outside_reaches_in_as_far_as_its_gaussian() -> None:
    outside = disks(np.array([[-3.0, 30.0], [20.0, 66.0], [400.0, 30.0]]), np.array([10.0, 10.0, 10.0]))
    heat, _ = heat_map(outside, (41, 61), 0.5, 1.0)
    assert heat[0, 30] == pytest.approx(math.exp(-0.5 * (3 / 5) ** 2), rel=1e-5)
    assert heat[20, 60] == pytest.approx(math.exp(-0.5 * (6 / 5) ** 2), rel=1e-5)
    assert not heat[40, :30].any()


# Drawing


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing", [(0.6, 0.9), (1.0, 1.0), (1.2, 2.5)])
def test_scattered_blobs_keep_the_least_spacing_and_their_sizes(seed: int, spacing: tuple[float, float]) -> None:
    crowd = crowds.scatter(np.random.default_rng(seed), (150, 210), (2.0, 15.0), spacing, 0.5)
    assert len(crowd) > 10
    assert spacing_by_hand(crowd).min() >= 0.999 * spacing[0] - 1e-9
    assert crowd.radius.min() >= 2 - 1e-9
    assert crowd.radius.max() <= 15 + 1e-9
    assert (crowd.yx > -crowd.radius[:, None]).all()
    assert (crowd.yx < np.array([150, 210]) + crowd.radius[:, None]).all()


def test_scattering_stops_at_the_share_wanted() -> None:
    for share in (0.02, 0.1, 0.3):
        crowd = crowds.scatter(np.random.default_rng(0), (200, 310), (3.0, 5.0), (1.0, 2.0), share)
        covered = np.pi * (crowd.radius**2).sum() / (200 * 310)
        assert share <= covered < share + np.pi * 25 / (200 * 310)


def test_most_scattered_blobs_stand_beside_another() -> None:
    crowd = crowds.scatter(np.random.default_rng(0), (400, 500), (3.0, 6.0), (1.0, 1.2), 0.08)
    assert (spacing_by_hand(crowd) < 1.21).mean() > 0.8


def test_stretched_blobs_keep_their_area(rng: np.random.Generator) -> None:
    round_ones = disks(rng.uniform(0, 50, (200, 2)), rng.uniform(3, 9, 200))
    stretched = crowds.stretch(round_ones, rng, 0.3)
    np.testing.assert_allclose(stretched.radius, round_ones.radius)
    values = np.linalg.eigvalsh(stretched.moments)
    ratio = np.log(values[:, 1] / values[:, 0]) / 2  # of the axes
    assert ratio.std() > 0.1
    assert np.sqrt(np.square(ratio).mean()) == pytest.approx(0.3, rel=0.2)
    np.testing.assert_allclose(crowds.stretch(round_ones, rng, 0.0).moments, round_ones.moments, atol=1e-12)


def test_a_drawn_disk_is_bright_inside_its_outline_and_dark_outside(rng: np.random.Generator) -> None:
    for crowd in (disks(np.array([[30.3, 40.6]]), np.array([13.0])), ellipse((30.3, 40.6), 20, 9, 35)):
        image, away = crowds.render_crowd(crowd, (61, 83), PLAIN, rng), rho(crowd, (61, 83))
        assert image[away < 0.9].min() > 0.9
        assert image[away > 1.1].max() < 0.1
        assert ((image > 0.5) != (away < 1)).sum() <= 2


@pytest.mark.parametrize("kind", ["disk", "dome", "gauss", "rim"])
def test_every_kind_of_blob_is_brightest_within_its_radius(kind: str, rng: np.random.Generator) -> None:
    crowd = disks(np.array([[30.0, 40.0]]), np.array([12.0]))
    image, away = crowds.render_crowd(crowd, (61, 83), replace(PLAIN, kind=kind), rng), rho(crowd, (61, 83))
    assert away.ravel()[image.argmax()] < 1
    assert image[away < 1].mean() > 2.5 * image[(away > 1) & (away < 1.5)].mean()


def test_an_opaque_blob_hides_what_it_covers_and_light_adds_up(rng: np.random.Generator) -> None:
    same = disks(np.array([[30.0, 40.0], [30.0, 40.0]]), np.array([12.0, 12.0]))
    over, added = (crowds.render_crowd(same, (61, 83), replace(PLAIN, over=over), rng) for over in (True, False))
    assert over[30, 40] == pytest.approx(1, abs=1e-3)
    assert added[30, 40] == pytest.approx(2, abs=1e-3)


def test_a_drawn_crowd_is_brighter_at_its_centers_and_drawn_again_from_its_seed() -> None:
    seen = 0
    for seed in range(12):
        image, crowd = crowds.draw_crowd(np.random.default_rng(seed), (90, 130), (4.0, 7.0), (1.0, 1.6), 0.2)
        again, same = crowds.draw_crowd(np.random.default_rng(seed), (90, 130), (4.0, 7.0), (1.0, 1.6), 0.2)
        np.testing.assert_array_equal(image, again)
        np.testing.assert_array_equal(crowd.yx, same.yx)
        if len(crowd):
            heat, _ = heat_map(crowd, (90, 130), 0.5, 1.0)
            assert image[heat > 0.8].mean() > image[heat < 0.01].mean() + 0.1
            seen += 1
    assert seen > 6


# Nobody


def test_a_crowd_of_nobody_passes_everywhere(rng: np.random.Generator) -> None:
    assert NOTHING.radius.shape == (0,)
    assert len(NOTHING.moved(similarity(2.0, 30.0))) == len(crowds.stretch(NOTHING, rng, 0.3)) == 0
    assert not any(part.any() for part in heat_map(NOTHING, (11, 17), 0.5, 1.0))
    assert not crowds.render_crowd(NOTHING, (11, 17), PLAIN, rng).any()
    assert len(crowds.scatter(rng, (50, 70), (2.0, 5.0), (1.0, 2.0), 0.0)) == 0
    image, crowd = crowds.draw_crowd(rng, (50, 70), (2.0, 5.0), (1.0, 2.0), 0.0)
    assert image.shape == (50, 70)
    assert len(crowd) == 0


def test_a_blob_across_the_border_is_what_the_image_shows_of_it() -> None:
    """Half a disk's centroid lies 4r/3π from its straight edge, which is the border of the first row of pixels."""
    crowd = disks(np.array([[-0.5, 50.0], [40.0, 99.5], [40.0, 60.0], [-30.0, 50.0]]), np.array([12.0, 9.0, 10.0, 10.0]))
    seen = crowd.cut((80, 100))
    np.testing.assert_allclose(seen.yx[0], (-0.5 + 4 * 12 / (3 * np.pi), 50), atol=0.15)
    np.testing.assert_allclose(seen.yx[1], (40, 99.5 - 4 * 9 / (3 * np.pi)), atol=0.15)
    np.testing.assert_allclose(seen.radius[:2], np.array([12, 9]) / np.sqrt(2), rtol=0.01)
    np.testing.assert_array_equal(seen.yx[2], crowd.yx[2])
    np.testing.assert_array_equal(seen.moments[2], crowd.moments[2])
    assert seen.radius[3] == 0


@pytest.mark.parametrize("center_y", np.linspace(-19.4, -17.9, 16))
def test_a_sliver_is_never_longer_than_its_blob(center_y: float) -> None:
    seen = disks(np.array([[-0.5 + center_y, 50.0]]), np.array([20.0])).cut((80, 100))
    assert 0 < seen.radius[0] < 6
    assert np.sqrt(np.linalg.eigvalsh(seen.moments[0]).max()) < 10
    assert -0.5 <= seen.yx[0, 0] < 2


def test_bytes_hold_the_least_and_the_largest_tone() -> None:
    assert in_bytes(np.array([[-3.0, 0.0, 3.0]], np.float32)).tolist() == [[0, 127, 255]]
    assert in_bytes(np.full((2, 3), 7, np.float32)).max() == 0


def test_what_is_cut_is_what_the_labels_of_the_part_say() -> None:
    rows, columns = np.mgrid[:80, :100]
    labels = (((rows - 40) / 20) ** 2 + ((columns - 50) / 9) ** 2 <= 1).astype(int)
    whole, part = crowd_of_labels(labels), crowd_of_labels(labels[:46, 44:])
    seen = whole.moved(shift(0, -44)).cut((46, 56))
    np.testing.assert_allclose(seen.yx, part.yx, atol=0.3)
    np.testing.assert_allclose(seen.radius, part.radius, rtol=0.02)
    np.testing.assert_allclose(seen.moments, part.moments, atol=3)
