"""Say how two images lie on each other by what their files state of the map."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from fiducial.coords import Matrix, apply_transform, corners_yx
from fiducial.estimation import Model, Points, common_grid, fit, residuals
from fiducial.records import Image, InputError

EXPRESSIBLE_PX = 5.0  # mean distance from where the files put a moving image that a model may leave: that of an accepted answer
_SAMPLES = 12  # points a side through which the map's projection is seen
_ENOUGH = 3 * _SAMPLES  # of these, in what the images have in common, to tell a homography by them
_STEADY = 1.2  # ratio of depths over a moving image at which a homography of a part of it says nothing of the rest


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

    Between two reference systems it is the homography nearest to the projection, over what the images have in common: over the
    whole of a large moving image, the earth's curvature would take it away from there.

    Raises:
        InputError: the images do not overlap, or one system cannot be projected to the other.
    """
    if moving.pixel_to_world is None or fixed.pixel_to_world is None or moving.crs is None or fixed.crs is None:
        return None
    if moving.crs != fixed.crs:
        common = _common(moving, fixed)
        if len(common[0]) >= _ENOUGH:
            return _nearest(*common, moving.size)
    matrix = _over_the_whole(moving, fixed)
    low, high = (bound(apply_transform(matrix, corners_yx(moving.size)), axis=0) for bound in (np.min, np.max))
    if (high < 0).any() or (low > np.array(fixed.size) - 1).any():
        raise InputError(
            f"{moving.name} and {fixed.name} do not overlap by their georeference: choose others, or search without (--no-map)"
        )
    return matrix


def meters_of_pixel(image: Image) -> float | None:
    """Return the side of a pixel on its map, or of a square of its area, in meters; None without one, or in degrees."""
    if image.pixel_to_world is None or image.crs is None:
        return None
    from rasterio.crs import CRS  # noqa: PLC0415 (an extra, without which no image has a reference system)

    crs = CRS.from_user_input(image.crs)
    if not crs.is_projected:
        return None
    _, meters = crs.linear_units_factor
    return float(np.sqrt(abs(np.linalg.det(image.pixel_to_world[:2, :2]))) * meters)


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


def map_correction(matrix: Matrix, moving: Image, fixed: Image) -> tuple[float, float] | None:
    """Return what a transform adds to where the moving file states that it lies, (dy, dx) in units of the fixed image's map.

    It is the mean over what the images have in common under the transform; None where that is nothing, or lies beyond the map.

    Raises:
        InputError: one reference system cannot be projected to the other.
    """
    assert fixed.pixel_to_world is not None
    points = common_grid(matrix, moving.size, fixed.size, _SAMPLES)
    added = apply_transform(fixed.pixel_to_world, apply_transform(matrix, points)) - _stated_world(points, moving, fixed)
    known = np.isfinite(added).all(axis=1)
    if not known.any():
        return None
    dy, dx = added[known].mean(axis=0).tolist()
    return dy, dx


def _stated_world(yx: Points, image: Image, other: Image) -> Points:
    """Return where pixels of an image lie on another's map by its own file's word; NaN for what lies beyond that map."""
    assert image.pixel_to_world is not None
    world = apply_transform(image.pixel_to_world, yx)
    if image.crs == other.crs or not len(yx):
        return world
    from rasterio._err import CPLE_BaseError  # noqa: PLC0415 (what GDAL raises is no RasterioError)
    from rasterio.errors import RasterioError  # noqa: PLC0415 (an extra, without which no image has a reference system)
    from rasterio.warp import transform  # noqa: PLC0415

    def project(points: Points) -> Points:
        x, y = transform(image.crs, other.crs, points[:, 1].tolist(), points[:, 0].tolist())
        return np.stack([y, x], 1).astype(np.float64)

    failures, placed = (CPLE_BaseError, RasterioError, ValueError), np.full(world.shape, np.nan)
    try:
        placed = project(world)
    except failures as error:
        for i in range(len(world)):  # one place beyond a map may be an error for all
            with suppress(*failures):
                placed[i] = project(world[i : i + 1])[0]
        if not np.isfinite(placed).any():
            why = str(error).splitlines()[0][:200]
            raise InputError(f"cannot project the map of {image.name} to that of {other.name}: {why}") from error
    return np.where(np.isfinite(placed), placed, np.nan)


def _stated_pixels(yx: Points, image: Image, other: Image) -> Points:
    """Return the pixels of another image under those of an image by both files' word; NaN for what lies beyond a map."""
    assert other.pixel_to_world is not None
    return apply_transform(np.linalg.inv(other.pixel_to_world), _stated_world(yx, image, other))


def _common(moving: Image, fixed: Image) -> tuple[Points, Points]:
    """Return points of what two images have in common by their files, in pixels of each.

    They are those of two grids: of the fixed image's, which may be the smaller one, and of one over the part of the moving
    image where that lies.
    """
    whole = _grid(np.zeros(2), np.array(fixed.size) - 1.0)
    under = _stated_pixels(whole, fixed, moving)
    known, last = np.isfinite(under).all(axis=1), np.array(moving.size) - 1.0
    window = _grid(*(np.clip(bound(under[known], axis=0), 0, last) for bound in (np.min, np.max))) if known.any() else whole[:0]
    placed = _stated_pixels(window, moving, fixed)
    ours, theirs = _within(placed, fixed.size), _within(under, moving.size)
    return np.concatenate([window[ours], under[theirs]]), np.concatenate([placed[ours], whole[theirs]])


def _grid(low: Float64[np.ndarray, " 2"], high: Float64[np.ndarray, " 2"]) -> Points:
    sides = (np.linspace(a, b, _SAMPLES) for a, b in zip(low, high, strict=True))
    return np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)


def _within(yx: Points, size: tuple[int, int]) -> Bool[np.ndarray, " n"]:
    return np.asarray(((yx >= 0) & (yx <= np.array(size) - 1)).all(axis=1))


def _nearest(moving_yx: Points, fixed_yx: Points, moving_size: tuple[int, int]) -> Matrix:
    """Return the homography nearest to pairs of points; the affine one where its horizon comes near to the moving image."""
    matrix = fit("homography", moving_yx, fixed_yx)
    depth = np.column_stack([corners_yx(moving_size)[:, ::-1], np.ones(4)]) @ matrix[2]
    return matrix if depth.max() < _STEADY * depth.min() else fit("affine", moving_yx, fixed_yx)


def _over_the_whole(moving: Image, fixed: Image) -> Matrix:
    """Return the transform that the files state over the whole moving image; raises as `stated_transform`."""
    assert moving.pixel_to_world is not None
    assert fixed.pixel_to_world is not None
    if moving.crs == fixed.crs:
        return np.linalg.inv(fixed.pixel_to_world) @ moving.pixel_to_world
    points = _grid(np.zeros(2), np.array(moving.size) - 1.0)
    placed = _stated_pixels(points, moving, fixed)
    known = np.isfinite(placed).all(axis=1)
    if known.sum() < len(points) // 2:
        raise InputError(f"most of {moving.name} lies beyond the map of {fixed.name}: choose images that overlap")
    return _nearest(points[known], placed[known], moving.size)
