"""Write blobs and read them back.

CSV: one row per blob. JSON: the whole record. COCO: boxes x, y, width, height from the image's corner, and polygons. GeoJSON:
points, x before y. ROI archive: ovals for ImageJ, which counts from the image's corner. Points CSV: a layer of napari, which
counts from a pixel's center as the house does. PNG: the overlay, over black.
"""

import json
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi, roiwrite

from fiducial.coords import pixel_edges_to_yx, yx_to_pixel_edges
from fiducial.drawing import draw_blobs
from fiducial.formats.parts import (
    answer_to_json,
    feature_collection,
    matrix_from_json,
    pair_from_json,
    placed_to_json,
    point_columns,
    point_features,
    provenance_from_json,
    provenance_to_json,
    read_record,
    unit_name,
)
from fiducial.images import whole_file, write_image, write_json_rows, write_text
from fiducial.records import Blobs, InputError

FORMATS = (".csv", ".json", ".coco.json", ".geojson", ".roi.zip", ".points.csv", ".png")

_POLYGON_POINTS = 32
_ROI_VERSION = 227  # of ImageJ's format; from 223 on ovals are given to parts of a pixel
_MAX_ROI_BYTES = 1 << 28  # over a million ovals, which take about 200 each; a stranger's archive must not unpack to more


# What the readers of archives and of ROIs raise over bytes that are none.
_NO_ROIS = (
    OSError, EOFError, ValueError, TypeError, RuntimeError, LookupError, ArithmeticError,
    zipfile.BadZipFile, struct.error, zlib.error, lzma.LZMAError,
)  # fmt: skip


@dataclass(frozen=True)
class Circles:
    """What files of other programs tell of blobs, in the file's order.

    Attributes:
        yx: centers in pixels. radius: of the disk of each blob's area, in pixels. score: probability; NaN where none is stated.
    """

    yx: Float64[np.ndarray, "n 2"]
    radius: Float64[np.ndarray, " n"]
    score: Float64[np.ndarray, " n"]

    def __len__(self) -> int:
        """Return the number of blobs."""
        return len(self.score)


def save_blobs(record: Blobs, path: Path) -> None:
    """Write blobs in the format that the name's ending tells.

    Raises:
        InputError: an unknown ending.
    """
    name = path.name.lower()
    if name.endswith(".coco.json"):
        write_json_rows(path, _coco_frame(record), "annotations", _annotations(record))
    elif name.endswith(".json"):
        write_json_rows(path, _json_frame(record), "blobs", _rows(record))
    elif name.endswith(".geojson"):
        write_json_rows(path, feature_collection(record, []), "features", _features(record))
    elif name.endswith(".points.csv"):
        write_text(path, blobs_to_points(record).to_csv(index=False, lineterminator="\n"))
    elif name.endswith(".csv"):
        write_text(path, blobs_to_frame(record).to_csv(index=False, lineterminator="\n"))
    elif name.endswith(".roi.zip"):
        with whole_file(path) as temporary:
            roiwrite(temporary, _ovals(record), mode="w")
    elif name.endswith(".png"):
        write_image(path, np.asarray(draw_blobs(record, None)))
    else:
        raise InputError(f"expected one of {', '.join(FORMATS)}, got {path.name}")


def blobs_to_frame(record: Blobs) -> pd.DataFrame:
    """Return one row per blob: number, center, radius, probability; also in the image's unit and on its map, if any."""
    columns: dict[str, Any] = {
        "id": np.arange(1, len(record) + 1),
        "y_px": record.yx[:, 0],
        "x_px": record.yx[:, 1],
        "radius_px": record.radius,
        "probability": record.score.round(4),
    }
    return pd.DataFrame(columns | point_columns(record, record.yx) | _radius_columns(record))


def _radius_columns(record: Blobs) -> dict[str, Float64[np.ndarray, " n"]]:
    """Return radii in the unit and on the map, if any, of disks of equal area where pixels are not square there."""
    columns: dict[str, Float64[np.ndarray, " n"]] = {}
    if record.pixel_size is not None:
        columns[f"radius_{unit_name(record)}"] = record.radius * np.sqrt(record.pixel_size[0] * record.pixel_size[1])
    if record.pixel_to_world is not None:
        columns["radius_map"] = record.radius * np.sqrt(np.abs(np.linalg.det(record.pixel_to_world[:2, :2])))
    return columns


def blobs_to_json(record: Blobs) -> dict[str, Any]:
    """Return a record as JSON values; `blobs_from_json` reads it back. Embeddings are rounded to 6 digits."""
    return _json_frame(record) | {"blobs": list(_rows(record))}


def _rows(record: Blobs) -> Iterator[dict[str, Any]]:
    for yx, radius, score, vector in zip(record.yx, record.radius, record.score, record.embedding, strict=True):
        row = {"yx": yx.tolist(), "radius": float(radius), "score": float(score)}
        yield row | ({"embedding": vector.astype(np.float64).round(6).tolist()} if len(vector) else {})


def _json_frame(record: Blobs) -> dict[str, Any]:
    return {
        "format": "fiducial.blobs/1",
        "image": record.image,
        "size_yx": list(record.size),
        "radii_px": list(record.radii_px),
        "answer": record.answer,
        "count": record.count,
        "count_interval": list(record.count_interval),
        "embedding_length": record.embedding.shape[1],
        "provenance": provenance_to_json(record.provenance),
    } | placed_to_json(record)


def blobs_from_json(path: str | Path) -> Blobs:
    """Read a record that `blobs_to_json` described.

    Raises:
        InputError: not such a file.
    """
    return read_record(path, "blobs", _blobs_from)


def _blobs_from(stated: dict[str, Any]) -> Blobs:
    blobs, length = stated["blobs"], stated["embedding_length"]
    if stated["count"] != len(blobs):
        raise ValueError(f"count must be the number of blobs listed, got {stated['count']} and {len(blobs)}")
    (height, width), (low, high), (least, largest) = stated["size_yx"], stated["count_interval"], stated["radii_px"]
    vectors = [blob["embedding"] for blob in blobs] if length else []
    return Blobs(
        yx=np.array([blob["yx"] for blob in blobs], np.float64).reshape(len(blobs), 2),
        radius=np.array([blob["radius"] for blob in blobs], np.float64).reshape(len(blobs)),
        score=np.array([blob["score"] for blob in blobs], np.float64).reshape(len(blobs)),
        embedding=np.array(vectors, np.float32).reshape(len(blobs), length),
        count_interval=(low, high),
        radii_px=(least, largest),
        image=stated["image"],
        size=(height, width),
        pixel_size=pair_from_json(stated["pixel_size_yx"]),
        unit=stated["unit"],
        crs=stated["crs"],
        pixel_to_world=matrix_from_json(stated["pixel_to_world"]),
        provenance=provenance_from_json(stated["provenance"]),
    )


def _edges(record: Blobs) -> Float64[np.ndarray, "n 4"]:
    """Return the box around each disk as y0, x0, y1, x1 from the image's corner."""
    radius = record.radius[:, None]
    return yx_to_pixel_edges(np.hstack([record.yx - radius, record.yx + radius]))


def _circles(edges: Float64[np.ndarray, "n 4"], score: list[float]) -> Circles:
    """Return the disks as large as the ellipses in boxes counted from the image's corner."""
    boxes = pixel_edges_to_yx(edges)
    sides = boxes[:, 2:] - boxes[:, :2]
    if not (np.isfinite(boxes).all() and (sides >= 0).all()):
        raise ValueError("boxes must be finite and at least 0 px a side")
    return Circles((boxes[:, :2] + boxes[:, 2:]) / 2, np.sqrt(sides.prod(axis=1)) / 2, np.array(score, np.float64))


def _annotations(record: Blobs) -> Iterator[dict[str, Any]]:
    """Yield an annotation as COCO has it for each blob: box, polygon, area of its disk, score."""
    turn = np.arange(_POLYGON_POINTS) * 2 * np.pi / _POLYGON_POINTS
    around_xy = np.column_stack([np.cos(turn), np.sin(turn)])
    for i, edges in enumerate(_edges(record)):
        y0, x0, y1, x1 = edges.tolist()
        center_xy = (x0 + x1) / 2, (y0 + y1) / 2
        yield {
            "id": i + 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": float(np.pi * record.radius[i] ** 2),
            "segmentation": [(center_xy + record.radius[i] * around_xy).ravel().round(3).tolist()],
            "iscrowd": 0,
            "score": float(record.score[i]),
        }


def _coco_frame(record: Blobs) -> dict[str, Any]:
    image = {"id": 1, "file_name": record.image, "height": record.size[0], "width": record.size[1]} | answer_to_json(record)
    return {"images": [image], "categories": [{"id": 1, "name": "blob"}]}


def blobs_from_coco(path: str | Path) -> Circles:
    """Read the annotations of a COCO file of one image, whatever their category, as disks as large as the boxes' ellipses.

    Raises:
        InputError: not a COCO file, or of several images.
    """
    try:
        stated = json.loads(Path(path).read_text(encoding="utf-8"))
        annotations = stated["annotations"]
        if len(stated["images"]) != 1:
            raise ValueError(f"expected one image, it has {len(stated['images'])}")
        xywh = np.array([a["bbox"] for a in annotations], np.float64).reshape(len(annotations), 4)
        edges = np.column_stack([xywh[:, 1], xywh[:, 0], xywh[:, 1] + xywh[:, 3], xywh[:, 0] + xywh[:, 2]])
        return _circles(edges, [float(a.get("score", np.nan)) for a in annotations])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is not a COCO file of blobs: {error!r}") from error


def _features(record: Blobs) -> Iterator[dict[str, Any]]:
    """Yield centers as GeoJSON points: in map coordinates where the image has them, else in pixels from its corner.

    Map coordinates are those of the image's reference system, which is named as GeoJSON of 2008 did, by its WKT; readers that
    know later GeoJSON alone expect longitude and latitude.
    """
    radii = {"radius_px": record.radius} | _radius_columns(record)
    properties = (
        {"image": record.image, "probability": float(record.score[i])} | {name: float(own[i]) for name, own in radii.items()}
        for i in range(len(record))
    )
    return point_features(record, record.yx, properties)


def _ovals(record: Blobs) -> Iterator[ImagejRoi]:
    """Yield an oval for ImageJ per blob, to parts of a pixel, with the probability among its properties."""
    for i, edges in enumerate(_edges(record)):
        y0, x0, y1, x1 = edges.tolist()
        yield ImagejRoi(
            roitype=ROI_TYPE.OVAL,
            version=_ROI_VERSION,
            options=ROI_OPTIONS.SUB_PIXEL_RESOLUTION,
            name=f"{i + 1:05d}",
            props=f"probability: {record.score[i].item()}\n",
            top=int(np.floor(y0)),
            left=int(np.floor(x0)),
            bottom=int(np.ceil(y1)),
            right=int(np.ceil(x1)),
            yd=y0,
            xd=x0,
            heightd=y1 - y0,
            widthd=x1 - x0,
        )


def blobs_from_rois(path: str | Path) -> Circles:
    """Read the ovals of an ImageJ ROI archive, to a float32's accuracy, as disks of their area.

    Raises:
        InputError: not such an archive; a ROI that is not an oval.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > _MAX_ROI_BYTES:
                raise ValueError(f"expected at most {_MAX_ROI_BYTES} bytes of ROIs")
            rois = [ImagejRoi.frombytes(archive.read(entry)) for entry in entries]
        edges = np.array([_roi_edges(roi) for roi in rois], np.float64).reshape(len(rois), 4)
        return _circles(edges, [float(roi.properties.get("probability", np.nan)) for roi in rois])
    except _NO_ROIS as error:
        raise InputError(f"{path} is not an ImageJ ROI archive of ovals: {error!r}") from error


def _roi_edges(roi: ImagejRoi) -> tuple[float, float, float, float]:
    if roi.roitype != ROI_TYPE.OVAL:
        raise ValueError(f"ROI {roi.name!r} is a {roi.roitype.name.lower()}")
    if roi.subpixelrect:
        return roi.yd, roi.xd, roi.yd + roi.heightd, roi.xd + roi.widthd
    return roi.top, roi.left, roi.bottom, roi.right


def blobs_to_points(record: Blobs) -> pd.DataFrame:
    """Return the table of a napari points layer: index, axis-0 (y), axis-1 (x); radius and probability as properties."""
    return pd.DataFrame(
        {
            "index": np.arange(len(record)),
            "axis-0": record.yx[:, 0],
            "axis-1": record.yx[:, 1],
            "radius": record.radius,
            "probability": record.score,
        }
    )


def blobs_from_points(path: str | Path) -> Circles:
    """Read a napari points layer of one image; radius and probability are NaN where it has no such column.

    Raises:
        InputError: not such a table; points of a stack.
    """
    try:
        table = pd.read_csv(path)
        if "axis-2" in table:
            raise ValueError("the points have three axes: save those of one plane")
        yx = table[["axis-0", "axis-1"]].to_numpy(np.float64)
        nothing = pd.Series(np.nan, table.index)
        radius, score = (table.get(name, nothing).to_numpy(np.float64) for name in ("radius", "probability"))
        return Circles(yx, radius, score)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a table of napari points: {error!r}") from error
