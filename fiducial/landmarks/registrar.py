"""Lay one image on another: search angles and scales by their descriptors, match keypoints, estimate, and judge the answer.

Glossary
    frame: a grid on which both images are rendered: the fixed one, or a part, reduced; the moving one as a transform puts it.
    start: the similarity from which a search begins: what the files state, or the identity about the images' middles.
"""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from fiducial.confidence import EvidenceCalibration, below, evidence_to_probability, share_probability, written
from fiducial.coords import (
    Matrix,
    apply_transform,
    image_center_yx,
    scale_transform,
    shift,
    similarity,
)
from fiducial.estimation import Model, held_out_error, residuals, transform_distance
from fiducial.georeference import Search, map_correction
from fiducial.landmarks.network import STRIDE, KeypointNet, confidence
from fiducial.landmarks.views import Observer, Seen, decode, describe_points, match_views, spaced
from fiducial.records import Image, InputError, Keypoints, Progress, Provenance, Registration
from fiducial.scenes import Scene, open_scene
from fiducial.steps import Steps
from fiducial.ties import (
    LEAST_SIDE_PX,
    REACH_PX,
    TILES,
    Answer,
    Frame,
    choose_canvas,
    choose_frame,
    error_estimate,
    fit_ties,
    is_plausible,
    join,
    judge,
    local_scale,
    spread_tiles,
)
from fiducial.tiles import tiles
from fiducial.voting import Vote, vote, vote_all

SMALLEST_PX = LEAST_SIDE_PX  # of an image
SEARCH_PX, WORK_PX = 256, 512  # longest side of the larger image in a frame, while searching and while matching
TURN_DEG, STEP = 30.0, 1.35  # steps of the search over angles and scales
SEEN_DEG = TURN_DEG / 2  # to either side of an angle, what the search at that angle finds well
RANGE = (0.6, 1.67)  # of scales, if nothing is known of them
CANDIDATES, FINALISTS = 6, 3  # votes that are matched, and matched ones that are matched again in a finer frame
WIDE, NARROW = 10, 4  # cells around a place where partners are sought, first and later
CONTESTED = 0.2  # probability from which on an answer is compared with other places
ALIKE_VOTES, RIVALS = 0.6, 4  # agreement of such places, in parts of the best one's, and how many are looked at
APART_PX = 8.0  # of a frame: places that lie farther apart cannot both be right
SAME_PX = 12.0  # of a frame: candidates that lie nearer to each other lead to one answer
LEAST_SHARE = 0.2  # of the fixed image's length, from which on a search of the whole sees a moving one well
ENOUGH = 200  # ties on which a candidate is answered at once; with fewer it waits till those of all angles are answered
ENOUGH_AGREE = 0.3  # of the ties of a finer scale, if they are in one part of the common area alone
CERTAIN = 0.8  # probability at which nothing else is searched, if no higher one is asked for
RIGHT_PX = 5.0  # mean error, in pixels of the frame, under which an answer is right
TILE_PX, MARGIN_PX = 512, 64  # of an image whose keypoints are looked for
_ROUND_STEPS = 4 + CANDIDATES + FINALISTS  # of a search, as it reports its progress: scales of RANGE, votes, matches
_HELD_PX = 4_000_000  # of views that are rendered at once
MOST_CANVAS_PX = 8_000_000  # on which the moving image is searched at once, over 20 times as long as the fixed one
_FRAMES_KEPT = 4  # of the fixed image, with what the network says of them
_ALIKE = 0.05  # change of scale for which no other frame is rendered


@dataclass(frozen=True)
class Pair:
    """The images of a search.

    Attributes:
        see_fixed: says what the fixed one shows in a frame; what was seen last is kept.
    """

    moving: Scene
    fixed: Scene
    see_fixed: Callable[[Frame], Seen]

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Sizes of the moving and of the fixed image."""
        return self.moving.image.size, self.fixed.image.size


@dataclass(frozen=True)
class Guess:
    """A transform from moving to fixed pixels, and how strongly it is supported: votes, or the number of ties that agree."""

    matrix: Matrix
    strength: float


class ImageRegistrar:
    """Register images, and find their keypoints, with one network on one device."""

    def __init__(
        self, network: KeypointNet, calibration: EvidenceCalibration | None, device: torch.device, *, bf16: bool
    ) -> None:
        self.calibration, self.observer = calibration, Observer(network, device, bf16=bf16)

    def judging_by(self, calibration: EvidenceCalibration) -> "ImageRegistrar":
        """Return a registrar with the same network and another calibration."""
        other = copy(self)
        other.calibration = calibration
        return other

    def keypoints(
        self, image: Image, provenance: Provenance, most: int, spacing_px: int, progress: Progress | None = None
    ) -> Keypoints:
        """Return the `most` best keypoints of an image, `spacing_px` apart along an axis, read and searched tile by tile.

        Raises:
            InputError: too small, without finite values, or not gray or color.
        """
        scene, length = _open(image), self.observer.network.config.descriptor
        places, score, vectors = np.zeros((0, 2)), np.zeros(0), np.zeros((0, length), np.float32)
        parts = list(tiles(image.size, TILE_PX, MARGIN_PX))
        for done, tile in enumerate(parts, start=1):
            y0, x0, y1, x1 = tile.aligned(32).window  # so that half of it begins where the network's coarsest cells do
            view, shown = scene.view(shift(-y0, -x0), (y1 - y0, x1 - x0))
            output = self.observer.examine(view)
            yx, height = decode(output.score[0], torch.from_numpy(shown), most, spacing_px)
            place, (top, left, bottom, right) = yx + np.array([y0, x0]), tile.core
            own = ((place.round() >= (top, left)) & (place.round() < (bottom, right))).all(1)
            score, places = np.concatenate([score, height[own]]), np.concatenate([places, place[own]])
            best = np.argsort(-score, kind="stable")
            best = best[spaced(places[best], spacing_px - 1)][:most]  # now: all of a giant image would not fit into memory
            score, places = score[best], places[best]
            vectors = np.concatenate([vectors, describe_points(output.descriptors[0], yx[own])])[best]
            if progress is not None:
                progress(done, len(parts))
        return Keypoints(
            yx=places,
            score=confidence(torch.from_numpy(score)).numpy(),
            descriptor=vectors,
            image=image.name,
            size=image.size,
            pixel_size=image.pixel_size,
            unit=image.unit,
            crs=image.crs,
            pixel_to_world=image.pixel_to_world,
            provenance=provenance,
        )

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
            InputError: an image is too small, without finite values, or not gray or color; the moving one is by far the larger.
        """
        finer = max(0, int(np.ceil(np.log2(max(fixed.size) / WORK_PX))))
        steps = Steps(progress, 2 * _ROUND_STEPS + finer * TILES**2)
        scenes = _open(moving), _open(fixed)
        _check_lengths(moving, fixed, search)
        answer = self.find(*scenes, search, steps, max(CERTAIN, min_probability))
        steps.reach(2 * _ROUND_STEPS)
        found = None if answer is None else self.finish(*scenes, answer, search, steps)
        steps.reach(steps.total)
        score = 0.0 if found is None else self.probability(found)
        within_px, reason = RIGHT_PX if found is None else RIGHT_PX / found.scale, ""
        if found is None:
            reason = "nothing was found on which enough points of the two images agree" + _hint(moving, fixed, search)
        elif score < min_probability:
            within, likely = written(within_px), below(score, min_probability)
            reason = f"the mean error is under {within} px with probability {likely}, needs {min_probability:g}"
            if self.probability(replace(found, rivals=())) >= min_probability:
                reason += ": what is shown repeats, other places agree nearly as well"
        ties = join([]) if found is None else found.ties
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
            within_px=within_px,
            accepted=not reason,
            reason=reason,
            start="map" if search.known else "searched",
            correction=map_correction(matrix, moving, fixed) if search.known and matrix is not None else None,
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

    def probability(self, answer: Answer) -> float:
        """Return the probability that the mean error is under 5 px; without a calibration, the agreement stands in."""
        evidence = np.array([answer.evidence, *answer.rivals])
        own = evidence[:, 1] if self.calibration is None else evidence_to_probability(self.calibration, evidence)
        return share_probability(float(own[0]), own[1:].tolist()) if answer.rivals else float(own[0])

    def pair(self, moving: Scene, fixed: Scene) -> Pair:
        """Return what a search goes through."""

        def see_fixed(frame: Frame) -> Seen:
            return self.observer.see(fixed, frame.to_frame, frame.size)

        return Pair(moving, fixed, lru_cache(maxsize=_FRAMES_KEPT)(see_fixed))

    def find(
        self, moving: Scene, fixed: Scene, search: Search, steps: Steps | None = None, enough: float = CERTAIN
    ) -> Answer | None:
        """Return the most probable answer, the first that is `enough` so, with its rivals: places that agree nearly as well."""
        best, probable, pair = None, -1.0, self.pair(moving, fixed)
        for answer in self.answers(pair, search, steps):
            own = self.probability(answer)
            if own > probable:
                best, probable = answer, own
            if probable >= enough:
                break
        return best if best is None or probable < CONTESTED else self._among_rivals(pair, best, search)

    def answers(self, pair: Pair, search: Search, steps: Steps | None = None) -> Iterator[Answer]:
        """Yield answers from a search of the images as they lie, then from one at all angles.

        Candidates of the first search on which few ties agree wait for the second, and the best of them are answered last.
        """
        steps = Steps(None, 1) if steps is None else steps
        rounds = [[0.0], _turns(search.turn_deg)]
        waiting: list[Guess] = []
        for done, angles in enumerate(rounds, start=1):
            best, last = _finalists(pair, self._guesses(pair, search, angles, steps) if angles else []), done == len(rounds)
            sure = [guess for guess in best if guess.strength >= ENOUGH or last]
            waiting += best[len(sure) :]
            for guess in [*sure, *(waiting[: max(1, FINALISTS - len(sure))] if last else [])]:
                answer = self._answer(pair, guess.matrix, search)
                steps.add()
                if answer is not None:
                    yield answer
            steps.reach(done * _ROUND_STEPS)

    def _guesses(self, pair: Pair, search: Search, angles: list[float], steps: Steps) -> list[Guess]:
        """Vote for a shift at each angle and scale, match around the best, and return what came of it."""
        low, high = search.scales
        count = max(1, int(np.ceil(np.log(high / low) / np.log(STEP) - 1e-9)))
        scales = np.geomspace(low, high, 2 * count + 1)[1::2].tolist()  # the middles of equal steps
        votes: list[Guess] = []
        for scale in scales:
            votes += self._vote(pair, search, scale, angles)
            steps.add()
        if search.known and 0.0 in angles:
            votes.append(Guess(search.start, np.inf))
        model: Model = "shift" if search.model == "shift" else "similarity"
        matched = []
        for guess in sorted(votes, key=lambda guess: -guess.strength)[:CANDIDATES]:
            frame = choose_frame(guess.matrix, *pair.sizes, SEARCH_PX)
            there = pair.see_fixed(frame)
            ahead = match_views(there, self.observer.see(pair.moving, frame.to_frame @ guess.matrix, frame.size), WIDE)
            begun = replace(ahead, moving_yx=apply_transform(search.start, ahead.moving_yx))  # whose pixels need not be square
            found = fit_ties(model, begun, 2 * REACH_PX / frame.scale)
            if found is not None and is_plausible(found[0] @ search.start, search.start, *pair.sizes):
                matched.append(Guess(found[0] @ search.start, float(found[1].sum())))
            steps.add()
        return matched

    def _vote(self, pair: Pair, search: Search, scale: float, angles: list[float]) -> list[Guess]:
        """Return the best shift at one scale and each of several angles about the start."""
        ((y, x),) = apply_transform(search.start, np.array([image_center_yx(pair.moving.image.size)])).tolist()
        turned = [similarity(scale, angle, (y, x)) @ search.start for angle in angles]  # oblong pixels turn as they are laid
        frame = choose_frame(turned[0], *pair.sizes, SEARCH_PX, whole=not search.known)
        there, guesses = pair.see_fixed(frame), []
        canvases = [choose_canvas(frame, matrix, pair.moving.image.size, near=search.known) for matrix in turned]
        for size in dict.fromkeys(own for own, _ in canvases):
            to_canvas = [matrix for own, matrix in canvases if own == size]
            step = max(1, _HELD_PX // (size[0] * size[1]))  # views are large where the moving image is by far the larger
            for part in (to_canvas[first : first + step] for first in range(0, len(to_canvas), step)):
                for found, matrix in zip(vote(self._described(pair, part, size), there.descriptors), part, strict=True):
                    guesses.append(Guess(_laid(frame, found, matrix), found.strength))
        return guesses

    def _described(self, pair: Pair, to_canvas: list[Matrix], size: tuple[int, int]) -> Float32[Tensor, "b d i j"]:
        """Return the descriptors of the moving image on several canvases of one size."""
        views = [pair.moving.view(matrix, size) for matrix in to_canvas]
        return self.observer.describe(np.stack([view for view, _ in views]), np.stack([shown for _, shown in views]))

    def _among_rivals(self, pair: Pair, answer: Answer, search: Search) -> Answer:
        """Return the most probable of an answer and those to places that agree nearly as well; the rest are its rivals."""
        answers = [answer]
        for longest_px in (SEARCH_PX, WORK_PX):
            frame = choose_frame(answer.matrix, *pair.sizes, longest_px, whole=not search.known)
            size, to_canvas = choose_canvas(frame, answer.matrix, pair.moving.image.size, near=search.known)
            if size[0] * size[1] > MOST_CANVAS_PX:
                break
            maps = self._described(pair, [to_canvas], size)[0], pair.see_fixed(frame).descriptors
            for found in vote_all(*maps, round(APART_PX / STRIDE), ALIKE_VOTES)[: 1 + RIVALS]:
                matrix, reach_px = _laid(frame, found, to_canvas), APART_PX / frame.scale
                other = self._answer(pair, matrix, search) if _is_new(matrix, answers, reach_px, pair) else None
                if other is not None and _is_new(other.matrix, answers, reach_px, pair):
                    answers.append(other)
        best, *rest = sorted(answers, key=lambda own: -self.probability(own))
        return replace(best, rivals=tuple(own.evidence for own in rest))

    def _answer(self, pair: Pair, matrix: Matrix, search: Search) -> Answer | None:
        """Match twice in a finer frame, first over a wide neighborhood, then keypoints over a narrow one; judge the result."""
        model: Model = search.model if search.model in ("shift", "similarity") else "affine"
        frame = choose_frame(matrix, *pair.sizes, WORK_PX)
        there, view = pair.see_fixed(frame), self.observer.see(pair.moving, frame.to_frame @ matrix, frame.size)
        found = fit_ties(model, match_views(there, view, WIDE), REACH_PX / frame.scale)
        if found is None or not is_plausible(found[0], search.start, *pair.sizes):
            return None
        finer = choose_frame(found[0], *pair.sizes, WORK_PX)
        if abs(np.log(finer.scale / frame.scale)) > _ALIKE:
            frame, there = finer, pair.see_fixed(finer)
        view = self.observer.see(pair.moving, frame.to_frame @ found[0], frame.size)
        ahead = match_views(there, view, NARROW, by_peaks=True)
        back = match_views(view, there, NARROW, by_peaks=True).turned()
        return judge(search.model, ahead, back, frame, search.start, pair.sizes)

    def finish(self, moving: Scene, fixed: Scene, answer: Answer, search: Search, steps: Steps | None = None) -> Answer:
        """Refine the transform of large images at finer scales, on tiles spread over what they have in common.

        Every other tile gives an estimate of its own, and the rest another: how far these lie from the common one is how exact
        it is. Where one of them is missing, a fit on which few of the ties agree is not taken; nor one that is wrong
        by its own error.
        """
        scale, sizes = answer.scale, (moving.image.size, fixed.image.size)
        finest = min(1.0, 1.0 / local_scale(answer.matrix, moving.image.size))
        best = answer
        while scale < finest * 0.99:
            scale, parts = min(2 * scale, finest), []
            for (y, x), size in spread_tiles(best.matrix, scale, *sizes, WORK_PX // 2):
                to_tile = shift(-y, -x) @ scale_transform(scale)
                there, view = self.observer.see(fixed, to_tile, size), self.observer.see(moving, to_tile @ best.matrix, size)
                parts.append(match_views(there, view, NARROW))
                if steps is not None:
                    steps.add()
            ties = join(parts)
            found, *halves = (fit_ties(search.model, join(own), REACH_PX / scale) for own in (parts, parts[::2], parts[1::2]))
            if found is None or not is_plausible(found[0], search.start, *sizes):
                break
            kept, apart = ties.pick(found[1]), [transform_distance(found[0], half[0], *sizes) for half in halves if half]
            twice = len(apart) == len(halves)
            if not twice and len(kept.mutual) < ENOUGH_AGREE * ties.mutual.sum():
                break
            held_out, return_px = held_out_error(search.model, kept.moving_yx, kept.fixed_yx), float(sum(apart))
            finer = replace(
                best, matrix=found[0], ties=kept, held_out_px=held_out, return_px=return_px if twice else best.return_px
            )
            if error_estimate(finer) > RIGHT_PX / answer.scale:
                break
            best = finer
        return best


def _turns(most_deg: float) -> list[float]:
    """Return the angles about upright that are searched: all steps up to the largest, and that itself."""
    steps = np.arange(TURN_DEG, min(most_deg, 180.0 - TURN_DEG) + 1e-9, TURN_DEG).tolist()
    turns = [turn for step in steps for turn in (-step, step)]
    reached = steps[-1] if steps else 0.0
    if most_deg > 180.0 - TURN_DEG / 2:
        return [-180.0, *turns]
    return [*turns, -most_deg, most_deg] if most_deg - reached > SEEN_DEG else turns


def _hint(moving: Image, fixed: Image, search: Search) -> str:
    """Return what to do about a moving image so small in the fixed one that a search of the whole hardly sees it."""
    share = local_scale(search.start, moving.size) * search.scales[1] * max(moving.size) / max(fixed.size)
    if search.known or share > LEAST_SHARE:
        return ""
    part = f"{moving.name} is at most {100 * share:.2g} % as long as {fixed.name}"
    return f": {part}, crop that to where it may lie (`fiducial locate` finds the place)"


def _is_new(matrix: Matrix, answers: list[Answer], reach_px: float, pair: Pair) -> bool:
    return all(not transform_distance(own.matrix, matrix, *pair.sizes) < reach_px for own in answers)


def _laid(frame: Frame, found: Vote, to_canvas: Matrix) -> Matrix:
    """Return the transform from moving to fixed pixels that a shift of a canvas on a frame means."""
    return np.linalg.inv(frame.to_frame) @ shift(STRIDE * found.shift_yx[0], STRIDE * found.shift_yx[1]) @ to_canvas


def _check_lengths(moving: Image, fixed: Image, search: Search) -> None:
    """Refuse a moving image beside which the fixed one is a speck, unless the map says where; raises InputError."""
    middle = image_center_yx(moving.size)
    matrix = search.start @ similarity(search.scales[1], 0.0, middle)
    frame = choose_frame(matrix, moving.size, fixed.size, SEARCH_PX, whole=not search.known)
    (tall, wide), _ = choose_canvas(frame, matrix, moving.size, near=search.known)
    if tall * wide > MOST_CANVAS_PX:
        times = local_scale(matrix, moving.size) * max(moving.size) / max(fixed.size)
        raise InputError(
            f"{moving.name} may be {times:.0f} times as long as {fixed.name}: swap them, or crop it to where that may lie"
        )


def _open(image: Image) -> Scene:
    if min(image.size) < SMALLEST_PX:
        raise InputError(f"an image must have at least {SMALLEST_PX} px a side, {image.name} has {image.size}")
    return open_scene(image)


def _finalists(pair: Pair, guesses: list[Guess]) -> list[Guess]:
    """Return the strongest guesses that lie apart, the best first."""
    kept: list[Guess] = []
    for guess in sorted(guesses, key=lambda guess: -guess.strength):
        reach_px = SAME_PX / choose_frame(guess.matrix, *pair.sizes, WORK_PX).scale
        if all(not transform_distance(other.matrix, guess.matrix, *pair.sizes) < reach_px for other in kept):
            kept.append(guess)
    return kept[:FINALISTS]
