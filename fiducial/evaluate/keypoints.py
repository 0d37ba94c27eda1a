"""Measure `register` on pairs whose displacement is known: accuracy, refusals, calibration.

A case displaces an aligned pair by a known similarity: the fixed image is a crop by one sensor, the moving one a view by the
other. In absent cases the moving image is of another scene.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Float64, UInt8

from fiducial import metrics
from fiducial.confidence import EvidenceCalibration, fit_evidence, with_negatives
from fiducial.coords import Matrix, apply_transform, corners_yx, image_center_yx, shift, similarity
from fiducial.datasets import AlignedPair, read_aligned
from fiducial.estimation import transform_distance
from fiducial.georeference import Search
from fiducial.images import from_array
from fiducial.landmarks.registrar import RANGE, RIGHT_PX, ImageRegistrar
from fiducial.records import InputError, Progress
from fiducial.scenes import Scene, open_scene
from fiducial.ties import AGAINST, EVIDENCE, Answer

Picture = UInt8[np.ndarray, "_ _"]

GOOD_PX, FAIR_PX, WRONG_PX = RIGHT_PX, 10.0, 20.0  # mean errors: right, nearly right, and what must not be accepted
SHIFT = 0.15  # largest, in parts of the side
SIDES_PX = (128, 640)  # of the images of a case
LEAST_SIDE_PX, MOST_SIDE_PX = 96, 32_766  # of a pair: twice the least of an image to register; what OpenCV can resample
UNKNOWN = Search(np.eye(3), False, RANGE, 180.0, "affine")  # of two images of one size


@dataclass(frozen=True)
class Displacement:
    """How far pairs of a set are apart: angles up to `turn_deg` either way, and a range of scales."""

    name: str
    turn_deg: float
    scales: tuple[float, float]


ANY = Displacement("any angle, scale 0.6-1.6", 180.0, (0.6, 1.6))
NEAR = Displacement("±10°, scale 0.9-1.1", 10.0, (0.9, 1.1))


@dataclass(frozen=True)
class RegistrationCase:
    """A moving and a fixed image and how the one lies on the other; None if they show different scenes."""

    moving: Picture
    fixed: Picture
    moving_to_fixed: Matrix | None


def draw_transform(rng: np.random.Generator, displacement: Displacement, side: int) -> Matrix:
    """Draw a similarity about the images' middle; its scale is the size of a moving pixel in fixed ones."""
    angle = float(rng.uniform(-displacement.turn_deg, displacement.turn_deg))
    scale = float(np.exp(rng.uniform(*np.log(displacement.scales))))
    y, x = image_center_yx((side, side))
    dy, dx = rng.uniform(-SHIFT, SHIFT, 2) * side
    return shift(y + dy, x + dx) @ similarity(scale, angle) @ shift(-y, -x)


def displace(fixed: Picture, moving: Picture, true: Matrix, side: int, rng: np.random.Generator) -> tuple[Picture, Picture]:
    """Cut a fixed crop of `side` px, and resample the moving tile as it lies there; 0 where the tile has ended.

    The crop lies where the moving image leaves its tile as little as can be.
    """
    corners = apply_transform(true, corners_yx((side, side)))
    full = np.array(fixed.shape)
    least, most = np.maximum(-corners.min(axis=0), 0), np.minimum(full - 1 - corners.max(axis=0), full - side)
    start = np.where(least <= most, rng.uniform(np.minimum(least, most), most), (least + most) / 2)
    y, x = np.clip(start, 0, full - side).astype(int).tolist()
    view = shift(y, x) @ true
    # A view coarser than the tile would alias: finer detail is blurred away first.
    sigma = 0.5 * np.sqrt(max(float(np.linalg.det(true[:2, :2])) - 1, 0.0))
    smooth = cv2.GaussianBlur(moving, (0, 0), sigma) if sigma > 0.2 else moving
    seen = cv2.warpPerspective(smooth, view, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return fixed[y : y + side, x : x + side].copy(), seen


def check_sides(pairs: Sequence[AlignedPair]) -> None:
    """Refuse pairs that are too small or too large to draw cases and views from; raises InputError."""
    for pair in pairs:
        if min(pair.a.shape) < LEAST_SIDE_PX or max(pair.a.shape) > MOST_SIDE_PX:
            got = f"{pair.name} has {pair.a.shape}"
            raise InputError(f"images of keypoints must have {LEAST_SIDE_PX} to {MOST_SIDE_PX} px a side, {got}")


def draw_cases(
    pairs: Sequence[AlignedPair], count: int, seed: int, sides_px: tuple[int, int] = SIDES_PX
) -> Iterator[RegistrationCase]:
    """Draw cases: near and at any angle by turns, every fourth absent, the sensors' roles and sizes at random.

    Raises:
        InputError: fewer than two pairs, or one that is too small or too large.
    """
    if len(pairs) < 2:
        raise InputError(f"cases need two pairs, got {len(pairs)}: an absent one shows another scene")
    check_sides(pairs)
    least = min(min(pair.a.shape) for pair in pairs)
    low, high = (min(side, least) for side in sides_px)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        side, present = round(float(np.exp(rng.uniform(np.log(low), np.log(high))))), i % 4 != 3
        first, second = rng.choice(len(pairs), 2, replace=False)
        one, other = pairs[first], pairs[first if present else second]
        fixed, moving = (one.a, other.b) if rng.random() < 0.5 else (one.b, other.a)
        true = draw_transform(rng, NEAR if i % 2 else ANY, side)
        yield RegistrationCase(*displace(fixed, moving, true, side, rng)[::-1], true if present else None)


def error_of(case: RegistrationCase, found: Matrix | None) -> float:
    """Return the mean error of a transform in pixels of the fixed image; infinite for none, or of an absent case."""
    if found is None or case.moving_to_fixed is None:
        return float("inf")
    sizes = ((image.shape[0], image.shape[1]) for image in (case.moving, case.fixed))
    return transform_distance(case.moving_to_fixed, found, *sizes)


def fit_registrations(
    registrar: ImageRegistrar,
    pairs: Sequence[AlignedPair],
    count: int = 200,
    progress: Progress | None = None,
    *,
    reference_px: float = 0.0,
) -> EvidenceCalibration:
    """Fit the probability that the mean error is under 5 px, on cases drawn from pairs that the network has not learned from.

    `reference_px` is by how much the pairs themselves may be off: answers that much farther away still count as right.
    A first fit on every answer tells which one of each case would be given; the second is on these alone. Cases of different
    scenes are the negatives.
    """
    cases: list[tuple[list[Answer], list[bool]]] = []
    absent: list[tuple[Scene, Scene]] = []
    for done, case in enumerate(draw_cases(pairs, count, seed=7), start=1):
        scenes = open_scene(from_array(case.moving)), open_scene(from_array(case.fixed))
        answers = list(registrar.answers(registrar.pair(*scenes), UNKNOWN))
        cases.append((answers, [error_of(case, answer.matrix) < GOOD_PX + reference_px for answer in answers]))
        if case.moving_to_fixed is None:
            absent.append(scenes)
        if progress is not None:
            progress(done, count)
    evidence = _evidence([answer for answers, _ in cases for answer in answers])
    right = np.array([value for _, values in cases for value in values], bool)
    first = fit_evidence(EVIDENCE, evidence, right, AGAINST)
    judged = registrar.judging_by(first)
    best = [(a, r) for a, r in cases if a]
    chosen = [int(np.argmax([judged.probability(answer) for answer in answers])) for answers, _ in best]
    fitted = fit_evidence(
        EVIDENCE,
        np.array([answers[i].evidence for i, (answers, _) in zip(chosen, best, strict=True)]),
        np.array([values[i] for i, (_, values) in zip(chosen, best, strict=True)]),
        AGAINST,
    )
    judged = registrar.judging_by(fitted)
    found = [judged.find(*scenes, UNKNOWN) for scenes in absent]
    return with_negatives(fitted, np.array([0.0 if answer is None else judged.probability(answer) for answer in found]))


def _evidence(answers: Sequence[Answer]) -> Float64[np.ndarray, "n k"]:
    return np.array([answer.evidence for answer in answers]).reshape(-1, len(EVIDENCE))


def evaluate_registrations(
    registrar: ImageRegistrar, pairs: Sequence[AlignedPair], count: int, progress: Progress | None = None
) -> pd.DataFrame:
    """Measure a registrar on cases drawn from pairs.

    Raises:
        InputError: as `draw_cases`, or fewer than four cases.
    """
    if count < 4:
        raise InputError(f"an evaluation needs at least 4 cases, got {count}")
    rows = []
    for done, case in enumerate(draw_cases(pairs, count, seed=1), start=1):
        scenes, begun = (open_scene(from_array(case.moving)), open_scene(from_array(case.fixed))), perf_counter()
        answer = registrar.find(*scenes, UNKNOWN)
        error = error_of(case, None if answer is None else answer.matrix)
        score = 0.0 if answer is None else registrar.probability(answer)
        rows.append((case.moving_to_fixed is not None, error, score, perf_counter() - begun))
        if progress is not None:
            progress(done, count)
    return summarize_registrations(pd.DataFrame(rows, columns=["present", "error_px", "score", "seconds"]))


def summarize_registrations(rows: pd.DataFrame, least: float = 0.5) -> pd.DataFrame:
    """Return one row of scores of cases with columns present, error_px, score and seconds."""
    present, absent = rows[rows.present], rows[~rows.present]
    accepted = present[present.score >= least]
    good = (rows.error_px < GOOD_PX).to_numpy(bool)
    return pd.DataFrame([{
        "under_5": float((present.error_px < GOOD_PX).mean()), "under_10": float((present.error_px < FAIR_PX).mean()),
        "accepted": float((present.score >= least).mean()),
        "accepted_over_20": int((accepted.error_px > WRONG_PX).sum()),
        "absent_accepted": int((absent.score >= least).sum()),
        "calibration_error": metrics.calibration_error(rows.score.to_numpy(float), good),
        "seconds": float(rows.seconds.median()), "cases": len(rows),
    }])  # fmt: skip


def evaluate_keypoints_on(data: Path, registrar: ImageRegistrar, count: int, progress: Progress | None = None) -> pd.DataFrame:
    """Measure a registrar on cases from a folder of aligned pairs; raises as `read_aligned` and `evaluate_registrations`."""
    return evaluate_registrations(registrar, read_aligned(data), count, progress)
