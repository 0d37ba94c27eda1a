"""Judge a transform between two images by the points that were matched in them.

Glossary
    Ties: points of a moving image and their partners in a fixed one, in pixels of each.
    frame: the grid, reduced from the fixed image or a part of it, on which the points were matched.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from fiducial.coords import Matrix, apply_transform, corners_yx, image_center_yx, scale_transform, shift
from fiducial.estimation import Model, Points, common_grid, estimate, held_out_error, transform_distance

REACH_PX = 3.0  # within which ties agree, in pixels of the frame

# What the probability of a transform is fitted on.
EVIDENCE = ("log_ties", "agreement", "held_out", "way_back", "spread", "similarity")
ALIKE_TIES = 200  # that tell as much of the error as one by itself
AGAINST = ("held_out", "way_back")  # more of these speaks against it

Size = tuple[int, int]

_LOST_PX = 20.0  # of the frame: what an estimate counts as that failed
_CELLS = 6  # a side of the frame, in which ties are looked for
_GRID = 24  # points a side of what the images have in common
TILES = 3  # a side, of a large scene, that refine the transform at each finer scale
_LEAST_TILE_PX = 64
LEAST_SIDE_PX = 48  # of a frame


@dataclass(frozen=True)
class Ties:
    """Points of both images that were matched; `mutual` as in `voting.Pairs`."""

    moving_yx: Points
    fixed_yx: Points
    similarity: Float64[np.ndarray, " n"]
    mutual: Bool[np.ndarray, " n"]

    def pick(self, index: Bool[np.ndarray, " n"]) -> "Ties":
        """Return some of the ties."""
        return Ties(self.moving_yx[index], self.fixed_yx[index], self.similarity[index], self.mutual[index])

    def turned(self) -> "Ties":
        """Return the ties of the two images in each other's part."""
        return Ties(self.fixed_yx, self.moving_yx, self.similarity, self.mutual)


def join(parts: list[Ties]) -> Ties:
    """Return the ties of several parts; none of no parts."""
    nowhere, nothing = np.zeros((0, 2)), np.zeros(0)
    every = [Ties(nowhere, nowhere, nothing, nothing > 0), *parts]
    return Ties(
        np.concatenate([part.moving_yx for part in every]),
        np.concatenate([part.fixed_yx for part in every]),
        np.concatenate([part.similarity for part in every]),
        np.concatenate([part.mutual for part in every]),
    )


@dataclass(frozen=True)
class Answer:
    """A transform, the ties that agree with it, and the evidence for it (as EVIDENCE), which is of a frame of that scale.

    `rivals` are the evidence for transforms to other places on which the images agree almost as well: at most one is right.
    """

    matrix: Matrix
    scale: float
    ties: Ties
    evidence: Float64[np.ndarray, " k"]
    held_out_px: float
    return_px: float
    rivals: tuple[Float64[np.ndarray, " k"], ...] = ()


def fit_ties(model: Model, ties: Ties, reach_px: float) -> tuple[Matrix, Bool[np.ndarray, " n"]] | None:
    """Estimate from the mutual ties; the second value says of all ties which agree."""
    own = ties.pick(ties.mutual)
    found = estimate(model, own.moving_yx, own.fixed_yx, reach_px)
    if found is None:
        return None
    agreed = np.zeros(len(ties.mutual), bool)
    agreed[np.flatnonzero(ties.mutual)[found[1]]] = True
    return found[0], agreed


@dataclass(frozen=True)
class Frame:
    """A grid on the fixed image: its scale over the image, its size, and the pixel (y, x) of the image that it begins with."""

    scale: float
    size: Size
    first: tuple[int, int] = (0, 0)

    @property
    def to_frame(self) -> Matrix:
        """The transform from the fixed image's pixels to the frame's."""
        return scale_transform(self.scale) @ shift(-self.first[0], -self.first[1])


def judge(model: Model, ahead: Ties, back: Ties, frame: Frame, start: Matrix, sizes: tuple[Size, Size]) -> Answer | None:
    """Estimate from the ties of both directions, and gather the evidence; None where too few agree.

    `ahead` are keypoints of the fixed image, matched in the moving one; `back` the reverse. Each way gives an estimate of its
    own, and how far these lie from the common one is part of the evidence. `start` is where the search began, `sizes` are those
    of the moving and fixed images.
    """
    mutual, scale = join([ties.pick(ties.mutual) for ties in (ahead, back)]), frame.scale
    whole, *ways = (fit_ties(model, ties, REACH_PX / scale) for ties in (mutual, ahead, back))
    if whole is None or not is_plausible(whole[0], start, *sizes):
        return None
    kept = mutual.pick(whole[1])
    held_out = held_out_error(model, kept.moving_yx, kept.fixed_yx)
    return_px = float(sum(np.nan if way is None else transform_distance(whole[0], way[0], *sizes) for way in ways))
    evidence = np.array(
        [
            np.log1p(len(kept.similarity)),
            len(kept.similarity) / max(len(mutual.similarity), 1),
            _log_px(held_out * scale),
            _log_px(return_px * scale),
            spread(whole[0], kept, frame, *sizes),
            float(kept.similarity.mean()),
        ]
    )
    return Answer(whole[0], scale, kept, evidence, held_out, return_px)


def _log_px(error_px: float) -> float:
    return float(np.log((min(error_px, _LOST_PX) if np.isfinite(error_px) else _LOST_PX) + 0.1))


def spread(matrix: Matrix, ties: Ties, frame: Frame, moving_size: Size, fixed_size: Size) -> float:
    """Return the share of the common area, in cells of the frame, in which there are ties."""
    cells = []
    for yx in (apply_transform(matrix, common_grid(matrix, moving_size, fixed_size, _GRID)), ties.fixed_yx):
        cell = np.floor(_CELLS * frame.scale * (yx - np.array(frame.first)) / np.array(frame.size)).astype(int)
        inside = ((cell >= 0) & (cell < _CELLS)).all(axis=1)
        cells.append(set(map(tuple, cell[inside].tolist())))
    common, tied = cells
    return len(common & tied) / len(common) if common else 0.0


def error_estimate(answer: Answer) -> float:
    """Return the mean error to expect, in fixed pixels: how far the two ways lie apart, and the mean's scatter.

    Ties near each other err alike: `ALIKE_TIES` tell as much as one (recipes/keypoints_error.py).
    """
    counted = max(len(answer.ties.similarity) / ALIKE_TIES, 1.0)
    return answer.return_px + answer.held_out_px / float(np.sqrt(counted))


def local_scale(matrix: Matrix, moving_size: Size) -> float:
    """Return the size of a moving pixel in fixed pixels, in the middle of the moving image."""
    return float(np.sqrt(abs(np.linalg.det(_linear(matrix, moving_size)))))


def choose_frame(matrix: Matrix, moving_size: Size, fixed_size: Size, longest_px: int, *, whole: bool = False) -> Frame:
    """Return the frame in which neither image exceeds `longest_px`; it leaves out what is far from a small moving image.

    The fixed image is not enlarged, nor reduced to less than a third of that side, nor to a side under LEAST_SIDE_PX. A
    `whole` frame leaves nothing out.
    """
    first, span = ((0, 0), fixed_size) if whole else _surroundings(matrix, moving_size, fixed_size)
    own = max(span)
    factor = min(1.0, longest_px / max(own, min(local_scale(matrix, moving_size) * max(moving_size), 3 * own)))
    tall, wide = (max(LEAST_SIDE_PX, round(side * factor)) for side in span)
    return Frame(factor, (tall, wide), first)


def choose_canvas(frame: Frame, matrix: Matrix, moving_size: Size, *, near: bool) -> tuple[Size, Matrix]:
    """Return size and transform of a canvas that shows a moving image as turned and scaled in a frame, in its middle.

    Where it is known to lie `near`, the canvas leaves out what is farther from the frame than that is long.
    """
    placed = frame.to_frame @ matrix
    corners = apply_transform(placed, corners_yx(moving_size))
    low, high = corners.min(axis=0), corners.max(axis=0)
    if near:
        low, high = (np.clip(corner, -np.array(frame.size), 2 * np.array(frame.size)) for corner in (low, high))
    size = (16 * np.maximum(np.ceil((high - low) / 16 + 0.1), 2)).astype(int)
    tall, wide = size.tolist()
    return (tall, wide), shift(*image_center_yx((tall, wide))) @ shift(*-(low + high) / 2) @ placed


def _surroundings(matrix: Matrix, moving_size: Size, fixed_size: Size) -> tuple[tuple[int, int], Size]:
    """Return first pixel and size of the fixed image's part around a moving one: the moving one's length on every side of it.

    It is the whole fixed image unless the part is less than half as long.
    """
    placed = apply_transform(matrix, corners_yx(moving_size))
    low, high = placed.min(axis=0), placed.max(axis=0)
    length = (high - low).max()
    if not 2 * 3 * length < max(fixed_size):
        return (0, 0), fixed_size
    first = np.clip(np.floor(low - length), 0, np.array(fixed_size) - LEAST_SIDE_PX).astype(int)
    last = np.clip(np.ceil(high + length), first + LEAST_SIDE_PX, fixed_size).astype(int)
    return (int(first[0]), int(first[1])), (int(last[0] - first[0]), int(last[1] - first[1]))


def is_plausible(matrix: Matrix, start: Matrix, moving_size: Size, fixed_size: Size) -> bool:
    """Say whether a transform leaves something in common, and neither mirrors nor stretches by a half what the start gives."""
    departure = _linear(matrix, moving_size) @ np.linalg.inv(_linear(start, moving_size))
    stretch = np.linalg.svd(departure, compute_uv=False)
    corners = corners_yx(moving_size)
    depth = np.column_stack([corners[:, ::-1], np.ones(4)]) @ matrix[2]
    if np.linalg.det(departure) <= 0 or stretch[0] > 1.5 * stretch[1] or (depth <= 0).any():
        return False
    return bool(np.isfinite(transform_distance(matrix, matrix, moving_size, fixed_size)))


def _linear(matrix: Matrix, moving_size: Size) -> Float64[np.ndarray, "2 2"]:
    """Return the linear part of a transform in the middle of the moving image."""
    y, x = image_center_yx(moving_size)
    placed = apply_transform(matrix, np.array([[y, x], [y + 1, x], [y, x + 1]]))
    return (placed[1:] - placed[0]).T


def spread_tiles(
    matrix: Matrix, scale: float, moving_size: Size, fixed_size: Size, longest_px: int
) -> list[tuple[tuple[float, float], Size]]:
    """Return the first pixels and sizes of tiles, spread over what the images have in common, in a frame of that scale."""
    placed = apply_transform(matrix, common_grid(matrix, moving_size, fixed_size, _GRID)) * scale
    if not len(placed):
        return []
    low, high = placed.min(axis=0), placed.max(axis=0)
    size = np.clip(high - low, _LEAST_TILE_PX, longest_px).astype(int)
    starts = [np.unique(np.linspace(a, max(b - n, a), TILES).round()) for a, b, n in zip(low, high, size, strict=True)]
    return [((float(top), float(left)), (int(size[0]), int(size[1]))) for top in starts[0] for left in starts[1]]
