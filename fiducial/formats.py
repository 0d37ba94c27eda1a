"""Write records in the formats that people use, and read them back.

CSV: one row per defect. JSON: the whole record, mask as run lengths. COCO: boxes x, y, width, height from the image's
corner. TIFF: the mask of classes. PNG: an overlay. Each file appears whole or not at all.
"""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped, UInt8
from PIL import Image as PillowImage

from fiducial.coords import pixel_edges_to_yx, yx_to_pixel_edges
from fiducial.images import to_gray, write_image, write_json, write_text
from fiducial.records import Defects, InputError, Provenance
from fiducial.regions import from_run_lengths, label_regions, run_lengths, window_run_lengths

FORMATS = (".csv", ".json", ".coco.json", ".tif", ".tiff", ".png")

OVERLAY_PX = 4096  # longest side of an overlay

# Colors of classes 1, 2, ... on overlays: Okabe & Ito's, told apart by color-blind readers too.
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


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
        "provenance": {
            "version": record.provenance.version,
            "weights": record.provenance.weights,
            "sha256": record.provenance.sha256,
            "parameters": dict(record.provenance.parameters),
        },
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
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        if stated["format"] != "fiducial.defects/1":
            raise InputError(f"expected format fiducial.defects/1, {path} states {stated['format']!r}")
        return _record_from(stated)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a record of defects: {error!r}") from error


def _record_from(stated: dict[str, Any]) -> Defects:
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
        provenance=Provenance(made["version"], made["weights"], made["sha256"], tuple(made["parameters"].items())),
    )


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


def draw_defects(record: Defects, image: Shaped[np.ndarray, "h w *c"] | None) -> PillowImage.Image:
    """Draw tinted masks, boxes and class names over the sample or a reduced copy of it, and the verdict.

    Over black, at most `OVERLAY_PX` a side, if no image is given.
    """
    factor = min(1.0, OVERLAY_PX / max(record.size)) if image is None else image.shape[1] / record.size[1]
    size = (round(record.size[0] * factor), round(record.size[1] * factor)) if image is None else image.shape[:2]
    canvas = np.zeros((*size, 3), np.uint8) if image is None else _to_rgb(image)
    mask = record.mask if size == record.size else cv2.resize(record.mask, size[::-1], interpolation=cv2.INTER_NEAREST)
    for k in np.unique(mask[mask > 0]).tolist():
        own = mask == k
        canvas[own] = (0.4 * canvas[own] + 0.6 * np.array(_COLORS[(k - 1) % len(_COLORS)])).astype(np.uint8)
    thickness, font = max(1, round(max(size) / 600)), max(0.4, max(size) / 1500)
    edges = yx_to_pixel_edges(record.boxes_yxyx) * factor
    for box, label, score in zip(edges, record.label.tolist(), record.score.tolist(), strict=True):
        y0, x0, y1, x1 = box.round().astype(int).tolist()
        color = _COLORS[(label - 1) % len(_COLORS)]
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), color, thickness)
        _write(canvas, f"{record.classes[label - 1]} {score:.2f}", (x0, y0 - 3 if y0 > 16 else y1 + 14), font, color)
    text = record.verdict + (f": {len(record)}" if record.verdict == "bad" else "")
    color = {"good": (0, 200, 90), "bad": (255, 80, 60), "refused": (255, 190, 0)}[record.verdict]
    _write(canvas, text, (6, round(30 * font) + 6), 1.6 * font, color)
    return PillowImage.fromarray(canvas)


def _write(
    canvas: UInt8[np.ndarray, "h w 3"], text: str, at_xy: tuple[int, int], font: float, color: tuple[int, int, int]
) -> None:
    """Write text with a dark outline; moved left if it would leave the picture."""
    thickness = max(1, round(1.6 * font))
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, font, thickness)
    x, y = max(1, min(at_xy[0], canvas.shape[1] - width - 2)), at_xy[1]
    outline = [(dx, dy, (20, 20, 20)) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    for dx, dy, shade in [*outline, (0, 0, color)]:
        cv2.putText(canvas, text, (x + dx, y + dy), cv2.FONT_HERSHEY_SIMPLEX, font, shade, thickness, cv2.LINE_AA)


def _to_rgb(image: Shaped[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w 3"]:
    gray = np.nan_to_num(to_gray(image, "the image"))
    low, high = np.percentile(gray, [0.5, 99.5])
    if high <= low:
        low, high = float(gray.min()), float(gray.max())
    scale = 255 / (high - low) if high > low else 0.0
    shown = np.clip((gray - low) * scale, 0, 255).astype(np.uint8)
    return np.repeat(shown[..., None], 3, axis=2)
