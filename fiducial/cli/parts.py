"""What the commands share: options, one line for an error or an interrupt, a progress bar, a table."""

import json
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from fiducial.runs import Outcome, Run

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Weights = Annotated[Path | None, typer.Option(help="Weights of your own; the shipped ones by default.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
MaxBytes = Annotated[int, typer.Option(help="Budget in bytes for the pixels of one read.")]
Again = Annotated[bool, typer.Option("--again", help="Compute anew what is unchanged since the last run, too.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]

FOUR_GIB = 4 * 2**30
_DIGITS = 4  # of a number in a table
_LEAST = 8  # letters of a column, however narrow the terminal
_NO_XY = str.maketrans("", "", "xy")  # by which the names of a pair of columns are one


class Errors:
    """Turn what a user can mend into one line on standard error and exit status 2, an interrupt or SIGTERM into one and 130.

    That is an `InputError`, what the system says, too little memory, an extra that is not installed.
    """

    def __enter__(self) -> None:
        """Take SIGTERM for an interrupt, so that what is being written is cleaned up."""
        self.at_term = signal.getsignal(signal.SIGTERM)
        self.takes_term = threading.current_thread() is threading.main_thread() and self.at_term == signal.SIG_DFL
        if self.takes_term:
            signal.signal(signal.SIGTERM, signal.default_int_handler)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Print and exit where the user can mend it."""
        if self.takes_term:
            signal.signal(signal.SIGTERM, self.at_term)
        if isinstance(error, KeyboardInterrupt):
            fail(str(error) or "stopped", 130)
        if isinstance(error, ModuleNotFoundError) and error.name in ("lightning", "matplotlib"):
            fail(f"{error.name} is not installed: pip install 'fiducial[train]'")
        if isinstance(error, ValueError | OSError | MemoryError | RuntimeError):
            from fiducial.runs import SAID, said_of  # noqa: PLC0415

            if isinstance(error, SAID):
                fail(said_of(error))


def fail(line: str, status: int = 2) -> NoReturn:
    """Print one line on standard error, whatever names it holds, and exit with a status."""
    if not line.isprintable():
        from fiducial.images.limits import readable  # noqa: PLC0415

        line = readable(line)
    typer.echo(f"fiducial: {line}".encode("utf-8", "replace").decode(), err=True)
    raise typer.Exit(status)


def tell_budget(false_alarms: float | None, least: float) -> None:
    """Say on standard error from which probability on answers are given, where a budget of false alarms decides that."""
    if false_alarms is not None:
        typer.echo(
            f"fiducial: a budget of {false_alarms:g} false alarms: answers from a probability of {least:.6g} on", err=True
        )


class Bar:
    """A progress bar on standard error: inputs done, time taken, and time that the rest will take at this rate.

    Where standard error is no terminal there is none, and nothing in its place: run.json and summary.csv in the folder of a
    run say how far it is.
    """

    def __init__(self, text: str, *, hidden: bool = False) -> None:
        from rich import progress  # noqa: PLC0415
        from rich.console import Console  # noqa: PLC0415

        self.progress = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=hidden or not sys.stderr.isatty(),
            speed_estimate_period=3600.0,  # one input may take minutes
        )
        self.task = self.progress.add_task(text, total=None)
        self.done = 0

    def __enter__(self) -> "Bar":
        """Show it."""
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove it."""
        self.progress.stop()

    def begin(self, done: int, total: int) -> None:
        """Note how many inputs there are, and how many were done before: they say nothing of the time that the rest takes."""
        self.done = done
        self.progress.reset(self.task, total=total, completed=done)

    def part(self, done: int, total: int) -> None:
        """Note parts done of the input in progress, and parts in all."""
        self.progress.update(self.task, completed=self.done + done / total)

    def advance(self, done: int) -> None:
        """Note that so many inputs are done."""
        self.done = done
        self.progress.update(self.task, completed=done)

    def jobs(self, done: int, total: int) -> None:
        """Note (jobs done, jobs in all)."""
        self.progress.update(self.task, total=total, completed=done)


def follow(
    run: "Run", answers: "Callable[[Run, Sequence[Outcome]], Iterator[Outcome]]", bar: Bar, *, again: bool
) -> "list[Outcome]":
    """Carry out a run, the bar beside it, and return all outcomes, those kept from before among them.

    What ends it before its end is told with how far it came: an interrupt, or a disk that takes no more (exit status 2 where
    nothing was done, else 1).
    """
    from fiducial.runs import OutputError, earlier, in_order  # noqa: PLC0415

    total, kept = len(run.inputs), () if again else earlier(run)
    if kept:
        typer.echo(f"{len(kept)} of {total} are taken from the run before, unchanged (--again computes them anew)", err=True)
    done = list(kept)
    try:
        with bar:
            bar.begin(len(kept), total)
            for outcome in answers(run, kept):
                done.append(outcome)
                bar.advance(len(done))
    except KeyboardInterrupt as error:
        more = "run the same command again to go on"
        raise KeyboardInterrupt(f"stopped after {len(done)} of {total}; {more}" if total > 1 else "stopped") from error
    except OutputError as error:
        fail(f"stopped after {len(done)} of {total}: {error}" if total > 1 else str(error), 1 if done else 2)
    return in_order(run, done)


def finish(run: "Run", outcomes: "Sequence[Outcome]", *, as_json: bool) -> NoReturn:
    """Print what became of a run's inputs, and exit with the status that says it."""
    from fiducial.runs import exit_status, summary  # noqa: PLC0415

    print_table(summary(run, outcomes), run.out, as_json=as_json)
    raise typer.Exit(exit_status(outcomes))


def print_table(table: Any, out: Path, *, as_json: bool, upright: bool = False) -> None:  # noqa: ANN401 (pandas is imported late)
    """Print a table: as JSON records, one a row, or for people, its columns below one another if it is `upright`."""
    if as_json:
        records = [{name: _value(value) for name, value in row.items()} for row in table.to_dict("records")]
        ascii_only = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
        typer.echo(json.dumps(records, ensure_ascii=ascii_only, allow_nan=False, indent=1))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console(emoji=False)
    for i, band in enumerate(_bands(_upright(table) if upright else _brief(table), console.width)):
        shown = Table(title=escape(str(out)) if i == 0 else None, title_justify="left")
        for wide, column in band:
            shown.add_column(escape(column[0]), overflow="fold", width=wide)
        for row in zip(*(column[1:] for _, column in band), strict=True):
            shown.add_row(*map(escape, row))
        console.print(shown)
    for row in () if upright else table.itertuples(index=False):
        if row.why:
            typer.echo(f"{row.name}: {row.why}")


def _brief(table: Any) -> list[list[str]]:  # noqa: ANN401 (as above)
    """Return the columns of a summary for people, each begun by its name: without files, nor what is empty or too much."""
    from fiducial.report import MAP_DIGITS  # noqa: PLC0415

    hidden = ("sample", "template", "query", "image", "moving", "fixed", "corner", "shift", "within", "n_", "why")
    columns = []
    for name in (c for c in table.columns if not str(c).startswith(hidden) and not table[c].isin(["", None]).all()):
        values = [value and Path(str(value)).name for value in table[name]] if name == "source" else table[name]
        digits = MAP_DIGITS if str(name).endswith(("map_x", "map_y")) else _DIGITS
        columns.append([str(name), *(_text(value, digits) for value in values)])
    return columns


def _upright(table: Any) -> list[list[str]]:  # noqa: ANN401 (as above)
    """Return the names of scores, and beside them each row of a table under the name that it begins with, if it has one."""
    names = [str(name) for name in table.columns]
    rows = [[_text(value) for value in row] for row in table.itertuples(index=False)]
    if all(isinstance(name, str) for name in table.iloc[:, 0]):
        return [["score", *names[1:]], *rows]
    return [["score", *names], *(["value", *row] for row in rows)]


def _bands(columns: list[list[str]], width: int) -> Iterator[list[tuple[int, list[str]]]]:
    """Part columns, with the room that each needs, into tables that fit a width; the first column is in each.

    Those of x and y stay together. Words too long for that are folded: in the first column, which holds names, those that would
    take half the width, at a third of it.
    """
    from rich.cells import cell_len  # noqa: PLC0415

    needed = [max(map(cell_len, column)) for column in columns]
    fits = sum(needed) + 3 * len(needed) < width or needed[0] < width // 2 - 3
    first = needed[0] if fits else max(_LEAST, width // 3)
    room = max(_LEAST, width - first - 7)  # a column takes three more for its border and its margins, a table one
    left, band = room, [(first, columns[0])]
    for wide, column in zip(needed[1:], columns[1:], strict=True):
        own = min(wide, room)
        if own > left and len(band) > 1:
            alike = len(band) > 2 and band[-1][1][0].translate(_NO_XY) == column[0].translate(_NO_XY)
            pair = band[-1:] if alike and band[-1][0] + 3 + own <= room else []
            yield band[: len(band) - len(pair)]
            left, band = room - sum(before + 3 for before, _ in pair), [band[0], *pair]
        left, band = left - own - 3, [*band, (own, column)]
    yield band


def _value(value: object) -> object:
    """Return a cell as JSON can hold it, with all its digits; None for what is undefined."""
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _text(value: object, digits: int = _DIGITS) -> str:
    """Return a cell as it is read: floats in about so many digits, above 1000 with a decimal; nothing for what is undefined."""
    from fiducial.confidence import written  # noqa: PLC0415

    if value is None or value != value:  # noqa: PLR0124 (NaN)
        return ""
    return written(value, digits, 1) if isinstance(value, float) else str(value)
