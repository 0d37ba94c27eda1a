"""What repeats fits at more places than one: the right one is found among them, or the answer is a refusal that says why."""

import itertools

import cv2
import numpy as np
import pytest
from skimage import data

import fiducial
from fiducial import api
from fiducial.coords import apply_transform, image_center_yx, shift
from fiducial.evaluate.keypoints import UNKNOWN
from fiducial.images import from_array
from fiducial.landmarks.registrar import RIGHT_PX
from fiducial.records import Image, InputError
from fiducial.scenes import open_scene
from fiducial.ties import error_estimate


def lattice(pitch: int, rng: np.random.Generator, size: tuple[int, int] = (500, 600)) -> np.ndarray:
    """Bright disks on a square lattice, and noise."""
    y, x = (grid % pitch - pitch / 2 for grid in np.mgrid[: size[0], : size[1]])
    disks = 60 + 150 * (y**2 + x**2 < (pitch / 3.5) ** 2)
    return np.clip(cv2.GaussianBlur(disks.astype(np.float32), (0, 0), 1) + rng.normal(0, 8, size), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("top", "left"), [(100, 60), (190, 140), (100, 140)])
def test_a_part_of_a_brick_wall_is_laid_where_it_was_cut(top: int, left: int) -> None:
    wall = data.brick()
    found = fiducial.register(255 - wall[top : top + 300, left : left + 360], wall)
    assert found.accepted
    assert found.moving_to_fixed is not None
    middle = np.array([image_center_yx((300, 360))])
    assert np.linalg.norm(apply_transform(found.moving_to_fixed, middle) - middle - (top, left)) < 1
    assert found.score < 0.99  # other bricks agree well


@pytest.mark.parametrize("pitch", [40, 64])
def test_a_part_of_a_lattice_is_refused_for_its_rivals(pitch: int, rng: np.random.Generator) -> None:
    whole = lattice(pitch, rng)
    part = np.clip(whole[70:370, 90:450] + rng.normal(0, 8, (300, 360)), 0, 255).astype(np.uint8)
    found = fiducial.register(part, whole)
    assert not found.accepted
    assert "what is shown repeats" in found.reason
    assert found.score < 0.5


def test_a_weak_answer_is_not_refused_for_its_rivals() -> None:
    """Least probabilities that no answer reaches say nothing of what is shown."""
    wall = data.brick()
    found = fiducial.register(255 - wall[100:400, 60:420], wall, min_probability=1.0)
    assert not found.accepted
    assert "repeats" not in found.reason


def test_what_does_not_repeat_has_no_rivals() -> None:
    scene = data.gravel()
    found = fiducial.register(255 - scene[100:400, 60:420], scene)
    assert found.score > 0.999


def test_a_finer_scale_whose_parts_disagree_is_not_taken() -> None:
    """On this lattice they led from 7 px to 30."""
    whole = lattice(24, np.random.default_rng(1))
    _, registrar = api.load_registrar(None, "cpu")
    moving, fixed = (open_scene(from_array(pixels)) for pixels in (whole[70:370, 90:450].copy(), whole))
    for answer in itertools.islice(registrar.answers(registrar.pair(moving, fixed), UNKNOWN), 4):
        finished = registrar.finish(moving, fixed, answer, UNKNOWN)
        assert finished is answer or error_estimate(finished) <= RIGHT_PX / answer.scale


def pictured(pixels: np.ndarray, pixel_px: float, top: float, left: float) -> Image:
    """The pixels on a map whose unit is a pixel of the fixed image."""
    return Image(
        "moving" if pixel_px > 1 else "fixed",
        (pixels.shape[0], pixels.shape[1]),
        1,
        pixels.dtype,
        lambda window: pixels[window[0] : window[2], window[1] : window[3]],
        crs="EPSG:32633",
        pixel_to_world=shift(top, left) @ np.diag([pixel_px, pixel_px, 1.0]),
    )


def test_a_moving_image_by_far_the_longer_is_refused() -> None:
    """It would have to be searched as large as the fixed one's pixels make it."""
    rng = np.random.default_rng(0)
    large, small = (rng.integers(0, 256, size, dtype=np.uint8) for size in ((2000, 2000), (200, 200)))
    with pytest.raises(InputError, match=r"\d+ times as long as .*: swap them, or crop it"):
        fiducial.register(large, small, scale=10.0)


def test_where_the_map_says_a_small_part_of_a_long_image_is_looked_at() -> None:
    texture = cv2.resize(data.gravel(), (1600, 1600), interpolation=cv2.INTER_CUBIC)
    moving = pictured(texture, 8.0, 0.0, 0.0)  # as 12,800 pixels of the fixed one
    fine = cv2.warpPerspective(texture, np.linalg.inv(shift(700, 800) @ np.diag([0.125, 0.125, 1.0])), (640, 640))
    found = fiducial.register(moving, pictured(fine, 1.0, 5600.0, 6400.0))
    assert found.start == "map"
    assert found.accepted
    assert found.moving_to_fixed is not None
    np.testing.assert_allclose(apply_transform(found.moving_to_fixed, np.array([[740.0, 840.0]])), [[320.0, 320.0]], atol=2)
