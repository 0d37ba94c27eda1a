"""Measure `inspect` on DeepPCB groups it was not trained on, beside the plain script, in one run.

    python benchmarks/defects_deeppcb.py --data ../shared/data
    python benchmarks/defects_deeppcb.py --data ../shared/data --tune    # measures nothing: the plain script's best settings

Groups 44000 and 77000 (150 pairs). Masks are derived from boxes (fiducial.datasets.mask_from_boxes). The template is displaced,
the sample stays. The plain script is what a user has today: ECC alignment, absolute difference, threshold, opening, components.
Its threshold, opening and least area are those of the best region F over all cases of every third of these very pairs (--tune),
which flatters it. It names no classes and states no probability: what is judged by them is left empty. Intervals are
bootstrapped over pairs. Writes reliability_defects.csv, too: of all regions, also those too improbable to be reported; one is
true if its box meets an annotated one of any class.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64
from options import options, read_options
from reliability import reliability_table
from result_files import bounds, mean_bounds, write_result

from fiducial import weights
from fiducial.datasets import BOX_MARGIN_PX, InspectionPair, read_deeppcb
from fiducial.defects.inspector import SMALLEST_AREA_PX, DefectInspector, decode
from fiducial.device import has_fast_bf16
from fiducial.evaluate.defects import CASES, IOU, Answer, Tally, displace, inspector_method, merged, summarize, tally_pairs
from fiducial.metrics import Counts, match_counts, region_iou
from fiducial.regions import label_regions, measure_regions

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from defects_data import VALIDATED

OF_CLASSES = ("deeppcb_f", "deeppcb_map", "miou_7", "macc_7", "calibration_error")  # scores of classes and probabilities
TUNED_EVERY = 3  # pairs


@dataclass(frozen=True)
class Setting:
    """What the plain script is told: a threshold in parts of the sample's range, an opening, a component's least area."""

    threshold: float
    opening_px: int
    least_px: int


BEST = Setting(0.45, 3, 40)  # what --tune finds
TRIED = tuple(
    Setting(*parts) for parts in product(np.arange(0.25, 0.71, 0.05).round(2).tolist(), (2, 3, 4, 5), (12, 20, 40, 60, 80))
)


def plain_script(sample: np.ndarray, template: np.ndarray) -> Answer:
    """Align by ECC (Euclidean), subtract, threshold, open, keep the larger components; a class stands for none."""
    return differing(difference(sample, template), BEST)


def difference(sample: np.ndarray, template: np.ndarray) -> Float64[np.ndarray, "h w"]:
    """Return the absolute difference of the aligned images, in parts of the sample's range."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
    matrix = np.eye(2, 3, dtype=np.float32)
    try:
        _, matrix = cv2.findTransformECC(sample, template, matrix, cv2.MOTION_EUCLIDEAN, stop, None, 5)
    except cv2.error:
        matrix = np.eye(2, 3, dtype=np.float32)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(template, matrix, sample.shape[::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)
    reach = np.ptp(np.percentile(sample, [1, 99])) or 255
    smooth, moved = (cv2.GaussianBlur(image, (3, 3), 0) for image in (sample, moved))
    return cv2.absdiff(smooth, moved) / reach


def differing(apart: Float64[np.ndarray, "h w"], setting: Setting) -> Answer:
    """Return what is left of a difference."""
    side, least = setting.opening_px, setting.least_px / (setting.least_px + SMALLEST_AREA_PX)
    opened = cv2.morphologyEx((apart > setting.threshold).astype(np.uint8), cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    found = decode(opened.astype(np.float16), np.ones_like(opened), opened > 0, None, least, BOX_MARGIN_PX)
    return Answer(found, found, refused=False)


def tuned(pairs: Sequence[InspectionPair]) -> pd.DataFrame:
    """Return the region F of each setting over all cases of every third pair, as displaced when measured, the best first."""
    total = dict.fromkeys(TRIED, Counts(0, 0, 0))
    for i in range(0, len(pairs), TUNED_EVERY):
        truth = measure_regions(pairs[i].number, len(pairs[i].label))
        for case in CASES:
            apart = difference(*displace(pairs[i], case, np.random.default_rng([0, i])))
            for setting in TRIED:
                found = label_regions(differing(apart, setting).default.mask > 0)
                total[setting] += match_counts(region_iou(found, truth), IOU)
        print(f"{i + 1} of {len(pairs)} pairs", file=sys.stderr, flush=True)
    rows = [vars(setting) | {"region_f": counts.f()} for setting, counts in total.items()]
    return pd.DataFrame(rows).sort_values("region_f", ascending=False, kind="stable")


def pair_bounds(tallies: Sequence[Tally]) -> dict[str, float]:
    """Return the intervals of the main scores over pairs."""
    regions, boxes = (
        np.array([[c.true_positive, c.false_positive, c.false_negative] for c in counts])
        for counts in ([t.regions for t in tallies], [t.boxes for t in tallies])
    )

    def mean_precision(chosen: Int64[np.ndarray, " n"]) -> float:
        return summarize(merged([tallies[i] for i in chosen.tolist()]))["deeppcb_map"]

    n = len(tallies)
    out = bounds("region_f", n, lambda i: Counts(*regions[i].sum(axis=0).tolist()).f())
    out |= mean_bounds("false_alarms_per_image", regions[:, 1])
    out |= bounds("deeppcb_f", n, lambda i: Counts(*boxes[i].sum(axis=0).tolist()).f())
    return out | bounds("deeppcb_map", n, mean_precision)


def table_of(method: str, tallies: Sequence[Sequence[Tally]]) -> pd.DataFrame:
    """Return a row for each case."""
    rows = [
        {"method": method, "case": case.name, **summarize(merged(own)), **pair_bounds(own)}
        for case, own in zip(CASES, tallies, strict=True)
    ]
    return pd.DataFrame(rows)


def without_classes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of a method that names no classes and states no probability."""
    named = [c for c in table.columns if c.removesuffix("_low").removesuffix("_high") in OF_CLASSES]
    return table.assign(**dict.fromkeys(named, np.nan))


def stated(tallies: Sequence[Tally]) -> tuple[np.ndarray, np.ndarray]:
    """Return what each region found states, and whether it is real."""
    whole = merged(tallies)
    return np.concatenate(whole.probability), np.concatenate(whole.real)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--every", type=int, default=1, help="measure every n-th pair")
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--tune", action="store_true", help="measure nothing; print the best settings of the plain script")
    args = read_options(parser, {"every": 30}, ("deeppcb",))
    pairs = list(read_deeppcb(args.data / "deeppcb", VALIDATED, args.every))
    if args.tune:
        print(tuned(pairs).head(10).to_string(index=False))
        return
    loaded, cpu = weights.load("defects", args.weights), torch.device("cpu")
    inspector = DefectInspector(loaded.network, loaded.calibration, cpu, bf16=has_fast_bf16(cpu))
    tallies = tally_pairs(inspector_method(inspector), pairs)
    ours = table_of("fiducial inspect", tallies)
    script = without_classes(table_of("plain script, tuned", tally_pairs(plain_script, pairs)))
    ratio = ours["seconds_per_pair"] / script["seconds_per_pair"]
    write_result("defects_deeppcb", pd.concat([ours.assign(time_ratio=ratio), script.assign(time_ratio=1.0)]), args.out)
    answers = {case.name: stated(own) for case, own in zip(CASES, tallies, strict=True)}
    write_result("reliability_defects", reliability_table(answers), args.out)


if __name__ == "__main__":
    main()
