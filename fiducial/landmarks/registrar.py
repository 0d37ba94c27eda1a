"""Lay one image on another: search angles and scales by their descriptors, match keypoints, estimate, and judge the answer.

Glossary
    frame: a grid on which both images are rendered, the fixed one reduced by `scale`, the moving one as a transform puts it.
    start: the similarity from which a search begins: what the files state, or the identity about the images' middles.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Float64, Int
from torch import Tensor

from fiducial.confidence import EvidenceCalibration, evidence_to_probability
from fiducial.coords import (
    Matrix,
    apply_transform,
    cell_centers_yx,
    corners_yx,
    image_center_yx,
    sample_bilinear,
    scale_transform,
    shift,
    similarity,
)
from fiducial.estimation import Model, held_out_error, residuals
from fiducial.landmarks.network import STRIDE, KeypointNet, Output, confidence
from fiducial.layers import fold_norms
from fiducial.records import Image, InputError, Keypoints, Progress, Provenance, Registration
from fiducial.scenes import Scene, open_scene
from fiducial.steps import Steps
from fiducial.ties import (
    REACH_PX,
    TILES,
    Answer,
    Ties,
    error_estimate,
    fit_ties,
    is_plausible,
    join,
    judge,
    local_scale,
    spread_tiles,
)
from fiducial.tiles import tiles
from fiducial.voting import Pairs, match_near, vote

SMALLEST_PX = 48  # of an image's side
SEARCH_PX, WORK_PX = 256, 512  # longest side of the larger image in a frame, while searching and while matching
TURN_DEG, STEP = 30.0, 1.35  # steps of the search over angles and scales
RANGE = (0.6, 1.67)  # of scales, if nothing is known of them
CANDIDATES, FINALISTS = 6, 2  # votes that are matched, and matched ones that are matched again in a finer frame
WIDE, NARROW = 10, 4  # cells around a place where partners are sought, first and later
POINTS = 700  # matched in a frame
SPACING_PX = 3  # between keypoints
CERTAIN = 0.97  # probability at which nothing else is searched
TILE_PX, MARGIN_PX = 512, 64
_ROUND_STEPS = 4 + CANDIDATES + FINALISTS  # of a search, as it reports its progress: scales, votes, matches

Yx = Float64[np.ndarray, "n 2"]


@dataclass(frozen=True)
class Guess:
    """A transform from moving to fixed pixels, and how strongly it is supported: votes, or the number of ties that agree."""

    matrix: Matrix
    strength: float


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


def _offset(grid: Float32[np.ndarray, "H W"], yx: Int[np.ndarray, "n 2"]) -> Yx:
    """Return how far the top of a parabola through a peak and its neighbors lies from it; 0 for what is no peak."""
    padded, (y, x) = np.pad(grid, 1, mode="edge").astype(np.float64), (yx + 1).T
    middle, parts = padded[y, x], []
    for low, high in ((padded[y - 1, x], padded[y + 1, x]), (padded[y, x - 1], padded[y, x + 1])):
        bend = 2 * middle - low - high
        is_peak = (middle >= low) & (middle >= high) & (bend > 1e-9)
        parts.append(np.where(is_peak, (high - low) / (2 * np.maximum(bend, 1e-9)), 0.0))
    return np.clip(np.stack(parts, axis=1), -0.5, 0.5)


class ImageRegistrar:
    """Register images, and find their keypoints, with one network on one device."""

    def __init__(
        self, network: KeypointNet, calibration: EvidenceCalibration | None, device: torch.device, *, bf16: bool
    ) -> None:
        self.source, self.network = network, fold_norms(network).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.calibration, self.device, self.bf16 = calibration, device, bf16

    def keypoints(self, image: Image, provenance: Provenance, most: int, progress: Progress | None = None) -> Keypoints:
        """Return the `most` best keypoints of an image, read and searched tile by tile.

        Raises:
            InputError: too small, without finite values, or not gray or color.
        """
        scene = _open(image)
        places, scores, vectors = [], [], []
        parts = list(tiles(image.size, TILE_PX, MARGIN_PX))
        for done, tile in enumerate(parts, start=1):
            y0, x0, y1, x1 = tile.aligned(16).window
            view, shown = scene.view(shift(-y0, -x0), (y1 - y0, x1 - x0))
            output = self.forward(view)
            yx, score = decode(output.score[0], torch.from_numpy(shown), most)
            place, (top, left, bottom, right) = yx + np.array([y0, x0]), tile.core
            own = ((place.round() >= (top, left)) & (place.round() < (bottom, right))).all(1)
            places.append(place[own])
            scores.append(score[own])
            vectors.append(_describe(output.descriptors[0], yx[own]))
            if progress is not None:
                progress(done, len(parts))
        score = np.concatenate(scores)
        order = np.argsort(-score, kind="stable")[:most]
        return Keypoints(
            yx=np.concatenate(places)[order],
            score=confidence(torch.from_numpy(score[order])).numpy(),
            descriptor=np.concatenate(vectors)[order],
            image=image.name,
            size=image.size,
            pixel_size=image.pixel_size,
            unit=image.unit,
            crs=image.crs,
            pixel_to_world=image.pixel_to_world,
            provenance=provenance,
        )

    @torch.inference_mode()
    def forward(self, view: Float32[np.ndarray, "h w"]) -> Output:
        """Run the network on a view; the output is in float32, on the CPU."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            out = self.network(self._batch(view[None]))
        return Output(out.score.float().cpu(), out.descriptors.float().cpu())

    @torch.inference_mode()
    def describe(self, views: Float32[np.ndarray, "b h w"], shown: Bool[np.ndarray, "b h w"]) -> Float32[Tensor, "b d i j"]:
        """Return the descriptors of views, zero for cells that show nothing."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            described = self.network.describe(self._batch(views)).float().cpu()
        cells = F.adaptive_avg_pool2d(
            torch.from_numpy(shown.astype(np.float32))[:, None], (described.shape[2], described.shape[3])
        )
        return described * (cells > 0.5)

    def _batch(self, views: Float32[np.ndarray, "b h w"]) -> Float32[Tensor, "b 1 h w"]:
        batch = torch.from_numpy(np.ascontiguousarray(views))[:, None].to(self.device)
        return batch.contiguous(memory_format=torch.channels_last)

    def register(
        self,
        moving: Image,
        fixed: Image,
        provenance: Provenance,
        search: Search,
        *,
        min_probability: float = 0.5,
        progress: Progress | None = None,
    ) -> Registration:
        """Find the transform that lays a moving image on a fixed one.

        Raises:
            InputError: an image is too small, without finite values, or not gray or color.
        """
        finer = max(0, int(np.ceil(np.log2(max(fixed.size) / WORK_PX))))
        steps = Steps(progress, 2 * _ROUND_STEPS + finer * TILES**2)
        scenes = _open(moving), _open(fixed)
        answer = self.find(*scenes, search, steps)
        steps.reach(2 * _ROUND_STEPS)
        found = None if answer is None else self.finish(*scenes, answer, search.model, steps)
        steps.reach(steps.total)
        score = 0.0 if found is None else self.probability(found.evidence)
        reason = ""
        if found is None:
            reason = "nothing was found on which enough points of the two images agree"
        elif score < min_probability:
            reason = f"the mean error is under 5 px with probability {score:.2f}, needs {min_probability:g}"
        nothing = np.zeros((0, 2))
        ties = Ties(nothing, nothing, nothing[:, 0], nothing[:, 0] > 0) if found is None else found.ties
        matrix = None if found is None else found.matrix
        return Registration(
            moving_to_fixed=matrix,
            model=search.model,
            moving_yx=ties.moving_yx,
            fixed_yx=ties.fixed_yx,
            residual_px=np.zeros(0) if matrix is None else residuals(matrix, ties.moving_yx, ties.fixed_yx),
            error_px=float("nan") if found is None else error_estimate(found),
            held_out_px=float("nan") if found is None else found.held_out_px,
            return_px=float("nan") if found is None else found.return_px,
            score=score,
            accepted=not reason,
            reason=reason,
            start="map" if search.known else "searched",
            correction=correction(matrix, search, fixed) if search.known and matrix is not None else None,
            moving=moving.name,
            fixed=fixed.name,
            moving_size=moving.size,
            fixed_size=fixed.size,
            pixel_size=fixed.pixel_size,
            unit=fixed.unit,
            crs=fixed.crs,
            pixel_to_world=fixed.pixel_to_world,
            provenance=provenance,
        )

    def probability(self, evidence: Float64[np.ndarray, " k"]) -> float:
        """Return the probability that the mean error is under 5 px; without a calibration, the agreement stands in."""
        if self.calibration is None:
            return float(evidence[1])
        return float(evidence_to_probability(self.calibration, evidence[None])[0])

    def find(self, moving: Scene, fixed: Scene, search: Search, steps: Steps | None = None) -> Answer | None:
        """Return the most probable answer, the first that is all but certain."""
        best, probable = None, -1.0
        for answer in self.answers(moving, fixed, search, steps):
            own = self.probability(answer.evidence)
            if own > probable:
                best, probable = answer, own
            if probable >= CERTAIN:
                break
        return best

    def answers(self, moving: Scene, fixed: Scene, search: Search, steps: Steps | None = None) -> Iterator[Answer]:
        """Yield answers from a search of the images as they lie, then from one at all angles."""
        steps = Steps(None, 1) if steps is None else steps
        rounds = [[0.0], [a for a in np.arange(-180.0, 180.0, TURN_DEG).tolist() if a and abs(a) <= search.turn_deg]]
        for done, angles in enumerate(rounds, start=1):
            for guess in self._guesses(moving, fixed, search, angles, steps) if angles else []:
                answer = self._answer(moving, fixed, guess.matrix, search)
                steps.add()
                if answer is not None:
                    yield answer
            steps.reach(done * _ROUND_STEPS)

    def _guesses(self, moving: Scene, fixed: Scene, search: Search, angles: list[float], steps: Steps) -> list[Guess]:
        """Vote for a shift at each angle and scale, match around the best, and return the best of these."""
        low, high = search.scales
        count = max(1, int(np.ceil(np.log(high / low) / np.log(STEP) - 1e-9)))
        scales = np.geomspace(low, high, 2 * count + 1)[1::2].tolist()  # the middles of equal steps
        votes: list[Guess] = []
        for scale in scales:
            votes += self._vote(moving, fixed, search.start, scale, angles)
            steps.add()
        if search.known and 0.0 in angles:
            votes.append(Guess(search.start, np.inf))
        model: Model = "shift" if search.model == "shift" else "similarity"
        matched = []
        for guess in sorted(votes, key=lambda guess: -guess.strength)[:CANDIDATES]:
            to_frame, size = _frame(moving, fixed, guess.matrix, SEARCH_PX)
            forward, _ = self.match(moving, fixed, guess.matrix, to_frame, size, WIDE, by_peaks=False)
            found = fit_ties(model, forward, 2 * REACH_PX / to_frame[0, 0])
            if found is not None and is_plausible(found[0], moving.image.size, fixed.image.size):
                matched.append(Guess(found[0], float(found[1].sum())))
            steps.add()
        return sorted(matched, key=lambda guess: -guess.strength)[:FINALISTS]

    def _vote(self, moving: Scene, fixed: Scene, start: Matrix, scale: float, angles: list[float]) -> list[Guess]:
        """Return the best shift at one scale and each of several angles about the start."""
        middle = image_center_yx(moving.image.size)
        turned = [start @ similarity(scale, angle, middle) for angle in angles]
        to_frame, size = _frame(moving, fixed, turned[0], SEARCH_PX)
        extent = apply_transform(to_frame @ turned[0], corners_yx(moving.image.size))
        side = int(np.ceil(np.linalg.norm(extent[2] - extent[0]) / 16)) * 16
        views, shown, to_canvas = [], [], []
        for matrix in turned:
            y, x = apply_transform(to_frame @ matrix, np.array([middle]))[0]
            to_canvas.append(shift(*image_center_yx((side, side))) @ shift(-y, -x) @ to_frame @ matrix)
            view, inside = moving.view(to_canvas[-1], (side, side))
            views.append(view)
            shown.append(inside)
        there, present = fixed.view(to_frame, size)
        own, other = self.describe(np.stack(views), np.stack(shown)), self.describe(there[None], present[None])[0]
        guesses = []
        for found, matrix in zip(vote(own, other), to_canvas, strict=True):
            offset = shift(STRIDE * found.shift_yx[0], STRIDE * found.shift_yx[1])
            guesses.append(Guess(np.linalg.inv(to_frame) @ offset @ matrix, found.strength))
        return guesses

    def match(
        self,
        moving: Scene,
        fixed: Scene,
        matrix: Matrix,
        to_frame: Matrix,
        size: tuple[int, int],
        radius: int,
        *,
        by_peaks: bool,
    ) -> tuple[Ties, Ties]:
        """Match points of the fixed image in the moving one, and of the moving in the fixed: keypoints, or cells of a grid."""
        transforms = to_frame, to_frame @ matrix
        (there, present), (view, inside) = fixed.view(transforms[0], size), moving.view(transforms[1], size)
        both = torch.from_numpy(present & inside)
        if by_peaks:
            outputs = self.forward(there), self.forward(view)
            maps = [output.descriptors[0] for output in outputs]
            spacing = max(SPACING_PX, round(0.6 * (float(both.sum()) / POINTS) ** 0.5))  # so that they are spread
            points = [decode(output.score[0], both, POINTS, spacing)[0] for output in outputs]
        else:
            maps = list(self.describe(np.stack([there, view]), np.stack([present, inside])))
            points = [_grid_points(both)] * 2
        a, b = (torch.from_numpy((yx - (STRIDE - 1) / 2) / STRIDE).float() for yx in points)
        ahead, back = match_near(maps[0], maps[1], a, (0.0, 0.0), radius), match_near(maps[1], maps[0], b, (0.0, 0.0), radius)
        to_pixels = [np.linalg.inv(transform) for transform in transforms]
        forward = _to_ties(ahead.other_yx, ahead.own_yx, ahead, to_pixels)
        return forward, _to_ties(back.own_yx, back.other_yx, back, to_pixels)

    def _answer(self, moving: Scene, fixed: Scene, matrix: Matrix, search: Search) -> Answer | None:
        """Match twice in a finer frame, first over a wide neighborhood, then keypoints over a narrow one; judge the result."""
        model: Model = search.model if search.model in ("shift", "similarity") else "affine"
        to_frame, size = _frame(moving, fixed, matrix, WORK_PX)
        forward, _ = self.match(moving, fixed, matrix, to_frame, size, WIDE, by_peaks=False)
        found = fit_ties(model, forward, REACH_PX / to_frame[0, 0])
        if found is None or not is_plausible(found[0], moving.image.size, fixed.image.size):
            return None
        to_frame, size = _frame(moving, fixed, found[0], WORK_PX)
        ahead, back = self.match(moving, fixed, found[0], to_frame, size, NARROW, by_peaks=True)
        return judge(search.model, ahead, back, float(to_frame[0, 0]), (moving.image.size, fixed.image.size))

    def finish(self, moving: Scene, fixed: Scene, answer: Answer, model: Model, steps: Steps | None = None) -> Answer:
        """Refine the transform of large images at finer scales, on tiles spread over what they have in common."""
        scale = float(_frame(moving, fixed, answer.matrix, WORK_PX)[0][0, 0])
        finest = min(1.0, 1.0 / local_scale(answer.matrix, moving.image.size))
        best = answer
        while scale < finest * 0.99:
            scale, parts = min(2 * scale, finest), []
            for (y, x), size in spread_tiles(best.matrix, scale, moving.image.size, fixed.image.size, WORK_PX // 2):
                to_frame = shift(-y, -x) @ scale_transform(scale)
                parts.append(self.match(moving, fixed, best.matrix, to_frame, size, NARROW, by_peaks=False)[0])
                if steps is not None:
                    steps.add()
            ties = join(parts)
            found = fit_ties(model, ties, REACH_PX / scale)
            if found is None or not is_plausible(found[0], moving.image.size, fixed.image.size):
                break
            kept = ties.pick(found[1])
            best = replace(best, matrix=found[0], ties=kept, held_out_px=held_out_error(model, kept.moving_yx, kept.fixed_yx))
        return best


def _open(image: Image) -> Scene:
    if min(image.size) < SMALLEST_PX:
        raise InputError(f"an image must have at least {SMALLEST_PX} px a side, {image.name} has {image.size}")
    return open_scene(image)


def _describe(descriptors: Float32[Tensor, "d h w"], yx: Yx) -> Float32[np.ndarray, "n d"]:
    """Sample descriptors at points in pixels."""
    cells = torch.from_numpy((yx - (STRIDE - 1) / 2) / STRIDE).float()
    return F.normalize(sample_bilinear(descriptors[None], cells[None, :, None], "border")[0, :, :, 0].T, dim=1).numpy()


def _frame(moving: Scene, fixed: Scene, matrix: Matrix, longest_px: int) -> tuple[Matrix, tuple[int, int]]:
    """Return the transform from the fixed image to a frame in which neither image exceeds `longest_px`, and its size.

    The fixed image is not enlarged, nor reduced to less than a third of that side.
    """
    scale = local_scale(matrix, moving.image.size)
    own = max(fixed.image.size)
    factor = min(1.0, longest_px / max(own, min(scale * max(moving.image.size), 3 * own)))
    tall, wide = (max(SMALLEST_PX, round(side * factor)) for side in fixed.image.size)
    return scale_transform(factor), (tall, wide)


def _grid_points(shown: Bool[Tensor, "h w"]) -> Yx:
    """Return the centers of cells that show something, about POINTS of them."""
    centers = cell_centers_yx((shown.shape[0] // STRIDE * STRIDE, shown.shape[1] // STRIDE * STRIDE), STRIDE)
    at = centers.astype(int)
    kept = centers[shown.numpy()[at[:, 0], at[:, 1]]]
    return kept[:: max(1, len(kept) // POINTS)]


def _to_ties(moving_cells: Yx, fixed_cells: Yx, pairs: Pairs, to_pixels: list[Matrix]) -> Ties:
    fixed_yx, moving_yx = (
        apply_transform(matrix, cells * STRIDE + (STRIDE - 1) / 2)
        for matrix, cells in zip(to_pixels, (fixed_cells, moving_cells), strict=True)
    )
    return Ties(moving_yx, fixed_yx, pairs.similarity, pairs.mutual)


def correction(matrix: Matrix, search: Search, fixed: Image) -> tuple[float, float]:
    """Return what a transform adds to the stated one at the fixed image's center, (dy, dx) in map units."""
    assert fixed.pixel_to_world is not None
    center = np.array([image_center_yx(fixed.size)])
    found = apply_transform(matrix @ np.linalg.inv(search.start), center)
    world = apply_transform(fixed.pixel_to_world, np.concatenate([center, found]))
    return float(world[1, 0] - world[0, 0]), float(world[1, 1] - world[0, 1])
