"""Frames convert there and back, and shifting or resizing an image moves its points as stated."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fiducial import coords


@given(st.floats(0.2, 4), st.floats(-180, 180), st.floats(-50, 50), st.floats(-50, 50))
def test_similarity_keeps_its_center_and_scales_distances(scale: float, angle: float, y: float, x: float) -> None:
    matrix = coords.similarity(scale, angle, (y, x))
    points = np.array([[y, x], [y + 3, x + 4]])
    moved = coords.apply_transform(matrix, points)
    np.testing.assert_allclose(moved[0], points[0], atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(moved[1] - moved[0]), 5 * scale, rtol=1e-9)
    np.testing.assert_allclose(coords.apply_transform(np.linalg.inv(matrix), moved), points, atol=1e-8)


def test_a_positive_angle_turns_x_towards_y() -> None:
    np.testing.assert_allclose(coords.apply_transform(coords.similarity(1, 90), np.array([[0.0, 1.0]])), [[1, 0]], atol=1e-12)


def test_resizing_moves_a_blob_as_the_transform_says() -> None:
    image = np.zeros((40, 60), np.float32)
    cv2.circle(image, (33, 14), 6, 1, -1)
    small = cv2.resize(image, (20, 20), interpolation=cv2.INTER_AREA)

    def center(a: np.ndarray) -> np.ndarray:
        grid = np.indices(a.shape)
        return (grid * a).sum((1, 2)) / a.sum()

    expected = coords.apply_transform(coords.resize_transform((40, 60), (20, 20)), center(image)[None])[0]
    np.testing.assert_allclose(center(small), expected, atol=0.02)


def test_sampling_at_pixel_centers_returns_the_pixels() -> None:
    maps = torch.rand(1, 2, 5, 7)
    yx = torch.stack(torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij"), -1)[None]
    torch.testing.assert_close(coords.sample_bilinear(maps, yx, "zeros"), maps)
    torch.testing.assert_close(coords.sample_bilinear(maps, yx - 100, "border")[0, :, 0, 0], maps[0, :, 0, 0])


def test_cells_cover_the_pixels_around_their_centers() -> None:
    centers = coords.cell_centers_yx((20, 33), 8)
    assert len(centers) == 3 * 5
    np.testing.assert_array_equal(coords.nearest_cell(centers, (20, 33), 8), np.arange(15))
    edge = np.array([[-0.4, 7.4], [-0.6, 3.0], [7.6, 7.6]])
    np.testing.assert_array_equal(coords.nearest_cell(edge, (20, 33), 8), [0, -1, 6])


def test_corner_counted_transforms_move_by_half_a_pixel() -> None:
    world = np.array([[10.0, 0, 500], [0, -10, 900], [0, 0, 1]])
    np.testing.assert_allclose(coords.from_corner_frame(world) @ [0, 0, 1], [505, 895, 1])


def test_corner_counted_points_and_transforms_convert_there_and_back() -> None:
    world = np.array([[10.0, 0.5, 500], [0.25, -10, 900], [1e-3, 0, 1]])
    np.testing.assert_allclose(coords.from_corner_frame(coords.to_corner_frame(world)), world)
    yx = np.array([[0.0, 3.0], [-0.5, 8.25]])
    np.testing.assert_array_equal(coords.yx_to_corner_xy(yx), [[3.5, 0.5], [8.75, 0]])
    np.testing.assert_array_equal(coords.corner_xy_to_yx(coords.yx_to_corner_xy(yx)), yx)
    corner = coords.yx_to_corner_xy(yx)[:, ::-1]
    at = coords.apply_transform(coords.to_corner_frame(world), corner)
    np.testing.assert_allclose(at, coords.apply_transform(world, yx))


def test_a_facing_transform_is_the_same_and_positive_at_the_center() -> None:
    matrix = -4 * np.array([[1.0, 0.2, 5], [0.1, 0.9, -3], [1e-3, 2e-3, 1]])
    facing = coords.facing(matrix, (11, 31))
    assert facing[2] @ (15, 5, 1) == pytest.approx(1)
    yx = np.array([[1.0, 2.0], [7, 30]])
    np.testing.assert_allclose(coords.apply_transform(facing, yx), coords.apply_transform(matrix, yx))
    with pytest.raises(ValueError, match="infinity"):
        coords.facing(np.array([[1.0, 0, 0], [0, 1, 0], [1, 0, -15]]), (11, 31))


def test_boxes_convert_there_and_back() -> None:
    box = np.array([[0.0, 3.0, 4.0, 9.0]])
    np.testing.assert_array_equal(coords.yx_to_pixel_edges(coords.pixel_edges_to_yx(box)), box)
    np.testing.assert_array_equal(coords.pixel_edges_to_yx(box), [[-0.5, 2.5, 3.5, 8.5]])


def test_centers_of_cells_are_whole_numbers_of_cells_and_come_back() -> None:
    centers = coords.cell_centers_yx((50, 70), 4)
    cells = coords.to_cells(torch.from_numpy(centers), 4).numpy().reshape(13, 18, 2)
    np.testing.assert_array_equal(np.moveaxis(cells, -1, 0), np.indices((13, 18)))
    np.testing.assert_array_equal(coords.from_cells(cells.reshape(-1, 2), 4), centers)


def test_cells_and_parts_give_the_place_back() -> None:
    ordinate = torch.tensor([-0.5, 0.0, 3.5, 7.4, 7.6, 39.4, 90.0, -9.0], dtype=torch.float64)
    cell, part = coords.cell_and_part(ordinate, 8, 5)
    assert cell.tolist() == [0, 0, 0, 0, 1, 4, 4, 0]
    inside = slice(0, 6)
    torch.testing.assert_close((cell + part)[inside] * 8 - 0.5, ordinate[inside])
    assert part[6:].tolist() == [1, 0]  # what lies outside is brought to the border
