"""Detect the blobs of an image."""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from fiducial import weights as weight_files
from fiducial.api.loading import METERS, Source, check_evidence, check_probability, least_probability, version_of
from fiducial.blobs.detector import EVIDENCE, BlobDetector
from fiducial.blobs.network import CADSN
from fiducial.confidence import CrowdCalibration, written
from fiducial.datasets import CrowdImage
from fiducial.device import choose_device, has_fast_bf16
from fiducial.evaluate.blobs import fit_crowds
from fiducial.georeference import meters_of_pixel
from fiducial.images import MAX_BYTES, as_image
from fiducial.images.stated import unit_of
from fiducial.records import Blobs, Image, InputError, Progress, Provenance
from fiducial.version import VERSION

_DIAMETERS_PX = (2.0, 2000.0)  # that a diameter may come to


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
            blobs of about a third to two and a half times that are found. By default, radii of 2 to 80 px are searched for.
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


def calibrate_blobs(
    images: Sequence[CrowdImage],
    out: Path,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> CrowdCalibration:
    """Fit probabilities, counts and false alarms on annotated images, and write the weights with these to `out`.

    The images should be none that the weights have learned from. Fewer than twenty do not narrow the intervals of counts.

    Raises:
        InputError: weights that cannot be loaded or are not calibrated; or nothing is found in any image.
    """
    loaded, detector = _load_detector(None if weights is None else str(weights), device, version_of(weights))
    found = fit_crowds(detector, images, progress)
    weight_files.save(out, "blobs", loaded.network, loaded.card, found)
    return found


def diameter_px(image: Image, diameter: float | str) -> float:
    """Return a diameter in pixels of an image, given in pixels or as text with a unit of length; raises InputError."""
    value, unit = parse_diameter(diameter)
    if unit != "px":
        value *= METERS[unit] / _pixel_in_meters(image, unit)
    if not _DIAMETERS_PX[0] <= value <= _DIAMETERS_PX[1]:
        raise InputError(
            f"a diameter must come to {_DIAMETERS_PX[0]:g} to {_DIAMETERS_PX[1]:g} px, {diameter!r} is {written(value)} px"
        )
    return value


def _pixel_in_meters(image: Image, unit: str) -> float:
    """Return the side of a pixel, or of a square of its area, as the file states it; by its map, if not in a unit of length."""
    if image.pixel_size is not None and image.unit in METERS:
        return METERS[image.unit] * float(np.sqrt(image.pixel_size[0] * image.pixel_size[1]))
    on_map = meters_of_pixel(image)
    if on_map is None:
        stated = f"in {image.unit}" if image.unit else "nothing"
        raise InputError(
            f"a diameter in {unit} needs a file that states its pixel size in a unit of length, {image.name}: {stated}"
        )
    return on_map


def parse_diameter(diameter: float | str) -> tuple[float, str]:
    """Return number and unit ("px" if none is given) of a diameter, the unit as files may spell it; raises InputError."""
    text = str(diameter).strip()
    parts = re.fullmatch(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(.*)", text, re.IGNORECASE)
    value, unit = (float("nan"), "px") if parts is None else (float(parts[1]), unit_of(parts[2]) or "px")
    if not 0 < value < np.inf or (unit != "px" and unit not in METERS):
        point = ": write decimals with a point" if "," in text else ""
        known = ", ".join(METERS)
        raise InputError(f"diameter must be a number above 0, in pixels or with a unit ({known}), got {text!r}{point}")
    return value, unit


def check_detection(
    weights: str | Path | None, device: str, min_probability: float, false_alarms: float | None
) -> tuple[weight_files.Weights, BlobDetector, float]:
    """Return the weights, the detector, and the least probability to list that the options ask for; raises as `detect`."""
    check_probability(min_probability)
    loaded, detector = _load_detector(None if weights is None else str(weights), device, version_of(weights))
    return loaded, detector, least_probability(loaded, min_probability, false_alarms)


@lru_cache(maxsize=4)
def _load_detector(weights: str | None, device: str, changed: int) -> tuple[weight_files.Weights, BlobDetector]:
    loaded = weight_files.load("blobs", weights)
    where = choose_device(device)
    assert isinstance(loaded.network, CADSN)
    check_evidence(loaded, EVIDENCE, weights)
    assert isinstance(loaded.calibration, CrowdCalibration)
    return loaded, BlobDetector(loaded.network, loaded.calibration, where, bf16=has_fast_bf16(where))
