"""Compare proposed places of a query with the pixels of a source, refine the best, and gather what speaks for each.

Glossary
    chance: the correlation that a wrong place has. surplus: what a place has over it.
    look: an image as verification sees it, local contrast and edges.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32, Float64

from fiducial.coords import image_center_yx, resize_transform, shift, similarity
from fiducial.matching import (
    ALIKE_IOU,
    SAME_IOU,
    WORK_PX,
    Match,
    Rung,
    apart,
    compare,
    look,
    outline,
    refine,
    with_side,
)
from fiducial.metrics import quad_ious
from fiducial.places.proposals import Proposals

REFINED = 12  # how many places are refined
CLOSER = 3  # times as many are looked at closer before
FEW, APART = 8, 0.5  # places; their octaves from quartile to quartile: below, chance is taken for the same at all scales
UNKNOWN = 0.3, 0.1  # correlation of a wrong place and its deviation, where there is none to learn them from
EVIDENCE = ("correlation", "prominence", "confidence", "size", "detail", "sharpness", "phase")
_SLACK = 1.08  # by which a place may be smaller or larger than asked for: an estimate errs, and lines of a scan drift

Gray = Float32[np.ndarray, "_ _"]
Evidence = Float64[np.ndarray, "n k"]


class Verifier:
    """Compare places of one query with the pixels of one source, each place once, however often it is asked about."""

    def __init__(self, query: Gray, rungs: list[Rung], probability: Callable[[Evidence], Float64[np.ndarray, " n"]]) -> None:
        self.size, self.probability = (query.shape[0], query.shape[1]), probability
        small = with_side(query, self.size, WORK_PX)
        near = partial(compare, look(small), resize_transform(self.size, (small.shape[0], small.shape[1])), rungs)
        self.coarse = _once(partial(near, angles=(-10, 0, 10), stretches=(0.88, 1.0, 1.14), pad=0.3))
        fine = {"angles": (-10, -5, 0, 5, 10), "stretches": (0.88, 0.94, 1.0, 1.06, 1.14)}
        self.thorough = _once(partial(near, **fine, pad=0.3))
        self.closer = _once(partial(near, angles=(-5, 0, 5), stretches=(0.94, 1.0, 1.06), pad=0.1))
        self.finest = _once(partial(refine, query, rungs))

    def verify(
        self,
        proposals: Proposals,
        sides: tuple[float, float],
        most: int = REFINED,
        *,
        followed: int = 0,
        rivals: float = np.inf,
    ) -> tuple[list[Match], Evidence]:
        """Compare each proposal with the pixels around it, refine the best, and return places apart, most probable first.

        The first `followed` proposals are compared at half the steps, however they correlate at first. What correlates by
        `rivals` worse than the best one is not refined.
        """
        if not len(proposals):
            return [], np.zeros((0, len(EVIDENCE)))
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
            starts = list(_starts(self.size, proposals))
            coarse = list(pool.map(self.coarse, starts))
            chance = Chance.of(coarse)
            nearer = apart(sorted(coarse, key=chance.surplus, reverse=True), self.size, CLOSER * most, ALIKE_IOU)
            again = pool.map(self.coarse, nearer)
            nearer = [max(pair, key=chance.surplus) for pair in zip(nearer, again, strict=True)]
            nearer += pool.map(self.thorough, starts[:followed])
            closer = sorted(pool.map(self.closer, nearer), key=chance.surplus, reverse=True)
            least = chance.surplus(closer[0]) - rivals
            leading = [match for match in apart(closer, self.size, most, ALIKE_IOU) if chance.surplus(match) >= least]
            refined = list(pool.map(self.finest, leading))
        side = min(self.size)
        return self._judge([m for m in refined if sides[0] / _SLACK <= m.scale * side <= sides[1] * _SLACK], coarse)

    def _judge(self, refined: list[Match], compared: list[Match]) -> tuple[list[Match], Evidence]:
        """Return those of the refined places that overlap no more probable one, most probable first, and their evidence."""
        frames, rows = np.array([outline(match, self.size) for match in compared]), []
        for match in refined:
            elsewhere = np.flatnonzero(quad_ious(outline(match, self.size), frames) < SAME_IOU)
            rows.append(_evidence(match, Chance.of([compared[i] for i in elsewhere]), min(self.size)))
        evidence = np.array(rows).reshape(-1, len(EVIDENCE))
        order = np.argsort(-self.probability(evidence), kind="stable")
        judged, evidence = [refined[i] for i in order], evidence[order]
        kept = apart(judged, self.size, len(judged))
        return kept, evidence[[k for k, match in enumerate(judged) if any(match is one for one in kept)]]


def _once(compared: Callable[[Match], Match]) -> Callable[[Match], Match]:
    """Return the function with a memory: the finest rung adds proposals to those that were verified without it."""
    known: dict[tuple[bytes, float, int], Match] = {}

    def remembered(match: Match) -> Match:
        key = match.matrix.tobytes(), match.confidence, match.channel
        if key not in known:
            known[key] = compared(match)
        return known[key]

    return remembered


@dataclass(frozen=True)
class Chance:
    """What correlation is to be expected of a wrong place by its scale: of a small one less is seen, and it correlates better.

    Attributes:
        slope, level: of the expected correlation over the logarithm of the scale to base 2. spread: median deviation from it.
    """

    slope: float
    level: float
    spread: float

    @classmethod
    def of(cls, matches: list[Match]) -> "Chance":
        """Learn it from many places, nearly all of them wrong; by medians (Theil and Sen), as some may be right."""
        if not matches:
            return cls(0.0, *UNKNOWN)
        octaves = np.log2([match.scale for match in matches])
        correlation = np.array([match.correlation for match in matches])
        slope = 0.0
        if len(matches) >= FEW and np.subtract(*np.percentile(octaves, [75, 25])) > APART:
            i, j = np.triu_indices(len(matches), 1)
            rise, run = correlation[i] - correlation[j], octaves[i] - octaves[j]
            far = np.abs(run) > APART
            slope = min(0.0, float(np.median(rise[far] / run[far])))
        level = float(np.median(correlation - slope * octaves))
        return cls(slope, level, float(np.median(np.abs(correlation - slope * octaves - level))))

    def surplus(self, match: Match) -> float:
        """Return by how much a place correlates better than expected."""
        return match.correlation - self.level - self.slope * float(np.log2(match.scale))


def _evidence(match: Match, chance: Chance, side: int) -> list[float]:
    """Return what speaks for a place, in the order of EVIDENCE; `chance` is of places elsewhere."""
    return [
        float(np.arctanh(min(match.correlation, 0.995))),
        min(chance.surplus(match) / (1.5 * chance.spread + 0.03), 12.0),
        float(np.log(match.confidence + 1e-4) - np.log1p(1e-4 - match.confidence)),
        float(np.log2(side * match.scale)),
        match.detail,
        match.sharpness,
        match.phase,
    ]


def _starts(size: tuple[int, int], proposals: Proposals) -> Iterator[Match]:
    y, x = image_center_yx(size)
    for center, side, angle, confidence in zip(
        proposals.center_yx, proposals.side, proposals.angle, proposals.confidence, strict=True
    ):
        turn = similarity(side / min(size), float(np.rad2deg(angle)))
        yield Match(shift(center[0], center[1]) @ turn @ shift(-y, -x), 0.0, float(confidence))
