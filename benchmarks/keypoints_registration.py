"""Measure `register` on optical and SAR scenes displaced by a known similarity, beside SIFT and ORB with MAGSAC++.

    python benchmarks/keypoints_registration.py --data ../shared/data
    python benchmarks/keypoints_registration.py --data ../shared/data --cases 12 --only sift,orb --out /tmp/results
    python benchmarks/keypoints_registration.py --data ../shared/data --cases 0 --speed 12

Cases come from the scenes that recipes/keypoints_data.py sets aside to measure on. The fixed image is a crop of 512 × 512 px by
one sensor; the moving one has the same size and is resampled from the other sensor's whole tile, 0 where that has ended. In
half of the cases the roles are swapped. Two sets: any angle, scale 0.6 to 1.6; and within ±10°, 0.9 to 1.1; both shifted by up
to 15 % of the side each way. A third as many pairs are absent: the moving image is of a scene that does not touch the fixed
one's.

The error is the mean distance between where the transform found and the true one put the points of a grid over the common area,
in pixels of the fixed image. `under_5`, `under_10`: shares of all present cases, accepted or not (without a transform: not
under); `accepted_under_5`, `accepted_under_10`, `accepted_over_20`: of the accepted ones; `absent_accepted`: of the absent
ones. SIFT and ORB are taken to accept what 10 inliers support; they state no probability. Intervals are Wilson's.
keypoints_tiles.csv has our scores by tile: how far the pair of each is off itself, keypoints_reference.csv says of all.
reliability_keypoints.csv is of our answer to each pair, present or absent: true is a mean error under 5 px, and under 10 px,
as the probability allows 5 px for the pairs themselves (recipes/keypoints_slim_calibrate.py).

Times (`keypoints_speed`) are wall clock, of present pairs: run it while nothing else runs.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from keypoints_baselines import Answer, Picture, register_orb, register_sift
from options import options, read_options
from reliability import reliability_table
from result_files import share_bounds, write_result

from fiducial import api
from fiducial.datasets import AlignedPair, read_aligned
from fiducial.evaluate.keypoints import (
    ANY,
    FAIR_PX,
    GOOD_PX,
    NEAR,
    WRONG_PX,
    RegistrationCase,
    displace,
    draw_transform,
    error_of,
)
from fiducial.metrics import calibration_error

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from keypoints_data import VALIDATED

SEED = 12
PRESENT_TO_ABSENT = 3
SAVE_EVERY = 64  # cases
NAMES = {"ours": "fiducial register", "sift": "SIFT and MAGSAC++", "orb": "ORB and MAGSAC++"}

Register = Callable[[Picture, Picture], Answer]


SETS = (ANY, NEAR)


def draw_case(pairs: Sequence[AlignedPair], which: int, number: int, side: int, *, present: bool) -> RegistrationCase:
    """Draw a case of a set by its number alone."""
    rng = np.random.default_rng([SEED, which, number, present])
    own = number % len(pairs)
    other = own if present else (own + len(pairs) // 2) % len(pairs)  # the tiles are listed so that these do not touch
    swapped = bool(number // len(pairs) % 2)
    fixed, moving = (pairs[own].b, pairs[other].a) if swapped else (pairs[own].a, pairs[other].b)
    true = draw_transform(rng, SETS[which], side)
    shown, seen = displace(fixed, moving, true, side, rng)
    return RegistrationCase(seen, shown, true if present else None)


def register_ours(weights: Path | None, moving: Picture, fixed: Picture) -> Answer:
    found = api.register(moving, fixed, weights=weights)
    return Answer(found.moving_to_fixed, found.accepted, found.score)


def measure_case(case: RegistrationCase, methods: Mapping[str, Register]) -> list[dict[str, object]]:
    """Return a row for each method."""
    rows = []
    for name, register in methods.items():
        answer = register(case.moving, case.fixed)
        row = {"method": name, "present": case.moving_to_fixed is not None, "error_px": error_of(case, answer.moving_to_fixed)}
        rows.append(row | {"accepted": answer.accepted, "score": answer.score})
    return rows


def summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of each set and method."""
    table = []
    for (name, method), own in rows.groupby(["set", "method"], sort=False):
        present, absent = own[own.present], own[~own.present]
        sure, stated = present[present.accepted], own[own.score.notna()]
        row = {"set": name, "method": method, "cases": len(present), "absent": len(absent)}
        row |= {"under_5": (present.error_px < GOOD_PX).mean(), "under_10": (present.error_px < FAIR_PX).mean()}
        row |= share_bounds("under_5", present.error_px < GOOD_PX) | share_bounds("under_10", present.error_px < FAIR_PX)
        row |= {"accepted": present.accepted.mean(), **share_bounds("accepted", present.accepted)}
        row |= {"accepted_under_5": (sure.error_px < GOOD_PX).mean(), "accepted_under_10": (sure.error_px < FAIR_PX).mean()}
        for column, wrong in (("accepted_over_20", sure.error_px > WRONG_PX), ("absent_accepted", absent.accepted)):
            row |= {column: wrong.mean(), **share_bounds(column, wrong)}
        score, error_px = stated.score.to_numpy(dtype=np.float64), stated.error_px.to_numpy(dtype=np.float64)
        for column, limit in (("calibration_error", GOOD_PX), ("calibration_error_10", FAIR_PX)):
            row[column] = calibration_error(score, error_px < limit)
        table.append(row)
    return pd.DataFrame(table)


def by_tile(rows: pd.DataFrame, tiles: Sequence[str]) -> pd.DataFrame:
    """Return the scores of `register` on the present cases of each tile, both sets together."""
    own = rows[(rows.method == NAMES["ours"]) & rows.present].assign(tile=lambda r: [tiles[n % len(tiles)] for n in r.number])
    table = []
    for tile, cases in own.groupby("tile", sort=True):
        sure = cases[cases.accepted]
        row = {"tile": tile, "cases": len(cases), "accepted": cases.accepted.mean(), **share_bounds("accepted", cases.accepted)}
        for column, limit in (("under_5", GOOD_PX), ("under_10", FAIR_PX)):
            row |= {column: (cases.error_px < limit).mean(), **share_bounds(column, cases.error_px < limit)}
        table.append(row | {"accepted_median_px": sure.error_px.median(), "accepted_largest_px": sure.error_px.max()})
    return pd.DataFrame(table)


def numbers(cases: int, every: int) -> list[tuple[int, bool]]:
    """Return every N-th of the present and of the absent cases' numbers, in an order that is drawn once and for all."""
    order = np.random.default_rng(SEED)
    present, absent = (order.permutation(n)[::every].tolist() for n in (cases, cases // PRESENT_TO_ABSENT))
    return [(n, True) for n in present] + [(n, False) for n in absent]


def measure_cases(
    pairs: Sequence[AlignedPair], chosen: list[tuple[int, bool]], side: int, methods: Mapping[str, Register], out: Path
) -> pd.DataFrame:
    """Return a row for each case and method, and write the scores, now and then those of the cases so far."""
    rows: list[dict[str, object]] = []
    todo = [(which, number, present) for number, present in chosen for which in range(len(SETS))]
    for done, (which, number, present) in enumerate(todo, start=1):
        case = draw_case(pairs, which, number, side, present=present)
        own = [{"set": SETS[which].name, "number": number, **row} for row in measure_case(case, methods)]
        rows += own
        if done % 8 == 0 or done == len(todo):
            print(f"{done} of {len(todo)} pairs", file=sys.stderr, flush=True)
        if done % SAVE_EVERY == 0 or done == len(todo):
            write_result("keypoints_registration", summarize(pd.DataFrame(rows)), out)
            write_reliability(pd.DataFrame(rows), out)
            if NAMES["ours"] in methods:
                write_result("keypoints_tiles", by_tile(pd.DataFrame(rows), [pair.name for pair in pairs]), out)
    return pd.DataFrame(rows)


def write_reliability(rows: pd.DataFrame, out: Path) -> None:
    """Write how often an answer that states a probability is under 5 px, and under 10 px."""
    stated = rows[rows.score.notna()]
    answers = {
        f"{name}, under {limit:g} px": (own.score.to_numpy(dtype=np.float64), (own.error_px < limit).to_numpy(bool))
        for name, own in stated.groupby("set", sort=False)
        for limit in (GOOD_PX, FAIR_PX)
    }
    if answers:
        write_result("reliability_keypoints", reliability_table(answers), out)


def median_seconds(register: Register, cases: Sequence[RegistrationCase]) -> float:
    runs = []
    for case in [cases[0], *cases]:  # the first to warm up
        start = perf_counter()
        register(case.moving, case.fixed)
        runs.append(perf_counter() - start)
    return float(np.median(runs[1:]))


def measure_speed(pairs: Sequence[AlignedPair], runs: int, side: int, methods: Mapping[str, Register]) -> pd.DataFrame:
    """Time present pairs of each set; `ratio` is a method's time over SIFT's."""
    rows = []
    for which, displacement in enumerate(SETS):
        cases = [draw_case(pairs, which, number, side, present=True) for number in range(runs)]
        seconds = {name: median_seconds(register, cases) for name, register in methods.items()}
        base = seconds.get(NAMES["sift"], np.nan)
        rows += [
            {"set": displacement.name, "method": name, "side_px": side, "pairs": runs, "seconds": own, "ratio": own / base}
            for name, own in seconds.items()
        ]
        print(f"timed {runs} pairs, {displacement.name}", file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cases", type=int, default=192, help="present pairs of each set; a third as many absent ones more")
    parser.add_argument("--every", type=int, default=1, help="take every N-th case")
    parser.add_argument("--size", type=int, default=512, help="side of the images in pixels")
    parser.add_argument("--speed", type=int, default=12, help="pairs of each set to time; 0 for none")
    parser.add_argument("--only", default=",".join(NAMES), help="methods, separated by commas")
    parser.add_argument("--weights", type=Path, default=None, help="of keypoints; the shipped ones by default")
    parser.add_argument("--rows", type=Path, default=None, help="file for a row of each case and method")
    args = read_options(parser, {"cases": 3, "speed": 1}, ("volkov",))
    chosen = args.only.split(",")
    if set(chosen) - set(NAMES):
        parser.error(f"--only must name some of {','.join(NAMES)}, got {args.only}")
    known: dict[str, Register] = {"ours": partial(register_ours, args.weights), "sift": register_sift, "orb": register_orb}
    methods = {NAMES[name]: known[name] for name in NAMES if name in chosen}
    pairs = read_aligned(args.data / "volkov", VALIDATED)
    rows = measure_cases(pairs, numbers(args.cases, args.every), args.size, methods, args.out)
    if args.rows is not None:
        rows.to_csv(args.rows, index=False)
    if args.speed:
        write_result("keypoints_speed", measure_speed(pairs, args.speed, args.size, methods), args.out)


if __name__ == "__main__":
    main()
