"""The command line: parse, call, write. Heavy imports wait until a command needs them."""

import io
import multiprocessing
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from fiducial.cli import benchmark, evaluation, pages, training, verbs
from fiducial.version import VERSION

app = typer.Typer(
    help="Find, count, compare and align structure in images that people measure with.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
calibrate_app = typer.Typer(
    help="Fit probabilities, or what a budget of false alarms means, on images of your own.", no_args_is_help=True
)
train_app = typer.Typer(help="Train a family on your own data.", no_args_is_help=True)
evaluate_app = typer.Typer(help="Measure a family on annotated data.", no_args_is_help=True)
app.add_typer(calibrate_app, name="calibrate")
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")


@app.callback(invoke_without_command=True)
def version(*, show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Find, count, compare and align structure in images that people measure with."""
    if show:
        typer.echo(f"fiducial {VERSION}")
        raise typer.Exit


for command in (verbs.inspect, verbs.locate, verbs.detect, verbs.register, verbs.keypoints):
    app.command()(command)
app.command()(pages.report)
app.command()(benchmark.benchmark)
calibrate_app.command("defects")(training.calibrate_defects)
calibrate_app.command("blobs")(training.calibrate_blobs)
train_app.command("defects")(training.train_defects)
train_app.command("places")(training.train_places)
train_app.command("blobs")(training.train_blobs)
train_app.command("keypoints")(training.train_keypoints)
evaluate_app.command("defects")(evaluation.evaluate_defects)
evaluate_app.command("places")(evaluation.evaluate_places)
evaluate_app.command("blobs")(evaluation.evaluate_blobs)
evaluate_app.command("keypoints")(evaluation.evaluate_keypoints)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal has no letters for is no reason to stop
    warnings.formatwarning = _format_warning
    try:
        app()
    except SystemExit as end:
        _leave(end.code)
        raise
    except OSError as error:  # commands tell of their own: this is help, or the version, that nothing takes
        typer.echo(f"fiducial: cannot print: {error.strerror}", err=True)
        os._exit(2)  # Python's own end would try to print again


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning of our own as a line like all others; those of libraries as they are."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"fiducial: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n{line or ''}"


def _leave(status: object) -> None:
    """End the process at once: what was asked for is written, and to take down all that torch holds takes half a second.

    Returns, for the usual end, where processes of ours still run or the streams cannot be flushed.
    """
    if type(status) is not int or multiprocessing.active_children():
        return
    with suppress(OSError):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed when the process began
                stream.flush()
        os._exit(status)
