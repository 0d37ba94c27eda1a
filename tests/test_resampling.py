"""An image on another's grid has its own pixels where the transform puts them, whatever its size, in bounded memory."""

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from fiducial import resampling
from fiducial.coords import Matrix, apply_transform, scale_transform, shift, similarity, to_corner_frame
from fiducial.images import from_array, open_image
from fiducial.records import Image, InputError, Window
from fiducial.resampling import write_aligned

WORLD = np.array([[10.0, 0.5, 500_005], [0.25, -10, 4_000_895], [0, 0, 1]])


def grid(size: tuple[int, int], **stated: object) -> Image:
    """Return an image of which nobody may read a pixel."""

    def refuse(_: Window) -> np.ndarray:
        raise AssertionError("the fixed image's pixels are not needed")

    return Image("fixed.tif", size, 1, np.dtype(np.uint8), refuse, **stated)  # type: ignore[arg-type]


def drawn(size: tuple[int, int], value: Callable[[np.ndarray, np.ndarray], np.ndarray], dtype: str = "float64") -> Image:
    """Return an image whose pixels are computed when they are read, and the areas that were read in `drawn.areas`."""

    def read(window: Window) -> np.ndarray:
        y0, x0, y1, x1 = window
        areas.append((y1 - y0) * (x1 - x0))
        return value(np.arange(y0, y1)[:, None], np.arange(x0, x1)[None, :]).astype(dtype)

    areas: list[int] = []
    drawn.areas = areas  # type: ignore[attr-defined]
    return Image("moving.tif", size, 1, np.dtype(dtype), read)


def plane(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return 3.0 * y + 5.0 * x + 100.0


def aligned(moving: Image, fixed: Image, matrix: Matrix, tmp_path: Path) -> np.ndarray:
    write_aligned(moving, fixed, matrix, tmp_path / "a.tif")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    return tifffile.imread(tmp_path / "a.tif")


def places(matrix: Matrix, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return where the pixels of the fixed grid lie in the moving image."""
    points = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij"), axis=-1).reshape(-1, 2)
    yx = apply_transform(np.linalg.inv(matrix), points.astype(float))
    return yx[:, 0].reshape(size), yx[:, 1].reshape(size)


DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", ">u2", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", ">f4", "float64"),
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("stated", [{}, {"pixel_size": (0.5, 0.25), "unit": "nm"}, {"pixel_to_world": WORLD}])
def test_every_type_of_pixel_is_written_with_what_the_fixed_image_states(
    tmp_path: Path, rng: np.random.Generator, dtype: str, channels: int, stated: dict
) -> None:
    if "pixel_to_world" in stated:
        pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    pixels = rng.integers(0, 2 if dtype == "bool" else 120, (40, 57, channels)).astype(dtype)
    moving = from_array(pixels[..., 0] if channels == 1 else pixels)
    write_aligned(moving, grid((50, 61), **stated), shift(3, 2), tmp_path / "a.tif")
    image = open_image(tmp_path / "a.tif")
    known = "float32" if dtype == "float16" and "pixel_to_world" in stated else "uint8" if dtype == "bool" else dtype
    assert image.dtype == np.dtype(known).newbyteorder("=")
    assert (image.pixel_size, image.unit) == (stated.get("pixel_size"), stated.get("unit"))
    np.testing.assert_array_equal(image.read().reshape(50, 61, channels)[3:43, 2:59], pixels)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int32", "uint64", "int64"])
@pytest.mark.parametrize("matrix", [shift(0, 0), similarity(0.3, 10.0), similarity(1.3, 10.0), similarity(1 / 3, 0.0)])
@pytest.mark.parametrize("end", ["min", "max"])
def test_integers_stay_at_the_ends_of_their_range(tmp_path: Path, dtype: str, matrix: Matrix, end: str) -> None:
    value = getattr(np.iinfo(dtype), end)
    moving = drawn((90, 110), lambda y, x: np.full((len(y), x.size), value, dtype), dtype)
    out = aligned(moving, grid((90, 110)), matrix, tmp_path)
    y, x = places(matrix, out.shape)
    np.testing.assert_array_equal(out[(np.abs(y - 44.5) < 44) & (np.abs(x - 54.5) < 54)], value)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("world", [None, WORLD])
def test_a_shift_by_whole_pixels_keeps_the_pixels(
    tmp_path: Path, rng: np.random.Generator, dtype: str, channels: int, world: Matrix | None
) -> None:
    pixels = rng.integers(1, 65000 if dtype not in ("uint8", "bool", "int16") else 250, (300, 410, channels)).astype(dtype)
    if dtype.startswith("f"):
        pixels += np.float32(0.37)
    moving = from_array(pixels[..., 0] if channels == 1 else pixels)
    write_aligned(moving, grid((290, 555), pixel_to_world=world), shift(-20, 31), tmp_path / "a.tif")
    image = open_image(tmp_path / "a.tif")
    assert (image.size, image.channels) == ((290, 555), channels)
    assert image.dtype == (np.dtype(np.uint8) if dtype == "bool" else np.dtype(dtype))
    back = image.read().reshape(290, 555, channels)
    np.testing.assert_array_equal(back[:280, 31:441], pixels[20:, :])
    outside = np.delete(back, np.s_[31:441], axis=1)
    assert (np.isnan(outside) if dtype.startswith("f") else outside == 0).all()
    assert (np.isnan(back[280:]) if dtype.startswith("f") else back[280:] == 0).all()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].tags[42113].value == ("nan" if dtype.startswith("f") else "0")
        assert (file.pages[0].photometric.name == "RGB") == (channels in (3, 4))


@pytest.mark.parametrize("stains", [False, True])
@pytest.mark.parametrize("world", [None, WORLD])
def test_four_channels_come_back_as_what_they_were(
    tmp_path: Path, rng: np.random.Generator, world: Matrix | None, stains: bool
) -> None:
    if world is not None:
        pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    moving = replace(from_array(rng.random((40, 57, 4), dtype=np.float32)), stains=stains)
    write_aligned(moving, grid((50, 61), pixel_to_world=world), shift(3, 2), tmp_path / "a.tif")
    assert open_image(tmp_path / "a.tif").stains == stains


@pytest.mark.parametrize(
    "matrix",
    [
        shift(3.25, -7.5) @ similarity(1.3, 25.0),
        shift(120, 40) @ similarity(0.8, -90.0),
        similarity(3.7, 140.0, (60.0, 90.0)),
        shift(10, 20) @ np.array([[1.1, 0.2, 0], [-0.1, 0.9, 0], [4e-4, -3e-4, 1]]),
        -2 * (shift(10, 20) @ np.array([[1.1, 0.2, 0], [-0.1, 0.9, 0], [4e-4, -3e-4, 1]])),
        np.array([[-1.0, 0, 180], [0, 1, 5], [0, 0, 1]]),
    ],
)
def test_each_pixel_shows_what_lies_under_it_and_those_beyond_the_edges_nothing(tmp_path: Path, matrix: Matrix) -> None:
    out = aligned(drawn((140, 190), plane), grid((333, 270)), matrix, tmp_path)
    y, x = places(matrix, out.shape)
    inside = (np.abs(y - 69.5) < 70) & (np.abs(x - 94.5) < 95)
    assert inside.mean() > 0.05
    np.testing.assert_array_equal(np.isfinite(out), inside)
    expected = plane(np.clip(y, 0, 139), np.clip(x, 0, 189))  # half of the outermost pixels lies beyond their centers
    np.testing.assert_allclose(out[inside], expected[inside], atol=8 / 32 + 1e-3)  # OpenCV steps by 1/32 px


@pytest.mark.parametrize("angle", [0.0, 17.0, 90.0])
@pytest.mark.parametrize("factor", [3.0, 7.4, 1 / 2.5])
def test_scales_lie_to_parts_of_a_pixel(tmp_path: Path, angle: float, factor: float) -> None:
    size = (round(150 * factor) + 1, round(210 * factor) + 2)
    center = ((size[0] - 1) / 2, (size[1] - 1) / 2)
    matrix = shift(80, 95) @ similarity(1 / factor, angle) @ shift(-center[0], -center[1])
    out = aligned(drawn(size, plane), grid((161, 190)), matrix, tmp_path)
    y, x = places(matrix, out.shape)
    margin = factor + 1
    inside = (y > margin) & (y < size[0] - margin) & (x > margin) & (x < size[1] - margin)
    assert inside.mean() > 0.4
    np.testing.assert_allclose(out[inside], plane(y, x)[inside], atol=8 * max(factor, 1) / 32 + 1e-3)


def test_fine_patterns_are_averaged_before_they_are_reduced(tmp_path: Path) -> None:
    stripes = drawn((801, 1203), lambda y, x: 200.0 * ((y + x) % 2), "uint8")
    out = aligned(stripes, grid((101, 152)), similarity(1 / 8, 0.0), tmp_path)
    assert set(np.unique(out[:99, :149])) == {100}


@pytest.mark.parametrize("angle", [0.0, 45.0, 88.0])
@pytest.mark.parametrize("factor", [0.3, 1.0, 1.4, 6.0])
def test_what_is_read_at_once_is_bounded_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, angle: float, factor: float
) -> None:
    def waves(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return 30_000 + 20_000 * np.sin(y / 40 / factor) * np.cos(x / 60 / factor)

    matrix = shift(150, 350) @ similarity(1 / factor, angle) @ shift(-700 * factor, -900 * factor)
    size = (round(1400 * factor), round(1800 * factor))
    whole = aligned(drawn(size, waves, "uint16"), grid((300, 700)), matrix, tmp_path)
    monkeypatch.setattr(resampling, "_WINDOW_PX", 2**14)
    monkeypatch.setattr(resampling, "_BLOCK_PX", 512)
    parts = aligned(drawn(size, waves, "uint16"), grid((300, 700)), matrix, tmp_path)
    assert 0 < max(drawn.areas) <= 2**14  # type: ignore[attr-defined]
    assert (whole > 0).all()
    np.testing.assert_allclose(parts.astype(int), whole.astype(int), atol=1)


def test_a_wide_turned_block_is_split_rather_than_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes about 45 MB; with the part of the moving image under all of the block it would take 125 MB."""
    monkeypatch.setattr(resampling, "_WINDOW_PX", 2**18)
    seven = drawn((9000, 9000), lambda y, x: np.broadcast_to(np.uint16(7), (len(y), x.size)), "uint16")
    matrix = shift(128, 2048) @ similarity(1 / 1.4, 45.0) @ shift(-4500, -4500)
    tracemalloc.start()
    write_aligned(seven, grid((256, 4096)), matrix, tmp_path / "a.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert tifffile.imread(tmp_path / "a.tif").min() == 7
    assert peak < 80e6


def test_integers_are_rounded_to_the_nearest(tmp_path: Path) -> None:
    out = aligned(drawn((20, 25), lambda y, x: 10.0 * x + 0 * y, "uint8"), grid((20, 25)), shift(0, -0.375), tmp_path)
    assert out[3, :4].tolist() == [4, 14, 24, 34]


def test_beyond_the_horizon_of_a_homography_nothing_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed image sees a plain from above the ground; the horizon is below its row 99, above it is sky."""
    monkeypatch.setattr(resampling, "_WINDOW_PX", 2**14)
    to_moving = np.array([[1000.0, 500.0, -190_000.0], [0.0, 900.0, 60_000 - 900 * 99.5], [0.0, 1.0, -99.5]])
    out = aligned(drawn((3000, 2000), plane), grid((240, 310)), np.linalg.inv(to_moving), tmp_path)
    y, x = places(np.linalg.inv(to_moving), out.shape)
    rows = np.arange(240)[:, None]
    inside = (rows > 99) & (y < 2999.5) & (x > -0.5) & (x < 1999.5)
    assert np.isnan(out[:100]).all()
    assert 0.2 < inside.mean() < 0.6
    np.testing.assert_array_equal(np.isfinite(out), inside)
    near = inside & (rows > 180) & (x < 1990) & (x > 10)
    np.testing.assert_allclose(out[near], plane(y, x)[near], rtol=0.02)
    assert max(drawn.areas) <= 2**14  # type: ignore[attr-defined]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_undefined_pixels_stay_where_they_lie_nearest_and_do_not_spread(tmp_path: Path, bad: float) -> None:
    pixels = np.full((40, 57), 8.0, np.float32)
    pixels[10, 20] = pixels[30:33, 5:9] = bad
    out = aligned(from_array(pixels), grid((40, 57)), shift(0.25, 0.25), tmp_path)
    np.testing.assert_array_equal(out == 8, np.isfinite(pixels))
    larger = np.repeat(np.repeat(pixels, 4, axis=0), 4, axis=1)
    larger[82, 61] = bad  # one of sixteen is left out of their mean
    to_reduced = scale_transform(0.25)
    np.testing.assert_array_equal(aligned(from_array(larger), grid((40, 57)), to_reduced, tmp_path) == 8, np.isfinite(pixels))


def test_channels_are_undefined_by_themselves(tmp_path: Path) -> None:
    pixels = np.ones((30, 41, 3), np.float32) * (1, 2, 3)
    pixels = pixels.astype(np.float32)
    pixels[5, 6, 1] = np.nan
    out = aligned(from_array(pixels), grid((30, 41)), shift(0.25, 0), tmp_path)
    np.testing.assert_allclose(out[5, 6], [1, np.nan, 3])
    assert np.isfinite(out[6:]).all()


def test_a_moving_image_that_lies_elsewhere_is_not_read(tmp_path: Path) -> None:
    out = aligned(drawn((50, 70), plane, "int16"), grid((80, 91)), shift(500, 0), tmp_path)
    assert out.shape == (80, 91)
    assert not out.any()
    assert not drawn.areas  # type: ignore[attr-defined]


def test_the_pixel_size_of_the_fixed_image_is_stated(tmp_path: Path) -> None:
    fixed = grid((80, 91), pixel_size=(0.5, 0.25), unit="nm")
    write_aligned(drawn((50, 70), plane), fixed, np.eye(3), tmp_path / "a.tif")
    image = open_image(tmp_path / "a.tif")
    assert (image.pixel_size, image.unit, image.size) == ((0.5, 0.25), "nm", (80, 91))


@pytest.mark.parametrize("crs", ["EPSG:32633", None])
def test_on_a_map_the_file_has_the_fixed_images_reference_system_and_grid(tmp_path: Path, crs: str | None) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    wkt = None if crs is None else rasterio.crs.CRS.from_string(crs).to_wkt()
    fixed = grid((270, 333), crs=wkt, pixel_to_world=WORLD)
    calls: list[tuple[int, int]] = []
    moving = drawn((100, 120), plane, "int16")
    write_aligned(moving, fixed, shift(40, 30), tmp_path / "a.tif", lambda done, total: calls.append((done, total)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    assert calls == [(1, 2), (2, 2)]
    with rasterio.open(tmp_path / "a.tif") as file:
        assert (file.nodata, file.profile["tiled"], file.compression.name) == (0, True, "deflate")
        assert (None if file.crs is None else file.crs.to_epsg()) == (None if crs is None else 32633)
        np.testing.assert_allclose(np.array(file.transform).reshape(3, 3), to_corner_frame(WORLD), rtol=1e-14)
        np.testing.assert_allclose(file.xy(40, 30, offset="center"), (WORLD @ (30, 40, 1))[:2], rtol=1e-14)
        assert file.read(1)[40, 30] == 100
    image = open_image(tmp_path / "a.tif")
    if crs is not None:  # a map without a reference system is none to `open_image`
        np.testing.assert_allclose(image.pixel_to_world, WORLD, rtol=1e-14)
    np.testing.assert_array_equal(image.read((40, 30, 140, 150)), moving.read())


def test_floats_on_a_map_are_undefined_outside(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    write_aligned(drawn((100, 120), plane), grid((270, 333), pixel_to_world=WORLD), shift(40, 30), tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as file:
        assert np.isnan(file.nodata)
        assert file.read_masks(1).astype(bool).sum() == 100 * 120


PROJECTIVE = np.array([[10.0, 0, 0], [0, -10, 0], [1e-5, 0, 1]])


@pytest.mark.parametrize(
    ("name", "matrix", "stated", "dtype", "message"),
    [
        ("a.png", np.eye(3), {}, "uint8", r"\.tif"),
        ("a.tif", np.diag([1.0, 0, 1]), {}, "uint8", "inverted"),
        ("a.tif", np.full((3, 3), np.nan), {}, "uint8", "inverted"),
        ("a.tif", np.array([[1.0, 0, 0], [0, 1, 0], [0, -1, 24.5]]), {}, "uint8", "inverted"),
        ("a.tif", np.eye(3), {"pixel_to_world": PROJECTIVE}, "uint8", "affine"),
        ("a.tif", np.eye(3), {"crs": "LOCAL", "pixel_to_world": WORLD}, "uint8", "reference system"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, name: str, matrix: Matrix, stated: dict, dtype: str, message: str
) -> None:
    if stated:
        pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    with pytest.raises(InputError, match=message):
        write_aligned(drawn((50, 70), plane, dtype), grid((80, 91), **stated), matrix, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("world", [None, WORLD])
def test_a_moving_image_that_breaks_on_the_way_leaves_the_old_file(tmp_path: Path, world: Matrix | None) -> None:
    (tmp_path / "a.tif").write_text("old")

    def breaks(window: Window) -> np.ndarray:
        if window[2] > 256:
            raise InputError("damaged")
        return np.zeros((window[2] - window[0], window[3] - window[1]), np.uint8)

    moving = Image("moving.tif", (600, 300), 1, np.dtype(np.uint8), breaks)
    with pytest.raises(InputError, match="damaged"):
        write_aligned(moving, grid((600, 300), pixel_to_world=world), np.eye(3), tmp_path / "a.tif")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.tif", "old")]
