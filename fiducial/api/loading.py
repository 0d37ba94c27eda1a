"""What the verbs share: the images they take, units of length, calibrated weights, and what makes an answer one."""

import operator
import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Shaped

from fiducial.confidence import AnyCalibration, Calibration, threshold_for_budget
from fiducial.records import Image, InputError
from fiducial.weights import Weights

METERS = {
    "pm": 1e-12, "Å": 1e-10, "nm": 1e-9, "µm": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0, "km": 1e3, "in": 0.0254,
}  # fmt: skip

SMALLEST = 1e-10  # probability that a budget asks for where it has no need to ask for any

_SCALE = "scale must be a number above 0, or the least and the largest of a range: --scale 0.1-0.5, in Python (0.1, 0.5)"

Source = str | Path | Shaped[np.ndarray, "..."] | Image

# What a budget of false alarms counts them per, for each family: one negative, and several.
NEGATIVES: Mapping[str, tuple[str, str]] = {
    "blobs": ("megapixel", "megapixels"),
    "defects": ("good image", "good images"),
    "keypoints": ("unrelated pair", "unrelated pairs"),
    "places": ("absent query", "absent queries"),
}


def check_calibrated(loaded: Weights, file: str | Path | None = None) -> AnyCalibration:
    """Return the calibration; refuse weights without one, whose scores are no probabilities; raises InputError.

    They are named by the file that they come from, if it is stated.
    """
    if loaded.calibration is None:
        remedy = f"take the file that `fiducial train {loaded.family}` leaves in its output folder when it is done"
        if loaded.family == "defects":
            remedy = "train with --hold-out, which fits them on the groups held out"
        raise InputError(f"weights {file or loaded.name} are not calibrated, their scores are no probabilities: {remedy}")
    return loaded.calibration


def check_evidence(loaded: Weights, needed: tuple[str, ...], file: str | Path | None) -> None:
    """Refuse weights without probabilities, or with those of other evidence; named as `check_calibrated` does."""
    calibration = check_calibrated(loaded, file)
    stated = () if isinstance(calibration, Calibration) else calibration.names
    if stated != needed:
        raise InputError(f"weights {file or loaded.name} weigh the evidence {stated}, needs {needed}")


def check_probability(min_probability: float) -> None:
    """Refuse what is no probability; raises InputError."""
    if not (isinstance(min_probability, Real) and 0 <= min_probability <= 1):
        raise InputError(f"min_probability must lie between 0 and 1, got {min_probability!r}")


def parse_scale(text: str) -> float | tuple[float, float]:
    """Return the scale that a text states, or the least and the largest of a range as 0.1-0.5; raises InputError."""
    bounds = re.fullmatch(r"(\d*\.?\d+)\s*[-–]\s*(\d*\.?\d+)", text.strip())
    try:
        return float(text) if bounds is None else (float(bounds[1]), float(bounds[2]))
    except ValueError as error:
        raise InputError(f"{_SCALE}; got {text!r}") from error


def scale_bounds(scale: object, near: float) -> tuple[float, float] | None:
    """Return the least and the largest scale: as stated, of a single one `near` times less and more; None if there is none.

    Raises:
        InputError: neither a scale nor the least and the largest of a range.
    """
    if scale is None:
        return None
    bounds = tuple(scale) if np.iterable(scale) else (scale, scale)
    if not (len(bounds) == 2 and all(isinstance(bound, Real) for bound in bounds) and 0 < bounds[0] <= bounds[1] < np.inf):
        raise InputError(f"{_SCALE}; got {scale!r}")
    least, largest = map(float, bounds)
    return (least, largest) if np.iterable(scale) else (least / near, largest * near)


def check_count(name: str, given: object, largest: int | None = None) -> int:
    """Return an option that is a whole number from 1 to `largest`, if there is one; raises InputError for any other."""
    try:
        count = operator.index(given) if isinstance(given, SupportsIndex) and not isinstance(given, bool) else 0
    except TypeError:  # an array of several
        count = 0
    if count < 1 or (largest is not None and count > largest):
        bounds = "at least 1" if largest is None else f"from 1 to {largest}"
        raise InputError(f"{name} must be a whole number, {bounds}, got {given!r}")
    return count


def ratio_of_pixels(image: Image, other: Image) -> tuple[float, float] | None:
    """Return height and width of an image's pixel in another's; None unless both files state them, in units that compare."""
    if image.pixel_size is None or other.pixel_size is None or image.unit is None or other.unit is None:
        return None
    known = image.unit in METERS and other.unit in METERS
    if not known and image.unit != other.unit:
        return None
    factor = METERS[image.unit] / METERS[other.unit] if known else 1.0
    (tall, wide), (height, width) = image.pixel_size, other.pixel_size
    return factor * tall / height, factor * wide / width


def least_probability(loaded: Weights, min_probability: float, false_alarms: float | None) -> float:
    """Return the least probability of an answer that is given: as stated, or by the budget of false alarms if there is one.

    Raises:
        InputError: weights that are not calibrated, a budget that cannot be meant or told.
    """
    calibration = check_calibrated(loaded)
    if false_alarms is None:
        return min_probability
    exceeded = threshold_for_budget(calibration, false_alarms, NEGATIVES[loaded.family])
    return max(SMALLEST, float(np.nextafter(exceeded, 2)))


def version_of(weights: str | Path | None) -> int:
    """Return when a file of weights last changed; 0 for those that ship."""
    return Path(weights).stat().st_mtime_ns if weights is not None and Path(weights).is_file() else 0
