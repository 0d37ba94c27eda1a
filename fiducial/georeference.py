"""Say how two images lie on each other by what their files state of the map."""

from dataclasses import dataclass

import numpy as np

from fiducial.coords import Matrix, apply_transform, corners_yx, image_center_yx
from fiducial.estimation import Model, common_grid, fit, residuals
from fiducial.records import Image, InputError

EXPRESSIBLE_PX = 5.0  # mean distance from where the files put a moving image that a model may leave: that of an accepted answer
_SAMPLES = 12  # points a side through which the map's projection is seen


@dataclass(frozen=True)
class Search:
    """Which transforms are sought: a start from moving to fixed pixels, and angles and scales about it.

    Attributes:
        known: whether the start comes from what the files state, rather than from their middles.
    """

    start: Matrix
    known: bool
    scales: tuple[float, float]
    turn_deg: float
    model: Model


def stated_transform(moving: Image, fixed: Image) -> Matrix | None:
    """Return the transform from moving to fixed pixels that the georeferences state; None unless both files have one.

    Between two reference systems it is the homography nearest to the projection, over the moving image.

    Raises:
        InputError: the images do not overlap, or one system cannot be projected to the other.
    """
    if moving.pixel_to_world is None or fixed.pixel_to_world is None or moving.crs is None or fixed.crs is None:
        return None
    to_fixed = np.linalg.inv(fixed.pixel_to_world)
    matrix = to_fixed @ moving.pixel_to_world if moving.crs == fixed.crs else _projected(moving, fixed, to_fixed)
    low, high = (bound(apply_transform(matrix, corners_yx(moving.size)), axis=0) for bound in (np.min, np.max))
    if (high < 0).any() or (low > np.array(fixed.size) - 1).any():
        raise InputError(
            f"{moving.name} and {fixed.name} do not overlap by their georeference: choose others, or search without (--no-map)"
        )
    return matrix


def check_expressible(stated: Matrix, model: Model, moving: Image, fixed: Image, instead: str) -> None:
    """Refuse a model that cannot lay one image on the other as their files state, however it is chosen; raises InputError."""
    points = common_grid(stated, moving.size, fixed.size, _SAMPLES)
    if not len(points):
        return
    placed = apply_transform(stated, points)
    apart = float(residuals(fit(model, points, placed), points, placed).mean())  # few points say nothing of places between
    if apart > EXPRESSIBLE_PX:
        raise InputError(
            f"{'an' if model == 'affine' else 'a'} {model} cannot lay {moving.name} on {fixed.name} as the files state, "
            f"it misses by {apart:.0f} px on average: choose another --model, or {instead}"
        )


def correction(matrix: Matrix, stated: Matrix, fixed: Image) -> tuple[float, float]:
    """Return what a transform adds to the stated one at the fixed image's center, (dy, dx) in map units."""
    assert fixed.pixel_to_world is not None
    center = np.array([image_center_yx(fixed.size)])
    found = apply_transform(matrix @ np.linalg.inv(stated), center)
    world = apply_transform(fixed.pixel_to_world, np.concatenate([center, found]))
    return float(world[1, 0] - world[0, 0]), float(world[1, 1] - world[0, 1])


def _projected(moving: Image, fixed: Image, to_fixed: Matrix) -> Matrix:
    from rasterio._err import CPLE_BaseError  # noqa: PLC0415 (what GDAL raises is no RasterioError)
    from rasterio.errors import RasterioError  # noqa: PLC0415 (an extra, without which no image has a reference system)
    from rasterio.warp import transform  # noqa: PLC0415

    assert moving.pixel_to_world is not None
    sides = (np.linspace(0, side - 1, _SAMPLES) for side in moving.size)
    points = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
    world = apply_transform(moving.pixel_to_world, points)
    try:
        x, y = transform(moving.crs, fixed.crs, world[:, 1].tolist(), world[:, 0].tolist())
    except (CPLE_BaseError, RasterioError, ValueError) as error:
        why = str(error).splitlines()[0][:200]
        raise InputError(f"cannot project the map of {moving.name} to that of {fixed.name}: {why}") from error
    placed = apply_transform(to_fixed, np.stack([y, x], 1).astype(np.float64))
    known = np.isfinite(placed).all(axis=1)
    if known.sum() < len(points) // 2:
        raise InputError(f"most of {moving.name} lies beyond the map of {fixed.name}: choose images that overlap")
    return fit("homography", points[known], placed[known])
