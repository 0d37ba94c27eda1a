"""Limits that hold for every image, whatever its format, and the one line that is said where they are exceeded."""

import errno
import logging
import math
import stat
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fiducial.records import InputError

MAX_BYTES = 4 * 2**30
MAX_CHANNELS = 16

_LOGGING = ("tifffile", "imagecodecs", "rasterio")  # decoders that note what they find odd in a file
_UNSHOWN = {"Cc", "Cs", "Zl", "Zp"}  # characters that break a line, move the cursor or cannot be encoded


def check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse pixels that are no real numbers; raises InputError."""
    if dtype.kind not in "buif":
        raise InputError(
            f"pixels must be integers, floats or booleans, {name} holds {dtype}: save its real part, or its magnitude"
        )


def check_budget(name: str, shape: tuple[int, ...], itemsize: int, max_bytes: int) -> None:
    """Refuse a read that needs more bytes than the budget; raises InputError."""
    needed = math.prod(shape) * itemsize
    if needed > max_bytes:
        raise InputError(f"{name}: reading {shape} needs {needed:,} bytes, over the budget of {max_bytes:,}: raise --max-bytes")


def readable(name: str | Path) -> str:
    """Return a name on one line, with what no text can hold replaced."""
    text = str(name)
    return "".join("\ufffd" if unicodedata.category(letter) in _UNSHOWN else letter for letter in text)


def first_bytes(path: Path, count: int) -> bytes:
    """Return how a file begins.

    Raises:
        InputError: it cannot be read, or is no regular file: a pipe may never answer, a device never end.
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise InputError(f"expected a file, {readable(path)} is a pipe or a device: save the image to a file first")
        with path.open("rb") as file:
            return file.read(count)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {readable(path)}: {_reason(error)}: check its name and its permissions") from error


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises over a file into one line, and keep its warnings to itself.

    What it logs goes where the program that calls has handlers, and else nowhere, rather than to standard error.

    Raises:
        InputError: the file cannot be read or decoded, or does not fit into memory.
    """
    for name in _LOGGING:
        if not (logger := logging.getLogger(name)).handlers:
            logger.addHandler(logging.NullHandler())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{readable(path)} does not fit into memory: crop it, or save it as a tiled TIFF") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the decoders' own, and offsets below 0
            raise InputError(f"cannot read {readable(path)}: {_reason(error)}: check its name and its permissions") from error
        raise InputError(f"{readable(path)} is damaged ({_reason(error)}): copy or export it again") from error


def _reason(error: Exception) -> str:
    said = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return readable(" ".join(said.split()))[:200]
