"""Carry out a run: the files of each input in a folder, run.json, summary.csv; and go on where a run was stopped.

Glossary
    input: what one answer is asked for, as in `inputs`.
    outcome: what became of an input. run.json holds one a line, and the tables beside it are made of nothing else.
    stamp: size and time of change of a file, by which it is known to be unchanged.

OUT/NAME/ holds the files of one input; NAME is its file name without suffix.
"""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import torch

from fiducial.images import MAX_BYTES, open_image, write_text
from fiducial.images.limits import readable
from fiducial.images.stated import map_files
from fiducial.inputs import Input, check_folders
from fiducial.records import NEGATIVE, Image, InputError
from fiducial.version import VERSION
from fiducial.weights import Weights

RECORD = "run.json"
SHARED_BYTES = 2**30  # most that is held of images that several inputs share

_RARELY = 20  # times as long as the record and the tables take to be written, they are left as they are

SAID = (InputError, OSError, MemoryError, torch.OutOfMemoryError)  # what is told of an input in one line; all else is a bug

Cell = str | int | float | bool | None
Row = Mapping[str, object]


class OutputError(Exception):
    """Say why a run cannot write, and so cannot go on: a full disk, a folder that cannot be made."""


@dataclass(frozen=True)
class Answer:
    """What a verb says of an input.

    Attributes:
        word: the verb's own. why: the line that says why, where there is one to say.
        row: columns of summary.csv. write: writes the files of the answer into a folder that holds none of the verb's.
        failed: what of the input could not be read, though there is an answer. pairs: rows of all.csv.
    """

    word: str
    why: str
    row: Row
    write: Callable[[Path], None]
    failed: tuple[str, ...] = ()
    pairs: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of an input, as run.json has it: names of files and values of tables that JSON can hold.

    Attributes:
        answer: the verb's word, or "error"; why: the line that says why.
        row, failed, pairs: as in `Answer`. wrote: the names of the files in its folder.
    """

    name: str
    files: dict[str, str | list[str]]
    seconds: float
    answer: str
    why: str
    row: dict[str, Cell] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    pairs: list[dict[str, Cell]] = field(default_factory=list)
    wrote: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """One command and what it is asked for.

    Attributes:
        command: as it was typed. options: the verb's, by name. weights: name and SHA-256.
        started: time in UTC. stamps: size in bytes and time of change in ns of each file.
        paired: whether there is an all.csv, too.
    """

    verb: str
    inputs: tuple[Input, ...]
    out: Path
    options: Mapping[str, Any]
    weights: tuple[str, str]
    command: tuple[str, ...]
    started: str
    stamps: Mapping[str, tuple[int, int]]
    paired: bool = False


def plan(
    verb: str, inputs: Sequence[Input], out: Path, options: Mapping[str, Any], weights: Weights, command: Sequence[str]
) -> Run:
    """Return a run of a verb, its files as they are now.

    Args:
        verb: its name.
        inputs: at least one.
        out: folder for the results.
        options: what the verb is called with; where its progress goes and the file of its weights are left out.
        weights: those it uses.
        command: the words behind `fiducial`.

    Raises:
        InputError: OUT cannot be a folder to write to; a file of the run lies where results would go.
    """
    _check_out(out)
    check_folders(inputs, out)
    stated = {name: value for name, value in sorted(options.items()) if name not in ("progress", "weights")}
    return Run(
        verb,
        tuple(inputs),
        out,
        json.loads(json.dumps(stated)),
        (weights.name, weights.sha256),
        ("fiducial", *map(readable, command)),
        datetime.now(UTC).isoformat(timespec="seconds"),
        dict(_stamps({path for job in inputs for path in job.paths})),
        paired=verb == "locate",
    )


def check_file(out: Path, endings: Sequence[str] = ()) -> None:
    """Refuse a file that could not be written, before the work that it shall hold; raises InputError.

    Its suffix must be one of `endings`, if any are given.
    """
    if endings and out.suffix.lower() not in endings:
        raise InputError(f"expected one of {', '.join(endings)}, got {out.name}")
    if os.path.isdir(out):
        raise InputError(f"expected a file to write, {out} is a folder: name a file in it")
    if os.path.exists(out) and not os.path.isfile(out):
        raise InputError(f"expected a file to write, {out} is no file, but a device or a pipe: name a file")
    _check_out(out.parent)


def _check_out(out: Path) -> None:
    nearest = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"results need a folder that can be made and written to, {nearest} is none: choose another --out")


def _stamps(paths: Iterable[Path]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the stamps of those files that there are, with what states their maps; of an OME-Zarr that of all its files."""
    for path in sorted(paths):
        try:
            stats = [part.stat() for part in (path, *(path.rglob("*") if path.is_dir() else map_files(path)))]
        except OSError:
            continue  # the outcome will say that it cannot be read
        yield readable(path), (sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats))


def earlier(run: Run) -> tuple[Outcome, ...]:
    """Return the outcomes of an earlier run into the same folder that hold for this one, too.

    That needs the same verb, options, weights and version, and for each input the same files, unchanged, an answer without
    failures, and all that was written then. A single input is always computed.
    """
    path = run.out / RECORD
    if len(run.inputs) == 1 or not path.is_file():
        return ()
    try:
        stated = json.loads(path.read_text(encoding="utf-8"), parse_constant=int)  # NaN is no number
        if any(stated[name] != value for name, value in _made_with(run).items()):
            return ()
        stamps = stated["stamps"]
        before = {outcome.name: outcome for outcome in map(_outcome_from_json, stated["inputs"])}
        found = [before[job.name] for job in run.inputs if job.name in before and _holds(before[job.name], job, run, stamps)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()  # not of this version: nothing in it can be relied on
    return tuple(found)


def _outcome_from_json(stated: dict[str, Any]) -> Outcome:
    """Return the outcome that a line of run.json states; raises TypeError where it states none."""
    kinds = {"name": str, "files": dict, "seconds": float, "answer": str, "why": str, "row": dict}
    lists = {"failed": str, "pairs": dict, "wrote": str}
    if not all(isinstance(stated[name], kind) for name, kind in kinds.items()):
        raise TypeError(f"not an outcome: {stated}")
    if not all(isinstance(item, kind) for name, kind in lists.items() for item in list(stated[name])):
        raise TypeError(f"not an outcome: {stated}")
    return Outcome(**stated)


def _made_with(run: Run) -> dict[str, Any]:
    name, digest = run.weights
    return {
        "fiducial": VERSION,
        "verb": run.verb,
        "options": dict(run.options),
        "weights": {"name": name, "sha256": digest},
    }


def _holds(outcome: Outcome, job: Input, run: Run, stamps: Mapping[str, Sequence[int]]) -> bool:
    folder = run.out / job.name
    return (
        not outcome.failed
        and outcome.files == _named(job)
        and all(tuple(stamps.get(path, ())) == run.stamps.get(path) for path in map(readable, job.paths))
        and all(_is_whole(folder / name) for name in outcome.wrote)
    )


def _is_whole(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _named(job: Input) -> dict[str, str | list[str]]:
    return {
        role: readable(files) if isinstance(files, Path) else [readable(path) for path in files]
        for role, files in job.files.items()
    }


def carry_out(run: Run, ask: Callable[[Input], Answer], kept: Sequence[Outcome], files: Sequence[str]) -> Iterator[Outcome]:
    """Ask for the answers that are not kept, write their files, and yield what became of each.

    run.json and the tables are written anew after each, of thousands less often, and when the run ends, however it does. What
    an earlier run left in the folder of an input goes when there is a new answer or an error in its place.

    Args:
        run: its only input may fail without a trace: then the folder stays as it was.
        ask: the verb.
        kept: outcomes of before.
        files: names of all that the verb may write into the folder of an input.

    Raises:
        InputError: the only input failed; of several, a failure is an outcome and the run goes on.
        OutputError: something could not be written; what was written before stays.
    """
    done, known = list(kept), {outcome.name for outcome in kept}
    if len(run.inputs) > 1:
        _claim(run, done)
    written, due = len(done), 0.0
    try:
        for job in run.inputs:
            if job.name in known:
                continue
            done.append(_outcome(run, job, ask, files))
            if (start := perf_counter()) >= due:
                _write(run, done)
                written, due = len(done), perf_counter() + _RARELY * (perf_counter() - start)
            yield done[-1]
    except BaseException:
        if len(done) > written:
            with suppress(OutputError):  # what ended the run is told
                _write(run, done)
        raise
    if len(done) > written:
        _write(run, done)


def _claim(run: Run, kept: Sequence[Outcome]) -> None:
    """Leave nothing in the tables that speaks of another run, and learn whether the folder takes files."""
    with writing(run.out):
        for name in ("all.csv", "blobs.csv"):
            (run.out / name).unlink(missing_ok=True)
    _write(run, kept)


def _outcome(run: Run, job: Input, ask: Callable[[Input], Answer], files: Sequence[str]) -> Outcome:
    """Return what became of an input; raises one of `SAID` if it is the only one and failed, and OutputError."""
    start, folder = perf_counter(), run.out / job.name
    try:
        answer = ask(job)
        if len(run.inputs) == 1 and (run.out / RECORD).exists():
            _claim(run, ())
        wrote = _written(answer, folder, files)
    except SAID as error:
        if len(run.inputs) == 1:
            raise
        with writing(folder):
            _clear(folder, files)
        said = readable(said_of(error))
        return Outcome(job.name, _named(job), round(perf_counter() - start, 3), "error", said, failed=[said])
    return Outcome(
        job.name,
        _named(job),
        round(perf_counter() - start, 3),
        answer.word,
        readable(answer.why),
        _cells(answer.row),
        [readable(line) for line in answer.failed],
        [_cells(row) for row in answer.pairs],
        wrote,
    )


def _written(answer: Answer, folder: Path, files: Sequence[str]) -> list[str]:
    """Write the files of an answer, and return their names; none where one of them cannot hold what it should."""
    with writing(folder):
        _clear(folder, files)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            answer.write(folder)
        except (InputError, MemoryError, torch.OutOfMemoryError):
            _clear(folder, files)
            raise
        return sorted(name for name in files if (folder / name).exists())


def said_of(error: BaseException) -> str:
    """Return the line that tells one of `SAID`."""
    if isinstance(error, InputError | OSError):
        return str(error)
    return f"not enough memory, close other programs or crop the image: {str(error).partition('. ')[0] or 'nothing is left'}"


def _clear(folder: Path, files: Sequence[str]) -> None:
    """Remove what the verb may have written, and the folder, if it holds nothing else."""
    for path in (folder / name for name in files):
        if path.is_dir() and not path.is_symlink():  # an OME-Zarr
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {readable(error.filename or path)}: {error.strerror or error}") from error


def _cells(row: Row) -> dict[str, Cell]:
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: object) -> Cell:
    """Return a value as JSON can hold it; None for what is undefined."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int) or value is None else readable(str(value))


def _write(run: Run, done: Sequence[Outcome]) -> None:
    """Write run.json and the tables; each file appears whole or not at all."""
    ordered = in_order(run, done)
    stated = _made_with(run) | {"command": run.command, "started": run.started, "stamps": run.stamps}
    stated |= {"seconds": round(sum(outcome.seconds for outcome in ordered), 3)}
    head = "\n".join(f" {_line(name)}: {_line(value)}," for name, value in stated.items())
    lines = ",\n".join(f"  {_line(vars(outcome))}" for outcome in ordered)
    with writing(run.out):
        run.out.mkdir(parents=True, exist_ok=True)
        write_text(run.out / RECORD, f'{{\n{head}\n "inputs": [\n{lines}\n ]\n}}\n')
        write_table(summary(run, done), run.out / "summary.csv")
        if run.paired:
            write_table(_frame([row for outcome in ordered for row in outcome.pairs]), run.out / "all.csv")


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV; it appears whole or not at all."""
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def in_order(run: Run, done: Sequence[Outcome]) -> list[Outcome]:
    """Return outcomes in the order of the run's inputs."""
    by_name = {outcome.name: outcome for outcome in done}
    return [by_name[job.name] for job in run.inputs if job.name in by_name]


def summary(run: Run, done: Sequence[Outcome]) -> pd.DataFrame:
    """Return one row per input: its files, the answer, the verb's own columns, and why."""
    rows = []
    for outcome in in_order(run, done):
        files = {role: path for role, path in outcome.files.items() if isinstance(path, str)}
        rows.append({"name": outcome.name} | files | {"answer": outcome.answer} | outcome.row | {"why": outcome.why})
    return _frame(rows, "why")


def _frame(rows: Sequence[Mapping[str, object]], *last: str) -> pd.DataFrame:
    """Return a table whose cells are written alike, whatever stands in the other rows: whole numbers stay whole beside none."""
    columns = [*dict.fromkeys(["name", *(name for row in rows for name in row if name not in last)]), *last]
    return pd.DataFrame([[row.get(name) for name in columns] for row in rows], columns=columns, dtype=object)


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """Return 0 when all is done, 1 when some of many failed, 3 when the only answer is negative."""
    if any(outcome.failed for outcome in outcomes):
        return 1
    return 3 if len(outcomes) == 1 and outcomes[0].answer in NEGATIVE else 0


def sharing(run: Run, max_bytes: int = MAX_BYTES) -> Callable[[Path], Image]:
    """Return what opens images; those that several inputs have are decoded once, as far as SHARED_BYTES go."""
    uses = Counter(path for job in run.inputs for path in set(job.paths))
    held: dict[Path, Image] = {}

    def open_shared(path: Path) -> Image:
        if path in held:
            return held[path]
        image = open_image(path, max_bytes)
        if uses[path] > 1 and sum(map(_bytes, held.values())) + _bytes(image) <= min(SHARED_BYTES, max_bytes):
            held[path] = _decoded_once(image)
            return held[path]
        return image

    return open_shared


def _bytes(image: Image) -> int:
    return image.size[0] * image.size[1] * image.channels * image.dtype.itemsize


def _decoded_once(image: Image) -> Image:
    pixels = lru_cache(maxsize=1)(image.read)
    return replace(image, reader=lambda w: pixels()[w[0] : w[2], w[1] : w[3]])
