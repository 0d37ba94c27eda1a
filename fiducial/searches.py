"""Locate many queries in many sources into a folder: each query finds its image.

OUT/NAME/ holds the files of one query at its best source, OUT/summary.csv a row for each query, OUT/all.csv one for each query
and source. NAME is the query's file name without suffix.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from fiducial.coords import resize_transform
from fiducial.drawing import OVERLAY_PX, draw_places
from fiducial.images import MAX_BYTES, open_image, read_reduced, write_image, write_text
from fiducial.records import Image, InputError, Places
from fiducial.runs import unique_names


@dataclass(frozen=True)
class Search:
    """What became of one query: the records of the sources searched, the best first, and the lines of those that failed."""

    name: str
    query: Path
    found: tuple[tuple[Path, Places], ...]
    errors: tuple[str, ...]

    @property
    def best(self) -> Places | None:
        """The record of the source in which the query most probably lies."""
        return self.found[0][1] if self.found else None


def run_searches(
    queries: list[Path],
    sources: list[Path],
    locate: Callable[[Path, Path], Places],
    out: Path,
    max_bytes: int = MAX_BYTES,
    note: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Search]:
    """Look for each query in each source, write the files of its best, and yield what became of it.

    The tables are rewritten after each query.

    Raises:
        InputError: the only query cannot be read, or failed in its only source; of several, a failure is reported and the run
            goes on.
    """
    searches: list[Search] = []
    if len(queries) == 1:
        open_image(queries[0], max_bytes)
    for name, query in zip(unique_names(queries), queries, strict=True):
        found, errors = [], []
        for done, source in enumerate(sources):
            note(len(searches) * len(sources) + done, len(queries) * len(sources))
            try:
                found.append((source, locate(query, source)))
            except (InputError, OSError) as error:
                if len(queries) * len(sources) == 1:
                    raise
                errors.append(str(error))
        found.sort(key=lambda pair: -pair[1].score.max(initial=-1.0))
        if found:
            write_search(found[0][1], query, found[0][0], out / name, max_bytes)
        searches.append(Search(name, query, tuple(found), tuple(dict.fromkeys(errors))))
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "summary.csv", summary(searches).to_csv(index=False, lineterminator="\n"))
        write_text(out / "all.csv", every_pair(searches).to_csv(index=False, lineterminator="\n"))
        yield searches[-1]


def write_search(record: Places, query: Path, source: Path, folder: Path, max_bytes: int) -> None:
    """Write a record as tables and overlay, and where the query was found, the query on the source's grid.

    The last is left out where it would exceed the budget.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("places.csv", "places.json", "places.geojson"):
        record.save(folder / name)
    sought, overview = (open_image(path, max_bytes) for path in (query, source))
    shown = (read_reduced(image, OVERLAY_PX) for image in (overview, sought))
    write_image(folder / "overlay.png", np.asarray(draw_places(record, *shown)))
    resampled = folder / "query_on_source.tif"
    if record.found and 4 * record.source_size[0] * record.source_size[1] <= max_bytes:
        write_image(resampled, on_source_grid(record, sought), record.pixel_size, record.unit or "µm")
    else:
        resampled.unlink(missing_ok=True)


def on_source_grid(record: Places, query: Image) -> np.ndarray:
    """Return the query's gray values resampled on the source's grid at the best place; NaN elsewhere."""
    factor = min(1.0, float(record.scale[0]))
    gray = read_reduced(query, max(1, round(max(query.size) * factor)))
    reduced_to_query = resize_transform((gray.shape[0], gray.shape[1]), query.size)
    size = record.source_size
    out = np.full(size, np.nan, np.float32)
    matrix = (record.query_to_source[0] @ reduced_to_query)[:2]
    cv2.warpAffine(gray, matrix, size[::-1], dst=out, borderMode=cv2.BORDER_TRANSPARENT)
    return out


def summary(searches: list[Search]) -> pd.DataFrame:
    """Return one row per query: whether it was found, where, how sure, and why not."""
    rows = []
    for search in searches:
        best = search.best
        row: dict[str, object] = {"name": search.name, "query": str(search.query)}
        if best is None:
            rows.append(row | {"found": "error", "why": "; ".join(search.errors)})
            continue
        row |= {"source": str(search.found[0][0]), "found": "found" if best.found else "not here"}
        rows.append(row | _first_place(best) | {"why": "; ".join([*([best.reason] if best.reason else []), *search.errors])})
    return pd.DataFrame(rows)


def _first_place(record: Places) -> dict[str, object]:
    if not len(record):
        return {"probability": 0.0}
    place = record.to_frame().iloc[0]
    return {str(name): round(float(place[name]), 4) for name in place.index if name != "correlation"}


def every_pair(searches: list[Search]) -> pd.DataFrame:
    """Return one row per query and source that could be searched."""
    rows = [
        {"name": search.name, "query": str(search.query), "source": str(source), "found": record.found} | _first_place(record)
        for search in searches
        for source, record in search.found
    ]
    return pd.DataFrame(rows)


def exit_status(searches: list[Search]) -> int:
    """Return 0 when each query could be searched for, 1 when some failed, 3 when the only query was not found."""
    if any(search.errors for search in searches):
        return 1
    single = searches[0].best if len(searches) == 1 else None
    return 3 if single is not None and not single.found else 0
