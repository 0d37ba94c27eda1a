"""Read an image at another scale, window by window, as if it had been resized whole.

Glossary
    scale: size of the copy over that of the image. k the whole factor by which areas are averaged first; the copy is then
    resampled from these averages.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped

from fiducial.coords import Matrix, apply_transform, scale_transform, shift
from fiducial.drawing import OVERLAY_PX
from fiducial.images import as_float32, as_image, averaged, to_gray
from fiducial.images.tones import in_type
from fiducial.records import Given, Image, InputError, Window

_GAP_PX = 5  # side of the neighborhood that tells where values are missing
_REACH_PX = 3  # of the resampling, in pixels of the averages


@dataclass(frozen=True)
class Scaled:
    """A copy of an image, `scale` times as large, with intensities brought from [zero, one] to [0, 1], RGB."""

    image: Image
    scale: float
    zero: float
    one: float
    undefined: float  # what stands for NaN and infinite values, before normalization; NaN where they shall stay NaN

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the copy."""
        tall, wide = (max(1, math.ceil(side * self.scale - 1e-6)) for side in self.image.size)
        return tall, wide

    @property
    def to_image(self) -> Matrix:
        """The transform from pixels of the copy to the image's."""
        return np.linalg.inv(scale_transform(self.scale))

    def read(self, window: Window) -> Float32[np.ndarray, "h w 3"]:
        """Return a window of the copy."""
        k = max(1, int(1 / self.scale + 1e-6))
        to_averages = scale_transform(1 / k) @ self.to_image  # from pixels of the copy
        corners = apply_transform(to_averages, np.array([window[:2], (window[2] - 1, window[3] - 1)], dtype=np.float64))
        limits = [-(-side // k) for side in self.image.size]
        first = [int(np.clip(math.floor(v) - _REACH_PX, 0, n - 1)) for v, n in zip(corners[0], limits, strict=True)]
        last = [int(np.clip(math.ceil(v) + _REACH_PX + 1, 1, n)) for v, n in zip(corners[1], limits, strict=True)]
        averages = self._averages((first[0], first[1], last[0], last[1]), k)
        matrix = shift(-first[0], -first[1]) @ to_averages @ shift(window[0], window[1])
        size = (window[2] - window[0], window[3] - window[1])
        if np.array_equal(matrix, np.round(matrix)) and abs(matrix[0, 0] - 1) < 1e-9:
            top, left = int(matrix[1, 2]), int(matrix[0, 2])
            return _in_color(averages[top : top + size[0], left : left + size[1]])
        how = (cv2.INTER_CUBIC if self.scale > 1 else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(averages, matrix[:2], size[::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)
        return _in_color(seen)

    def gaps(self, window: Window) -> Bool[np.ndarray, "h w"]:
        """Say of a window's pixels whether more than half of what is around them has no value.

        Of an enlarged copy the image's own pixels are judged: a single one of them is many of the copy's.
        """
        if self.image.dtype.kind != "f":
            return np.zeros((window[2] - window[0], window[3] - window[1]), bool)
        if self.scale <= 1:
            return without_values(replace(self, undefined=np.nan).read(window))
        nearest = [np.rint(_along(self.to_image, axis, np.arange(window[axis], window[axis + 2]))) for axis in (0, 1)]
        rows, columns = (v.clip(0, n - 1).astype(int) for v, n in zip(nearest, self.image.size, strict=True))
        top, left = (max(0, int(v[0]) - _GAP_PX) for v in (rows, columns))
        bottom, right = (min(int(v[-1]) + _GAP_PX + 1, n) for v, n in zip((rows, columns), self.image.size, strict=True))
        own = without_values(replace(self, scale=1.0, undefined=np.nan).read((top, left, bottom, right)))
        return own[np.ix_(rows - top, columns - left)]

    def _averages(self, window: Window, k: int) -> Float32[np.ndarray, "h w *c"]:
        """Return averages over k × k pixels, normalized, gray or RGB, a band of the image at a time."""
        y0, x0, y1, x1 = window
        (height, width), step = self.image.size, max(1, 2**22 // (k * k * (x1 - x0)))
        bands = []
        for top in range(y0, y1, step):
            bottom = min(top + step, y1)
            part = self.image.read((top * k, x0 * k, min(bottom * k, height), min(x1 * k, width)))
            seen = as_float32(part[..., :3]) if self.image.channels in (3, 4) else to_gray(part, self.image.name)
            if k > 1:
                missing = [(0, (bottom - top) * k - seen.shape[0]), (0, (x1 - x0) * k - seen.shape[1]), (0, 0)]
                seen = np.pad(seen, missing[: seen.ndim], mode="edge")
            seen = averaged(seen, (x1 - x0, bottom - top), self.undefined)
            bands.append((seen - np.float32(self.zero)) / np.float32(self.one - self.zero))
        return np.concatenate(bands)


def _along(matrix: Matrix, axis: int, places: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return where a transform without turn brings places along y or x."""
    return places * matrix[1 - axis, 1 - axis] + matrix[1 - axis, 2]


def without_values(seen: Float32[np.ndarray, "h w *c"]) -> Bool[np.ndarray, "h w"]:
    """Say where more than half of a neighborhood is NaN, in any channel; a single dead pixel is no such place."""
    undefined = ~np.isfinite(seen)
    undefined = undefined.any(axis=-1) if seen.ndim == 3 else undefined
    return cv2.blur(undefined.astype(np.float32), (_GAP_PX, _GAP_PX)) > 0.5


def _in_color(seen: Float32[np.ndarray, "h w *c"]) -> Float32[np.ndarray, "h w 3"]:
    return cv2.cvtColor(seen, cv2.COLOR_GRAY2RGB) if seen.ndim == 2 else seen


def read_shown(image: Image, longest_px: int) -> Shaped[np.ndarray, "h w 3"]:
    """Return the colors of a whole image in the file's own scale, reduced so that no side exceeds `longest_px`.

    Those of 8 bits are 8 bits again; all others are float32, and NaN stays.
    """
    scale = min(1.0, longest_px / max(image.size))
    copy = Scaled(image, scale, 0.0, 1.0, np.nan)
    tall, wide = min(copy.size[0], longest_px), min(copy.size[1], longest_px)
    seen = copy.read((0, 0, tall, wide))
    return in_type(seen, image.dtype) if image.dtype == np.uint8 else seen


def read_given(given: Given | None, size: tuple[int, int], what: str) -> Shaped[np.ndarray, "h w 3"] | None:
    """Return the colors of an image that a record of one of `size` is drawn over, at most `OVERLAY_PX` a side; None of none.

    Raises:
        InputError: it cannot be read, or its size is neither `size` nor that of a larger or smaller copy.
    """
    if given is None:
        return None
    image = as_image(given)
    (h, w), (tall, wide) = image.size, size
    if abs(h / tall - w / wide) > 1 / tall + 1 / wide:
        raise InputError(f"expected the {what}, of {size} px, or a copy of that shape, got {image.name} of {image.size} px")
    return read_shown(image, OVERLAY_PX)
