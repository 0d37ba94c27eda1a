"""A copy at another scale is the same whether it is read whole or by windows, and lies where the scale says."""

import cv2
import numpy as np
import pytest

from fiducial.coords import apply_transform
from fiducial.images import from_array
from fiducial.scaled import Scaled, read_shown


def picture(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return cv2.GaussianBlur(rng.uniform(0, 200, size).astype(np.float32), (0, 0), 2)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25, 0.37, 0.8, 2.0])
def test_a_window_is_the_same_part_of_the_whole(scale: float, rng: np.random.Generator) -> None:
    copy = Scaled(from_array(picture((97, 131), rng)), scale, 0.0, 200.0, 0.0)
    h, w = copy.size
    whole = copy.read((0, 0, h, w))
    y0, x0, y1, x1 = h // 5, w // 4, h - 3, w // 4 + w // 3
    np.testing.assert_allclose(copy.read((y0, x0, y1, x1)), whole[y0:y1, x0:x1], atol=2e-3)


@pytest.mark.parametrize("scale", [0.5, 0.25, 0.37, 0.8, 2.0])
def test_a_blob_lies_where_the_scale_says(scale: float) -> None:
    y, x = np.mgrid[:120, :150].astype(np.float64)
    copy = Scaled(from_array(np.exp(-((y - 61.3) ** 2 + (x - 80.6) ** 2) / (2 * 8.0**2))), scale, 0.0, 1.0, 0.0)
    seen = copy.read((0, 0, *copy.size))[..., 0].astype(np.float64)
    rows, columns = np.mgrid[: seen.shape[0], : seen.shape[1]]
    center = np.array([[(rows * seen).sum(), (columns * seen).sum()]]) / seen.sum()
    np.testing.assert_allclose(apply_transform(copy.to_image, center), [[61.3, 80.6]], atol=0.05)


def test_undefined_pixels_become_the_stand_in_and_intensities_are_normalized() -> None:
    pixels = np.full((10, 14), 30.0)
    pixels[3, 4], pixels[5, 6] = np.nan, np.inf
    seen = Scaled(from_array(pixels), 1.0, 10.0, 50.0, 20.0).read((0, 0, 10, 14))
    assert seen.shape == (10, 14, 3)
    np.testing.assert_allclose(seen[3, 4], 0.25)
    np.testing.assert_allclose(seen[5, 6], 0.25)
    np.testing.assert_allclose(seen[0, 0], 0.5)


def test_averages_are_of_finite_values_where_these_are_a_half_or_more() -> None:
    pixels = np.full((8, 12), 30.0)
    pixels[:4, :2] = np.nan
    pixels[:, 8:11] = np.inf
    seen = Scaled(from_array(pixels), 0.25, 0.0, 1.0, np.nan).read((0, 0, 2, 3))[..., 0]
    np.testing.assert_allclose(seen, [[30, 30, np.nan], [30, 30, np.nan]])
    assert np.isnan(read_shown(from_array(pixels), 12)[0, 0]).all()


def test_averages_do_not_depend_on_the_bands_they_are_read_in(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 255, (64, 48), dtype=np.uint8)
    seen = Scaled(from_array(pixels), 0.25, 0.0, 1.0, 0.0).read((0, 0, 16, 12))[..., 0]
    np.testing.assert_allclose(seen, pixels.reshape(16, 4, 12, 4).mean(axis=(1, 3)), rtol=1e-5)


def test_what_is_shown_keeps_its_color_and_fits_the_limit(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 255, (90, 201, 4), dtype=np.uint8)
    assert read_shown(from_array(pixels), 50).shape == (23, 50, 3)
    np.testing.assert_array_equal(read_shown(from_array(pixels), 500), pixels[..., :3])


def test_what_is_shown_of_8_bits_has_8_bits_and_is_rounded(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 255, (64, 48, 3), dtype=np.uint8)
    seen = read_shown(from_array(pixels), 32)
    assert (seen.dtype, read_shown(from_array(pixels.astype(np.uint16)), 32).dtype) == (np.uint8, np.float32)
    mean = pixels.astype(float).reshape(32, 2, 24, 2, 3).mean(axis=(1, 3))
    assert np.abs(seen - mean).max() <= 0.5


@pytest.mark.parametrize("scale", [1.5, 2.0, 3.3, 4.0])
def test_a_dead_pixel_is_no_gap_and_a_dead_area_is_one_at_any_enlargement(scale: float, rng: np.random.Generator) -> None:
    pixels = rng.random((60, 75))
    pixels[50, 60] = np.nan
    pixels[10:22, 31:47] = np.inf
    copy = Scaled(from_array(pixels), scale, 0.0, 1.0, 0.5)
    gaps = copy.gaps((0, 0, *copy.size))
    y, x = (np.arange(n) for n in copy.size)
    own = apply_transform(copy.to_image, np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2).astype(float))
    inside = ((own > (12, 33)) & (own < (19, 44))).all(axis=1).reshape(copy.size)
    outside = ((own < (8, 29)) | (own > (23, 48))).any(axis=1).reshape(copy.size)
    assert inside.sum() > 50 * scale**2
    assert gaps[inside].all()
    assert not gaps[outside].any()
    part = (int(11 * scale), int(20 * scale), int(33 * scale), int(70 * scale))
    np.testing.assert_array_equal(copy.gaps(part), gaps[part[0] : part[2], part[1] : part[3]])
