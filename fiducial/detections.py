"""Detect in many images into a folder: the files of each, one table of all blobs, one of all counts.

OUT/NAME/ holds the files of one image, OUT/blobs.csv every blob of every image, OUT/summary.csv a row for each image. NAME is
the image's file name without suffix.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fiducial.drawing import OVERLAY_PX, draw_blobs
from fiducial.images import MAX_BYTES, open_image, whole_file, write_image, write_text
from fiducial.records import Blobs, InputError
from fiducial.runs import unique_names
from fiducial.scaled import read_shown

FILES = ("blobs.csv", "blobs.json", "blobs.coco.json", "blobs.geojson", "blobs.roi.zip", "blobs.points.csv")

_COUNTS = ("count", "count_low", "count_high")  # whole numbers, also beside images without any


@dataclass(frozen=True)
class Detection:
    """What became of one image: a record, or the line that says why there is none."""

    name: str
    path: Path
    record: Blobs | None
    error: str


def run_detections(
    images: list[Path], detect: Callable[[Path], Blobs], out: Path, max_bytes: int = MAX_BYTES
) -> Iterator[Detection]:
    """Detect in each image, write its files, and yield what became of it; the summary is rewritten after each.

    Raises:
        InputError: a single image failed; of several, a failure is reported and the run goes on.
    """
    done: list[Detection] = []
    for name, path in zip(unique_names(images), images, strict=True):
        try:
            record = detect(path)
            write_detection(record, path, out / name, max_bytes)
            done.append(Detection(name, path, record, ""))
        except (InputError, OSError) as error:
            if len(images) == 1:
                raise
            done.append(Detection(name, path, None, str(error)))
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "summary.csv", summary(done).to_csv(index=False, lineterminator="\n"))
        yield done[-1]
    write_all(done, out / "blobs.csv")


def write_detection(record: Blobs, path: Path, folder: Path, max_bytes: int) -> None:
    """Write a record in every format, and its overlay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        record.save(folder / name)
    image = open_image(path, max_bytes)
    shown = read_shown(image, OVERLAY_PX)
    if image.dtype == np.uint8:
        shown = np.clip(shown.round(), 0, 255).astype(np.uint8)
    write_image(folder / "overlay.png", np.asarray(draw_blobs(record, shown)))


def write_all(done: list[Detection], path: Path) -> None:
    """Write the blobs of all images into one table; the file appears whole or not at all."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        frames = [(d.name, d.record.to_frame()) for d in done if d.record is not None]
        columns = list(dict.fromkeys(column for _, frame in frames for column in frame.columns))
        pd.DataFrame(columns=["image", *columns]).to_csv(file, index=False, lineterminator="\n")
        for name, frame in frames:
            ordered = frame.reindex(columns=columns)
            ordered.insert(0, "image", name)
            ordered.to_csv(file, index=False, header=False, lineterminator="\n")


def summary(done: list[Detection]) -> pd.DataFrame:
    """Return one row per image: the count with its interval, typical size, and why there is none."""
    rows = []
    for detection in done:
        row: dict[str, object] = {"name": detection.name, "image": str(detection.path).encode("utf-8", "replace").decode()}
        record = detection.record
        if record is None:
            rows.append(row | dict.fromkeys((*_COUNTS, "median_radius_px")) | {"why": detection.error})
            continue
        size = float(np.median(record.radius)) if len(record) else None
        low, high = record.count_interval
        rows.append(row | {"count": record.count, "count_low": low, "count_high": high, "median_radius_px": size, "why": ""})
    table = pd.DataFrame(rows)
    return table.assign(**{name: pd.Series([row[name] for row in rows], dtype=object) for name in _COUNTS})


def exit_status(done: list[Detection]) -> int:
    """Return 0 when each image was searched, blobs or none; 1 when some failed."""
    return 1 if any(detection.record is None for detection in done) else 0
