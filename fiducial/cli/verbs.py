"""The verbs' commands."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fiducial.cli.parts import FOUR_GIB, Again, AsJson, Bar, Device, Errors, MaxBytes, Out, Weights, finish, follow, tell_budget


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
    again: Again = False,
    max_bytes: MaxBytes = FOUR_GIB,
    as_json: AsJson = False,
) -> None:
    """Find what differs between a sample and its good template: mask, table of defects, overlay, verdict.

    Exit status: 0 done, 1 some inputs of many failed, 2 bad input, 3 no alignment to trust or too little shared (one pair).

    Example: fiducial inspect board.png --template good.png -o results
    """
    with Errors():
        from fiducial import api, inputs, inspections, runs  # noqa: PLC0415

        pairs_of_files = inspections.choose_pairs(sample, samples, pairs, template)
        loaded, _, least = api.check_inspection(weights, device, min_probability, false_alarms)
        tell_budget(false_alarms, least)
        bar = Bar("inspecting", hidden=as_json)
        verb = partial(
            api.inspect, weights=weights, device=device, align=align, resize=resize, invert=invert,
            min_probability=min_probability, false_alarms=false_alarms, max_bytes=max_bytes, progress=bar.part,
        )  # fmt: skip
        run = runs.plan("inspect", inputs.name_inputs(pairs_of_files), out, verb.keywords, loaded, sys.argv[1:])
        answers = partial(inspections.run_inspections, inspect=verb, max_bytes=max_bytes)
        outcomes = follow(run, answers, bar, again=again)
    finish(run, outcomes, as_json=as_json)


def locate(
    query: Annotated[Path, typer.Argument(help="View to find, a folder, or a pattern.", show_default=False)],
    sources: Annotated[list[Path], typer.Argument(help="Overviews, folders of them, or patterns.", show_default=False)],
    *,
    out: Out = Path("fiducial-out"),
    weights: Weights = None,
    device: Device = "auto",
    scale: Annotated[
        str | None,
        typer.Option(help="Size of a query's pixel in the source's, or a range: 0.1-0.5. As the files state, or 0.1 to 1."),
    ] = None,
    most: Annotated[int, typer.Option(help="Places to report at most.")] = 5,
    min_probability: Annotated[float, typer.Option(help="Least probability at which a query counts as found.")] = 0.5,
    false_alarms: Annotated[
        float | None, typer.Option(help="Instead: how often a query may be found in a source without it, on average.")
    ] = None,
    again: Again = False,
    max_bytes: MaxBytes = FOUR_GIB,
    as_json: AsJson = False,
) -> None:
    """Find where a zoomed-in view lies in an overview: corners, scale, angle, probability, or "not here".

    Of many sources, each query finds its own.

    Exit status: 0 done, 1 some inputs of many failed, 2 bad input, 3 not here (one query).

    Example: fiducial locate zoom.tif overview.tif -o results
    """
    with Errors():
        from fiducial import api, inputs, runs, searches  # noqa: PLC0415

        scales = None if scale is None else api.parse_scale(scale)
        api.check_search(most, scales)
        loaded, _, least = api.check_location(weights, device, min_probability, false_alarms)
        tell_budget(false_alarms, least)
        overviews = tuple(inputs.choose_images(sources))
        files: list[inputs.Files] = [{"query": own, "sources": overviews} for own in inputs.choose_images([query])]
        bar = Bar("searching", hidden=as_json)
        verb = partial(
            api.locate, weights=weights, device=device, scale=scales, most=most,
            min_probability=min_probability, false_alarms=false_alarms, max_bytes=max_bytes,
        )  # fmt: skip
        run = runs.plan("locate", inputs.name_inputs(files), out, verb.keywords, loaded, sys.argv[1:])
        answers = partial(
            searches.run_searches,
            locate=lambda query, source, note: verb(query, source, progress=note),
            progress=bar.part,
            max_bytes=max_bytes,
        )
        outcomes = follow(run, answers, bar, again=again)
    finish(run, outcomes, as_json=as_json)


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
    again: Again = False,
    max_bytes: MaxBytes = FOUR_GIB,
    as_json: AsJson = False,
) -> None:
    """Find every blob in a crowd: center, radius, probability; and how many there are, with an interval.

    No blobs is an answer: count 0, exit status 0.

    Exit status: 0 done, 1 some inputs of many failed, 2 bad input.

    Example: fiducial detect nuclei.tif -o results
    """
    with Errors():
        from fiducial import api, detections, inputs, runs  # noqa: PLC0415

        files: list[inputs.Files] = [{"image": own} for own in inputs.choose_images(images)]
        if diameter is not None:
            api.parse_diameter(diameter)
        loaded, _, least = api.check_detection(weights, device, min_probability, false_alarms)
        tell_budget(false_alarms, least)
        bar = Bar("detecting", hidden=as_json)
        verb = partial(
            api.detect, weights=weights, device=device, diameter=diameter, min_probability=min_probability,
            false_alarms=false_alarms, embeddings=embeddings, max_bytes=max_bytes, progress=bar.part,
        )  # fmt: skip
        run = runs.plan("detect", inputs.name_inputs(files), out, verb.keywords, loaded, sys.argv[1:])
        answers = partial(detections.run_detections, detect=verb, max_bytes=max_bytes)
        outcomes = follow(run, answers, bar, again=again)
    finish(run, outcomes, as_json=as_json)


def register(
    moving: Annotated[Path, typer.Argument(help="Image to lay, a folder, or a pattern.", show_default=False)],
    fixed: Annotated[Path, typer.Argument(help="Image to lay it on.", show_default=False)],
    *,
    out: Out = Path("fiducial-out"),
    weights: Weights = None,
    device: Device = "auto",
    model: Annotated[str, typer.Option(help="shift, similarity, affine or homography.")] = "affine",
    scale: Annotated[
        str | None,
        typer.Option(help="Size of a moving pixel in fixed ones, or a range: 0.5-2. As the files state, or 0.6 to 1.67."),
    ] = None,
    turn_deg: Annotated[float, typer.Option(help="Largest angle, either way, that is searched for.")] = 180.0,
    use_map: Annotated[
        bool, typer.Option("--map/--no-map", help="Begin where both files' maps say, whatever --scale and --turn-deg.")
    ] = True,
    min_probability: Annotated[float, typer.Option(help="Least probability, of a mean error under 5 px, to accept.")] = 0.5,
    false_alarms: Annotated[
        float | None, typer.Option(help="Instead: how often a pair of different scenes may be accepted, on average.")
    ] = None,
    again: Again = False,
    max_bytes: MaxBytes = FOUR_GIB,
    as_json: AsJson = False,
) -> None:
    """Lay one image on another, whatever the sensors: transform, tie points, aligned image, error; or a refusal.

    Exit status: 0 done, 1 some inputs of many failed, 2 bad input, 3 refused (one image).

    Example: fiducial register sar.tif optical.tif -o results
    """
    with Errors():
        from fiducial import api, inputs, registrations, runs  # noqa: PLC0415

        scales = None if scale is None else api.parse_scale(scale)
        api.check_model(model, scales, turn_deg)
        loaded, _, least = api.check_registration(weights, device, min_probability, false_alarms)
        tell_budget(false_alarms, least)
        files: list[inputs.Files] = [{"moving": own, "fixed": fixed} for own in inputs.choose_images([moving])]
        bar = Bar("registering", hidden=as_json)
        verb = partial(
            api.register, weights=weights, device=device, model=model, scale=scales, turn_deg=turn_deg, use_map=use_map,
            min_probability=min_probability, false_alarms=false_alarms, max_bytes=max_bytes,
        )  # fmt: skip
        run = runs.plan("register", inputs.name_inputs(files), out, verb.keywords, loaded, sys.argv[1:])
        answers = partial(
            registrations.run_registrations,
            register=lambda moving, fixed, note: verb(moving, fixed, progress=note),
            progress=bar.part,
            max_bytes=max_bytes,
        )
        outcomes = follow(run, answers, bar, again=again)
    finish(run, outcomes, as_json=as_json)


def keypoints(
    image: Annotated[Path, typer.Argument(help="Image.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="File: .csv, .json, .geojson or .png.")] = Path("keypoints.csv"),
    weights: Weights = None,
    device: Device = "auto",
    most: Annotated[int, typer.Option(help="Points to return at most.")] = 1000,
    spacing: Annotated[int, typer.Option(help="Pixels from each other along an axis, at least.")] = 3,
    max_bytes: MaxBytes = FOUR_GIB,
) -> None:
    """Find points that a view of the same scene by another sensor would show too, best first.

    Example: fiducial keypoints scene.tif --most 300 -o points.csv
    """
    with Errors():
        import numpy as np  # noqa: PLC0415

        from fiducial import api, images, runs  # noqa: PLC0415
        from fiducial.formats.keypoints import FORMATS  # noqa: PLC0415

        runs.check_file(out, FORMATS)
        with Bar("searching") as bar:
            bar.begin(0, 1)
            found = api.keypoints(
                image,
                weights=weights,
                device=device,
                most=most,
                spacing=spacing,
                max_bytes=max_bytes,
                progress=bar.part,
            )
        if out.suffix.lower() == ".png":
            images.write_image(out, np.asarray(found.plot(image)))
        else:
            found.save(out)
    typer.echo(f"{out}: {len(found):,} point{'s' * (len(found) != 1)}")
