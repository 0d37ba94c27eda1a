"""Parts of files that records of several kinds share: where points lie, what an answer was made with, JSON read back."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float64

from fiducial.coords import Matrix, apply_transform, yx_to_corner_xy
from fiducial.records import NEGATIVE, Blobs, Defects, InputError, Keypoints, Places, Provenance, Registration

RecordT = TypeVar("RecordT")
Mapped = Places | Blobs | Defects | Keypoints | Registration  # whose points lie in an image with a pixel size, or on a map


def unit_name(record: Mapped) -> str:
    """Return the record's unit as names of columns have it, in letters that every keyboard has."""
    return (record.unit or "µm").replace("µ", "u")


def point_columns(record: Mapped, yx: Float64[np.ndarray, "n 2"], name: str = "") -> dict[str, Float64[np.ndarray, " n"]]:
    """Return points in the unit, if the record states a pixel size, and on the map, if it has one; `name` begins each column's.

    Both are counted as pixels are: the center of pixel (0, 0) lies at 0 in the unit.
    """
    columns: dict[str, Float64[np.ndarray, " n"]] = {}
    if record.pixel_size is not None:
        unit = unit_name(record)
        columns |= {f"{name}y_{unit}": yx[:, 0] * record.pixel_size[0], f"{name}x_{unit}": yx[:, 1] * record.pixel_size[1]}
    if record.pixel_to_world is not None:
        world = apply_transform(record.pixel_to_world, yx)
        columns |= {f"{name}map_x": world[:, 1], f"{name}map_y": world[:, 0]}
    return columns


def map_xy(record: Mapped, yx: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    """Return points as x, y: in map coordinates where the record has them, else in pixels from the image's corner."""
    if record.pixel_to_world is None:
        return yx_to_corner_xy(yx)
    return apply_transform(record.pixel_to_world, yx)[:, ::-1]


def feature_collection(record: Mapped, features: list[dict[str, Any]]) -> dict[str, Any]:
    """Return GeoJSON that tells the answer and names the reference system, if any, as GeoJSON of 2008 did, by its WKT."""
    named = {} if record.crs is None else {"crs": {"type": "name", "properties": {"name": record.crs}}}
    told = {} if isinstance(record, Keypoints) else answer_to_json(record)
    return {"type": "FeatureCollection", "features": features} | told | named


def answer_to_json(record: Blobs | Defects | Places | Registration) -> dict[str, str]:
    """Return the answer in a word and why it is no other, for files that other programs read too."""
    return {"answer": record.answer} | ({} if isinstance(record, Blobs) else {"reason": record.reason})


def table_with_answer(record: Defects | Places | Registration, frame: pd.DataFrame) -> str:
    """Return a table as CSV with the answer in a last column; a negative one without rows gets a row that says nothing else.

    So a table without rows always means that there is nothing to list.
    """
    negative = record.answer in NEGATIVE
    rows = frame.reindex([0]) if negative and frame.empty else frame
    return rows.assign(answer=record.answer).to_csv(index=False, lineterminator="\n")


def point_collection(record: Mapped, yx: Float64[np.ndarray, "n 2"], properties: list[dict[str, Any]]) -> dict[str, Any]:
    """Return points as GeoJSON, as `map_xy` places them, each with its properties."""
    return feature_collection(record, list(point_features(record, yx, properties)))


def point_features(
    record: Mapped, yx: Float64[np.ndarray, "n 2"], properties: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the points of `point_collection`, one at a time."""
    for stated, xy in zip(properties, map_xy(record, yx).tolist(), strict=True):
        yield {"type": "Feature", "properties": stated, "geometry": {"type": "Point", "coordinates": xy}}


def placed_to_json(record: Mapped) -> dict[str, Any]:
    """Return the pixel size, unit and map of the image in which a record's points lie as JSON values."""
    return {
        "pixel_size_yx": None if record.pixel_size is None else list(record.pixel_size),
        "unit": record.unit,
        "crs": record.crs,
        "pixel_to_world": matrix_to_json(record.pixel_to_world),
    }


def pair_from_json(stated: list[float] | None) -> tuple[float, float] | None:
    """Return two numbers; raises ValueError where there are more or fewer."""
    if stated is None:
        return None
    first, second = stated
    return first, second


def provenance_to_json(provenance: Provenance) -> dict[str, Any]:
    """Return what an answer was made with as JSON values."""
    return {
        "version": provenance.version,
        "weights": provenance.weights,
        "sha256": provenance.sha256,
        "parameters": dict(provenance.parameters),
    }


def provenance_from_json(stated: dict[str, Any]) -> Provenance:
    """Return what `provenance_to_json` described; the parameters come in the file's order, which is that of their names."""
    return Provenance(stated["version"], stated["weights"], stated["sha256"], tuple(stated["parameters"].items()))


def matrix_to_json(matrix: Matrix | None) -> list[list[float]] | None:
    """Return a transform's rows."""
    return None if matrix is None else matrix.tolist()


def matrix_from_json(rows: list[list[float]] | None) -> Matrix | None:
    """Return the transform of these rows."""
    return None if rows is None else np.array(rows, np.float64)


def number_to_json(value: float) -> float | None:
    """Return a number; null for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def number_from_json(stated: float | None) -> float:
    """Return the number that `number_to_json` described."""
    return math.nan if stated is None else float(stated)


def read_record(path: str | Path, kind: str, build: Callable[[dict[str, Any]], RecordT]) -> RecordT:
    """Read a JSON file that states its format, and build the record; whatever does not fit becomes an InputError."""
    try:
        stated = json.loads(Path(path).read_text(encoding="utf-8"))
        if stated["format"] != f"fiducial.{kind}/1":
            raise InputError(f"expected format fiducial.{kind}/1, {path} states {stated['format']!r}")
        return build(stated)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a record of {kind}: {error!r}") from error
