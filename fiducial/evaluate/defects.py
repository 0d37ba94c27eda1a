"""Measure `inspect` on annotated pairs: one row of scores per case of displacement."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Float64, Int64

from fiducial import augment, confidence, metrics, weights
from fiducial.confidence import Calibration
from fiducial.coords import image_center_yx, shift, similarity
from fiducial.datasets import BOX_MARGIN_PX, DEEPPCB_CLASSES, Gray, InspectionPair, is_deeppcb, listed, read_pairs
from fiducial.defects.inspector import DefectInspector, Found, decode
from fiducial.defects.network import BGNet
from fiducial.device import choose_device, has_fast_bf16
from fiducial.geometry import warp
from fiducial.images import from_array
from fiducial.metrics import Counts
from fiducial.records import Progress
from fiducial.regions import label_regions, measure_regions

IOU = 0.33  # DeepPCB's published rule: a detection is true above this
GOOD_SEED = 2  # of the displacements of good parts
OF_GOOD = ("images", "false_alarms_per_image", "images_with_false_alarm", "calibration_error", "refused", "seconds_per_pair")
_VALUES = 1 + len(DEEPPCB_CLASSES)  # of a mask: background, and DeepPCB's classes; more where masks hold more


@dataclass(frozen=True)
class Case:
    """How far the template is displaced, and whether both pictures become gray photographs."""

    name: str
    shift_px: float = 0.0
    angle_deg: float = 0.0
    photograph: bool = False


CASES = (
    Case("aligned"),
    Case("±4 px, ±1°", 4, 1),
    Case("±10 px, ±5°", 10, 5),
    Case("±10 px, ±5°, gray, noise, light", 10, 5, photograph=True),
)


@dataclass(frozen=True)
class Answer:
    """What a method says of one pair: its defects, best first, at the default threshold and without one."""

    default: Found
    all: Found
    refused: bool


Method = Callable[[Gray, Gray], Answer]


@dataclass
class Tally:
    """Sums over the pairs of a case, from which the row of the table is computed."""

    regions: Counts = field(default_factory=lambda: Counts(0, 0, 0))
    boxes: Counts = field(default_factory=lambda: Counts(0, 0, 0))
    confusion: Int64[np.ndarray, "k k"] = field(default_factory=lambda: np.zeros((_VALUES, _VALUES), np.int64))
    score: list[Float64[np.ndarray, " n"]] = field(default_factory=list)
    label: list[Int64[np.ndarray, " n"]] = field(default_factory=list)
    true: list[Bool[np.ndarray, " n"]] = field(default_factory=list)
    probability: list[Float64[np.ndarray, " n"]] = field(default_factory=list)
    real: list[Bool[np.ndarray, " n"]] = field(default_factory=list)
    objects: Int64[np.ndarray, " k"] = field(default_factory=lambda: np.zeros(_VALUES, np.int64))
    images: int = 0
    refused: int = 0
    with_alarm: int = 0
    seconds: float = 0.0


def without_defects(pair: InspectionPair) -> InspectionPair:
    """Return a good part: the template beside itself."""
    zeros, none = np.zeros_like(pair.mask), np.zeros(0, int)
    return replace(
        pair, sample=pair.template, mask=zeros, number=zeros.astype(np.int32), boxes_yxyx=np.zeros((0, 4)), label=none
    )


def displace(pair: InspectionPair, case: Case, rng: np.random.Generator) -> tuple[Gray, Gray]:
    """Return the sample and the displaced template of a pair, as pictures of its own kind: in 8 bits, or unbounded."""
    size = pair.mask.shape
    dy, dx = rng.uniform(-case.shift_px, case.shift_px, 2)
    angle = rng.uniform(-case.angle_deg, case.angle_deg)
    moved = pair.template
    if case.shift_px or case.angle_deg:
        matrix = shift(dy, dx) @ similarity(1.0, angle, image_center_yx((size[0], size[1])))
        moved = _stored(warp(pair.template.astype(np.float32), matrix, (size[0], size[1]))[0], pair.template)
    if not case.photograph:
        return pair.sample, moved
    low, high = rng.uniform(30, 80), rng.uniform(150, 210)
    return _take_picture(pair.sample, low, high, rng), _take_picture(moved, low, high, rng)


def _stored(gray: Float32[np.ndarray, "h w"], like: Gray) -> Gray:
    """Return gray values as those of a pair are stored: rounded to 8 bits, or in float16."""
    return np.clip(gray, 0, 255).round().astype(np.uint8) if like.dtype == np.uint8 else gray.astype(np.float16)


def _take_picture(image: Gray, low: float, high: float, rng: np.random.Generator) -> Gray:
    gray = (low + (high - low) * image.astype(np.float32) / 255) / 255
    gray = augment.add_light_gradient(gray, rng, 0.3)
    gray = augment.blur(gray, float(rng.uniform(0.3, 1.0)))
    gray = augment.add_noise(gray, rng, float(rng.uniform(0.01, 0.05)))
    return _stored(gray * 255, image)


def inspector_method(inspector: DefectInspector, *, align: bool = True) -> Method:
    """Return the method that a loaded network stands for."""

    def run(sample: Gray, template: Gray) -> Answer:
        compared = inspector.compare(from_array(sample), from_array(template), align=align)
        margin = inspector.network.config.box_margin_px
        default, everything = (decode(*compared.maps, inspector.calibration, least, margin) for least in (0.5, 0.0))
        return Answer(default, everything, compared.template_to_sample is None)

    return run


def tally_pairs(
    method: Method,
    pairs: Sequence[InspectionPair],
    cases: Sequence[Case] = CASES,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[list[Tally]]:
    """Return, for each case, a tally of each pair; the displacement of pair i is drawn from (seed, i) for every method."""
    tallies: list[list[Tally]] = [[] for _ in cases]
    for i, pair in enumerate(pairs):
        for case, own in zip(cases, tallies, strict=True):
            sample, template = displace(pair, case, np.random.default_rng([seed, i]))
            start = perf_counter()
            answer = method(sample, template)
            own.append(Tally(seconds=perf_counter() - start))
            add(own[-1], pair, answer)
        if progress is not None:
            progress(i + 1, len(pairs))
    return tallies


def merged(tallies: Sequence[Tally]) -> Tally:
    """Return the sums of tallies."""
    whole = Tally()
    for own in tallies:
        for name in (part.name for part in fields(Tally)):
            setattr(whole, name, _sum(getattr(whole, name), getattr(own, name)))
    return whole


def _sum(a: Any, b: Any) -> Any:  # noqa: ANN401 (numbers, lists, and arrays by class, of which the shorter is padded)
    if isinstance(a, np.ndarray) and len(a) != len(b):
        longest = max(len(a), len(b))
        a, b = (np.pad(part, [(0, longest - len(part))] * part.ndim) for part in (a, b))
    return a + b


def evaluate_pairs(
    method: Method,
    pairs: Sequence[InspectionPair],
    cases: Sequence[Case] = CASES,
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return one row per case, of the tallies of `tally_pairs`."""
    tallies = tally_pairs(method, pairs, cases, seed, progress)
    rows = [{"case": case.name} | summarize(merged(own)) for case, own in zip(cases, tallies, strict=True)]
    return pd.DataFrame(rows)


def add(tally: Tally, pair: InspectionPair, answer: Answer) -> None:
    """Add one pair's answer to a tally."""
    found, truth = answer.default, measure_regions(pair.number, len(pair.label))
    tally.images += 1
    tally.refused += answer.refused
    regions = metrics.match_counts(metrics.region_iou(label_regions(found.mask > 0), truth), IOU)
    tally.regions += regions
    tally.with_alarm += regions.false_positive > 0
    tally.boxes += class_counts(found, pair)
    values = max(_VALUES, 1 + int(max(found.mask.max(), pair.mask.max())))
    tally.confusion = _sum(tally.confusion, metrics.confusion(pair.mask, found.mask, values))
    tally.probability.append(answer.all.score)
    tally.real.append(metrics.match(metrics.box_iou(answer.all.boxes_yxyx, pair.boxes_yxyx), IOU) >= 0)
    for kind in np.union1d(answer.all.label, pair.label).tolist():
        own, real = answer.all.label == kind, pair.label == kind
        iou = metrics.box_iou(answer.all.boxes_yxyx[own], pair.boxes_yxyx[real])
        tally.score.append(answer.all.score[own])
        tally.label.append(np.full(int(own.sum()), kind))
        tally.true.append(metrics.match(iou, IOU) >= 0)
    tally.objects = _sum(tally.objects, np.bincount(pair.label, minlength=_VALUES))


def class_counts(found: Found, pair: InspectionPair) -> Counts:
    """Count boxes above the IoU with the right class (DeepPCB's F-score)."""
    total = Counts(0, 0, 0)
    for kind in np.unique(np.concatenate([found.label, pair.label])).tolist():
        iou = metrics.box_iou(found.boxes_yxyx[found.label == kind], pair.boxes_yxyx[pair.label == kind])
        total += metrics.match_counts(iou, IOU)
    return total


def summarize(tally: Tally) -> dict[str, float]:
    """Return the row of a tally.

    Of classes beyond DeepPCB's six that no truth has, as "other", pixels count as defect, but for the means over classes as
    background, and precision is not theirs.
    """
    score, label, true = (np.concatenate(parts or [np.zeros(0)]) for parts in (tally.score, tally.label, tally.true))
    precisions = [
        metrics.average_precision(score[label == k], true[label == k], int(tally.objects[k]))
        for k in range(1, len(tally.objects))
        if tally.objects[k]
    ]
    pixels, named = metrics.foreground_counts(tally.confusion), _named(tally.confusion)
    return {
        "images": tally.images,
        "region_precision": tally.regions.precision,
        "region_recall": tally.regions.recall,
        "region_f": tally.regions.f(),
        "false_alarms_per_image": tally.regions.false_positive / tally.images,
        "images_with_false_alarm": tally.with_alarm / tally.images,
        "deeppcb_f": tally.boxes.f(),
        "deeppcb_map": float(np.mean(precisions)) if precisions else float("nan"),
        "miou_7": metrics.mean_iou(named),
        "macc_7": metrics.mean_accuracy(named),
        "pixel_precision": pixels.precision,
        "pixel_recall": pixels.recall,
        "pixel_f2": pixels.f(2),
        "calibration_error": metrics.calibration_error(np.concatenate(tally.probability), np.concatenate(tally.real)),
        "refused": tally.refused,
        "seconds_per_pair": tally.seconds / tally.images,
    }


def _named(confusion: Int64[np.ndarray, "k k"]) -> Int64[np.ndarray, "k k"]:
    """Return a matrix in which classes of no truth, beyond DeepPCB's, are background."""
    unknown = (np.arange(len(confusion)) > len(DEEPPCB_CLASSES)) & (confusion.sum(1) == 0)
    out = confusion * ~unknown
    out[:, 0] += confusion[:, unknown].sum(1)
    return out


def evaluate_defects_on(
    data: Path, groups: str, source: Path | None, device: str, progress: Progress | None = None
) -> pd.DataFrame:
    """Evaluate weights on a folder of pairs, as the command line asks: a row for each case, then one for each of good parts.

    A good part is a template beside its displaced self; all that is found on it is a false alarm.

    Raises:
        InputError: no pairs in the folder, or weights that cannot be loaded.
    """
    pairs = read_pairs(data, listed(groups))
    loaded, where = weights.load("defects", source), choose_device(device)
    margin = BOX_MARGIN_PX if is_deeppcb(data) else 0.0  # boxes as this data draws them
    network, calibration = loaded.network, loaded.calibration
    assert isinstance(network, BGNet)
    assert calibration is None or isinstance(calibration, Calibration)
    network.config = replace(network.config, box_margin_px=margin)
    inspector = DefectInspector(network, calibration, where, bf16=has_fast_bf16(where))
    method, good = inspector_method(inspector), [without_defects(pair) for pair in pairs]
    halves = [None if progress is None else partial(_half, progress, done) for done in (0, len(pairs))]
    table = evaluate_pairs(method, pairs, progress=halves[0])
    alarms = evaluate_pairs(method, good, CASES[1:], GOOD_SEED, halves[1])[["case", *OF_GOOD]]
    return pd.concat([table, alarms.assign(case="good parts, " + alarms["case"])], ignore_index=True)


def _half(progress: Progress, before: int, done: int, total: int) -> None:
    progress(before + done, 2 * total)


def fit_calibration(
    inspector: DefectInspector, pairs: Sequence[InspectionPair], cases: Sequence[Case] = CASES, seed: int = 1
) -> Calibration:
    """Fit probabilities to raw scores on annotated pairs, and count alarms on their templates as good boards.

    A reported region is real if its box meets an annotated one, of any class, above the IoU. A good board is a template
    compared with its displaced self, at every case that displaces.
    """
    raw, real, alarms, good = [], [], [], 0
    for i, pair in enumerate(pairs):
        for case in cases:
            rng = np.random.default_rng([seed, i])
            compared = inspector.compare(*(from_array(image) for image in displace(pair, case, rng)))
            found = decode(*compared.maps, None, 0.0, inspector.network.config.box_margin_px)
            raw.append(found.score)
            real.append(metrics.match(metrics.box_iou(found.boxes_yxyx, pair.boxes_yxyx), IOU) >= 0)
            if not case.shift_px:
                continue  # a picture compared with its very self raises no alarm
            clean = without_defects(pair)
            compared = inspector.compare(*(from_array(image) for image in displace(clean, case, rng)))
            alarms.append(decode(*compared.maps, None, 0.0, 0.0).score)
            good += compared.template_to_sample is not None
    bare = Calibration(*confidence.fit_probability(np.concatenate(raw), np.concatenate(real)), (), 0)
    return confidence.with_alarms(bare, confidence.to_probability(bare, np.concatenate(alarms)), good)
