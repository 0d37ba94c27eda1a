"""Write keypoints and read them back.

CSV: one row per point. JSON: the whole record. GeoJSON: points, x before y. PNG: the overlay, over black.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fiducial.drawing import draw_keypoints
from fiducial.formats.parts import (
    matrix_from_json,
    pair_from_json,
    placed_to_json,
    point_collection,
    point_columns,
    provenance_from_json,
    provenance_to_json,
    read_record,
)
from fiducial.images import write_image, write_json, write_text
from fiducial.records import InputError, Keypoints

FORMATS = (".csv", ".json", ".geojson", ".png")


def save_keypoints(record: Keypoints, path: Path) -> None:
    """Write keypoints in the format that the suffix names.

    Raises:
        InputError: an unknown suffix.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        write_json(path, keypoints_to_json(record))
    elif suffix == ".csv":
        write_text(path, keypoints_to_frame(record).to_csv(index=False, lineterminator="\n"))
    elif suffix == ".geojson":
        write_json(path, keypoints_to_geojson(record))
    elif suffix == ".png":
        write_image(path, np.asarray(draw_keypoints(record, None)))
    else:
        raise InputError(f"expected one of {', '.join(FORMATS)}, got {path.name}")


def keypoints_to_frame(record: Keypoints) -> pd.DataFrame:
    """Return one row per point, best first: place and score; also in the image's unit and on its map, if any."""
    columns: dict[str, Any] = {"y_px": record.yx[:, 0], "x_px": record.yx[:, 1], "score": record.score}
    return pd.DataFrame(columns | point_columns(record, record.yx))


def keypoints_to_json(record: Keypoints) -> dict[str, Any]:
    """Return a record as JSON values; `keypoints_from_json` reads it back. Descriptors are rounded to 6 digits."""
    rows = zip(record.yx.tolist(), record.score.tolist(), record.descriptor.astype(np.float64).round(6).tolist(), strict=True)
    return {
        "format": "fiducial.keypoints/1",
        "image": record.image,
        "size_yx": list(record.size),
        "count": len(record),
        "descriptor_length": record.descriptor.shape[1],
        "keypoints": [{"yx": yx, "score": score, "descriptor": descriptor} for yx, score, descriptor in rows],
        "provenance": provenance_to_json(record.provenance),
    } | placed_to_json(record)


def keypoints_from_json(path: str | Path) -> Keypoints:
    """Read a record that `keypoints_to_json` described; descriptors come back to 6 digits.

    Raises:
        InputError: not such a file.
    """
    return read_record(path, "keypoints", _keypoints_from)


def _keypoints_from(stated: dict[str, Any]) -> Keypoints:
    points, length = stated["keypoints"], stated["descriptor_length"]
    if stated["count"] != len(points):
        raise ValueError(f"count must be the number of points listed, got {stated['count']} and {len(points)}")
    height, width = stated["size_yx"]
    return Keypoints(
        yx=np.array([point["yx"] for point in points], np.float64).reshape(len(points), 2),
        score=np.array([point["score"] for point in points], np.float64).reshape(len(points)),
        descriptor=np.array([point["descriptor"] for point in points], np.float32).reshape(len(points), length),
        image=stated["image"],
        size=(height, width),
        pixel_size=pair_from_json(stated["pixel_size_yx"]),
        unit=stated["unit"],
        crs=stated["crs"],
        pixel_to_world=matrix_from_json(stated["pixel_to_world"]),
        provenance=provenance_from_json(stated["provenance"]),
    )


def keypoints_to_geojson(record: Keypoints) -> dict[str, Any]:
    """Return GeoJSON points: in map coordinates where the image has them, else in pixels from its corner.

    Map coordinates are those of the image's reference system, which is named as GeoJSON of 2008 did, by its WKT; readers that
    know later GeoJSON alone expect longitude and latitude.
    """
    properties = [{"image": record.image, "score": score} for score in record.score.tolist()]
    return point_collection(record, record.yx, properties)
