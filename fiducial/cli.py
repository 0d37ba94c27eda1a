"""The command line: parse, call, write. Heavy imports wait until a command needs them."""

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fiducial.version import VERSION

app = typer.Typer(
    help="Find, count, compare and align structure in images that people measure with.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
calibrate_app = typer.Typer(help="Set thresholds from images that are known to be good.", no_args_is_help=True)
train_app = typer.Typer(help="Train a family on your own data.", no_args_is_help=True)
evaluate_app = typer.Typer(help="Measure a family on annotated data.", no_args_is_help=True)
app.add_typer(calibrate_app, name="calibrate")
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
Weights = Annotated[Path | None, typer.Option(help="Weights of your own; the shipped ones by default.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
MaxBytes = Annotated[int, typer.Option(help="Budget in bytes for the pixels of one read.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, nothing else.")]

FOUR_GIB = 4 * 2**30


@app.callback(invoke_without_command=True)
def version(*, show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Find, count, compare and align structure in images that people measure with."""
    if show:
        typer.echo(f"fiducial {VERSION}")
        raise typer.Exit


@app.command()
def inspect(
    sample: Annotated[Path | None, typer.Argument(help="Image to judge.", show_default=False)] = None,
    *,
    template: Annotated[Path | None, typer.Option("--template", "-t", help="The good image, or a folder of them.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Folder of images to judge, in place of SAMPLE.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="CSV with columns sample, template, in place of SAMPLE.")] = None,
    out: Out = Path("fiducial-out"),
    weights: Weights = None,
    device: Device = "auto",
    align: Annotated[bool, typer.Option(help="Lay the template on the sample first.")] = True,
    resize: Annotated[bool, typer.Option(help="Resize a template of another size.")] = False,
    invert: Annotated[bool, typer.Option(help="Copper is bright in these images: judge their negatives.")] = False,
    min_probability: Annotated[float, typer.Option(help="Least probability of a reported defect.")] = 0.5,
    false_alarms: Annotated[float | None, typer.Option(help="Instead: alarms that a good image may raise on average.")] = None,
    max_bytes: MaxBytes = FOUR_GIB,
    as_json: AsJson = False,
) -> None:
    """Find what differs between a sample and its good template: mask, table of defects, overlay, verdict.

    Exit status: 0 done, 1 some inputs of many failed, 2 bad input, 3 no alignment to trust (one pair).

    Example: fiducial inspect board.png --template good.png -o results
    """
    from functools import partial  # noqa: PLC0415

    from fiducial import api, runs  # noqa: PLC0415

    with _errors():
        jobs = runs.choose_jobs(sample, samples, pairs, template)
        api.check_options(weights, device, min_probability, false_alarms)
        with _Bar("inspecting", hidden=as_json) as bar:
            verb = partial(
                api.inspect, weights=weights, device=device, align=align, resize=resize, invert=invert,
                min_probability=min_probability, false_alarms=false_alarms, max_bytes=max_bytes, progress=bar.tiles(len(jobs)),
            )  # fmt: skip
            outcomes = []
            for outcome in runs.run(jobs, verb, out, max_bytes):
                outcomes.append(outcome)
                bar.advance(len(outcomes))
    _report(runs.summary(outcomes), out, as_json=as_json)
    raise typer.Exit(runs.exit_status(outcomes))


@app.command()
def locate(
    query: Annotated[Path, typer.Argument(help="View to find, a folder, or a pattern.", show_default=False)],
    sources: Annotated[list[Path], typer.Argument(help="Overviews, folders of them, or patterns.", show_default=False)],
    *,
    out: Out = Path("fiducial-out"),
    weights: Weights = None,
    device: Device = "auto",
    scale: Annotated[
        float | None, typer.Option(help="Size of a query's pixel in the source's; by the files' pixel sizes, or 0.1 to 1.")
    ] = None,
    most: Annotated[int, typer.Option(help="Places to report at most.")] = 5,
    min_probability: Annotated[float, typer.Option(help="Least probability at which a query counts as found.")] = 0.5,
    max_bytes: MaxBytes = FOUR_GIB,
    as_json: AsJson = False,
) -> None:
    """Find where a zoomed-in view lies in an overview: corners, scale, angle, probability, or "not here".

    Of many sources, each query finds its own.

    Exit status: 0 done, 1 some inputs of many failed, 2 bad input, 3 not here (one query).

    Example: fiducial locate zoom.tif overview.tif -o results
    """
    from functools import partial  # noqa: PLC0415

    from fiducial import api, runs, searches  # noqa: PLC0415

    with _errors():
        api.check_search(most, min_probability, scale)
        api.load_locator(weights, device)
        queries, overviews = runs.choose_images([query]), runs.choose_images(sources)
        with _Bar("searching", hidden=as_json) as bar:
            verb = partial(
                api.locate, weights=weights, device=device, scale=scale, most=most,
                min_probability=min_probability, max_bytes=max_bytes,
            )  # fmt: skip
            done = list(searches.run_searches(queries, overviews, verb, out, max_bytes, bar.jobs))
    _report(searches.summary(done), out, as_json=as_json)
    raise typer.Exit(searches.exit_status(done))


@app.command()
def detect(
    images: Annotated[list[Path], typer.Argument(help="Images, folders of them, or patterns.", show_default=False)],
    *,
    out: Out = Path("fiducial-out"),
    weights: Weights = None,
    device: Device = "auto",
    diameter: Annotated[
        str | None, typer.Option(help="Typical diameter in pixels, or with a unit: 12, 3.5um. By default, 4 to 160 px.")
    ] = None,
    min_probability: Annotated[float, typer.Option(help="Least probability of a blob that is listed.")] = 0.5,
    false_alarms: Annotated[
        float | None, typer.Option(help="Instead: false blobs that a megapixel may hold on average.")
    ] = None,
    embeddings: Annotated[bool, typer.Option(help="Also write vectors that tell blobs apart (JSON).")] = False,
    max_bytes: MaxBytes = FOUR_GIB,
    as_json: AsJson = False,
) -> None:
    """Find every blob in a crowd: center, radius, probability; and how many there are, with an interval.

    No blobs is an answer: count 0, exit status 0.

    Exit status: 0 done, 1 some inputs of many failed, 2 bad input.

    Example: fiducial detect nuclei.tif -o results
    """
    from functools import partial  # noqa: PLC0415

    from fiducial import api, detections, runs  # noqa: PLC0415

    with _errors():
        chosen = runs.choose_images(images)
        if diameter is not None:
            api.parse_diameter(diameter)
        api.check_detection(weights, device, min_probability, false_alarms)
        with _Bar("detecting", hidden=as_json) as bar:
            verb = partial(
                api.detect, weights=weights, device=device, diameter=diameter, min_probability=min_probability,
                false_alarms=false_alarms, embeddings=embeddings, max_bytes=max_bytes, progress=bar.tiles(len(chosen)),
            )  # fmt: skip
            done = []
            for detection in detections.run_detections(chosen, verb, out, max_bytes):
                done.append(detection)
                bar.advance(len(done))
    _report(detections.summary(done), out, as_json=as_json)
    raise typer.Exit(detections.exit_status(done))


@calibrate_app.command("defects")
def calibrate_defects(
    *,
    good: Annotated[Path, typer.Option(help="Folder of images of good parts.")],
    template: Annotated[Path, typer.Option("--template", "-t", help="Their template, or a folder with one of each name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Weights file to write, calibrated.")],
    weights: Weights = None,
    device: Device = "auto",
    invert: Annotated[bool, typer.Option(help="Copper is bright in these images.")] = False,
) -> None:
    """Learn from good parts which probability they exceed how often, so that --false-alarms means your line.

    Example: fiducial calibrate defects --good good_boards --template good.png -o line3.safetensors
    """
    from fiducial import api, runs  # noqa: PLC0415

    with _errors(), _Bar("calibrating") as bar:
        jobs = [(job.sample, job.template) for job in runs.jobs_from_folder(good, template)]
        found = api.calibrate(jobs, out, weights=weights, device=device, invert=invert, progress=bar.jobs)
    typer.echo(f"{out}: {len(found.alarms)} false alarms on {found.good_images} good images")


@train_app.command("defects")
def train_defects(
    *,
    data: Annotated[Path, typer.Option(help="DeepPCB, or a folder with samples/, templates/, masks/.")],
    out: Out,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes 1, 2, ..., with commas; the shipped by default.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps of 8 crops.")] = 1000,
    start: Annotated[Path | None, typer.Option(help="Weights to start from; the shipped ones by default.")] = None,
    scratch: Annotated[bool, typer.Option(help="Start from nothing.")] = False,
    hold_out: Annotated[str, typer.Option(help="Groups to leave out, with commas: evaluate on them.")] = "",
) -> None:
    """Train on pairs of your own; stopped and started again, it goes on. Writes OUT/weights.safetensors.

    Example: fiducial train defects --data my_boards -o runs/mine --hold-out line3
    """
    with _errors():
        from fiducial.train.defects import train_defects_on  # noqa: PLC0415

        train_defects_on(data, out, classes, steps, start=start, scratch=scratch, hold_out=hold_out)
    typer.echo(f"{out / 'weights.safetensors'}")


@train_app.command("places")
def train_places(
    *,
    data: Annotated[Path, typer.Option(help="Folder of images to cut views from.")],
    out: Out,
    steps: Annotated[int, typer.Option(help="Training steps of 16 blocks.")] = 1000,
    start: Annotated[Path | None, typer.Option(help="Weights to start from; the shipped ones by default.")] = None,
    scratch: Annotated[bool, typer.Option(help="Start from nothing.")] = False,
) -> None:
    """Train on images of your own; stopped and started again, it goes on. Writes OUT/weights.safetensors.

    A fifth of the images, the last by name, is held out: probabilities are fitted on it.

    Example: fiducial train places --data my_micrographs -o runs/mine
    """
    with _errors():
        from fiducial.train.places import train_places_on  # noqa: PLC0415

        train_places_on(data, out, steps, start=start, scratch=scratch)
    typer.echo(f"{out / 'weights.safetensors'}")


@train_app.command("blobs")
def train_blobs(
    *,
    data: Annotated[Path, typer.Option(help="Folder with images/ and masks/, points/ or annotations.json.")],
    out: Out,
    steps: Annotated[int, typer.Option(help="Training steps of 8 crops.")] = 1000,
    start: Annotated[Path | None, typer.Option(help="Weights to start from; the shipped ones by default.")] = None,
    scratch: Annotated[bool, typer.Option(help="Start from nothing.")] = False,
) -> None:
    """Train on crowds of your own; stopped and started again, it goes on. Writes OUT/weights.safetensors.

    masks/ holds label images, points/ CSV files with columns y, x and, if known, radius; annotations.json is COCO's. A fifth of
    the images, the last by name, is held out: probabilities are fitted on it.

    Example: fiducial train blobs --data my_nuclei -o runs/mine
    """
    with _errors():
        from fiducial.train.blobs import train_blobs_on  # noqa: PLC0415

        train_blobs_on(data, out, steps, start=start, scratch=scratch)
    typer.echo(f"{out / 'weights.safetensors'}")


@evaluate_app.command("blobs")
def evaluate_blobs(
    *,
    data: Annotated[Path, typer.Option(help="Folder with images/ and masks/, points/ or annotations.json.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV to write.")],
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure on images whose blobs are known: found, false, how far off, adjacent ones told apart, counts.

    Example: fiducial evaluate blobs --data my_nuclei -o scores.csv
    """
    from fiducial import api  # noqa: PLC0415
    from fiducial.evaluate.blobs import evaluate_blobs_on  # noqa: PLC0415
    from fiducial.images import write_text  # noqa: PLC0415

    with _errors():
        with _Bar("evaluating", hidden=as_json) as bar:
            table = evaluate_blobs_on(data, api.check_detection(weights, device, 0.5, None)[1], bar.jobs)
        write_text(out, table.to_csv(index=False, lineterminator="\n"))
    _report(table.T.reset_index(), out, as_json=as_json)


@evaluate_app.command("places")
def evaluate_places(
    *,
    data: Annotated[Path, typer.Option(help="Folder of images to cut cases from.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV to write.")],
    cases: Annotated[int, typer.Option(help="How many cases to draw.")] = 120,
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure on views cut from your images, turned, reduced, re-exposed, and on absent ones.

    Example: fiducial evaluate places --data my_micrographs -o scores.csv
    """
    from fiducial import api  # noqa: PLC0415
    from fiducial.evaluate.places import evaluate_places_on  # noqa: PLC0415
    from fiducial.images import write_text  # noqa: PLC0415

    with _errors():
        with _Bar("evaluating", hidden=as_json) as bar:
            table = evaluate_places_on(data, api.load_locator(weights, device)[1], cases, bar.jobs)
        write_text(out, table.to_csv(index=False, lineterminator="\n"))
    _report(table.T.reset_index(), out, as_json=as_json)


@evaluate_app.command("defects")
def evaluate_defects(
    *,
    data: Annotated[Path, typer.Option(help="DeepPCB, or a folder with samples/, templates/, masks/.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV to write.")],
    groups: Annotated[str, typer.Option(help="Groups to measure on, with commas; all by default.")] = "",
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure on annotated pairs: aligned, and with the template displaced at three strengths.

    Example: fiducial evaluate defects --data my_boards --groups line3 -o scores.csv
    """
    from fiducial.evaluate.defects import evaluate_defects_on  # noqa: PLC0415
    from fiducial.images import write_text  # noqa: PLC0415

    with _errors():
        with _Bar("evaluating", hidden=as_json) as bar:
            table = evaluate_defects_on(data, groups, weights, device, bar.jobs)
        write_text(out, table.to_csv(index=False, lineterminator="\n"))
    _report(table.T.reset_index(), out, as_json=as_json)


class _errors:  # noqa: N801 (reads as a statement)
    """Turn an `InputError` into one line on standard error and exit status 2."""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Print and exit where the user can mend it."""
        from fiducial.records import InputError  # noqa: PLC0415

        if isinstance(error, InputError | OSError):
            _fail(str(error))
        if isinstance(error, ModuleNotFoundError) and error.name in ("lightning", "matplotlib"):
            _fail(f"{error.name} is not installed: pip install 'fiducial[train]'")


def _fail(line: str) -> NoReturn:
    typer.echo(f"fiducial: {line}", err=True)
    raise typer.Exit(2)


class _Bar:
    """A progress bar on standard error."""

    def __init__(self, text: str, *, hidden: bool = False) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import Progress  # noqa: PLC0415

        self.progress = Progress(console=Console(stderr=True), transient=True, disable=hidden or not sys.stderr.isatty())
        self.task = self.progress.add_task(text, total=None)

    def __enter__(self) -> "_Bar":
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


def _report(table: Any, out: Path, *, as_json: bool) -> None:  # noqa: ANN401 (pandas is imported late)
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


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
