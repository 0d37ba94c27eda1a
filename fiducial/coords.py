"""Say where a pixel is, and convert between frames: grid, resize, tile, crop, world.

The house frame: `yx` in pixels of the original image, the center of pixel (0, 0) at (0, 0). The image spans from -1/2 to
height - 1/2. Transforms are 3×3 matrices that act on column vectors (x, y, 1). No other file adds a half pixel.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int, Real
from torch import Tensor

Matrix = Float64[np.ndarray, "3 3"]


def sample_bilinear(
    maps: Float[Tensor, "b c h w"], yx: Float[Tensor, "b i j 2"], padding: Literal["zeros", "border"]
) -> Float[Tensor, "b c i j"]:
    """Read maps at points in pixels, bilinearly; beyond the outermost centers by zeros or by the border's values.

    A side of one pixel has no extent between centers; every ordinate then reads the same sample.
    """
    height, width = maps.shape[-2:]
    last = torch.tensor([max(width - 1, 1), max(height - 1, 1)], dtype=yx.dtype, device=yx.device)
    grid = yx.flip(-1) * (2 / last) - 1
    return F.grid_sample(maps, grid, padding_mode=padding, align_corners=True)


def apply_transform(matrix: Float[np.ndarray, "3 3"], yx: Float[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    """Map points by a 3×3 matrix on (x, y, 1); points in and out are yx."""
    xy1 = np.column_stack([yx[:, 1], yx[:, 0], np.ones(len(yx))])
    out = xy1 @ np.asarray(matrix, dtype=np.float64).T
    return out[:, 1::-1] / out[:, 2:]


def shift(dy: float, dx: float) -> Matrix:
    """Return the transform that adds (dy, dx) to a point."""
    return np.array([[1.0, 0.0, dx], [0.0, 1.0, dy], [0.0, 0.0, 1.0]])


def resize_transform(source_size: tuple[int, int], target_size: tuple[int, int]) -> Matrix:
    """Return the transform from pixels of an image to those of its resized copy, both (height, width), edges aligned."""
    sy, sx = (target_size[i] / source_size[i] for i in (0, 1))
    return np.array([[sx, 0.0, (sx - 1) / 2], [0.0, sy, (sy - 1) / 2], [0.0, 0.0, 1.0]])


def scale_transform(scale: float) -> Matrix:
    """Return the transform from pixels of an image to those of a copy `scale` times as large, their first edges aligned."""
    offset = (scale - 1) / 2
    return np.array([[scale, 0.0, offset], [0.0, scale, offset], [0.0, 0.0, 1.0]])


def similarity(scale: float, angle_deg: float, center_yx: tuple[float, float] = (0.0, 0.0)) -> Matrix:
    """Return the transform that scales and turns about a center; a positive angle turns x towards y."""
    c, s = scale * np.cos(np.deg2rad(angle_deg)), scale * np.sin(np.deg2rad(angle_deg))
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return shift(*center_yx) @ turn @ shift(-center_yx[0], -center_yx[1])


def image_center_yx(size: tuple[int, int]) -> tuple[float, float]:
    """Return the middle of an image of (height, width) pixels."""
    return (size[0] - 1) / 2, (size[1] - 1) / 2


def corners_yx(size: tuple[int, int]) -> Float64[np.ndarray, "4 2"]:
    """Return the outer corners of an image, clockwise from the top left, half a pixel outside the corner pixels' centers."""
    h, w = size
    return np.array([[0, 0], [0, w], [h, w], [h, 0]], dtype=np.float64) - 0.5


def pixel_edges_to_yx(boxes_yxyx: Real[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n 4"]:
    """Convert boxes counted from the image's corner (COCO, slices) to the house frame, counted from a pixel's center."""
    return np.asarray(boxes_yxyx, dtype=np.float64) - 0.5


def yx_to_pixel_edges(boxes_yxyx: Float[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n 4"]:
    """Convert boxes of the house frame to edges counted from the image's corner, as slices and COCO count."""
    return np.asarray(boxes_yxyx, dtype=np.float64) + 0.5


def cell_centers_yx(size: tuple[int, int], stride: int) -> Float64[np.ndarray, "n 2"]:
    """Return the centers, in image pixels, of the cells of a feature map of `stride`, row by row."""
    rows, columns = (np.arange(-(-side // stride)) * stride + (stride - 1) / 2 for side in size)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


def to_cells(ordinates: Float[Tensor, "*n"], stride: int) -> Float[Tensor, "*n"]:
    """Return y, x or both in units of cells of a feature map of `stride`, 0 at the center of the first cell."""
    return (ordinates - (stride - 1) / 2) / stride


def from_cells(ordinates: Float[np.ndarray, "*n"], stride: int) -> Float64[np.ndarray, "*n"]:
    """Return in pixels what counts cells of a feature map of `stride`: the way back of `to_cells`."""
    return np.asarray(ordinates, dtype=np.float64) * stride + (stride - 1) / 2


def nearest_cell(yx: Float[np.ndarray, "n 2"], size: tuple[int, int], stride: int) -> Int[np.ndarray, " n"]:
    """Return the flat index of the cell of a feature map that covers each point; -1 outside the image."""
    rows, columns = (-(-side // stride) for side in size)
    cell = np.floor((np.asarray(yx) + 0.5) / stride).astype(np.int64)
    inside = ((cell >= 0) & (cell < (rows, columns))).all(axis=1)
    return np.where(inside, cell[:, 0] * columns + cell[:, 1], -1)


def cell_and_part(ordinate: Float[Tensor, " n"], stride: int, cells: int) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Return which of `cells` cells of a feature map holds each y or x, and how far into it, from 0 to 1.

    What lies outside the map is brought to its first or last cell.
    """
    place = (ordinate + 0.5) / stride
    cell = place.floor().long().clamp(0, cells - 1)
    return cell, (place - cell).clamp(0, 1)


def from_corner_frame(matrix: Float[np.ndarray, "3 3"]) -> Matrix:
    """Convert a transform that takes (x, y) counted from the image's corner (GDAL, rasterio) to the house frame."""
    return np.asarray(matrix, dtype=np.float64) @ shift(0.5, 0.5)


def to_corner_frame(matrix: Float[np.ndarray, "3 3"]) -> Matrix:
    """Convert a transform that takes pixels of the house frame to one that takes (x, y) from the image's corner (GDAL)."""
    return np.asarray(matrix, dtype=np.float64) @ shift(-0.5, -0.5)


def yx_to_corner_xy(yx: Float[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    """Convert points of the house frame to x, y counted from the image's corner."""
    return np.asarray(yx, dtype=np.float64)[:, ::-1] + 0.5


def corner_xy_to_yx(xy: Float[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
    """Convert points x, y counted from the image's corner to the house frame."""
    return np.asarray(xy, dtype=np.float64)[:, ::-1] - 0.5


def facing(matrix: Float[np.ndarray, "3 3"], size: tuple[int, int]) -> Matrix:
    """Return the same transform with a third coordinate of 1 at the center of the image of `size` that it maps.

    Where the third coordinate of it, or of its inverse, is not positive lies what a homography sees behind itself.

    Raises:
        ValueError: the center goes to infinity.
    """
    cy, cx = image_center_yx(size)
    third = float(matrix[2] @ np.array([cx, cy, 1.0]))
    if not np.isfinite(third) or third == 0:
        raise ValueError(
            f"the center of an image of {size} must stay finite, {np.asarray(matrix).tolist()} takes it to infinity"
        )
    return np.asarray(matrix, dtype=np.float64) / third


def window_to_image(window_yx: tuple[int, int]) -> Matrix:
    """Return the transform from pixels of a crop to those of the image; `window_yx` is the crop's first pixel."""
    return shift(*window_yx)
