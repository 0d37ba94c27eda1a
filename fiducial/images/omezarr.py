"""Read OME-Zarr by window: NGFF 0.4 (Zarr 2) and 0.5 (Zarr 3), one plane at its highest resolution.

The metadata of strangers is read and checked here, before zarr sees any of it: known types of pixel and known codecs only, no
path that leaves the folder.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from fiducial.images.limits import MAX_CHANNELS, check_budget, decoding, first_bytes, readable
from fiducial.images.stated import are_stains, unit_of
from fiducial.records import Image, InputError, Window

SUFFIX = ".zarr"
MISSING = "OME-Zarr needs the package zarr: pip install 'fiducial[zarr]'"

_METADATA = ("zarr.json", ".zattrs")  # of a group: Zarr 3, Zarr 2
_MOST_METADATA = 2**24  # bytes
_MOST_CHUNKS = 2**17  # for one read; each costs a few kB while it is looked up
_LONGEST_PX = 2**31 - 1
_TYPES = re.compile(r"[<>|]([biuf][1248])|(bool|u?int(?:8|16|32|64)|float(?:16|32|64))")
_CODECS = {None, "blosc", "gzip", "lz4", "zlib", "zstd"}  # that compress
_PLAIN = {"bytes", "transpose", "crc32c"}  # that do not


@dataclass(frozen=True)
class Stored:
    """How an array lies on disk.

    Attributes:
        chunks: what is decoded at once. parts: chunks inside a shard, else the chunks themselves.
        codec: what they are compressed with, if they are.
        index: where a shard's index lies, "start" or "end"; empty for none. checksum: bytes that follow the index.
    """

    folder: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    parts: tuple[int, ...]
    dtype: np.dtype[Any]
    codec: str | None
    index: str = ""
    checksum: int = 0


@dataclass(frozen=True)
class _Plane:
    """Which axes of an array are y, x and, if there are several channels, c; the pixels' size."""

    y: int
    x: int
    c: int | None
    pixel_size: tuple[float, float] | None
    unit: str | None


def is_omezarr(path: Path) -> bool:
    """Say whether a path is a folder with the metadata of a Zarr group."""
    return path.is_dir() and any((path / name).is_file() for name in _METADATA)


def open_omezarr(path: Path, max_bytes: int) -> Image:
    """Open an image of OME-Zarr; raises InputError as `open_image`, and where zarr is not installed."""
    with decoding(path):
        multiscale, names = _multiscale(path)
        stored = _stored(_inside(path, multiscale["datasets"][0]["path"]))
        plane = _plane(path, multiscale, stored.shape)
    size, channels = (stored.shape[plane.y], stored.shape[plane.x]), 1 if plane.c is None else stored.shape[plane.c]
    stains = channels > 1 and (channels != 3 or are_stains(names))
    opened = _opener(stored, max_bytes)

    def read(window: Window) -> Shaped[np.ndarray, "..."]:
        y0, x0, y1, x1 = window
        check_budget(path.name, (y1 - y0, x1 - x0, channels), stored.dtype.itemsize, max_bytes)
        check_budget(path.name, stored.chunks, stored.dtype.itemsize, max_bytes)
        asked = [slice(0, n) for n in stored.shape]
        asked[plane.y], asked[plane.x] = slice(y0, y1), slice(x0, x1)
        _check_chunks(path.name, asked, stored.parts)
        with decoding(path):
            pixels = np.asarray(opened()[tuple(asked)])
        order = [plane.y, plane.x, *([] if plane.c is None else [plane.c])]
        pixels = pixels.transpose([*order, *(i for i in range(pixels.ndim) if i not in order)])
        return pixels.reshape(pixels.shape[: len(order)]).astype(stored.dtype, copy=False)

    return Image(readable(path.name), size, channels, stored.dtype, read, plane.pixel_size, plane.unit, stains=stains)


def _opener(stored: Stored, max_bytes: int) -> Callable[[], Any]:
    """Return what opens the array, once, at the first read."""
    try:
        from fiducial.images.chunks import open_array  # noqa: PLC0415 (zarr is an extra)
    except ImportError as error:
        raise InputError(MISSING) from error
    return lru_cache(maxsize=1)(lambda: open_array(stored, max_bytes))


def _read_json(path: Path) -> Any:  # noqa: ANN401 (JSON)
    text = first_bytes(path, _MOST_METADATA + 1)
    if len(text) > _MOST_METADATA:
        raise ValueError(f"{path.name} must have at most {_MOST_METADATA:,} bytes")
    return json.loads(text)


def _multiscale(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the first multiscale image that a group describes, and the names of its channels, if it states them."""
    name = next((name for name in _METADATA if (path / name).is_file()), None)
    if name is None:
        raise InputError(f"expected an image, {readable(path)} is a folder without the metadata of OME-Zarr")
    stated = _read_json(path / name)
    stated = stated["attributes"].get("ome", {}) if name == "zarr.json" else stated
    if "multiscales" in stated:
        shown = (stated.get("omero") or {}).get("channels") or []
        return stated["multiscales"][0], [str(channel.get("label") or "") for channel in shown]
    several = "plate" in stated or "bioformats2raw.layout" in stated
    raise InputError(
        f"{readable(path)} holds several images: open one of them, such as {readable(path.name)}/0"
        if several
        else f"expected an image of OME-Zarr, {readable(path)} states no multiscales"
    )


def _inside(path: Path, part: str) -> Path:
    """Return a part of a folder; refuse one that lies outside, also by links."""
    folder = path / part
    if not part or not folder.resolve().is_relative_to(path.resolve()) or folder.resolve() == path.resolve():
        raise ValueError(f"datasets must lie inside the folder, got {part!r}")
    return folder


def _stored(folder: Path) -> Stored:
    """Read how an array lies on disk; only known types and codecs pass."""
    if (folder / "zarr.json").is_file():
        return _stored_3(folder, _read_json(folder / "zarr.json"))
    if not (folder / ".zarray").is_file():
        raise InputError(f"{readable(folder)} is missing: the metadata of the image names it")
    stated = _read_json(folder / ".zarray")
    codec = None if stated["compressor"] is None else str(stated["compressor"]["id"])
    if codec not in _CODECS or stated.get("filters"):
        raise InputError(f"cannot decode {readable(folder)}: codec {codec!r}, filters {stated.get('filters')}")
    shape, chunks = _lengths(stated["shape"]), _lengths(stated["chunks"])
    return _checked(Stored(folder, shape, chunks, chunks, _dtype(stated["dtype"]), codec))


def _stored_3(folder: Path, stated: dict[str, Any]) -> Stored:
    grid = stated["chunk_grid"]
    if grid["name"] != "regular" or stated.get("storage_transformers"):
        raise InputError(
            f"cannot read {readable(folder)}: grid {grid['name']!r}, transformers {stated.get('storage_transformers')}"
        )
    shape, chunks = _lengths(stated["shape"]), _lengths(grid["configuration"]["chunk_shape"])
    codecs, parts, index, checksum = stated["codecs"], chunks, "", 0
    if [codec["name"] for codec in codecs] == ["sharding_indexed"]:
        shard = codecs[0]["configuration"]
        codecs, parts, index = shard["codecs"], _lengths(shard["chunk_shape"]), str(shard.get("index_location", "end"))
        names = [codec["name"] for codec in shard["index_codecs"]]
        if names not in (["bytes"], ["bytes", "crc32c"]) or index not in ("start", "end"):
            raise InputError(f"cannot decode the index of {readable(folder)}: codecs {names} at the {index!r}")
        checksum = 4 * (len(names) - 1)
    compressing = [codec["name"] for codec in codecs if codec["name"] not in _PLAIN]
    if len(compressing) > 1 or set(compressing) - _CODECS:
        raise InputError(f"cannot decode {readable(folder)}: codecs {compressing}")
    codec = compressing[0] if compressing else None
    return _checked(Stored(folder, shape, chunks, parts, _dtype(stated["data_type"]), codec, index, checksum))


def _checked(stored: Stored) -> Stored:
    if not len(stored.shape) == len(stored.chunks) == len(stored.parts):
        raise ValueError(f"chunks must have the array's axes, got {stored.shape}, {stored.chunks} and {stored.parts}")
    if max(stored.shape) > _LONGEST_PX:
        raise ValueError(f"a side must have at most {_LONGEST_PX:,} px, got {stored.shape}")
    return stored


def _lengths(stated: list[Any]) -> tuple[int, ...]:
    if not (isinstance(stated, list) and stated and all(type(n) is int and n > 0 for n in stated)):
        raise ValueError(f"a shape must be whole numbers above 0, got {stated}")
    return tuple(stated)


def _dtype(stated: object) -> np.dtype[Any]:
    known = _TYPES.fullmatch(stated) if isinstance(stated, str) else None
    if known is None:
        raise InputError(f"pixels must be integers, floats or booleans, got {stated!r}")
    return np.dtype(known[1] or known[2])  # in the machine's byte order


def _plane(path: Path, multiscale: dict[str, Any], shape: tuple[int, ...]) -> _Plane:
    """Tell the axes; refuse an image of several planes, as stacks in TIFF are."""
    axes = [{"name": axis} if isinstance(axis, str) else axis for axis in multiscale["axes"]]
    names = [str(axis["name"]).lower() for axis in axes]
    if len(names) != len(shape) or not {"y", "x"} <= set(names) or len(set(names)) != len(names):
        raise ValueError(f"axes must be y, x and others of the array's, got {names} and {shape}")
    y, x, c = names.index("y"), names.index("x"), names.index("c") if "c" in names else None
    stacked = [name for name, n in zip(names, shape, strict=True) if n > 1 and name not in ("y", "x", "c")]
    if stacked or (c is not None and shape[c] > MAX_CHANNELS):
        held = readable(f"{''.join(names).upper()} {shape}")
        raise InputError(
            f"expected one plane, {readable(path)} holds {held}: save the plane to be measured as a file of its own"
        )
    unit, other = (unit_of(str(axes[i].get("unit") or "")) for i in (y, x))
    pixel_size = _pixel_size(multiscale, (y, x), len(names)) if unit is not None and unit == other else None
    return _Plane(y, x, c if c is not None and shape[c] > 1 else None, pixel_size, None if pixel_size is None else unit)


def _pixel_size(multiscale: dict[str, Any], yx: tuple[int, int], axes: int) -> tuple[float, float] | None:
    """Return the size of the largest level's pixels: its own scale, and that of all levels; None if neither is stated."""
    stated = [*multiscale["datasets"][0].get("coordinateTransformations", []), *multiscale.get("coordinateTransformations", [])]
    scales = [step.get("scale", ()) for step in stated if step["type"] == "scale"]
    if not scales or any(len(scale) != axes for scale in scales):
        return None
    tall, wide = (math.prod(float(scale[axis]) for scale in scales) for axis in yx)
    return (tall, wide) if 0 < tall < math.inf and 0 < wide < math.inf else None


def _check_chunks(name: str, asked: list[slice], parts: tuple[int, ...]) -> None:
    count = math.prod(-(-a.stop // n) - a.start // n for a, n in zip(asked, parts, strict=True))
    if count > _MOST_CHUNKS:
        raise InputError(f"{name}: one read would need {count:,} chunks of {parts}, at most {_MOST_CHUNKS:,} are allowed")
