"""What runs left in their folders, read back: run.json where there is one, summary.csv, what the records state.

A folder may come from a stranger: nothing in it is taken to be well formed, and no name in it leads out of it.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fiducial.images import is_omezarr
from fiducial.records import InputError

MAX_JSON_BYTES = 64 * 2**20  # a record of more, of a million blobs say, is not opened to learn what it was made with


@dataclass(frozen=True)
class Kind:
    """What a verb leaves behind.

    Attributes:
        record, table: its JSON and its CSV in an input's folder.
        roles: the files of one input, as summary.csv names them; by the first it is known to be this verb's.
    """

    record: str
    table: str
    roles: tuple[str, ...]


KINDS = {
    "detect": Kind("blobs.json", "blobs.csv", ("image",)),
    "locate": Kind("places.json", "places.csv", ("query", "source")),
    "inspect": Kind("defects.json", "defects.csv", ("sample", "template")),
    "register": Kind("registration.json", "tie_points.csv", ("moving", "fixed")),
}


@dataclass(frozen=True)
class Input:
    """One input of a run.

    Attributes:
        files: (role, path), as they were given to the run.
        answer: the verb's own word, or "error". why: the line that says why.
        seconds: NaN where they are not recorded.
    """

    name: str
    files: tuple[tuple[str, Path], ...]
    answer: str
    why: str
    seconds: float


@dataclass(frozen=True)
class Run:
    """What one command left in a folder.

    Attributes:
        command, options, weights (name and SHA-256), version, started, seconds: of run.json; empty or NaN where there is none.
        summary: summary.csv, every value as it is written; a row for each input, the first column its name.
    """

    folder: Path
    verb: str
    command: tuple[str, ...]
    options: tuple[tuple[str, object], ...]
    weights: tuple[str, str]
    version: str
    started: str
    seconds: float
    inputs: tuple[Input, ...]
    summary: pd.DataFrame

    def measured(self, name: str, column: str) -> str:
        """Return what summary.csv states of an input; nothing where it states nothing."""
        if column not in self.summary.columns:
            return ""
        return next(iter(self.summary.loc[self.summary["name"] == name, column]), "")


@dataclass(frozen=True)
class Making:
    """What a record states of how it was made; empty where it does not."""

    weights: str
    sha256: str
    version: str
    parameters: tuple[tuple[str, object], ...]


def find_runs(folder: Path) -> list[Run]:
    """Return the run that a folder holds, or those in the folders below it, in the order they were started.

    Raises:
        InputError: there is none, or one is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"expected a folder that fiducial wrote, {folder} is none")
    runs = []
    for place, below, _ in os.walk(folder):
        run = read_run(Path(place))
        below[:] = [] if run else sorted(below)
        runs += [run] if run else []
    if not runs:
        raise InputError(
            f"expected a folder that detect, locate, inspect or register wrote, {folder} holds none: give what stood after -o"
        )
    return sorted(runs, key=lambda run: (run.started, str(run.folder)))


def read_run(folder: Path) -> Run | None:
    """Return the run whose results lie in a folder, None if there is none.

    Raises:
        InputError: its run.json is damaged.
    """
    summary = _read_summary(folder / "summary.csv")
    try:
        stated = _read_object(folder / "run.json")
    except InputError:
        if not _verb_of(summary):
            return None  # another program's
        raise
    verb = str(stated.get("verb", "")) if "fiducial" in stated else _verb_of(summary)
    if verb not in KINDS:
        return None
    try:
        weights = dict(stated.get("weights", {}))
        given = [_given(entry) for entry in stated["inputs"]] if "inputs" in stated else _listed(summary, verb)
        return Run(
            folder,
            verb,
            tuple(str(word) for word in stated.get("command", ())),
            tuple(dict(stated.get("options", {})).items()),
            (str(weights.get("name", "")), str(weights.get("sha256", ""))),
            str(stated.get("fiducial", "")),
            str(stated.get("started", "")),
            _seconds(stated.get("seconds")),
            tuple(_with_source(entry, summary) for entry in given),
            summary,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / 'run.json'} is damaged: {error}") from error


def read_making(run: Run, name: str) -> Making:
    """Return what the record of one input states of its weights, version and parameters."""
    path = run.folder / name / KINDS[run.verb].record
    try:
        stated = _read_object(path) if path.is_file() and path.stat().st_size <= MAX_JSON_BYTES else {}
        made = dict(stated.get("provenance", {}))
        parameters = tuple(dict(made.get("parameters", {})).items())
    except (InputError, OSError, TypeError, ValueError):
        return Making("", "", "", ())
    return Making(str(made.get("weights", "")), str(made.get("sha256", "")), str(made.get("version", "")), parameters)


def read_head(path: Path, rows: int) -> tuple[pd.DataFrame, int]:
    """Return the first rows of a table, and how many it has.

    Raises:
        InputError: it is not there, or no table.
    """
    try:
        head = pd.read_csv(path, nrows=rows)
        with path.open("rb") as file:
            return head, sum(1 for line in file if line.strip()) - 1
    except FileNotFoundError as error:
        raise InputError(f"{path.name} is missing") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path.name} cannot be read: {error}") from error


def find_file(run: Run, path: Path) -> Path | None:
    """Return where a file of the run's command lies: below a folder that holds the run, the nearest first, or as it was given.

    Here, another file may have the name that was given there.
    """
    places = [*(parent / path for parent in run.folder.resolve().parents), path]
    return next((place for place in places if place.is_file() or is_omezarr(place)), None)


def _read_object(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; empty where there is no file.

    Raises:
        InputError: unreadable, or another thing than an object.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: expected an object, it holds a {type(value).__name__}")
    return value


def _read_summary(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except (OSError, ValueError):
        return pd.DataFrame({"name": []}, dtype=str)
    return table if "name" in table.columns else pd.DataFrame({"name": []}, dtype=str)


def _verb_of(summary: pd.DataFrame) -> str:
    if not {"answer", "why"} <= set(summary.columns):
        return ""
    return next((verb for verb, kind in KINDS.items() if kind.roles[0] in summary.columns), "")


def _given(entry: object) -> Input:
    """Return an input as run.json states it; of the sources of a query, none yet."""
    if not isinstance(entry, dict):
        raise TypeError(f"an input must be an object, got {type(entry).__name__}")
    files = [(str(role), value) for role, value in dict(entry["files"]).items()]
    paths = tuple((role, Path(value)) for role, value in files if isinstance(value, str))
    return Input(
        _inside(str(entry["name"])), paths, str(entry["answer"]), str(entry.get("why") or ""), _seconds(entry.get("seconds"))
    )


def _listed(summary: pd.DataFrame, verb: str) -> list[Input]:
    """Return the inputs of a run without run.json, as its summary lists them."""
    inputs = []
    for row in summary.to_dict("records"):
        files = tuple((role, Path(row[role])) for role in KINDS[verb].roles if row.get(role))
        inputs.append(Input(_inside(str(row["name"])), files, str(row["answer"]), str(row["why"]), math.nan))
    return inputs


def _with_source(entry: Input, summary: pd.DataFrame) -> Input:
    """Add the source in which a query was found, or most nearly, to what run.json states: of many, the summary names it."""
    roles = [role for role, _ in entry.files]
    if "query" not in roles or "source" in roles or "source" not in summary.columns:
        return entry
    named = next(iter(summary.loc[summary["name"] == entry.name, "source"]), "")
    files = (*entry.files, ("source", Path(named))) if named else entry.files
    return Input(entry.name, files, entry.answer, entry.why, entry.seconds)


def _inside(name: str) -> str:
    """Return the name of a folder within the run's, as it is.

    Raises:
        ValueError: it leads elsewhere.
    """
    if name in ("", ".", "..") or Path(name).name != name:
        raise ValueError(f"an input's name must be that of a folder, got {name!r}")
    return name


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
