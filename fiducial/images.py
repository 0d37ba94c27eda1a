"""Read and write images: PNG and JPEG by Pillow, TIFF and OME-TIFF by tifffile, georeference by rasterio if installed.

Files from strangers are read header first: the format by its first bytes, never by the name, from a short allow-list; the
size of the region to be decoded is checked against a budget in bytes before anything is decoded.
"""

import json
import math
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from jaxtyping import Float32, Shaped
from PIL import Image as PillowImage
from PIL import ImageOps, JpegImagePlugin, PngImagePlugin

from fiducial.coords import from_corner_frame
from fiducial.records import Image, InputError, Window

MAX_BYTES = 4 * 2**30
MAX_CHANNELS = 16

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GEO_KEYS = 34735
_UNITS = {
    "µm": "µm",
    "um": "µm",
    "micron": "µm",
    "microns": "µm",
    "\\u00B5m": "µm",
    "nm": "nm",
    "mm": "mm",
    "cm": "cm",
    "m": "m",
}


def open_image(path: str | Path, max_bytes: int = MAX_BYTES) -> Image:
    """Open an image file; pixels are decoded when they are read.

    PNG and JPEG are decoded whole at the first read and turned as their EXIF orientation says; TIFF is read by window.

    Raises:
        InputError: not a file, not a PNG, JPEG or TIFF, damaged, more than one plane, or a read over the budget.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if head.startswith(_PNG):
        return _open_pillow(path, PngImagePlugin.PngImageFile, max_bytes)
    if head.startswith(_JPEG):
        return _open_pillow(path, JpegImagePlugin.JpegImageFile, max_bytes)
    if head.startswith(_TIFF):
        return _open_tiff(path, max_bytes)
    raise InputError(f"expected a PNG, JPEG or TIFF image, {path} is none of them" + (" (it is empty)" if not head else ""))


def as_image(source: str | Path | Shaped[np.ndarray, "..."] | Image, max_bytes: int = MAX_BYTES) -> Image:
    """Return an `Image` for a path, an array (H, W) or (H, W, C), or an `Image`.

    Raises:
        InputError: as `open_image`, or an array that is no image.
    """
    if isinstance(source, Image):
        return source
    if isinstance(source, np.ndarray):
        return from_array(source)
    return open_image(source, max_bytes)


def from_array(array: Shaped[np.ndarray, "..."]) -> Image:
    """Wrap an array (H, W) or (H, W, C) as an image.

    Raises:
        InputError: not two- or three-dimensional, empty, too many channels, or not of a real number type.
    """
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] > MAX_CHANNELS):
        raise InputError(
            f"an image array must be (H, W) or (H, W, C) with C ≤ {MAX_CHANNELS}, none of them 0, got {array.shape}"
        )
    _check_dtype("the array", array.dtype)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    channels = 1 if array.ndim == 2 else array.shape[2]
    size = (array.shape[0], array.shape[1])
    return Image("array", size, channels, array.dtype, lambda w: array[w[0] : w[2], w[1] : w[3]])


def _check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "buif":
        raise InputError(f"pixels must be integers, floats or booleans, {name} holds {dtype}")


def _check_budget(name: str, shape: tuple[int, ...], itemsize: int, max_bytes: int) -> None:
    needed = math.prod(shape) * itemsize
    if needed > max_bytes:
        raise InputError(f"{name}: reading {shape} needs {needed:,} bytes, over the budget of {max_bytes:,}: raise --max-bytes")


def _open_pillow(path: Path, kind: Callable[[Path], PillowImage.Image], max_bytes: int) -> Image:
    """Open by the format's own class: it reads the header only, and the budget replaces Pillow's limit on pixels."""
    try:
        with kind(path) as header:
            turned = header.getexif().get(0x0112, 1) >= 5 and _png_depth(path) != 16  # 16-bit PNG is taken as stored
            size = (header.width, header.height) if turned else (header.height, header.width)
            mode = header.mode
    except Exception as error:
        raise InputError(f"{path} is damaged: {error}") from error
    deep_color = _png_depth(path) == 16 and mode in ("RGB", "RGBA")
    channels = {"RGB": 3, "RGBA": 4, "P": 3, "CMYK": 3, "YCbCr": 3, "LA": 2}.get(mode, 1)
    dtype = np.dtype(np.uint16 if deep_color or mode.startswith("I") else np.uint8)

    @lru_cache(maxsize=1)
    def decode() -> Shaped[np.ndarray, "..."]:
        _check_budget(path.name, (*size, channels), dtype.itemsize, max_bytes)
        return _decode_deep_png(path) if deep_color else _decode_pillow(path, kind, mode)

    return Image(_readable(path), size, channels, dtype, lambda w: decode()[w[0] : w[2], w[1] : w[3]])


def _readable(path: Path) -> str:
    """Return a file's name with what no text can hold replaced."""
    return path.name.encode("utf-8", "replace").decode()


def _png_depth(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(26)
    return head[24] if head.startswith(_PNG) and len(head) == 26 else 8


def _decode_pillow(path: Path, kind: Callable[[Path], PillowImage.Image], mode: str) -> Shaped[np.ndarray, "..."]:
    try:
        with kind(path) as image:
            upright = ImageOps.exif_transpose(image)
            if mode in ("P", "CMYK", "YCbCr"):
                upright = upright.convert("RGB")
            elif mode == "1":
                upright = upright.convert("L")
            array = np.asarray(upright)
    except Exception as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return array.astype(np.uint16) if mode.startswith("I") else array


def _decode_deep_png(path: Path) -> Shaped[np.ndarray, "..."]:
    """Decode 16-bit color, which Pillow would reduce to 8 bits, by OpenCV."""
    array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise InputError(f"{path} is damaged")
    return cv2.cvtColor(array, cv2.COLOR_BGRA2RGBA if array.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _open_tiff(path: Path, max_bytes: int) -> Image:
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            page = series.keyframe
            pages = len(series.pages)
            axes, shape = series.axes, series.shape
            samples, pixel_size, unit = page.samplesperpixel, *_physical_size(tiff)
            georeferenced = _GEO_KEYS in page.tags
            size, dtype = (page.imagelength, page.imagewidth), page.dtype
            photometric, turned = page.photometric.name, page.tags.valueof("Orientation", 1) != 1
    except Exception as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if dtype is None or 0 in size:
        raise InputError(f"{path} holds no pixels")
    _check_dtype(path.name, np.dtype(dtype))
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB", "YCBCR") or turned:
        raise InputError(f"expected a gray or RGB TIFF, upright, {path} is {photometric}{', turned' * turned}")
    stacked = "".join(a for a, n in zip(axes, shape, strict=True) if a not in "YXS" and n > 1)
    if stacked not in ("", "C", "I" if pages == 1 else "C") or max(pages, samples) > MAX_CHANNELS:
        raise InputError(f"expected one plane, {path} holds {axes} {shape}: save the plane to be measured as a file of its own")
    channels = pages * samples if stacked == "C" else samples

    def read(window: Window) -> Shaped[np.ndarray, "..."]:
        y0, x0, y1, x1 = window
        _check_budget(path.name, (y1 - y0, x1 - x0, channels), dtype.itemsize, max_bytes)
        pixels = _read_tiff(path, window, max_bytes)
        return np.bitwise_not(pixels) if photometric == "MINISWHITE" and pixels.dtype.kind in "bu" else pixels

    crs, pixel_to_world = _read_georeference(path) if georeferenced else (None, None)
    return Image(_readable(path), size, channels, np.dtype(dtype), read, pixel_size, unit, crs, pixel_to_world)


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
    _check_budget(tiff.filename, (min(tall, key.imagelength), wide, key.samplesperpixel), key.dtype.itemsize, max_bytes)
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


def _physical_size(tiff: Any) -> tuple[tuple[float, float] | None, str | None]:  # noqa: ANN401 (tifffile ships no types)
    """Read the pixel's height and width and their unit from OME-XML or ImageJ's description; a bare dpi is not trusted."""
    if tiff.is_ome and tiff.ome_metadata:
        for element in ET.fromstring(tiff.ome_metadata).iter():
            if element.tag.endswith("}Pixels") and "PhysicalSizeX" in element.attrib:
                wide = float(element.attrib["PhysicalSizeX"])
                tall = float(element.attrib.get("PhysicalSizeY", wide))
                if min(tall, wide) > 0 and max(tall, wide) < math.inf:
                    return (tall, wide), element.attrib.get("PhysicalSizeXUnit", "µm")
    unit = _UNITS.get((tiff.imagej_metadata or {}).get("unit", "")) if tiff.is_imagej else None
    tags = tiff.pages[0].tags
    if unit and "XResolution" in tags and "YResolution" in tags:
        (xn, xd), (yn, yd) = tags["XResolution"].value, tags["YResolution"].value
        if xn and yn:
            return (yd / yn, xd / xn), unit
    return None, None


def _read_georeference(path: Path) -> tuple[str | None, np.ndarray | None]:
    try:
        import rasterio  # noqa: PLC0415 (an extra)
    except ImportError:
        return None, None
    try:
        with rasterio.open(path) as source:
            corner_to_world = np.array(source.transform, dtype=np.float64).reshape(3, 3)
            crs = source.crs.to_wkt() if source.crs else None
    except rasterio.errors.RasterioError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return crs, from_corner_frame(corner_to_world)


def to_gray(pixels: Shaped[np.ndarray, "h w *c"], name: str) -> Float32[np.ndarray, "h w"]:
    """Return intensities in the file's own scale: luminance (ITU-R BT.601) of color, without alpha.

    Raises:
        InputError: the image has channels that are not gray or color.
    """
    if pixels.ndim == 2:
        return pixels.astype(np.float32)
    channels = pixels.shape[2]
    if channels == 2:
        return pixels[..., 0].astype(np.float32)
    if channels in (3, 4):
        return cv2.cvtColor(np.ascontiguousarray(pixels[..., :3].astype(np.float32)), cv2.COLOR_RGB2GRAY)
    raise InputError(f"expected gray or RGB(A), {name} has {channels} channels: save the channel to be measured by itself")


def read_reduced(image: Image, longest_px: int, undefined: float = 0.0) -> Float32[np.ndarray, "h w"]:
    """Return the gray values of a whole image, averaged so that no side exceeds `longest_px`, read band by band.

    NaN and infinite values count as `undefined`.
    """
    (h, w), factor = image.size, min(1.0, longest_px / max(image.size))
    size = (max(1, round(h * factor)), max(1, round(w * factor)))
    edges = [round(i * h / size[0]) for i in range(size[0] + 1)]
    step = max(1, 2**24 // (w * max(1, h // size[0])))
    bands = []
    for first in range(0, size[0], step):
        last = min(first + step, size[0])
        gray = to_gray(image.read((edges[first], 0, edges[last], w)), image.name)
        band = np.where(np.isfinite(gray), gray, np.float32(undefined))
        bands.append(band if factor == 1 else cv2.resize(band, (size[1], last - first), interpolation=cv2.INTER_AREA))
    return np.concatenate(bands)


def intensity_range(image: Image) -> tuple[float, float]:
    """Return the 1st and 99th percentile of a whole image's gray values, from about a million evenly spread pixels.

    Where they coincide, as in a mostly empty picture, the least and the largest value serve.

    Raises:
        InputError: constant, or without a finite value.
    """
    values = sample_gray(image)
    low, high = (float(v) for v in np.percentile(values, [1, 99]))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        raise InputError(f"expected an image with structure, {image.name} is constant ({low:g})")
    return low, high


def sample_gray(image: Image, most: int = 1_000_000) -> Float32[np.ndarray, " n"]:
    """Return about `most` gray values, evenly spread over a whole image, without those that are not finite.

    The extremes are among them, so that few bright pixels of a large image do not go unseen.

    Raises:
        InputError: no value is finite.
    """
    h, w = image.size
    step = max(1, math.isqrt(h * w // most))
    rows = max(1, min(h, 2**22 // max(w, 1)))
    parts = []
    for top in range(0, h, rows):
        gray = to_gray(image.read((top, 0, min(top + rows, h), w)), image.name)
        parts.append(gray[-top % step :: step, ::step].ravel())
        finite = gray[np.isfinite(gray)]
        if step > 1 and len(finite):
            parts.append(np.array([finite.min(), finite.max()], np.float32))
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    if not len(values):
        raise InputError(f"expected an image with finite values, {image.name} has none")
    return values


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to; it becomes `path` when all is written and vanishes when anything fails."""
    temporary = path.with_name(path.name + ".part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_image(
    path: Path, pixels: Shaped[np.ndarray, "h w *c"], pixel_size: tuple[float, float] | None = None, unit: str = "µm"
) -> None:
    """Write a PNG or a TIFF (OME-TIFF if the pixel size is given); the file appears whole or not at all.

    Raises:
        InputError: the suffix is neither .png nor .tif(f).
    """
    suffix = path.suffix.lower()
    if suffix not in (".png", ".tif", ".tiff"):
        raise InputError(f"expected a .png or .tif file to write, got {path.name}")
    with whole_file(path) as temporary:
        if suffix == ".png":
            PillowImage.fromarray(pixels).save(temporary, format="PNG")
            return
        meta: dict[str, str | float] = {"axes": "YX" if pixels.ndim == 2 else "YXS"}
        if pixel_size is not None:
            meta |= {"PhysicalSizeY": pixel_size[0], "PhysicalSizeX": pixel_size[1]}
            meta |= {"PhysicalSizeYUnit": unit, "PhysicalSizeXUnit": unit}
        tifffile.imwrite(temporary, pixels, compression="zlib", ome=pixel_size is not None, metadata=meta)


def write_text(path: Path, text: str) -> None:
    """Write a text file; it appears whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys and stable numbers: equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
