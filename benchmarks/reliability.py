"""Tell how often the answers of a verb are true, by the probability that they state.

The benchmarks that measure a verb write reliability_FAMILY.csv in the same run as their table; benchmarks/plots.py draws it.
Each row is a bin of stated probability with at least one answer in it: how many `answers`, the mean `stated` probability, the
share `observed` to be true, and Wilson's 95 % interval of that share.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from result_files import wilson

from fiducial.metrics import reliability

Answers = tuple[Float64[np.ndarray, " n"], Bool[np.ndarray, " n"]]  # what each states, and whether it is true


def reliability_table(sets: Mapping[str, Answers]) -> pd.DataFrame:
    """Return the bins of each set of answers."""
    rows = []
    for name, (stated, true) in sets.items():
        bins = reliability(np.asarray(stated, dtype=np.float64), np.asarray(true, dtype=bool))
        for i in np.flatnonzero(bins.answers):
            low, high = wilson(int(bins.true[i]), int(bins.answers[i]))
            row: dict[str, object] = {"set": name, "low": bins.low[i], "high": bins.high[i], "answers": bins.answers[i]}
            row |= {"stated": bins.stated[i], "observed": bins.true[i] / bins.answers[i]}
            rows.append(row | {"observed_low": low, "observed_high": high})
    return pd.DataFrame(rows)


def stated_error(table: pd.DataFrame) -> float:
    """Return the calibration error of some bins of one set; NaN of none."""
    if table.empty:
        return float("nan")
    return float((table["answers"] * (table["stated"] - table["observed"]).abs()).sum() / table["answers"].sum())
