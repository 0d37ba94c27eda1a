"""The verbs: a path, an array or an `Image` in, a record out."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Shaped

from fiducial import weights as weight_files
from fiducial.blobs.detector import EVIDENCE as EVIDENCE_OF_BLOBS
from fiducial.blobs.detector import BlobDetector
from fiducial.blobs.network import CADSN
from fiducial.confidence import (
    Calibration,
    CrowdCalibration,
    EvidenceCalibration,
    threshold_for_budget,
    threshold_for_rate,
    with_alarms,
)
from fiducial.defects.inspector import DefectInspector
from fiducial.defects.network import BGNet
from fiducial.device import choose_device, has_fast_bf16
from fiducial.images import MAX_BYTES, as_image, from_array, to_gray
from fiducial.places.locator import EVIDENCE as EVIDENCE_OF_PLACES
from fiducial.places.locator import SCALES, PlaceLocator
from fiducial.places.network import FTFY
from fiducial.records import Blobs, Defects, Image, InputError, Places, Progress, Provenance
from fiducial.version import VERSION

_METERS = {"pm": 1e-12, "Å": 1e-10, "nm": 1e-9, "µm": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}
_DIAMETERS_PX = (2.0, 2000.0)  # that a diameter may come to

Source = str | Path | Shaped[np.ndarray, "..."] | Image


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
            that the weights' calibration cannot tell.
    """
    seen, good = as_image(sample, max_bytes), as_image(template, max_bytes)
    turned = align and good.size == seen.size[::-1]  # by a quarter turn, which alignment finds
    if seen.size != good.size and not turned:
        if not resize:
            raise InputError(
                f"sample and template must have one size, got {seen.size} and {good.size}: resize one, or ask for it (--resize)"
            )
        good = _resized(good, seen.size)
    if (seen.channels >= 3) != (good.channels >= 3):
        raise InputError(
            f"sample and template must both be gray or both color, got {seen.channels} and {good.channels} channels"
        )
    loaded, inspector, least = check_options(weights, device, min_probability, false_alarms)
    made = Provenance(
        VERSION,
        loaded.name,
        loaded.sha256,
        (
            ("align", align),
            ("calibrated", loaded.calibration is not None),
            ("false_alarms", false_alarms),
            ("invert", invert),
            ("min_probability", least),
            ("resize", resize),
        ),
    )
    return inspector.inspect(seen, good, made, align=align, invert=invert, min_probability=least, progress=progress)


def check_options(
    weights: str | Path | None, device: str, min_probability: float, false_alarms: float | None
) -> tuple[weight_files.Weights, DefectInspector, float]:
    """Return the weights, the inspector, and the least probability to report that the options ask for; raises as `inspect`."""
    if not 0 <= min_probability <= 1:
        raise InputError(f"min_probability must lie between 0 and 1, got {min_probability:g}")
    loaded, inspector = _inspector(weights, device)
    if false_alarms is None:
        return loaded, inspector, min_probability
    if not isinstance(loaded.calibration, Calibration):
        raise InputError(f"weights {loaded.name} are not calibrated: train with --hold-out")
    return loaded, inspector, float(np.nextafter(threshold_for_budget(loaded.calibration, false_alarms), 2))


def calibrate(
    good: Sequence[tuple[Source, Source]],
    out: Path,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    invert: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Count the alarms on pairs (sample, template) of good parts, and write the weights with that count to `out`.

    A pair whose alignment is refused tells nothing and is left out.

    Raises:
        InputError: as `inspect`; or weights without probabilities, or no pair that could be aligned.
    """
    loaded, _ = _inspector(weights, device)
    if loaded.calibration is None:
        raise InputError(f"weights {loaded.name} map no scores to probabilities yet: train with --hold-out")
    alarms, images = [np.zeros(0)], 0
    for done, (sample, template) in enumerate(good, start=1):
        record = inspect(sample, template, weights=weights, device=device, invert=invert, min_probability=0.0)
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


def _check_evidence(loaded: weight_files.Weights, needed: tuple[str, ...]) -> None:
    """Refuse weights without probabilities, or with those of other evidence; raises InputError."""
    if loaded.calibration is None:
        raise InputError(f"weights {loaded.name} are not calibrated: let the training that makes them finish")
    stated = () if isinstance(loaded.calibration, Calibration) else loaded.calibration.names
    if stated != needed:
        raise InputError(f"weights {loaded.name} weigh the evidence {stated}, needs {needed}")


def _resized(image: Image, size: tuple[int, int]) -> Image:
    gray = to_gray(image.read(), image.name)
    how = cv2.INTER_AREA if size[0] * size[1] < gray.size else cv2.INTER_LINEAR
    resized = from_array(cv2.resize(gray, size[::-1], interpolation=how))
    return replace(resized, name=image.name, channels=image.channels)


def _inspector(weights: str | Path | None, device: str) -> tuple[weight_files.Weights, DefectInspector]:
    """Load weights once per process, device and version of the file."""
    return _load_inspector(None if weights is None else str(weights), device, _version_of(weights))


def _version_of(weights: str | Path | None) -> int:
    """Return when a file of weights last changed; 0 for those that ship."""
    return Path(weights).stat().st_mtime_ns if weights is not None and Path(weights).is_file() else 0


@lru_cache(maxsize=4)
def _load_inspector(weights: str | None, device: str, changed: int) -> tuple[weight_files.Weights, DefectInspector]:
    loaded = weight_files.load("defects", weights)
    where = choose_device(device)
    assert isinstance(loaded.network, BGNet)
    assert loaded.calibration is None or isinstance(loaded.calibration, Calibration)
    return loaded, DefectInspector(loaded.network, loaded.calibration, where, bf16=has_fast_bf16(where))


def locate(
    query: Source,
    source: Source,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    scale: float | tuple[float, float] | None = None,
    most: int = 5,
    min_probability: float = 0.5,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> Places:
    """Find where in a source a zoomed-in query lies, at any angle, if it lies there at all.

    Args:
        query: the view to find: gray or RGB(A) (by luminance), at least 32 px a side.
        source: the overview.
        weights: a file of one's own; the shipped weights by default.
        device: "auto" (CUDA if present), "cpu" or "cuda".
        scale: size of a query's pixel in pixels of the source, within 10 %, or its least and largest value. By default it
            follows from the pixel sizes if both files state them, and is 0.1 to 1 if not, as far as the query covers 24 px of
            the source (12 px where the scale is stated).
        most: how many places to return at most; no more than ten are ever verified to the end.
        min_probability: the least calibrated probability of the best place at which the query counts as found.
        max_bytes: budget for the pixels of one read.
        progress: called with (parts done, parts in all).

    Raises:
        InputError: an image that cannot be read, is constant, has no finite value, is not gray or color, or is under 32 px a
            side; a query larger than the source at every scale, or too small in it; pixels that are not square; options that
            cannot be meant; weights that cannot be loaded or are not calibrated.
    """
    check_search(most, min_probability, scale)
    sought, overview = as_image(query, max_bytes), as_image(source, max_bytes)
    scales = _scales(sought, overview, scale)
    loaded, locator = load_locator(weights, device)
    made = Provenance(
        VERSION,
        loaded.name,
        loaded.sha256,
        (
            ("calibrated", loaded.calibration is not None),
            ("least_scale", scales[0]),
            ("largest_scale", scales[1]),
            ("min_probability", min_probability),
            ("most", most),
        ),
    )
    return locator.locate(sought, overview, made, scales=scales, most=most, min_probability=min_probability, progress=progress)


def check_search(most: int, min_probability: float, scale: float | tuple[float, float] | None) -> None:
    """Refuse options of `locate` that cannot be meant; raises InputError."""
    if most < 1:
        raise InputError(f"most must be at least 1, got {most}")
    if not 0 <= min_probability <= 1:
        raise InputError(f"min_probability must lie between 0 and 1, got {min_probability:g}")
    bounds = (scale, scale) if isinstance(scale, int | float) else scale
    if bounds is not None and not (len(bounds) == 2 and 0 < bounds[0] <= bounds[1] < np.inf):
        raise InputError(f"scale must be a number above 0, or the least and the largest, got {scale}")


def _scales(query: Image, source: Image, scale: float | tuple[float, float] | None) -> tuple[float, float]:
    """Return the range of scales to search: as stated, as the pixel sizes say, or all."""
    if isinstance(scale, tuple):
        return scale
    for image in (query, source):
        if image.pixel_size and not 0.98 < image.pixel_size[0] / image.pixel_size[1] < 1.02:
            raise InputError(f"pixels must be square, those of {image.name} measure {image.pixel_size}: resample it")
    if scale is None and query.pixel_size and source.pixel_size and {query.unit, source.unit} <= set(_METERS):
        meters = [image.pixel_size[0] * _METERS[image.unit] for image in (query, source) if image.pixel_size and image.unit]
        scale = meters[0] / meters[1]
    return SCALES if scale is None else (scale / 1.1, scale * 1.1)


def load_locator(weights: str | Path | None, device: str) -> tuple[weight_files.Weights, PlaceLocator]:
    """Load weights once per process, device and version of the file."""
    return _load_locator(None if weights is None else str(weights), device, _version_of(weights))


@lru_cache(maxsize=4)
def _load_locator(weights: str | None, device: str, changed: int) -> tuple[weight_files.Weights, PlaceLocator]:
    loaded = weight_files.load("places", weights)
    where = choose_device(device)
    assert isinstance(loaded.network, FTFY)
    _check_evidence(loaded, EVIDENCE_OF_PLACES)
    assert isinstance(loaded.calibration, EvidenceCalibration)
    return loaded, PlaceLocator(loaded.network, loaded.calibration, where, bf16=has_fast_bf16(where))


def detect(
    image: Source,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    diameter: float | str | None = None,
    min_probability: float = 0.5,
    false_alarms: float | None = None,
    embeddings: bool = False,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> Blobs:
    """Find every blob of an image, bright or dark: center, radius, probability; and how many there are.

    Args:
        image: gray or RGB(A), at least 4 px a side. A constant image holds no blobs.
        weights: a file of one's own; the shipped weights by default.
        device: "auto" (CUDA if present), "cpu" or "cuda".
        diameter: typical diameter in pixels, or as text with a unit ("3.5 um") if the file states the size of its pixels;
            blobs of a third to three times that are found. By default, radii of 2 to 80 px are searched for.
        min_probability: least calibrated probability of a blob that is listed.
        false_alarms: instead of `min_probability`, how many false blobs a megapixel may hold on average.
        embeddings: also return vectors that tell blobs apart.
        max_bytes: budget for the pixels of one read.
        progress: called with (parts done, parts in all).

    Raises:
        InputError: an image that cannot be read, has no finite value, is not gray or color, or under 4 px a side; a diameter
            that cannot be meant; options or weights that cannot be meant or loaded; weights that are not calibrated.
    """
    seen = as_image(image, max_bytes)
    radius_px = None if diameter is None else diameter_px(seen, diameter) / 2
    loaded, detector, least = check_detection(weights, device, min_probability, false_alarms)
    made = Provenance(
        VERSION,
        loaded.name,
        loaded.sha256,
        (
            ("diameter_px", None if radius_px is None else 2 * radius_px),
            ("false_alarms", false_alarms),
            ("min_probability", least),
        ),
    )
    return detector.detect(seen, made, radius_px=radius_px, min_probability=least, embeddings=embeddings, progress=progress)


def diameter_px(image: Image, diameter: float | str) -> float:
    """Return a diameter in pixels of an image, given in pixels or as text with a unit of length; raises InputError."""
    value, unit = parse_diameter(diameter)
    if unit != "px":
        if image.pixel_size is None or image.unit not in _METERS:
            stated = f"in {image.unit}" if image.unit else "nothing"
            raise InputError(
                f"a diameter in {unit} needs a file that states its pixel size in a metric unit, {image.name}: {stated}"
            )
        value *= _METERS[unit] / (_METERS[image.unit] * float(np.sqrt(image.pixel_size[0] * image.pixel_size[1])))
    if not _DIAMETERS_PX[0] <= value <= _DIAMETERS_PX[1]:
        raise InputError(
            f"a diameter must come to {_DIAMETERS_PX[0]:g} to {_DIAMETERS_PX[1]:g} px, {diameter!r} is {value:.3g} px"
        )
    return value


def parse_diameter(diameter: float | str) -> tuple[float, str]:
    """Return number and unit ("px" if none is given) of a diameter; raises InputError."""
    text = str(diameter).strip().replace("\u03bc", "µ")
    number = text.rstrip("pxnmµuÅc ")
    unit = text[len(number) :].strip().replace("um", "µm") or "px"
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not 0 < value < np.inf or (unit != "px" and unit not in _METERS):
        raise InputError(f"diameter must be a number above 0, in pixels or with a unit ({', '.join(_METERS)}), got {text!r}")
    return value, unit


def check_detection(
    weights: str | Path | None, device: str, min_probability: float, false_alarms: float | None
) -> tuple[weight_files.Weights, BlobDetector, float]:
    """Return the weights, the detector, and the least probability to list that the options ask for; raises as `detect`."""
    if not 0 <= min_probability <= 1:
        raise InputError(f"min_probability must lie between 0 and 1, got {min_probability:g}")
    loaded, detector = _load_detector(None if weights is None else str(weights), device, _version_of(weights))
    if false_alarms is None:
        return loaded, detector, min_probability
    assert isinstance(loaded.calibration, CrowdCalibration)
    return loaded, detector, float(np.nextafter(threshold_for_rate(loaded.calibration, false_alarms), 2))


@lru_cache(maxsize=4)
def _load_detector(weights: str | None, device: str, changed: int) -> tuple[weight_files.Weights, BlobDetector]:
    loaded = weight_files.load("blobs", weights)
    where = choose_device(device)
    assert isinstance(loaded.network, CADSN)
    _check_evidence(loaded, EVIDENCE_OF_BLOBS)
    assert isinstance(loaded.calibration, CrowdCalibration)
    return loaded, BlobDetector(loaded.network, loaded.calibration, where, bf16=has_fast_bf16(where))
