"""The tables, records and weights that users hand in: who reads each, and a good one to start damaging."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import test_formats
import test_formats_blobs
import test_formats_keypoints
import test_formats_registration
import test_locate
from test_weights_and_train import TINY

from fiducial import datasets, inspections, weights
from fiducial.confidence import Calibration
from fiducial.defects.network import BGNet
from fiducial.formats import blobs, defects, keypoints, places, registration

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 90}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1.5, 2, 3, 4], "score": 0.5}],
}


@dataclass(frozen=True)
class Kind:
    """What reads a file, under which name, and how a good one is written."""

    read: Callable[[Path], object]
    name: str
    write: Callable[[Path], object]


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text, encoding="utf-8")


KINDS = {
    "record of blobs": Kind(blobs.blobs_from_json, "a.json", test_formats_blobs.record(2, 3, world=True).save),
    "record of defects": Kind(defects.defects_from_json, "a.json", test_formats.record().save),
    "record of keypoints": Kind(keypoints.keypoints_from_json, "a.json", test_formats_keypoints.record(2, world=True).save),
    "record of places": Kind(places.places_from_json, "a.json", test_locate.record().save),
    "record of a registration": Kind(
        registration.registration_from_json, "a.json", test_formats_registration.record(world=True).save
    ),
    "control points": Kind(registration.tie_points_from_qgis, "a.points", test_formats_registration.record(world=True).save),
    "COCO of blobs": Kind(blobs.blobs_from_coco, "a.coco.json", _text(json.dumps(COCO))),
    "COCO of defects": Kind(defects.boxes_from_coco, "a.coco.json", _text(json.dumps(COCO))),
    "COCO of crowds": Kind(datasets._read_coco, "annotations.json", _text(json.dumps(COCO))),
    "ImageJ's regions": Kind(blobs.blobs_from_rois, "a.roi.zip", test_formats_blobs.record(2).save),
    "napari's points": Kind(blobs.blobs_from_points, "a.points.csv", test_formats_blobs.record(2).save),
    "table of points": Kind(datasets._read_points, "a.csv", _text("y,x,radius\n1,2,3\n4.5,6,7\n")),
    "table of pairs": Kind(inspections.pairs_from_csv, "a.csv", _text("sample,template\na.png,b.png\nc.png,b.png\n")),
}


def endless_regions() -> bytes:
    """Return an archive of ImageJ's regions whose entry claims to go on beyond the file's end."""
    whole = bytearray(good("ImageJ's regions"))
    at = whole.index(b"PK\x01\x02") + 20
    whole[at : at + 8] = struct.pack("<II", 10**6, 10**6)
    return bytes(whole)


# Found by fuzzing: who reads it, and what it was.
FOUND = {"regions that go on beyond the end": ("ImageJ's regions", endless_regions)}


@cache
def good(kind: str) -> bytes:
    """Return the bytes of a good file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / KINDS[kind].name
        KINDS[kind].write(path)
        return path.read_bytes()


@cache
def good_weights() -> bytes:
    """Return the bytes of small weights."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        weights.save(path, "defects", BGNet(TINY).eval(), {"data": "none"}, Calibration(1.5, -0.25, (0.7,), 12))
        return path.read_bytes()


def load_weights(path: Path) -> object:
    """Load weights as `inspect` does."""
    return weights.load("defects", path)
