"""What every collection of hostile files is made of: an entry, drawn pixels, and how bytes are stored.

Truth is known by construction: pixels are drawn, then stored.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

SIZE = (70, 93)
ROTATED = 6  # the EXIF orientation of a camera held upright

Make = Callable[[Path], Path]


@dataclass(frozen=True)
class Entry:
    """A hostile file: how it is written, and its pixels, or what the one line that refuses it says."""

    name: str
    make: Make
    pixels: np.ndarray | None = None
    says: str = ""
    near: float = 0.0  # how far pixels may be off, where the format loses some
    max_bytes: int = 2**26

    def __str__(self) -> str:
        """Name the test."""
        return self.name


def picture(dtype: str = "uint8", channels: int = 1, top: int = 250) -> np.ndarray:
    """Return noise, the same each time."""
    rng = np.random.default_rng(7)
    shape = SIZE if channels == 1 else (*SIZE, channels)
    if dtype.startswith("f"):
        return rng.normal(0, 100, shape).astype(dtype)
    low = -100 if dtype.startswith("int") else 0
    return rng.integers(low, top, shape).astype(dtype)


def smooth() -> np.ndarray:
    """Return a picture in color that JPEG hardly changes."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([2 * y + 20, x + 60, 200 - y], axis=2).astype(np.uint8)


def stored(content: bytes, name: str = "a.png") -> Make:
    """Return what writes bytes under a name."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return make


@cache
def deflated_zeros(count: int) -> bytes:
    """Return zeros, deflated to about a thousandth."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(2**20)) for _ in range(count // 2**20)] + [packer.flush()])


def photo(image: PillowImage.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return a PNG or JPEG by Pillow."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def claims(jpeg: bytes, width: int, height: int) -> bytes:
    """Return a JPEG whose header claims another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


SMOOTH = photo(PillowImage.fromarray(smooth()), "JPEG", quality=95, subsampling=0)
