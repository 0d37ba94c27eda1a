"""Files that state where they lie on the map say how they lie on each other, through any projection."""

import numpy as np
import pytest

from fiducial.coords import Matrix, apply_transform, shift, similarity
from fiducial.georeference import check_expressible, stated_transform
from fiducial.images import from_array
from fiducial.records import Image, InputError

warp = pytest.importorskip("rasterio.warp", reason="extra `geo` is not installed")
CRS = pytest.importorskip("rasterio.crs").CRS

UTM11, MERCATOR = (CRS.from_epsg(code).to_wkt() for code in (32611, 3395))
NORTH = (500_000.0, 3_780_000.0)  # x, y of a first pixel, near Los Angeles


def image(size: tuple[int, int], pixel_to_world: Matrix | None, crs: str | None = UTM11) -> Image:
    plain = from_array(np.zeros(size, np.uint8))
    return Image("i.tif", size, 1, plain.dtype, plain.reader, None, None, crs, pixel_to_world)


def grid_at(x: float, y: float, step: float) -> Matrix:
    """Georeference of an image whose first pixel lies at x, y."""
    return np.array([[step, 0, x], [0, -step, y], [0, 0, 1]])


def test_one_reference_system_gives_the_exact_transform() -> None:
    moving, fixed = grid_at(NORTH[0] + 300, NORTH[1] - 50, 12.0), grid_at(*NORTH, 10.0)
    found = stated_transform(image((200, 310), moving), image((240, 300), fixed))
    np.testing.assert_allclose(found, np.array([[1.2, 0, 30], [0, 1.2, 5], [0, 0, 1]]), atol=1e-9)
    turned = fixed @ similarity(1.0, 30.0)
    found = stated_transform(image((200, 310), turned), image((240, 300), fixed))
    np.testing.assert_allclose(found, similarity(1.0, 30.0), atol=1e-9)


@pytest.mark.parametrize("moving_size", [(200, 310), (1500, 2300)])
def test_another_reference_system_is_projected(moving_size: tuple[int, int]) -> None:
    moving = image(moving_size, grid_at(*NORTH, 10.0) @ similarity(1.0, 8.0))
    (x,), (y,) = warp.transform(UTM11, MERCATOR, [NORTH[0]], [NORTH[1]])
    fixed = image((300, 410), grid_at(x - 500, y + 900, 15.0), MERCATOR)
    found = stated_transform(moving, fixed)
    assert found is not None
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0.5, 0.5], [0.3, 0.9]]) * (np.array(moving_size) - 1)
    world = apply_transform(moving.pixel_to_world, corners)
    x, y = warp.transform(UTM11, MERCATOR, world[:, 1].tolist(), world[:, 0].tolist())
    expected = apply_transform(np.linalg.inv(fixed.pixel_to_world), np.stack([y, x], 1))
    off = np.linalg.norm(apply_transform(found, corners) - expected, axis=1)
    assert off.max() < (0.02 if moving_size[0] == 200 else 0.8)
    back = stated_transform(fixed, moving)
    assert back is not None
    np.testing.assert_allclose(
        apply_transform(back, apply_transform(found, corners)), corners, atol=0.05 if moving_size[0] == 200 else 4
    )


@pytest.mark.parametrize("away", [(5000.0, 0.0), (0.0, 4000.0), (-4000.0, 0.0), (0.0, -3000.0)])
def test_images_that_lie_apart_are_refused_with_the_way_out(away: tuple[float, float]) -> None:
    fixed = image((240, 300), grid_at(*NORTH, 10.0))
    moving = image((200, 310), grid_at(NORTH[0] + away[0], NORTH[1] + away[1], 10.0))
    with pytest.raises(InputError, match=r"do not overlap.*--no-map") as caught:
        stated_transform(moving, fixed)
    assert "\n" not in str(caught.value)


def test_images_that_touch_are_taken() -> None:
    fixed = image((240, 300), grid_at(*NORTH, 10.0))
    moving = image((200, 310), grid_at(NORTH[0] + 2900, NORTH[1], 10.0))
    np.testing.assert_allclose(stated_transform(moving, fixed), shift(0, 290), atol=1e-6)


def test_a_model_that_cannot_say_what_the_maps_state_is_refused_with_the_way_out() -> None:
    fixed, size = image((240, 300), grid_at(*NORTH, 10.0)), (200, 310)
    placed = {"shift": shift(3, 9), "similarity": similarity(1.3, 20.0), "affine": np.diag([1.4, 0.9, 1.0])}
    for needed, (name, stated) in enumerate(placed.items()):
        for simpler in list(placed)[:needed]:
            with pytest.raises(InputError, match=rf"a {simpler} cannot lay .* px on average: .*--model, or turn it") as caught:
                check_expressible(stated, simpler, image(size, None), fixed, "turn it")
            assert "\n" not in str(caught.value)
        for rich in (name, "affine", "homography"):
            check_expressible(stated, rich, image(size, None), fixed, "turn it")
    check_expressible(similarity(1.01, 0.2), "shift", image(size, None), fixed, "turn it")  # under 5 px


@pytest.mark.parametrize(("angle", "down", "right"), [(30.0, 228.0, 0.0), (45.0, 225.0, 0.0), (30.0, 234.0, 150.0)])
def test_a_corner_in_common_does_not_hide_that_a_model_fits(angle: float, down: float, right: float) -> None:
    fixed, stated = image((240, 300), grid_at(*NORTH, 10.0)), shift(down, right) @ similarity(1.0, angle)
    for model in ("similarity", "affine", "homography"):
        check_expressible(stated, model, image((200, 310), None), fixed, "turn it")


def test_without_a_georeference_nothing_is_stated() -> None:
    whole = image((240, 300), grid_at(*NORTH, 10.0))
    for lacking in (image((240, 300), None), image((240, 300), whole.pixel_to_world, None), image((240, 300), None, None)):
        assert stated_transform(lacking, whole) is None
        assert stated_transform(whole, lacking) is None


def test_a_map_that_cannot_be_projected_is_named() -> None:
    fixed = image((240, 300), grid_at(*NORTH, 10.0))
    with pytest.raises(InputError, match="cannot project"):
        stated_transform(image((200, 310), grid_at(0, 0, 1.0), 'LOCAL_CS["a",UNIT["metre",1]]'), fixed)
    beyond = image((200, 310), grid_at(0.0, 90.0, 10.0), CRS.from_epsg(4326).to_wkt())  # no such longitudes
    with pytest.raises(InputError):
        stated_transform(beyond, fixed)
