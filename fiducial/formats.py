"""Write records in the formats that people use, and read them back.

CSV: one row per defect or place. JSON: the whole record, masks as run lengths. COCO: boxes x, y, width, height from the
image's corner. GeoJSON: outlines, x before y. TIFF: the mask of classes. PNG: an overlay. Each file appears whole or not at
all.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int, Shaped

from fiducial.coords import apply_transform, image_center_yx, pixel_edges_to_yx, yx_to_pixel_edges
from fiducial.drawing import draw_defects, draw_places
from fiducial.images import write_image, write_json, write_text
from fiducial.records import Defects, InputError, Places, Provenance
from fiducial.regions import from_run_lengths, label_regions, run_lengths, window_run_lengths

RecordT = TypeVar("RecordT")

FORMATS = (".csv", ".json", ".coco.json", ".tif", ".tiff", ".png")


def save_defects(record: Defects, path: Path) -> None:
    """Write a record in the format that the suffix names.

    Raises:
        InputError: an unknown suffix.
    """
    name = path.name.lower()
    if name.endswith(".coco.json"):
        write_json(path, defects_to_coco([record]))
    elif name.endswith(".json"):
        write_json(path, defects_to_json(record))
    elif name.endswith(".csv"):
        write_text(path, defects_to_frame(record).to_csv(index=False, lineterminator="\n"))
    elif name.endswith((".tif", ".tiff")):
        write_image(path, record.mask, record.pixel_size, record.unit or "µm")
    elif name.endswith(".png"):
        write_image(path, np.asarray(draw_defects(record, None)))
    else:
        raise InputError(f"expected one of {', '.join(FORMATS)}, got {path.name}")


def defects_to_frame(record: Defects) -> pd.DataFrame:
    """Return one row per defect; with a physical pixel size also its area in square units."""
    box = record.boxes_yxyx
    frame = pd.DataFrame(
        {
            "class": [record.classes[k - 1] for k in record.label.tolist()],
            "probability": record.score.round(4),
            "y_px": box[:, [0, 2]].mean(axis=1),
            "x_px": box[:, [1, 3]].mean(axis=1),
            "y0_px": box[:, 0],
            "x0_px": box[:, 1],
            "y1_px": box[:, 2],
            "x1_px": box[:, 3],
            "area_px": record.area_px,
        }
    )
    if record.pixel_size is not None:
        frame[f"area_{record.unit or 'unit'}2"] = record.area_px * record.pixel_size[0] * record.pixel_size[1]
    return frame


def defects_to_json(record: Defects) -> dict[str, Any]:
    """Return the whole record as JSON values."""
    return {
        "format": "fiducial.defects/1",
        "sample": record.sample,
        "template": record.template,
        "size_yx": list(record.size),
        "pixel_size": None if record.pixel_size is None else list(record.pixel_size),
        "unit": record.unit,
        "crs": record.crs,
        "pixel_to_world": _rows(record.pixel_to_world),
        "verdict": record.verdict,
        "reason": record.reason,
        "template_to_sample": _rows(record.template_to_sample),
        "alignment_score": _number(record.alignment_score),
        "coverage": record.coverage,
        "classes": list(record.classes),
        "defects": [
            {"box_yxyx": box, "label": label, "class": record.classes[label - 1], "score": score, "area_px": area}
            for box, label, score, area in zip(
                record.boxes_yxyx.tolist(), record.label.tolist(), record.score.tolist(), record.area_px.tolist(), strict=True
            )
        ],
        "mask": {str(k): run_lengths(record.mask == k) for k in np.unique(record.mask[record.mask > 0]).tolist()},
        "provenance": _made(record.provenance),
    }


def _made(provenance: Provenance) -> dict[str, Any]:
    return {
        "version": provenance.version,
        "weights": provenance.weights,
        "sha256": provenance.sha256,
        "parameters": dict(provenance.parameters),
    }


def _rows(matrix: Shaped[np.ndarray, "3 3"] | None) -> list[list[float]] | None:
    return None if matrix is None else matrix.tolist()


def _matrix(rows: list[list[float]] | None) -> Shaped[np.ndarray, "3 3"] | None:
    return None if rows is None else np.array(rows, np.float64)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def defects_from_json(path: Path) -> Defects:
    """Read a record that `defects_to_json` described.

    Raises:
        InputError: not such a file.
    """
    return _read_record(path, "defects", _defects_from)


def _read_record(path: Path, kind: str, build: Callable[[dict[str, Any]], RecordT]) -> RecordT:
    """Read a JSON file that states its format, and build the record; whatever does not fit becomes an InputError."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        if stated["format"] != f"fiducial.{kind}/1":
            raise InputError(f"expected format fiducial.{kind}/1, {path} states {stated['format']!r}")
        return build(stated)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a record of {kind}: {error!r}") from error


def _defects_from(stated: dict[str, Any]) -> Defects:
    size, defects, made = tuple(stated["size_yx"]), stated["defects"], stated["provenance"]
    mask = np.zeros(size, np.uint8)
    for label, lengths in stated["mask"].items():
        mask[from_run_lengths(lengths, size)] = int(label)
    pixel_size = stated["pixel_size"]
    return Defects(
        mask=mask,
        boxes_yxyx=np.array([d["box_yxyx"] for d in defects], np.float64).reshape(-1, 4),
        label=np.array([d["label"] for d in defects], np.int64),
        score=np.array([d["score"] for d in defects], np.float64),
        area_px=np.array([d["area_px"] for d in defects], np.int64),
        classes=tuple(stated["classes"]),
        template_to_sample=_matrix(stated["template_to_sample"]),
        alignment_score=float("nan") if stated["alignment_score"] is None else stated["alignment_score"],
        coverage=stated["coverage"],
        verdict=stated["verdict"],
        reason=stated["reason"],
        sample=stated["sample"],
        template=stated["template"],
        pixel_size=None if pixel_size is None else (pixel_size[0], pixel_size[1]),
        unit=stated["unit"],
        crs=stated["crs"],
        pixel_to_world=_matrix(stated["pixel_to_world"]),
        provenance=_provenance(made),
    )


def _provenance(stated: dict[str, Any]) -> Provenance:
    return Provenance(stated["version"], stated["weights"], stated["sha256"], tuple(stated["parameters"].items()))


def defects_to_coco(records: list[Defects]) -> dict[str, Any]:
    """Return images, annotations (boxes, run-length masks, scores) and categories as COCO has them."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, start=1):
        images.append({"id": number, "file_name": record.sample, "height": record.size[0], "width": record.size[1]})
        edges = yx_to_pixel_edges(record.boxes_yxyx).tolist()
        regions = label_regions(record.mask > 0)
        for i, region in enumerate(_regions_of(record, regions.boxes_yxyx, regions.area_px).tolist()):
            y0, x0, y1, x1 = edges[i]
            counts = window_run_lengths(regions.pixels(region), regions.window(region), record.size)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(record.label[i]),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(record.area_px[i]),
                    "segmentation": {"size": list(record.size), "counts": counts},
                    "iscrowd": 0,
                    "score": float(record.score[i]),
                }
            )
    names = records[0].classes if records else ()
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _regions_of(
    record: Defects, boxes_yxyx: Shaped[np.ndarray, "n 4"], area_px: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " k"]:
    """Return which region of the mask is which defect: the one of its area whose box lies most snugly in the defect's."""
    low, high = np.minimum, np.maximum
    out = np.zeros(len(record), np.int64)
    for i, box in enumerate(record.boxes_yxyx):
        overhang = low(boxes_yxyx[:, :2] - box[:2], 0).sum(1) - high(boxes_yxyx[:, 2:] - box[2:], 0).sum(1)
        skew = np.abs((boxes_yxyx[:, :2] - box[:2]) - (box[2:] - boxes_yxyx[:, 2:])).sum(1)
        out[i] = np.lexsort((skew, -overhang, np.abs(area_px - record.area_px[i])))[0]
    return out


def boxes_from_coco(path: Path) -> dict[str, tuple[Shaped[np.ndarray, "n 4"], Int[np.ndarray, " n"]]]:
    """Read boxes (house frame) and category ids by file name from a COCO file.

    Raises:
        InputError: not a COCO file.
    """
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in stated["images"]}
        rows = [(names[a["image_id"]], [float(v) for v in a["bbox"]], int(a["category_id"])) for a in stated["annotations"]]
        if any(len(box) != 4 for _, box, _ in rows):
            raise ValueError("a bbox must have 4 numbers")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a COCO file: {error!r}") from error
    out = {}
    for name in names.values():
        xywh = np.array([box for owner, box, _ in rows if owner == name], np.float64).reshape(-1, 4)
        x, y, w, h = xywh.T
        label = np.array([kind for owner, _, kind in rows if owner == name], np.int64)
        out[name] = (pixel_edges_to_yx(np.stack([y, x, y + h, x + w], axis=1)), label)
    return out


PLACE_FORMATS = (".csv", ".json", ".geojson", ".png")


def save_places(record: Places, path: Path) -> None:
    """Write places in the format that the suffix names.

    Raises:
        InputError: an unknown suffix.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        write_json(path, places_to_json(record))
    elif suffix == ".csv":
        write_text(path, places_to_frame(record).to_csv(index=False, lineterminator="\n"))
    elif suffix == ".geojson":
        write_json(path, places_to_geojson(record))
    elif suffix == ".png":
        write_image(path, np.asarray(draw_places(record, None, None)))
    else:
        raise InputError(f"expected one of {', '.join(PLACE_FORMATS)}, got {path.name}")


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
        if record.pixel_size is not None:
            unit = (record.unit or "µm").replace("µ", "u")
            columns |= {f"{name}y_{unit}": yx[:, 0] * record.pixel_size[0], f"{name}x_{unit}": yx[:, 1] * record.pixel_size[1]}
        if record.pixel_to_world is not None:
            world = apply_transform(record.pixel_to_world, yx)
            columns |= {f"{name}map_x": world[:, 1], f"{name}map_y": world[:, 0]}
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
        "found": record.found,
        "reason": record.reason,
        "scales": list(record.scales),
        "pixel_size_yx": None if record.pixel_size is None else list(record.pixel_size),
        "unit": record.unit,
        "crs": record.crs,
        "pixel_to_world": _rows(record.pixel_to_world),
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
        "provenance": _made(record.provenance),
    }


def places_from_json(path: Path) -> Places:
    """Read a record that `places_to_json` described.

    Raises:
        InputError: not such a file.
    """
    return _read_record(path, "places", _places_from)


def _places_from(stated: dict[str, Any]) -> Places:
    places, pixel_size = stated["places"], stated["pixel_size_yx"]
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
        pixel_size=None if pixel_size is None else tuple(pixel_size),
        unit=stated["unit"],
        crs=stated["crs"],
        pixel_to_world=_matrix(stated["pixel_to_world"]),
        provenance=_provenance(stated["provenance"]),
    )


def places_to_geojson(record: Places) -> dict[str, Any]:
    """Return outlines as GeoJSON polygons: in map coordinates where the source has them, else in pixels from its corner.

    Map coordinates are those of the source's reference system, which is named as GeoJSON of 2008 did, by its WKT; readers that
    know later GeoJSON alone expect longitude and latitude.
    """
    features = []
    for i, corners in enumerate(record.corners_yx):
        if record.pixel_to_world is None:
            outline = yx_to_pixel_edges(np.hstack([corners, corners]))[:, :2]
        else:
            outline = apply_transform(record.pixel_to_world, corners)
        ring = outline[[0, 1, 2, 3, 0], ::-1].tolist()
        properties = {
            "query": record.query,
            "source": record.source,
            "probability": float(record.score[i]),
            "scale": float(record.scale[i]),
            "angle_deg": float(record.angle_deg[i]),
        }
        features.append({"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}})
    named = {} if record.crs is None else {"crs": {"type": "name", "properties": {"name": record.crs}}}
    return {"type": "FeatureCollection", "features": features} | named
