"""Write registrations and read them back.

CSV: one row per tie point. JSON: the whole record; both matrices alone. GeoJSON: tie points on the fixed image, x before y.
Points: ground control points for QGIS's georeferencer, which counts pixels from the image's corner and y upwards, so that rows
are negative. Text: what is known of the error. PNG: the tie points, over black.
"""

import warnings
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from pandas.errors import ParserWarning

from fiducial.coords import Matrix, apply_transform, corner_xy_to_yx, facing, image_center_yx, yx_to_corner_xy
from fiducial.drawing import draw_registration
from fiducial.formats.parts import (
    map_xy,
    matrix_from_json,
    matrix_to_json,
    number_from_json,
    number_to_json,
    pair_from_json,
    placed_to_json,
    point_collection,
    point_columns,
    provenance_from_json,
    provenance_to_json,
    read_record,
    table_with_answer,
)
from fiducial.images import write_image, write_json, write_text
from fiducial.records import InputError, Registration

FORMATS = (".csv", ".json", ".transform.json", ".geojson", ".points", ".txt", ".png")

_FRAME = "pixels, (x, y, 1), center of the first pixel at 0, 0"
_QGIS_CRS = "#CRS: "


def save_registration(record: Registration, path: Path) -> None:
    """Write a registration in the format that the name's ending tells.

    Raises:
        InputError: an unknown ending.
    """
    name = path.name.lower()
    if name.endswith(".transform.json"):
        write_json(path, transform_to_json(record))
    elif name.endswith(".json"):
        write_json(path, registration_to_json(record))
    elif name.endswith(".csv"):
        write_text(path, table_with_answer(record, tie_points_to_frame(record)))
    elif name.endswith(".geojson"):
        write_json(path, tie_points_to_geojson(record))
    elif name.endswith(".points"):
        write_text(path, tie_points_to_qgis(record))
    elif name.endswith(".txt"):
        write_text(path, error_report(record))
    elif name.endswith(".png"):
        write_image(path, np.asarray(draw_registration(record, None, None)))
    else:
        raise InputError(f"expected one of {', '.join(FORMATS)}, got {path.name}")


def tie_points_to_frame(record: Registration) -> pd.DataFrame:
    """Return one row per tie point: its place in both images and its residual; in the fixed one's unit and map, too, if any."""
    columns: dict[str, Any] = {
        "moving_y_px": record.moving_yx[:, 0],
        "moving_x_px": record.moving_yx[:, 1],
        "fixed_y_px": record.fixed_yx[:, 0],
        "fixed_x_px": record.fixed_yx[:, 1],
        "residual_px": record.residual_px,
    }
    return pd.DataFrame(columns | point_columns(record, record.fixed_yx, "fixed_"))


def transform_to_json(record: Registration) -> dict[str, Any]:
    """Return both matrices as JSON values, null where nothing was found, and what they lie between."""
    return {
        "format": "fiducial.transform/1",
        "frame": _FRAME,
        "moving": record.moving,
        "fixed": record.fixed,
        "moving_size_yx": list(record.moving_size),
        "fixed_size_yx": list(record.fixed_size),
        "model": record.model,
        "answer": record.answer,
        "accepted": record.accepted,
        "reason": record.reason,
        "score": record.score,
        "within_px": record.within_px,
        "error_px": number_to_json(record.error_px),
        "moving_to_fixed": matrix_to_json(record.moving_to_fixed),
        "fixed_to_moving": matrix_to_json(record.fixed_to_moving),
        "crs": record.crs,
        "fixed_pixel_to_world": matrix_to_json(record.pixel_to_world),
    }


def registration_to_json(record: Registration) -> dict[str, Any]:
    """Return a record as JSON values, null for NaN; `registration_from_json` reads it back."""
    rows = zip(record.moving_yx.tolist(), record.fixed_yx.tolist(), record.residual_px.tolist(), strict=True)
    return {
        "format": "fiducial.registration/1",
        "moving": record.moving,
        "fixed": record.fixed,
        "moving_size_yx": list(record.moving_size),
        "fixed_size_yx": list(record.fixed_size),
        "moving_to_fixed": matrix_to_json(record.moving_to_fixed),
        "model": record.model,
        "error_px": number_to_json(record.error_px),
        "held_out_px": number_to_json(record.held_out_px),
        "return_px": number_to_json(record.return_px),
        "score": record.score,
        "within_px": record.within_px,
        "answer": record.answer,
        "accepted": record.accepted,
        "reason": record.reason,
        "start": record.start,
        "correction_yx": None if record.correction is None else list(record.correction),
        "tie_points": [
            {"moving_yx": moving, "fixed_yx": fixed, "residual_px": number_to_json(residual)}
            for moving, fixed, residual in rows
        ],
        "provenance": provenance_to_json(record.provenance),
    } | placed_to_json(record)


def registration_from_json(path: str | Path) -> Registration:
    """Read a record that `registration_to_json` described.

    Raises:
        InputError: not such a file.
    """
    return read_record(path, "registration", _registration_from)


def _registration_from(stated: dict[str, Any]) -> Registration:
    ties = stated["tie_points"]
    (moving_h, moving_w), (fixed_h, fixed_w) = stated["moving_size_yx"], stated["fixed_size_yx"]
    return Registration(
        moving_to_fixed=matrix_from_json(stated["moving_to_fixed"]),
        model=stated["model"],
        moving_yx=np.array([tie["moving_yx"] for tie in ties], np.float64).reshape(len(ties), 2),
        fixed_yx=np.array([tie["fixed_yx"] for tie in ties], np.float64).reshape(len(ties), 2),
        residual_px=np.array([number_from_json(tie["residual_px"]) for tie in ties], np.float64),
        error_px=number_from_json(stated["error_px"]),
        held_out_px=number_from_json(stated["held_out_px"]),
        return_px=number_from_json(stated["return_px"]),
        score=stated["score"],
        within_px=stated["within_px"],
        accepted=stated["accepted"],
        reason=stated["reason"],
        start=stated["start"],
        correction=pair_from_json(stated["correction_yx"]),
        moving=stated["moving"],
        fixed=stated["fixed"],
        moving_size=(moving_h, moving_w),
        fixed_size=(fixed_h, fixed_w),
        pixel_size=pair_from_json(stated["pixel_size_yx"]),
        unit=stated["unit"],
        crs=stated["crs"],
        pixel_to_world=matrix_from_json(stated["pixel_to_world"]),
        provenance=provenance_from_json(stated["provenance"]),
    )


def tie_points_to_geojson(record: Registration) -> dict[str, Any]:
    """Return tie points as GeoJSON: on the fixed image's map if it has one, else in its pixels from its corner.

    Those of a refused answer are listed, too, and say that it was not accepted. The reference system is named as GeoJSON of
    2008 did, by its WKT; readers that know later GeoJSON alone expect longitude and latitude.
    """
    rows = zip(record.moving_yx.tolist(), record.residual_px.tolist(), strict=True)
    properties = [
        {
            "moving": record.moving,
            "fixed": record.fixed,
            "moving_y": y,
            "moving_x": x,
            "residual_px": number_to_json(residual),
            "accepted": record.accepted,
        }
        for (y, x), residual in rows
    ]
    return point_collection(record, record.fixed_yx, properties)


def tie_points_to_qgis(record: Registration) -> str:
    """Return ground control points for QGIS's georeferencer, opened on the moving image; switched off if it was refused.

    The target is the fixed image's map, or without one its pixels as QGIS counts them. Residuals are in pixels of the moving
    image, as QGIS shows them.
    """
    source = _to_qgis(record.moving_yx)
    target = _to_qgis(record.fixed_yx) if record.pixel_to_world is None else map_xy(record, record.fixed_yx)
    back = record.fixed_to_moving
    apart = np.full(source.shape, np.nan) if back is None else apply_transform(back, record.fixed_yx) - record.moving_yx
    table = pd.DataFrame(
        {
            "mapX": target[:, 0],
            "mapY": target[:, 1],
            "sourceX": source[:, 0],
            "sourceY": source[:, 1],
            "enable": int(record.accepted),
            "dX": apart[:, 1],
            "dY": apart[:, 0],
            "residual": np.hypot(apart[:, 0], apart[:, 1]),
        }
    )
    crs = "" if record.crs is None else _QGIS_CRS + " ".join(line.strip() for line in record.crs.splitlines()) + "\n"
    return crs + table.to_csv(index=False, lineterminator="\n")


def _to_qgis(yx: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    return yx_to_corner_xy(yx) * (1, -1)


def tie_points_from_qgis(path: str | Path) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "n 2"]]:
    """Read QGIS's ground control points: yx in pixels of the image to be moved, and x, y of the map; switched off or not.

    Raises:
        InputError: not such a file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParserWarning)  # rows that go on: only their first four numbers are asked for
            table = pd.read_csv(StringIO(text.partition("\n")[2] if text.startswith(_QGIS_CRS) else text), index_col=False)
        map_and_source = table.iloc[:, :4].to_numpy(np.float64)
        if map_and_source.shape[1] != 4 or not np.isfinite(map_and_source).all():
            raise ValueError(f"expected four numbers in each row, its columns are {list(table.columns)}")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a file of QGIS's control points: {error!r}") from error
    return corner_xy_to_yx(map_and_source[:, 2:] * (1, -1)), map_and_source[:, :2]


def error_report(record: Registration) -> str:
    """Return what is known of the error, for people."""
    outcome = "accepted" if record.accepted else f"refused: {record.reason}"
    lines = [
        ("moving image", f"{record.moving} ({record.moving_size[0]} × {record.moving_size[1]} px)"),
        ("fixed image", f"{record.fixed} ({record.fixed_size[0]} × {record.fixed_size[1]} px)"),
        ("answer", outcome),
        ("probability", f"{record.score:.3f} that the mean error is under {record.within_px:.3g} px"),
        ("mean error", f"{_length(record, record.error_px)}, as estimated"),
        ("held-out points", f"{_length(record, record.held_out_px)} off, in the median"),
        ("way back", f"{_length(record, record.return_px)} off, in the mean"),
        ("tie points", f"{len(record)}" + (f", residual {_residual(record)}" if len(record) else "")),
        ("start", record.start),
        ("model", record.model),
        *_at_center(record),
    ]
    if record.correction is not None:
        dy, dx = record.correction
        lines.append(("correction", f"{dx:+.6g} in x, {dy:+.6g} in y, map units, to what the files' georeference states"))
    lines.append(("made with", f"fiducial {record.provenance.version}, weights {record.provenance.weights}"))
    return "".join(f"{name + ':':<17}{text}\n" for name, text in lines)


def _residual(record: Registration) -> str:
    return f"{_length(record, float(np.median(record.residual_px)))} in the median, {record.residual_px.max():.2f} px at most"


def _length(record: Registration, px: float) -> str:
    """Return a length in pixels of the fixed image, and in its unit or on its map, where pixels of equal area are square."""
    if np.isnan(px):
        return "undefined"
    told = f"{px:.2f} px"
    if record.pixel_size is not None:
        told += f" ({px * np.sqrt(record.pixel_size[0] * record.pixel_size[1]):.4g} {record.unit or 'µm'})"
    if record.pixel_to_world is not None:
        told += f" ({px * np.sqrt(np.abs(np.linalg.det(record.pixel_to_world[:2, :2]))):.4g} map units)"
    return told


def placement(record: Registration) -> dict[str, float]:
    """Return scale, angle (from x towards y) and shift of the transform at the moving image's center; nothing without one."""
    if record.moving_to_fixed is None:
        return {}
    center = np.array([image_center_yx(record.moving_size)])
    moved = apply_transform(record.moving_to_fixed, center)
    linear = _linear_at_center(record.moving_to_fixed, record.moving_size, moved[0])
    dy, dx = (moved - center)[0].tolist()
    return {
        "scale": float(np.sqrt(np.abs(np.linalg.det(linear)))),
        "angle_deg": float(np.rad2deg(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))),
        "shift_y_px": dy,
        "shift_x_px": dx,
    }


def _at_center(record: Registration) -> list[tuple[str, str]]:
    own = placement(record)
    if not own:
        return [("transform", "none was found")]
    return [
        ("scale", f"{own['scale']:.5g} px of the fixed image per px of the moving one, at its center"),
        ("angle", f"{own['angle_deg']:.3f}° from x towards y"),
        ("shift", f"{own['shift_y_px']:+.2f} px in y, {own['shift_x_px']:+.2f} px in x of the moving image's center"),
    ]


def _linear_at_center(matrix: Matrix, size: tuple[int, int], moved_yx: Float64[np.ndarray, "2"]) -> Float64[np.ndarray, "2 2"]:
    """Return the transform's derivative on (x, y) at the center of the image of `size`."""
    scaled = facing(matrix, size)
    return scaled[:2, :2] - np.outer(moved_yx[::-1], scaled[2, :2])
