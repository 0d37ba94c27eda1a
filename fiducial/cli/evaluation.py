"""Commands that measure on annotated data."""

from pathlib import Path
from typing import Annotated

import typer

from fiducial.cli.parts import AsJson, Bar, Device, Errors, Weights, print_table


def evaluate_blobs(
    *,
    data: Annotated[Path, typer.Option(help="Folder with images/ and masks/, points/ or annotations.json.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV to write.")],
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure on images whose blobs are known, and on what they show between them: found, false, how far off, counts.

    Example: fiducial evaluate blobs --data my_nuclei -o scores.csv
    """
    with Errors():
        from fiducial import api, runs  # noqa: PLC0415
        from fiducial.evaluate.blobs import evaluate_blobs_on  # noqa: PLC0415
        from fiducial.images import write_text  # noqa: PLC0415

        runs.check_file(out)
        with Bar("evaluating", hidden=as_json) as bar:
            table = evaluate_blobs_on(data, api.check_detection(weights, device, 0.5, None)[1], bar.jobs)
        write_text(out, table.to_csv(index=False, lineterminator="\n"))
    print_table(table, out, as_json=as_json, upright=True)


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
    with Errors():
        from fiducial import api, runs  # noqa: PLC0415
        from fiducial.evaluate.places import evaluate_places_on  # noqa: PLC0415
        from fiducial.images import write_text  # noqa: PLC0415

        runs.check_file(out)
        with Bar("evaluating", hidden=as_json) as bar:
            table = evaluate_places_on(data, api.load_locator(weights, device)[1], cases, bar.jobs)
        write_text(out, table.to_csv(index=False, lineterminator="\n"))
    print_table(table, out, as_json=as_json, upright=True)


def evaluate_defects(
    *,
    data: Annotated[Path, typer.Option(help="DeepPCB, or a folder with samples/, templates/, masks/.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV to write.")],
    groups: Annotated[str, typer.Option(help="Groups to measure on, with commas; all by default.")] = "",
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure on annotated pairs, aligned and with the template displaced at three strengths, and on good parts.

    Example: fiducial evaluate defects --data my_boards --groups line3 -o scores.csv
    """
    with Errors():
        from fiducial import runs  # noqa: PLC0415
        from fiducial.evaluate.defects import evaluate_defects_on  # noqa: PLC0415
        from fiducial.images import write_text  # noqa: PLC0415

        runs.check_file(out)
        with Bar("evaluating", hidden=as_json) as bar:
            table = evaluate_defects_on(data, groups, weights, device, bar.jobs)
        write_text(out, table.to_csv(index=False, lineterminator="\n"))
    print_table(table, out, as_json=as_json, upright=True)


def evaluate_keypoints(
    *,
    data: Annotated[Path, typer.Option(help="Folder with a/ and b/, aligned images by name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV to write.")],
    cases: Annotated[int, typer.Option(help="How many cases to draw.")] = 60,
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure register on your pairs, displaced by known transforms, and on absent ones.

    Example: fiducial evaluate keypoints --data my_scenes -o scores.csv
    """
    with Errors():
        from fiducial import api, runs  # noqa: PLC0415
        from fiducial.evaluate.keypoints import evaluate_keypoints_on  # noqa: PLC0415
        from fiducial.images import write_text  # noqa: PLC0415

        runs.check_file(out)
        with Bar("evaluating", hidden=as_json) as bar:
            table = evaluate_keypoints_on(data, api.load_registrar(weights, device)[1], cases, bar.jobs)
        write_text(out, table.to_csv(index=False, lineterminator="\n"))
    print_table(table, out, as_json=as_json, upright=True)
