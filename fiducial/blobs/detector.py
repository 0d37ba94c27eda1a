"""Own a loaded CADSN and detect with it: normalize, forward by scale and tile, decode, merge, record.

Glossary
    scale: size of the copy that the network sees over the image's; r_net radius of a blob in pixels of that copy.
    candidate: a peak of P_blob at some scale; its center and radius are in pixels of the image unless stated otherwise.
    conflict: of two candidates that cannot both be blobs, as their centers are too near for their radii.
    evidence: what is known of a candidate that survives; the calibration makes its probability of it.
    context: what the network's maps owe to the whole copy; all tiles share it, so that the answer hardly depends on them.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.spatial import cKDTree
from scipy.special import logit
from torch import Tensor

from fiducial.blobs.network import CADSN, EMBEDDING, NOMINAL_RADIUS_PX, STRIDE, Context, Output
from fiducial.confidence import CrowdCalibration, count_interval, crowd_probability
from fiducial.coords import apply_transform, corners_yx
from fiducial.images import sample_gray
from fiducial.layers import fold_norms
from fiducial.records import Blobs, Image, InputError, Progress, Provenance, Window
from fiducial.scaled import Scaled
from fiducial.tiles import Tile, tiles

SMALLEST_PX = 4  # of an image's side
TILE_PX, MARGIN_PX = 1024, 96
VIEWS, VIEW_PX = 4, 128  # rows and columns of views that stand for a copy with more pixels than they have, and their side
LOOKS = 12  # rows and columns of views that these are chosen from
SCALES = (1.0, 0.5, 0.25)
ENLARGED = 2.0  # one more scale, where blobs are too small to be told apart at the others
TYPICAL_PX = 14.0  # r_net of blobs of a known size
BEST_NET_PX, ANY_NET_PX = (5.0, 26.0), (1.2, 46.0)  # r_net at which a scale speaks with all its weight, and at all
LEAST_P = 0.06  # of a candidate
LITTLE_PX = 160_000  # pixels of an image that is also seen turned by 180°, and enlarged more readily
PERCENTILES = (0.2, 99.8)  # of the gray values that become 0 and 1
EVIDENCE = ("center", "agreement", "size", "fit")
EITHER = ("size",)  # small ones may be more sure, or large ones

# Least P, share, radius in px: of candidates above that P, more than that share are smaller, so that an image is enlarged.
_SMALL, _SMALL_IN_LITTLE = (0.7, 0.4, 6.5), (0.3, 0.1, 7.0)
# A peak is the highest within ± a number of pixels, for radii below a limit: noise on a wide peak makes no peaks of its own.
_PEAK_WINDOWS = ((1, 6.0), (3, 12.0), (6, 24.0), (12, np.inf))
_AT_ONCE = 20_000  # candidates whose neighbors are held in memory
_OVERLAP_PX = 2.0  # by which cores are widened, so that no peak falls between two tiles


@dataclass(frozen=True)
class Candidates:
    """Peaks of P_blob; `scale` is that of the copy they were found in, `p` the height, `embedding` (n, 0) if not asked for."""

    yx: Float64[np.ndarray, "n 2"]
    radius: Float64[np.ndarray, " n"]
    p: Float64[np.ndarray, " n"]
    scale: Float64[np.ndarray, " n"]
    embedding: Float32[np.ndarray, "n e"]

    def __len__(self) -> int:
        """Return the number of candidates."""
        return len(self.p)

    def only(self, which: np.ndarray) -> "Candidates":
        """Return those candidates."""
        return Candidates(self.yx[which], self.radius[which], self.p[which], self.scale[which], self.embedding[which])

    @property
    def strength(self) -> Float64[np.ndarray, " n"]:
        """P, less where the blob is of a size that the scale it was found at is not good at."""
        r = self.radius * self.scale
        small = np.clip((r - ANY_NET_PX[0]) / (BEST_NET_PX[0] - ANY_NET_PX[0]), 0.3, 1)
        large = np.clip((ANY_NET_PX[1] - r) / (ANY_NET_PX[1] - BEST_NET_PX[1]), 0.3, 1)
        return self.p * small * large


class BlobDetector:
    """Detect blobs with one network on one device."""

    def __init__(self, network: CADSN, calibration: CrowdCalibration | None, device: torch.device, *, bf16: bool) -> None:
        self.network = fold_norms(network).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.calibration, self.device, self.bf16 = calibration, device, bf16

    def detect(
        self,
        image: Image,
        provenance: Provenance,
        *,
        radius_px: float | None = None,
        min_probability: float = 0.5,
        embeddings: bool = False,
        tile_px: int = TILE_PX,
        progress: Progress | None = None,
    ) -> Blobs:
        """Find the blobs of an image: of about 2 to 80 px, or of about a radius, if that is known.

        Raises:
            InputError: the image has no finite value, is not gray or color, or under 4 px a side.
        """
        found, evidence = self.candidates(image, radius_px, embeddings=embeddings, tile_px=tile_px, progress=progress)
        score = self.probability(evidence)
        interval = self.interval(score)
        kept = np.flatnonzero(score >= min_probability)
        kept = kept[np.lexsort((found.yx[kept, 1], found.yx[kept, 0], -score[kept]))]
        return Blobs(
            yx=found.yx[kept],
            radius=found.radius[kept],
            score=score[kept],
            embedding=found.embedding[kept],
            count_interval=interval,
            radii_px=_limits(radius_px),
            image=image.name,
            size=image.size,
            pixel_size=image.pixel_size,
            unit=image.unit,
            crs=image.crs,
            pixel_to_world=image.pixel_to_world,
            provenance=provenance,
        )

    def probability(self, evidence: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
        """Return calibrated probabilities; P itself where the weights are not calibrated."""
        if self.calibration is None:
            return 1 / (1 + np.exp(-evidence[:, 0]))
        return crowd_probability(self.calibration, evidence)

    def interval(self, score: Float64[np.ndarray, " n"]) -> tuple[int, int]:
        """Return the least and largest number of blobs, given the probabilities of all candidates."""
        inflation, spread = (1.0, 0.0) if self.calibration is None else (self.calibration.inflation, self.calibration.spread)
        return count_interval(score, inflation, spread)

    def candidates(
        self,
        image: Image,
        radius_px: float | None = None,
        *,
        embeddings: bool = False,
        tile_px: int = TILE_PX,
        progress: Progress | None = None,
    ) -> tuple[Candidates, Float64[np.ndarray, "n k"]]:
        """Return all blobs that may be there, free of conflicts, and the evidence for each; raises as `detect`."""
        if min(image.size) < SMALLEST_PX:
            raise InputError(f"an image must have at least {SMALLEST_PX} px a side, {image.name} has {image.size}")
        values = sample_gray(image)
        zero, middle, one = (float(v) for v in np.percentile(values, [PERCENTILES[0], 50, PERCENTILES[1]]))
        if one <= zero:
            zero, one = float(values.min()), float(values.max())
        if one <= zero:
            return decode([], EMBEDDING if embeddings else 0)  # constant: nothing is there
        parts: list[Candidates] = []
        steps, reached = list(scales_for(radius_px)), 0.0
        for done, scale in enumerate(steps):
            note, reached = _part(progress, reached, steps[done:])
            copy = Scaled(image, scale, zero, one, middle)
            if min(copy.size) >= SMALLEST_PX or done == 0:
                parts.append(self._at_scale(copy, embeddings=embeddings, tile_px=tile_px, progress=note))
            elif note is not None:
                note(1, 1)  # too small for that scale
            if done == 0 and radius_px is None and has_small(parts[0], image.size):
                steps.append(ENLARGED)
        return decode(parts, EMBEDDING if embeddings else 0)

    def _at_scale(self, copy: Scaled, *, embeddings: bool, tile_px: int, progress: Progress | None) -> Candidates:
        """Return the candidates of one copy of the image, duplicates along seams included."""
        work = list(tiles(copy.size, tile_px, MARGIN_PX, shrink=True))
        views = spread_views(copy.size)
        context = None if len(work) == len(views) == 1 else self.context(copy, views)
        found = []
        for done, tile in enumerate(work):
            found.append(self._in_tile(copy, tile, context, embeddings=embeddings))
            if progress is not None:
                progress(done + 1, len(work))
        return join(found, EMBEDDING if embeddings else 0)

    def _in_tile(self, copy: Scaled, tile: Tile, context: Context | None, *, embeddings: bool) -> Candidates:
        tile = tile.aligned(STRIDE)  # so that cells of the network's maps lie alike in all tiles
        output = self._see(_pixels(copy, tile.window), context, twice=math.prod(copy.image.size) <= LITTLE_PX)
        y, x, radius, p = peaks(output)
        top, left, bottom, right = tile.core
        inside = (
            (y + tile.window[0] >= top - _OVERLAP_PX)
            & (y + tile.window[0] < bottom + _OVERLAP_PX)
            & (x + tile.window[1] >= left - _OVERLAP_PX)
            & (x + tile.window[1] < right + _OVERLAP_PX)
        )
        gaps = copy.gaps(tile.window)
        inside &= ~gaps[tuple(np.clip(np.rint(v).astype(int), 0, side - 1) for v, side in zip((y, x), gaps.shape, strict=True))]
        yx, radius, p = np.stack([y, x], axis=1)[inside], radius[inside], p[inside]
        vectors = np.zeros((len(p), EMBEDDING if embeddings else 0), np.float32)
        if embeddings and len(p):
            vectors = self._embed(output, yx, radius)
        first, _, last, _ = corners_yx(copy.image.size)  # beyond which the last pixels of a reduced copy may reach
        placed = np.clip(apply_transform(copy.to_image, yx + np.array(tile.window[:2])), first, last)
        return Candidates(placed, radius / copy.scale, p, np.full(len(p), copy.scale), vectors)

    def _see(self, pixels: Float32[np.ndarray, "h w 3"], context: Context | None, *, twice: bool) -> Output:
        """Return the network's output, or the mean of what it says of the pixels and of them turned by 180°.

        Centers that the network places off to one side are off to the other then.
        """
        seen = self.forward(pixels, context)
        if not twice:
            return seen
        h, w = pixels.shape[:2]
        whole = np.pad(pixels, ((0, -h % STRIDE), (0, -w % STRIDE), (0, 0)), mode="edge")  # so that cells lie alike in both
        other = self.forward(np.ascontiguousarray(whole[::-1, ::-1]), context)
        logits, log_radius = (x.flip(2, 3)[..., :h, :w] for x in (other.logits, other.log_radius))
        return Output((seen.logits + logits) / 2, (seen.log_radius + log_radius) / 2, seen.fused)

    @torch.inference_mode()
    def forward(self, pixels: Float32[np.ndarray, "h w 3"], context: Context | None = None) -> Output:
        """Run the network on normalized pixels; the output is in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            out = self.network(self._batch(pixels[None]), context)
        return Output(out.logits.float(), out.log_radius.float(), out.fused.float())

    @torch.inference_mode()
    def context(self, copy: Scaled, views: list[Window]) -> Context:
        """Return what the maps of any part of a copy owe to the whole, which the views with most contrast stand for."""
        pixels = np.stack([_pixels(copy, view) for view in views])
        chosen = np.sort(np.argsort(-pixels.std(axis=(1, 2)).mean(axis=1), kind="stable")[: VIEWS**2])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.network.context(self._batch(pixels[chosen]), rows=VIEWS if len(chosen) == VIEWS**2 else 1)

    def _batch(self, pixels: Float32[np.ndarray, "b h w 3"]) -> Float32[Tensor, "b 3 h w"]:
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device)
        return batch.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def _embed(
        self, output: Output, yx: Float64[np.ndarray, "n 2"], radius: Float64[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n e"]:
        places, reach = (torch.from_numpy(v.astype(np.float32)).to(self.device) for v in (yx, radius))
        index = torch.zeros(len(yx), dtype=torch.long, device=self.device)
        return np.asarray(self.network.embeddings(output.fused, places, reach, index).float().cpu().numpy())


def _pixels(copy: Scaled, window: Window) -> Float32[np.ndarray, "h w 3"]:
    return np.clip(copy.read(window), -0.5, 2.0)


def spread_views(size: tuple[int, int]) -> list[Window]:
    """Return windows spread over a copy, row by row: one that is all of it, if it is small."""
    if size[0] * size[1] <= (VIEWS * VIEW_PX) ** 2:
        return [(0, 0, *size)]
    spans = [min(VIEW_PX, side) for side in size]
    tops, lefts = (
        np.linspace(0, side - span, min(LOOKS, -(-side // VIEW_PX))).round().astype(int).tolist()
        for side, span in zip(size, spans, strict=True)
    )
    return [(y, x, y + spans[0], x + spans[1]) for y in tops for x in lefts]


def scales_for(radius_px: float | None) -> tuple[float, ...]:
    """Return the scales to begin with; with a known radius the one that brings it to TYPICAL_PX, or as near as is of use."""
    return SCALES if radius_px is None else (min(ENLARGED, TYPICAL_PX / radius_px),)


def _limits(radius_px: float | None) -> tuple[float, float]:
    """Return the least and largest radius that can be found."""
    scales = scales_for(radius_px)
    return ANY_NET_PX[0] / (ENLARGED if radius_px is None else scales[0]), ANY_NET_PX[1] / scales[-1]


def _part(progress: Progress | None, reached: float, left: list[float]) -> tuple[Progress | None, float]:
    """Return what reports a scale's progress as part of the whole, and the part that is reached after it.

    Scales are weighed by their number of pixels. One that is added later shares what is left: progress never steps back.
    """
    share = (1 - reached) * left[0] ** 2 / sum(scale * scale for scale in left)
    if progress is None:
        return None, reached + share
    return lambda d, t: progress(round(1000 * (reached + share * d / t)), 1000), reached + share


def has_small(found: Candidates, size: tuple[int, int]) -> bool:
    """Say whether so many blobs are small that the image is to be enlarged; in a little one, where it costs little, fewer."""
    least_p, share, radius = _SMALL_IN_LITTLE if math.prod(size) <= LITTLE_PX else _SMALL
    sure = found.only(found.p > least_p)
    return bool((sure.radius < radius).sum() > share * max(1, len(sure)))


def join(parts: list[Candidates], width: int) -> Candidates:
    """Join candidates; of none, an empty set with embeddings of that width."""
    none = Candidates(np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, width), np.float32))
    every = [none, *parts]
    return Candidates(
        np.concatenate([part.yx for part in every]),
        np.concatenate([part.radius for part in every]),
        np.concatenate([part.p for part in every]),
        np.concatenate([part.scale for part in every]),
        np.concatenate([part.embedding for part in every]),
    )


def peaks(
    output: Output,
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Return y, x, radius and height of the local maxima of P_blob, in pixels of the map.

    A center is the vertex of the paraboloid that fits log P best, weighed by P², within about a third of the radius; the radius
    is the mean of the radius map there.
    """
    p, log_radius = output.logits.sigmoid().cpu()[0, 0], output.log_radius.cpu()[0, 0]
    y, x = torch.nonzero(torch.from_numpy(_tops(p.numpy(), (log_radius.exp2() * NOMINAL_RADIUS_PX).numpy())), as_tuple=True)
    height, rough = p[y, x], log_radius[y, x].exp2() * NOMINAL_RADIUS_PX
    half = (0.35 * rough).round().clamp(1, 10).long()
    center_y, center_x = (torch.zeros_like(rough, dtype=torch.float64) for _ in range(2))
    radius = torch.zeros_like(rough)
    for n in sorted(set(half.tolist())):
        own = half == n
        center_y[own], center_x[own], radius[own] = _refine(p, log_radius, (y[own], x[own]), n)
    tall, wide = p.shape
    center_y, center_x = center_y.clamp(-0.5, tall - 0.5), center_x.clamp(-0.5, wide - 0.5)  # not beyond the outermost pixels
    radius = radius * NOMINAL_RADIUS_PX
    at_y, at_x, r, top_p = (v.double().numpy() for v in (center_y, center_x, radius, height))
    return at_y, at_x, r, top_p


def _tops(p: Float32[np.ndarray, "h w"], radius: Float32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Say which pixels are candidates: the highest in the window for their radius."""
    top, highest, reach, smallest = np.zeros(p.shape, np.bool_), p, 0, 0.0
    for wider, largest in _PEAK_WINDOWS:
        side = 2 * (wider - reach) + 1
        highest = cv2.dilate(highest, np.ones((side, side), np.uint8))
        top |= (p == highest) & (radius >= smallest) & (radius < largest)
        reach, smallest = wider, largest
    return top & (p >= LEAST_P)


def _refine(
    p: Float32[Tensor, "h w"], log_radius: Float32[Tensor, "h w"], at: tuple[Tensor, Tensor], half: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the y and x of the vertex, and the mean radius (in parts of the nominal one), in windows of ± half px.

    The windows move to the vertex once: noise chooses the maximum of a wide top, but hardly the vertex near a vertex.
    """
    y, x, _ = _fit(p, log_radius, at, half)
    return _fit(p, log_radius, (_pixel(y, p.shape[0]), _pixel(x, p.shape[1])), half)


def _pixel(place: Tensor, count: int) -> Tensor:
    return place.round().long().clamp(0, count - 1)


def _fit(
    p: Float32[Tensor, "h w"], log_radius: Float32[Tensor, "h w"], at: tuple[Tensor, Tensor], half: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_refine` does, of windows that stay where they are."""
    steps = torch.arange(-half, half + 1, device=p.device)
    y, x = at[0][:, None, None] + steps[:, None], at[1][:, None, None] + steps  # (N, K, 1), (N, 1, K)
    rows, columns = y.clamp(0, p.shape[0] - 1), x.clamp(0, p.shape[1] - 1)
    seen = p[rows, columns]  # (N, K, K)
    weight = seen.square() * ((rows == y) & (columns == x))
    dy, dx = _vertex(seen.clamp(min=1e-4).log(), weight, half)
    radius = (weight * log_radius[rows, columns]).sum((1, 2)) / weight.sum((1, 2))
    return at[0] + dy, at[1] + dx, radius.exp2()


def _vertex(values: Float32[Tensor, "n k k"], weight: Float32[Tensor, "n k k"], half: int) -> tuple[Tensor, Tensor]:
    """Return where the paraboloid that fits the values best has its vertex, in steps from the middle.

    Where it has none, or none within the window, the mean place by weight.
    """
    steps = torch.arange(-half, half + 1, dtype=torch.float64, device=values.device) / half
    v, u = (part.flatten() for part in torch.meshgrid(steps, steps, indexing="ij"))  # (K²,)
    terms = torch.stack([torch.ones_like(u), v, u, v * v, u * u, u * v], dim=1)  # (K², 6)
    w = weight.flatten(1).double()  # (N, K²)
    normal = (w @ (terms[:, :, None] * terms[:, None]).flatten(1)).reshape(-1, 6, 6)
    normal = normal + 1e-9 * normal.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] * torch.eye(
        6, dtype=w.dtype, device=w.device
    )
    _, b, a, bb, aa, ab = torch.linalg.solve(normal, (w * values.flatten(1).double()) @ terms).unbind(1)
    determinant = 4 * aa * bb - ab * ab
    top_v, top_u = (ab * a - 2 * aa * b) / determinant, (ab * b - 2 * bb * a) / determinant
    inside = (aa < 0) & (bb < 0) & (determinant > 0) & (top_v.abs() <= 1) & (top_u.abs() <= 1)
    mean_v, mean_u = (w @ v) / w.sum(1), (w @ u) / w.sum(1)
    return torch.where(inside, top_v, mean_v) * half, torch.where(inside, top_u, mean_u) * half


def decode(parts: list[Candidates], width: int = 0) -> tuple[Candidates, Float64[np.ndarray, "n k"]]:
    """Keep of conflicting candidates the strongest, and return them with their evidence (columns as EVIDENCE)."""
    every = join(parts, width)
    r_net = every.radius * every.scale
    every = every.only((r_net >= ANY_NET_PX[0]) & (r_net <= ANY_NET_PX[1]))
    kept = survivors(every)
    found = every.only(kept)
    return found, _evidence(found, every, alone=len(parts) == 1)


def conflicts(every: Candidates) -> Int64[np.ndarray, "k 2"]:
    """Return the pairs of candidates that are in conflict, the larger of each first.

    Two blobs are in conflict if their centers are nearer than 0.95 of the smaller radius, or if the smaller one lies within the
    larger: nearer than the larger radius less 0.6 of the smaller.
    """
    pairs, tree = [np.zeros((0, 2), np.int64)], cKDTree(every.yx)
    for first in range(0, len(every), _AT_ONCE):
        own = np.arange(first, min(first + _AT_ONCE, len(every)))
        near = tree.query_ball_point(every.yx[own], np.maximum(every.radius[own], 1.0))
        i, j = np.repeat(own, [len(n) for n in near]), np.concatenate([np.array(n, dtype=np.int64) for n in near])
        large, small = every.radius[i], every.radius[j]
        smaller = (small < large) | ((small == large) & (j > i))
        limit = np.maximum(np.maximum(0.95 * small, large - 0.6 * small), 1.0)
        kept = smaller & (np.linalg.norm(every.yx[j] - every.yx[i], axis=1) < limit)
        pairs.append(np.stack([i[kept], j[kept]], axis=1))
    return np.concatenate(pairs)


def survivors(every: Candidates) -> Int64[np.ndarray, " k"]:
    """Return the indices of candidates that are in conflict with no stronger one that survives."""
    pairs = conflicts(every)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.argsort(both[:, 0], kind="stable")]
    contested, starts = np.unique(both[:, 0], return_index=True)
    ends = np.append(starts[1:], len(both))
    alive = np.ones(len(every), dtype=bool)
    for k in np.argsort(-every.strength[contested], kind="stable").tolist():
        if alive[contested[k]]:
            alive[both[starts[k] : ends[k], 1]] = False
    return np.flatnonzero(alive)


def _evidence(found: Candidates, every: Candidates, *, alone: bool) -> Float64[np.ndarray, "n k"]:
    """Return the columns of EVIDENCE.

    center: log-odds of P. agreement: the strongest candidate of another scale at the same place and of about the same size;
    P itself where one scale was searched alone, as with a known radius.
    size: |log2| of r_net over the typical one. fit: strength over P, how good the scale is at such a size.
    """
    if not len(found):
        return np.zeros((0, len(EVIDENCE)))
    same = found.p if alone else _agreement(found, every)
    size = np.abs(np.log2(found.radius * found.scale / TYPICAL_PX))
    return np.stack([logit(np.clip(found.p, 1e-4, 1 - 1e-4)), same, size, found.strength / found.p], axis=1)


def _agreement(found: Candidates, every: Candidates) -> Float64[np.ndarray, " n"]:
    out, tree = np.zeros(len(found)), cKDTree(every.yx)
    near = tree.query_ball_point(found.yx, np.maximum(0.5 * found.radius, 1.0))
    for i, others in enumerate(near):
        j = np.array(others, dtype=np.int64)
        alike: Bool[np.ndarray, " k"] = np.abs(np.log2(every.radius[j] / found.radius[i])) < 0.6
        j = j[alike & (every.scale[j] != found.scale[i])]
        out[i] = every.p[j].max(initial=0.0)
    return out
