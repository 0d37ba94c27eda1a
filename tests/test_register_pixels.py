"""What is stated of the size of pixels, by files or by hand, `register` takes along y and x each, or refuses in one line."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from test_register import fixed_image, off_px, scene, seen, sensor

import fiducial
from fiducial.coords import Matrix, shift, similarity
from fiducial.records import Image, InputError


def stating(name: str, pixels: np.ndarray, pixel_size: tuple[float, float], unit: str = "µm") -> Image:
    reader: Callable[..., np.ndarray] = lambda w: pixels[w[0] : w[2], w[1] : w[3]]  # noqa: E731
    return Image(name, (pixels.shape[0], pixels.shape[1]), 1, pixels.dtype, reader, pixel_size, unit)


def oblong(
    ground: np.ndarray, factors: tuple[int, int], first: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, Matrix]:
    """An exact crop whose pixels are means of so many of the ground's along y and x, and how it lies on that."""
    (tall, wide), (top, left) = factors, first
    part = ground[top : top + tall * size[0], left : left + wide * size[1]].astype(np.float64)
    means = part.reshape(size[0], tall, size[1], wide).mean((1, 3)).round().astype(np.uint8)
    return means, shift(top + (tall - 1) / 2, left + (wide - 1) / 2) @ np.diag([wide, tall, 1.0])


@pytest.mark.parametrize("factors", [(2, 1), (1, 3)])
@pytest.mark.parametrize("model", ["affine", "homography"])
def test_oblong_pixels_that_a_file_states_are_laid_as_they_are(factors: tuple[int, int], model: str) -> None:
    ground = scene("camera", (500, 560))
    size = (400 // factors[0], 450 // factors[1])
    moving, true = oblong(ground, factors, (50, 60), size)
    own = stating("m.tif", sensor(moving, "negative, dim"), (0.5 * factors[0], 0.5 * factors[1]))
    found = fiducial.register(own, stating("f.tif", ground, (500.0, 500.0), "nm"), model=model)
    assert found.accepted, found.reason
    assert off_px(found, true) < 1
    back = fiducial.register(stating("f.tif", ground, (500.0, 500.0), "nm"), own, model=model)
    assert back.accepted, back.reason
    assert off_px(back, np.linalg.inv(true)) < 1


@pytest.mark.parametrize(("factors", "angle"), [((3, 2), 180.0), ((4, 3), 90.0)])
def test_images_on_oblong_pixels_may_be_turned(factors: tuple[int, int], angle: float) -> None:
    fixed, true = oblong(scene("camera", (500, 560)), factors, (20, 10), (460 // factors[0], 530 // factors[1]))
    turned = similarity(1.0, angle, (249.5, 249.5))
    moving = cv2.warpAffine(scene("camera", (500, 560)), np.linalg.inv(turned)[:2], (500, 500))
    files = stating("m.tif", moving, (6.0, 6.0)), stating("f.tif", fixed, (6.0 * factors[0], 6.0 * factors[1]))
    found = fiducial.register(*files)
    assert found.accepted, found.reason
    assert off_px(found, np.linalg.inv(true) @ turned) < 1


@pytest.mark.parametrize("angle", [60.0, 90.0])
def test_a_moving_image_on_oblong_pixels_may_be_turned(angle: float) -> None:
    ground = scene("camera", (500, 500))
    turned = similarity(1.0, angle, (249.5, 249.5))
    moving, true = oblong(cv2.warpAffine(ground, np.linalg.inv(turned)[:2], (500, 500)), (3, 1), (70, 70), (120, 360))
    found = fiducial.register(stating("m.tif", moving, (3.0, 1.0)), stating("f.tif", ground, (1.0, 1.0)))
    assert found.accepted, found.reason
    assert off_px(found, turned @ true) < 1


@pytest.mark.parametrize("model", ["shift", "similarity"])
def test_a_model_without_room_for_oblong_pixels_is_refused_with_the_way_out(model: str) -> None:
    moving, _ = oblong(scene(), (2, 1), (20, 30), (120, 240))
    with pytest.raises(
        InputError, match=rf"a {model} cannot lay m\.tif on f\.tif as the files state.*--model.*--scale"
    ) as caught:
        fiducial.register(stating("m.tif", moving, (2.0, 1.0)), stating("f.tif", scene(), (1.0, 1.0)), model=model)
    assert "\n" not in str(caught.value)
    alike = fiducial.register(  # in both alike they need none
        stating("m.tif", scene()[20:, 30:], (2.0, 1.0)), stating("f.tif", scene(), (2.0, 1.0)), model=model, turn_deg=0.0
    )
    assert alike.accepted
    assert off_px(alike, shift(20, 30)) < 0.5


@pytest.mark.parametrize("scale", [2.0, 0.5, 1.13, (1.8, 2.2), (0.2, 0.9)])
def test_a_shift_refuses_a_scale_that_it_cannot_have(scale: float | tuple[float, float]) -> None:
    moving, _ = seen()
    with pytest.raises(InputError, match="scale must allow 1 for a shift") as caught:
        fiducial.register(moving, fixed_image(), model="shift", scale=scale)
    assert str(scale) in str(caught.value)
    assert "files state" not in str(caught.value)
    assert "true ratio" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [1.0, 1.1, (0.5, 2.0)])
def test_a_shift_takes_a_scale_that_allows_it(scale: float | tuple[float, float]) -> None:
    moving, true = seen()
    found = fiducial.register(moving, fixed_image(), model="shift", scale=scale)
    assert found.accepted, found.reason
    assert off_px(found, true) < 0.7


def test_a_shift_of_files_that_state_another_ratio_is_refused_unless_told_that_it_is_wrong() -> None:
    moving, true = seen()
    files = stating("m.tif", moving, (2.0, 2.0)), stating("f.tif", fixed_image(), (1.0, 1.0))
    with pytest.raises(InputError, match=r"as the files state.*if they state the size of their pixels wrongly, give --scale 1"):
        fiducial.register(*files, model="shift")
    assert off_px(fiducial.register(*files, model="shift", scale=1.0), true) < 0.7


def test_a_scale_by_hand_counts_in_place_of_the_files() -> None:
    moving, _ = seen(0.0, 0.4, size=(130, 150))
    files = stating("m.tif", moving, (7.0, 3.0)), stating("f.tif", fixed_image(), (1.0, 1.0))
    found = fiducial.register(*files, scale=2.5, turn_deg=0.0)
    assert found.accepted, found.reason
