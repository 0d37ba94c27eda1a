"""Read TIFF by window: only the strips or tiles that meet it are decoded, by decoders on an allow-list."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import JpegImagePlugin

from fiducial.images.limits import check_budget, check_dtype, decoding, readable
from fiducial.images.pages import count_pages, named_channels, ome_channels, planes, whole_pages
from fiducial.images.stated import are_stains, has_georeference, no_data, physical_size, read_georeference
from fiducial.records import Image, InputError, Window

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

JPEG_IN_TIFF = 7
COMPRESSIONS = {
    1: "none", 5: "LZW", JPEG_IN_TIFF: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "zstd",
}  # fmt: skip
PHOTOMETRICS = {0: "white is zero", 1: "gray", 2: "RGB", 6: "YCbCr"}  # the last in JPEG only, whose decoder makes RGB of it
_WHITE_IS_ZERO, _GRAYS, _YCBCR = 0, (0, 1), 6
_PHOTOMETRIC, _ORIENTATION = 262, 274  # tags
_PLANAR = 2
_ALPHAS = (1, 2)  # kinds of further samples
_SPARE_BYTES = 2**16  # by which an encoded segment may exceed twice the size of what it decodes to


def open_tiff(path: Path, max_bytes: int) -> Image:
    """Open a TIFF; raises InputError as `open_image`."""
    with decoding(path):
        count = count_pages(path)
        with tifffile.TiffFile(path, is_ndpi=False) as tiff:
            if not count or not tiff.pages:
                raise InputError(f"{readable(path)} holds no image: export it again")
            whole = whole_pages(tiff, count)
            page = tiff.pages[whole[0]]
            _check_page(page, path)
            pages = planes(tiff, whole, path)
            pixel_size, unit = physical_size(tiff, page)
            georeferenced = whole[0] == 0 and has_georeference(path, page)  # GDAL reads that of the first
            stains = len(pages) > 1 or _holds_stains(tiff, page)
            size, dtype = (int(page.imagelength), int(page.imagewidth)), np.dtype(page.dtype)
            channels = len(pages) * int(page.samplesperpixel)
            stains = stains and (channels != 3 or are_stains(named_channels(tiff)))

    def read(window: Window) -> Shaped[np.ndarray, "..."]:
        y0, x0, y1, x1 = window
        check_budget(readable(path), (y1 - y0, x1 - x0, channels), dtype.itemsize, max_bytes)
        with decoding(path):
            pixels = _read(path, pages, window, max_bytes)
            if pixels.dtype != dtype or (pixels.shape[2] if pixels.ndim == 3 else 1) != channels:
                raise ValueError(f"it has changed since it was opened: {channels} channels of {dtype}")
        return pixels

    crs, pixel_to_world = read_georeference(path) if georeferenced else (None, None)
    return Image(readable(path.name), size, channels, dtype, read, pixel_size, unit, crs, pixel_to_world, stains)


def _check_page(page: Any, path: Path) -> None:  # noqa: ANN401 (tifffile ships no types)
    """Refuse a page that is not on the allow-list; raises InputError."""
    name = readable(path)
    if page.compression not in COMPRESSIONS:
        allowed = ", ".join(dict.fromkeys(COMPRESSIONS.values()))
        raise InputError(
            f"compression must be one of {allowed}, {name} has {_named(page.compression)}: save it with one of them"
        )
    photometric, turned = page.photometric, page.tags.valueof(_ORIENTATION, 1) not in (0, 1)  # some writers' 0 says nothing
    if photometric not in PHOTOMETRICS or turned or (photometric == _YCBCR and page.compression != JPEG_IN_TIFF):
        found = f"{_named(photometric)}{', turned' * turned}"
        raise InputError(f"expected a gray or RGB TIFF, upright, {name} is {found}: save it so")
    if page.compression == JPEG_IN_TIFF and page.planarconfig == _PLANAR and page.samplesperpixel > 1:
        raise InputError(f"expected colors that lie interleaved, as JPEG, {name} has them in planes: save it interleaved")
    if page.dtype is None or 0 in (page.imagelength, page.imagewidth, page.samplesperpixel):
        raise InputError(f"expected pixels of 8, 16, 32 or 64 bits, or of one, {name} holds none: export it again")
    check_dtype(name, np.dtype(page.dtype))


def _holds_stains(tiff: Any, page: Any) -> bool:  # noqa: ANN401 (tifffile ships no types)
    """Say whether the samples of a gray page are images of their own: none is alpha, and they are more than gray and one.

    Two that lie interleaved may be gray and alpha that is not stated as such, unless OME-XML names them as channels.
    """
    if page.photometric not in _GRAYS or page.samplesperpixel == 1 or any(extra in _ALPHAS for extra in page.extrasamples):
        return False
    return page.samplesperpixel > 2 or page.planarconfig == _PLANAR or ome_channels(tiff) > 1


def _named(number: Any) -> str:  # noqa: ANN401 (tifffile's enumerations, or a number they do not know)
    return str(getattr(number, "name", number))


def _read(path: Path, pages: list[int], window: Window, max_bytes: int) -> Shaped[np.ndarray, "..."]:
    with tifffile.TiffFile(path, is_ndpi=False) as tiff:
        read = [_read_page(tiff, tiff.pages[index], window, max_bytes) for index in pages]
    joined = np.concatenate(read, axis=-1) if len(read) > 1 else read[0]  # (h, w, channels)
    return joined[..., 0] if joined.shape[-1] == 1 else joined


def _read_page(tiff: Any, page: Any, window: Window, max_bytes: int) -> Shaped[np.ndarray, "h w c"]:  # noqa: ANN401 (tifffile ships no types)
    """Return a window of a page; what it states to be no data is NaN where its pixels are floats."""
    if window[2] > page.imagelength or window[3] > page.imagewidth:
        raise ValueError("a page is smaller than the first")
    if page.is_final and page.dataoffsets[0] and (page.planarconfig == 1 or page.samplesperpixel == 1):
        pixels = _read_plain(tiff, page, window)
    else:
        pixels = _read_segments(tiff, page, window, max_bytes)
    if page.photometric == _WHITE_IS_ZERO and _PHOTOMETRIC in page.tags and pixels.dtype.kind in "bu":
        return np.bitwise_xor(pixels, pixels.dtype.type(2**page.bitspersample - 1))  # of 12 bits in 16, those 12
    missing = no_data(page)
    if missing is not None and pixels.dtype.kind == "f":
        pixels[pixels == pixels.dtype.type(missing)] = np.nan
    return pixels


def _read_plain(tiff: Any, page: Any, window: Window) -> Shaped[np.ndarray, "h w c"]:  # noqa: ANN401 (tifffile ships no types)
    """Read a window of pixels that lie in the file as they are, row by row."""
    y0, x0, y1, x1 = window
    wide, samples, stored = page.imagewidth, page.samplesperpixel, np.dtype(tiff.byteorder + page.dtype.char)
    out = np.empty((y1 - y0, (x1 - x0) * samples), stored)
    row_bytes, start = wide * samples * stored.itemsize, page.dataoffsets[0] + x0 * samples * stored.itemsize
    pieces = [out] if x1 - x0 == wide else list(out)
    for number, piece in enumerate(pieces):
        tiff.filehandle.seek(start + (y0 + number) * row_bytes)
        if tiff.filehandle.readinto(piece) != piece.nbytes:
            raise ValueError("its pixels end early")
    return out.reshape(y1 - y0, x1 - x0, samples).astype(page.dtype, copy=False)


def _read_segments(tiff: Any, page: Any, window: Window, max_bytes: int) -> Shaped[np.ndarray, "h w c"]:  # noqa: ANN401 (tifffile ships no types)
    """Decode only the strips or tiles of a page that meet the window."""
    y0, x0, y1, x1 = window
    tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    if tall < 1 or wide < 1:
        raise ValueError(f"strips or tiles must have an area, got {tall} × {wide}")
    # The last strip may be shorter than the others, a tile may not.
    segment = (tall if page.is_tiled else min(tall, page.imagelength), wide, samples)
    check_budget(f"a strip or tile of {readable(tiff.filename)}", segment, page.dtype.itemsize, max_bytes)
    most = 2 * segment[0] * wide * samples * page.dtype.itemsize + _SPARE_BYTES
    out = np.full((y1 - y0, x1 - x0, page.samplesperpixel), _fill(page), page.dtype)
    for index in _segments_in(page, window, tall, wide):
        if index >= min(len(page.dataoffsets), len(page.databytecounts)):
            raise ValueError(f"segment {index} is missing")
        if not (page.databytecounts[index] and page.dataoffsets[index]):
            continue
        pixels, sample, (top, left) = _decode(tiff, page, index, most)
        _paste(out, pixels, (top - y0, left - x0), sample if page.planarconfig == _PLANAR else None)
    return out


def _fill(page: Any) -> float:  # noqa: ANN401 (tifffile ships no types)
    """Return what pixels hold that are not stored: the value for no data, if their type can hold it, else 0."""
    stated, dtype = no_data(page), np.dtype(page.dtype)
    if stated is None or dtype.kind == "f":
        return stated or 0
    held = dtype.kind in "iu" and stated.is_integer() and np.iinfo(dtype).min <= stated <= np.iinfo(dtype).max
    return stated if held else 0


def _decode(tiff: Any, page: Any, index: int, most: int) -> tuple[np.ndarray, int, tuple[int, int]]:  # noqa: ANN401 (tifffile ships no types)
    """Return a strip or tile (h, w, c), its plane, and where it lies; `most` is how many bytes it may take in the file."""
    stored = int(page.databytecounts[index])
    if stored > most:
        raise ValueError(f"segment {index} takes {stored:,} bytes, more than its pixels can")
    tiff.filehandle.seek(int(page.dataoffsets[index]))
    encoded = tiff.filehandle.read(stored)
    tables = {}
    if page.compression == JPEG_IN_TIFF:
        _check_jpeg(encoded, page)
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
    pixels, (sample, _, top, left, _), (_, height, width, _) = page.decode(encoded, index, **tables)
    if pixels is None or pixels.dtype != page.dtype:
        raise ValueError(f"segment {index} does not decode to {page.dtype}")
    return pixels[0, :height, :width], sample, (top, left)


def _check_jpeg(encoded: bytes, page: Any) -> None:  # noqa: ANN401 (tifffile ships no types)
    """Refuse a JPEG that is larger than the strip or tile which it fills: its decoder would believe it."""
    tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    with JpegImagePlugin.JpegImageFile(BytesIO(encoded)) as header:
        width, height = header.size
    if width > wide or height > tall:
        raise ValueError(f"a strip or tile of {tall} × {wide} px holds a JPEG of {height} × {width} px")


def _segments_in(page: Any, window: Window, tall: int, wide: int) -> Iterator[int]:  # noqa: ANN401 (tifffile ships no types)
    y0, x0, y1, x1 = window
    down, across = -(-page.imagelength // tall), -(-page.imagewidth // wide)
    for plane in range(page.samplesperpixel if page.planarconfig == _PLANAR else 1):
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
