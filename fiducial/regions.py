"""Find the connected regions of a mask, lay them to what differs, and write them as run lengths.

A region is a set of pixels that are connected over gaps of at most `JOIN_PX`: fragments of one defect count once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fiducial.coords import pixel_edges_to_yx, yx_to_pixel_edges
from fiducial.patchwork import Patchwork

JOIN_PX = 10  # DeepPCB's annotators drew boxes about 10 px around a defect: what is nearer belongs together

_REACH_PX, _AROUND_PX = 4, 6  # how far outside a rough region its outline is sought; around that, how far the ground is seen
_REACH = np.ones((2 * _REACH_PX + 1,) * 2, np.uint8)
_OPENED = np.ones((3, 3), np.uint8)  # what is thinner than this is an edge beside itself
_LEAST_SHARE = 0.15  # of a rough region: with less of it left, its own outline stays

_BAND_PX = 2**24  # pixels of a mask that are numbered at once


@dataclass(frozen=True)
class Regions:
    """The regions of a mask, numbered from 1.

    Attributes:
        size: height and width of the mask.
        masks: which pixels of its box belong to each region.
        boxes_yxyx: tight boxes in the house frame. area_px: pixels of each region.
    """

    size: tuple[int, int]
    masks: tuple[Bool[np.ndarray, "_ _"], ...]
    boxes_yxyx: Float64[np.ndarray, "n 4"]
    area_px: Int64[np.ndarray, " n"]

    @property
    def number(self) -> Int32[np.ndarray, "h w"]:
        """The number of the region that each pixel belongs to; 0 for background."""
        out = np.zeros(self.size, np.int32)
        for i in np.flatnonzero(self.area_px).tolist():
            out[self.window(i)][self.masks[i]] = i + 1
        return out

    def window(self, i: int) -> tuple[slice, slice]:
        """Return the rows and columns that hold region i + 1."""
        y0, x0, y1, x1 = yx_to_pixel_edges(self.boxes_yxyx[i : i + 1])[0].astype(int).tolist()
        return slice(y0, y1), slice(x0, x1)

    def pixels(self, i: int) -> Bool[np.ndarray, "a b"]:
        """Return which pixels of its window belong to region i + 1."""
        return self.masks[i]


@dataclass(frozen=True)
class _Band:
    """Some rows of a mask: where the first lies, the parts of regions in them, numbered from 1, and the mask itself."""

    top: int
    joined: Int32[np.ndarray, "k w"]
    mask: Bool[np.ndarray, "k w"]
    count: int


def label_regions(mask: Bool[np.ndarray, "h w"], join_px: int = JOIN_PX) -> Regions:
    """Number the regions of a mask."""
    return find_regions((mask.shape[0], mask.shape[1]), lambda rows: mask[rows], join_px)


def find_regions(
    size: tuple[int, int], read: Callable[[slice], Bool[np.ndarray, "k w"]], join_px: int = JOIN_PX, band_px: int = _BAND_PX
) -> Regions:
    """Number the regions of a mask of `size` of which `read` gives some rows; about `band_px` pixels of it are held at once."""
    step = max(64, band_px // max(size[1], 1))
    rows = [slice(top, min(top + step, size[0])) for top in range(0, size[0], step)]
    once = [_label_band(size, read, rows[0], join_px)] if len(rows) == 1 else None
    parts, seams, count = [], [np.zeros((0, 2), np.int64)], 0
    above = np.zeros(size[1], np.int64)
    for band in once or (_label_band(size, read, own, join_px) for own in rows):
        seams.append(_meeting(above, band.joined[0], count))
        above = np.where(band.joined[-1] > 0, band.joined[-1].astype(np.int64) + count, 0)
        parts.append(_extents(np.argwhere(band.mask), band.joined[band.mask] - 1, band.count, band.top))
        count += band.count
    region = _merged(count, np.concatenate(seams))
    low, high, area = (np.concatenate(values) for values in zip(*parts, strict=True))
    total = int(region.max(initial=-1)) + 1
    first, last = np.full((total, 2), np.inf), np.full((total, 2), -np.inf)
    np.minimum.at(first, region, low)
    np.maximum.at(last, region, high)
    masks = [np.zeros((b - a).astype(int), bool) for a, b in zip(first, last, strict=True)]
    _fill(masks, first, region, once or (_label_band(size, read, own, join_px) for own in rows))
    boxes = pixel_edges_to_yx(np.concatenate([first, last], axis=1))
    return Regions(size, tuple(masks), boxes, np.bincount(region, area, total).astype(np.int64))


def _fill(
    masks: list[Bool[np.ndarray, "_ _"]],
    first: Float64[np.ndarray, "n 2"],
    region: Int32[np.ndarray, " k"],
    bands: Iterable[_Band],
) -> None:
    """Set the pixels of each region, in a box whose first pixel is `first`."""
    count = 0
    for band in bands:
        yx, own = np.argwhere(band.mask), region[band.joined[band.mask] - 1 + count]
        order = np.argsort(own, kind="stable")
        for part in np.split(order, np.flatnonzero(np.diff(own[order])) + 1) if len(order) else []:
            i = int(own[part[0]])
            y, x = (yx[part] + np.array([band.top, 0]) - first[i].astype(int)).T
            masks[i][y, x] = True
        count += band.count


def _label_band(size: tuple[int, int], read: Callable[[slice], Bool[np.ndarray, "k w"]], rows: slice, join_px: int) -> _Band:
    """Number what is connected within some rows, as the rows around them join it."""
    top, bottom = max(0, rows.start - join_px), min(size[0], rows.stop + join_px)
    binary = read(slice(top, bottom)).astype(np.uint8)
    joined = cv2.dilate(binary, np.ones((join_px + 1, join_px + 1), np.uint8)) if join_px else binary
    own = slice(rows.start - top, rows.stop - top)
    count, number = cv2.connectedComponents(joined[own], connectivity=8)
    return _Band(rows.start, number, binary[own] > 0, count - 1)


def _meeting(above: Int64[np.ndarray, " w"], below: Int32[np.ndarray, " w"], count: int) -> Int64[np.ndarray, "n 2"]:
    """Return the numbers, from 0, that meet along a seam, corners included; those below it follow `count` others."""
    pairs = []
    for step in (-1, 0, 1):
        upper, lower = above[max(0, -step) : len(above) - max(0, step)], below[max(0, step) : len(below) - max(0, -step)]
        both = (upper > 0) & (lower > 0)
        pairs.append(np.stack([upper[both] - 1, lower[both].astype(np.int64) - 1 + count], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def _merged(count: int, pairs: Int64[np.ndarray, "n 2"]) -> Int32[np.ndarray, " k"]:
    """Return the region, from 0, of each numbered part; they keep the order of their first parts."""
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1] if count else np.zeros(0, np.int32)


def _extents(
    yx: Int64[np.ndarray, "n 2"], own: Int32[np.ndarray, " n"], count: int, top: int = 0
) -> tuple[Float64[np.ndarray, "k 2"], Float64[np.ndarray, "k 2"], Int64[np.ndarray, " k"]]:
    """Return first and last edges, and areas, of what pixels belong to; the edges of what has none are infinite."""
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, own, yx + np.array([top, 0]))
    np.maximum.at(high, own, yx + np.array([top + 1, 1]))
    return low, high, np.bincount(own, minlength=count).astype(np.int64)


def outlined(rough: Bool[np.ndarray, "h w"], difference: Float32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return rough regions of two aligned images laid to where the images begin to differ.

    A region ends where the difference falls below halfway from that around it to that within it (medians both), or into the
    noise around it. It stays as it came if little would be left: a line of under 3 px, or a change that is not one of
    intensity.

    Args:
        rough: pixels that are suspected.
        difference: |one image − the other|, of any unit.
    """
    near = cv2.dilate(rough.astype(np.uint8), _REACH)
    _, number, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
    out = rough.copy()
    for i, (x, y, width, height, _) in enumerate(stats[1:].tolist(), start=1):
        window = np.s_[max(0, y - _AROUND_PX) : y + height + _AROUND_PX, max(0, x - _AROUND_PX) : x + width + _AROUND_PX]
        own, apart = number[window] == i, difference[window]
        suspected, around = rough[window] & own, apart[number[window] == 0]
        if not around.size:
            continue  # nothing to tell it from
        ground = np.median(around)
        noise = 3 * 1.48 * np.median(np.abs(around - ground))
        least = max((ground + np.median(apart[suspected])) / 2, ground + noise)
        kept = own & (cv2.morphologyEx((apart > least).astype(np.uint8), cv2.MORPH_OPEN, _OPENED) > 0)
        if kept.sum() >= _LEAST_SHARE * suspected.sum():
            out[window][own] = kept[own]
    return out


def laid(
    regions: Regions, i: int, outline: Bool[np.ndarray, "h w"] | Patchwork
) -> tuple[tuple[slice, slice], Bool[np.ndarray, "a b"], Float64[np.ndarray, "4"]]:
    """Return a window around region i + 1, which of its pixels `outlined` laid the region to, and the box that holds both.

    Where the outline left none, the region is its own: tiles that meet in it may have seen its surroundings differently.
    """
    rows, columns = regions.window(i)
    top, left = max(0, rows.start - _REACH_PX), max(0, columns.start - _REACH_PX)
    window = (
        slice(top, min(regions.size[0], rows.stop + _REACH_PX)),
        slice(left, min(regions.size[1], columns.stop + _REACH_PX)),
    )
    rough = np.zeros((window[0].stop - top, window[1].stop - left), np.uint8)
    rough[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = regions.pixels(i)
    own = (cv2.dilate(rough, _REACH) > 0) & outline[window]
    own = own if own.any() else rough > 0
    yx = np.argwhere(own | (rough > 0)) + np.array([top, left])
    return window, own, pixel_edges_to_yx(np.concatenate([yx.min(0), yx.max(0) + 1])[None])[0]


def measure_regions(number: Int32[np.ndarray, "h w"], count: int) -> Regions:
    """Return the boxes and areas of regions numbered 1 to `count`; a number without pixels has an inverted, infinite box."""
    yx = np.argwhere(number)
    low, high, area = _extents(yx, number[yx[:, 0], yx[:, 1]] - 1, count)
    size = (number.shape[0], number.shape[1])
    found = Regions(size, (), pixel_edges_to_yx(np.concatenate([low, high], axis=1)), area)
    masks = tuple(number[found.window(i)] == i + 1 if area[i] else np.zeros((0, 0), bool) for i in range(count))
    return replace(found, masks=masks)


def classes_of(mask: UInt8[np.ndarray, "h w"]) -> list[int]:
    """Return the values of a mask other than 0, in order; rows at a time."""
    step = max(1, _BAND_PX // max(mask.shape[1], 1))
    there = np.zeros(256, bool)
    for top in range(0, mask.shape[0], step):
        there[mask[top : top + step]] = True
    return [int(value) for value in np.flatnonzero(there) if value]


def run_lengths(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """Return COCO's uncompressed run lengths of a mask: column by column, zeros first, then alternating."""
    return run_lengths_of((mask.shape[0], mask.shape[1]), lambda columns: mask[:, columns])


def run_lengths_of(
    size: tuple[int, int], read: Callable[[slice], Bool[np.ndarray, "h k"]], band_px: int = _BAND_PX
) -> list[int]:
    """Return the run lengths of a mask of which `read` gives some columns; about `band_px` pixels of it are held at once."""
    height, width = size
    step = max(1, band_px // max(height, 1))
    changes, last = [np.zeros(0, np.int64)], np.zeros(1, bool)  # as if a zero went before
    for left in range(0, width if height else 0, step):
        flat = np.concatenate([last, read(slice(left, left + step)).T.ravel()])
        changes.append(np.flatnonzero(flat[1:] != flat[:-1]) + left * height)
        last = flat[-1:]
    ends = np.concatenate([[0], *changes, [height * width]])
    return [int(n) for n in np.diff(ends)]


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
