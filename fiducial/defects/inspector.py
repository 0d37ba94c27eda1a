"""Own a loaded BGNet and inspect with it: align, prepare, forward by tiles, decode, record.

Glossary
    H, W size of the sample in pixels; p the probability that a pixel is defective (one minus background).
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, Shaped, UInt8
from torch import Tensor

from fiducial import geometry
from fiducial.confidence import Calibration, below, to_probability
from fiducial.coords import Matrix, apply_transform, corners_yx, resize_transform, window_to_image
from fiducial.datasets import DRAWN_IN
from fiducial.defects.network import BGNet
from fiducial.images import intensity_range, read_reduced, to_gray
from fiducial.patchwork import Patchwork
from fiducial.records import Defects, Image, InputError, Progress, Provenance, Window
from fiducial.regions import find_regions, laid, outlined
from fiducial.tiles import tiles

SMALLEST_PX = 64
TILE_PX, MARGIN_PX = 384, 64
ALIGN_PX = 640  # longest side at which the alignment is estimated
TRUSTED_ALIGNMENT = 0.7  # least correlation; benchmarks/defects_good_boards.py shows both sides of it
_GAP_PX = 5  # side of the neighborhood that tells a lone pixel without a value from an area
PIXEL_P = 0.4  # least p of a defect's pixels; focal training is modest, 0.4 did best on the calibration group
SMALLEST_AREA_PX = 8
LEAST_COVERAGE = 0.25  # share of the sample that must be compared for a verdict


@dataclass(frozen=True)
class Found:
    """The defects of a map of probabilities, in the terms of `records.Defects`."""

    mask: UInt8[np.ndarray, "h w"]
    boxes_yxyx: Float64[np.ndarray, "n 4"]
    label: Int64[np.ndarray, " n"]
    score: Float64[np.ndarray, " n"]
    area_px: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Compared:
    """What the network says of a whole sample.

    Attributes:
        p: probability that a pixel is defective, float16; 0 where it is under PIXEL_P or was not inspected.
        kind: the most probable class, from 1, of the others.
        outline: the same regions, laid to where sample and template differ (`regions.outlined`).
        template_to_sample: None where no alignment could be trusted, and p is 0 everywhere.
    """

    p: Patchwork
    kind: Patchwork
    outline: Patchwork
    template_to_sample: Matrix | None
    alignment_score: float
    coverage: float

    @property
    def maps(self) -> tuple[Patchwork, Patchwork, Patchwork]:
        """What `decode` decodes."""
        return self.p, self.kind, self.outline


@dataclass(frozen=True)
class Prepared:
    """A window of the sample, the template resampled on it, and where both are known."""

    sample: Float32[np.ndarray, "h w"]
    template: Float32[np.ndarray, "h w"]
    valid: Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class _Normalized:
    """An image with the intensities that map to 0 and to 1; what lies far beyond, as few bright pixels may, is drawn in."""

    image: Image
    zero: float
    one: float

    def read(self, window: Window | None = None) -> Float32[np.ndarray, "h w"]:
        """Return a window's normalized gray values; NaN and infinite ones stay NaN."""
        gray = (to_gray(self.image.read(window), self.image.name) - self.zero) / (self.one - self.zero)
        return np.where(np.isfinite(gray), np.clip(gray, *DRAWN_IN), np.nan).astype(np.float32)

    def reduced(self, longest_px: int) -> tuple[Float32[np.ndarray, "h w"], Matrix]:
        """Return the whole image, normalized, no side above `longest_px`, and the transform from full to reduced pixels.

        What has no value is NaN.
        """
        gray = read_reduced(self.image, longest_px, undefined=np.nan)
        normalized = np.clip((gray - self.zero) / (self.one - self.zero), *DRAWN_IN).astype(np.float32)
        return normalized, resize_transform(self.image.size, (gray.shape[0], gray.shape[1]))


class DefectInspector:
    """Inspect samples against templates with one network on one device."""

    def __init__(self, network: BGNet, calibration: Calibration | None, device: torch.device, *, bf16: bool) -> None:
        self.network = network.to(device).eval()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        self.calibration, self.device, self.bf16 = calibration, device, bf16

    def inspect(
        self,
        sample: Image,
        template: Image,
        provenance: Provenance,
        *,
        align: bool = True,
        invert: bool = False,
        min_probability: float = 0.5,
        progress: Progress | None = None,
    ) -> Defects:
        """Find the defects of a sample; with `align`, lay the template on it first; with `invert`, judge the negatives.

        Nothing is inspected where no alignment can be trusted; the verdict is "refused" then, and also where template and
        sample have too little in common.

        Raises:
            InputError: an image is constant, without finite values, not gray or color, or under 64 px.
        """
        compared = self.compare(sample, template, align=align, invert=invert, progress=progress)
        reason = _reason(compared)
        found = decode(*compared.maps, self.calibration, min_probability, self.network.config.box_margin_px)
        return Defects(
            mask=found.mask,
            boxes_yxyx=found.boxes_yxyx,
            label=found.label,
            score=found.score,
            area_px=found.area_px,
            classes=self.network.config.classes,
            template_to_sample=compared.template_to_sample,
            alignment_score=compared.alignment_score,
            coverage=compared.coverage,
            verdict="refused" if reason else "bad" if len(found.score) else "good",
            reason=reason,
            sample=sample.name,
            template=template.name,
            pixel_size=sample.pixel_size,
            unit=sample.unit,
            crs=sample.crs,
            pixel_to_world=sample.pixel_to_world,
            provenance=provenance,
        )

    def compare(
        self, sample: Image, template: Image, *, align: bool = True, invert: bool = False, progress: Progress | None = None
    ) -> Compared:
        """Align and run the network over all tiles; raises as `inspect`."""
        for image in (sample, template):
            if min(image.size) < SMALLEST_PX:
                raise InputError(
                    f"an image to inspect must have at least {SMALLEST_PX} px a side, {image.name} has {image.size}"
                )
        good, seen = (_normalized(image, invert=invert) for image in (template, sample))
        placed = align_template(good, seen) if align else geometry.Alignment(np.eye(3), float("nan"))
        size = sample.size
        p, kind, outline = (Patchwork(size, np.dtype(of)) for of in (np.float16, np.uint8, np.bool_))
        if align and placed.score < TRUSTED_ALIGNMENT:
            return Compared(p, kind, outline, None, placed.score, 0.0)
        todo, inspected = list(tiles(size, TILE_PX, MARGIN_PX)), 0
        for done, tile in enumerate(todo):
            pair = prepare(seen, good, placed.moving_to_fixed, tile.window)
            core = tile.core_in_window
            if pair.valid[core].any():
                probability = self.predict(pair)  # (K+1, h, w)
                seen_p = np.where(pair.valid, 1 - probability[0], 0).astype(np.float16)
                suspect = seen_p >= PIXEL_P
                shown = outlined(suspect, np.abs(pair.sample - pair.template)) & pair.valid
                p.write(tile.core[:2], np.where(suspect, seen_p, np.float16(0))[core])
                kind.write(tile.core[:2], np.where(suspect, 1 + probability[1:].argmax(0), 0)[core].astype(np.uint8))
                outline.write(tile.core[:2], shown[core])
                inspected += int(pair.valid[core].sum())
            if progress is not None:
                progress(done + 1, len(todo))
        return Compared(p, kind, outline, placed.moving_to_fixed, placed.score, inspected / (size[0] * size[1]))

    def predict(self, pair: Prepared) -> Float32[np.ndarray, "k h w"]:
        """Return the class probabilities of one tile."""
        sample, template = (torch.from_numpy(image)[None, None].to(self.device) for image in (pair.sample, pair.template))
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits: Tensor = self.network(sample, template).logits
        out: Float32[np.ndarray, "k h w"] = logits[0].float().softmax(0).cpu().numpy()
        return out


def _normalized(image: Image, *, invert: bool) -> _Normalized:
    """Return an image with its percentiles as 0 and 1, or, for its negative, as 1 and 0."""
    low, high = intensity_range(image)
    return _Normalized(image, high, low) if invert else _Normalized(image, low, high)


def align_template(good: _Normalized, seen: _Normalized) -> geometry.Alignment:
    """Estimate the transform from template to sample on reduced images, and return it between the full ones."""
    (moving, down_m), (fixed, down_f) = (image.reduced(ALIGN_PX) for image in (good, seen))
    (moving, moving_known), (fixed, fixed_known) = (_filled(image) for image in (moving, fixed))
    found = geometry.align(moving, fixed, moving_known, fixed_known)
    return replace(found, moving_to_fixed=np.linalg.inv(down_f) @ found.moving_to_fixed @ down_m)


def _filled(image: Float32[np.ndarray, "h w"]) -> tuple[Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"] | None]:
    """Return an image without gaps, and what is known of it; None if all is.

    A lone gap, with values in at least half of what is around, is filled with their mean and counts as known.
    """
    known = np.isfinite(image)
    if known.all():
        return image, None
    share, total = (cv2.blur(part, (_GAP_PX, _GAP_PX)) for part in (known.astype(np.float32), np.where(known, image, 0)))
    lone = ~known & (share >= 0.5)
    filled = np.where(known, image, np.float32(0.5))
    filled[lone] = total[lone] / share[lone]
    known |= lone
    return filled, None if known.all() else known


def prepare(seen: _Normalized, good: _Normalized, template_to_sample: Matrix, window: Window) -> Prepared:
    """Return a window of the sample, the template resampled on it, and where both are known.

    Where they are not, the sample stands in for the template, which says "no difference".
    """
    sample = seen.read(window)
    size = (sample.shape[0], sample.shape[1])
    window_to_template = np.linalg.inv(template_to_sample) @ window_to_image(window[:2])
    source = _bounding_window(window_to_template, size, good.image.size)
    if source is None:
        return Prepared(np.nan_to_num(sample), np.nan_to_num(sample), np.zeros(size, dtype=bool))
    to_window = np.linalg.inv(window_to_template) @ window_to_image(source[:2])
    template, covered = geometry.warp(good.read(source), to_window, size)
    valid = covered & np.isfinite(template) & np.isfinite(sample)
    sample = np.nan_to_num(sample)
    return Prepared(sample, np.where(valid, template, sample), valid)


def _bounding_window(window_to_template: Matrix, size: tuple[int, int], template_size: tuple[int, int]) -> Window | None:
    """Return the part of the template that a window needs, with a margin for interpolation; None if there is none."""
    corners = apply_transform(window_to_template, corners_yx(size))
    y0, x0 = np.maximum(np.floor(corners.min(0)).astype(int) - 2, 0).tolist()
    y1, x1 = np.minimum(np.ceil(corners.max(0)).astype(int) + 3, template_size).tolist()
    return (y0, x0, y1, x1) if y1 - y0 > 1 and x1 - x0 > 1 else None


def _reason(compared: Compared) -> str:
    """Say why there can be no verdict; empty if there can."""
    if compared.template_to_sample is None and compared.alignment_score == geometry.NOTHING:
        return "no alignment to trust: nothing of template and sample could be compared"
    if compared.template_to_sample is None:
        reached = below(compared.alignment_score, TRUSTED_ALIGNMENT)
        return f"no alignment to trust: correlation {reached}, needs {TRUSTED_ALIGNMENT}"
    if compared.coverage < LEAST_COVERAGE:
        return f"only {compared.coverage:.0%} of the sample could be compared, needs {LEAST_COVERAGE:.0%}"
    return ""


def decode(
    p: Shaped[np.ndarray, "h w"] | Patchwork,
    kind: UInt8[np.ndarray, "h w"] | Patchwork,
    outline: Bool[np.ndarray, "h w"] | Patchwork,
    calibration: Calibration | None,
    min_probability: float,
    box_margin_px: float,
) -> Found:
    """Turn pixel probabilities into defects, best first.

    A defect is a region of p ≥ 0.4 of at least 8 pixels; its class the one that most of its p votes for; its raw score the
    mean of p over it, shrunk for small regions: Σp / (area + 8); its score the calibrated raw score. Its mask and area are
    those of its outline; its box holds both.
    """
    size = (p.shape[0], p.shape[1])
    regions = find_regions(size, lambda rows: p[rows, :] >= PIXEL_P)
    large = np.flatnonzero(regions.area_px >= SMALLEST_AREA_PX)
    weight = [p[regions.window(i)][regions.pixels(i)].astype(np.float64) for i in large.tolist()]
    raw = np.array([w.sum() / (w.size + SMALLEST_AREA_PX) for w in weight], dtype=np.float64)
    score = raw if calibration is None else to_probability(calibration, raw)
    kept = [j for j in np.argsort(-score, kind="stable").tolist() if score[j] >= min_probability]
    mask, label, area = np.zeros(size, np.uint8), *np.zeros((2, len(kept)), np.int64)
    boxes = np.zeros((len(kept), 4))
    for n, j in enumerate(kept):
        i = int(large[j])
        label[n] = np.bincount(kind[regions.window(i)][regions.pixels(i)], weights=weight[j]).argmax()
        window, own, boxes[n] = laid(regions, i, outline)
        mask[window][own] = label[n]
        area[n] = own.sum()
    return Found(mask, _grow(boxes, box_margin_px, size), label, score[kept], area)


def _grow(boxes_yxyx: Float64[np.ndarray, "n 4"], margin_px: float, size: tuple[int, int]) -> Float64[np.ndarray, "n 4"]:
    grown = boxes_yxyx + np.array([-margin_px, -margin_px, margin_px, margin_px])
    frame = corners_yx(size)
    return np.clip(grown, np.tile(frame[0], 2), np.tile(frame[2], 2))
