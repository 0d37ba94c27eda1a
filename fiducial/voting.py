"""Compare two maps of descriptors: vote for a shift between them, and match points near where they should lie.

Glossary
    D length of a descriptor; h, w cells of a map. Descriptors are of unit length, and zero where a map shows nothing.
    Places and shifts here are in cells; the center of cell (0, 0) is (0, 0).
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from fiducial.coords import sample_bilinear

LEAST_COMMON = 0.15  # share of the smaller map that must lie on the other
_CHUNK = 10_000_000  # inner products held at once
_BAND = 64  # points that are searched for in one band of rows
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
    for agreement in _agreement(moving, fixed):
        y, x = divmod(int(agreement.argmax()), agreement.shape[1])
        best.append(_vote_at(agreement, fixed, y, x) if agreement[y, x] > -torch.inf else Vote((0, 0), 0.0))
    return best


def vote_all(moving: Float[Tensor, "d h w"], fixed: Float[Tensor, "d i j"], spacing: int, least: float) -> list[Vote]:
    """Return the shifts of one map at which it agrees at least `least` times as well as at the best, the strongest first.

    Any two lie over `spacing` cells from each other along an axis. Where what the maps show repeats there are several.
    """
    agreement = _agreement(moving[None], fixed)[0]
    around = F.pad(agreement[None, None], (spacing,) * 4, mode="circular")
    top = (agreement > -torch.inf) & (F.max_pool2d(around, 2 * spacing + 1, stride=1)[0, 0] == agreement)
    votes = [_vote_at(agreement, fixed, y, x) for y, x in top.nonzero().tolist()]
    enough = least * max((own.strength for own in votes), default=0.0)
    return sorted((own for own in votes if own.strength >= enough), key=lambda own: -own.strength)


def _agreement(moving: Float[Tensor, "b d h w"], fixed: Float[Tensor, "d i j"]) -> Float[Tensor, "b n m"]:
    """Return how well maps agree at each shift, in deviations over all shifts; -inf where too little lies on the other.

    Shifts up and to the left are at the end, as a Fourier transform puts them.
    """
    size = [cv2.getOptimalDFTSize(moving.shape[i + 2] + fixed.shape[i + 1] - 1) for i in (0, 1)]
    maps = [_centered(moving), _centered(fixed[None])]
    shown = [(m.square().sum(1, keepdim=True) > 0).float() for m in (moving, fixed[None])]
    common = _correlation(shown[0], shown[1], size)
    enough = common > LEAST_COMMON * torch.minimum(shown[0].sum((1, 2, 3)), shown[1].sum())[:, None, None]
    around = F.pad(_correlation(maps[0], maps[1], size), (1, 1, 1, 1), mode="circular")  # shifts of -1 lie beside those of 0
    surface = F.avg_pool2d(around, 3, stride=1) / common.clamp(min=1).sqrt()
    for own, counted in zip(surface, enough, strict=True):
        if counted.any():
            deviation = max(float(own[counted].std(correction=0)), 1e-9)
            own.sub_(own[counted].mean()).div_(deviation)
    return surface.masked_fill(~enough, -torch.inf)


def _vote_at(agreement: Float[Tensor, "n m"], fixed: Float[Tensor, "d i j"], y: int, x: int) -> Vote:
    (n, m), (_, h, w) = agreement.shape, fixed.shape
    return Vote((y - n if y >= h else y, x - m if x >= w else x), float(agreement[y, x]))


def _centered(maps: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
    """Subtract each map's mean descriptor where it shows something."""
    shown = (maps.square().sum(1, keepdim=True) > 0).float()
    mean = maps.sum((2, 3), keepdim=True) / shown.sum((2, 3), keepdim=True).clamp(min=1)
    return (maps - mean) * shown


def _correlation(moving: Float[Tensor, "b d h w"], fixed: Float[Tensor, "1 d i j"], size: list[int]) -> Float[Tensor, "b n m"]:
    """Return, for each shift from moving to fixed, the sum of products over channels and cells."""
    product = torch.fft.rfft2(fixed, s=size) * torch.fft.rfft2(moving, s=size).conj()
    return torch.fft.irfft2(product.sum(1), s=size)


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
    shown = (maps != 0).any(0)  # (H, W)
    reach = torch.arange(-radius, radius + 1)
    offsets = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), -1).reshape(-1, 2)  # (K, 2)
    around = around_yx.round().long()
    order = around[:, 0].argsort(stable=True)
    found, value = torch.empty_like(around_yx), torch.empty_like(around_yx[:, 0])
    step = max(1, min(_BAND, _CHUNK // (h * w)))
    for first in range(0, len(order), step):
        own = order[first : first + step]
        cells = around[own][:, None] + offsets  # (n, K, 2)
        rows, columns = cells[..., 0].clamp(0, h - 1), cells[..., 1].clamp(0, w - 1)
        inside = ((cells >= 0) & (cells < torch.tensor([h, w]))).all(-1) & shown[rows, columns]
        top, bottom = int(rows[0].min()), int(rows[-1].max()) + 1  # points are sorted by their rows
        products = described[own] @ maps[:, top:bottom].reshape(d, -1)
        similar = products.gather(1, (rows - top) * w + columns).masked_fill(~inside, _NOTHING)  # (n, K)
        best = similar.argmax(1)
        peak = _peak(similar.reshape(-1, len(reach), len(reach)), best // len(reach), best % len(reach))
        found[own] = cells[torch.arange(len(best)), best] + peak
        value[own] = similar.gather(1, best[:, None])[:, 0]
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
