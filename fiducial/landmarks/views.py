"""What the network says of a view of an image: where its keypoints are, how its cells look; and points of two views matched.

Glossary
    view: an image under a transform, as `scenes.Scene.view` renders it. cell: STRIDE pixels of it along a side.
    O the keypoint map.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int
from scipy.spatial import cKDTree
from torch import Tensor

from fiducial.coords import Matrix, apply_transform, cell_centers_yx, from_cells, sample_bilinear, to_cells
from fiducial.landmarks.network import STRIDE, KeypointNet, Output
from fiducial.layers import fold_norms
from fiducial.scenes import Scene
from fiducial.ties import Ties
from fiducial.voting import match_near

POINTS = 700  # matched in a view
SPACING_PX = 3  # between keypoints
POINT_PX2 = 64  # of a view, in which one keypoint is matched: nearer ones see much the same and tell little more
_AT_ONCE_PX = 250_000  # of views that go through the network at once: maps of more do not stay in a processor's cache

Yx = Float64[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Seen:
    """A view of an image and what the network says of it.

    Attributes:
        to_view: from the image's pixels. shown: which pixels show the image.
        score: computes O where it is asked for, once.
    """

    to_view: Matrix
    shown: Bool[np.ndarray, "h w"]
    descriptors: Float32[Tensor, "d i j"]
    score: Callable[[], Float32[Tensor, "h w"]]


class Observer:
    """Run a network on views of images; what it says is in float32, on the CPU."""

    def __init__(self, network: KeypointNet, device: torch.device, *, bf16: bool) -> None:
        self.network, self.device, self.bf16 = fold_norms(network).to(device), device, bf16
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it

    def examine(self, view: Float32[np.ndarray, "h w"]) -> Output:
        """Return the descriptors of a view, and O as the mean of eight looks: in four turns, and so at half the size.

        What only one look finds seldom repeats (theory, eq. 19).
        """
        h, w = view.shape
        with torch.inference_mode(), self._precision():
            image = self._batch(view[None])
            half = self._turned_score(F.avg_pool2d(image, 2, ceil_mode=True))
            again = F.interpolate(half[:, None], scale_factor=2, mode="bilinear")[:, 0, :h, :w]
            score, described = (self._turned_score(image) + again) / 2, self.network.describe(image)
        return Output(score.float().cpu(), described.float().cpu())

    def _turned_score(self, image: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b h w"]:
        """Return the mean O of an image in its four turns by quarters, as it lies."""
        looks = []
        for quarters in range(4):
            turned = image.rot90(quarters, (2, 3)).contiguous(memory_format=torch.channels_last)
            score = self.network.score(self.network.convolve(turned), (turned.shape[2], turned.shape[3]))
            looks.append(score.float().rot90(-quarters, (1, 2)))
        return torch.stack(looks).mean(0)

    def describe(self, views: Float32[np.ndarray, "b h w"], shown: Bool[np.ndarray, "b h w"]) -> Float32[Tensor, "b d i j"]:
        """Return the descriptors of views, zero for cells that show nothing."""
        with torch.inference_mode(), self._precision():
            step = max(1, _AT_ONCE_PX // (views.shape[1] * views.shape[2]))
            parts = (views[first : first + step] for first in range(0, len(views), step))
            described = torch.cat([self.network.describe(self._batch(part)).float().cpu() for part in parts])
        return only_shown(described, shown)

    def see(self, scene: Scene, to_view: Matrix, size: tuple[int, int]) -> Seen:
        """Return a view with its descriptors, zero for cells that show nothing; O is computed where it is asked for."""
        view, shown = scene.view(to_view, size)
        with torch.inference_mode(), self._precision():
            maps = self.network.convolve(self._batch(view[None]))
            described = self.network.describe_maps(maps, size).float().cpu()

        @lru_cache(maxsize=1)
        def score() -> Float32[Tensor, "h w"]:
            with torch.inference_mode(), self._precision():
                return self.network.score(maps, size).float().cpu()[0]

        return Seen(to_view, shown, only_shown(described, shown[None])[0], score)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _batch(self, views: Float32[np.ndarray, "b h w"]) -> Float32[Tensor, "b 1 h w"]:
        batch = torch.from_numpy(np.ascontiguousarray(views))[:, None].to(self.device)
        return batch.contiguous(memory_format=torch.channels_last)


def decode(
    score: Float32[Tensor, "H W"], shown: Bool[Tensor, "H W"], most: int, spacing_px: int = SPACING_PX
) -> tuple[Yx, Float64[np.ndarray, " n"]]:
    """Return the places of the highest O, each at least `spacing_px` along an axis from those before it, and O there.

    A place that is a peak is given to a fraction of a pixel. Points are taken in rounds: all that are highest in their
    neighborhood, then the same of what these leave.
    """
    grid, kernel = score.cpu().numpy(), np.ones((2 * spacing_px - 1, 2 * spacing_px - 1), np.uint8)
    left = np.where(shown.cpu().numpy(), grid, np.float32(0))
    parts, found = [np.zeros((0, 2), int)], np.zeros(0, np.float32)
    while (found > left.max()).sum() < most:
        taken = (left == cv2.dilate(left, kernel)) & (left > 0)
        if not taken.any():
            break
        parts.append(np.argwhere(taken))
        found = np.concatenate([found, left[taken]])
        left[cv2.dilate(taken.astype(np.uint8), kernel) > 0] = 0
    order = np.argsort(-found, kind="stable")[:most]
    yx = np.concatenate(parts)[order]
    return yx + _offset(grid, yx), found[order].astype(np.float64)


def spaced(yx: Yx, reach_px: float) -> Bool[np.ndarray, " n"]:
    """Return which points, the best first, have no better one within reach that stays: at a seam both tiles may show one."""
    kept = np.ones(len(yx), dtype=bool)
    for better, worse in sorted(cKDTree(yx).query_pairs(reach_px)):
        kept[worse] &= not kept[better]
    return kept


def _offset(grid: Float32[np.ndarray, "H W"], yx: Int[np.ndarray, "n 2"]) -> Yx:
    """Return how far the top of a parabola through a peak and its neighbors lies from it.

    It is 0 for what is no peak, and across the border, where a neighbor is missing.
    """
    padded, (y, x) = np.pad(grid, 1, mode="reflect").astype(np.float64), (yx + 1).T
    middle, parts = padded[y, x], []
    for low, high in ((padded[y - 1, x], padded[y + 1, x]), (padded[y, x - 1], padded[y, x + 1])):
        bend = 2 * middle - low - high
        is_peak = (middle >= low) & (middle >= high) & (bend > 1e-9)
        parts.append(np.where(is_peak, (high - low) / (2 * np.maximum(bend, 1e-9)), 0.0))
    return np.clip(np.stack(parts, axis=1), -0.5, 0.5)


def describe_points(descriptors: Float32[Tensor, "d h w"], yx: Yx) -> Float32[np.ndarray, "n d"]:
    """Sample descriptors at points in pixels; they are of unit length."""
    cells = to_cells(torch.from_numpy(yx), STRIDE).float()
    return F.normalize(sample_bilinear(descriptors[None], cells[None, :, None], "border")[0, :, :, 0].T, dim=1).numpy()


def only_shown(described: Float32[Tensor, "b d i j"], shown: Bool[np.ndarray, "b h w"]) -> Float32[Tensor, "b d i j"]:
    """Return descriptors with zeros for cells that show nothing."""
    cells = F.adaptive_avg_pool2d(torch.from_numpy(shown.astype(np.float32))[:, None], (described.shape[2], described.shape[3]))
    return described * (cells > 0.5)


def match_views(own: Seen, other: Seen, radius: int, *, by_peaks: bool = False) -> Ties:
    """Match points of one view in another of its size, whose image counts as the moving one: cells of a grid, or keypoints."""
    both = torch.from_numpy(own.shown & other.shown)
    area = int(both.sum())
    most = min(POINTS, area // POINT_PX2)
    spacing = max(SPACING_PX, round(0.6 * (area / POINTS) ** 0.5))  # so that keypoints are spread
    yx = decode(own.score(), both, most, spacing)[0] if by_peaks else _grid_points(both)
    cells = to_cells(torch.from_numpy(yx), STRIDE).float()
    pairs = match_near(own.descriptors, other.descriptors, cells, radius)
    own_yx, other_yx = (
        apply_transform(np.linalg.inv(seen.to_view), from_cells(found, STRIDE))
        for seen, found in ((own, pairs.own_yx), (other, pairs.other_yx))
    )
    return Ties(other_yx, own_yx, pairs.similarity, pairs.mutual)


def _grid_points(shown: Bool[Tensor, "h w"]) -> Yx:
    """Return the centers of cells that show something, about POINTS of them."""
    centers = cell_centers_yx((shown.shape[0] // STRIDE * STRIDE, shown.shape[1] // STRIDE * STRIDE), STRIDE)
    at = centers.astype(int)
    kept = centers[shown.numpy()[at[:, 0], at[:, 1]]]
    return kept[:: max(1, len(kept) // POINTS)]
