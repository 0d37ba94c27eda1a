"""Locate a query in a source."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from fiducial import weights as weight_files
from fiducial.api.loading import (
    Source,
    check_count,
    check_evidence,
    check_probability,
    least_probability,
    ratio_of_pixels,
    scale_bounds,
    version_of,
)
from fiducial.confidence import EvidenceCalibration
from fiducial.device import choose_device, has_fast_bf16
from fiducial.images import MAX_BYTES, as_image
from fiducial.places.locator import SCALES, PlaceLocator
from fiducial.places.network import FTFY
from fiducial.places.verifier import EVIDENCE
from fiducial.records import Image, InputError, NoRoomError, Places, Progress, Provenance
from fiducial.version import VERSION

_NEAR = 1.1  # ratio of scales that a stated one leaves open


def locate(
    query: Source,
    source: Source,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    scale: float | Sequence[float] | None = None,
    most: int = 5,
    min_probability: float = 0.5,
    false_alarms: float | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> Places:
    """Find where in a source a zoomed-in query lies, at any angle, if it lies there at all.

    Args:
        query: the view to find: gray or RGB(A) (by luminance), at least 32 px a side, at most a hundred times as long as wide.
        source: the overview.
        weights: a file of one's own; the shipped weights by default.
        device: "auto" (CUDA if present), "cpu" or "cuda".
        scale: size of a query's pixel in pixels of the source, within 10 %, or its least and largest value. By default it
            follows from the pixel sizes if both files state them, and is 0.1 to 1 if not, as far as the query covers 24 px of
            the source (12 px where the scale is stated).
        most: how many places to return at most; no more than twelve are ever verified to the end.
        min_probability: the least calibrated probability of the best place at which the query counts as found.
        false_alarms: instead of `min_probability`, how often a query may be found in a source that does not show it, on
            average: above 0, at most 1.
        max_bytes: budget for the pixels of one read.
        progress: called with (parts done, parts in all).

    Raises:
        InputError: an image that cannot be read, is constant, has no finite value, is not gray or color, or is under 32 px a
            side; a query over a hundred times as long as wide, larger than the source at every scale, or too small in it;
            pixels that are not square; options that cannot be meant; weights that cannot be loaded, are not calibrated, or
            cannot tell such a budget.
    """
    count = check_search(most, scale)
    sought, overview = as_image(query, max_bytes), as_image(source, max_bytes)
    scales = _scales(sought, overview, scale)
    loaded, locator, least = check_location(weights, device, min_probability, false_alarms)
    made = Provenance(
        VERSION,
        loaded.name,
        loaded.sha256,
        (
            ("false_alarms", false_alarms),
            ("largest_scale", scales[1]),
            ("least_scale", scales[0]),
            ("min_probability", least),
            ("most", count),
        ),
    )
    try:
        return locator.locate(sought, overview, made, scales=scales, most=count, min_probability=least, progress=progress)
    except NoRoomError as error:
        if scale is not None or ratio_of_pixels(sought, overview) is None:
            raise
        stated = "the scale follows from the pixel sizes that both files state: if they are wrong, give the true one (--scale)"
        raise NoRoomError(f"{error}; {stated}") from error


def check_search(most: int, scale: float | Sequence[float] | None) -> int:
    """Return how many places are asked for; refuse options of `locate` that cannot be meant; raises InputError."""
    scale_bounds(scale, _NEAR)
    return check_count("most", most)


def _scales(query: Image, source: Image, scale: float | Sequence[float] | None) -> tuple[float, float]:
    """Return the range of scales to search: as stated, as the pixel sizes say, or all."""
    for image in (query, source):
        if image.pixel_size and not 0.98 < image.pixel_size[0] / image.pixel_size[1] < 1.02:
            raise InputError(f"pixels must be square, those of {image.name} measure {image.pixel_size}: resample it")
    ratios = ratio_of_pixels(query, source) if scale is None else None
    if ratios is not None:
        return ratios[0] / _NEAR, ratios[0] * _NEAR
    return scale_bounds(scale, _NEAR) or SCALES


def check_location(
    weights: str | Path | None, device: str, min_probability: float, false_alarms: float | None
) -> tuple[weight_files.Weights, PlaceLocator, float]:
    """Return the weights, the locator, and the least probability of a place that the options ask for; raises as `locate`."""
    check_probability(min_probability)
    loaded, locator = load_locator(weights, device)
    return loaded, locator, least_probability(loaded, min_probability, false_alarms)


def load_locator(weights: str | Path | None, device: str) -> tuple[weight_files.Weights, PlaceLocator]:
    """Load weights once per process, device and version of the file."""
    return _load_locator(None if weights is None else str(weights), device, version_of(weights))


@lru_cache(maxsize=4)
def _load_locator(weights: str | None, device: str, changed: int) -> tuple[weight_files.Weights, PlaceLocator]:
    loaded = weight_files.load("places", weights)
    where = choose_device(device)
    assert isinstance(loaded.network, FTFY)
    check_evidence(loaded, EVIDENCE, weights)
    assert isinstance(loaded.calibration, EvidenceCalibration)
    return loaded, PlaceLocator(loaded.network, loaded.calibration, where, bf16=has_fast_bf16(where))
