"""Files that state where they lie on the map say how they lie on each other, through any projection."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fiducial import api
from fiducial.coords import Matrix, apply_transform, image_center_yx, shift, similarity
from fiducial.estimation import fit
from fiducial.georeference import check_expressible, map_correction, stated_transform
from fiducial.images import from_array
from fiducial.records import Image, InputError

warp = pytest.importorskip("rasterio.warp", reason="extra `geo` is not installed")
CRS = pytest.importorskip("rasterio.crs").CRS

UTM11, UTM32, MERCATOR = (CRS.from_epsg(code).to_wkt() for code in (32611, 32632, 3395))
NORTH = (500_000.0, 3_780_000.0)  # x, y of a first pixel, near Los Angeles


def image(size: tuple[int, int], pixel_to_world: Matrix | None, crs: str | None = UTM11) -> Image:
    plain = from_array(np.zeros(size, np.uint8))
    return Image("i.tif", size, 1, plain.dtype, plain.reader, None, None, crs, pixel_to_world)


def grid_at(x: float, y: float, step: float) -> Matrix:
    """Georeference of an image whose first pixel lies at x, y."""
    return np.array([[step, 0, x], [0, -step, y], [0, 0, 1.0]])


def test_one_reference_system_gives_the_exact_transform() -> None:
    moving, fixed = grid_at(NORTH[0] + 300, NORTH[1] - 50, 12.0), grid_at(*NORTH, 10.0)
    found = stated_transform(image((200, 310), moving), image((240, 300), fixed))
    np.testing.assert_allclose(found, np.array([[1.2, 0, 30], [0, 1.2, 5], [0, 0, 1]]), atol=1e-9)
    turned = fixed @ similarity(1.0, 30.0)
    found = stated_transform(image((200, 310), turned), image((240, 300), fixed))
    np.testing.assert_allclose(found, similarity(1.0, 30.0), atol=1e-9)


def projected(yx: np.ndarray, source: Image, target: Image) -> np.ndarray:
    """Pixels of the target that show what pixels of the source show, by both files' word."""
    world = apply_transform(source.pixel_to_world, yx)
    x, y = warp.transform(source.crs, target.crs, world[:, 1].tolist(), world[:, 0].tolist())
    return apply_transform(np.linalg.inv(target.pixel_to_world), np.stack([y, x], 1))


def in_common(moving: Image, fixed: Image) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of both images that lie on each other: of a fine grid of the smaller one, those that the other shows."""
    smaller, other = (moving, fixed) if np.prod(moving.size) < np.prod(fixed.size) else (fixed, moving)
    own = np.stack(np.meshgrid(*(np.linspace(0, side - 1, 60) for side in smaller.size), indexing="ij"), -1).reshape(-1, 2)
    there = projected(own, smaller, other)
    shown = ((there >= 0) & (there <= np.array(other.size) - 1)).all(axis=1)
    assert shown.sum() > 30
    return (own[shown], there[shown]) if smaller is moving else (there[shown], own[shown])


@pytest.mark.parametrize("moving_size", [(200, 310), (1500, 2300)])
def test_another_reference_system_is_projected(moving_size: tuple[int, int]) -> None:
    moving = image(moving_size, grid_at(*NORTH, 10.0) @ similarity(1.0, 8.0))
    (x,), (y,) = warp.transform(UTM11, MERCATOR, [NORTH[0]], [NORTH[1]])
    fixed = image((300, 410), grid_at(x - 500, y + 900, 15.0), MERCATOR)
    under, ground = in_common(moving, fixed)
    found, back = stated_transform(moving, fixed), stated_transform(fixed, moving)
    assert found is not None
    assert back is not None
    assert np.linalg.norm(apply_transform(found, under) - ground, axis=1).max() < 0.03
    assert np.linalg.norm(apply_transform(back, ground) - under, axis=1).max() < 0.05


def degrees(size: tuple[int, int], west: float, north: float, step: float) -> Image:
    return image(size, grid_at(west, north, step), CRS.from_epsg(4326).to_wkt())


def in_utm(size: tuple[int, int], longitude: float, latitude: float, step: float, angle: float = 0.0) -> Image:
    """An image with its middle at a place in zone 32."""
    (x,), (y,) = warp.transform(CRS.from_epsg(4326).to_wkt(), UTM32, [longitude], [latitude])
    return image(size, grid_at(x, y, step) @ similarity(1.0, angle) @ shift(-(size[0] - 1) / 2, -(size[1] - 1) / 2), UTM32)


@pytest.mark.parametrize(
    ("moving", "fixed"),
    [
        (lambda: degrees((3000, 3100), 10.0, 49.0, 1e-3), lambda: in_utm((500, 520), 11.0, 48.0, 100.0)),
        (lambda: degrees((1800, 3600), -180.0, 90.0, 0.1), lambda: in_utm((700, 500), 11.0, 48.0, 10.0)),
        (lambda: in_utm((90, 80), 11.0, 48.0, 10.0, 20.0), lambda: degrees((1800, 3600), 10.0, 49.0, 1e-3)),
        (lambda: degrees((100, 10_000), 6.0, 48.05, 1e-3), lambda: in_utm((6000, 90), 9.3, 48.0, 10.0)),
        (lambda: degrees((3000, 3100), 10.0, 49.0, 1e-3), lambda: in_utm((800, 20), 11.0, 48.0, 100.0, 45.0)),
        (lambda: degrees((1700, 1600), 10.0, 49.0, 1e-3), lambda: in_utm((900, 800), 11.6, 48.9, 100.0, 30.0)),
    ],
    ids=[
        "a part of three degrees",
        "a part of the world",
        "in a large one",
        "strips that cross",
        "a strip, turned",
        "a corner",
    ],
)
def test_a_projection_is_followed_where_the_images_meet(moving: Callable[[], Image], fixed: Callable[[], Image]) -> None:
    laid, ground = moving(), fixed()
    under, there = in_common(laid, ground)
    found = stated_transform(laid, ground)
    assert found is not None
    off = np.linalg.norm(apply_transform(found, under) - there, axis=1)
    assert off.max() < 1.5
    linear = [apply_transform(found, under[:1] + step) - apply_transform(found, under[:1]) for step in ([0, 1], [1, 0])]
    middle = np.array([image_center_yx(laid.size)])
    there = [apply_transform(found, middle + step) - apply_transform(found, middle) for step in ([0, 1], [1, 0])]
    change = np.concatenate(there) @ np.linalg.inv(np.concatenate(linear))
    assert np.linalg.cond(change) < 1.2  # much more, and `is_plausible`, which looks there, takes what is found for a stretch


def test_a_map_whose_edge_lies_beyond_the_other_is_projected_from_there() -> None:
    moving = in_utm((300, 280), 12.0, 60.0, 100.0)
    fixed = degrees((1000, 1000), 9.0, 95.0, 0.05)  # GDAL refuses latitudes above 90
    found, under = stated_transform(moving, fixed), np.array([[0.0, 0.0], [299.0, 140.0]])
    assert found is not None
    np.testing.assert_allclose(apply_transform(found, under), projected(under, moving, fixed), atol=0.1)


def test_places_beyond_a_map_leave_out_themselves_alone() -> None:
    disk = CRS.from_string("+proj=geos +h=35785831 +lon_0=0 +ellps=WGS84").to_wkt()  # the earth from afar, with space around it
    seen = image((1000, 1000), grid_at(-5_500_000, 5_500_000, 11_000), disk)
    world = degrees((900, 1800), -180.0, 90.0, 0.2)
    for moving, fixed in ((world, seen), (seen, world)):
        found = stated_transform(moving, fixed)
        assert found is not None
        (placed,) = apply_transform(found, np.array([[450.0, 900.0]] if moving is world else [[500.0, 500.0]]))
        assert placed == pytest.approx((500, 500) if moving is world else (450, 900), abs=30)
        assert map_correction(found, moving, fixed) is not None


@pytest.mark.parametrize("angle", [0.0, 0.05])
def test_a_correction_is_the_mean_over_what_the_images_have_in_common(angle: float) -> None:
    fixed, (y, x) = image((4000, 4100), grid_at(*NORTH, 10.0)), (300.0, 3500.0)
    moving = image((400, 420), grid_at(*NORTH, 10.0) @ shift(y, x))
    middle = (y + 199.5, x + 209.5)
    found = shift(3.0, -4.0) @ similarity(1.0, angle, middle) @ shift(y, x)  # at the fixed image's middle: 1.7 px further off
    assert map_correction(found, moving, fixed) == pytest.approx((-30, -40), abs=1e-5)
    assert map_correction(shift(-900, 0), moving, fixed) is None


@pytest.mark.parametrize(("step", "spacing"), [(1 / 3600, 30.0), (1e-3, 100.0)])
def test_a_correction_between_reference_systems_is_exact(step: float, spacing: float) -> None:
    moving, fixed = degrees((3600, 3600), 11.0 - 1200 * step, 49.0 + 1100 * step, step), in_utm((700, 600), 11.0, 49.0, spacing)
    under, ground = in_common(moving, fixed)
    for found in (fit("homography", under, ground), shift(2.0, 3.0) @ fit("affine", under, ground)):
        dy, dx = (apply_transform(found, under) - ground).mean(axis=0)
        added = map_correction(found, moving, fixed)
        assert added == pytest.approx((-spacing * dy, spacing * dx), abs=0.12 * spacing)


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


@pytest.mark.parametrize(("crs", "pixels"), [("EPSG:32633", 20.0), ("EPSG:2263", 20.0 / 0.3048006096), ("EPSG:4326", None)])
def test_a_projected_map_says_how_large_a_diameter_is(crs: str, pixels: float | None) -> None:
    """In meters, in US survey feet, and in degrees, which are no length."""
    placed = replace(from_array(np.zeros((40, 50), np.uint8)), crs=crs, pixel_to_world=np.diag([2.0, -0.5, 1.0]))
    if pixels is None:
        with pytest.raises(InputError, match="states its pixel size"):
            api.diameter_px(placed, "20m")
    else:
        assert api.diameter_px(placed, "20 m") == pytest.approx(pixels)
