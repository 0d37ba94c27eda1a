"""Find the connected regions of a mask, and write them as run lengths.

A region is a set of pixels that are connected over gaps of at most `JOIN_PX`: fragments of one defect count once.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from fiducial.coords import pixel_edges_to_yx, yx_to_pixel_edges

JOIN_PX = 10  # DeepPCB's annotators drew boxes about 10 px around a defect: what is nearer belongs together


@dataclass(frozen=True)
class Regions:
    """The regions of a mask, numbered from 1.

    Attributes:
        number: of the region that each pixel belongs to; 0 for background.
        boxes_yxyx: tight boxes in the house frame. area_px: pixels of each region.
    """

    number: Int32[np.ndarray, "h w"]
    boxes_yxyx: Float64[np.ndarray, "n 4"]
    area_px: Int64[np.ndarray, " n"]

    def window(self, i: int) -> tuple[slice, slice]:
        """Return the rows and columns that hold region i + 1."""
        y0, x0, y1, x1 = yx_to_pixel_edges(self.boxes_yxyx[i : i + 1])[0].astype(int).tolist()
        return slice(y0, y1), slice(x0, x1)

    def pixels(self, i: int) -> Bool[np.ndarray, "a b"]:
        """Return which pixels of its window belong to region i + 1."""
        return self.number[self.window(i)] == i + 1


def label_regions(mask: Bool[np.ndarray, "h w"], join_px: int = JOIN_PX) -> Regions:
    """Number the regions of a mask."""
    binary = mask.astype(np.uint8)
    joined = cv2.dilate(binary, np.ones((join_px + 1, join_px + 1), np.uint8)) if join_px else binary
    count, number = cv2.connectedComponents(joined, connectivity=8)
    return measure_regions(number * binary, count - 1)


def measure_regions(number: Int32[np.ndarray, "h w"], count: int) -> Regions:
    """Return the boxes and areas of regions numbered 1 to `count`; a number without pixels has an inverted, infinite box."""
    yx = np.argwhere(number)
    ids = number[yx[:, 0], yx[:, 1]] - 1
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, ids, yx)
    np.maximum.at(high, ids, yx + 1)
    area = np.bincount(ids, minlength=count).astype(np.int64)
    return Regions(number, pixel_edges_to_yx(np.concatenate([low, high], axis=1)), area)


def run_lengths(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """Return COCO's uncompressed run lengths of a mask: column by column, zeros first, then alternating."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0], changes, [flat.size]])
    lengths = np.diff(ends).tolist()
    return [0, *lengths] if flat.size and flat[0] else lengths


def window_run_lengths(pixels: Bool[np.ndarray, "a b"], window: tuple[slice, slice], size: tuple[int, int]) -> list[int]:
    """Return the run lengths of an image of `size` that is set only in a window, without making the image."""
    (rows, columns), (height, width) = window, size
    strip = np.zeros((height, columns.stop - columns.start), dtype=bool)
    strip[rows] = pixels
    lengths = run_lengths(strip)
    lengths[0] += columns.start * height
    rest = (width - columns.stop) * height
    if len(lengths) % 2:
        lengths[-1] += rest
    elif rest:
        lengths.append(rest)
    return lengths


def from_run_lengths(lengths: list[int], size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Return the mask that `run_lengths` wrote.

    Raises:
        ValueError: the lengths do not add up to the size.
    """
    if sum(lengths) != size[0] * size[1]:
        raise ValueError(f"run lengths must add up to {size[0] * size[1]} for {size}, got {sum(lengths)}")
    value = np.arange(len(lengths)) % 2 == 1
    return np.repeat(value, lengths).reshape(size[1], size[0]).T
