"""Pixels come back as they were written, by window too, and bad files get one clear line."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage
from PIL import PngImagePlugin

from fiducial.datasets import read_color
from fiducial.images import as_image, from_array, intensity_range, open_image, read_reduced, to_gray, write_image
from fiducial.records import InputError

SIZE = (70, 93)


def picture(rng: np.random.Generator, dtype: str = "uint8", channels: int = 1) -> np.ndarray:
    shape = SIZE if channels == 1 else (*SIZE, channels)
    return rng.random(shape).astype(dtype) if dtype.startswith("f") else rng.integers(0, 250, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("layout", [{}, {"tile": (32, 16)}, {"rowsperstrip": 9}, {"bigtiff": True, "byteorder": ">"}])
def test_tiff_windows_equal_the_whole(tmp_path: Path, rng: np.random.Generator, dtype: str, layout: dict) -> None:
    pixels = picture(rng, dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, **layout)
    image = open_image(tmp_path / "a.tif")
    assert (image.size, image.channels, image.dtype) == (SIZE, 1, np.dtype(dtype))
    np.testing.assert_array_equal(image.read(), pixels)
    np.testing.assert_array_equal(image.read((11, 30, 50, 93)), pixels[11:50, 30:])


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits", "lzma"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_compressed_color_tiffs_are_read(tmp_path: Path, rng: np.random.Generator, compression: str, planar: str) -> None:
    pixels = picture(rng, "uint16", 3)
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, compression=compression, tile=(32, 32))
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read((5, 6, 60, 71)), pixels[5:60, 6:71])


def test_channels_of_an_ome_tiff_and_its_pixel_size(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = picture(rng, "uint8", 3)
    meta = {"axes": "CYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.3, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", np.moveaxis(pixels, -1, 0), metadata=meta, photometric="minisblack")
    image = open_image(tmp_path / "a.ome.tif")
    assert (image.channels, image.pixel_size, image.unit) == (3, (0.3, 0.2), "µm")
    np.testing.assert_array_equal(image.read(), pixels)


@pytest.mark.parametrize("channels", [2, 4])
def test_stains_are_not_taken_for_gray_or_color_with_alpha(tmp_path: Path, rng: np.random.Generator, channels: int) -> None:
    pixels = picture(rng, "uint8", channels)
    tifffile.imwrite(tmp_path / "a.ome.tif", np.moveaxis(pixels, -1, 0), metadata={"axes": "CYX"}, photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "alpha.tif", pixels, photometric="rgb" if channels == 4 else "minisblack", planarconfig="contig"
    )
    np.testing.assert_array_equal(open_image(tmp_path / "a.ome.tif").read(), pixels)
    for measured in (lambda: as_image(tmp_path / "a.ome.tif"), lambda: read_color(tmp_path / "a.ome.tif")):
        with pytest.raises(InputError, match=f"has {channels} channels: save the channel"):
            measured()
    assert as_image(tmp_path / "alpha.tif").channels == channels


@pytest.mark.parametrize(
    ("names", "stains"),
    [
        (["DAPI", "GFP", "RFP"], True),
        (["Channel 0", "Channel 1", "mCherry"], True),
        (["Red", "Green", "Blue"], False),
        (["c:1/3", "c:2/3", "c:3/3"], False),
        (["", "", ""], False),
    ],
)
@pytest.mark.parametrize("kind", ["a.ome.tif", "imagej.tif", "a.ome.zarr"])
def test_three_channels_are_stains_where_the_file_names_them_so(
    tmp_path: Path, rng: np.random.Generator, kind: str, names: list[str], stains: bool
) -> None:
    pixels, path = picture(rng, "uint8", 3), tmp_path / kind
    planes = np.moveaxis(pixels, -1, 0)
    if kind == "a.ome.tif":
        tifffile.imwrite(path, planes, metadata={"axes": "CYX", "Channel": {"Name": names}}, photometric="minisblack")
    elif kind == "imagej.tif":
        tifffile.imwrite(path, planes, imagej=True, metadata={"axes": "CYX", "Labels": names})
    else:
        write_image(path, pixels)
        stated = json.loads((path / ".zattrs").read_text())
        for channel, name in zip(stated["omero"]["channels"], names, strict=True):
            channel["label"] = name
        (path / ".zattrs").write_text(json.dumps(stated))
    assert open_image(path).stains == stains
    np.testing.assert_array_equal(open_image(path).read(), pixels)
    if stains:
        with pytest.raises(InputError, match="has 3 channels: save the channel"):
            as_image(path)
    else:
        assert as_image(path).channels == 3


def test_imagej_pixel_size_is_read(tmp_path: Path, rng: np.random.Generator) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(rng), imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    assert (open_image(tmp_path / "a.tif").pixel_size, open_image(tmp_path / "a.tif").unit) == ((0.5, 0.25), "µm")


def test_palette_tiffs_are_refused_and_white_zero_ones_are_turned_over(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = picture(rng)
    tifffile.imwrite(tmp_path / "p.tif", pixels, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    with pytest.raises(InputError, match="PALETTE"):
        open_image(tmp_path / "p.tif")
    tifffile.imwrite(tmp_path / "w.tif", pixels, photometric="miniswhite")
    np.testing.assert_array_equal(open_image(tmp_path / "w.tif").read(), 255 - pixels)


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="to write"):
        write_image(tmp_path / "a.gif", np.zeros((4, 5), np.uint8))
    for pixels in (np.zeros((4, 5, 3)), np.zeros((4, 5)), np.zeros((4, 5, 7), np.uint8)):
        with pytest.raises(InputError, match=r"PNG can hold.*\.tif"):
            write_image(tmp_path / "a.png", pixels)
    assert not list(tmp_path.iterdir())


def test_a_stack_is_refused_with_its_axes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((6, 20, 30), np.uint8), metadata={"axes": "ZYX"}, photometric="minisblack")
    with pytest.raises(InputError, match="one plane"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "1", "P", "CMYK", "I;16"])
def test_every_kind_of_png_and_jpeg_is_read(tmp_path: Path, rng: np.random.Generator, mode: str) -> None:
    source = PillowImage.fromarray(picture(rng, "uint8", 3))
    converted = source.convert("L").convert("I;16") if mode == "I;16" else source.convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    converted.save(path)
    image = open_image(path)
    pixels = image.read()
    assert (pixels.shape[0], pixels.shape[1]) == image.size == SIZE
    assert (1 if pixels.ndim == 2 else pixels.shape[2]) == image.channels
    assert pixels.dtype == image.dtype


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_png_opens_whatever_the_length_of_its_profile_and_texts(tmp_path: Path, rng: np.random.Generator, mode: str) -> None:
    exif, texts = PillowImage.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6
    texts.add_text("made by", "a" * 20_000_000, zip=True)
    texts.add_itxt("notes", "b" * 3_000_000, zip=True)
    source = PillowImage.fromarray(picture(rng, "uint8", 3)).convert(mode)
    source.save(tmp_path / "plain.png", exif=exif)
    source.save(tmp_path / "long.png", exif=exif, pnginfo=texts, icc_profile=bytes(2_000_000))
    plain, long = open_image(tmp_path / "plain.png"), open_image(tmp_path / "long.png")
    assert (plain.size, plain.channels) == (long.size, long.channels) == (SIZE[::-1], 3 if mode in ("RGB", "P") else 1)
    np.testing.assert_array_equal(long.read(), plain.read())


def test_pixels_that_were_read_may_be_changed(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = picture(rng)
    for name in ("a.png", "a.tif"):
        write_image(tmp_path / name, pixels)
        image = open_image(tmp_path / name)
        image.read((3, 4, 20, 30))[:] = 7
        image.read()[:] = 7
        np.testing.assert_array_equal(image.read(), pixels)


def test_sixteen_bit_color_keeps_its_bits(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 65535, (*SIZE, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., ::-1])
    np.testing.assert_array_equal(open_image(tmp_path / "a.png").read(), pixels)


def test_exif_orientation_is_followed(tmp_path: Path, rng: np.random.Generator) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.fromarray(picture(rng)).save(tmp_path / "a.jpg", exif=exif)
    image = open_image(tmp_path / "a.jpg")
    assert image.size == SIZE[::-1] == image.read().shape


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_truncated_files_are_refused_at_every_length(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    path = tmp_path / name
    PillowImage.fromarray(picture(rng)).save(path)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 20, max(1, len(whole) // 25)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            open_image(path).read()


def test_a_giant_header_is_refused_before_decoding(tmp_path: Path) -> None:
    tifffile.memmap(tmp_path / "a.tif", shape=(90_000, 90_000), dtype="uint8").flush()
    image = open_image(tmp_path / "a.tif")
    with pytest.raises(InputError, match="budget"):
        image.read()
    assert image.read((89_990, 89_980, 90_000, 90_000)).shape == (10, 20)


@pytest.mark.parametrize("content", [b"", b"not an image", b"GIF89a" + bytes(50)])
def test_other_files_are_refused_by_their_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="expected a PNG, JPEG or TIFF"):
        open_image(tmp_path / "a.png")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "none.png", "cannot read"), (tmp_path, "folder without")):
        with pytest.raises(InputError, match=says):
            open_image(path)


@pytest.mark.parametrize("array", [np.zeros(5), np.zeros((0, 4)), np.zeros((3, 4, 40)), np.zeros((4, 4), complex)])
def test_arrays_that_are_no_images_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError):
        as_image(array)


def test_what_is_neither_path_nor_array_is_refused_and_odd_files_are_read_in_silence(tmp_path: Path) -> None:
    """In a process of its own, where neither shapes are checked nor logs caught."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 8), np.uint8), extratags=[(42113, "s", 0, "-9999", True)], tile=(16, 16))
    code = """
import sys
from PIL import Image
from fiducial.images import as_image
from fiducial.records import InputError
for name in sys.argv[1:]:
    as_image(name).read()
for source in ([[1, 2], [3, 4]], None, 3.5, b"a.tif", Image.new("L", (5, 4))):
    try:
        as_image(source)
    except InputError as error:
        print(error)
"""
    PillowImage.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "a.png", icc_profile=bytes(2_000_000))
    words = [sys.executable, "-c", code, str(tmp_path / "a.tif"), str(tmp_path / "a.png")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert len(said) == 5
    assert all(line.startswith("expected a path, a NumPy array") for line in said)


def test_range_ignores_outliers_nan_and_infinity(rng: np.random.Generator) -> None:
    pixels = rng.uniform(100, 200, (400, 300))
    pixels[0, :50] = 1e9
    pixels[1, :50] = np.nan
    pixels[2, :50] = np.inf
    low, high = intensity_range(from_array(pixels))
    assert low == pytest.approx(101, abs=1)
    assert high == pytest.approx(199, abs=2)


def test_range_of_a_nearly_empty_picture_is_its_extremes() -> None:
    pixels = np.zeros((100, 100), np.uint8)
    pixels[50, 50] = 255
    assert intensity_range(from_array(pixels)) == (0.0, 255.0)


@pytest.mark.parametrize("value", [7.0, np.nan])
def test_constant_and_nan_images_have_no_range(value: float) -> None:
    with pytest.raises(InputError, match=r"constant|finite"):
        intensity_range(from_array(np.full((80, 90), value)))


def test_gray_is_luminance_without_alpha(rng: np.random.Generator) -> None:
    pixels = picture(rng, "uint8", 4)
    expected = pixels[..., :3] @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(to_gray(pixels, "a"), expected, atol=0.01)
    with pytest.raises(InputError, match="5 channels"):
        to_gray(picture(rng, "uint8", 5), "a")


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", ">u2", "uint32", "int64", "uint64", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("shape", [SIZE, (*SIZE, 1), (*SIZE, 2), (*SIZE, 3), (*SIZE, 4), (*SIZE, 5), (1, 1), (3, 5, 4)])
@pytest.mark.parametrize("pixel_size", [None, (0.5, 0.25)])
def test_tiffs_of_any_channels_and_type_come_back(
    tmp_path: Path, rng: np.random.Generator, dtype: str, shape: tuple[int, ...], pixel_size: tuple[float, float] | None
) -> None:
    pixels = rng.integers(0, 2 if dtype == "bool" else 120, shape).astype(dtype)
    write_image(tmp_path / "a.tif", pixels, pixel_size, "nm")
    image = as_image(tmp_path / "a.tif") if shape[2:] != (5,) else open_image(tmp_path / "a.tif")
    expected = pixels[..., 0] if shape[2:] == (1,) else pixels
    assert image.dtype == (np.uint8 if dtype == "bool" else np.dtype(dtype).newbyteorder("="))
    assert (image.pixel_size, image.unit) == (pixel_size, None if pixel_size is None else "nm")
    np.testing.assert_array_equal(image.read(), expected)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 3), ("uint8", 4), ("uint16", 1), ("uint16", 3)])
def test_written_images_come_back(tmp_path: Path, rng: np.random.Generator, name: str, dtype: str, channels: int) -> None:
    pixels = picture(rng, dtype, channels)
    write_image(tmp_path / name, pixels)
    np.testing.assert_array_equal(open_image(tmp_path / name).read(), pixels)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_mask_is_written_in_black_and_white(tmp_path: Path, rng: np.random.Generator) -> None:
    mask = picture(rng) > 100
    write_image(tmp_path / "a.png", mask)
    np.testing.assert_array_equal(open_image(tmp_path / "a.png").read(), mask * np.uint8(255))


def test_an_array_with_a_mask_is_refused_and_says_what_to_do(rng: np.random.Generator) -> None:
    masked = np.ma.masked_less(picture(rng), 100)
    with pytest.raises(InputError, match="mask") as told:
        as_image(masked)
    said = str(told.value).partition(": ")[2]
    filled = eval(said, {"array": masked, "numpy": np})
    np.testing.assert_array_equal(np.isnan(as_image(filled).read()), masked.mask)


def test_written_pixel_size_comes_back(tmp_path: Path, rng: np.random.Generator) -> None:
    write_image(tmp_path / "a.tif", picture(rng), (0.5, 0.25), "nm")
    image = open_image(tmp_path / "a.tif")
    assert (image.pixel_size, image.unit) == ((0.5, 0.25), "nm")


def test_georeference_is_read_in_the_house_frame(tmp_path: Path, rng: np.random.Generator) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    transform = rasterio.Affine(10, 0, 500, 0, -10, 900)
    profile = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": 1, "dtype": "uint8", "crs": "EPSG:32611"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=transform, **profile) as file:
        file.write(picture(rng), 1)
    image = open_image(tmp_path / "a.tif")
    assert image.crs is not None
    np.testing.assert_allclose(image.pixel_to_world @ [0, 0, 1], [505, 895, 1])


def write_geotiff(path: Path, **stated: object) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    profile = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": 1, "dtype": "uint8"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile, **stated) as file:
            file.write(np.zeros((1, *SIZE), np.uint8))


def test_a_map_without_a_reference_system_is_read(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    write_geotiff(tmp_path / "a.tif", transform=rasterio.Affine(10, 0, 500, 0, -10, 900))
    image = open_image(tmp_path / "a.tif")
    assert image.crs is None
    np.testing.assert_allclose(image.pixel_to_world @ [0, 0, 1], [505, 895, 1])


def test_a_reference_system_or_control_points_alone_are_no_map(tmp_path: Path) -> None:
    control = pytest.importorskip("rasterio.control", reason="extra `geo` is not installed")
    corners = ((0, 0, 10, 50), (SIZE[0], 0, 10, 49), (0, SIZE[1], 11, 50))
    write_geotiff(tmp_path / "points.tif", crs="EPSG:4326", gcps=[control.GroundControlPoint(*corner) for corner in corners])
    write_geotiff(tmp_path / "system.tif", crs="EPSG:4326")
    for name in ("points.tif", "system.tif"):  # whose pixels would else be taken for places on a map
        image = open_image(tmp_path / name)
        assert (image.crs, image.pixel_to_world) == (None, None), name


def test_a_pixel_size_in_two_units_is_not_trusted(tmp_path: Path, rng: np.random.Generator) -> None:
    for name, units in (("one", ("nm", "nm")), ("two", ("nm", "µm")), ("greek", ("\u03bcm", "\u03bcm"))):
        stated = {"PhysicalSizeY": 0.5, "PhysicalSizeX": 0.25, "PhysicalSizeYUnit": units[0], "PhysicalSizeXUnit": units[1]}
        tifffile.imwrite(tmp_path / f"{name}.tif", picture(rng), ome=True, metadata=stated)
    assert (open_image(tmp_path / "one.tif").pixel_size, open_image(tmp_path / "one.tif").unit) == ((0.5, 0.25), "nm")
    assert (open_image(tmp_path / "two.tif").pixel_size, open_image(tmp_path / "two.tif").unit) == (None, None)
    assert open_image(tmp_path / "greek.tif").unit == "µm"


@pytest.mark.parametrize("undefined", [np.nan, 30.0])
def test_a_reduced_image_has_no_value_only_where_half_of_it_lacks_one(undefined: float, rng: np.random.Generator) -> None:
    pixels = rng.random((60, 90), np.float32)
    pixels[rng.random((60, 90)) < 0.2] = np.nan
    pixels[12:24, :30], pixels[41, 7] = np.nan, np.inf
    cells = pixels.reshape(10, 6, 15, 6).swapaxes(1, 2).reshape(10, 15, 36)
    finite = np.isfinite(cells)
    mean = np.where(finite, cells, 0).sum(-1) / np.maximum(finite.sum(-1), 1)
    expected = np.where(finite.mean(-1) >= 0.5, mean, np.nan) if np.isnan(undefined) else np.where(finite, cells, 30).mean(-1)
    np.testing.assert_allclose(read_reduced(from_array(pixels), 15, undefined), expected, rtol=1e-5)
    assert np.isnan(expected[2:4, :5]).all() == np.isnan(undefined)


def test_windows_outside_the_image_are_an_error(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="window must lie"):
        from_array(picture(rng)).read((0, 0, 71, 5))


def test_without_rasterio_a_map_is_left_out_and_that_is_said_once(tmp_path: Path, rng: np.random.Generator) -> None:
    tie = (33922, 12, 6, (0.0, 0.0, 0.0, 500_000.0, 4_000_000.0, 0.0), True)
    for name in ("a.tif", "b.tif"):
        tifffile.imwrite(tmp_path / name, picture(rng), extratags=[(33550, 12, 3, (10.0, 10.0, 0.0), True), tie])
    code = "import sys; sys.modules['rasterio'] = None; from fiducial.cli import main; main()"
    words = [
        sys.executable,
        "-c",
        code,
        "detect",
        str(tmp_path / "a.tif"),
        str(tmp_path / "b.tif"),
        "-o",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    told = "fiducial: maps of GeoTIFFs are not read, rasterio is not installed: pip install 'fiducial[geo]'\n"
    assert done.stderr == told
