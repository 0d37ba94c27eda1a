"""What a TIFF states of itself is believed where it says something, and refused in one line where it says too much."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hostile_parts import SIZE, picture

from fiducial.images import as_image, open_image
from fiducial.records import InputError


@pytest.mark.parametrize(
    ("layout", "stained"),
    [
        ({"planarconfig": "separate"}, True),
        ({"planarconfig": "separate", "extrasamples": ["unassalpha"]}, False),
        ({"planarconfig": "contig", "extrasamples": ["unassalpha"]}, False),
        ({"planarconfig": "separate", "ome": True, "metadata": {"axes": "CYX"}}, True),
    ],
)
def test_gray_channels_in_one_page_are_stains_unless_one_is_alpha(tmp_path: Path, layout: dict, stained: bool) -> None:
    for channels in (2, 4):
        pixels = picture("uint16", channels)
        more = ["unspecified"] * (channels - 2)
        how = layout | ({"extrasamples": more + layout["extrasamples"]} if "extrasamples" in layout else {})
        stored = pixels if layout["planarconfig"] == "contig" else np.moveaxis(pixels, -1, 0)
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", **how)
        image = open_image(tmp_path / "a.tif")
        assert image.stains == stained
        np.testing.assert_array_equal(image.read(), pixels)


def test_four_gray_bands_and_channels_that_ome_names_are_stains(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture("uint16", 4), photometric="minisblack", planarconfig="contig")
    stated = (
        '<OME><Image><Pixels SizeX="93" SizeY="70" SizeC="2" SizeZ="1" SizeT="1"><Channel/><Channel/></Pixels></Image></OME>'
    )
    tifffile.imwrite(
        tmp_path / "b.ome.tif",
        picture("uint8", 2),
        photometric="minisblack",
        planarconfig="contig",
        description=stated,
        metadata=None,
    )
    for name, channels in (("a.tif", 4), ("b.ome.tif", 2)):
        with pytest.raises(InputError, match=f"has {channels} channels: save the channel"):
            as_image(tmp_path / name)


@pytest.mark.parametrize(
    ("stated", "unit"),
    [
        *((name, "µm") for name in ("um", "micron", "microns", "micrometer", "Micrometre", "\u03bcm", "\\u00B5m")),
        *(("nanometer", "nm"), ("inch", "in"), ("inches", "in"), ("Angstrom", "Å"), ("\u212b", "Å"), ("cm", "cm")),
        *((name, None) for name in ("pixel", "pixels", "px", "Pixel", "reference frame", "")),
    ],
)
@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_units_are_known_however_they_are_spelled_and_pixels_are_none(
    tmp_path: Path, kind: str, stated: str, unit: str | None
) -> None:
    if kind == "ome":
        sides = {f"PhysicalSize{axis}{of}": v for axis in "XY" for of, v in (("", 0.5), ("Unit", stated))}
        tifffile.imwrite(tmp_path / "a.tif", picture(), ome=True, metadata=sides)
    else:
        told = f"ImageJ=1.54f\nunit={stated}\n".encode()
        rest = {"extratags": [(270, "s", 0, told, True)], "resolution": (2, 2)}
        tifffile.imwrite(tmp_path / "a.tif", picture(), metadata=None, **rest)
    image = open_image(tmp_path / "a.tif")
    assert (image.pixel_size, image.unit) == (None if unit is None else (0.5, 0.5), unit)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_white_is_zero_is_turned_over_within_the_bits_that_are_used(tmp_path: Path, bits: int) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    pixels = picture("uint16", top=2**bits)
    profile = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": 1, "dtype": "uint16", "nbits": bits}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "a.tif", "w", photometric="MINISWHITE", **profile) as file:
            file.write(pixels, 1)
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(), 2**bits - 1 - pixels)


def retagged(path: Path, code: int, other: int) -> None:
    """Rename a tag of the first page, so that it is not there, or another."""
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags[code].offset
    whole = bytearray(path.read_bytes())
    whole[at : at + 2] = other.to_bytes(2, "little")
    path.write_bytes(whole)


def test_without_a_word_on_white_zero_is_black(tmp_path: Path) -> None:
    pixels = picture()
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    retagged(tmp_path / "a.tif", 262, 65000)
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(), pixels)


def test_orientation_0_is_upright(tmp_path: Path) -> None:
    pixels = picture()
    tifffile.imwrite(tmp_path / "a.tif", pixels, extratags=[(274, 3, 1, 0)])
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(), pixels)


def test_a_thumbnail_before_the_image_is_stepped_over(tmp_path: Path) -> None:
    pixels = picture("uint16")
    for kind, before in ((1, pixels[::2, ::2]), (4, pixels[::2, ::2] > 100)):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(before, subfiletype=kind)
            file.write(pixels)
        image = open_image(tmp_path / "a.tif")
        assert image.size == SIZE
        np.testing.assert_array_equal(image.read((3, 5, 40, 50)), pixels[3:40, 5:50])
    tifffile.imwrite(tmp_path / "a.tif", pixels, subfiletype=1)
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(), pixels)  # there is nothing else


def test_several_images_of_ome_are_refused_unless_the_others_lie_in_other_files(tmp_path: Path) -> None:
    pixels = picture()
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(pixels[:20, :30], metadata={"axes": "YX"})
        file.write(pixels, metadata={"axes": "YX"})
    with pytest.raises(InputError, match="holds 2 images: save the one"):
        open_image(tmp_path / "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        stated = file.ome_metadata
    tifffile.imwrite(tmp_path / "b.ome.tif", pixels[:20, :30], description=stated, metadata=None)
    np.testing.assert_array_equal(open_image(tmp_path / "b.ome.tif").read(), pixels[:20, :30])


@pytest.mark.parametrize("layout", [{}, {"blockysize": SIZE[0]}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
@pytest.mark.parametrize(("dtype", "stated"), [("uint8", None), ("uint8", 7), ("int16", 32767), ("float32", -9999)])
def test_parts_that_are_not_stored_hold_no_data(tmp_path: Path, layout: dict, dtype: str, stated: int | None) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    profile = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": 1, "dtype": dtype, "nodata": stated}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(tmp_path / "a.tif", "w", SPARSE_OK="TRUE", **profile, **layout):
            pass
    expected = np.nan if dtype == "float32" else stated or 0
    np.testing.assert_array_equal(open_image(tmp_path / "a.tif").read(), np.full(SIZE, expected, dtype))


def test_planes_of_jpeg_are_refused_by_their_name(tmp_path: Path) -> None:
    stored = np.moveaxis(picture("uint8", 3), -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig="separate", compression="jpeg")
    with pytest.raises(InputError, match="interleaved"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.tfw", "a.wld", "a.tifw", "a.tif.aux.xml"])
def test_a_map_beside_the_file_is_read(tmp_path: Path, name: str) -> None:
    pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    tifffile.imwrite(tmp_path / "a.tif", picture(), metadata=None)
    notes = "<PAMDataset><GeoTransform>500, 10, 0, 900, 0, -10</GeoTransform></PAMDataset>"
    (tmp_path / name).write_text(notes if name.endswith("xml") else "10\n0\n0\n-10\n505\n895\n")
    np.testing.assert_allclose(open_image(tmp_path / "a.tif").pixel_to_world @ [0, 0, 1], [505, 895, 1])
