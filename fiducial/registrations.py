"""Register moving images on a fixed one into a folder: the files and the row of each."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fiducial import runs
from fiducial.drawing import OVERLAY_PX, draw_checkerboard, draw_registration
from fiducial.images import MAX_BYTES, open_image, read_reduced, write_image
from fiducial.inputs import Input
from fiducial.records import Image, Registration
from fiducial.resampling import write_aligned
from fiducial.runs import Answer, Outcome, Run

RECORDS = (
    "registration.json",
    "registration.transform.json",
    "tie_points.csv",
    "tie_points.geojson",
    "tie_points.points",
    "report.txt",
)
FILES = (*RECORDS, "overlay.png", "checkerboard.png", "aligned.tif")

Register = Callable[[Image, Image], Registration]


def run_registrations(run: Run, kept: Sequence[Outcome], register: Register, max_bytes: int = MAX_BYTES) -> Iterator[Outcome]:
    """Register the images that are not kept, and yield what became of each.

    Raises:
        InputError: the fixed image cannot be read; and as `runs.carry_out`.
        OutputError: as there.
    """
    fixed = run.inputs[0].files["fixed"]
    assert isinstance(fixed, Path)
    ground = runs.sharing(run, max_bytes)(fixed)
    return runs.carry_out(run, partial(_ask, register, ground, max_bytes), kept, FILES)


def _ask(register: Register, ground: Image, max_bytes: int, job: Input) -> Answer:
    path = job.files["moving"]
    assert isinstance(path, Path)
    laid = open_image(path, max_bytes)
    record = register(laid, ground)
    return Answer(record.answer, record.reason, row(record), partial(write_registration, record, laid, ground))


def write_registration(record: Registration, moving: Image, fixed: Image, folder: Path) -> None:
    """Write a record in every format, drawings, and, where it was accepted, the moving image on the fixed one's grid."""
    for name in RECORDS:
        record.save(folder / name)
    shown = [read_reduced(image, OVERLAY_PX) for image in (fixed, moving)]
    write_image(folder / "overlay.png", np.asarray(draw_registration(record, *shown)))
    write_image(folder / "checkerboard.png", np.asarray(draw_checkerboard(record, *shown)))
    if record.accepted and record.moving_to_fixed is not None:
        write_aligned(moving, fixed, record.moving_to_fixed, folder / "aligned.tif")


def row(record: Registration) -> dict[str, object]:
    """Return how sure and how exact the answer is, as summary.csv has it."""
    stated: dict[str, object] = {
        "probability": round(record.score, 4),
        "error_px": round(record.error_px, 3),
        "tie_points": len(record),
    }
    if record.correction is not None:
        stated |= {"correction_y": record.correction[0], "correction_x": record.correction[1]}
    return stated
