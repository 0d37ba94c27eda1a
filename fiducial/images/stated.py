"""What a TIFF states of its pixels: their size, their place on a map, and which value stands for no data."""

import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fiducial.coords import from_corner_frame
from fiducial.images.limits import decoding, readable
from fiducial.images.pages import ome_pixels
from fiducial.records import InputError

_GEO_TAGS = (34735, 33922, 34264)  # GeoTIFF's keys, tie points and transform
_NO_DATA = 42113

# Symbols of units by their name in NGFF.
UNITS = {
    "picometer": "pm", "angstrom": "Å", "nanometer": "nm", "micrometer": "µm", "millimeter": "mm", "centimeter": "cm",
    "meter": "m", "kilometer": "km", "inch": "in",
}  # fmt: skip
_SPELLED = {"um": "µm", "micron": "µm", "inches": "in", "angstroem": "Å", "ångström": "Å"}
_COLOR = re.compile(r"|r|g|b|red|green|blue|rgb|(c|ch|chan|channel)?[ :_#-]*\d*(/\d+)?")
_NO_LENGTH = {"", "pixel", "px", "pix", "reference frame", "referenceframe"}


def unit_of(stated: str) -> str | None:
    """Return a unit by its symbol, however it is spelled, or as it is if it is unknown; None for pixels and OME's own frame."""
    text = stated.strip().replace("\\u00B5", "µ").replace("\u03bc", "µ").replace("\u212b", "Å")
    names = [text.lower(), text.lower().removesuffix("s").replace("metre", "meter")]
    if _NO_LENGTH & set(names):
        return None
    return next((known[name] for name in names for known in (_SPELLED, UNITS) if name in known), readable(text))


def are_stains(names: Iterable[str]) -> bool:
    """Say whether three channels of these names are no colors: one is named, and neither as a color nor by its number."""
    return any(_COLOR.fullmatch(name.strip().lower()) is None for name in names)


def physical_size(tiff: Any, page: Any) -> tuple[tuple[float, float] | None, str | None]:  # noqa: ANN401 (tifffile ships no types)
    """Read the pixel's height and width and their unit from OME-XML, or the description of ImageJ or of tifffile.

    Neither a bare dpi is trusted, nor sides in two units.
    """
    stated = _stated_sides(tiff, page)
    if "PhysicalSizeX" in stated:
        wide = _number(stated["PhysicalSizeX"])
        tall = _number(stated.get("PhysicalSizeY", stated["PhysicalSizeX"]))
        named = unit_of(stated.get("PhysicalSizeXUnit", "µm"))
        alike = "PhysicalSizeY" not in stated or unit_of(stated.get("PhysicalSizeYUnit", "µm")) == named
        if named and alike and 0 < tall < math.inf and 0 < wide < math.inf:
            return (tall, wide), named
    unit = unit_of(str((tiff.imagej_metadata or {}).get("unit", ""))) if tiff.is_imagej else None
    if unit in UNITS.values() and "XResolution" in page.tags and "YResolution" in page.tags:
        (xn, xd), (yn, yd) = page.tags["XResolution"].value, page.tags["YResolution"].value
        if min(xn, xd, yn, yd) > 0:
            return (yd / yn, xd / xn), unit
    return None, None


def _stated_sides(tiff: Any, page: Any) -> Mapping[str, str]:  # noqa: ANN401 (tifffile ships no types)
    """Return what OME-XML states of the pixels, or tifffile's description by the same names."""
    if (stated := ome_pixels(tiff)) is not None:
        return stated.attrib
    told = page.shaped_description
    return {name: str(value) for name, value in json.loads(told).items()} if told and told.startswith("{") else {}


def no_data(page: Any) -> float | None:  # noqa: ANN401 (tifffile ships no types)
    """Return the value that a page states to stand for no data; None if it states none that is a number."""
    stated = page.tags.valueof(_NO_DATA)
    try:
        return None if stated is None else float(str(stated).strip().replace(",", "."))
    except ValueError:
        return None


def _number(stated: str) -> float:
    try:
        return float(stated)
    except ValueError:
        return math.nan


def has_georeference(path: Path, page: Any) -> bool:  # noqa: ANN401 (tifffile ships no types)
    """Say whether a page, or a file beside it, may state a map: GDAL need not look at other files."""
    return any(tag in page.tags for tag in _GEO_TAGS) or bool(map_files(path))


def map_files(path: Path) -> list[Path]:
    """Return the files beside an image that may state its map: world files, and GDAL's notes."""
    names = (*(f"{path.with_suffix('')}{ending}" for ending in (".tfw", ".wld", f"{path.suffix}w")), f"{path}.aux.xml")
    return [Path(name) for name in names if os.path.exists(name)]


@lru_cache(maxsize=1)
def _warn_once() -> None:
    warnings.warn("maps of GeoTIFFs are not read, rasterio is not installed: pip install 'fiducial[geo]'", stacklevel=1)


def read_georeference(path: Path) -> tuple[str | None, np.ndarray | None]:
    """Return the reference system as WKT, if there is one, and the transform from pixels to the map.

    None of both where the file states no transform (control points are none), and, with a warning, where rasterio is not
    installed.

    Raises:
        InputError: a transform that has no inverse, or a header that GDAL cannot read.
    """
    try:
        import rasterio  # noqa: PLC0415 (an extra)
    except ImportError:
        _warn_once()
        return None, None
    with decoding(path), rasterio.open(path, driver="GTiff") as source:
        corner_to_world = np.array(source.transform, dtype=np.float64).reshape(3, 3)
        crs = source.crs.to_wkt() if source.crs else None
    if np.array_equal(corner_to_world, np.eye(3)):  # what GDAL says of a file without one
        return None, None
    if not (np.isfinite(corner_to_world).all() and abs(np.linalg.det(corner_to_world)) > 0):
        raise InputError(f"{readable(path)} states a map on which its pixels have no area: mend its georeference")
    return crs, from_corner_frame(corner_to_world)
