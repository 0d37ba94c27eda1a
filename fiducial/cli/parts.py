"""What the commands share: options, one line for an error, a progress bar, a table."""

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Weights = Annotated[Path | None, typer.Option(help="Weights of your own; the shipped ones by default.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
MaxBytes = Annotated[int, typer.Option(help="Budget in bytes for the pixels of one read.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]

FOUR_GIB = 4 * 2**30


class Errors:
    """Turn an `InputError` into one line on standard error and exit status 2."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Print and exit where the user can mend it."""
        from fiducial.records import InputError  # noqa: PLC0415

        if isinstance(error, InputError | OSError):
            fail(str(error))
        if isinstance(error, ModuleNotFoundError) and error.name in ("lightning", "matplotlib"):
            fail(f"{error.name} is not installed: pip install 'fiducial[train]'")


def fail(line: str) -> NoReturn:
    """Print one line on standard error and exit with status 2."""
    typer.echo(f"fiducial: {line}", err=True)
    raise typer.Exit(2)


class Bar:
    """A progress bar on standard error."""

    def __init__(self, text: str, *, hidden: bool = False) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import Progress  # noqa: PLC0415

        self.progress = Progress(console=Console(stderr=True), transient=True, disable=hidden or not sys.stderr.isatty())
        self.task = self.progress.add_task(text, total=None)

    def __enter__(self) -> "Bar":
        """Show it."""
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove it."""
        self.progress.stop()

    def tiles(self, jobs: int) -> Any:  # noqa: ANN401 (a callable of (done, total))
        """Return what to call with (tiles done, tiles in all) of the job in progress."""
        self.done_jobs = 0

        def note(done: int, total: int) -> None:
            self.progress.update(self.task, total=jobs, completed=self.done_jobs + done / total)

        return note

    def advance(self, done_jobs: int) -> None:
        """Note that so many jobs are done."""
        self.done_jobs = done_jobs
        self.progress.update(self.task, completed=done_jobs)

    def jobs(self, done: int, total: int) -> None:
        """Note (jobs done, jobs in all)."""
        self.progress.update(self.task, total=total, completed=done)


def report(table: Any, out: Path, *, as_json: bool) -> None:  # noqa: ANN401 (pandas is imported late)
    """Print a table, as JSON records or for people."""
    if as_json:
        typer.echo(table.to_json(orient="records", force_ascii=False, indent=1))
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    shown = Table(title=escape(str(out)), title_justify="left")
    hidden = ("sample", "template", "query", "image", "corner", "shift", "n_", "why")  # in the file
    columns = [c for c in table.columns if not str(c).startswith(hidden) and not table[c].isin(["", None]).all()]
    for column in columns:
        shown.add_column(str(column), overflow="fold")
    short = table[columns].assign(
        **({"source": table["source"].map(lambda p: Path(str(p)).name)} if "source" in columns else {})
    )
    for row in short.itertuples(index=False):
        shown.add_row(*("" if value is None or value != value else escape(_text(value)) for value in row))  # noqa: PLR0124 (NaN)
    Console().print(shown)
    for row in table.itertuples(index=False):
        if getattr(row, "why", ""):
            typer.echo(f"{row.name}: {row.why}")


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
