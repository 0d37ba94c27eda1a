"""Write files whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import Image as PillowImage

from fiducial.images.omezarr import SUFFIX as ZARR
from fiducial.images.opening import from_array
from fiducial.images.zarr_writing import write_omezarr
from fiducial.records import InputError


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
    """Write a PNG, a TIFF (OME-TIFF if the pixel size is given) or an OME-Zarr; it appears whole or not at all.

    Raises:
        InputError: the suffix is none of .png, .tif(f) and .zarr; as `write_omezarr`.
    """
    suffix = path.suffix.lower()
    if suffix == ZARR:
        write_omezarr(path, replace(from_array(pixels), pixel_size=pixel_size, unit=unit))
        return
    if suffix not in (".png", ".tif", ".tiff"):
        raise InputError(f"expected a .png, .tif or .ome.zarr to write, got {path.name}")
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
