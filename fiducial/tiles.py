"""Run a function over a large image, tile by tile.

Tiles overlap; of each only the core is kept, so that what is kept saw at least `margin_px` of context on every side that
is not the image's border. Cores cover every pixel once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from fiducial.records import Window


@dataclass(frozen=True)
class Tile:
    """A window of an image and the part of it, in pixels of the image, whose result is kept."""

    window: Window
    core: Window

    def aligned(self, step: int) -> "Tile":
        """Return the tile with its window grown so that its first row and column are multiples of `step`."""
        y0, x0, y1, x1 = self.window
        return Tile((y0 - y0 % step, x0 - x0 % step, y1, x1), self.core)

    @property
    def core_in_window(self) -> tuple[slice, slice]:
        """Rows and columns of the core within the window."""
        (y0, x0, _, _), (top, left, bottom, right) = self.window, self.core
        return slice(top - y0, bottom - y0), slice(left - x0, right - x0)


def tiles(size: tuple[int, int], tile_px: int, margin_px: int, *, shrink: bool = False) -> Iterator[Tile]:
    """Yield the tiles of an image, row by row; all have tile_px × tile_px pixels, or the image's side if that is less.

    With `shrink`, tiles are only as large as their number needs: 2 of 333 px, not of 512, cover 536 px with margins of 64 px.

    Raises:
        ValueError: the margins leave no core.
    """
    if tile_px <= 2 * margin_px:
        raise ValueError(f"tile_px must exceed 2 * margin_px, got tile_px={tile_px} margin_px={margin_px}")
    tall, wide = (_enough(side, tile_px, margin_px) if shrink else tile_px for side in size)
    spans_y, spans_x = list(_spans(size[0], tall, margin_px)), list(_spans(size[1], wide, margin_px))
    for y0, y1, top, bottom in spans_y:
        for x0, x1, left, right in spans_x:
            yield Tile((y0, x0, y1, x1), (top, left, bottom, right))


def _enough(side: int, tile_px: int, margin_px: int) -> int:
    """Return the least tile that covers a side with as few tiles as `tile_px` does, and a pixel for rounding."""
    count = -(-(side - 2 * margin_px) // (tile_px - 2 * margin_px))
    return tile_px if count < 2 else min(tile_px, -(-(side - 2 * margin_px) // count) + 2 * margin_px + 1)


def _spans(side: int, tile_px: int, margin_px: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield start and end of each window along one side, and of its core; windows are spread evenly."""
    if side <= tile_px:
        yield 0, side, 0, side
        return
    count = -(-(side - 2 * margin_px) // (tile_px - 2 * margin_px))
    starts = [round(i * (side - tile_px) / (count - 1)) for i in range(count)]
    middles = [(a + tile_px + b) // 2 for a, b in pairwise(starts)]
    for start, first, last in zip(starts, [0, *middles], [*middles, side], strict=True):
        yield start, start + tile_px, first, last
