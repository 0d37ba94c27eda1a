"""What a TIFF states of the size of its pixels and of its place on a map."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np

from fiducial.coords import from_corner_frame
from fiducial.records import InputError

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
    """Read the pixel's height and width and their unit from OME-XML or ImageJ's description; a bare dpi is not trusted."""
    if tiff.is_ome and tiff.ome_metadata:
        for element in ET.fromstring(tiff.ome_metadata).iter():
            if element.tag.endswith("}Pixels") and "PhysicalSizeX" in element.attrib:
                wide = float(element.attrib["PhysicalSizeX"])
                tall = float(element.attrib.get("PhysicalSizeY", wide))
                if min(tall, wide) > 0 and max(tall, wide) < math.inf:
                    return (tall, wide), element.attrib.get("PhysicalSizeXUnit", "µm")
    unit = _UNITS.get((tiff.imagej_metadata or {}).get("unit", "")) if tiff.is_imagej else None
    tags = tiff.pages[0].tags
    if unit and "XResolution" in tags and "YResolution" in tags:
        (xn, xd), (yn, yd) = tags["XResolution"].value, tags["YResolution"].value
        if xn and yn:
            return (yd / yn, xd / xn), unit
    return None, None


def read_georeference(path: Path) -> tuple[str | None, np.ndarray | None]:
    """Return the reference system as WKT and the transform from pixels to the map, where rasterio is installed."""
    try:
        import rasterio  # noqa: PLC0415 (an extra)
    except ImportError:
        return None, None
    try:
        with rasterio.open(path) as source:
            corner_to_world = np.array(source.transform, dtype=np.float64).reshape(3, 3)
            crs = source.crs.to_wkt() if source.crs else None
    except rasterio.errors.RasterioError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return crs, from_corner_frame(corner_to_world)
