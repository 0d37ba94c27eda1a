"""Inspect one pair or many into a folder: which samples with which templates, and the files and the row of each."""

import glob
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.errors import ParserWarning

from fiducial import runs
from fiducial.datasets import list_images
from fiducial.drawing import OVERLAY_PX, draw_defects
from fiducial.images import MAX_BYTES, is_omezarr, open_image, read_reduced, write_image
from fiducial.inputs import Files, Input, choose_images
from fiducial.records import Defects, Image, InputError
from fiducial.runs import Answer, Outcome, Run

RECORDS = ("defects.csv", "defects.json", "defects.coco.json")
FILES = (*RECORDS, "mask.tif", "overlay.png")

Inspect = Callable[[Image, Image], Defects]


def choose_pairs(sample: Path | None, samples: Path | None, pairs: Path | None, template: Path | None) -> list[Files]:
    """Return sample and template of each input: of an image, a folder, a pattern or a CSV of pairs, whichever is given.

    Raises:
        InputError: none or several are given, or a template is missing.
    """
    if sum(source is not None for source in (sample, samples, pairs)) != 1:
        raise InputError("give one of SAMPLE, --samples DIR and --pairs CSV")
    if pairs is not None:
        if template is not None:
            raise InputError("the templates stand in the CSV of --pairs: leave --template out")
        return pairs_from_csv(pairs)
    if template is None:
        raise InputError("give the good image: --template FILE")
    if sample is not None and choose_images([sample]) == [sample]:
        return [{"sample": sample, "template": template_of(sample, template) if template.is_dir() else template}]
    return [{"sample": own, "template": good} for own, good in pairs_from_folder(sample or samples or Path(), template)]


def pairs_from_folder(samples: Path, template: Path) -> list[tuple[Path, Path]]:
    """Return each image of a folder or a pattern with its template: one image, or that of the same name in a folder.

    The one template is no sample if it is among them. Of a sample that has none, the file is returned that is missing.

    Raises:
        InputError: no images, or none has a template.
    """
    named = samples.exists() or glob.has_magic(str(samples))
    paths = [path for path in (choose_images([samples]) if named else list_images(samples)) if not _same(path, template)]
    if not paths:
        raise InputError(f"expected images to judge, {samples} holds the template alone")
    pairs = [(path, _called_as(path, template)) for path in paths]
    if not any(good.exists() for _, good in pairs):
        raise InputError(f"expected a template {pairs[0][1]}, found none")
    return pairs


def template_of(sample: Path, template: Path) -> Path:
    """Return the template of a sample: the one image, or the one in a folder that is called as the sample, whatever its suffix.

    Raises:
        InputError: there is none.
    """
    own = _called_as(sample, template)
    if not own.exists():
        raise InputError(f"expected a template {own}, found none")
    return own


def _called_as(sample: Path, template: Path) -> Path:
    if not template.is_dir() or is_omezarr(template):
        return template
    own = template / sample.name
    return own if own.exists() else next((path for path in list_images(template) if path.stem == sample.stem), own)


def _same(path: Path, template: Path) -> bool:
    return template.exists() and path.exists() and path.samefile(template)


def pairs_from_csv(path: Path) -> list[Files]:
    """Return the pairs of a CSV with columns `sample` and `template`; paths are relative to the CSV.

    Raises:
        InputError: not such a file, or no rows.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ParserWarning)  # a row longer than the first, as by a comma in a name
            table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError, ParserWarning) as error:
        raise InputError(f"cannot read {path} as CSV: {error}") from error
    if not {"sample", "template"} <= set(table.columns) or table.empty:
        raise InputError(f"{path} must have columns sample and template and at least one row, got {list(table.columns)}")
    gaps = np.flatnonzero((table["sample"] == "") | (table["template"] == ""))
    if len(gaps):
        raise InputError(f"{path}: row {gaps[0] + 2} lacks its sample or its template")
    rows = zip(table["sample"], table["template"], strict=True)
    return [{"sample": path.parent / sample, "template": path.parent / template} for sample, template in rows]


def run_inspections(run: Run, kept: Sequence[Outcome], inspect: Inspect, max_bytes: int = MAX_BYTES) -> Iterator[Outcome]:
    """Inspect the pairs that are not kept, and yield what became of each; raises as `runs.carry_out`."""
    return runs.carry_out(run, partial(_ask, inspect, runs.sharing(run, max_bytes), max_bytes), kept, FILES)


def _ask(inspect: Inspect, open_shared: Callable[[Path], Image], max_bytes: int, job: Input) -> Answer:
    sample, template = job.files["sample"], job.files["template"]
    assert isinstance(sample, Path)
    assert isinstance(template, Path)
    seen = open_image(sample, max_bytes)
    record = inspect(seen, open_shared(template))
    return Answer(record.answer, record.reason, row(record), partial(write_files, record, seen))


def write_files(record: Defects, sample: Image, folder: Path) -> None:
    """Write a record as table, JSON, COCO, mask (on the map, if the sample has one) and overlay; a refusal has no mask."""
    for name in RECORDS:
        record.save(folder / name)
    if record.verdict != "refused":
        record.save(folder / "mask.tif")
    write_image(folder / "overlay.png", np.asarray(draw_defects(record, read_reduced(sample, OVERLAY_PX, undefined=np.nan))))


def row(record: Defects) -> dict[str, object]:
    """Return counts, alignment and coverage, as summary.csv has them."""
    stated: dict[str, object] = {
        "defects": len(record),
        "area_px": int(record.area_px.sum()),
        "alignment_score": round(record.alignment_score, 4),
        "coverage": round(record.coverage, 4),
    }
    return stated | {f"n_{name}": int((record.label == k).sum()) for k, name in enumerate(record.classes, start=1)}
