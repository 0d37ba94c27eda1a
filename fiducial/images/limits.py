"""Limits that hold for every image, whatever its format."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from fiducial.records import InputError

MAX_BYTES = 4 * 2**30
MAX_CHANNELS = 16


def check_dtype(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse pixels that are no real numbers; raises InputError."""
    if dtype.kind not in "buif":
        raise InputError(f"pixels must be integers, floats or booleans, {name} holds {dtype}")


def check_budget(name: str, shape: tuple[int, ...], itemsize: int, max_bytes: int) -> None:
    """Refuse a read that needs more bytes than the budget; raises InputError."""
    needed = math.prod(shape) * itemsize
    if needed > max_bytes:
        raise InputError(f"{name}: reading {shape} needs {needed:,} bytes, over the budget of {max_bytes:,}: raise --max-bytes")


def readable(path: Path) -> str:
    """Return a file's name with what no text can hold replaced."""
    return path.name.encode("utf-8", "replace").decode()
