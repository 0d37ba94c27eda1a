"""Inspect a sample against its template, and calibrate on good parts."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from fiducial import weights as weight_files
from fiducial.api.loading import Source, check_calibrated, check_probability, least_probability, version_of
from fiducial.confidence import Calibration, with_alarms
from fiducial.coords import resize_transform
from fiducial.defects.inspector import SMALLEST_PX, DefectInspector
from fiducial.defects.network import BGNet
from fiducial.device import choose_device, has_fast_bf16
from fiducial.images import MAX_BYTES, as_image, from_array, to_gray
from fiducial.images.limits import check_budget
from fiducial.records import Defects, Image, InputError, Progress, Provenance
from fiducial.version import VERSION


def inspect(
    sample: Source,
    template: Source,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    align: bool = True,
    resize: bool = False,
    invert: bool = False,
    min_probability: float = 0.5,
    false_alarms: float | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> Defects:
    """Find what differs between a sample and its defect-free template.

    Args:
        sample: the image to judge: gray or RGB(A) (judged by luminance), at least 64 px a side.
        template: the good image; it need not be aligned: shifts, ±15° about any quarter turn and ±10 % of scale are found.
        weights: a file of one's own; the shipped weights by default.
        device: "auto" (CUDA if present), "cpu" or "cuda".
        align: False takes the two images as aligned.
        resize: accept a template of another size and resize it to the sample's.
        invert: copper is bright in these images (the shipped weights know it dark): judge their negatives.
        min_probability: least calibrated probability of a reported defect.
        false_alarms: instead of `min_probability`, how many alarms a good image may raise on average.
        max_bytes: budget for the pixels of one read.
        progress: called with (tiles done, tiles in all).

    Raises:
        InputError: an image that cannot be read or judged (see the message), sizes that differ without `resize`, a budget
            that the weights' calibration cannot tell; weights that cannot be loaded or are not calibrated.
    """
    seen, good = as_image(sample, max_bytes), as_image(template, max_bytes)
    full = good.size
    turned = align and good.size == seen.size[::-1]  # by a quarter turn, which alignment finds
    if seen.size != good.size and not turned:
        if not resize:
            raise InputError(
                f"sample and template must have one size, got {seen.size} and {good.size}: resize one, or ask for it (--resize)"
            )
        good = _resized(good, seen, max_bytes)
    if (seen.channels >= 3) != (good.channels >= 3):
        raise InputError(
            f"sample and template must both be gray or both color, {seen.name} has {seen.channels} channels and "
            f"{good.name} {good.channels}: convert one"
        )
    loaded, inspector, least = check_inspection(weights, device, min_probability, false_alarms)
    made = Provenance(
        VERSION,
        loaded.name,
        loaded.sha256,
        (
            ("align", align),
            ("false_alarms", false_alarms),
            ("invert", invert),
            ("min_probability", least),
            ("resize", resize),
        ),
    )
    found = inspector.inspect(seen, good, made, align=align, invert=invert, min_probability=least, progress=progress)
    if full == good.size or found.template_to_sample is None:
        return found
    return replace(found, template_to_sample=found.template_to_sample @ resize_transform(full, good.size))


def check_inspection(
    weights: str | Path | None, device: str, min_probability: float, false_alarms: float | None
) -> tuple[weight_files.Weights, DefectInspector, float]:
    """Return the weights, the inspector, and the least probability to report that the options ask for; raises as `inspect`."""
    check_probability(min_probability)
    loaded, inspector = _inspector(weights, device)
    return loaded, inspector, least_probability(loaded, min_probability, false_alarms)


def calibrate(
    good: Sequence[tuple[Source, Source]],
    out: Path,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    align: bool = True,
    resize: bool = False,
    invert: bool = False,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> Calibration:
    """Count the alarms on pairs (sample, template) of good parts, and write the weights with that count to `out`.

    Options are those of `inspect`: with the ones that parts will be inspected with, the count is theirs.

    A pair whose alignment is refused tells nothing and is left out.

    Raises:
        InputError: as `inspect`; or no pair that could be aligned.
    """
    loaded, _ = _inspector(weights, device)
    alarms, images = [np.zeros(0)], 0
    for done, (sample, template) in enumerate(good, start=1):
        record = inspect(
            sample,
            template,
            weights=weights,
            device=device,
            align=align,
            resize=resize,
            invert=invert,
            min_probability=0.0,
            max_bytes=max_bytes,
        )
        if record.verdict != "refused":
            alarms.append(record.score)
            images += 1
        if progress is not None:
            progress(done, len(good))
    if not images:
        raise InputError(f"none of {len(good)} good pairs could be aligned")
    assert isinstance(loaded.calibration, Calibration)
    found = with_alarms(loaded.calibration, np.concatenate(alarms), images)
    weight_files.save(out, "defects", loaded.network, loaded.card, found)
    return found


def _resized(image: Image, sample: Image, max_bytes: int) -> Image:
    size = sample.size
    if min(image.size) < SMALLEST_PX:
        raise InputError(f"a template to resize must have at least {SMALLEST_PX} px a side, {image.name} has {image.size}")
    check_budget(f"{image.name} in the size of {sample.name}", size, 4, max_bytes)  # float32
    gray = to_gray(image.read(), image.name)
    how = cv2.INTER_AREA if size[0] * size[1] < gray.size else cv2.INTER_LINEAR
    resized = from_array(cv2.resize(gray, size[::-1], interpolation=how))
    return replace(resized, name=image.name, channels=image.channels)


def _inspector(weights: str | Path | None, device: str) -> tuple[weight_files.Weights, DefectInspector]:
    """Load calibrated weights once per process, device and version of the file."""
    return _load_inspector(None if weights is None else str(weights), device, version_of(weights))


@lru_cache(maxsize=4)
def _load_inspector(weights: str | None, device: str, changed: int) -> tuple[weight_files.Weights, DefectInspector]:
    loaded = weight_files.load("defects", weights)
    where = choose_device(device)
    assert isinstance(loaded.network, BGNet)
    calibration = check_calibrated(loaded, weights)
    assert isinstance(calibration, Calibration)
    return loaded, DefectInspector(loaded.network, calibration, where, bf16=has_fast_bf16(where))
