"""The commands that write pages."""

from pathlib import Path
from typing import Annotated

import typer

from fiducial.cli.parts import Errors


def report(
    folder: Annotated[Path, typer.Argument(help="What a run wrote, or a folder of such.", show_default=False)],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; by default index.html in FOLDER.", show_default=False)
    ] = None,
    title: Annotated[str | None, typer.Option(help="Its title.", show_default=False)] = None,
    most: Annotated[int, typer.Option(min=1, help="Inputs of one run that are shown at most.")] = 50,
) -> None:
    """Make a page of what a run wrote: inputs, overlays, tables, the command and the Python lines, weights and time.

    One HTML file that needs nothing else. What stands in notes.txt of FOLDER, or of a run's folder in it, stands on the page.

    Exit status: 0 done, 2 bad input.

    Example: fiducial report results -o page.html
    """
    with Errors():
        from fiducial.images import write_text  # noqa: PLC0415
        from fiducial.outputs import find_runs  # noqa: PLC0415
        from fiducial.report import report_page  # noqa: PLC0415
        from fiducial.runs import check_file  # noqa: PLC0415

        page = out if out is not None else folder / "index.html"
        runs = find_runs(folder)
        check_file(page)
        name = title if title is not None else f"{runs[0].verb if len(runs) == 1 else 'Fiducial'}: {folder.resolve().name}"
        write_text(page, report_page(runs, name, folder, most))
    count = sum(len(run.inputs) for run in runs)
    typer.echo(f"{page}: {len(runs)} run{'s' * (len(runs) != 1)}, {count:,} input{'s' * (count != 1)}")
