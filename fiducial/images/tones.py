"""The gray values of an image: whole, reduced, sampled."""

import math
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, Shaped

from fiducial.records import Image, InputError


def as_float32(pixels: Shaped[np.ndarray, "h w *c"]) -> Float32[np.ndarray, "h w *c"]:
    """Return pixels as float32; those too large for it become infinite, which counts as no value."""
    with np.errstate(over="ignore"):
        return pixels.astype(np.float32)


def in_type(values: Float[np.ndarray, "..."], dtype: np.dtype[Any]) -> Shaped[np.ndarray, "..."]:
    """Return values in a type of pixel; in one of integers rounded, and no further than its ends."""
    if dtype.kind == "f":
        return values.astype(dtype)
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    rounded = np.maximum(np.rint(values), least)
    beyond = rounded >= most  # floats cannot hold the end of the longer types: they would round it up, and wrap
    out = np.where(beyond, 0, rounded).astype(dtype)
    out[beyond] = most
    return out


def to_gray(pixels: Shaped[np.ndarray, "h w *c"], name: str) -> Float32[np.ndarray, "h w"]:
    """Return intensities in the file's own scale: luminance (ITU-R BT.601) of color, without alpha.

    Raises:
        InputError: the image has channels that are not gray or color.
    """
    if pixels.ndim == 2:
        return as_float32(pixels)
    channels = pixels.shape[2]
    if channels in (1, 2):
        return as_float32(pixels[..., 0])
    if channels in (3, 4):
        return cv2.cvtColor(np.ascontiguousarray(as_float32(pixels[..., :3])), cv2.COLOR_RGB2GRAY)
    raise InputError(f"expected gray or RGB(A), {name} has {channels} channels: save the channel to be measured by itself")


def read_reduced(image: Image, longest_px: int, undefined: float = 0.0) -> Float32[np.ndarray, "h w"]:
    """Return the gray values of a whole image, averaged so that no side exceeds `longest_px`, read band by band.

    NaN and infinite values count as `undefined`; if that is NaN, averages are as `averaged` tells.
    """
    (h, w), factor = image.size, min(1.0, longest_px / max(image.size))
    size = (max(1, round(h * factor)), max(1, round(w * factor)))
    edges = [round(i * h / size[0]) for i in range(size[0] + 1)]
    step = max(1, 2**24 // (w * max(1, h // size[0])))
    bands = []
    for first in range(0, size[0], step):
        last = min(first + step, size[0])
        gray = to_gray(image.read((edges[first], 0, edges[last], w)), image.name)
        bands.append(averaged(gray, (size[1], last - first), undefined))
    return np.concatenate(bands)


def averaged(seen: Float32[np.ndarray, "i j *c"], size: tuple[int, int], undefined: float) -> Float32[np.ndarray, "h w *c"]:
    """Return averages over equal areas, (width, height) of them; of what is not finite, `undefined` is averaged.

    If that is NaN, averages are of finite values, and NaN where these are under a half.
    """
    finite = np.isfinite(seen)
    whole = (seen.shape[1], seen.shape[0]) == size
    if finite.all() or np.isfinite(undefined) or whole:
        seen = seen if finite.all() else np.where(finite, seen, np.float32(undefined))
        return seen if whole else cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
    share = cv2.resize(finite.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(np.where(finite, seen, np.float32(0)), size, interpolation=cv2.INTER_AREA) / np.maximum(share, 1e-6)
    return np.where(share >= 0.5, mean, np.float32(np.nan))


def intensity_range(image: Image) -> tuple[float, float]:
    """Return the 1st and 99th percentile of a whole image's gray values, from about a million evenly spread pixels.

    Where they coincide, as in a mostly empty picture, the least and the largest value serve.

    Raises:
        InputError: constant, or without a finite value.
    """
    values = sample_gray(image)
    low, high = (float(v) for v in np.percentile(values, [1, 99]))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        raise InputError(f"expected an image with structure, {image.name} is constant ({low:g})")
    return low, high


def sample_gray(image: Image, most: int = 1_000_000) -> Float32[np.ndarray, " n"]:
    """Return about `most` gray values, evenly spread over a whole image, without those that are not finite.

    The extremes are among them, so that few bright pixels of a large image do not go unseen.

    Raises:
        InputError: no value is finite.
    """
    h, w = image.size
    step = max(1, math.isqrt(h * w // most))
    rows = max(1, min(h, 2**22 // max(w, 1)))
    parts = []
    for top in range(0, h, rows):
        gray = to_gray(image.read((top, 0, min(top + rows, h), w)), image.name)
        parts.append(gray[-top % step :: step, ::step].ravel())
        finite = gray[np.isfinite(gray)]
        if step > 1 and len(finite):
            parts.append(np.array([finite.min(), finite.max()], np.float32))
    values = np.concatenate(parts)
    values = values[np.isfinite(values)]
    if not len(values):
        raise InputError(f"expected an image with finite values, {image.name} has none")
    return values
