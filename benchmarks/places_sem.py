"""Measure `locate` on SEM images that it was not trained on, beside what people use today, on the same cases in one run.

    python benchmarks/places_sem.py --data ../shared/data
    python benchmarks/places_sem.py --data ../shared/data --only ncc,sift --cases 12 --out /tmp/results

Cases are those of fiducial.evaluate.places: queries cut at full resolution and exposed anew, sources reduced by 1 to 10, every
third query absent. The triplet database is told the true scale of the query, the others are not; it and the correlation know
only upright queries. `paper_k1` and `paper_k5` are the triplet's accuracy on upright queries by the paper's own criterion (one
of the K nearest patches is one of the K that overlap the truth best), beside IoU above 0.7 as for the others.

`absent_accepted` is the share of absent queries that score as high as the best 95 % of the present ones; NaN of a method that
answers fewer of the present ones than that. `auroc` is the chance that a present query scores above an absent one. Both are of
all queries, and of the upright ones (`_upright`). `present_answered`, `absent_answered`: shares with any answer, at whatever
score. Only our score is a probability; the others have no calibration error.

Intervals of accuracy are Wilson's, the others are bootstrapped over cases. reliability_places.csv is of the best
answer to each query, present or absent, of our method; no answer states 0.

Times are wall clock; run it while nothing else runs.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int64
from options import options, read_options
from places_baselines import TripletDatabase, correlate_over_scales, sift_ransac
from reliability import reliability_table
from result_files import bounds, share_bounds, write_result

from fiducial import weights
from fiducial.confidence import Calibration
from fiducial.coords import apply_transform, corners_yx
from fiducial.datasets import list_images
from fiducial.device import has_fast_bf16
from fiducial.evaluate.places import (
    Candidates,
    Method,
    Picture,
    PlaceCase,
    draw_cases,
    locator_method,
    measure,
    summarize_places,
)
from fiducial.images import open_image, read_reduced
from fiducial.metrics import auroc, false_accept_rate
from fiducial.places.locator import PlaceLocator
from fiducial.places.network import FTFY, TripletNet

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from places_data import SEM, VALIDATED

SEED = 7  # the sweep and the ranking of proposals were designed on what was missed of the cases of seeds 3, 5 and 6
LONGEST_PX = 4096
NAMES = {
    "ours": "fiducial locate",
    "ncc": "correlation at 25 scales",
    "sift": "SIFT and RANSAC",
    "triplet": "triplet database told the scale",
}
SPEED_SOURCE_PX, SPEED_QUERY_PX, SPEED_RUNS = (850, 1280), (128, 256, 600), 5

Find = Callable[[PlaceCase], Candidates]
Cases = Int64[np.ndarray, " n"]
Judge = Callable[[np.ndarray, np.ndarray], float]


def read_held_out(data: Path) -> list[Picture]:
    """Read the images that nothing was learned from, as gray."""
    paths = [path for folder in SEM for path in list_images(data / folder) if path.name.startswith(VALIDATED)]
    return [read_reduced(open_image(path), LONGEST_PX).round().astype(np.uint8) for path in paths]


def load_locator(file: Path | None) -> Method:
    loaded, cpu = weights.load("places", file), torch.device("cpu")
    assert isinstance(loaded.network, FTFY)
    assert not isinstance(loaded.calibration, Calibration)
    return locator_method(PlaceLocator(loaded.network, loaded.calibration, cpu, bf16=has_fast_bf16(cpu)))


def load_triplets(file: Path | None) -> TripletDatabase:
    network, cpu = weights.load("triplets", file).network, torch.device("cpu")
    assert isinstance(network, TripletNet)
    return TripletDatabase(network, cpu, bf16=has_fast_bf16(cpu))


def find_with(method: Method, case: PlaceCase) -> Candidates:
    return method(case.query, case.source)


def measure_one(name: str, find: Find, case: PlaceCase) -> dict[str, object]:
    start = perf_counter()
    found = find(case)
    return {"method": name, **measure(case, found, perf_counter() - start)}


def measure_triplets(name: str, database: TripletDatabase, case: PlaceCase) -> dict[str, object]:
    """Return the row of the database, and whether the paper would call its 1 and 5 nearest patches right."""
    start = perf_counter()
    retrieved = database.search(case)
    found = retrieved.candidates()
    row = {"method": name, **measure(case, found, perf_counter() - start)}
    if case.query_to_source is not None:
        truth = apply_transform(case.query_to_source, corners_yx((case.query.shape[0], case.query.shape[1])))
        row |= {f"paper_{k}": retrieved.is_among_expected(truth, k) for k in (1, 5)}
    return row


def measure_cases(
    images: Sequence[Picture], count: int, finders: Mapping[str, Find], database: TripletDatabase | None
) -> pd.DataFrame:
    """Return a row for each case and method."""
    rows: list[dict[str, object]] = []
    for done, case in enumerate(draw_cases(images, count, SEED), start=1):
        rows += [measure_one(name, find, case) for name, find in finders.items()]
        if database is not None:
            rows.append(measure_triplets(NAMES["triplet"], database, case))
        if done % 20 == 0 or done == count:
            print(f"{done} of {count} cases", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    return table if "paper_1" in table else table.assign(paper_1=np.nan, paper_5=np.nan)


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of each method."""
    table = []
    for name, own in rows.groupby("method", sort=False):
        straight = own[own.present & own.upright]
        scores = summarize_places(own) | place_bounds(own) | refusals(own)
        scores |= {f"paper_k{k}": straight[f"paper_{k}"].astype(float).mean() for k in (1, 5)}
        if name != NAMES["ours"]:
            scores["calibration_error"] = np.nan
        table.append({"method": name, **scores})
    return pd.DataFrame(table)


def place_bounds(own: pd.DataFrame) -> dict[str, float]:
    """Return the intervals of a method's accuracy over its cases."""
    present, upright = own.present.to_numpy(bool), own.upright.to_numpy(bool)
    out: dict[str, float] = {}
    for name, of in (("upright", upright), ("turned", ~upright)):
        for k in (1, 5):
            out |= share_bounds(f"{name}_k{k}", own[f"right_{k}"].to_numpy(bool)[present & of])
    return out


def refusals(own: pd.DataFrame) -> dict[str, float]:
    """Return how well a method tells present queries from absent ones, of all and of the upright ones, with intervals."""
    present, score = own.present.to_numpy(bool), own.score.to_numpy(float)
    answered = np.isfinite(score)
    out = {"present_answered": float(answered[present].mean()), "absent_answered": float(answered[~present].mean())}
    for suffix, cases in (("", np.arange(len(own))), ("_upright", np.flatnonzero(own.upright))):
        for name, judge in (("auroc", auroc), ("absent_accepted", false_accept_rate)):

            def value(chosen: Cases, judge: Judge = judge, cases: Cases = cases) -> float:
                of, there = score[cases[chosen]], present[cases[chosen]]
                return judge(of[there], of[~there])

            out[name + suffix] = value(np.arange(len(cases)))
            out |= bounds(name + suffix, len(cases), value)
    return out


def accuracy_by(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return the accuracy at K = 1 of each method (columns) by a property of the case, upright and turned (rows).

    The interval of a method stands in the columns METHOD_low and METHOD_high.
    """
    queries = np.where(rows.upright, "upright", "turned")
    present = rows.assign(right=rows.right_1.astype(float), queries=queries)[rows.present]
    groups = present[present.method == present.method.iloc[0]].groupby([by, "queries"])
    table = groups.size().rename("cases").reset_index()
    for name, own in present.groupby("method", sort=False):
        right = own.groupby([by, "queries"])["right"]
        parts = [(right.get_group((row[by], row["queries"]))) for _, row in table.iterrows()]
        table[str(name)] = [part.mean() for part in parts]
        limits = pd.DataFrame([share_bounds(str(name), part) for part in parts])
        table = pd.concat([table, limits], axis=1)
    return table


def measure_speed(images: Sequence[Picture], ours: Method, other: Method, runs: int) -> pd.DataFrame:
    """Time queries on sources of 1,280 × 850 px, all scales being searched; `ratio` is our time over the correlation's.

    Present ones come from the middle of their source at its own scale, absent ones from the middle of another.
    """
    h, w = SPEED_SOURCE_PX
    sources = [image[:h, :w] for image in images if image.shape[0] >= h and image.shape[1] >= w][:runs]
    rows = []
    for side in SPEED_QUERY_PX:
        top, left = (h - side) // 2, (w - side) // 2
        queries = [source[top : top + side, left : left + side] for source in sources]
        for what, sought in (("present", queries), ("absent", [*queries[1:], queries[0]])):
            pairs = list(zip(sought, sources, strict=True))
            own, theirs = median_seconds(ours, pairs), median_seconds(other, pairs)
            row = {"query_px": side, "query": what, "fiducial_seconds": own, "correlation_seconds": theirs}
            rows.append(row | {"ratio": own / theirs})
    return pd.DataFrame(rows)


def median_seconds(method: Method, pairs: Sequence[tuple[Picture, Picture]]) -> float:
    runs = []
    for query, source in [pairs[0], *pairs]:  # the first to warm up
        start = perf_counter()
        method(query, source)
        runs.append(perf_counter() - start)
    return float(np.median(runs[1:]))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cases", type=int, default=216)
    parser.add_argument("--only", default=",".join(NAMES), help="methods, separated by commas")
    parser.add_argument("--weights", type=Path, default=None, help="of places; the shipped ones by default")
    parser.add_argument("--triplet", type=Path, default=None, help="weights of triplets; the shipped ones by default")
    args = read_options(parser, {"cases": 12}, SEM)
    chosen = args.only.split(",")
    if set(chosen) - set(NAMES):
        parser.error(f"--only must name some of {','.join(NAMES)}, got {args.only}")
    methods: dict[str, Method] = {"ncc": correlate_over_scales, "sift": sift_ransac}
    if "ours" in chosen:
        methods["ours"] = load_locator(args.weights)
    database = load_triplets(args.triplet) if "triplet" in chosen else None
    finders = {NAMES[name]: partial(find_with, methods[name]) for name in NAMES if name in chosen and name in methods}
    images = read_held_out(args.data)
    rows = measure_cases(images, args.cases, finders, database)
    write_result("places_sem", summarize(rows), args.out)
    write_result("places_factors", accuracy_by(rows, "factor"), args.out)
    write_result("places_looks", accuracy_by(rows, "look"), args.out)
    if "ours" in chosen:
        own = rows[rows.method == NAMES["ours"]]
        answers = own.score.clip(lower=0).to_numpy(float), (own.present & own.right_1).to_numpy(bool)
        write_result("reliability_places", reliability_table({"all queries": answers}), args.out)
    if {"ours", "ncc"} <= set(chosen):
        runs = 2 if args.quick else SPEED_RUNS
        write_result("places_speed", measure_speed(images, methods["ours"], methods["ncc"], runs), args.out)


if __name__ == "__main__":
    main()
