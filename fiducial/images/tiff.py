"""Read TIFF by window: only the strips or tiles that meet it are decoded."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from jaxtyping import Shaped

from fiducial.images.limits import MAX_CHANNELS, check_budget, check_dtype, readable
from fiducial.images.stated import physical_size, read_georeference
from fiducial.records import Image, InputError, Window

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GEO_KEYS = 34735


def open_tiff(path: Path, max_bytes: int) -> Image:
    """Open a TIFF; raises InputError as `open_image`."""
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            page = series.keyframe
            pages = len(series.pages)
            axes, shape = series.axes, series.shape
            samples, pixel_size, unit = page.samplesperpixel, *physical_size(tiff)
            georeferenced = _GEO_KEYS in page.tags
            size, dtype = (page.imagelength, page.imagewidth), page.dtype
            photometric, turned = page.photometric.name, page.tags.valueof("Orientation", 1) != 1
    except Exception as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if dtype is None or 0 in size:
        raise InputError(f"{path} holds no pixels")
    check_dtype(path.name, np.dtype(dtype))
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB", "YCBCR") or turned:
        raise InputError(f"expected a gray or RGB TIFF, upright, {path} is {photometric}{', turned' * turned}")
    stacked = "".join(a for a, n in zip(axes, shape, strict=True) if a not in "YXS" and n > 1)
    if stacked not in ("", "C", "I" if pages == 1 else "C") or max(pages, samples) > MAX_CHANNELS:
        raise InputError(f"expected one plane, {path} holds {axes} {shape}: save the plane to be measured as a file of its own")
    channels = pages * samples if stacked == "C" else samples

    def read(window: Window) -> Shaped[np.ndarray, "..."]:
        y0, x0, y1, x1 = window
        check_budget(path.name, (y1 - y0, x1 - x0, channels), dtype.itemsize, max_bytes)
        pixels = _read_tiff(path, window, max_bytes)
        return np.bitwise_not(pixels) if photometric == "MINISWHITE" and pixels.dtype.kind in "bu" else pixels

    crs, pixel_to_world = read_georeference(path) if georeferenced else (None, None)
    return Image(readable(path), size, channels, np.dtype(dtype), read, pixel_size, unit, crs, pixel_to_world)


def _read_tiff(path: Path, window: Window, max_bytes: int) -> Shaped[np.ndarray, "..."]:
    try:
        with tifffile.TiffFile(path) as tiff:
            planes = [_read_page(tiff, page, window, max_bytes) for page in tiff.series[0].pages]
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} is damaged: {error}") from error
    joined = np.concatenate(planes, axis=-1)  # (h, w, channels)
    return joined[..., 0] if joined.shape[-1] == 1 else joined


def _read_page(tiff: Any, page: Any, window: Window, max_bytes: int) -> Shaped[np.ndarray, "h w c"]:  # noqa: ANN401 (tifffile ships no types)
    """Decode only the strips or tiles of a page that meet the window."""
    page = page.aspage() if hasattr(page, "aspage") else page
    key = page.keyframe
    y0, x0, y1, x1 = window
    if key.is_memmappable and (key.planarconfig == 1 or key.samplesperpixel == 1):
        shape = (key.imagelength, key.imagewidth, key.samplesperpixel)
        stored = np.dtype(tiff.byteorder + key.dtype.char)
        mapped = np.memmap(tiff.filehandle.path, stored, "r", page.dataoffsets[0], shape)
        return mapped[y0:y1, x0:x1].astype(key.dtype)
    out = np.full((y1 - y0, x1 - x0, key.samplesperpixel), key.nodata, key.dtype)
    tables = {"jpegtables": key.jpegtables, "jpegheader": key.jpegheader} if key.compression in (6, 7, 34892) else {}
    tall, wide = (key.tilelength, key.tilewidth) if key.is_tiled else (key.rowsperstrip, key.imagewidth)
    check_budget(tiff.filename, (min(tall, key.imagelength), wide, key.samplesperpixel), key.dtype.itemsize, max_bytes)
    for index in _segments_in(key, window, tall, wide):
        if index >= len(page.dataoffsets):
            raise ValueError(f"segment {index} is missing")
        if not page.databytecounts[index]:
            continue
        tiff.filehandle.seek(page.dataoffsets[index])
        data = tiff.filehandle.read(page.databytecounts[index])
        pixels, (sample, _, top, left, _), (_, height, width, _) = key.decode(data, index, **tables)
        if pixels is None:
            continue
        _paste(out, pixels[0, :height, :width], (top - y0, left - x0), sample if key.planarconfig == 2 else None)
    return out


def _segments_in(key: Any, window: Window, tall: int, wide: int) -> Iterator[int]:  # noqa: ANN401 (tifffile ships no types)
    y0, x0, y1, x1 = window
    down, across = -(-key.imagelength // tall), -(-key.imagewidth // wide)
    for plane in range(key.samplesperpixel if key.planarconfig == 2 else 1):
        for row in range(y0 // tall, -(-y1 // tall)):
            for column in range(x0 // wide, -(-x1 // wide)):
                yield (plane * down + row) * across + column


def _paste(out: np.ndarray, pixels: np.ndarray, at_yx: tuple[int, int], sample: int | None) -> None:
    (top, left), (height, width) = at_yx, pixels.shape[:2]
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(out.shape[0], top + height), min(out.shape[1], left + width)
    part = pixels[y0 - top : y1 - top, x0 - left : x1 - left]
    if sample is None:
        out[y0:y1, x0:x1] = part
    else:
        out[y0:y1, x0:x1, sample] = part[..., 0]
