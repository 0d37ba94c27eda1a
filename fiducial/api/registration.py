"""Find keypoints, and register images."""

from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from pathlib import Path

import numpy as np

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
from fiducial.coords import Matrix, image_center_yx, shift
from fiducial.device import choose_device, has_fast_bf16
from fiducial.estimation import MODELS, Model
from fiducial.georeference import Search, check_expressible, stated_transform
from fiducial.images import MAX_BYTES, as_image
from fiducial.landmarks.network import KeypointNet
from fiducial.landmarks.registrar import MARGIN_PX, RANGE, ImageRegistrar
from fiducial.landmarks.views import SPACING_PX
from fiducial.records import Image, InputError, Keypoints, Progress, Provenance, Registration
from fiducial.ties import EVIDENCE, local_scale
from fiducial.version import VERSION

_NEAR = 1.12  # ratio of scales that a stated size of pixels leaves open
_OBLONG = 1.4  # ratio of both sides' ratios up to which pixels begin as squares: any angle is found so, beyond it the upright
_NEAR_DEG = 0.0  # and the angle that a georeference does


def keypoints(
    image: Source,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    most: int = 1000,
    spacing: int = SPACING_PX,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> Keypoints:
    """Find points that a view of the same scene by another sensor would show too, best first.

    Args:
        image: gray or RGB(A) (by luminance), at least 48 px a side.
        weights: a file of one's own; the shipped weights by default.
        device: "auto" (CUDA if present), "cpu" or "cuda".
        most: how many points to return at most.
        spacing: how far apart they lie along an axis, 1 to 64 px: the best of an image often crowd where it is best.
        max_bytes: budget for the pixels of one read.
        progress: called with (tiles done, tiles in all).

    Raises:
        InputError: an image that cannot be read, has no finite value, is not gray or color, or under 48 px a side; options or
            weights that cannot be meant or loaded.
    """
    count, apart = check_count("most", most), check_count("spacing", spacing, MARGIN_PX)
    seen = as_image(image, max_bytes)
    loaded, registrar = _load(weights, device)  # the scores of points need no calibration
    made = Provenance(VERSION, loaded.name, loaded.sha256, (("most", count), ("spacing", apart)))
    return registrar.keypoints(seen, made, count, apart, progress)


def register(
    moving: Source,
    fixed: Source,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    model: str = "affine",
    scale: float | Sequence[float] | None = None,
    turn_deg: float = 180.0,
    use_map: bool = True,
    min_probability: float = 0.5,
    false_alarms: float | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> Registration:
    """Find how a moving image lies on a fixed one, whatever the sensors.

    Args:
        moving: the image to be laid: gray or RGB(A) (by luminance), at least 48 px a side.
        fixed: the image to lay it on.
        weights: a file of one's own; the shipped weights by default.
        device: "auto" (CUDA if present), "cpu" or "cuda".
        model: "shift", "similarity", "affine" or "homography".
        scale: size of a moving pixel in fixed pixels, within 12 %, or its least and largest value; for a shift these must
            allow 1. By default it follows from the files' georeference or pixel sizes, along y and x each, if both state
            them, and is 0.6 to 1.67 if not.
        turn_deg: largest angle, either way, that is searched for; 0 takes the images as upright.
        use_map: where both files are georeferenced, begin where they say, whatever `scale` and `turn_deg`; False searches as if
            they were not.
        min_probability: least calibrated probability that the mean error is under 5 px at which the answer is accepted.
        false_alarms: instead of `min_probability`, how often a pair of images of different scenes may be accepted, on average:
            above 0, at most 1.
        max_bytes: budget for the pixels of one read.
        progress: called with (parts done, parts in all).

    Raises:
        InputError: an image that cannot be read, has no finite value, is not gray or color, or under 48 px a side; images that
            do not overlap by their georeference, or lie as the model cannot say; options that cannot be meant; weights that
            cannot be loaded, are not calibrated, or cannot tell such a budget.
    """
    known = check_model(model, scale, turn_deg)
    laid, ground = as_image(moving, max_bytes), as_image(fixed, max_bytes)
    search = _search(laid, ground, known, scale, turn_deg, use_map=use_map)
    loaded, registrar, least = check_registration(weights, device, min_probability, false_alarms)
    scale_at_start = local_scale(search.start, laid.size)
    made = Provenance(
        VERSION,
        loaded.name,
        loaded.sha256,
        (
            ("false_alarms", false_alarms),
            ("largest_scale", scale_at_start * search.scales[1]),
            ("least_scale", scale_at_start * search.scales[0]),
            ("min_probability", least),
            ("model", model),
            ("turn_deg", search.turn_deg),
            ("use_map", search.known),
        ),
    )
    return registrar.register(laid, ground, made, search, min_probability=least, progress=progress)


def check_model(model: str, scale: float | Sequence[float] | None, turn_deg: float) -> Model:
    """Return the model; refuse options of `register` that cannot be meant; raises InputError."""
    known = next((name for name in MODELS if name == model), None)
    if known is None:
        raise InputError(f"model must be one of {', '.join(MODELS)}, got {model!r}")
    bounds = scale_bounds(scale, _NEAR)
    if known == "shift" and bounds is not None and not bounds[0] <= 1 <= bounds[1]:
        raise InputError(
            f"scale must allow 1 for a shift, which scales nothing, got {scale}: choose another --model, or leave the scale out"
        )
    if not (isinstance(turn_deg, Real) and 0 <= turn_deg <= 180):
        raise InputError(f"turn_deg must lie between 0 and 180, got {turn_deg!r}")
    return known


def _search(
    moving: Image, fixed: Image, model: Model, scale: float | Sequence[float] | None, turn_deg: float, *, use_map: bool
) -> Search:
    """Return where to begin and what to search: about what the files state, or about their middles."""
    stated = stated_transform(moving, fixed) if use_map else None
    if stated is not None:
        check_expressible(stated, model, moving, fixed, "search without their maps (--no-map)")
        return Search(stated, True, (1 / _NEAR, _NEAR), _NEAR_DEG, model)
    ratios = ratio_of_pixels(moving, fixed) if scale is None else None
    if ratios is not None:
        true = "give --scale 1" if model == "shift" else "give the true ratio (--scale)"
        start = _middles(moving, fixed, ratios)
        check_expressible(start, model, moving, fixed, f"if they state the size of their pixels wrongly, {true}")
    if model == "shift":
        return Search(_middles(moving, fixed, (1.0, 1.0)), False, (1.0, 1.0), 0.0, model)
    if ratios is not None:
        mean = float(np.sqrt(ratios[0] * ratios[1]))
        start = _middles(moving, fixed, (mean, mean)) if max(ratios) < _OBLONG * min(ratios) else start
        return Search(start, False, (1 / _NEAR, _NEAR), turn_deg, model)
    least, largest = scale_bounds(scale, _NEAR) or RANGE
    middle = float(np.sqrt(least * largest))
    return Search(_middles(moving, fixed, (middle, middle)), False, (least / middle, largest / middle), turn_deg, model)


def _middles(moving: Image, fixed: Image, scales: tuple[float, float]) -> Matrix:
    """Return the transform that lays middle on middle at scales along y and x."""
    (y, x), (v, u) = (image_center_yx(image.size) for image in (moving, fixed))
    return shift(v, u) @ np.diag([scales[1], scales[0], 1.0]) @ shift(-y, -x)


def check_registration(
    weights: str | Path | None, device: str, min_probability: float, false_alarms: float | None
) -> tuple[weight_files.Weights, ImageRegistrar, float]:
    """Return the weights, the registrar, and the least probability to accept that the options ask for; raises as `register`."""
    check_probability(min_probability)
    loaded, registrar = load_registrar(weights, device)
    return loaded, registrar, least_probability(loaded, min_probability, false_alarms)


def load_registrar(weights: str | Path | None, device: str) -> tuple[weight_files.Weights, ImageRegistrar]:
    """Load calibrated weights once per process, device and version of the file; raises as `register`."""
    loaded, registrar = _load(weights, device)
    check_evidence(loaded, EVIDENCE, weights)
    return loaded, registrar


def _load(weights: str | Path | None, device: str) -> tuple[weight_files.Weights, ImageRegistrar]:
    return _load_version(None if weights is None else str(weights), device, version_of(weights))


@lru_cache(maxsize=4)
def _load_version(weights: str | None, device: str, changed: int) -> tuple[weight_files.Weights, ImageRegistrar]:
    loaded = weight_files.load("keypoints", weights)
    where = choose_device(device)
    assert isinstance(loaded.network, KeypointNet)
    known = loaded.calibration if isinstance(loaded.calibration, EvidenceCalibration) else None
    return loaded, ImageRegistrar(loaded.network, known, where, bf16=has_fast_bf16(where))
