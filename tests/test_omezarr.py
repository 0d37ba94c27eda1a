"""OME-Zarr is read by window as any file is, what strangers write into it does no harm, and what is written others read."""

import json
import os
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fiducial import resampling
from fiducial.coords import shift
from fiducial.datasets import list_images, read_aligned, read_pair_folder
from fiducial.images import from_array, open_image, read_reduced, write_image, write_omezarr
from fiducial.inputs import choose_images
from fiducial.records import Image, InputError

zarr = pytest.importorskip("zarr", reason="the extra zarr is not installed")

LAYOUTS = (2, 3)


def picture(shape: tuple[int, ...] = (70, 93), dtype: str = "uint16") -> np.ndarray:
    return (np.random.default_rng(3).random(shape) * 250).astype(dtype)


def written(folder: Path, pixels: np.ndarray, layout: int = 2, name: str = "scan.ome.zarr") -> Path:
    write_omezarr(folder / name, from_array(pixels), zarr_format=layout)
    return folder / name


def attributes(path: Path) -> Path:
    return path / "zarr.json" if (path / "zarr.json").exists() else path / ".zattrs"


def edit(path: Path, change: object) -> None:
    """Change a JSON file in place."""
    stated = json.loads(path.read_text())
    change(stated)  # type: ignore[operator]
    path.write_text(json.dumps(stated))


def multiscale(stated: dict) -> dict:
    return stated.get("attributes", {}).get("ome", stated)["multiscales"][0]


def stack(folder: Path, axes: str, shape: tuple[int, ...], **options: object) -> tuple[Path, np.ndarray]:
    """Write an image of any axes by zarr alone."""
    pixels = picture(shape)
    group = zarr.open_group(folder / "stack.zarr", mode="w", zarr_format=3)
    array = group.create_array(
        "full", shape=shape, dtype=pixels.dtype, **{"chunks": tuple(min(n, 32) for n in shape)} | options
    )
    array[:] = pixels
    scale = {"type": "scale", "scale": [1.0] * len(axes)}
    datasets = [{"path": "full", "coordinateTransformations": [scale]}]
    stated = [{"multiscales": [{"axes": [{"name": a} for a in axes], "datasets": datasets}], "version": "0.5"}]
    group.attrs["ome"] = stated[0]
    return folder / "stack.zarr", pixels


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "dtype"), [((70, 93), "uint16"), ((41, 530, 3), "uint8"), ((600, 37), ">f4")])
def test_windows_of_what_was_written_are_those_of_the_pixels(
    tmp_path: Path, layout: int, shape: tuple[int, ...], dtype: str
) -> None:
    pixels = picture(shape, dtype)
    image = open_image(written(tmp_path, pixels, layout))
    assert (image.size, image.channels, image.dtype) == (shape[:2], (*shape, 1)[2], pixels.dtype.newbyteorder("="))
    np.testing.assert_array_equal(image.read(), pixels)
    np.testing.assert_array_equal(image.read((7, 11, 40, 29)), pixels[7:40, 11:29])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_size_of_pixels_comes_from_the_transformations_of_level_and_image(tmp_path: Path, layout: int) -> None:
    image = replace(from_array(picture()), pixel_size=(0.5, 0.25), unit="µm")
    write_omezarr(tmp_path / "a.zarr", image, zarr_format=layout)
    assert (open_image(tmp_path / "a.zarr").pixel_size, open_image(tmp_path / "a.zarr").unit) == ((0.5, 0.25), "µm")
    every = [{"type": "scale", "scale": [2.0, 4.0]}]
    edit(attributes(tmp_path / "a.zarr"), lambda stated: multiscale(stated).update(coordinateTransformations=every))
    assert open_image(tmp_path / "a.zarr").pixel_size == (1.0, 1.0)


def test_pixels_without_a_unit_have_no_size(tmp_path: Path) -> None:
    assert open_image(written(tmp_path, picture())).pixel_size is None


@pytest.mark.parametrize(
    ("unit", "known"), [("um", "µm"), ("Micrometer", "µm"), ("\u03bcm", "µm"), ("inch", "in"), ("pixel", None), (None, None)]
)
def test_units_are_those_of_other_formats_and_pixels_are_none(tmp_path: Path, unit: str | None, known: str | None) -> None:
    write_omezarr(tmp_path / "a.zarr", replace(from_array(picture()), pixel_size=(0.5, 0.25), unit="nm"))
    edit(tmp_path / "a.zarr" / ".zattrs", lambda s: [axis.update(unit=unit) for axis in multiscale(s)["axes"]])
    image = open_image(tmp_path / "a.zarr")
    assert (image.pixel_size, image.unit) == (None if known is None else (0.5, 0.25), known)


def test_without_a_scale_there_is_no_size(tmp_path: Path) -> None:
    write_omezarr(tmp_path / "a.zarr", replace(from_array(picture()), pixel_size=(0.5, 0.25), unit="µm"))
    edit(tmp_path / "a.zarr" / ".zattrs", lambda s: multiscale(s)["datasets"][0].pop("coordinateTransformations"))
    assert (open_image(tmp_path / "a.zarr").pixel_size, open_image(tmp_path / "a.zarr").unit) == (None, None)


def test_names_of_axes_may_be_capital(tmp_path: Path) -> None:
    path, pixels = stack(tmp_path, "CYX", (3, 40, 55))
    np.testing.assert_array_equal(open_image(path).read(), np.moveaxis(pixels, 0, -1))


@pytest.mark.parametrize("dtype", ["int32", "uint64", "int64"])
def test_levels_of_integers_stay_at_the_ends_of_their_range(tmp_path: Path, dtype: str) -> None:
    for value in (np.iinfo(dtype).min, np.iinfo(dtype).max):
        write_omezarr(tmp_path / "a.zarr", from_array(np.full((600, 37), value, dtype)))
        assert (zarr.open_group(tmp_path / "a.zarr", mode="r")["1"][:] == value).all()


@pytest.mark.parametrize("scale", [[0.0, 1.0], [-1.0, 1.0], [float("nan"), 1.0], [1e400, 1.0], [1.0], [1.0, 1.0, 1.0]])
def test_scales_that_cannot_be_meant_give_no_size(tmp_path: Path, scale: list[float]) -> None:
    write_omezarr(tmp_path / "a.zarr", replace(from_array(picture()), pixel_size=(0.5, 0.25), unit="µm"))
    steps = [{"type": "scale", "scale": scale}]
    edit(tmp_path / "a.zarr" / ".zattrs", lambda s: multiscale(s)["datasets"][0].update(coordinateTransformations=steps))
    assert (open_image(tmp_path / "a.zarr").pixel_size, open_image(tmp_path / "a.zarr").unit) == (None, None)


@pytest.mark.parametrize(
    ("axes", "shape", "order"),
    [
        ("tczyx", (1, 3, 1, 40, 55), (3, 4, 1)),
        ("zyx", (1, 40, 55), (1, 2)),
        ("xyc", (40, 55, 2), (1, 0, 2)),
        ("cyx", (1, 9, 8), (1, 2)),
    ],
)
def test_axes_are_told_by_their_names(tmp_path: Path, axes: str, shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    path, pixels = stack(tmp_path, axes, shape)
    rest = [i for i in range(len(axes)) if i not in order]
    expected = pixels.transpose([*order, *rest]).reshape([shape[i] for i in order])
    np.testing.assert_array_equal(open_image(path).read((2, 1, 9, 8)), expected[2:9, 1:8])


@pytest.mark.parametrize(("axes", "shape"), [("zyx", (2, 40, 55)), ("tyx", (3, 40, 55)), ("cyx", (17, 9, 8))])
def test_stacks_are_refused_with_their_axes(tmp_path: Path, axes: str, shape: tuple[int, ...]) -> None:
    path, _ = stack(tmp_path, axes, shape)
    with pytest.raises(InputError, match=f"expected one plane.*{axes.upper()} .*{shape[0]}"):
        open_image(path)


@pytest.mark.parametrize("index", ["start", "end"])
@pytest.mark.parametrize("window", [(0, 0, 64, 96), (3, 5, 20, 30)])  # whole shards, and parts of one
def test_shards_are_read(tmp_path: Path, index: str, window: tuple[int, int, int, int]) -> None:
    shards = {"shape": (64, 96), "index_location": index}
    path, pixels = stack(tmp_path, "yx", (70, 101), chunks=(16, 16), shards=shards)
    y0, x0, y1, x1 = window
    np.testing.assert_array_equal(open_image(path).read(window), pixels[y0:y1, x0:x1])


@pytest.mark.parametrize("codec", ["blosc", "gzip", "zstd", None])
def test_each_compression_is_read(tmp_path: Path, codec: str | None) -> None:
    known = {"blosc": zarr.codecs.BloscCodec(), "gzip": zarr.codecs.GzipCodec(), "zstd": zarr.codecs.ZstdCodec()}
    path, pixels = stack(tmp_path, "yx", (70, 101), compressors=None if codec is None else [known[codec]])
    np.testing.assert_array_equal(
        open_image(path, max_bytes=100_000).read(), pixels
    )  # so little that deflated chunks are counted


def test_chunks_that_are_not_stored_hold_the_fill_value(tmp_path: Path) -> None:
    path, pixels = stack(tmp_path, "yx", (70, 101), fill_value=7)
    (path / "full" / "c" / "0" / "1").unlink()
    expected = pixels.copy()
    expected[:32, 32:64] = 7
    np.testing.assert_array_equal(open_image(path).read(), expected)


def test_reduced_copies_of_all_formats_agree(tmp_path: Path) -> None:
    pixels = picture((300, 410), "uint8")
    write_image(tmp_path / "a.tif", pixels)
    paths = [tmp_path / "a.tif", written(tmp_path, pixels, 2), written(tmp_path, pixels, 3, "b.zarr")]
    reduced = [read_reduced(open_image(path), 100) for path in paths]
    assert np.array_equal(reduced[0], reduced[1])
    assert np.array_equal(reduced[0], reduced[2])


# What strangers may write


def damage(path: Path, kind: str) -> None:
    """Spoil an image in one way."""
    group, array = attributes(path), path / "0" / ("zarr.json" if (path / "0" / "zarr.json").exists() else ".zarray")
    grid = {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**40, 2**40]}}, "chunks": [2**40, 2**40]}
    none = {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 5]}}, "chunks": [0, 5]}
    pickled = {"compressor": {"id": "pickle"}, "filters": [{"id": "pickle"}], "codecs": [{"name": "numcodecs.pickle"}]}
    secret = {"compressor": {"id": "secret"}, "codecs": [{"name": "bytes"}, {"name": "secret"}]}
    tiny = {
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1]}},
        "chunks": [1, 1],
        "shape": [9000, 9000],
    }
    changes = {
        "huge chunks": (array, lambda s: s.update(grid)),
        "tiny chunks": (array, lambda s: s.update(tiny)),
        "no chunk": (array, lambda s: s.update(none)),
        "huge shape": (array, lambda s: s.update(shape=[10**30, 10])),
        "huge but possible": (array, lambda s: s.update(shape=[200_000, 200_000])),
        "negative": (array, lambda s: s.update(shape=[-5, 10])),
        "other axes": (array, lambda s: s.update(shape=[5, 6, 7])),
        "objects": (array, lambda s: s.update(dtype="|O", data_type="object")),
        "text": (array, lambda s: s.update(dtype="<U8", data_type={"name": "fixed_length_utf32"})),
        "complex": (array, lambda s: s.update(dtype="<c16", data_type="complex128")),
        "pickle": (array, lambda s: s.update(pickled)),
        "unknown codec": (array, lambda s: s.update(secret)),
        "outside": (group, lambda s: multiscale(s)["datasets"][0].update(path="../other.zarr/0")),
        "root": (group, lambda s: multiscale(s)["datasets"][0].update(path="/")),
        "itself": (group, lambda s: multiscale(s)["datasets"][0].update(path=".")),
        "no path": (group, lambda s: multiscale(s)["datasets"][0].update(path="")),
        "gone": (group, lambda s: multiscale(s)["datasets"][0].update(path="9")),
        "number": (group, lambda s: multiscale(s)["datasets"][0].update(path=3)),
        "no datasets": (group, lambda s: multiscale(s).update(datasets=[])),
        "no axes": (group, lambda s: multiscale(s).pop("axes")),
        "axes": (group, lambda s: multiscale(s).update(axes=[{"name": "y"}, {"name": "y"}])),
    }  # fmt: skip
    if kind in changes:
        edit(*changes[kind])
    elif kind == "no json":
        group.write_bytes(b"\x00\xff{[")
    elif kind == "deep":
        group.write_text("[" * 200_000)
    elif kind == "a list":
        group.write_text("[]")
    elif kind == "link":
        shutil.rmtree(path / "0")
        (path / "0").symlink_to(path.parent / "other.zarr" / "0")
    elif kind == "loop":
        shutil.rmtree(path / "0")
        (path / "0").symlink_to(path / "0")


KINDS = (
    *("huge chunks", "tiny chunks", "no chunk", "huge shape", "huge but possible", "negative", "other axes", "objects", "text"),
    *("complex", "pickle", "unknown codec", "outside", "root", "itself", "no path", "gone", "number", "no datasets", "no axes"),
    *("axes", "no json", "deep", "a list", "link", "loop"),
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_or_hostile_is_refused_in_one_line(tmp_path: Path, kind: str, layout: int) -> None:
    written(tmp_path, picture(), layout, "other.zarr")
    path = written(tmp_path, picture(), layout)
    open_image(path).read()
    damage(path, kind)
    with pytest.raises(InputError) as caught:
        open_image(path).read()
    assert "\n" not in str(caught.value)


def chunk_of(path: Path) -> Path:
    return next(p for p in sorted((path / "0").rglob("0")) if p.is_file())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_that_are_links_out_of_the_folder_pipes_or_torn_are_refused(tmp_path: Path, layout: int) -> None:
    path = written(tmp_path, picture(), layout)
    chunk, secret = chunk_of(path), tmp_path / "secret"
    whole = chunk.read_bytes()
    secret.write_bytes(whole)
    for spoil in (
        lambda: chunk.symlink_to(secret),
        lambda: chunk.write_bytes(whole[:9]),
        lambda: chunk.write_bytes(bytes(10**6)),
    ):
        chunk.unlink()
        spoil()
        with pytest.raises(InputError, match=r"damaged|cannot read"):
            open_image(path).read()
    chunk.unlink()
    os.mkfifo(chunk)
    assert open_image(path).read().max() == 0  # as if it were not stored


def bomb(codec: str, plain: int) -> bytes:
    """Return a few kB that unpack to `plain` bytes."""
    imagecodecs = pytest.importorskip("imagecodecs")
    zeros = bytes(plain)
    if codec == "gzip":
        packer = zlib.compressobj(wbits=31)
        return packer.compress(zeros) + packer.flush()
    if codec == "blosc":
        return imagecodecs.blosc_encode(zeros, typesize=1)
    return imagecodecs.zstd_encode(zeros)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("codec", ["gzip", "blosc", "zstd"])
def test_chunks_that_unpack_to_more_than_they_state_are_not_unpacked(tmp_path: Path, codec: str, sharded: bool) -> None:
    known = {"blosc": zarr.codecs.BloscCodec(), "gzip": zarr.codecs.GzipCodec(), "zstd": zarr.codecs.ZstdCodec()}
    options = {"chunks": (32, 32), "compressors": [known[codec]]} | ({"shards": (32, 32)} if sharded else {})
    path, _ = stack(tmp_path, "yx", (32, 32), **options)
    packed = bomb(codec, 3_000_000)
    index = struct.pack("<QQ", 0, len(packed))
    body = packed + index + zarr_checksum(index) if sharded else packed
    (path / "full" / "c" / "0" / "0").write_bytes(body)
    with pytest.raises(InputError, match="unpacks to more"):
        open_image(path, max_bytes=1_000_000).read()


def zarr_checksum(index: bytes) -> bytes:
    import google_crc32c  # noqa: PLC0415 (zarr's own)

    return struct.pack("<I", google_crc32c.value(index))


def test_folders_that_hold_several_images_or_none_say_so(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "plate.zarr", mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    with pytest.raises(InputError, match="several images"):
        open_image(tmp_path / "plate.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(InputError, match="without the metadata of OME-Zarr"):
        open_image(tmp_path / "empty.zarr")


# What is written


@pytest.mark.parametrize("layout", LAYOUTS)
def test_others_read_what_is_written_level_by_level(tmp_path: Path, layout: int) -> None:
    pixels = np.add.outer(np.arange(1100), np.arange(1301)).astype(np.uint16)
    write_omezarr(tmp_path / "a.ome.zarr", replace(from_array(pixels), pixel_size=(2.0, 3.0), unit="nm"), zarr_format=layout)
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    stated = dict(group.attrs) if layout == 2 else group.attrs["ome"]
    (image,) = stated["multiscales"]
    assert {axis["unit"] for axis in image["axes"]} == {"nanometer"}
    for level, dataset in enumerate(image["datasets"]):
        array, factor = group[dataset["path"]], 2**level
        scale, *more = dataset["coordinateTransformations"]
        assert scale["scale"] == [2.0 * factor, 3.0 * factor]
        offset = more[0]["translation"] if more else [0.0, 0.0]
        y, x = (np.arange(n) * own + ahead for n, own, ahead in zip(array.shape, scale["scale"], offset, strict=True))
        inner = np.s_[:-1, :-1]
        np.testing.assert_allclose(array[inner], np.add.outer(y / 2, x / 3)[inner], atol=1)  # a ramp lies where it lay
    assert max(array.shape) <= 512
    if layout == 3:
        assert array.metadata.dimension_names == ("y", "x")


def test_levels_of_classes_hold_no_class_that_is_not_there(tmp_path: Path) -> None:
    mask = np.zeros((900, 1300), np.uint8)
    mask[101:401, 203:701], mask[401:805, 303:805] = 2, 6
    write_omezarr(tmp_path / "mask.zarr", from_array(mask), classes=True)
    group = zarr.open_group(tmp_path / "mask.zarr", mode="r")
    assert [set(np.unique(group[name][:])) for name in sorted(group)] == [{0, 2, 6}] * 3


def test_writing_replaces_an_image_but_no_other_folder_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    written(tmp_path, picture((20, 30)))
    path = written(tmp_path, picture((25, 35)))
    assert open_image(path).size == (25, 35)
    mine = tmp_path / "mine.zarr"
    mine.mkdir()
    (mine / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="no OME-Zarr"):
        write_omezarr(mine, from_array(picture()))

    def torn(window: tuple[int, int, int, int]) -> np.ndarray:
        raise OSError("no space left on device")

    broken = Image("broken", (50, 60), 1, np.dtype(np.uint8), torn)
    with pytest.raises(OSError, match="no space"):
        write_omezarr(path, broken)
    assert open_image(path).size == (25, 35)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.zarr", "scan.ome.zarr"]


def test_an_aligned_image_as_omezarr_is_the_one_as_tiff(tmp_path: Path) -> None:
    moving = from_array(picture((530, 610), "uint8"))
    fixed = replace(from_array(picture((560, 640), "uint8")), pixel_size=(0.5, 0.5), unit="µm")
    for name in ("a.tif", "a.ome.zarr"):
        resampling.write_aligned(moving, fixed, shift(3.25, -7.5), tmp_path / name)
    tif, own = open_image(tmp_path / "a.tif"), open_image(tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(tif.read(), own.read())
    assert (tif.pixel_size, tif.unit) == (own.pixel_size, own.unit)


def test_folders_of_omezarr_count_as_images(tmp_path: Path) -> None:
    path = written(tmp_path, picture())
    write_image(tmp_path / "b.png", picture(dtype="uint8"))
    assert list_images(tmp_path) == [tmp_path / "b.png", path]
    assert choose_images([path]) == choose_images([tmp_path / "*.ome.zarr"]) == [path]


def test_training_data_may_be_omezarr(tmp_path: Path) -> None:
    pixels = picture((64, 80), "uint8")
    for place in ("a/1.zarr", "b/1.zarr", "pairs/samples/x.zarr", "pairs/templates/x.zarr", "pairs/templates/y.zarr"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write_omezarr(tmp_path / place, from_array(pixels))
    (pair,) = read_aligned(tmp_path)
    np.testing.assert_array_equal(pair.b, pixels)
    with pytest.raises(InputError, match=r"an image x \(.png, .tif, .tiff, .*\) in .*masks, found none"):
        list(read_pair_folder(tmp_path / "pairs"))
    (tmp_path / "pairs" / "masks").mkdir()
    write_image(tmp_path / "pairs" / "masks" / "x.png", np.zeros((64, 80), np.uint8))
    (compared,) = read_pair_folder(tmp_path / "pairs")
    np.testing.assert_array_equal(compared.sample, compared.template)


def test_an_image_that_could_not_be_replaced_is_still_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = written(tmp_path, picture((20, 30))), os.replace

    def interrupted(source: Path, target: Path) -> None:
        if Path(source).suffix == ".part":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, picture((25, 35)))
    assert open_image(path).size == (20, 30)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
