"""Read PNG and JPEG, whole, by Pillow."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Shaped
from PIL import Image as PillowImage
from PIL import ImageOps

from fiducial.images.limits import check_budget, readable
from fiducial.records import Image, InputError

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


def open_photo(path: Path, kind: Callable[[Path], PillowImage.Image], max_bytes: int) -> Image:
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
        check_budget(path.name, (*size, channels), dtype.itemsize, max_bytes)
        return _decode_deep_png(path) if deep_color else _decode_pillow(path, kind, mode)

    return Image(readable(path), size, channels, dtype, lambda w: decode()[w[0] : w[2], w[1] : w[3]])


def _png_depth(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(26)
    return head[24] if head.startswith(PNG) and len(head) == 26 else 8


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
