"""What the network says of a view of an image: where its keypoints are, how its cells look; and points of two views matched.

Glossary
    view: an image under a transform, as `scenes.Scene.view` renders it. cell: STRIDE pixels of it along a side.
    O the keypoint map.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Float64, Int
from scipy.spatial import cKDTree
from torch import Tensor

from fiducial.coords import Matrix, apply_transform, cell_centers_yx, from_cells, sample_bilinear, to_cells
from fiducial.landmarks.network import STRIDE
from fiducial.ties import Ties
from fiducial.voting import match_near

POINTS = 700  # matched in a view
SPACING_PX = 3  # between keypoints
POINT_PX2 = 64  # of a view, in which one keypoint is matched: nearer ones see much the same and tell little more

Yx = Float64[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Seen:
    """A view of an image and what the network says of it.

    Attributes:
        to_view: from the image's pixels. shown: which pixels show the image.
        score: O; None where it was not asked for.
    """

    to_view: Matrix
    shown: Bool[np.ndarray, "h w"]
    descriptors: Float32[Tensor, "d i j"]
    score: Float32[Tensor, "h w"] | None


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


def match_views(own: Seen, other: Seen, radius: int) -> Ties:
    """Match points of one view in another of its size, whose image counts as the moving one: keypoints, or cells of a grid."""
    both = torch.from_numpy(own.shown & other.shown)
    area = int(both.sum())
    most = min(POINTS, area // POINT_PX2)
    spacing = max(SPACING_PX, round(0.6 * (area / POINTS) ** 0.5))  # so that keypoints are spread
    yx = _grid_points(both) if own.score is None else decode(own.score, both, most, spacing)[0]
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
