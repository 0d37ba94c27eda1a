"""Compare two maps of descriptors: vote for a shift between them, and match points near where they should lie.

Glossary
    D length of a descriptor; h, w cells of a map. Descriptors are of unit length, and zero where a map shows nothing.
    Places and shifts here are in cells; the center of cell (0, 0) is (0, 0).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Float64
from torch import Tensor

from fiducial.coords import sample_bilinear

LEAST_COMMON = 0.15  # share of the smaller map that must lie on the other
_CHUNK = 10_000_000  # inner products held at once
_BAND = 128  # points that are searched for in one band of rows
_NOTHING = -1.0  # inner product that stands for cells that show nothing: no two descriptors have less


@dataclass(frozen=True)
class Vote:
    """A shift of a map on another.

    Attributes:
        shift_yx: from cells of the moving map to cells of the fixed one.
        strength: the agreement there, in units of its deviation over all shifts.
    """

    shift_yx: tuple[int, int]
    strength: float


def vote(moving: Float[Tensor, "b d h w"], fixed: Float[Tensor, "d i j"]) -> list[Vote]:
    """Return the best shift for each of several maps: the largest sum of inner products, per root of the cells in common.

    The sum is the logarithm of the shift's likelihood where each descriptor predicts its partner by a softmax.
    """
    best = []
    for agreement in _agreements(moving, fixed):
        y, x = divmod(int(agreement.argmax()), agreement.shape[1])
        best.append(_vote_at(agreement, fixed, y, x) if agreement[y, x] > -torch.inf else Vote((0, 0), 0.0))
    return best


def vote_all(moving: Float[Tensor, "d h w"], fixed: Float[Tensor, "d i j"], spacing: int, least: float) -> list[Vote]:
    """Return the shifts of one map at which it agrees at least `least` times as well as at the best, the strongest first.

    Any two lie over `spacing` cells from each other along an axis. Where what the maps show repeats there are several.
    """
    (agreement,) = _agreements(moving[None], fixed)
    around = F.pad(agreement[None, None], (spacing,) * 4, mode="circular")
    top = (agreement > -torch.inf) & (F.max_pool2d(around, 2 * spacing + 1, stride=1)[0, 0] == agreement)
    votes = [_vote_at(agreement, fixed, y, x) for y, x in top.nonzero().tolist()]
    enough = least * max((own.strength for own in votes), default=0.0)
    return sorted((own for own in votes if own.strength >= enough), key=lambda own: -own.strength)


def _agreements(moving: Float[Tensor, "b d h w"], fixed: Float[Tensor, "d i j"]) -> Iterator[Float[Tensor, "n m"]]:
    """Yield how well each map agrees at each shift, in deviations over all shifts; -inf where too little lies on the other.

    Shifts up and to the left are at the end, as a Fourier transform puts them. Maps are taken one by one: what a transform
    needs stays in the processor's cache.
    """
    size = [cv2.getOptimalDFTSize(moving.shape[i + 2] + fixed.shape[i + 1] - 1) for i in (0, 1)]
    shown = _shown(fixed)
    there, there_shown = (torch.fft.rfft2(maps, s=size) for maps in (_centered(fixed, shown), shown))
    for own in moving:
        own_shown = _shown(own)
        common = _correlation(own_shown, there_shown, size)
        enough = common > LEAST_COMMON * torch.minimum(own_shown.sum(), shown.sum())
        products = _correlation(_centered(own, own_shown), there, size)
        around = F.pad(products[None, None], (1, 1, 1, 1), mode="circular")  # shifts of -1 lie beside those of 0
        surface = F.avg_pool2d(around, 3, stride=1)[0, 0] / common.clamp(min=1).sqrt()
        if enough.any():
            counted = surface[enough]
            surface = (surface - counted.mean()) / max(float(counted.std(correction=0)), 1e-9)
        yield surface.masked_fill(~enough, -torch.inf)


def _vote_at(agreement: Float[Tensor, "n m"], fixed: Float[Tensor, "d i j"], y: int, x: int) -> Vote:
    (n, m), (_, h, w) = agreement.shape, fixed.shape
    return Vote((y - n if y >= h else y, x - m if x >= w else x), float(agreement[y, x]))


def _shown(maps: Float[Tensor, "d h w"]) -> Float[Tensor, "1 h w"]:
    return (maps.square().sum(0, keepdim=True) > 0).float()


def _centered(maps: Float[Tensor, "d h w"], shown: Float[Tensor, "1 h w"]) -> Float[Tensor, "d h w"]:
    """Subtract a map's mean descriptor where it shows something."""
    mean = maps.sum((1, 2), keepdim=True) / shown.sum().clamp(min=1)
    return (maps - mean) * shown


def _correlation(moving: Float[Tensor, "d h w"], fixed: Complex[Tensor, "d n k"], size: list[int]) -> Float[Tensor, "n m"]:
    """Return, for each shift from moving to fixed, the sum of products over channels and cells; `fixed` is transformed."""
    product = fixed * torch.fft.rfft2(moving, s=size).conj()
    return torch.fft.irfft2(product.sum(0), s=size)


@dataclass(frozen=True)
class Pairs:
    """Points of one map and where they were found in another, in cells.

    Attributes:
        similarity: inner product there. mutual: whether the point found leads back to its origin.
    """

    own_yx: Float64[np.ndarray, "n 2"]
    other_yx: Float64[np.ndarray, "n 2"]
    similarity: Float64[np.ndarray, " n"]
    mutual: Bool[np.ndarray, " n"]


def match_near(
    own: Float[Tensor, "d h w"],
    other: Float[Tensor, "d i j"],
    own_yx: Float[Tensor, "n 2"],
    radius: int,
) -> Pairs:
    """Find each point of one map in another, within `radius` cells of its own place, to a fraction of a cell."""
    described = F.normalize(sample_bilinear(own[None], own_yx[None, :, None], "border")[0, :, :, 0].T, dim=1)  # (N, D)
    found, similarity = _search(other, described, own_yx, radius)
    there = F.normalize(sample_bilinear(other[None], found[None, :, None], "border")[0, :, :, 0].T, dim=1)
    back, _ = _search(own, there, found, radius)
    mutual = ((back - own_yx).norm(dim=1) < 1.5) & (similarity > 0)
    return Pairs(own_yx.double().numpy(), found.double().numpy(), similarity.double().numpy(), mutual.numpy())


def _search(
    maps: Float[Tensor, "d h w"], described: Float[Tensor, "n d"], around_yx: Float[Tensor, "n 2"], radius: int
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Return the best place of each descriptor in a window of whole cells, and the inner product there; -1 without a place.

    Cells that show nothing are as those outside: no place, and no neighbor that tells a fraction of a cell. Points are taken
    from top to bottom, some at once: their products with the rows that their windows meet are few beside those with the
    whole map.
    """
    d, h, w = maps.shape
    side, wide = 2 * radius + 1, w + 2 * radius  # of a window, and of the map with a rim in which windows reach beyond it
    rimmed = F.pad(maps, (radius,) * 4)
    shown = (rimmed != 0).any(0).flatten()
    window = (torch.arange(side)[:, None] * wide + torch.arange(side)).flatten()  # (K,)
    corner = around_yx.round().long()  # of a window, in the map with its rim
    corner = torch.stack([corner[:, 0].clamp(0, h - 1), corner[:, 1].clamp(0, w - 1)], dim=1)
    order = corner[:, 0].argsort(stable=True)
    found, value = torch.empty_like(around_yx), torch.empty_like(around_yx[:, 0])
    step = max(1, min(_BAND, _CHUNK // (h * w)))
    for first in range(0, len(order), step):
        own = order[first : first + step]
        top, bottom = int(corner[own[0], 0]), int(corner[own[-1], 0]) + side
        cells = (corner[own] - torch.tensor([top, 0])) @ torch.tensor([wide, 1])
        cells = cells[:, None] + window  # (n, K), in the rows from top
        products = described[own] @ rimmed[:, top:bottom].reshape(d, -1)
        similar = torch.where(shown[top * wide + cells], products.gather(1, cells), _NOTHING)  # (n, K)
        value[own], best = similar.max(1)
        y, x = best // side, best % side
        peak = _peak(similar.reshape(-1, side, side), y, x)
        found[own] = corner[own] - radius + torch.stack([y, x], 1) + peak
    return found, value


def _peak(grid: Float[Tensor, "n k k"], y: Tensor, x: Tensor) -> Float[Tensor, "n 2"]:
    """Return the offset of the top of a parabola through each best cell and its neighbors, 0 at the window's edge.

    Along an axis on which a neighbor shows nothing it is 0, too.
    """
    n, last = torch.arange(len(grid)), grid.shape[1] - 1
    inner = (y > 0) & (y < last) & (x > 0) & (x < last)
    y, x = y.clamp(1, last - 1), x.clamp(1, last - 1)
    middle = grid[n, y, x]
    parts = []
    for low, high in ((grid[n, y - 1, x], grid[n, y + 1, x]), (grid[n, y, x - 1], grid[n, y, x + 1])):
        bend = 2 * middle - low - high
        known = (bend > 1e-6) & (low > _NOTHING) & (high > _NOTHING)
        parts.append(torch.where(known, (high - low) / (2 * bend.clamp(min=1e-6)), torch.zeros_like(bend)))
    return torch.where(inner[:, None], torch.stack(parts, 1).clamp(-0.5, 0.5), torch.zeros(1))
