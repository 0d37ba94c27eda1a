"""Write defects and read them back.

CSV: one row per defect, or one that says "refused". JSON: the whole record, its mask as run lengths. COCO: boxes x, y, width,
height from the image's corner. TIFF, OME-Zarr: the mask of classes. PNG: an overlay.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped

from fiducial.coords import pixel_edges_to_yx, yx_to_pixel_edges
from fiducial.drawing import draw_defects
from fiducial.formats.parts import (
    answer_to_json,
    matrix_from_json,
    matrix_to_json,
    number_from_json,
    number_to_json,
    pair_from_json,
    placed_to_json,
    point_columns,
    provenance_from_json,
    provenance_to_json,
    read_record,
    table_with_answer,
    unit_name,
)
from fiducial.images import from_array, write_image, write_json, write_omezarr, write_text
from fiducial.records import Defects, InputError
from fiducial.regions import classes_of, from_run_lengths, run_lengths_of, window_run_lengths
from fiducial.resampling import write_aligned

FORMATS = (".csv", ".json", ".coco.json", ".tif", ".tiff", ".ome.zarr", ".png")


def save_defects(record: Defects, path: Path) -> None:
    """Write a record in the format that the suffix names; the mask as GeoTIFF where the sample lies on a map.

    Raises:
        InputError: an unknown suffix; the mask of a refused inspection, which would look like that of a good sample.
    """
    name = path.name.lower()
    if record.verdict == "refused" and name.endswith((".tif", ".tiff", ".zarr")):
        raise InputError(f"a refused inspection has no mask, {path.name} was not written: {record.reason}")
    if name.endswith(".coco.json"):
        write_json(path, defects_to_coco([record]))
    elif name.endswith(".json"):
        write_json(path, defects_to_json(record))
    elif name.endswith(".csv"):
        write_text(path, table_with_answer(record, defects_to_frame(record)))
    elif name.endswith((".tif", ".tiff")) and record.pixel_to_world is not None:
        placed = replace(from_array(record.mask), name=record.sample, crs=record.crs, pixel_to_world=record.pixel_to_world)
        write_aligned(placed, placed, np.eye(3), path)
    elif name.endswith((".tif", ".tiff")):
        write_image(path, record.mask, record.pixel_size, record.unit or "µm")
    elif name.endswith(".zarr"):
        write_omezarr(path, replace(from_array(record.mask), pixel_size=record.pixel_size, unit=record.unit), classes=True)
    elif name.endswith(".png"):
        write_image(path, np.asarray(draw_defects(record, None)))
    else:
        raise InputError(f"expected one of {', '.join(FORMATS)}, got {path.name}")


def defects_to_frame(record: Defects) -> pd.DataFrame:
    """Return one row per defect; area and center also in the sample's unit, and the center on its map, if any."""
    box = record.boxes_yxyx
    center_yx = (box[:, :2] + box[:, 2:]) / 2
    frame = pd.DataFrame(
        {
            "class": [record.classes[k - 1] for k in record.label.tolist()],
            "probability": record.score.round(4),
            "y_px": center_yx[:, 0],
            "x_px": center_yx[:, 1],
            "y0_px": box[:, 0],
            "x0_px": box[:, 1],
            "y1_px": box[:, 2],
            "x1_px": box[:, 3],
            "area_px": record.area_px,
        }
    )
    if record.pixel_size is not None:
        frame[f"area_{unit_name(record)}2"] = record.area_px * record.pixel_size[0] * record.pixel_size[1]
    return frame.assign(**point_columns(record, center_yx))


def defects_to_json(record: Defects) -> dict[str, Any]:
    """Return the whole record as JSON values."""
    return {
        "format": "fiducial.defects/1",
        "sample": record.sample,
        "template": record.template,
        "size_yx": list(record.size),
        "answer": record.answer,
        "verdict": record.verdict,
        "reason": record.reason,
        "template_to_sample": matrix_to_json(record.template_to_sample),
        "alignment_score": number_to_json(record.alignment_score),
        "coverage": record.coverage,
        "classes": list(record.classes),
        "defects": [
            {"box_yxyx": box, "label": label, "class": record.classes[label - 1], "score": score, "area_px": area}
            for box, label, score, area in zip(
                record.boxes_yxyx.tolist(), record.label.tolist(), record.score.tolist(), record.area_px.tolist(), strict=True
            )
        ],
        "mask": {str(k): _runs_of(record, k) for k in classes_of(record.mask)},
        "provenance": provenance_to_json(record.provenance),
    } | placed_to_json(record)


def _runs_of(record: Defects, label: int) -> list[int]:
    return run_lengths_of(record.size, lambda columns: record.mask[:, columns] == label)


def defects_from_json(path: str | Path) -> Defects:
    """Read a record that `defects_to_json` described.

    Raises:
        InputError: not such a file.
    """
    return read_record(path, "defects", _defects_from)


def _defects_from(stated: dict[str, Any]) -> Defects:
    size, defects, made = tuple(stated["size_yx"]), stated["defects"], stated["provenance"]
    mask = np.zeros(size, np.uint8)
    for label, lengths in stated["mask"].items():
        mask[from_run_lengths(lengths, size)] = int(label)
    return Defects(
        mask=mask,
        boxes_yxyx=np.array([d["box_yxyx"] for d in defects], np.float64).reshape(-1, 4),
        label=np.array([d["label"] for d in defects], np.int64),
        score=np.array([d["score"] for d in defects], np.float64),
        area_px=np.array([d["area_px"] for d in defects], np.int64),
        classes=tuple(stated["classes"]),
        template_to_sample=matrix_from_json(stated["template_to_sample"]),
        alignment_score=number_from_json(stated["alignment_score"]),
        coverage=stated["coverage"],
        verdict=stated["verdict"],
        reason=stated["reason"],
        sample=stated["sample"],
        template=stated["template"],
        pixel_size=pair_from_json(stated["pixel_size_yx"]),
        unit=stated["unit"],
        crs=stated["crs"],
        pixel_to_world=matrix_from_json(stated["pixel_to_world"]),
        provenance=provenance_from_json(made),
    )


def defects_to_coco(records: list[Defects]) -> dict[str, Any]:
    """Return images with their answers, annotations (boxes, run-length masks, scores) and categories as COCO has them."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, record in enumerate(records, start=1):
        image = {"id": number, "file_name": record.sample, "height": record.size[0], "width": record.size[1]}
        images.append(image | answer_to_json(record))
        edges = yx_to_pixel_edges(record.boxes_yxyx).tolist()
        for i, (y0, x0, y1, x1) in enumerate(edges):
            counts = window_run_lengths(*_own_pixels(record, i), record.size)
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


def _own_pixels(record: Defects, i: int) -> tuple[Bool[np.ndarray, "h w"], tuple[slice, slice]]:
    """Return a defect's pixels of the mask and the window that they are cut from: those of its class in its box.

    Where these are more than it has, another one's reach into the box, which is drawn with a margin: what is cut off goes. At
    the image's border nothing is cut off.
    """
    edges = yx_to_pixel_edges(record.boxes_yxyx[i : i + 1])[0].round().astype(int)
    (y0, x0), (y1, x1) = np.clip(edges.reshape(2, 2), 0, record.size).tolist()
    height, width = record.size
    own = record.mask[y0:y1, x0:x1] == record.label[i]
    if own.sum() > record.area_px[i]:
        _, parts = cv2.connectedComponents(own.astype(np.uint8), connectivity=8)
        sides = ((y0 > 0, parts[0]), (y1 < height, parts[-1]), (x0 > 0, parts[:, 0]), (x1 < width, parts[:, -1]))
        cut = np.concatenate([np.zeros(0, parts.dtype), *(side for inside, side in sides if inside)])
        inner = own & ~np.isin(parts, cut)
        own = inner if inner.any() else own
    return own, (slice(y0, y1), slice(x0, x1))


def boxes_from_coco(path: str | Path) -> dict[str, tuple[Shaped[np.ndarray, "n 4"], Int[np.ndarray, " n"]]]:
    """Read boxes (house frame) and category ids by file name from a COCO file.

    Raises:
        InputError: not a COCO file.
    """
    try:
        stated = json.loads(Path(path).read_text(encoding="utf-8"))
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
