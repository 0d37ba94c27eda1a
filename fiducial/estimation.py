"""Estimate a transform from tie points, some of them wrong, and say how far two transforms lie apart.

Transforms are 3×3 on (x, y, 1). Wrong points are told by MAGSAC++ (Barath et al. 2020, in OpenCV); the model is then fitted to
the others by least squares, reweighted.
"""

from typing import Literal, get_args

import cv2
import numpy as np
from jaxtyping import Bool, Float64

from fiducial.coords import Matrix, apply_transform, corners_yx

Model = Literal["shift", "similarity", "affine", "homography"]
MODELS: tuple[Model, ...] = get_args(Model)

Points = Float64[np.ndarray, "n 2"]

_LEAST = {"shift": 4, "similarity": 4, "affine": 5, "homography": 6}  # points, two more than needed and never under four
_ROUNDS = 5  # of reweighting
_GRID = 15  # points a side over which distances are averaged


def estimate(
    model: Model, source_yx: Points, target_yx: Points, reach_px: float
) -> tuple[Matrix, Bool[np.ndarray, " n"]] | None:
    """Return the transform on which most points agree within `reach_px`, and which do; None where too few do."""
    if len(source_yx) < _LEAST[model]:
        return None
    agreed = _agreeing(model, source_yx, target_yx, reach_px)
    for _ in range(2):  # the simpler model may lose points that the general one took, and win others
        if agreed is None or agreed.sum() < _LEAST[model]:
            return None
        matrix = fit(model, source_yx[agreed], target_yx[agreed])
        agreed = residuals(matrix, source_yx, target_yx) < reach_px
    return (matrix, agreed) if agreed is not None and agreed.sum() >= _LEAST[model] else None


def _agreeing(model: Model, source_yx: Points, target_yx: Points, reach_px: float) -> Bool[np.ndarray, " n"] | None:
    options = cv2.UsacParams()
    options.score, options.sampler = cv2.SCORE_METHOD_MAGSAC, cv2.SAMPLING_UNIFORM
    options.loMethod, options.loIterations, options.loSampleSize = cv2.LOCAL_OPTIM_SIGMA, 10, 20
    options.threshold, options.confidence, options.maxIterations = reach_px, 0.999, 3000
    source, target = (np.ascontiguousarray(yx[:, ::-1]) for yx in (source_yx, target_yx))
    find = cv2.findHomography if model == "homography" else cv2.estimateAffine2D
    matrix, agreed = find(source, target, options)
    return None if matrix is None else agreed.ravel().astype(bool)


def fit(model: Model, source_yx: Points, target_yx: Points) -> Matrix:
    """Return the transform of least squares, in which points count less the farther off they are (Cauchy's weights)."""
    weight = np.ones(len(source_yx))
    for _ in range(_ROUNDS):
        matrix = _fit_weighted(model, source_yx, target_yx, weight)
        apart = residuals(matrix, source_yx, target_yx)
        weight = 1 / (1 + (apart / max(float(np.median(apart)), 1e-6)) ** 2)
    return matrix


def _fit_weighted(model: Model, source_yx: Points, target_yx: Points, weight: Float64[np.ndarray, " n"]) -> Matrix:
    """Solve the linear equations of a model about the points' middle; those of a homography in their algebraic form."""
    middle = np.average(source_yx, axis=0, weights=weight)
    size = max(float(np.abs(source_yx - middle).max()), 1e-9)
    y, x = ((source_yx - middle) / size).T
    v, u = target_yx.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    to_unit = np.array([[1 / size, 0, -middle[1] / size], [0, 1 / size, -middle[0] / size], [0, 0, 1]])
    if model == "shift":
        dy, dx = np.average(target_yx - source_yx, axis=0, weights=weight)
        return np.array([[1.0, 0, dx], [0, 1.0, dy], [0, 0, 1.0]])
    if model == "similarity":
        rows = [np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)]
    elif model == "affine":
        rows = [np.stack([x, y, one, zero, zero, zero], 1), np.stack([zero, zero, zero, x, y, one], 1)]
    else:
        rows = [
            np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1),
            np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1),
        ]
    root = np.sqrt(np.concatenate([weight, weight]))
    p = np.linalg.lstsq(np.concatenate(rows) * root[:, None], np.concatenate([u, v]) * root, rcond=None)[0]
    if model == "similarity":
        return np.array([[p[0], -p[1], p[2]], [p[1], p[0], p[3]], [0, 0, 1]]) @ to_unit
    last = p[6:8] if model == "homography" else (0.0, 0.0)
    matrix = np.array([p[:3], p[3:6], [*last, 1.0]]) @ to_unit
    return matrix / matrix[2, 2]


def residuals(matrix: Matrix, source_yx: Points, target_yx: Points) -> Float64[np.ndarray, " n"]:
    """Return the distance of each target from where the transform puts its source."""
    return np.linalg.norm(apply_transform(matrix, source_yx) - target_yx, axis=1)


def held_out_error(model: Model, source_yx: Points, target_yx: Points, folds: int = 4) -> float:
    """Return the median distance of points from transforms fitted to the others, a fold at a time; NaN for too few points."""
    if len(source_yx) < 2 * _LEAST[model]:
        return float("nan")
    fold = np.random.default_rng(0).permutation(len(source_yx)) % folds
    apart = [
        residuals(fit(model, source_yx[fold != k], target_yx[fold != k]), source_yx[fold == k], target_yx[fold == k])
        for k in range(folds)
    ]
    return float(np.median(np.concatenate(apart)))


def transform_distance(a: Matrix, b: Matrix, moving_size: tuple[int, int], fixed_size: tuple[int, int]) -> float:
    """Return the mean distance between two transforms from a moving to a fixed image, in pixels of the fixed one.

    It is averaged over a grid of points that `a` puts into the fixed image; NaN where there are none.
    """
    points = common_grid(a, moving_size, fixed_size, _GRID)
    if not len(points):
        return float("nan")
    return float(np.linalg.norm(apply_transform(a, points) - apply_transform(b, points), axis=1).mean())


def common_grid(matrix: Matrix, moving_size: tuple[int, int], fixed_size: tuple[int, int], count: int) -> Points:
    """Return points of the moving image that a transform puts into the fixed one: of a grid of `count` a side, those inside.

    The grid spans what the fixed image may show, however small a part of the moving image that is.
    """
    low, high = np.zeros(2), np.array(moving_size) - 1.0
    if np.linalg.matrix_rank(matrix) == 3:
        back = np.column_stack([corners_yx(fixed_size)[:, ::-1], np.ones(4)]) @ np.linalg.inv(matrix).T
        if (back[:, 2] > 0).all():  # else the moving image's horizon lies in the fixed one
            seen = back[:, 1::-1] / back[:, 2:]
            low, high = np.clip(seen.min(axis=0), low, high), np.clip(seen.max(axis=0), low, high)
    sides = (np.linspace(a, b, count) for a, b in zip(low, high, strict=True))
    points = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
    placed = apply_transform(matrix, points)
    return points[((placed >= 0) & (placed <= np.array(fixed_size) - 1)).all(axis=1)]
