"""Write places and read them back.

CSV: one row per place. JSON: the whole record. GeoJSON: outlines, x before y. PNG: the overlay, over black.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from fiducial.coords import apply_transform, image_center_yx
from fiducial.drawing import draw_places
from fiducial.formats.parts import (
    feature_collection,
    map_xy,
    matrix_from_json,
    pair_from_json,
    placed_to_json,
    point_columns,
    provenance_from_json,
    provenance_to_json,
    read_record,
    table_with_answer,
)
from fiducial.images import write_image, write_json, write_text
from fiducial.records import InputError, Places

FORMATS = (".csv", ".json", ".geojson", ".png")


def save_places(record: Places, path: Path) -> None:
    """Write places in the format that the suffix names.

    Raises:
        InputError: an unknown suffix.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        write_json(path, places_to_json(record))
    elif suffix == ".csv":
        write_text(path, table_with_answer(record, places_to_frame(record)))
    elif suffix == ".geojson":
        write_json(path, places_to_geojson(record))
    elif suffix == ".png":
        write_image(path, np.asarray(draw_places(record, None, None)))
    else:
        raise InputError(f"expected one of {', '.join(FORMATS)}, got {path.name}")


def places_to_frame(record: Places) -> pd.DataFrame:
    """Return one row per place: center, scale, angle, shift, corners; points also in the source's unit and on its map, if any.

    The shift is where the center of the query's first pixel lies. The corners 0 to 3 are the query's top left, top right,
    bottom right and bottom left.
    """
    center = _centers(record)
    columns: dict[str, Any] = {
        "probability": record.score.round(4),
        "correlation": record.correlation.round(4),
        "y_px": center[:, 0],
        "x_px": center[:, 1],
        "scale": record.scale,
        "angle_deg": record.angle_deg,
        "shift_y_px": record.query_to_source[:, 1, 2],
        "shift_x_px": record.query_to_source[:, 0, 2],
    }
    points = {"": center} | {f"corner{i}_": record.corners_yx[:, i] for i in range(4)}
    for name, yx in points.items():
        if name:
            columns |= {f"{name}y_px": yx[:, 0], f"{name}x_px": yx[:, 1]}
        columns |= point_columns(record, yx, name)
    return pd.DataFrame(columns)


def _centers(record: Places) -> Float64[np.ndarray, "n 2"]:
    middle = np.array([image_center_yx(record.query_size)])
    return np.array([apply_transform(matrix, middle)[0] for matrix in record.query_to_source]).reshape(-1, 2)


def places_to_json(record: Places) -> dict[str, Any]:
    """Return a record as JSON values; `places_from_json` reads it back."""
    return {
        "format": "fiducial.places/1",
        "query": record.query,
        "source": record.source,
        "query_size_yx": list(record.query_size),
        "source_size_yx": list(record.source_size),
        "answer": record.answer,
        "found": record.found,
        "reason": record.reason,
        "scales": list(record.scales),
        "places": [
            {"score": score, "correlation": correlation, "corners_yx": corners, "query_to_source": matrix}
            for score, correlation, corners, matrix in zip(
                record.score.tolist(),
                record.correlation.tolist(),
                record.corners_yx.tolist(),
                record.query_to_source.tolist(),
                strict=True,
            )
        ],
        "provenance": provenance_to_json(record.provenance),
    } | placed_to_json(record)


def places_from_json(path: str | Path) -> Places:
    """Read a record that `places_to_json` described.

    Raises:
        InputError: not such a file.
    """
    return read_record(path, "places", _places_from)


def _places_from(stated: dict[str, Any]) -> Places:
    places = stated["places"]
    return Places(
        corners_yx=np.array([place["corners_yx"] for place in places], np.float64).reshape(-1, 4, 2),
        score=np.array([place["score"] for place in places], np.float64),
        query_to_source=np.array([place["query_to_source"] for place in places], np.float64).reshape(-1, 3, 3),
        correlation=np.array([place["correlation"] for place in places], np.float64),
        found=stated["found"],
        reason=stated["reason"],
        query=stated["query"],
        source=stated["source"],
        query_size=tuple(stated["query_size_yx"]),
        source_size=tuple(stated["source_size_yx"]),
        scales=tuple(stated["scales"]),
        pixel_size=pair_from_json(stated["pixel_size_yx"]),
        unit=stated["unit"],
        crs=stated["crs"],
        pixel_to_world=matrix_from_json(stated["pixel_to_world"]),
        provenance=provenance_from_json(stated["provenance"]),
    )


def places_to_geojson(record: Places) -> dict[str, Any]:
    """Return outlines as GeoJSON polygons: in map coordinates where the source has them, else in pixels from its corner.

    Each says whether the query was found; those of a query that was not are listed, too.
    Map coordinates are those of the source's reference system, which is named as GeoJSON of 2008 did, by its WKT; readers that
    know later GeoJSON alone expect longitude and latitude.
    """
    features = []
    for i, corners in enumerate(record.corners_yx):
        ring = map_xy(record, corners)[[0, 1, 2, 3, 0]].tolist()
        properties = {
            "query": record.query,
            "source": record.source,
            "found": record.found,
            "probability": float(record.score[i]),
            "scale": float(record.scale[i]),
            "angle_deg": float(record.angle_deg[i]),
        }
        features.append({"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}})
    return feature_collection(record, features)
