"""Write files whole or not at all."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from jaxtyping import Shaped

from fiducial.images.omezarr import SUFFIX as ZARR
from fiducial.images.opening import from_array
from fiducial.images.zarr_writing import write_omezarr
from fiducial.records import Image, InputError


def _plain(value: object) -> object:
    """Return a number of NumPy's as one of Python's, so that it can be written as JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot be written as JSON: {value!r}")


_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=_plain)
# Rows as differences to the row above, packed in a hurry: half the time of a search for the best, and hardly more space.
_PNG_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
_TO_BGR = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
_NOT_IN_OME = ("int64", "uint64", "float16")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; it becomes `path` when all is written and vanishes when anything fails.

    Folders on the way to it are made.
    """
    temporary = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_image(
    path: Path, pixels: Shaped[np.ndarray, "h w *c"], pixel_size: tuple[float, float] | None = None, unit: str = "µm"
) -> None:
    """Write a PNG, a TIFF (OME-TIFF if the pixel size is given) or an OME-Zarr; it appears whole or not at all.

    Booleans are written as 0 and 1, in a PNG as 0 and 255. Integers of 8 bytes and float16, which OME does not know, go into a
    TIFF that states the pixel size in tifffile's own description, where `open_image` finds it.

    Raises:
        InputError: the suffix is none of .png, .tif(f) and .zarr; a PNG's pixels are not gray or RGB(A) of 8 or 16 bits; as
            `from_array` and `write_omezarr`.
    """
    suffix = path.suffix.lower()
    if suffix == ZARR:
        write_omezarr(path, replace(from_array(pixels), pixel_size=pixel_size, unit=unit))
        return
    if suffix not in (".png", ".tif", ".tiff"):
        raise InputError(f"expected a .png, .tif or .ome.zarr to write, got {path.name}")
    with whole_file(path) as temporary:
        if suffix == ".png":
            _write_png(temporary, pixels)
            return
        image = from_array(pixels)
        plain = image.read().astype(np.uint8) if image.dtype.kind == "b" else image.read()
        tifffile.imwrite(temporary, plain, compression="zlib", **tiff_options(image, plain.dtype, pixel_size, unit))


def holds_colors(image: Image) -> bool:
    """Say whether channels are to be written as RGB(A): stains are none, and four must not come back as such."""
    return image.channels in (3, 4) and not image.stains


def tiff_options(
    image: Image, dtype: np.dtype[Any], pixel_size: tuple[float, float] | None, unit: str | None
) -> dict[str, Any]:
    """Return what `tifffile.imwrite` is to be told of an image's channels, which lie interleaved, and of a pixel size."""
    meta: dict[str, str | float] = {"axes": "YX" if image.channels == 1 else "YXS"}
    if pixel_size is not None:
        meta |= {"PhysicalSizeY": pixel_size[0], "PhysicalSizeX": pixel_size[1]}
        meta |= {"PhysicalSizeYUnit": unit or "µm", "PhysicalSizeXUnit": unit or "µm"}
    return {
        "photometric": "rgb" if holds_colors(image) else "minisblack",
        "planarconfig": "contig" if image.channels > 1 else None,
        "ome": pixel_size is not None and dtype.name not in _NOT_IN_OME,
        "metadata": meta,
    }


def _write_png(path: Path, pixels: Shaped[np.ndarray, "h w *c"]) -> None:
    pixels = pixels * np.uint8(255) if pixels.dtype == np.bool_ else pixels
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype not in (np.uint8, np.uint16) or channels not in (1, 3, 4) or not pixels.size:
        raise InputError(f"expected pixels that a PNG can hold, got {pixels.shape} of {pixels.dtype}: write a .tif")
    in_order = cv2.cvtColor(pixels, _TO_BGR[channels]) if channels in _TO_BGR else pixels
    path.write_bytes(cv2.imencode(".png", in_order, _PNG_FAST)[1].tobytes())


def write_text(path: Path, text: str) -> None:
    """Write a text file; it appears whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write an object as JSON with sorted keys and stable numbers: equal values give equal bytes.

    Each of its values begins a line, and where one is a list of objects, each of these: a blob is a line.
    """
    _write_object(path, value)


def write_json_rows(path: Path, value: Mapping[str, object], name: str, rows: Iterable[object]) -> None:
    """Write what `write_json` does of `value` and a list `name` in it; the list's items are made and written one at a time."""
    _write_object(path, {**value, name: iter(rows)})


def _write_object(path: Path, value: Mapping[str, object]) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for i, (name, own) in enumerate(sorted(value.items())):
            file.write(f"{',' if i else '{'}\n {_ENCODER.encode(name)}: ")
            if isinstance(own, Iterator) or (isinstance(own, list) and own and all(isinstance(v, dict) for v in own)):
                file.writelines(_rows(own))
            else:
                file.write(_ENCODER.encode(own))
        file.write("\n}\n" if value else "{}\n")


def _rows(rows: Iterable[object]) -> Iterator[str]:
    before = "["
    for row in rows:
        yield f"{before}\n  {_ENCODER.encode(row)}"
        before = ","
    yield "[]" if before == "[" else "\n ]"
