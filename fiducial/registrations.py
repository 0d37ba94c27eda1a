"""Register moving images on a fixed one into a folder: the files and the row of each."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fiducial import runs
from fiducial.drawing import OVERLAY_PX, draw_checkerboard, draw_registration
from fiducial.formats.registration import placement
from fiducial.images import MAX_BYTES, open_image, read_reduced, write_image
from fiducial.inputs import Input
from fiducial.records import Image, Progress, Registration
from fiducial.resampling import write_aligned
from fiducial.runs import Answer, Outcome, Run
from fiducial.steps import part_of

RECORDS = (
    "registration.json",
    "registration.transform.json",
    "tie_points.csv",
    "tie_points.geojson",
    "tie_points.points",
    "report.txt",
)
FILES = (*RECORDS, "overlay.png", "checkerboard.png", "aligned.tif")

Register = Callable[[Image, Image, Progress], Registration]


def run_registrations(
    run: Run, kept: Sequence[Outcome], register: Register, progress: Progress, max_bytes: int = MAX_BYTES
) -> Iterator[Outcome]:
    """Register the images that are not kept, and yield what became of each.

    Args:
        run: with moving images and one that is fixed.
        kept: outcomes of before.
        register: called with the moving image, the fixed one, and what to call with (parts done, parts in all).
        progress: called with parts done of one image, its search and its writing on the fixed one's grid, and parts in all.
        max_bytes: budget for the pixels of one read.

    Raises:
        InputError: the fixed image cannot be read; and as `runs.carry_out`.
        OutputError: as there.
    """
    fixed = run.inputs[0].files["fixed"]
    assert isinstance(fixed, Path)
    ground = runs.sharing(run, max_bytes)(fixed)
    return runs.carry_out(run, partial(_ask, register, ground, progress, max_bytes), kept, FILES)


def _ask(register: Register, ground: Image, progress: Progress, max_bytes: int, job: Input) -> Answer:
    path = job.files["moving"]
    assert isinstance(path, Path)
    laid = open_image(path, max_bytes)
    search, writing = (part_of(progress, i, 2) for i in range(2))
    record = register(laid, ground, search)
    write = partial(write_registration, record, laid, ground, progress=writing)
    return Answer(record.answer, record.reason, row(record), write)


def write_registration(
    record: Registration, moving: Image, fixed: Image, folder: Path, progress: Progress | None = None
) -> None:
    """Write a record in every format, drawings, and, where it was accepted, the moving image on the fixed one's grid."""
    for name in RECORDS:
        record.save(folder / name)
    shown = [read_reduced(image, OVERLAY_PX, undefined=np.nan) for image in (fixed, moving)]
    write_image(folder / "overlay.png", np.asarray(draw_registration(record, *shown)))
    write_image(folder / "checkerboard.png", np.asarray(draw_checkerboard(record, *shown)))
    if record.accepted and record.moving_to_fixed is not None:
        write_aligned(moving, fixed, record.moving_to_fixed, folder / "aligned.tif", progress)


def row(record: Registration) -> dict[str, object]:
    """Return how sure and how exact the answer is, and what it is, as summary.csv has it."""
    stated: dict[str, object] = {
        "probability": round(record.score, 4),
        "error_px": round(record.error_px, 3),
        "tie_points": len(record),
        **{name: round(value, 4) for name, value in placement(record).items()},
        "within_px": round(record.within_px, 3),
    }
    if record.correction is not None:
        stated |= {"correction_y": record.correction[0], "correction_x": record.correction[1]}
    return stated
