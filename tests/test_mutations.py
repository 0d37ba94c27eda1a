"""Properties of the readers: any pixels in any layout come back; any bytes, and any damage, give an answer or an InputError."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import hostile
import numpy as np
import pytest
from hostile_parts import SMOOTH, photo, picture, smooth
from hostile_tables import FOUND, KINDS, good, good_weights, load_weights
from hostile_tiffs import GEOTIFF, LOSSLESS, PLANAR, tiff
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiducial.images import open_image
from fiducial.records import InputError

BUDGET = 2**22
IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example writes its file anew
MAGIC = st.sampled_from([b"", hostile.PHOTO[:8], hostile.PHOTO[:40], SMOOTH[:20], *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")])
SEEDS = {
    "PNG": hostile.PHOTO,
    "PNG of 16 bits": hostile.png(picture("uint16", top=4096)),
    "PNG with a palette": photo(hostile.PALETTE),
    "JPEG": SMOOTH,
    "TIFF": tiff(picture("int16"), rowsperstrip=9),
    "TIFF in tiles": GEOTIFF,
    "TIFF in JPEG": tiff(smooth(), compression="jpeg", photometric="rgb"),
    "OME-TIFF": tiff(PLANAR, ome=True, metadata={"axes": "CYX"}, photometric="minisblack", compression="lzw"),
    "BigTIFF": tiff(picture("float32"), bigtiff=True, byteorder=">", compression="zstd", predictor=3),
}


def damage(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a file with some bytes changed, or cut out, or put in; half of them where its header lies."""
    near_its_head = st.integers(0, min(len(whole) - 1, 400))
    change = st.tuples(near_its_head | st.integers(0, len(whole) - 1), st.integers(0, 4), st.binary(max_size=4))

    def changed(changes: list[tuple[int, int, bytes]]) -> bytes:
        out = whole
        for at, gone, new in changes:
            out = out[:at] + new + out[at + gone :]
        return out

    return st.lists(change, min_size=1, max_size=4).map(changed)


def read_or_refuse(path: Path, read: Callable[[Path], object]) -> None:
    """Read a file: whatever is raised but an InputError of one line fails the test."""
    try:
        read(path)
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 (it may also be read)


def pixels_of(path: Path) -> object:
    return open_image(path, BUDGET).read()


@IN_ONE_FOLDER
@given(data=st.data())
def test_any_pixels_in_any_layout_come_back_by_any_window(tmp_path: Path, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]))
    (h, w), channels = data.draw(st.tuples(st.integers(1, 90), st.integers(1, 90))), data.draw(st.sampled_from([1, 2, 3, 4, 7]))
    pixels = np.random.default_rng(h * w).integers(0, 120, (h, w, channels)).astype(dtype)
    planar = channels > 1 and data.draw(st.booleans())
    how = {
        "photometric": "rgb" if channels in (3, 4) else "minisblack",
        "compression": data.draw(st.sampled_from(LOSSLESS)),
        "byteorder": data.draw(st.sampled_from("<>")),
        "bigtiff": data.draw(st.booleans()),
        **data.draw(st.sampled_from([{}, {"tile": (16, 32)}, {"rowsperstrip": 7}])),
    }
    if channels > 1:
        how["planarconfig"] = "separate" if planar else "contig"
    if how["compression"] in ("lzw", "zlib", "zstd"):
        how["predictor"] = data.draw(st.sampled_from([1, 3 if dtype.startswith("f") else 2]))
    stored = np.moveaxis(pixels, -1, 0) if planar else pixels if channels > 1 else pixels[..., 0]
    (tmp_path / "a.tif").write_bytes(tiff(stored, metadata=None, **how))
    image = open_image(tmp_path / "a.tif")
    expected = pixels if channels > 1 else pixels[..., 0]
    assert (image.size, image.channels, image.dtype) == ((h, w), channels, np.dtype(dtype))
    y0, x0 = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, h)), data.draw(st.integers(x0 + 1, w))
    np.testing.assert_array_equal(image.read((y0, x0, y1, x1)), expected[y0:y1, x0:x1])


@IN_ONE_FOLDER
@given(head=MAGIC, tail=st.binary(max_size=300))
def test_any_bytes_are_an_image_or_refused(tmp_path: Path, head: bytes, tail: bytes) -> None:
    (tmp_path / "a").write_bytes(head + tail)
    read_or_refuse(tmp_path / "a", pixels_of)


@pytest.mark.parametrize("seed", SEEDS)
@IN_ONE_FOLDER
@given(data=st.data())
def test_any_damage_to_an_image_gives_pixels_or_a_refusal(tmp_path: Path, seed: str, data: st.DataObject) -> None:
    (tmp_path / "a").write_bytes(data.draw(damage(SEEDS[seed])))
    read_or_refuse(tmp_path / "a", pixels_of)


@pytest.mark.parametrize("kind", KINDS)
@IN_ONE_FOLDER
@given(data=st.data())
def test_any_damage_to_a_table_or_record_gives_it_or_a_refusal(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    path = tmp_path / KINDS[kind].name
    path.write_bytes(data.draw(damage(good(kind)) | st.binary(max_size=50)))
    read_or_refuse(path, KINDS[kind].read)


@pytest.mark.parametrize("what", FOUND)
def test_what_fuzzing_found_is_refused(tmp_path: Path, what: str) -> None:
    kind, content = FOUND[what]
    path = tmp_path / KINDS[kind].name
    path.write_bytes(content())
    with pytest.raises(InputError):
        KINDS[kind].read(path)


@IN_ONE_FOLDER
@given(data=st.data())
def test_any_damage_to_the_header_of_weights_gives_them_or_a_refusal(tmp_path: Path, data: st.DataObject) -> None:
    whole = good_weights()
    (length,) = struct.unpack("<Q", whole[:8])
    header = data.draw(damage(whole[8 : 8 + length]))
    length = data.draw(st.sampled_from([len(header), length, 2**63, 0]))
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", length) + header + whole[8 + length :])
    read_or_refuse(tmp_path / "w.safetensors", load_weights)


@IN_ONE_FOLDER
@given(data=st.data())
def test_any_value_in_the_header_of_weights_gives_them_or_a_refusal(tmp_path: Path, data: st.DataObject) -> None:
    whole = good_weights()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    part = data.draw(st.sampled_from(["config", "calibration"]))
    stated = json.loads(header["__metadata__"][part])
    odd = [None, -1, 0, 7, 10**9, 1e300, float("nan"), "x", [], [8], [[8]], ["a", "a"], {}, True]
    stated[data.draw(st.sampled_from(sorted(stated)))] = data.draw(st.sampled_from(odd))
    header["__metadata__"][part] = json.dumps(stated)
    packed = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(packed)) + packed + whole[8 + length :])
    read_or_refuse(tmp_path / "w.safetensors", load_weights)
