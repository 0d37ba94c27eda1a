"""The page of a run, or of all runs below a folder: what went in, what came out, and what made it.

Everything shown is read back from the files that the run left, and from the images it was given where they still lie.
"""

import inspect
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image as PillowImage

from fiducial import api, pages
from fiducial.drawing import in_color
from fiducial.images import open_image
from fiducial.outputs import KINDS, Input, Making, Run, find_file, read_head, read_making
from fiducial.records import InputError
from fiducial.scaled import read_shown

HEAD_ROWS = 6  # of each table
MAP_DIGITS = 10  # of coordinates on a map; in degrees, the last is under a centimeter
COMMAND_WORDS = 40  # of a command; a shell may have put hundreds of names into it
NOTES_BYTES = 20_000

_VERBS: dict[str, Callable[..., object]] = {
    "detect": api.detect,
    "locate": api.locate,
    "inspect": api.inspect,
    "register": api.register,
}
_ASKED = {
    "detect": "where every blob is, how big, how many",
    "locate": "where each view lies in the overview",
    "inspect": "what differs from the good template",
    "register": "how one image lies on the other",
}
_READ = {
    "detect": "found.count, found.count_interval",
    "locate": "found.found, found.score, found.corners_yx",
    "inspect": "found.verdict, found.label, found.score",
    "register": "found.accepted, found.score, found.error_px",
}
_DRAWN = {
    "detect": (("overlay.png", "Each blob in a circle: orange at probability 0.5, blue-green at 1."),),
    "locate": (("overlay.png", "The view drawn into the overview; beside it the view, and what the overview shows there."),),
    "inspect": (("overlay.png", "What differs: masks, boxes, classes with probability."),),
    "register": (
        ("overlay.png", "The moving image in magenta on the fixed one in green; tie points in yellow."),
        ("checkerboard.png", "Both images in turn, in squares."),
    ),
}
_TONES = {
    "good": "good", "found": "good", "accepted": "good", "bad": "bad", "error": "bad",
    "refused": "refused", "not here": "refused",
}  # fmt: skip
# Columns of a summary that are shown elsewhere or are too much for a page.
_HIDDEN = ("image", "sample", "template", "query", "moving", "fixed", "corner", "shift", "why")


@dataclass(frozen=True)
class Layout:
    """How much of each run is shown, and how large.

    Attributes:
        most: inputs of one run that are shown. longest_px: side of a drawing; of an image that went in, 0.6 of it.
    """

    most: int
    longest_px: int


def report_page(runs: list[Run], title: str, home: Path, most: int = 50) -> str:
    """Return the page of some runs that lie in `home`; of each, at most so many inputs are shown."""
    shown = sum(min(most, len(run.inputs)) for run in runs)
    layout = Layout(most, round(min(1024.0, max(320.0, 1024 * math.sqrt(12 / max(shown, 1))))))
    if len(runs) == 1:
        parts = run_parts(runs[0], "run-1", layout)
        return pages.page(
            title, *parts, lead=Markup("").join([_lead(runs[0]), *map(_notes, dict.fromkeys((home, runs[0].folder)))])
        )
    sections = [
        pages.section(_named(run, home), _lead(run), _notes(run.folder), *parts, anchor=f"run-{i}")
        for i, run in enumerate(runs, start=1)
        if (parts := run_parts(run, f"run-{i}", layout))
    ]
    seconds = sum(run.seconds for run in runs)
    time = "" if math.isnan(seconds) else f", {seconds:.0f} s in all"
    inputs = sum(len(run.inputs) for run in runs)
    lead = (pages.paragraph(f"{len(runs)} runs of fiducial, {inputs:,} inputs{time}."), _notes(home), _all_runs(runs, home))
    return pages.page(title, *sections, lead=Markup("").join(lead))


def run_parts(run: Run, anchor: str, layout: Layout) -> list[Markup]:
    """Return what is shown of one run: how it was made, its summary, and its inputs."""
    entries = run.inputs[: layout.most]
    makings = [read_making(run, entry.name) for entry in entries]
    parts = [_command(run), pages.key_values(_made(run, makings)), _summary(run, anchor, layout.most)]
    if len(entries) < len(run.inputs):
        parts.append(pages.note(f"The first {len(entries)} of {len(run.inputs):,} inputs are shown."))
    for i, (entry, making) in enumerate(zip(entries, makings, strict=True), start=1):
        own = [pair for pair in making.parameters if pair not in _common(makings)]
        parts.append(pages.section(entry.name, *_input(run, entry, own, layout), level=3, anchor=f"{anchor}-{i}"))
    return parts


def _lead(run: Run) -> Markup:
    """Return a run's question, its answers counted, and how long it took."""
    time = "" if math.isnan(run.seconds) else f", in {run.seconds:.1f} s"
    inputs = f"{len(run.inputs):,} input{'s' * (len(run.inputs) != 1)}"
    return pages.paragraph(f"Asked: {_ASKED[run.verb]}. {inputs}: {_answers(run) or 'none done'}{time}.")


def _answers(run: Run) -> str:
    """Return how often a run gave each answer; of `detect`, how many blobs."""
    counted = Counter(entry.answer for entry in run.inputs)
    words = [f"{n:,} {word}" for word, n in counted.items()]
    if run.verb == "detect":
        counts = pd.to_numeric(pd.Series([run.measured(e.name, "count") for e in run.inputs], dtype=str), errors="coerce")
        words = [f"{int(counts.sum()):,} blobs", *(f"{n:,} {word}" for word, n in counted.items() if word != "done")]
    return ", ".join(words)


def _notes(folder: Path) -> Markup:
    """Return what somebody wrote into notes.txt, a paragraph for each that an empty line sets off."""
    path = folder / "notes.txt"
    if not path.is_file():
        return Markup("")
    with path.open("rb") as file:
        text = file.read(NOTES_BYTES).decode("utf-8", "replace")
    return Markup("").join(pages.paragraph(part.strip()) for part in text.split("\n\n") if part.strip())


def _all_runs(runs: list[Run], home: Path) -> Markup:
    rows = [
        {
            "run": pages.link(f"run-{i}", _named(run, home)),
            "inputs": len(run.inputs),
            "answers": _answers(run),
            "seconds": run.seconds,
        }
        for i, run in enumerate(runs, start=1)
    ]
    return pages.table(pd.DataFrame(rows), "Runs", digits=3)


def _named(run: Run, home: Path) -> str:
    """Return a run's folder below the home of all, its verb before it unless it begins with that."""
    path = run.folder.relative_to(home)
    return str(path) if path.parts[0] == run.verb else f"{run.verb}: {path}"


def _command(run: Run) -> Markup:
    if not run.command:
        return pages.note("The command is not recorded: there is no run.json.")
    words, more = run.command[:COMMAND_WORDS], len(run.command) - COMMAND_WORDS
    told = shlex.join(words) + (f" … and {more} more words" if more > 0 else "")
    return pages.code(told, "Command, in the folder where the run began")


def _made(run: Run, makings: list[Making]) -> list[tuple[str, object]]:
    """Return the names and values that say what made a run: weights with their hash, version, parameters, start."""
    stated = [(m.weights, m.sha256) for m in makings if m.weights]
    weights = dict.fromkeys(stated or ([run.weights] if run.weights[0] else []))
    versions = dict.fromkeys([*([run.version] if run.version else []), *(m.version for m in makings if m.version)])
    pairs: list[tuple[str, object]] = [
        ("Weights", Markup("{}, SHA-256 <code>{}</code>").format(name, sha256)) for name, sha256 in weights
    ]
    pairs += [("Version", ", ".join(versions))] if versions else []
    pairs += [("Parameters", _listing(_common(makings)))] if _common(makings) else []
    pairs += [("Started", run.started.replace("T", " ").replace("+00:00", " UTC"))] if run.started else []
    return [*pairs, ("Folder", str(run.folder))]


def _common(makings: list[Making]) -> list[tuple[str, object]]:
    """Return the parameters that all inputs have in common."""
    known = [making.parameters for making in makings if making.weights]
    return [pair for pair in known[0] if all(pair in other for other in known)] if known else []


def _listing(pairs: list[tuple[str, object]]) -> str:
    words = {None: "none", True: "yes", False: "no"}
    return ", ".join(
        f"{name}: {words[value] if value is None or isinstance(value, bool) else pages.shown(value).unescape()}"
        for name, value in pairs
    )


def _summary(run: Run, anchor: str, most: int) -> Markup:
    """Return summary.csv without paths and without columns that are empty or all 0, each shown input's name a link."""
    if run.summary.empty:
        return pages.note("summary.csv is missing, or is no table.")
    columns = [name for name in run.summary.columns if not name.startswith(_HIDDEN) and run.summary[name].ne("").any()]
    columns = [name for name in columns if not (name.startswith("n_") and run.summary[name].isin(["", "0"]).all())]
    table = run.summary[columns].head(most)
    table = pd.DataFrame({name: table[name] if name == "name" else _as_numbers(table[name]) for name in columns})
    if "source" in columns:
        table["source"] = [Path(str(path)).name for path in table["source"]]
    at = {entry.name: f"{anchor}-{i}" for i, entry in enumerate(run.inputs[:most], start=1)}
    table["name"] = [pages.link(at[name], name) if name in at else name for name in table["name"]]
    count = f"the first {most} of {len(run.summary):,} rows" if len(run.summary) > most else ""
    return pages.table(_with_map_words(table), f"summary.csv{', ' * bool(count)}{count}")


def _as_numbers(column: pd.Series) -> pd.Series:
    """Return a column as numbers where all that stands in it is one, else as it is; nothing is NaN."""
    numbers = pd.to_numeric(column.where(column != ""), errors="coerce")
    return numbers if numbers.notna().equals(column != "") else column


def _input(run: Run, entry: Input, parameters: list[tuple[str, object]], layout: Layout) -> list[Markup]:
    """Return what is shown of one input: answer, pictures, table, and the lines that make it again."""
    counted = run.verb == "detect" and entry.answer == "done"
    word = _counted(run.measured(entry.name, "count"), "blob") if counted else entry.answer
    parts = [pages.paragraph(pages.answer(word, _TONES.get(entry.answer, "plain")), _measures(run, entry))]
    tried = [_given(run, role, path, round(0.6 * layout.longest_px)) for role, path in entry.files]
    if entry.answer != "error":
        tried += [_drawn(run, entry, drawing, layout) for drawing in _DRAWN[run.verb]]
    pictures = [part for part, is_there in tried if is_there]
    parts += [pages.figures(*pictures)] if pictures else []
    parts += [part for part, is_there in tried if not is_there]
    parts += [] if entry.answer == "error" else [_table(run, entry)]
    facts: list[tuple[str, object]] = [(role.capitalize(), str(path)) for role, path in entry.files]
    facts += [("Parameters", _listing(parameters))] if parameters else []
    facts += [] if math.isnan(entry.seconds) else [("Time", f"{entry.seconds:.2f} s")]
    parts.append(pages.key_values(facts))
    lines = python_lines(run, entry)
    return [*parts, pages.code(lines, "The same in Python")] if lines else parts


def _measures(run: Run, entry: Input) -> str:
    """Return what an answer says in numbers, or why there is none."""

    def value(column: str) -> str:
        text = run.measured(entry.name, column)
        return pages.shown(float(text)) if re.fullmatch(r"-?\d+\.\d+", text) else text or "–"

    if entry.answer == "error" or entry.why:
        return f": {entry.why}"
    if run.verb == "detect":
        return f", between {value('count_low')} and {value('count_high')} with 95 % confidence"
    if run.verb == "inspect":
        return f": {_counted(value('defects'), 'defect')}, {_share(value('coverage'))} of the sample inspected"
    if run.verb == "locate":
        return f": probability {value('probability')}, at scale {value('scale')}, turned by {value('angle_deg')}°"
    error = f"mean error about {value('error_px')} px, {_counted(value('tie_points'), 'tie point')}"
    return f": probability {value('probability')}, {error}"


def _counted(number: str, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != '1')}"


def _share(number: str) -> str:
    return f"{100 * float(number):.1f} %" if re.fullmatch(r"\d+(\.\d+)?", number) else number


def _given(run: Run, role: str, path: Path, longest_px: int) -> tuple[Markup, bool]:
    """Return the picture of an image that went in and True, or the line that says why it is left out and False."""
    found = find_file(run, path)
    if found is None:
        return pages.note(f"The {role} is left out: {path} is not there any more."), False
    try:
        image = open_image(found)
        pixels = read_shown(image, longest_px)
    except (InputError, OSError) as error:
        return pages.note(f"The {role} is left out: {error}"), False
    colors = in_color(pixels)
    gray = bool((colors == colors[..., :1]).all())
    stretched = "" if image.dtype == np.uint8 else ", contrast stretched"
    caption = f"{role.capitalize()}: {path.name}, {image.size[1]:,} × {image.size[0]:,} px{stretched}."
    picture = PillowImage.fromarray(np.ascontiguousarray(colors[..., 0] if gray else colors))
    return pages.figure(picture, f"The {role}, {path.name}", caption, longest_px), True


def _drawn(run: Run, entry: Input, drawing: tuple[str, str], layout: Layout) -> tuple[Markup, bool]:
    """Return a drawing that the run left and True, or the line that says why it is left out and False."""
    name, caption = drawing
    path, alt = run.folder / entry.name / name, f"{name} of {entry.name}. {caption}"
    if not path.is_file():
        return pages.note(f"{name} is missing."), False
    try:
        return pages.figure(path, alt, caption, layout.longest_px, wide=run.verb in ("locate", "inspect")), True
    except InputError as error:
        return pages.note(f"{name} is left out: {error}"), False


def _table(run: Run, entry: Input) -> Markup:
    name = KINDS[run.verb].table
    try:
        head, rows = read_head(run.folder / entry.name / name, HEAD_ROWS)
        head = head.drop(columns="answer", errors="ignore").dropna(how="all")  # in every row the same; of a refusal, alone
    except InputError as error:
        return pages.note(str(error))
    if head.empty:
        return pages.note(f"{name} lists nothing.")
    counted = f"the first {len(head)} of {rows:,} rows" if rows > len(head) else _counted(str(rows), "row")
    return pages.table(_with_map_words(head), f"{name}, {counted}", digits=5)


def _with_map_words(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its map coordinates as `_map_words` writes them."""
    on_map = [str(c) for c in table.select_dtypes("float") if str(c).endswith(("map_x", "map_y"))]
    return table.assign(**{column: _map_words(table[column]) for column in on_map})


def _map_words(column: pd.Series) -> pd.Series:
    """Return map coordinates in so many digits that places nearby differ in degrees, too, with equally many decimals."""
    words = [f"{value:.{MAP_DIGITS}g}" if math.isfinite(value) else None for value in column]
    plain = [word for word in words if word is not None and "e" not in word]
    places = max((len(word.partition(".")[2]) for word in plain), default=0)
    whole = [f"{value:.{places}f}" if word in plain else word for value, word in zip(column, words, strict=True)]
    return pd.Series(whole, column.index, dtype=object)


def python_lines(run: Run, entry: Input) -> str:
    """Return lines of Python that give one input's answer again; nothing where the command or a file is not recorded."""
    files, roles = dict(entry.files), KINDS[run.verb].roles
    if not run.command or entry.answer == "error" or not set(roles) <= set(files):
        return ""
    known = inspect.signature(_VERBS[run.verb]).parameters
    given = (*run.options, *_weights(run.command))
    options = [f"{name}={value!r}" for name, value in given if name in known and value != known[name].default]
    words = ", ".join([*(repr(str(files[role])) for role in roles), *options])
    return f"import fiducial\n\nfound = fiducial.{run.verb}({words})\n{_READ[run.verb]}"


def _weights(command: tuple[str, ...]) -> list[tuple[str, object]]:
    """Return the file of weights that a command names; run.json states their name and hash instead."""
    words = [part for word in command for part in (word.split("=", 1) if word.startswith("--weights=") else [word])]
    return [("weights", file) for option, file in pairwise(words) if option == "--weights"]
