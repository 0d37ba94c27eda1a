"""Commands that train and calibrate."""

from pathlib import Path
from typing import Annotated

import typer

from fiducial.cli.parts import FOUR_GIB, Bar, Device, Errors, MaxBytes, Out, Weights


def calibrate_defects(
    *,
    good: Annotated[Path, typer.Option(help="Folder of images of good parts.")],
    template: Annotated[Path, typer.Option("--template", "-t", help="Their template, or a folder with one of each name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Weights file to write, calibrated.")],
    weights: Weights = None,
    device: Device = "auto",
    align: Annotated[bool, typer.Option(help="Lay the template on the sample first.")] = True,
    resize: Annotated[bool, typer.Option(help="Resize a template of another size.")] = False,
    invert: Annotated[bool, typer.Option(help="Copper is bright in these images: judge their negatives.")] = False,
    max_bytes: MaxBytes = FOUR_GIB,
) -> None:
    """Learn from good parts which probability they exceed how often, so that --false-alarms means your line.

    Example: fiducial calibrate defects --good good_boards --template good.png -o line3.safetensors
    """
    with Errors():
        from fiducial import api, inspections, runs  # noqa: PLC0415

        runs.check_file(out)
        jobs = inspections.pairs_from_folder(good, template)
        with Bar("calibrating") as bar:
            found = api.calibrate(
                jobs, out, weights=weights, device=device, align=align, resize=resize, invert=invert, max_bytes=max_bytes,
                progress=bar.jobs,
            )  # fmt: skip
    listed, left_out = sum(alarm >= 0.5 for alarm in found.alarms), len(jobs) - found.good_images
    refused = f"; {left_out} could not be aligned and were left out" if left_out else ""
    typer.echo(f"{out}: {listed} false alarms of probability 0.5 or more on {found.good_images} good images{refused}")


def calibrate_blobs(
    *,
    data: Annotated[Path, typer.Option(help="Folder with images/ and masks/, points/ or annotations.json.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Weights file to write, calibrated.")],
    weights: Weights = None,
    device: Device = "auto",
) -> None:
    """Fit probabilities, intervals of counts and --false-alarms on annotated images of your own, without training.

    Example: fiducial calibrate blobs --data my_nuclei -o mine.safetensors
    """
    with Errors():
        from fiducial import api, runs  # noqa: PLC0415
        from fiducial.confidence import written  # noqa: PLC0415
        from fiducial.datasets import read_crowds  # noqa: PLC0415

        runs.check_file(out)
        images = read_crowds(data)
        with Bar("calibrating") as bar:
            found = api.calibrate_blobs(images, out, weights=weights, device=device, progress=bar.jobs)
    blobs = sum(len(image.crowd) for image in images)
    typer.echo(f"{out}: fitted on {blobs} blobs in {len(images)} images, {written(found.megapixels)} megapixels")


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
    hold_out: Annotated[str, typer.Option(help="Groups to leave out, with commas: probabilities are fitted on them.")] = "",
) -> None:
    """Train on pairs of your own; stopped and started again, it goes on. Writes OUT/weights.safetensors.

    Without --hold-out its scores are no probabilities, and inspect refuses the weights; they can be evaluated and trained on.

    Example: fiducial train defects --data my_boards -o runs/mine --hold-out line3
    """
    with Errors():
        from fiducial import runs  # noqa: PLC0415
        from fiducial.train.defects import train_defects_on  # noqa: PLC0415

        runs.check_file(out / "weights.safetensors")

        train_defects_on(data, out, classes, steps, start=start, scratch=scratch, hold_out=hold_out)
    typer.echo(f"{out / 'weights.safetensors'}" + ("" if hold_out else ": not calibrated, which inspect needs (--hold-out)"))


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
    with Errors():
        from fiducial import runs  # noqa: PLC0415
        from fiducial.train.places import train_places_on  # noqa: PLC0415

        runs.check_file(out / "weights.safetensors")

        train_places_on(data, out, steps, start=start, scratch=scratch)
    typer.echo(f"{out / 'weights.safetensors'}")


def train_blobs(
    *,
    data: Annotated[Path, typer.Option(help="Folder with images/ and masks/, points/ or annotations.json.")],
    out: Out,
    steps: Annotated[int, typer.Option(help="Training steps of 8 crops.")] = 1000,
    start: Annotated[Path | None, typer.Option(help="Weights to start from; the shipped ones by default.")] = None,
    scratch: Annotated[bool, typer.Option(help="Start from nothing.")] = False,
) -> None:
    """Train on crowds of your own; stopped and started again, it goes on. Writes OUT/weights.safetensors.

    masks/ holds label images, points/ CSV files with columns y, x and, if
    known, radius; annotations.json is COCO's.

    A fifth of the images, the last by name, is held out: probabilities are
    fitted on it.

    Example: fiducial train blobs --data my_nuclei -o runs/mine
    """
    with Errors():
        from fiducial import runs  # noqa: PLC0415
        from fiducial.train.blobs import train_blobs_on  # noqa: PLC0415

        runs.check_file(out / "weights.safetensors")

        train_blobs_on(data, out, steps, start=start, scratch=scratch)
    typer.echo(f"{out / 'weights.safetensors'}")


def train_keypoints(
    *,
    data: Annotated[Path, typer.Option(help="Folder with a/ and b/, aligned images by name, or of single images.")],
    out: Out,
    steps: Annotated[int, typer.Option(help="Training steps of 8 pairs of views.")] = 1000,
    start: Annotated[Path | None, typer.Option(help="Weights to start from; the shipped ones by default.")] = None,
    scratch: Annotated[bool, typer.Option(help="Start from nothing.")] = False,
) -> None:
    """Train on aligned pairs by two sensors, or on single images that are changed as if by another.

    Stopped and started again, it goes on. Writes OUT/weights.safetensors.

    A fifth of the images, the last by name, is held out: probabilities are
    fitted on it.

    Example: fiducial train keypoints --data my_scenes -o runs/mine
    """
    with Errors():
        from fiducial import runs  # noqa: PLC0415
        from fiducial.train.keypoints import train_keypoints_on  # noqa: PLC0415

        runs.check_file(out / "weights.safetensors")

        train_keypoints_on(data, out, steps, start=start, scratch=scratch)
    typer.echo(f"{out / 'weights.safetensors'}")
