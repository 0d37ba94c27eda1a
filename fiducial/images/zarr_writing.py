"""Write OME-Zarr by blocks, with several levels; it appears whole or not at all.

Glossary
    level: a copy of the image, each half as large as the one before. reach: of what is written at once, in pixels.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from fiducial.coords import scale_transform
from fiducial.images.limits import readable
from fiducial.images.omezarr import MISSING, is_omezarr
from fiducial.images.stated import UNITS
from fiducial.images.tones import in_type
from fiducial.records import Image, InputError, Progress, Window

CHUNK_PX = 512
REACH_PX = (1024, 4096)
_SMALLEST_PX = 512  # longest side of the last level
_COLORS = ("FF0000", "00FF00", "0000FF")
_NAMES = {short: name for name, short in UNITS.items()}


def write_omezarr(
    path: Path, image: Image, *, classes: bool = False, zarr_format: int = 2, progress: Progress | None = None
) -> None:
    """Write an image, read by windows, as OME-Zarr 0.4 (Zarr 2, which most programs read) or 0.5 (Zarr 3).

    Levels are means over 2 × 2 pixels; with `classes`, the values of every second pixel. NaN stays NaN. Booleans are written as
    0 and 1. A folder that is no OME-Zarr is not replaced.

    Raises:
        InputError: zarr is not installed, or the folder is there and holds something else.
    """
    try:
        import zarr  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise InputError(MISSING) from error
    axes = ["y", "x"] if image.channels == 1 else ["c", "y", "x"]
    sizes = _sizes(image.size)
    steps = [(level, window) for level, size in enumerate(sizes) for window in _windows(size)]
    with _whole_folder(path) as temporary:
        group = zarr.open_group(temporary, mode="w", zarr_format=zarr_format)
        arrays = [_create(group, str(level), (*_leading(image), *size), image.dtype, axes) for level, size in enumerate(sizes)]
        for done, (level, (y0, x0, y1, x1)) in enumerate(steps, start=1):
            if level == 0:
                pixels = image.read((y0, x0, y1, x1))
                block = np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels
            else:
                block = _halved(arrays[level - 1][..., 2 * y0 : 2 * y1, 2 * x0 : 2 * x1], classes=classes)
            arrays[level][..., y0:y1, x0:x1] = block
            if progress is not None:
                progress(done, len(steps))
        group.attrs.update(_metadata(path, image, axes, len(sizes), classes=classes, zarr_format=zarr_format))


def _leading(image: Image) -> tuple[int, ...]:
    return () if image.channels == 1 else (image.channels,)


def _sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    sizes = [size]
    while max(sizes[-1]) > _SMALLEST_PX:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def _windows(size: tuple[int, int]) -> Iterator[Window]:
    for top in range(0, size[0], REACH_PX[0]):
        for left in range(0, size[1], REACH_PX[1]):
            yield top, left, min(top + REACH_PX[0], size[0]), min(left + REACH_PX[1], size[1])


def _create(group: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], axes: list[str]) -> Any:  # noqa: ANN401 (zarr's own types)
    from zarr.codecs import ZstdCodec  # noqa: PLC0415 (an extra)

    kind = np.dtype(np.uint8) if dtype.kind == "b" else dtype
    chunks = tuple([1] * (len(shape) - 2) + [min(CHUNK_PX, side) for side in shape[-2:]])
    if group.metadata.zarr_format == 3:
        return group.create_array(
            name, shape=shape, chunks=chunks, dtype=kind, compressors=[ZstdCodec(level=3)], dimension_names=axes
        )
    separator = {"name": "v2", "separator": "/"}
    return group.create_array(name, shape=shape, chunks=chunks, dtype=kind, chunk_key_encoding=separator)


def _halved(pixels: Shaped[np.ndarray, "*c h w"], *, classes: bool) -> Shaped[np.ndarray, "*c i j"]:
    """Return means over 2 × 2 pixels, those at an odd edge of themselves alone; of classes every second pixel."""
    if classes:
        return pixels[..., ::2, ::2]
    missing = [(0, 0)] * (pixels.ndim - 2) + [(0, side % 2) for side in pixels.shape[-2:]]
    real = np.float64 if pixels.dtype.itemsize > 2 else np.float32
    padded = np.pad(pixels, missing, mode="edge").astype(real)
    means = padded.reshape(*padded.shape[:-2], padded.shape[-2] // 2, 2, -1, 2).mean(axis=(-3, -1))
    return in_type(means, pixels.dtype)


def _metadata(path: Path, image: Image, axes: list[str], levels: int, *, classes: bool, zarr_format: int) -> dict[str, Any]:
    """Return the attributes of the group, as the NGFF specification has them."""
    unit = {} if image.pixel_size is None else {"unit": _NAMES.get(image.unit or "µm", image.unit or "micrometer")}
    stated = [{"name": "c", "type": "channel"} if a == "c" else {"name": a, "type": "space"} | unit for a in axes]
    size, datasets = image.pixel_size or (1.0, 1.0), []
    for level in range(levels):
        factor, ahead = 2.0**level, 0.0 if classes else float(scale_transform(2.0**level)[0, 2])
        ones, zeros = [1.0] * (len(axes) - 2), [0.0] * (len(axes) - 2)
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": [*ones, *(own * factor for own in size)]}]
        steps += [{"type": "translation", "translation": [*zeros, *(own * ahead for own in size)]}] if ahead else []
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    name = path.name.removesuffix(".zarr").removesuffix(".ome")
    multiscale: dict[str, Any] = {"name": name, "axes": stated, "datasets": datasets}
    multiscale |= {"type": "nearest" if classes else "mean"}
    found: dict[str, Any] = {"multiscales": [multiscale]} | _rendering(image)
    if zarr_format == 3:
        return {"ome": {"version": "0.5"} | found}
    multiscale["version"] = "0.4"
    return found


def _rendering(image: Image) -> dict[str, Any]:
    """Return how color in 8 bits is shown; nothing for other images, which viewers stretch."""
    if image.channels not in (3, 4) or image.dtype != np.uint8:
        return {}
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [{"label": f"{'RGB'[i]}", "color": color, "active": True, "window": window} for i, color in enumerate(_COLORS)]
    channels += [{"label": "A", "color": "FFFFFF", "active": False, "window": window}] * (image.channels - 3)
    return {"omero": {"channels": channels, "rdefs": {"model": "color"}}}


@contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to write to; it becomes `path` when all is written and vanishes when anything fails."""
    if path.exists() and not is_omezarr(path):
        raise InputError(f"{readable(path)} is there and no OME-Zarr: choose another name")
    temporary, before = (path.with_name(path.name + ending) for ending in (".part", ".before"))
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(before, ignore_errors=True)
            os.replace(path, before)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if before.exists() and not path.exists():
            os.replace(before, path)
        shutil.rmtree(before, ignore_errors=True)
