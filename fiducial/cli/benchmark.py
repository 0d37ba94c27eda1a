"""The command that measures the verbs anew, from a clone of the project."""

from pathlib import Path
from typing import Annotated

import typer

from fiducial.cli.parts import fail

FOLDER = Path(__file__).parents[2] / "benchmarks"  # beside the package, in a clone


def benchmark(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Small subsets, into the output folder alone.")] = False,
    only: Annotated[str, typer.Option(help="Scripts to run, with commas; all by default.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of the public datasets.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page.")] = Path("runs/benchmark"),
    folder: Annotated[Path, typer.Option(help="The project's folder benchmarks/.", show_default=False)] = FOLDER,
    threads: Annotated[int, typer.Option(min=1, help="Of torch and OpenCV, each.")] = 2,
) -> None:
    """Measure every table of the docs anew and write one page of all, from a clone of the project.

    A script whose data are missing is passed over. Without --quick, the
    tables in benchmarks/results and in the docs are rewritten, which takes
    hours.

    Exit status: 0 done, 1 a script failed, 2 bad input.

    Example: fiducial benchmark --quick --data ../shared/data -o out
    """
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    suite = folder / "suite.py"
    if not suite.is_file():
        fail(f"{folder} holds no benchmarks: they come with a clone of the project, name its folder benchmarks/ by --folder")
    words = [sys.executable, str(suite), "--only", only, "--out", str(out), "--threads", str(threads)]
    words += ["--quick"] if quick else []
    words += ["--data", str(data)] if data is not None else []
    raise typer.Exit(subprocess.run(words, check=False).returncode)
