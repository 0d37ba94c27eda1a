"""The verbs' commands."""

from pathlib import Path
from typing import Annotated

import typer

from fiducial.cli.parts import FOUR_GIB, AsJson, Bar, Device, Errors, MaxBytes, Out, Weights, report


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

    with Errors():
        jobs = runs.choose_jobs(sample, samples, pairs, template)
        api.check_options(weights, device, min_probability, false_alarms)
        with Bar("inspecting", hidden=as_json) as bar:
            verb = partial(
                api.inspect, weights=weights, device=device, align=align, resize=resize, invert=invert,
                min_probability=min_probability, false_alarms=false_alarms, max_bytes=max_bytes, progress=bar.tiles(len(jobs)),
            )  # fmt: skip
            outcomes = []
            for outcome in runs.run(jobs, verb, out, max_bytes):
                outcomes.append(outcome)
                bar.advance(len(outcomes))
    report(runs.summary(outcomes), out, as_json=as_json)
    raise typer.Exit(runs.exit_status(outcomes))


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

    with Errors():
        api.check_search(most, min_probability, scale)
        api.load_locator(weights, device)
        queries, overviews = runs.choose_images([query]), runs.choose_images(sources)
        with Bar("searching", hidden=as_json) as bar:
            verb = partial(
                api.locate, weights=weights, device=device, scale=scale, most=most,
                min_probability=min_probability, max_bytes=max_bytes,
            )  # fmt: skip
            done = list(searches.run_searches(queries, overviews, verb, out, max_bytes, bar.jobs))
    report(searches.summary(done), out, as_json=as_json)
    raise typer.Exit(searches.exit_status(done))


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

    with Errors():
        chosen = runs.choose_images(images)
        if diameter is not None:
            api.parse_diameter(diameter)
        api.check_detection(weights, device, min_probability, false_alarms)
        with Bar("detecting", hidden=as_json) as bar:
            verb = partial(
                api.detect, weights=weights, device=device, diameter=diameter, min_probability=min_probability,
                false_alarms=false_alarms, embeddings=embeddings, max_bytes=max_bytes, progress=bar.tiles(len(chosen)),
            )  # fmt: skip
            done = []
            for detection in detections.run_detections(chosen, verb, out, max_bytes):
                done.append(detection)
                bar.advance(len(done))
    report(detections.summary(done), out, as_json=as_json)
    raise typer.Exit(detections.exit_status(done))


def register(
    moving: Annotated[Path, typer.Argument(help="Image to lay, a folder, or a pattern.", show_default=False)],
    fixed: Annotated[Path, typer.Argument(help="Image to lay it on.", show_default=False)],
    *,
    out: Out = Path("fiducial-out"),
    weights: Weights = None,
    device: Device = "auto",
    model: Annotated[str, typer.Option(help="shift, similarity, affine or homography.")] = "affine",
    scale: Annotated[
        float | None, typer.Option(help="Size of a moving pixel in fixed ones; as the files state, or 0.6 to 1.67.")
    ] = None,
    turn_deg: Annotated[float, typer.Option(help="Largest angle, either way, that is searched for.")] = 180.0,
    use_map: Annotated[bool, typer.Option("--map/--no-map", help="Begin where the files' georeferences say.")] = True,
    min_probability: Annotated[float, typer.Option(help="Least probability of a mean error under 5 px.")] = 0.5,
    max_bytes: MaxBytes = FOUR_GIB,
    as_json: AsJson = False,
) -> None:
    """Lay one image on another, whatever the sensors: transform, tie points, aligned image, error; or a refusal.

    Exit status: 0 done, 1 some inputs of many failed, 2 bad input, 3 refused (one image).

    Example: fiducial register sar.tif optical.tif -o results
    """
    from functools import partial  # noqa: PLC0415

    from fiducial import api, registrations, runs  # noqa: PLC0415

    with Errors():
        api.check_registration(model, scale, turn_deg, min_probability)
        api.load_registrar(weights, device)
        chosen = runs.choose_images([moving])
        with Bar("registering", hidden=as_json) as bar:
            verb = partial(
                api.register, weights=weights, device=device, model=model, scale=scale, turn_deg=turn_deg, use_map=use_map,
                min_probability=min_probability, max_bytes=max_bytes, progress=bar.tiles(len(chosen)),
            )  # fmt: skip
            done = []
            for laid in registrations.run_registrations(chosen, fixed, verb, out, max_bytes):
                done.append(laid)
                bar.advance(len(done))
    report(registrations.summary(done), out, as_json=as_json)
    raise typer.Exit(registrations.exit_status(done))


def keypoints(
    image: Annotated[Path, typer.Argument(help="Image.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="File: .csv, .json, .geojson or .png.")] = Path("keypoints.csv"),
    weights: Weights = None,
    device: Device = "auto",
    most: Annotated[int, typer.Option(help="Points to return at most.")] = 1000,
    max_bytes: MaxBytes = FOUR_GIB,
) -> None:
    """Find points that a view of the same scene by another sensor would show too, best first.

    Example: fiducial keypoints scene.tif --most 300 -o points.csv
    """
    from fiducial import api  # noqa: PLC0415

    with Errors():
        with Bar("searching") as bar:
            found = api.keypoints(image, weights=weights, device=device, most=most, max_bytes=max_bytes, progress=bar.tiles(1))
        found.save(out)
    typer.echo(f"{out}: {len(found)} points")
