"""Say how two images lie on each other by what their files state of the map."""

import numpy as np

from fiducial.coords import Matrix, apply_transform, corners_yx
from fiducial.estimation import fit
from fiducial.records import Image, InputError

_SAMPLES = 12  # points a side through which the map's projection is seen


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
