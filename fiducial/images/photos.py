"""Read PNG and JPEG, whole: by Pillow, and PNG of 8 and 16 bits without a palette by imagecodecs.

Pillow would reduce 16 bits to 8, and takes three times the memory of the pixels for a moment.
"""

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
from jaxtyping import Shaped
from PIL import ExifTags
from PIL import Image as PillowImage

from fiducial.images.limits import check_budget, decoding, first_bytes, readable
from fiducial.records import Image, InputError

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

Kind = Callable[[Path | BytesIO], PillowImage.Image]

_CHANNELS = {"1": 1, "L": 1, "LA": 2, "P": 3, "RGB": 3, "RGBA": 4, "CMYK": 3}  # by Pillow's mode, as they are returned
_PLAIN_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by the PNG's type of color
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_TURNING = (b"exif\0", b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts that may state an orientation
_LONGEST_NOTE = _PIECE = 2**20  # bytes; Pillow unpacks no longer ones

# What the EXIF orientations 2 to 8 ask for: whether rows and columns change places, then the axes that are turned over.
_TURNS: Mapping[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}


def open_photo(path: Path, kind: Kind, max_bytes: int) -> Image:
    """Open by the format's own class: it reads the header only, and the budget replaces Pillow's limit on pixels.

    Raises:
        InputError: as `open_image`.
    """
    with decoding(path), kind(_source(path, header=True)) as header:
        # Image's own getexif: that of PNG would decode the pixels to look behind them.
        orientation = PillowImage.Image.getexif(header).get(ExifTags.Base.Orientation, 1)
        (width, height), mode = header.size, header.mode
    depth, plain = _plain_png(path)
    channels = plain or _CHANNELS.get(mode, 0)
    if not channels:
        raise InputError(f"expected gray, RGB, CMYK or palette, {readable(path)} is {mode}: save it as RGB")
    turn = orientation if isinstance(orientation, int) and orientation in _TURNS else 1
    size = (width, height) if turn in _TURNS and _TURNS[turn][0] else (height, width)
    dtype = np.dtype(np.uint16 if plain and depth == 16 else np.uint8)

    @lru_cache(maxsize=1)
    def decode() -> Shaped[np.ndarray, "..."]:
        check_budget(readable(path), (height, width, channels), dtype.itemsize, max_bytes)
        with decoding(path):
            pixels = _decode_png(path, channels) if plain else _decode(path, kind)
            if pixels.shape[:2] != (height, width) or (pixels.shape[2] if pixels.ndim == 3 else 1) != channels:
                raise ValueError(f"its pixels are {pixels.shape}, its header says {(height, width, channels)}")
        return upright(pixels, turn)

    return Image(readable(path.name), size, channels, dtype, lambda w: decode()[w[0] : w[2], w[1] : w[3]].copy())


def upright(pixels: Shaped[np.ndarray, "h w *c"], orientation: int) -> Shaped[np.ndarray, "i j *c"]:
    """Return pixels turned as an EXIF orientation from 1 to 8 says."""
    if orientation not in _TURNS:
        return pixels
    swapped, flipped = _TURNS[orientation]
    return np.flip(pixels.swapaxes(0, 1) if swapped else pixels, flipped)


def _plain_png(path: Path) -> tuple[int, int]:
    """Return the depth and the number of channels of a PNG of 8 or 16 bits without a palette; 0 and 0 for any other file."""
    head = first_bytes(path, 26)
    plain = head.startswith(PNG) and len(head) == 26 and head[24] in (8, 16) and head[25] in _PLAIN_CHANNELS
    return (head[24], _PLAIN_CHANNELS[head[25]]) if plain else (0, 0)


def _source(path: Path, *, header: bool = False) -> Path | BytesIO:
    """Return what Pillow is to open: a PNG without its notes, any other file as it is."""
    return _lean(path, header=header) if first_bytes(path, len(PNG)) == PNG else path


def _lean(path: Path, *, header: bool = False) -> BytesIO:
    """Return a PNG's pixels and palette; of its header, instead of the pixels, what says how it is turned.

    Pillow would refuse the whole file for one long profile or text.
    """
    lean = BytesIO()
    with path.open("rb") as file:
        lean.write(file.read(len(PNG)))
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            begins = file.read(min(length, 24)) if name in _TEXT_CHUNKS else b""
            file.seek(-len(begins), 1)
            note = header and length <= _LONGEST_NOTE and (name == b"eXIf" or begins.startswith(_TURNING))
            if not note and name not in _PIXEL_CHUNKS:
                file.seek(length + 4, 1)
                continue
            lean.write(head)
            if header and name == b"IDAT":
                break
            for start in range(0, length + 4, _PIECE):
                lean.write(file.read(min(_PIECE, length + 4 - start)))
    lean.seek(0)
    return lean


def _decode(path: Path, kind: Kind) -> Shaped[np.ndarray, "..."]:
    with kind(_source(path)) as image:
        if image.mode in ("P", "CMYK"):
            return np.asarray(image.convert("RGB"))
        return np.asarray(image.convert("L") if image.mode == "1" else image)


def _decode_png(path: Path, channels: int) -> Shaped[np.ndarray, "..."]:
    pixels: Shaped[np.ndarray, "..."] = imagecodecs.png_decode(path.read_bytes())
    if pixels.ndim == 3 and channels in (1, 3) and pixels.shape[2] == channels + 1:  # alpha, made of a transparent color
        return pixels[..., 0] if channels == 1 else pixels[..., :3]
    return pixels
