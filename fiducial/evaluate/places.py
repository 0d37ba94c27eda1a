"""Measure `locate` on queries cut from real images, re-exposed: accuracy, refusals, corner errors, calibration.

A case follows section 6 of FTFY: the query is cut at full resolution, the source is the image reduced by a factor; beyond
it, the query may be turned, looks like another exposure, and is absent from a third of the sources.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
import pandas as pd
from jaxtyping import Float64, UInt8

from fiducial import augment, metrics
from fiducial.confidence import EvidenceCalibration, evidence_to_probability, fit_evidence, with_negatives
from fiducial.coords import Matrix, apply_transform, corners_yx, image_center_yx, resize_transform, shift, similarity
from fiducial.datasets import read_textures
from fiducial.images import from_array
from fiducial.matching import outline
from fiducial.places.locator import SCALES, SMALLEST_QUERY_PX, PlaceLocator
from fiducial.places.samples import FACTORS, SMALLEST_PX, render
from fiducial.places.verifier import EVIDENCE
from fiducial.records import InputError, Progress

Picture = UInt8[np.ndarray, "_ _"]
FOUND_IOU = 0.7  # section 6

LOOKS = ("same", "gamma", "noise", "blur", "inverted", "gradient", "charging", "drift", "mixed")
_SMALLEST_CUT_PX = 64  # side of a query
FIRST_CASES = 6  # at least, of a first fit
_LARGEST_CUT = 0.6  # side of a query, in parts of that of what it is cut from, or of the source
# Sides of a source, and of what a query is cut from: it must fit in with room around, and have pixels enough.
_TRIES = 50  # of a case, until its images show something
_LEAST_SOURCE_PX, _LEAST_CUT_FROM_PX = 1.1 * SMALLEST_PX / 0.7, SMALLEST_QUERY_PX / _LARGEST_CUT + 1


@dataclass(frozen=True)
class PlaceCase:
    """A query, a source, and the truth.

    Attributes:
        query_to_source: None if the source does not show the query.
        factor: by which the source is reduced. angle_deg: of the query in the source. look: how the query was re-exposed.
    """

    name: str
    query: Picture
    source: Picture
    query_to_source: Matrix | None
    factor: int
    angle_deg: float
    look: str


@dataclass(frozen=True)
class Candidates:
    """What a method answers: outlines in pixels of the source, most probable first, and a score for each."""

    corners_yx: Float64[np.ndarray, "n 4 2"]
    score: Float64[np.ndarray, " n"]


Method = Callable[[Picture, Picture], Candidates]


def make_case(
    images: Sequence[Picture], rng: np.random.Generator, *, upright: bool, present: bool, factor: int, look: str
) -> PlaceCase:
    """Cut a query from one of the images and reduce the image to its source.

    An absent query is cut from one half of an image and sought in the other, or from another image, by even chance; of a single
    image, from its mirror image.
    """
    fitting = [i for i, image in enumerate(images) if _leaves_room(min(image.shape), factor)]
    number = int(rng.choice(fitting))
    shown = taken = images[number]
    if not present:
        half = shown.shape[1] // 2
        if rng.random() < 0.5 and _leaves_room(half, factor):
            shown, taken = shown[:, :half], shown[:, half:]
        else:
            taken = images[(number + 1 + int(rng.integers(len(images) - 1))) % len(images)] if len(images) > 1 else shown[::-1]
    largest = _LARGEST_CUT * min(*taken.shape, *shown.shape)
    least = min(max(_SMALLEST_CUT_PX, 1.1 * SMALLEST_PX * factor), largest)
    side = float(np.exp(rng.uniform(np.log(least), np.log(largest))))
    aspect = float(np.exp(rng.uniform(0, np.log(4 / 3))))
    size = (round(side), round(min(side * aspect, largest)))
    angle = 0.0 if upright else float(rng.uniform(-180, 180))
    reach = np.hypot(*size) / 2 if angle else max(size) / 2
    center = [rng.uniform(min(reach, n / 2), max(n - reach, n / 2)) for n in taken.shape]
    view = shift(center[0], center[1]) @ similarity(1.0, angle) @ shift(*(-c for c in image_center_yx(size)))
    query = expose(taken, view, size, rng, look)
    reduced = (round(shown.shape[0] / factor), round(shown.shape[1] / factor))
    source = shown if factor == 1 else cv2.resize(shown, reduced[::-1], interpolation=cv2.INTER_AREA)
    to_source = resize_transform((shown.shape[0], shown.shape[1]), reduced)
    source = _to_picture(augment.add_shot_noise(source.astype(np.float32) / 255, rng, 0.03))
    truth = to_source @ view if present else None
    name = f"{number}_{factor}_{look}_{round(angle)}_{'present' if present else 'absent'}"
    return PlaceCase(name, query, source, truth, factor, angle, look)


def _leaves_room(side: int, factor: int) -> bool:
    """Say whether an image of that shorter side is large enough for queries when it is reduced by a factor."""
    return side / factor >= _LEAST_SOURCE_PX and side >= _LEAST_CUT_FROM_PX


def expose(image: Picture, view: Matrix, size: tuple[int, int], rng: np.random.Generator, look: str) -> Picture:
    """Take a view of an image as another exposure sees it.

    "mixed" draws one of inversion, edges and a tone curve, or none, then charging, drift, light, blur and noise.
    """
    drift = 0.006 * min(size) if look == "drift" else 0.003 * min(size) if look == "mixed" else 0.0
    seen = render((image,), view, size, 0.0, augment.scan_drift(rng, size, drift) if drift else None)
    seen = np.where(np.isfinite(seen), seen, np.float32(np.nanmean(seen)))
    low, high = (float(v) for v in np.quantile(seen, [0.01, 0.99]))
    out = (seen - low) / max(high - low, 0.02)
    strong = 0.008 * min(size)  # of blur and edges, in pixels of the query
    if look == "gamma":
        out = augment.change_gamma(out, float(rng.choice([0.4, 2.5])))
    elif look == "noise":
        out = augment.add_shot_noise(out, rng, 0.35)
    elif look == "blur":
        out = augment.blur(out, 2 * strong)
    elif look == "inverted":
        out = augment.invert(out)
    elif look == "gradient":
        out = augment.gradient_look(out, max(1.0, strong))
    elif look == "charging":
        out = augment.charge(out, rng, 1.5)
    elif look == "mixed":
        kind = int(rng.integers(4))
        out = (out, augment.invert(out), augment.gradient_look(out, max(1.0, strong)), augment.random_tones(out, rng))[kind]
        out = augment.add_light_gradient(augment.charge(out, rng, 0.7), rng, 0.5)
        out = augment.add_shot_noise(augment.blur(out, strong), rng, 0.2)
    return _to_picture(0.1 + 0.7 * out)


def _to_picture(image: np.ndarray) -> Picture:
    return np.clip(image * 255, 0, 255).astype(np.uint8)


def draw_cases(images: Sequence[Picture], count: int, seed: int) -> Iterator[PlaceCase]:
    """Draw cases: upright and turned by turns, every third absent, each factor in turn, looks at random; balanced over 36.

    Images that are too small, and factors that leave none large enough, are left out.

    Raises:
        InputError: all images are too small, or show nothing.
    """
    largest, images = (
        max((min(image.shape) for image in images), default=0),
        [i for i in images if _leaves_room(min(i.shape), 1)],
    )
    factors = [k for k in FACTORS if _leaves_room(largest, k)]
    if not factors:
        raise InputError(f"cases need an image of at least {_LEAST_CUT_FROM_PX:.0f} px a side, the largest has {largest}")
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        factor, shown = factors[(i // 6) % len(factors)], LOOKS[int(rng.integers(len(LOOKS)))]
        tries = (
            make_case(images, rng, upright=i % 2 == 0, present=i % 3 != 2, factor=factor, look=shown) for _ in range(_TRIES)
        )
        case = next((case for case in tries if np.ptp(case.query) > 0 and np.ptp(case.source) > 0), None)
        if case is None:
            raise InputError(f"each of {_TRIES} views cut from these images is constant: leave out images of nothing")
        yield case


def locator_method(locator: PlaceLocator) -> Method:
    """Return the method that a locator is."""

    def find(query: Picture, source: Picture) -> Candidates:
        images = from_array(query), from_array(source)
        answer = locator.candidates(*images, SCALES)
        score = locator.probability(answer.evidence)
        order = np.argsort(-score, kind="stable")[:5]
        quads = np.array([outline(answer.matches[i], images[0].size) for i in order.tolist()]).reshape(-1, 4, 2)
        return Candidates(quads, score[order])

    return find


def measure(case: PlaceCase, found: Candidates, seconds: float) -> dict[str, object]:
    """Return one row: whether the first and the first five places are right, the first one's score and corner error.

    Without any place the score is -inf.
    """
    row: dict[str, object] = {
        "name": case.name, "factor": case.factor, "look": case.look, "upright": case.angle_deg == 0,
        "present": case.query_to_source is not None, "score": float(found.score[0]) if len(found.score) else -np.inf,
        "right_1": False, "right_5": False, "corner_error": np.nan, "seconds": seconds,
    }  # fmt: skip
    if case.query_to_source is not None and len(found.score):
        truth = apply_transform(case.query_to_source, corners_yx((case.query.shape[0], case.query.shape[1])))
        right = [metrics.quad_iou(quad, truth) > FOUND_IOU for quad in found.corners_yx[:5]]
        row |= {"right_1": right[0], "right_5": any(right)}
        row["corner_error"] = metrics.corner_error(found.corners_yx[0], truth) if right[0] else np.nan
    return row


def summarize_places(rows: pd.DataFrame) -> dict[str, float]:
    """Return the scores of a method over its cases; `score` must be a probability for the calibration error to mean much."""
    present, absent = rows[rows.present], rows[~rows.present]
    straight, turned = present[present.upright], present[~present.upright]
    accepted = present[present.right_1 & (present.score >= metrics.score_reached(present.score.to_numpy(float)))]
    return {
        "upright_k1": _mean(straight.right_1), "upright_k5": _mean(straight.right_5),
        "turned_k1": _mean(turned.right_1), "turned_k5": _mean(turned.right_5),
        "auroc": metrics.auroc(present.score.to_numpy(float), absent.score.to_numpy(float)),
        "absent_accepted": metrics.false_accept_rate(present.score.to_numpy(float), absent.score.to_numpy(float)),
        "corner_error": float(accepted.corner_error.median()),
        "calibration_error": metrics.calibration_error(
            np.clip(rows.score.to_numpy(float), 0, 1), (rows.present & rows.right_1).to_numpy(bool)
        ),
        "seconds": float(rows.seconds.median()),
        "cases": float(len(rows)),
    }  # fmt: skip


def _mean(values: "pd.Series[bool]") -> float:
    return float(values.mean()) if len(values) else float("nan")


def fit_places(
    locator: PlaceLocator, images: Sequence[Picture], count: int = 720, progress: Progress | None = None
) -> EvidenceCalibration:
    """Fit the probability of a place on cases drawn from images that the network has not learned from.

    The absent queries among them are the negatives. Which places are kept depends on how probable they are, so a first fit,
    on a fifth of the cases, says so for the second.
    """
    first = max(FIRST_CASES, count // 5)
    total = first + count
    trial = copy(locator)
    trial.calibration = _fit(locator, images, first, lambda done: progress and progress(done, total))
    return _fit(trial, images, count, lambda done: progress and progress(first + done, total))


def _fit(
    locator: PlaceLocator, images: Sequence[Picture], count: int, progress: Callable[[int], object]
) -> EvidenceCalibration:
    evidence, right, absent = [], [], []
    for done, case in enumerate(draw_cases(images, count, seed=7), start=1):
        query = from_array(case.query)
        answer = locator.candidates(query, from_array(case.source), SCALES)
        truth = None if case.query_to_source is None else apply_transform(case.query_to_source, corners_yx(query.size))
        for match, row in zip(answer.matches, answer.evidence, strict=True):
            evidence.append(row)
            right.append(truth is not None and metrics.quad_iou(outline(match, query.size), truth) > FOUND_IOU)
        if truth is None:
            absent.append(answer.evidence)
        progress(done)
    fitted = fit_evidence(EVIDENCE, np.array(evidence), np.array(right))
    return with_negatives(fitted, np.array([evidence_to_probability(fitted, own).max(initial=0.0) for own in absent]))


def evaluate_places_on(data: Path, locator: PlaceLocator, count: int, progress: Progress | None = None) -> pd.DataFrame:
    """Measure a locator on cases cut from a folder of images.

    Raises:
        InputError: no images in the folder, none large enough, or fewer than three cases.
    """
    if count < 3:
        raise InputError(f"an evaluation needs at least 3 cases, got {count}")
    images = read_textures((data,), longest_px=4096)
    rows, find = [], locator_method(locator)
    for done, case in enumerate(draw_cases(images, count, seed=1), start=1):
        start = perf_counter()
        found = find(case.query, case.source)
        rows.append(measure(case, found, perf_counter() - start))
        if progress is not None:
            progress(done, count)
    return pd.DataFrame([summarize_places(pd.DataFrame(rows))])
