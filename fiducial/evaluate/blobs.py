"""Measure `detect` on images whose blobs are known: found and false, how far off, adjacent ones told apart, counts covered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int

from fiducial import metrics
from fiducial.blobs.detector import EITHER, EVIDENCE, BlobDetector
from fiducial.blobs.samples import background
from fiducial.confidence import CrowdCalibration, evidence_to_probability, fit_counts, fit_evidence, largest_alarms
from fiducial.crowds import NOTHING, Crowd
from fiducial.datasets import CrowdImage, read_crowds
from fiducial.images import from_array
from fiducial.metrics import Counts
from fiducial.records import InputError, Progress

SMALL_PX = 12.0  # radius under which errors of place are also told in pixels
TWENTY = 20  # images, of which one may lie outside an interval of 95 %
LEAST_PX, SEED = 32, 0  # of windows without blobs: their least side; of their places
OF_NOTHING = ("data", "megapixels", "images", "blobs", "count_covered", "calibration_error", "seconds", "false_per_megapixel")


@dataclass(frozen=True)
class Findings:
    """What a method finds in an image: centers, best first, and how long it took."""

    yx: Float64[np.ndarray, "n 2"]
    radius: Float64[np.ndarray, " n"]
    score: Float64[np.ndarray, " n"]
    interval: tuple[int, int] | None
    seconds: float


@dataclass(frozen=True)
class Judged:
    """An image's findings beside its truth.

    Attributes:
        partner: for each true blob, the finding it is matched with, or -1.
        error_px: distance of each matched pair, NaN where a blob is missed.
    """

    crowd: Crowd
    found: Findings
    partner: Int[np.ndarray, " m"]
    error_px: Float64[np.ndarray, " m"]

    @property
    def true(self) -> Bool[np.ndarray, " n"]:
        """Whether each finding is a blob."""
        out = np.zeros(len(self.found.yx), dtype=bool)
        out[self.partner[self.partner >= 0]] = True
        return out

    @property
    def counts(self) -> Counts:
        """Found, false and missed."""
        hits = int((self.partner >= 0).sum())
        return Counts(hits, len(self.found.yx) - hits, len(self.crowd) - hits)


def judge(crowd: Crowd, found: Findings) -> Judged:
    """Match findings with the truth one to one, within max(2 px, r / 2)."""
    partner = metrics.match_points(found.yx, crowd.yx, metrics.blob_reach(crowd.radius))
    error = np.full(len(crowd), np.nan)
    hit = partner >= 0
    error[hit] = np.linalg.norm(found.yx[partner[hit]] - crowd.yx[hit], axis=1)
    return Judged(crowd, found, partner, error)


def summarize(judged: Sequence[Judged]) -> dict[str, float]:
    """Return the scores of a set of images as a row of a table."""
    total = sum((j.counts for j in judged), Counts(0, 0, 0))
    small = np.concatenate([j.error_px[j.crowd.radius < SMALL_PX] for j in judged])
    every = np.concatenate([j.error_px for j in judged])
    ratio = [j.found.radius[j.partner[j.partner >= 0]] / j.crowd.radius[j.partner >= 0] for j in judged]
    stated = [j for j in judged if j.found.interval is not None]
    covered = [j.found.interval[0] <= len(j.crowd) <= j.found.interval[1] for j in stated if j.found.interval is not None]
    relative = [abs(len(j.found.yx) - len(j.crowd)) / max(1, len(j.crowd)) for j in judged]
    score, true = (np.concatenate(part) for part in zip(*((j.found.score, j.true) for j in judged), strict=True))
    return {
        "images": len(judged),
        "blobs": sum(len(j.crowd) for j in judged),
        "f1": total.f(),
        "precision": total.precision,
        "recall": total.recall,
        "error_px": _mean(every),
        f"error_under_{SMALL_PX:.0f}_px": _mean(small),
        "adjacent": metrics.adjacent_discrimination(
            (metrics.adjacent_pairs(j.crowd.yx, j.crowd.radius), j.partner) for j in judged
        ),
        "radius_error": _mean(np.abs(np.log(np.concatenate(ratio)))),
        "count_error": float(np.median(relative)),
        "count_covered": float(np.mean(covered)) if covered else float("nan"),
        "calibration_error": metrics.calibration_error(score, true) if stated else float("nan"),
        "seconds": float(np.median([j.found.seconds for j in judged])),
    }


def _mean(values: Float64[np.ndarray, " n"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def find(detector: BlobDetector, image: CrowdImage, min_probability: float = 0.5) -> Findings:
    """Return what a detector finds."""
    begin = perf_counter()
    found, evidence = detector.candidates(from_array(image.pixels))
    score = detector.probability(evidence)
    seconds = perf_counter() - begin
    interval = detector.interval(score)
    order = np.argsort(-score, kind="stable")
    kept = order[score[order] >= min_probability]
    return Findings(found.yx[kept], found.radius[kept], score[kept], interval, seconds)


def check_blobs(images: Sequence[CrowdImage]) -> None:
    """Refuse images of which none holds a blob: nothing is learned from them, or fitted on them; raises InputError."""
    if not any(len(image.crowd) for image in images):
        names = ", ".join(image.name for image in images[:5])
        raise InputError(f"no blob is marked in {names}: check how the masks, points or boxes were written")


def fit_crowds(detector: BlobDetector, images: Sequence[CrowdImage], progress: Progress | None = None) -> CrowdCalibration:
    """Fit probabilities, the spread of counts and the alarms on images that the network did not learn from.

    So few images that one in twenty is none say little of how far counts may be off: if the detector is calibrated, intervals
    are then not narrower than that calibration has them.

    Raises:
        InputError: no blob is marked, or nothing is found, in any of them.
    """
    check_blobs(images)
    evidence, true, owner = [], [], []
    for done, image in enumerate(images, start=1):
        found, known = detector.candidates(from_array(image.pixels))
        evidence.append(known)
        true.append(judge(image.crowd, Findings(found.yx, found.radius, found.p, None, 0.0)).true)
        owner.append(np.full(len(found), done - 1))
        if progress is not None:
            progress(done, len(images))
    known, hit, of = np.concatenate(evidence), np.concatenate(true), np.concatenate(owner)
    fitted = fit_evidence(EVIDENCE, known, hit, either=EITHER)
    score = evidence_to_probability(fitted, known)
    sums, variances = (np.bincount(of, part, minlength=len(images)) for part in (score, score * (1 - score)))
    inflation, spread = fit_counts(sums, variances, np.array([float(len(image.crowd)) for image in images]))
    if detector.calibration is not None and len(images) < TWENTY:
        inflation, spread = max(inflation, detector.calibration.inflation), max(spread, detector.calibration.spread)
    return CrowdCalibration(
        fitted.names,
        fitted.mean,
        fitted.deviation,
        fitted.weight,
        fitted.intercept,
        inflation,
        spread,
        largest_alarms(score[~hit]),
        _megapixels(images),
    )


def evaluate_blobs_on(data: Path, detector: BlobDetector, progress: Progress | None = None) -> pd.DataFrame:
    """Measure on a folder that `datasets.read_crowds` reads, one row; where nothing is to be found, a row below.

    That is in windows which all blobs stay away from, one of each image that has room for it, as images of their own. Raises as
    `read_crowds` does.
    """
    images = read_crowds(data)
    windows = [background(image, np.random.default_rng([SEED, i])) for i, image in enumerate(images)]
    empty = [CrowdImage(data.name, w, NOTHING) for w in windows if w is not None and min(w.shape[:2]) >= LEAST_PX]
    judged: list[Judged] = []
    for image in (*images, *empty):
        judged.append(judge(image.crowd, find(detector, image)))
        if progress is not None:
            progress(len(judged), len(images) + len(empty))
    rows = [_row(data.name, images, judged[: len(images)])]
    if empty:
        bare = _row(f"background of {data.name}", empty, judged[len(images) :])
        rows.append({name: value for name, value in bare.items() if name in OF_NOTHING})
    return pd.DataFrame(rows)


def _row(name: str, images: Sequence[CrowdImage], judged: Sequence[Judged]) -> dict[str, object]:
    false, area = sum(j.counts.false_positive for j in judged), _megapixels(images)
    return {"data": name, "megapixels": area, **summarize(judged), "false_per_megapixel": false / area}


def _megapixels(images: Sequence[CrowdImage]) -> float:
    return sum(image.pixels.shape[0] * image.pixels.shape[1] for image in images) / 1e6
