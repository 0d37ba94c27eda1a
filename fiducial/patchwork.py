"""Hold arrays as large as an image of which only a few places are not 0: memory for these places alone."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Shaped

_CELL_PX = 64  # side of what is stored together


@dataclass(frozen=True)
class Patchwork:
    """An array of `shape` that is 0 wherever nothing else was written; windows of it are read as those of an array are."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    cells: dict[tuple[int, int], Shaped[np.ndarray, "c c"]] = field(default_factory=dict)

    def __getitem__(self, window: tuple[slice, slice]) -> Shaped[np.ndarray, "h w"]:
        """Return a window as an array of its own; the slices have no steps."""
        (y0, y1), (x0, x1) = (part.indices(side)[:2] for part, side in zip(window, self.shape, strict=True))
        out = np.zeros((max(0, y1 - y0), max(0, x1 - x0)), self.dtype)
        for (i, j), cell in self._cells_in((y0, x0, y1, x1)):
            own, theirs = _overlap((i, j), (y0, x0, y1, x1))
            out[theirs] = cell[own]
        return out

    def write(self, at_yx: tuple[int, int], values: Shaped[np.ndarray, "h w"]) -> None:
        """Write a window that begins at `at_yx` and lies inside the array; places that are 0 and were 0 take no memory."""
        y0, x0 = at_yx
        window = (y0, x0, y0 + values.shape[0], x0 + values.shape[1])
        for i in range(y0 // _CELL_PX, -(-window[2] // _CELL_PX)):
            for j in range(x0 // _CELL_PX, -(-window[3] // _CELL_PX)):
                own, theirs = _overlap((i, j), window)
                if (i, j) not in self.cells and not values[theirs].any():
                    continue
                cell = self.cells.setdefault((i, j), np.zeros((_CELL_PX, _CELL_PX), self.dtype))
                cell[own] = values[theirs]

    def dense(self) -> Shaped[np.ndarray, "h w"]:
        """Return the whole as an array."""
        return self[:, :]

    def _cells_in(self, window: tuple[int, int, int, int]) -> list[tuple[tuple[int, int], Shaped[np.ndarray, "c c"]]]:
        """Return the stored cells that meet a window."""
        y0, x0, y1, x1 = window
        rows, columns = range(y0 // _CELL_PX, -(-y1 // _CELL_PX)), range(x0 // _CELL_PX, -(-x1 // _CELL_PX))
        if len(rows) * len(columns) > len(self.cells):
            return [(at, cell) for at, cell in self.cells.items() if at[0] in rows and at[1] in columns]
        return [((i, j), self.cells[i, j]) for i in rows for j in columns if (i, j) in self.cells]


def _overlap(at: tuple[int, int], window: tuple[int, int, int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return what a cell and a window have in common, as rows and columns of the cell, and of the window."""
    own, theirs = [], []
    for axis in (0, 1):
        first = at[axis] * _CELL_PX
        low, high = max(first, window[axis]), min(first + _CELL_PX, window[axis + 2])
        own.append(slice(low - first, high - first))
        theirs.append(slice(low - window[axis], high - window[axis]))
    return (own[0], own[1]), (theirs[0], theirs[1])
