"""Maps that files state: `register` begins there and says by how much they are off, and the mask of `inspect` lies there."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from test_api import board, damaged
from test_register import SIZE, fixed_image, off_px, scene, seen, sensor
from typed import run

import fiducial
from fiducial import inputs, runs, weights
from fiducial.coords import Matrix, apply_transform, shift, to_corner_frame
from fiducial.formats.defects import defects_from_json

WORLD = np.array([[10.0, 0, 500_000], [0, -10, 3_780_000], [0, 0, 1]])


def geotiff(path: Path, pixels: np.ndarray, pixel_to_world: Matrix, epsg: int = 32611) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    profile = {"driver": "GTiff", "height": pixels.shape[0], "width": pixels.shape[1], "count": 1, "dtype": pixels.dtype.name}
    transform = rasterio.Affine(*to_corner_frame(pixel_to_world)[:2].ravel().tolist())
    with rasterio.open(path, "w", crs=f"EPSG:{epsg}", transform=transform, **profile) as file:
        file.write(pixels, 1)


def test_a_georeference_that_is_off_is_corrected_in_map_units(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    moving, true = seen()
    off = np.array([[1, 0, 40.0], [0, 1, -30.0], [0, 0, 1]])  # 40 m too far east, 30 m too far south
    geotiff(tmp_path / "fixed.tif", fixed_image(), WORLD)
    geotiff(tmp_path / "moving.tif", sensor(moving, "negative, dim"), off @ WORLD @ true)
    found = fiducial.register(tmp_path / "moving.tif", tmp_path / "fixed.tif")
    assert found.accepted, found.reason
    assert found.start == "map"
    assert off_px(found, true) < 1
    assert found.correction == pytest.approx((30, -40), abs=8)
    geotiff(tmp_path / "apart.tif", moving, np.array([[1, 0, 9e5], [0, 1, 0], [0, 0, 1]]) @ WORLD)
    status, _, line = run("register", tmp_path / "apart.tif", tmp_path / "fixed.tif", "-o", tmp_path / "o")
    assert status == 2
    assert "--no-map" in line
    words = ["--turn-deg", 0, "--scale", 1, "-o", tmp_path / "o"]
    status, _, _ = run("register", tmp_path / "apart.tif", tmp_path / "fixed.tif", "--no-map", *words)
    assert status == 0
    with rasterio.open(tmp_path / "o" / "apart" / "aligned.tif") as file:
        assert file.crs.to_epsg() == 32611
        assert file.transform.almost_equals(rasterio.Affine(10, 0, 499_995, 0, -10, 3_780_005))
        assert file.shape == SIZE


@pytest.mark.parametrize(
    "pixels",
    [np.diag([0.55, 1.0, 1.0]), np.diag([1.0, -1.0, 1.0]), np.diag([1.0, -0.6, 1.0])],
    ids=["oblong", "south up", "oblong and south up"],
)
def test_pixels_that_are_oblong_or_begin_in_the_south_are_laid_where_they_belong(tmp_path: Path, pixels: Matrix) -> None:
    moving, true = seen()
    off = np.array([[1, 0, 40.0], [0, 1, -30.0], [0, 0, 1]])
    tall, wide = moving.shape[0], round(moving.shape[1] / pixels[0, 0])
    if pixels[1, 1] < 0:
        pixels, tall = shift(moving.shape[0] - 1, 0) @ pixels, round(moving.shape[0] / abs(pixels[1, 1]))
    oblong = cv2.warpAffine(moving, pixels[:2], (wide, tall), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    geotiff(tmp_path / "fixed.tif", fixed_image(), WORLD)
    geotiff(tmp_path / "moving.tif", sensor(oblong, "negative, dim"), off @ WORLD @ true @ pixels)
    found = fiducial.register(tmp_path / "moving.tif", tmp_path / "fixed.tif")
    assert found.accepted, found.reason
    assert off_px(found, true @ pixels) < 1.5
    assert found.correction == pytest.approx((30, -40), abs=10)


def test_a_part_of_three_degrees_in_another_reference_system_is_corrected_where_it_lies(tmp_path: Path) -> None:
    warp = pytest.importorskip("rasterio.warp", reason="extra `geo` is not installed")
    rng, step, size = np.random.default_rng(2), 1e-3, (400, 410)
    noise = [cv2.GaussianBlur(rng.normal(0, s, (3000, 3000)).astype(np.float32), (0, 0), s) for s in (2, 5, 12)]
    degrees = np.clip(128 + 40 * np.sum(noise, axis=0), 0, 255).astype(np.uint8)
    to_degrees = np.array([[step, 0, 10.0], [0, -step, 49.0], [0, 0, 1]])
    (x,), (y,) = warp.transform("EPSG:4326", "EPSG:32632", [10.8], [48.2])
    to_map = np.array([[100.0, 0, x], [0, -100.0, y], [0, 0, 1]])
    on_map = apply_transform(to_map, np.indices(size).reshape(2, -1).T.astype(np.float64))
    longitude, latitude = warp.transform("EPSG:32632", "EPSG:4326", on_map[:, 1].tolist(), on_map[:, 0].tolist())
    under = apply_transform(np.linalg.inv(to_degrees), np.stack([latitude, longitude], 1)).astype(np.float32)
    fixed = cv2.remap(degrees, under[:, 1].reshape(size), under[:, 0].reshape(size), cv2.INTER_LINEAR)
    geotiff(tmp_path / "degrees.tif", degrees, to_degrees, 4326)
    geotiff(tmp_path / "fixed.tif", sensor(fixed, "negative, dim"), to_map @ shift(2, -3), 32632)  # too far south, too far west
    found = fiducial.register(tmp_path / "degrees.tif", tmp_path / "fixed.tif")
    assert found.accepted, found.reason
    assert found.moving_to_fixed is not None
    off = np.linalg.norm(
        apply_transform(found.moving_to_fixed, under[::97].astype(float)) - np.indices(size).reshape(2, -1).T[::97], axis=1
    )
    assert off.mean() < 1
    assert found.correction == pytest.approx((-200, -300), abs=50)


def test_a_small_image_is_found_in_a_large_one_where_the_map_says(tmp_path: Path) -> None:
    rows = (("camera", "gravel", "brick"), ("brick", "astronaut", "grass"), ("grass", "gravel", "camera"))
    large = np.vstack([np.hstack([scene(name, (600, 700)) for name in row]) for row in rows])
    chip = large[840:1000, 910:1090]
    geotiff(tmp_path / "large.tif", large, WORLD)
    geotiff(tmp_path / "chip.tif", sensor(chip, "negative, dim"), WORLD @ shift(840 + 7, 910 - 9))
    found = fiducial.register(tmp_path / "chip.tif", tmp_path / "large.tif")
    assert found.accepted, found.reason
    assert off_px(found, shift(840, 910)) < 3
    assert 5 <= found.within_px < 6  # of the part around it, not of the whole
    assert found.correction == pytest.approx((70, 90), abs=30)
    assert found.moving_to_fixed is not None
    chip_yx = np.indices(chip.shape).reshape(2, -1).T.astype(np.float64)
    added = apply_transform(WORLD @ found.moving_to_fixed, chip_yx) - apply_transform(WORLD @ shift(847, 901), chip_yx)
    assert found.correction == pytest.approx(added.mean(axis=0), abs=0.1)  # over the part alone


def test_an_image_too_small_for_a_search_of_the_whole_gets_a_hint() -> None:
    large = np.hstack([scene(name, (600, 700)) for name in ("camera", "gravel", "brick", "grass")])
    found = fiducial.register(scene("astronaut", (60, 70)), large, turn_deg=0.0, scale=1.0)
    assert not found.accepted
    assert found.moving_to_fixed is not None or "fiducial locate" in found.reason


def test_the_mask_of_a_sample_on_a_map_lies_there(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    template = board()
    geotiff(tmp_path / "sample.tif", damaged(template)[0], WORLD)
    cv2.imwrite(str(tmp_path / "template.png"), template)
    assert run("inspect", tmp_path / "sample.tif", "-t", tmp_path / "template.png", "-o", tmp_path / "o")[0] == 0
    record = defects_from_json(tmp_path / "o" / "sample" / "defects.json")
    record.save(tmp_path / "mask.tif")
    for path in (tmp_path / "o" / "sample" / "mask.tif", tmp_path / "mask.tif"):
        with rasterio.open(path) as file:
            assert file.crs.to_epsg() == 32611
            assert file.transform.almost_equals(rasterio.Affine(10, 0, 499_995, 0, -10, 3_780_005))
            assert (file.count, file.dtypes, file.nodata) == (1, ("uint8",), 0)
            np.testing.assert_array_equal(file.read(1), record.mask)
    assert record.mask.any()


def test_another_world_file_beside_an_image_changes_its_stamp(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((40, 40), np.uint8))
    jobs, shipped = inputs.name_inputs([{"image": path}]), weights.load("blobs")
    stamps = [runs.plan("detect", jobs, tmp_path / "o", {}, shipped, ()).stamps]
    for text in ("10\n0\n0\n-10\n500000\n3780000\n", "10\n0\n0\n-10\n500000\n37800000\n"):
        (tmp_path / "a.tfw").write_text(text)
        stamps.append(runs.plan("detect", jobs, tmp_path / "o", {}, shipped, ()).stamps)
    assert stamps[0] != stamps[1] != stamps[2]
