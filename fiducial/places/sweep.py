"""Sweep a query over a source: normalized correlation at all angles, coarse in place, scale and angle.

Where the network has seen too little of a kind of image to propose the true place, plain correlation may.

Glossary
    template: the query's largest disk at one scale and angle, reduced; zero mean, unit length. K of n × n px a scale.
    look: contrast and edges, as in `matching`; each is compared with itself, and the query's contrast with the source's edges.
"""

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64
from torch import Tensor

from fiducial.coords import apply_transform, image_center_yx, resize_transform, shift, similarity
from fiducial.matching import Look, look, with_side
from fiducial.places.proposals import NONE, SIDE_SLACK, Proposals, join

STEP = 2  # pixels, so reduced, from one place that is tried to the next
SIDES_TRIED = 4  # between the bounds
LEAST_VARIANCE = 0.02  # of what lies under a template: below, nothing is to be seen there
SOFTENED = 12**-0.5  # deviation of a Gaussian that blurs as averaging over 1 px does
PEAK = 5  # side of the neighborhood, in places tried, in which a peak is the highest

Gray = Float32[np.ndarray, "_ _"]


class Grid(NamedTuple):
    """By how much a rung is reduced before a sweep, how many angles are tried, and between which sides, in its pixels."""

    reduced: float
    angles: int
    sides: tuple[float, float]

    def tried(self) -> Float64[np.ndarray, " s"]:
        """Return the sides of the boxes that are tried."""
        return self.sides[0] * (self.sides[1] / self.sides[0]) ** (np.arange(0.5, SIDES_TRIED) / SIDES_TRIED)


class _Templates(NamedTuple):
    """Templates of one scale, and the disk that they are 0 outside of; `side` is the box's in pixels of the rung."""

    side: float
    contrast: Float32[Tensor, "k 1 n n"]
    edges: Float32[Tensor, "k 1 n n"]
    disk: Float32[Tensor, "1 1 n n"]


class Sweep:
    """A query, to be sought in looks of a source; its templates are made once for each grid."""

    def __init__(self, query: Gray, device: torch.device, *, bf16: bool) -> None:
        self.query, self.device, self.bf16 = query, device, bf16
        self.made: dict[Grid, list[_Templates]] = {}

    def peaks(self, source: Look, grid: Grid, sides: tuple[float, float]) -> Proposals:
        """Return the places where the query correlates better than around (eq. 14), ranked; confidence is NaN.

        Only templates of sides between `sides` are tried.
        """
        if grid not in self.made:
            self.made[grid] = [_templates(self.query, float(side), grid, self.device) for side in grid.tried()]
        full = (source.contrast.shape[0], source.contrast.shape[1])
        size = (max(1, round(full[0] / grid.reduced)), max(1, round(full[1] / grid.reduced)))
        small = [cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA) for image in source]
        looks = torch.from_numpy(np.stack(small))[:, None].to(self.device)
        asked = [made for made in self.made[grid] if sides[0] / SIDE_SLACK < made.side < sides[1] * SIDE_SLACK]
        found = [self._peaks_at(made, looks) for made in asked if min(size) >= made.disk.shape[-1]]
        whole = join([NONE, *found]).ranked()
        return replace(whole, center_yx=apply_transform(resize_transform(size, full), whole.center_yx))

    def _peaks_at(self, templates: _Templates, looks: Float32[Tensor, "2 1 h w"]) -> Proposals:
        """Return the peaks at one scale; centers in pixels of the looks."""
        with torch.inference_mode():
            spread = _spread(looks, templates.disk)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                own = F.conv2d(looks, templates.contrast, stride=STEP)
                edges = F.conv2d(looks[1:], templates.edges, stride=STEP)
            best = torch.maximum(torch.maximum(own[0].abs() / spread[0], own[1] / spread[1]), edges[0] / spread[1])
            value, turn = best.max(0)
            top = value == F.max_pool2d(value[None], PEAK, 1, PEAK // 2)[0]
            row, column = torch.nonzero(top & (value > 0), as_tuple=True)
            center = STEP * torch.stack([row, column], 1).double() + templates.disk.shape[-1] // 2
            angle = turn[row, column].double() * (2 * np.pi / len(templates.edges))
        merit = value[row, column].double().cpu().numpy()
        side, confidence = np.full(len(merit), templates.side), np.full(len(merit), np.nan)
        return Proposals(center.cpu().numpy(), side, angle.cpu().numpy(), confidence, merit)


def _templates(query: Gray, side: float, grid: Grid, device: torch.device) -> _Templates:
    seen = look(with_side(query, (query.shape[0], query.shape[1]), side))
    n = 2 * round((side / grid.reduced - 1) / 2) + 1
    y, x = image_center_yx((seen.contrast.shape[0], seen.contrast.shape[1]))
    middle = n // 2
    dy, dx = np.mgrid[-middle : middle + 1, -middle : middle + 1]
    disk = (np.hypot(dy, dx) <= n / 2).astype(np.float32)
    made = []
    for image in seen:
        smooth = cv2.GaussianBlur(image, (0, 0), SOFTENED * grid.reduced)
        angles = 360 / grid.angles * np.arange(grid.angles)
        turns = [shift(middle, middle) @ similarity(1 / grid.reduced, float(angle)) @ shift(-y, -x) for angle in angles]
        views = np.stack([cv2.warpAffine(smooth, turn[:2], (n, n), flags=cv2.INTER_LINEAR) for turn in turns])
        views = (views - (views * disk).sum((1, 2), keepdims=True) / disk.sum()) * disk
        views /= np.maximum(np.sqrt((views**2).sum((1, 2), keepdims=True)), 1e-6)
        made.append(torch.from_numpy(views.astype(np.float32))[:, None].to(device))
    return _Templates(side, made[0], made[1], torch.from_numpy(disk)[None, None].to(device))


def _spread(looks: Float32[Tensor, "2 1 h w"], disk: Float32[Tensor, "1 1 n n"]) -> Float32[Tensor, "2 1 i j"]:
    """Return the root of the sum of squared differences from the mean under the disk at each place tried."""
    area = disk.sum()
    mean, square = _sums_under(torch.cat([looks, looks * looks]), disk[0, 0]).div_(area).chunk(2)
    return (area * (square - mean * mean).clamp_min(LEAST_VARIANCE)).sqrt()


def _sums_under(images: Float32[Tensor, "b 1 h w"], disk: Float32[Tensor, "n n"]) -> Float32[Tensor, "b 1 i j"]:
    """Return sums under a disk of ones at every STEP-th place, row by row of the disk from running sums along the images'."""
    n, run = len(disk), F.pad(images.double().cumsum(3), (1, 0))
    rows, columns = (images.shape[2] - n) // STEP * STEP + 1, (images.shape[3] - n) // STEP * STEP + 1
    out = torch.zeros_like(run[:, :, :rows:STEP, :columns:STEP])
    for y, width in enumerate(disk.sum(1).round().long().tolist()):
        first = (n - width) // 2  # the disk is as wide to either side of its middle
        line = run[:, :, y : y + rows : STEP]
        out += line[..., first + width : first + width + columns : STEP] - line[..., first : first + columns : STEP]
    return out.float()
