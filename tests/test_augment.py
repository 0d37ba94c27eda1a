"""One map moves image and truth together; synthetic damage is where its mask says."""

import cv2
import numpy as np
import pytest

from fiducial import augment, synth
from fiducial.coords import apply_transform, shift
from fiducial.regions import label_regions

SIZE = (96, 128)


def test_a_map_samples_where_its_matrix_points(rng: np.random.Generator) -> None:
    view = augment.random_view(rng, (300, 400), SIZE, (150.0, 200.0), 1.0)
    mapping = augment.map_from_matrix(view, SIZE)
    at = np.array([[0.0, 0], [10, 100], [95, 127]])
    expected = apply_transform(view, at)
    np.testing.assert_allclose(mapping[[0, 10, 95], [0, 100, 127]], expected, atol=1e-3)


def test_views_without_strength_keep_pixels_whole(rng: np.random.Generator) -> None:
    source = rng.integers(0, 255, (300, 400)).astype(np.uint8)
    for _ in range(20):
        view = augment.random_view(rng, source.shape, (65, 65), tuple(rng.uniform(0, 300, 2)), 0.0)
        seen = augment.resample(source, augment.map_from_matrix(view, (65, 65)))
        at = np.array([[0, 0], [64, 3], [20, 64]])
        places = apply_transform(view, at.astype(float))
        np.testing.assert_allclose(places, places.round(), atol=1e-9)
        whole = places.round().astype(int)
        np.testing.assert_array_equal(seen[at[:, 0], at[:, 1]], source[whole[:, 0], whole[:, 1]])


def test_moving_a_map_equals_moving_its_points(rng: np.random.Generator) -> None:
    matrix, inner = shift(5, -3), augment.map_from_matrix(shift(1.5, 2), SIZE)
    np.testing.assert_allclose(augment.move_map(matrix, inner), augment.map_from_matrix(shift(6.5, -1), SIZE), atol=1e-4)


def test_labels_stay_whole_along_a_map(rng: np.random.Generator) -> None:
    labels = np.zeros((200, 200), np.uint8)
    labels[80:120, 60:150] = 3
    view = augment.random_view(rng, labels.shape, SIZE, (100.0, 100.0), 1.0)
    assert set(np.unique(augment.resample(labels, augment.map_from_matrix(view, SIZE), nearest=True))) == {0, 3}


def test_a_photograph_without_strength_is_the_scene(rng: np.random.Generator) -> None:
    scene = rng.random(SIZE).astype(np.float32)
    np.testing.assert_allclose(augment.photograph(scene, rng, 0.0), scene, atol=1e-6)


def test_damage_changes_the_board_exactly_where_the_mask_says(rng: np.random.Generator) -> None:
    board = synth.draw_board(rng, (300, 411))
    sample, mask = synth.damage_board(board, rng, 12)
    np.testing.assert_array_equal(sample != board, mask > 0)
    assert len(label_regions(mask > 0).area_px) >= 4
    added = {synth.SHORT, synth.SPUR, synth.COPPER}
    for kind in np.unique(mask[mask > 0]).tolist():
        assert (sample[mask == kind] == (255 if kind in added else 0)).all()


def test_pinholes_open_no_edge_and_spurious_copper_touches_none(rng: np.random.Generator) -> None:
    board = synth.draw_board(rng, (500, 500))
    sample, mask = synth.damage_board(board, rng, 60)
    for kind, around in ((synth.PINHOLE, 255), (synth.COPPER, 0)):
        ring = cv2.dilate((mask == kind).astype(np.uint8), np.ones((3, 3), np.uint8)) > (mask == kind)
        assert ring.any()
        assert (sample[ring] == around).all()


@pytest.mark.parametrize("count", [0, 3])
def test_stains_change_the_picture_where_the_mask_says(rng: np.random.Generator, count: int) -> None:
    picture = augment.smooth_field(rng, SIZE, 10) * np.float32(0.2) + np.float32(0.5)
    stained, mask = synth.stain(picture, rng, count)
    assert np.percentile(np.abs(stained - picture)[mask == 0], 99.5) < 0.08
    if not count:
        assert not mask.any()
        np.testing.assert_array_equal(stained, picture)


@pytest.mark.parametrize("looks", [1.0, 4.0, 16.0])
def test_speckle_keeps_the_mean_and_varies_with_the_looks(rng: np.random.Generator, looks: float) -> None:
    image = np.repeat(np.float32([[0.2], [0.8]]), 200, axis=0) * np.ones(300, np.float32)
    speckled = augment.add_speckle(image, rng, looks)
    for half in (np.s_[:200], np.s_[200:]):
        relative = speckled[half] / image[half]
        assert relative.mean() == pytest.approx(1, abs=0.02)
        assert relative.var() == pytest.approx(1 / looks, rel=0.04)
    assert speckled.dtype == np.float32
