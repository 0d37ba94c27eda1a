"""Register moving images on a fixed one into a folder: the files of each, one summary.

OUT/NAME/ holds the files of one moving image, OUT/summary.csv a row for each. NAME is its file name without suffix.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fiducial.drawing import OVERLAY_PX, draw_checkerboard, draw_registration
from fiducial.images import MAX_BYTES, open_image, read_reduced, write_image, write_text
from fiducial.records import InputError, Registration
from fiducial.resampling import write_aligned
from fiducial.runs import unique_names

FILES = (
    "registration.json",
    "registration.transform.json",
    "tie_points.csv",
    "tie_points.geojson",
    "tie_points.points",
    "report.txt",
)


@dataclass(frozen=True)
class Laid:
    """What became of one moving image: a record, or the line that says why there is none."""

    name: str
    path: Path
    record: Registration | None
    error: str


def run_registrations(
    images: list[Path], fixed: Path, register: Callable[[Path, Path], Registration], out: Path, max_bytes: int = MAX_BYTES
) -> Iterator[Laid]:
    """Register each image on the fixed one, write its files, and yield what became of it; the summary is rewritten after each.

    Raises:
        InputError: a single image failed; of several, a failure is reported and the run goes on.
    """
    open_image(fixed, max_bytes)
    done: list[Laid] = []
    for name, path in zip(unique_names(images), images, strict=True):
        try:
            record = register(path, fixed)
            write_registration(record, path, fixed, out / name, max_bytes)
            done.append(Laid(name, path, record, ""))
        except (InputError, OSError) as error:
            if len(images) == 1:
                raise
            done.append(Laid(name, path, None, str(error)))
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "summary.csv", summary(done).to_csv(index=False, lineterminator="\n"))
        yield done[-1]


def write_registration(record: Registration, moving: Path, fixed: Path, folder: Path, max_bytes: int) -> None:
    """Write a record in every format, drawings, and, where it was accepted, the moving image on the fixed one's grid."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        record.save(folder / name)
    laid, ground = open_image(moving, max_bytes), open_image(fixed, max_bytes)
    shown = [read_reduced(image, OVERLAY_PX) for image in (ground, laid)]
    write_image(folder / "overlay.png", np.asarray(draw_registration(record, *shown)))
    write_image(folder / "checkerboard.png", np.asarray(draw_checkerboard(record, *shown)))
    aligned = folder / "aligned.tif"
    if record.accepted and record.moving_to_fixed is not None:
        write_aligned(laid, ground, record.moving_to_fixed, aligned)
    else:
        aligned.unlink(missing_ok=True)


def summary(done: list[Laid]) -> pd.DataFrame:
    """Return one row per image: whether it was accepted, how sure, how exact, and why not."""
    rows = []
    for laid in done:
        row: dict[str, object] = {"name": laid.name, "image": str(laid.path).encode("utf-8", "replace").decode()}
        record = laid.record
        if record is None:
            rows.append(row | {"answer": "error", "why": laid.error})
            continue
        row |= {"answer": "accepted" if record.accepted else "refused", "probability": round(record.score, 4)}
        row |= {"error_px": round(record.error_px, 3), "tie_points": len(record)}
        if record.correction is not None:
            row |= {"correction_y": record.correction[0], "correction_x": record.correction[1]}
        rows.append(row | {"why": record.reason})
    return pd.DataFrame(rows)


def exit_status(done: list[Laid]) -> int:
    """Return 0 when each image was judged, 1 when some failed, 3 when the only one was refused."""
    if any(laid.record is None for laid in done):
        return 1
    single = done[0].record if len(done) == 1 else None
    return 3 if single is not None and not single.accepted else 0
