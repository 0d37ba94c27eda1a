"""Locate many queries in many sources into a folder: each query finds its image.

OUT/NAME/ holds the files of one query at its best source, OUT/all.csv a row for each query and source.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fiducial import runs
from fiducial.drawing import OVERLAY_PX, draw_places
from fiducial.images import MAX_BYTES, open_image, read_reduced, to_gray, write_image
from fiducial.inputs import Input
from fiducial.records import Image, InputError, NoRoomError, Places, Progress, Window
from fiducial.resampling import write_aligned
from fiducial.runs import Answer, Outcome, Run
from fiducial.steps import part_of

RECORDS = ("places.csv", "places.json", "places.geojson")
FILES = (*RECORDS, "overlay.png", "query_on_source.tif")

Locate = Callable[[Image, Image, Progress], Places]


def run_searches(
    run: Run, kept: Sequence[Outcome], locate: Locate, progress: Progress, max_bytes: int = MAX_BYTES
) -> Iterator[Outcome]:
    """Look for the queries that are not kept, each in all sources, and yield what became of each.

    Args:
        run: with queries and sources; what is raised, says `runs.carry_out`.
        kept: outcomes of before.
        locate: called with query, source, and what to call with (parts done, parts in all).
        progress: called with parts done of one query, its search and what is written of it, and parts in all.
        max_bytes: budget for the pixels of one read, and for the query on the source's grid.
    """
    return runs.carry_out(run, partial(_ask, locate, runs.sharing(run, max_bytes), progress, max_bytes), kept, FILES)


def _ask(locate: Locate, open_shared: Callable[[Path], Image], progress: Progress, max_bytes: int, job: Input) -> Answer:
    path, sources = job.files["query"], job.files["sources"]
    assert isinstance(path, Path)
    assert isinstance(sources, tuple)
    query = open_image(path, max_bytes)
    found: list[tuple[Path, Places]] = []
    errors: list[str] = []
    without_room: list[tuple[Path, str]] = []
    parts = [part_of(progress, i, len(sources) + 1) for i in range(len(sources) + 1)]  # the last is what is written
    for source, part in zip(sources, parts[:-1], strict=True):
        try:
            found.append((source, locate(query, open_shared(source), part)))
        except NoRoomError as error:
            without_room.append((source, str(error)))
        except (InputError, OSError) as error:
            errors.append(str(error))
    failed = tuple(dict.fromkeys(errors))
    if not found:
        raise InputError("; ".join([*failed, *(line for _, line in without_room)]))
    found.sort(key=lambda pair: -pair[1].score.max(initial=-1.0))
    source, best = found[0]
    return Answer(
        best.answer,
        "; ".join([*([best.reason] if best.reason else []), *failed]),
        {"source": source} | _first_place(best),
        lambda folder: write_search(best, query, open_shared(source), folder, max_bytes, parts[-1]),
        failed,
        (
            *(
                {"name": job.name, "query": path, "source": source, "answer": record.answer} | _first_place(record)
                for source, record in found
            ),
            *({"name": job.name, "query": path, "source": source, "answer": "not here"} for source, _ in without_room),
        ),
    )


def write_search(
    record: Places, query: Image, source: Image, folder: Path, max_bytes: int, progress: Progress | None = None
) -> None:
    """Write a record as tables and overlay, and where the query was found, the query on the source's grid.

    The last is left out where it would exceed the budget.
    """
    for name in RECORDS:
        record.save(folder / name)
    shown = (read_reduced(image, OVERLAY_PX, undefined=np.nan) for image in (source, query))
    write_image(folder / "overlay.png", np.asarray(draw_places(record, *shown)))
    if record.found and 4 * record.source_size[0] * record.source_size[1] <= max_bytes:
        write_aligned(_in_gray(query), source, record.query_to_source[0], folder / "query_on_source.tif", progress)


def _in_gray(image: Image) -> Image:
    """Return an image as its gray values, so that NaN can stand for nothing."""

    def read(window: Window) -> Float32[np.ndarray, "h w"]:
        return to_gray(image.read(window), image.name)

    return replace(image, channels=1, dtype=np.dtype(np.float32), reader=read)


def _first_place(record: Places) -> dict[str, object]:
    if not len(record):
        return {"probability": 0.0}
    place = record.to_frame().iloc[0].drop("correlation")
    short = ("probability", "scale", "angle_deg")  # and what is in pixels; of degrees on a map four digits would be 10 m
    return {
        str(name): round(float(value), 4) if name in short or str(name).endswith("_px") else float(value)
        for name, value in place.items()
    }
