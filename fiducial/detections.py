"""Detect in many images into a folder: the files and the row of each, and one table of all blobs.

OUT/blobs.csv holds every blob of every image; it is written at the end of a run.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fiducial import runs
from fiducial.drawing import OVERLAY_PX, draw_blobs
from fiducial.images import MAX_BYTES, open_image, whole_file, write_image
from fiducial.inputs import Input
from fiducial.records import Blobs, Image
from fiducial.runs import Answer, Outcome, Run
from fiducial.scaled import read_shown

RECORDS = ("blobs.csv", "blobs.json", "blobs.coco.json", "blobs.geojson", "blobs.roi.zip", "blobs.points.csv")
FILES = (*RECORDS, "overlay.png")

Detect = Callable[[Image], Blobs]


def run_detections(run: Run, kept: Sequence[Outcome], detect: Detect, max_bytes: int = MAX_BYTES) -> Iterator[Outcome]:
    """Detect in the images that are not kept, and yield what became of each; raises as `runs.carry_out`."""
    done = list(kept)
    for outcome in runs.carry_out(run, partial(_ask, detect, max_bytes), kept, FILES):
        done.append(outcome)
        yield outcome
    with runs.writing(run.out):
        write_all([o.name for o in runs.in_order(run, done) if o.answer != "error"], run.out)


def _ask(detect: Detect, max_bytes: int, job: Input) -> Answer:
    path = job.files["image"]
    assert isinstance(path, Path)
    image = open_image(path, max_bytes)
    record = detect(image)
    return Answer(record.answer, "", row(record), partial(write_detection, record, image))


def write_detection(record: Blobs, image: Image, folder: Path) -> None:
    """Write a record in every format, and its overlay."""
    for name in RECORDS:
        record.save(folder / name)
    write_image(folder / "overlay.png", np.asarray(draw_blobs(record, read_shown(image, OVERLAY_PX))))


def row(record: Blobs) -> dict[str, object]:
    """Return the count with its interval and the typical size, as summary.csv has them."""
    low, high = record.count_interval
    size = float(np.median(record.radius)) if len(record) else None
    return {"count": record.count, "count_low": low, "count_high": high, "median_radius_px": size}


def write_all(names: Sequence[str], out: Path) -> None:
    """Join the tables of all images into one, line by line; the file appears whole or not at all."""
    columns: dict[str, None] = {}
    for name in names:
        with (out / name / "blobs.csv").open(newline="", encoding="utf-8") as file:
            columns |= dict.fromkeys(next(csv.reader(file), []))
    with whole_file(out / "blobs.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["image", *columns], restval="", lineterminator="\n")
        table.writeheader()
        for name in names:
            with (out / name / "blobs.csv").open(newline="", encoding="utf-8") as own:
                table.writerows({"image": name} | line for line in csv.DictReader(own))
