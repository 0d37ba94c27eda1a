"""Own a loaded FTFY network and find places with it: a ladder of reduced sources, propose, verify, record.

Glossary
    side: the shorter side of the query, in whatever pixels are named. R turned views of the query.
    rung: the source reduced so that boxes of one octave of sides come to NOMINAL_PX; the ladder covers all sides searched.
    look: an image as verification sees it, local contrast and edges.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from fiducial.banners import without_banner
from fiducial.confidence import EvidenceCalibration, below, evidence_to_probability, written
from fiducial.coords import apply_transform, corners_yx, image_center_yx, resize_transform, shift, similarity, window_to_image
from fiducial.geometry import remove_stripes
from fiducial.images import averaged
from fiducial.layers import fold_norms
from fiducial.matching import Look, Match, Rung, contrast_of, look, read_with_side, with_side, without_gaps
from fiducial.places.network import FTFY
from fiducial.places.proposals import Proposals, confidence_around, decode, join, thin
from fiducial.places.sweep import STEP, Grid, Sweep
from fiducial.places.verifier import Verifier
from fiducial.records import Image, InputError, NoRoomError, Places, Progress, Provenance
from fiducial.steps import Steps
from fiducial.tiles import Tile, tiles

SMALLEST_QUERY_PX = 32
LONGEST_QUERY = 100  # sides of a query: the longer in parts of the shorter
SMALLEST_SIDE_PX = 24.0  # of a box, in pixels of the source: below, too little is left to compare
SMALLEST_STATED_PX = 12.0  # the same where the scale is stated
SCALES = (0.1, 1.0)  # sizes of a query's pixel, in pixels of the source, that are searched by default
NOMINAL_PX = (36.0, 72.0)  # sides of boxes at a rung
TURNS = 6  # views of the query
SMALL_SOURCE_PX = 500_000  # pixels of a source below which it may be enlarged
LARGEST_RUNG_PX = 48_000_000  # pixels of a rung; boxes that would need more are not searched
LARGE_PX = 700_000  # pixels of a rung from which it is swept coarsely
# How a rung is swept: a large one, and others; these for the boxes of the next rung, too, of which they show more detail.
COARSELY = (Grid(2.5, 24, NOMINAL_PX),)
FINELY = (Grid(2.0, 36, NOMINAL_PX), Grid(2.5, 48, (NOMINAL_PX[1], 2 * NOMINAL_PX[1])))
TILE_PX, MARGIN_PX = 1536, 96
VIEW_PX = 224  # largest shorter side at which a query is looked at
CERTAIN = 0.98  # probability of a place at which finer rungs are not searched, if no higher one is asked for
PROMISING = 0.25  # confidence of a proposal at which this is looked into
PROPOSALS, OF_RUNG, SWEPT = 64, 12, 16  # how many are verified: of the network, at least of each rung, and of each sweep
FOLLOWED, FOLLOWED_SWEPT = 8, 2  # how many of these are compared thoroughly: of the network, of each sweep
GLANCED_AT = 2  # how many are refined to learn whether one is all but certain
RIVALS = 0.2  # surplus of correlation by which those refined beside a place all but certain may be under the best one's

Gray = Float32[np.ndarray, "_ _"]


class Guesses(NamedTuple):
    """What a rung holds: the boxes that the network sees, and those of each sweep, ranked, in pixels of the source."""

    seen: Proposals
    swept: list[Proposals]


@dataclass(frozen=True)
class Answer:
    """Places of a query, the evidence for each (columns as EVIDENCE), and the least and largest scale that was searched."""

    matches: list[Match]
    evidence: Float64[np.ndarray, "n k"]
    scales: tuple[float, float]


class PlaceLocator:
    """Find queries in sources with one network on one device."""

    def __init__(self, network: FTFY, calibration: EvidenceCalibration | None, device: torch.device, *, bf16: bool) -> None:
        self.network = fold_norms(network).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.calibration, self.device, self.bf16 = calibration, device, bf16

    def locate(
        self,
        query: Image,
        source: Image,
        provenance: Provenance,
        *,
        scales: tuple[float, float] = SCALES,
        most: int = 5,
        min_probability: float = 0.5,
        progress: Progress | None = None,
    ) -> Places:
        """Find the `most` probable places of a query in a source; `scales` bounds the size of its pixel in the source's.

        Raises:
            InputError: an image is constant, without finite values, not gray or color, a query under 32 px, over a hundred
                times as long as wide, or larger than the source at every scale searched.
        """
        answer = self.candidates(query, source, scales, progress, max(CERTAIN, min_probability))
        matches, score = answer.matches, self.probability(answer.evidence)
        order = np.argsort(-score, kind="stable")[:most]
        score, matrices = score[order], np.array([matches[i].matrix for i in order.tolist()]).reshape(-1, 3, 3)
        frame = corners_yx(query.size)
        best = float(score.max(initial=0.0))
        found = len(score) > 0 and best >= min_probability
        doubt = f"not here: the best place has probability {below(best, min_probability)}, needs {min_probability:g}"
        least, largest = map(written, answer.scales)
        return Places(
            corners_yx=np.array([apply_transform(m, frame) for m in matrices]).reshape(-1, 4, 2),
            score=score,
            query_to_source=matrices,
            correlation=np.array([matches[i].correlation for i in order.tolist()], dtype=np.float64),
            found=found,
            reason="" if found else f"{doubt} (searched: scales from {least} to {largest})",
            query=query.name,
            source=source.name,
            query_size=query.size,
            source_size=source.size,
            scales=answer.scales,
            pixel_size=source.pixel_size,
            unit=source.unit,
            crs=source.crs,
            pixel_to_world=source.pixel_to_world,
            provenance=provenance,
        )

    def candidates(
        self,
        query: Image,
        source: Image,
        scales: tuple[float, float],
        progress: Progress | None = None,
        enough: float = CERTAIN,
    ) -> Answer:
        """Propose, verify and refine; return the places apart from each other and the evidence for each.

        The finest rung, where the smallest boxes are sought, costs most. It is left out where the others hold a place whose
        probability exceeds `enough`; the answer's scales say so, and beside that place only those that correlate nearly as
        well are refined. Banners are left out. Raises as `locate`.
        """
        check_sizes(query, source)
        (query, own_row), (source, row) = _picture(query), _picture(source)
        sides = sides_to_search(query, source, scales)
        view = without_stripes(read_with_side(query, min(*query.size, VIEW_PX)))
        rungs = build_ladder(source, sides)
        filters, verifier = self.filters(view), Verifier(view, rungs, self.probability)
        sweep = Sweep(view, self.device, bf16=self.bf16)
        parts: list[Guesses] = []
        steps = Steps(progress, sum(len(list(_tiles_of(rung))) for rung in rungs) + 2)
        steps.add()  # the ladder
        for done, rung in enumerate(reversed(rungs), start=1):
            if done == len(rungs) > 1 and self.calibration is not None and _promising(parts):
                likely, _ = choose(parts, sides)
                if self._best(verifier.verify(likely, sides, GLANCED_AT)[1]) > enough:
                    matches, evidence = verifier.verify(likely, sides, rivals=RIVALS)
                    if self._best(evidence) > enough:
                        sides = (NOMINAL_PX[0] / rungs[1].factor, sides[1])
                        break
            parts.append(self.propose(rung, filters, sweep, sides, steps))
        else:
            likely, followed = choose(parts, sides)
            matches, evidence = verifier.verify(likely, sides, followed=followed)
        steps.reach(steps.total)
        to_view = resize_transform(query.size, (view.shape[0], view.shape[1])) @ np.linalg.inv(window_to_image((own_row, 0)))
        placed = [replace(match, matrix=window_to_image((row, 0)) @ match.matrix @ to_view) for match in matches]
        return Answer(placed, evidence, (sides[0] / min(query.size), sides[1] / min(query.size)))

    def probability(self, evidence: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
        """Return the probability of each place; without a calibration, the correlation stands in."""
        if self.calibration is None:
            return np.tanh(evidence[:, 0])
        return evidence_to_probability(self.calibration, evidence)

    def _best(self, evidence: Float64[np.ndarray, "n k"]) -> float:
        return float(self.probability(evidence).max(initial=0.0))

    def filters(self, query: Gray) -> Float32[Tensor, "r n d"]:
        """Encode the turned views of a query, once."""
        views = torch.from_numpy(turned_views(query, self.network.config.query_px))[:, None]
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.network.encode_query(views.to(self.device).contiguous(memory_format=torch.channels_last))

    def propose(
        self, rung: Rung, filters: Float32[Tensor, "r n d"], sweep: Sweep, sides: tuple[float, float], steps: Steps
    ) -> Guesses:
        """Return the boxes that the network sees on a rung, and those of each sweep of it, in pixels of the source.

        Each of the rung's tiles is a step.
        """
        found, stride = [], self.network.config.stride
        grids = FINELY if rung.image.size < LARGE_PX else COARSELY
        swept: dict[Grid, list[Proposals]] = {grid: [] for grid in grids}
        for tile in _tiles_of(rung):
            y0, x0, y1, x1 = tile.window
            seen = Look(*(image[y0:y1, x0:x1] for image in rung.look))
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                padded = torch.from_numpy(_pad(seen.contrast, stride))[None, None]
                features = self.network.encode_source(padded.to(self.device))
                output = self.network.correlate(features.expand(len(filters), -1, -1, -1), filters)
            found.append(_within(tile, decode(output, 4 * PROPOSALS), 1))
            for grid in grids:
                peaks = sweep.peaks(seen, grid, (sides[0] * rung.factor, sides[1] * rung.factor))
                trust = confidence_around(output, stride, peaks.center_yx)
                own = _within(tile, replace(peaks, confidence=trust), STEP * grid.reduced)
                swept[grid].append(own.only(np.arange(min(len(own), 4 * SWEPT))))
            steps.add()
        return Guesses(_in_source(join(found), rung), [_in_source(join(parts), rung) for parts in swept.values()])


def _tiles_of(rung: Rung) -> Iterator[Tile]:
    return tiles((rung.look.contrast.shape[0], rung.look.contrast.shape[1]), TILE_PX, MARGIN_PX, shrink=True)


def _in_source(found: Proposals, rung: Rung) -> Proposals:
    """Return proposals of a rung, ranked, in pixels of the source."""
    back = np.linalg.inv(rung.from_source)
    return replace(found, center_yx=apply_transform(back, found.center_yx), side=found.side / rung.factor).ranked()


def _within(tile: Tile, found: Proposals, slack: float) -> Proposals:
    """Keep what has its center in the core of a tile, or next to it, and place it in the whole."""
    center = found.center_yx + np.array(tile.window[:2])
    top, left, bottom, right = tile.core
    near = (center > (top - slack, left - slack)) & (center < (bottom - 1 + slack, right - 1 + slack))
    return replace(found, center_yx=center).only(np.flatnonzero(near.all(axis=1)))


def choose(parts: list[Guesses], sides: tuple[float, float]) -> tuple[Proposals, int]:
    """Return the proposals to be verified, and how many of them, the first ones, are compared thoroughly.

    These are the best of the network and of each sweep. Then come the network's best of all rungs and of each, and more of each
    sweep.
    """
    seen = join([guesses.seen for guesses in parts]).ranked()
    swept = [found for guesses in parts for found in guesses.swept]
    first = join([thin(seen, FOLLOWED, sides), *(thin(found, FOLLOWED_SWEPT, sides) for found in swept)])
    first = thin(first, len(first), sides)
    others = [thin(seen, PROPOSALS, sides)] + [thin(guesses.seen, OF_RUNG, sides) for guesses in parts]
    others += [thin(found, SWEPT, sides) for found in swept]
    whole = join([first, *others])
    return thin(whole, len(whole), sides), len(first)


def _promising(parts: list[Guesses]) -> bool:
    """Say whether a proposal is confident enough that verifying it early may spare the rest of the search."""
    return max((float(guesses.seen.confidence.max(initial=0.0)) for guesses in parts), default=0.0) > PROMISING


def check_sizes(query: Image, source: Image) -> None:
    """Refuse an image under 32 px a side, and a query over a hundred times as long as wide; raises InputError."""
    if min(query.size) < SMALLEST_QUERY_PX:
        raise InputError(f"a query must have at least {SMALLEST_QUERY_PX} px a side, {query.name} has {query.size}")
    if min(source.size) < SMALLEST_QUERY_PX:
        raise InputError(f"a source must have at least {SMALLEST_QUERY_PX} px a side, {source.name} has {source.size}")
    if max(query.size) > LONGEST_QUERY * min(query.size):
        raise InputError(
            f"a query must be at most {LONGEST_QUERY} times as long as wide, {query.name} has {query.size}: crop it"
        )


def _picture(image: Image) -> tuple[Image, int]:
    """Return an image without its banner, and its first row; whole, where the banner would leave less than can be searched."""
    picture, row = without_banner(image)
    return (picture, row) if min(picture.size) >= SMALLEST_QUERY_PX else (image, 0)


def sides_to_search(query: Image, source: Image, scales: tuple[float, float]) -> tuple[float, float]:
    """Return the least and largest side of a box, in pixels of the source, that is to be searched.

    Raises:
        NoRoomError: the query is too small or too large in the source at every scale.
    """
    shorter, longer = min(query.size), max(query.size)
    narrow = scales[1] < 1.5 * scales[0]  # a scale that was stated
    largest = min(scales[1] * shorter, 1.02 * min(source.size), 1.02 * max(source.size) * shorter / longer)
    smallest = (SMALLEST_STATED_PX if narrow else SMALLEST_SIDE_PX) / min(1.0, _largest_factor(source))
    least = max(scales[0] * shorter, smallest)
    if scales[1] * shorter < smallest:
        way_out = "" if _largest_factor(source) >= 1 else " in so large a source: crop it"
        raise NoRoomError(
            f"{query.name} covers at most {scales[1] * shorter:.0f} px of {source.name}, too few: needs {smallest:.0f}{way_out}"
        )
    if scales[0] * shorter <= largest < least:
        raise NoRoomError(
            f"{query.name} is too narrow at the scales at which it lies in {source.name}: "
            f"it covers at most {largest:.0f} px of it, needs {least:.0f}: crop it to a squarer part"
        )
    if least > largest:
        raise NoRoomError(
            f"{query.name} is larger than {source.name} at every scale searched "
            f"({written(scales[0])} to {written(scales[1])}): swap them, or state another scale (--scale)"
        )
    return least, largest


def _largest_factor(source: Image) -> float:
    """Return the largest factor by which a source's sides may be multiplied for a rung."""
    area = source.size[0] * source.size[1]
    finest = 1.5 if area < SMALL_SOURCE_PX else 1.0  # enlarging costs little where there is little
    return min(finest, float((LARGEST_RUNG_PX / area) ** 0.5))


def build_ladder(source: Image, sides: tuple[float, float]) -> list[Rung]:
    """Reduce the source until each side of a box between two bounds has a rung at which it measures NOMINAL_PX.

    On the finest rung boxes may be smaller, down to SMALLEST_SIDE_PX: larger sources are not enlarged for them.
    """
    factor = min(_largest_factor(source), NOMINAL_PX[0] / sides[0])
    rungs: list[Rung] = []
    image = read_with_side(source, min(source.size) * factor)
    while True:
        size = (image.shape[0], image.shape[1])
        matrix = resize_transform(source.size, size)
        rungs.append(Rung(image, look(image), matrix, float(np.sqrt(matrix[0, 0] * matrix[1, 1]))))
        if NOMINAL_PX[1] / factor >= sides[1]:
            return rungs
        factor /= 2
        size = (max(1, round(source.size[0] * factor)), max(1, round(source.size[1] * factor)))
        image = averaged(image, size[::-1], np.nan)


def without_stripes(query: Gray) -> Gray:
    """Return a query without offsets of its scan lines (`remove_stripes`), which are learned from what it shows of a line."""
    missing = np.isnan(query)
    if not missing.any():
        return remove_stripes(query)
    rows = np.flatnonzero(~missing.all(axis=1))
    if not len(rows):
        return query
    filled = query[rows[np.abs(np.arange(len(query))[:, None] - rows).argmin(axis=1)]]  # a line of gaps is its neighbor
    for line in filled:
        gaps = np.isnan(line)
        line[gaps] = np.resize(line[~gaps], int(gaps.sum()))
    return np.where(missing, np.float32(np.nan), remove_stripes(filled))


def turned_views(query: Gray, side: int) -> Float32[np.ndarray, "r k k"]:
    """Return the query's middle square of side × side pixels, normalized, turned TURNS times; 0 where it shows nothing."""
    small = with_side(query, (query.shape[0], query.shape[1]), side)
    seen = without_gaps(contrast_of(small))
    (y, x), (cy, cx) = image_center_yx((small.shape[0], small.shape[1])), image_center_yx((side, side))
    views = []
    for turn in range(TURNS):
        to_view = shift(cy, cx) @ similarity(1.0, 360 / TURNS * turn) @ shift(-y, -x)
        views.append(cv2.warpAffine(seen, to_view[:2], (side, side), flags=cv2.INTER_LINEAR))
    return np.stack(views).astype(np.float32)


def _pad(image: Gray, multiple: int) -> Gray:
    h, w = image.shape
    return np.pad(image, ((0, -h % multiple), (0, -w % multiple)))
