"""Write the table of a benchmark with where and when it was measured, and its scores with their intervals."""

import platform
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int64
from scipy.stats import binomtest

from fiducial.metrics import bootstrap_interval

FOLDER = Path(__file__).parent / "results"
MADE = ["commit", "machine", "date"]  # columns that say where and when


def write_result(name: str, table: pd.DataFrame, folder: Path = FOLDER, keys: Sequence[str] = ()) -> None:
    """Write results/NAME.csv, or NAME.csv in another folder, every row with commit, machine and date, and print it.

    With keys, rows of an earlier file stay where no row of the table has the same.
    """
    import torch  # noqa: PLC0415 (heavy, and of no use to who only reads)

    table = table.assign(
        commit=commit(),
        machine=f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        date=datetime.now(UTC).date().isoformat(),
    )
    path = folder / f"{name}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    print(table.round(4).T.to_string())
    if keys and path.is_file():
        both = pd.concat([pd.read_csv(path, dtype={"commit": str}), table.round(4)])
        table = both.drop_duplicates(list(keys), keep="last").sort_values(list(keys), kind="stable")
    table.round(4).to_csv(path, index=False, lineterminator="\n")


@cache
def commit() -> str:
    """Return the commit of this clone as it was when first asked, which scripts do at their start; `+changes` if it differs."""
    changed = _git("status", "--porcelain", "fiducial")
    return _git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def _git(*words: str) -> str:
    """Return what git says of this clone; nothing where there is no git."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def bounds(name: str, cases: int, score: Callable[[Int64[np.ndarray, " n"]], float]) -> dict[str, float]:
    """Return the columns NAME_low and NAME_high: the bootstrap interval of a score over cases, 95 %."""
    low, high = bootstrap_interval(cases, score)
    return {f"{name}_low": low, f"{name}_high": high}


def mean_bounds(name: str, values: object) -> dict[str, float]:
    """Return `bounds` of the mean of one value for each case, NaN being left out."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return bounds(name, len(known), lambda i: float(known[i].mean()))


def share_bounds(name: str, true: object) -> dict[str, float]:
    """Return the columns NAME_low and NAME_high: Wilson's interval of a share, 95 %.

    It has a width where none or all are true, which the bootstrap lacks.
    """
    known = np.asarray(true, dtype=bool)
    low, high = wilson(int(known.sum()), len(known))
    return {f"{name}_low": low, f"{name}_high": high}


def wilson(hits: int, cases: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share; NaN of no cases."""
    if not cases:
        return float("nan"), float("nan")
    found = binomtest(hits, cases).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
