"""What a TIFF states of its pixels: their size, their place on a map, and which value stands for no data."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from fiducial.coords import from_corner_frame
from fiducial.images.limits import decoding, readable
from fiducial.images.pages import ome_pixels
from fiducial.records import InputError

GEO_TAGS = (34735, 33922, 34264)  # GeoTIFF's keys, tie points and transform: where none is, GDAL knows of no map
_NO_DATA = 42113

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


def physical_size(tiff: Any) -> tuple[tuple[float, float] | None, str | None]:  # noqa: ANN401 (tifffile ships no types)
    """Read the pixel's height and width and their unit from OME-XML or ImageJ's description.

    Neither a bare dpi is trusted, nor sides in two units.
    """
    stated = ome_pixels(tiff)
    if stated is not None and "PhysicalSizeX" in stated.attrib:
        wide = float(stated.attrib["PhysicalSizeX"])
        tall = float(stated.attrib.get("PhysicalSizeY", wide))
        named = stated.attrib.get("PhysicalSizeXUnit", "µm")
        alike = "PhysicalSizeY" not in stated.attrib or stated.attrib.get("PhysicalSizeYUnit", "µm") == named
        if alike and 0 < tall < math.inf and 0 < wide < math.inf:
            return (tall, wide), readable(named.replace("\u03bc", "µ"))
    unit = _UNITS.get(str((tiff.imagej_metadata or {}).get("unit", ""))) if tiff.is_imagej else None
    tags = tiff.pages[0].tags
    if unit and "XResolution" in tags and "YResolution" in tags:
        (xn, xd), (yn, yd) = tags["XResolution"].value, tags["YResolution"].value
        if min(xn, xd, yn, yd) > 0:
            return (yd / yn, xd / xn), unit
    return None, None


def no_data(page: Any) -> float | None:  # noqa: ANN401 (tifffile ships no types)
    """Return the value that a page states to stand for no data; None if it states none that is a number."""
    stated = page.tags.valueof(_NO_DATA)
    try:
        return None if stated is None else float(str(stated).strip().replace(",", "."))
    except ValueError:
        return None


def read_georeference(path: Path) -> tuple[str | None, np.ndarray | None]:
    """Return the reference system as WKT, if there is one, and the transform from pixels to the map.

    None of both where the file states no transform (control points are none), and where rasterio is not installed.

    Raises:
        InputError: a transform that has no inverse, or a header that GDAL cannot read.
    """
    try:
        import rasterio  # noqa: PLC0415 (an extra)
    except ImportError:
        return None, None
    with decoding(path), rasterio.open(path, driver="GTiff") as source:
        corner_to_world = np.array(source.transform, dtype=np.float64).reshape(3, 3)
        crs = source.crs.to_wkt() if source.crs else None
    if np.array_equal(corner_to_world, np.eye(3)):  # what GDAL says of a file without one
        return None, None
    if not (np.isfinite(corner_to_world).all() and abs(np.linalg.det(corner_to_world)) > 0):
        raise InputError(f"{readable(path)} states a map on which its pixels have no area: mend its georeference")
    return crs, from_corner_frame(corner_to_world)
