"""Inspect one pair or many into a folder: results of each, one summary, bad input reported and passed over.

OUT/NAME/ holds the files of one sample, OUT/summary.csv a row for each. NAME is the sample's file name without suffix.
"""

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fiducial.datasets import list_images
from fiducial.drawing import OVERLAY_PX, draw_defects
from fiducial.images import MAX_BYTES, open_image, read_reduced, write_image, write_text
from fiducial.records import Defects, InputError

_TAKEN = ("summary.csv", "all.csv", "blobs.csv")  # files beside the folders


@dataclass(frozen=True)
class Job:
    """One sample and its template."""

    name: str
    sample: Path
    template: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a record, or the line that says why there is none."""

    job: Job
    record: Defects | None
    error: str


def choose_jobs(sample: Path | None, samples: Path | None, pairs: Path | None, template: Path | None) -> list[Job]:
    """Return the jobs of one sample, a folder or a CSV of pairs, whichever is given.

    Raises:
        InputError: none or several are given, or a template is missing.
    """
    if sum(source is not None for source in (sample, samples, pairs)) != 1:
        raise InputError("give one of SAMPLE, --samples DIR and --pairs CSV")
    if pairs is not None:
        if template is not None:
            raise InputError("the templates stand in the CSV of --pairs: leave --template out")
        return jobs_from_csv(pairs)
    if template is None:
        raise InputError("give the good image: --template FILE")
    if samples is not None:
        return jobs_from_folder(samples, template)
    assert sample is not None
    return [Job(sample.stem, sample, template)]


def exit_status(outcomes: list[Outcome]) -> int:
    """Return 0 when all is done, 1 when some of many failed, 3 when a single job was refused."""
    if any(outcome.record is None for outcome in outcomes):
        return 1
    single = outcomes[0].record if len(outcomes) == 1 else None
    return 3 if single is not None and single.verdict == "refused" else 0


def jobs_from_folder(samples: Path, template: Path) -> list[Job]:
    """Return a job for each image of a folder; `template` is one image, or a folder with images of the same names.

    Raises:
        InputError: no images, or a sample without a template.
    """
    jobs = []
    for path in list_images(samples):
        own = template / path.name if template.is_dir() else template
        if not own.is_file():
            raise InputError(f"expected a template {own}, found none")
        jobs.append((path, own))
    return _named(jobs)


def jobs_from_csv(path: Path) -> list[Job]:
    """Return a job for each row of a CSV with columns `sample` and `template`; paths are relative to the CSV.

    Raises:
        InputError: not such a file, or no rows.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as CSV: {error}") from error
    if not {"sample", "template"} <= set(table.columns) or table.empty:
        raise InputError(f"{path} must have columns sample and template and at least one row, got {list(table.columns)}")
    gaps = np.flatnonzero((table["sample"] == "") | (table["template"] == ""))
    if len(gaps):
        raise InputError(f"{path}: row {gaps[0] + 2} lacks its sample or its template")
    return _named([(path.parent / s, path.parent / t) for s, t in zip(table["sample"], table["template"], strict=True)])


def _named(pairs: list[tuple[Path, Path]]) -> list[Job]:
    names = unique_names([sample for sample, _ in pairs])
    return [Job(name, sample, template) for name, (sample, template) in zip(names, pairs, strict=True)]


def choose_images(images: list[Path]) -> list[Path]:
    """Return the files that paths, folders and patterns (`scans/*.tif`) name, each once.

    Raises:
        InputError: a pattern or a folder holds no image.
    """
    found: list[Path] = []
    for path in images:
        if path.is_dir():
            found += list_images(path)
        elif not path.exists() and glob.has_magic(str(path)):
            matching = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
            if not matching:
                raise InputError(f"no file matches {path}")
            found += matching
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def unique_names(paths: list[Path]) -> list[str]:
    """Name files by their stems, as folders; those of one stem, and of a name that is taken or none, are numbered."""
    names: list[str] = []
    for path in paths:
        stem, n = path.stem.encode("utf-8", "replace").decode().strip("."), 2
        stem = name = stem or "image"
        while name in names or name in _TAKEN:
            name, n = f"{stem}_{n}", n + 1
        names.append(name)
    return names


def run(jobs: list[Job], inspect: Callable[[Path, Path], Defects], out: Path, max_bytes: int = MAX_BYTES) -> Iterator[Outcome]:
    """Inspect each job, write its files, and yield what became of it; the summary is rewritten after each.

    Raises:
        InputError: a single job failed; of several, a failure becomes an outcome and the run goes on.
    """
    outcomes: list[Outcome] = []
    for job in jobs:
        try:
            record = inspect(job.sample, job.template)
            write_files(record, out / job.name, read_reduced(open_image(job.sample, max_bytes), OVERLAY_PX))
            outcomes.append(Outcome(job, record, ""))
        except (InputError, OSError) as error:
            if len(jobs) == 1:
                raise
            outcomes.append(Outcome(job, None, str(error)))
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "summary.csv", summary(outcomes).to_csv(index=False, lineterminator="\n"))
        yield outcomes[-1]


def write_files(record: Defects, folder: Path, pixels: np.ndarray) -> None:
    """Write a record as table, JSON, COCO, mask and overlay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("defects.csv", "defects.json", "defects.coco.json", "mask.tif"):
        record.save(folder / name)
    write_image(folder / "overlay.png", np.asarray(draw_defects(record, pixels)))


def summary(outcomes: list[Outcome]) -> pd.DataFrame:
    """Return one row per job: the verdict ("error" where there is no record), counts, alignment, and why."""
    rows = []
    for outcome in outcomes:
        row: dict[str, object] = {
            "name": outcome.job.name,
            "sample": str(outcome.job.sample),
            "template": str(outcome.job.template),
        }
        record = outcome.record
        if record is None:
            rows.append(row | {"verdict": "error", "defects": None, "why": outcome.error})
            continue
        kinds = {f"n_{name}": int((record.label == k).sum()) for k, name in enumerate(record.classes, start=1)}
        rows.append(
            row
            | {"verdict": record.verdict, "defects": len(record), "area_px": int(record.area_px.sum())}
            | {"alignment_score": round(record.alignment_score, 4), "coverage": round(record.coverage, 4), "why": record.reason}
            | kinds
        )
    return pd.DataFrame(rows)
