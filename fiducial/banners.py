"""Leave out the banner of a micrograph: the strip along its lower or upper border with magnification, voltage and scale bar.

Glossary
    ground: the one gray value that a banner is filled with. filled: how much of a row is of that value.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Float64

from fiducial.coords import window_to_image
from fiducial.images import to_gray
from fiducial.records import Image, Window

_TALLEST = 0.25  # of a banner, in parts of the image
_LEAST_PX = 4
_FILLED, _WITH_TEXT = 0.55, 0.3  # least filling of a banner's rows in the mean, and of each
_ELSEWHERE, _BESIDE = 0.1, 0.2  # most filling of a picture's rows, in the median, and of those beside a banner
_LINES_PX = 3  # rows of a frame, or of a line between, that are not filled
_TONE, _SAME = 0.012, 0.002  # of the image's range: values that differ by less are one, after compression, too; or the same
_OF_IT = 0.5  # least part of what a banner is filled with that is the same: it has no noise, as a sky has
_ROWS = 64  # of the picture that are looked at
_LARGEST_PX = 2**25  # pixels of an image that is looked at: micrographs with banners are smaller


def picture_rows(image: Image) -> tuple[int, int]:
    """Return the first row of the picture, and the first below it: all rows, where there is no banner.

    Raises:
        InputError: not gray or color, or unreadable.
    """
    h, w = image.size
    tallest = int(_TALLEST * h)
    if tallest < _LEAST_PX or h * w > _LARGEST_PX:
        return 0, h
    middle = _rows(image, np.linspace(tallest, h - tallest - 1, min(_ROWS, h - 2 * tallest)).round().astype(int))
    upper, lower = (to_gray(image.read(part), image.name) for part in ((0, 0, tallest, w), (h - tallest, 0, h, w)))
    return _banner_height(upper[::-1], middle), h - _banner_height(lower, middle)


def without_banner(image: Image) -> tuple[Image, int]:
    """Return the picture alone, and its first row in the image; the image itself where it has no banner."""
    first, end = picture_rows(image)
    if (first, end) == (0, image.size[0]):
        return image, 0

    def read(window: Window) -> np.ndarray:
        y0, x0, y1, x1 = window
        return image.read((y0 + first, x0, y1 + first, x1))

    to_world = None if image.pixel_to_world is None else image.pixel_to_world @ window_to_image((first, 0))
    return replace(image, size=(end - first, image.size[1]), reader=read, pixel_to_world=to_world), first


def _rows(image: Image, rows: np.ndarray) -> Float32[np.ndarray, "n w"]:
    w = image.size[1]
    return np.concatenate([to_gray(image.read((row, 0, row + 1, w)), image.name) for row in np.unique(rows).tolist()])


def _banner_height(border: Float32[np.ndarray, "n w"], middle: Float32[np.ndarray, "m w"]) -> int:
    """Return how many of the last rows along a border are a banner's; 0 if none is."""
    values = np.concatenate([border.ravel(), middle.ravel()])
    values = values[np.isfinite(values)]
    ground = float(np.median(border[-_LEAST_PX - _LINES_PX :]))
    if not len(values) or not np.isfinite(ground):
        return 0
    span = float(np.ptp(values))
    if float(np.median(_filled(middle, ground, _TONE * span))) > _ELSEWHERE:
        return 0  # the picture is of that value, too
    filled, same = (_filled(border, ground, tone * span) for tone in (_TONE, _SAME))
    with_text = np.flatnonzero(filled[::-1] > _WITH_TEXT)  # counted from the border
    gaps = np.diff(with_text, prepend=-1) > _LINES_PX + 1
    rows = with_text[: int(gaps.argmax())] if gaps.any() else with_text
    height = int(rows[-1]) + 1 if len(rows) else 0
    beyond = filled[: len(border) - height][-2 * _LINES_PX :]
    if height < _LEAST_PX or not len(beyond) or float(np.median(beyond)) > _BESIDE:
        return 0
    mean = float(filled[-height:].mean())
    return height if mean > _FILLED and float(same[-height:].mean()) > _OF_IT * mean else 0


def _filled(rows: Float32[np.ndarray, "n w"], ground: float, tone: float) -> Float64[np.ndarray, " n"]:
    return (np.abs(rows - ground) <= tone).mean(axis=1)
