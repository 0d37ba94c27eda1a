"""Count false alarms on good boards, and how alignment separates a board from other boards.

    python benchmarks/defects_good_boards.py --data ../shared/data

A good board is a template of groups 44000 and 77000 compared with its displaced self. Another board is the template of another
pair of those groups, which shows another part of a similar design: the hardest case for the gate. The interval of
`false_alarms_per_board` is bootstrapped over boards, those of shares are Wilson's.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from options import options, read_options
from result_files import mean_bounds, share_bounds, write_result

import fiducial
from fiducial.datasets import read_deeppcb
from fiducial.evaluate.defects import CASES, displace, without_defects
from fiducial.records import Defects

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from defects_data import VALIDATED


def gate(records: Sequence[Defects]) -> dict[str, float]:
    """Return how many are refused, and how well they are aligned."""
    scores, refused = np.array([r.alignment_score for r in records]), [r.verdict == "refused" for r in records]
    return {
        "refused": float(np.mean(refused)),
        **share_bounds("refused", refused),
        "alignment_score_lowest": float(scores.min()),
        "alignment_score_5th_percentile": float(np.percentile(scores, 5)),
        "alignment_score_highest": float(scores.max()),
    }


def alarms(records: Sequence[Defects]) -> dict[str, float]:
    """Return how many false alarms good boards raise."""
    bad = [r.verdict == "bad" for r in records]
    return {
        "false_alarms_per_board": float(np.mean([len(r) for r in records])),
        **mean_bounds("false_alarms_per_board", [len(r) for r in records]),
        "boards_with_alarm": float(np.mean(bad)),
        **share_bounds("boards_with_alarm", bad),
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--every", type=int, default=1, help="measure every n-th pair")
    args = read_options(parser, {"every": 30}, ("deeppcb",))
    pairs = list(read_deeppcb(args.data / "deeppcb", VALIDATED, args.every))
    rows = []
    for case in CASES[1:]:
        records = []
        for i, pair in enumerate(pairs):
            records.append(fiducial.inspect(*displace(without_defects(pair), case, np.random.default_rng([2, i]))))
        rows.append({"case": f"good board, {case.name}", "pairs": len(records), **alarms(records), **gate(records)})
    others = [fiducial.inspect(pair.template, pairs[(i + 37) % len(pairs)].template) for i, pair in enumerate(pairs)]
    rows.append({"case": "another board", "pairs": len(others), **gate(others)})
    write_result("defects_good_boards", pd.DataFrame(rows), args.out)


if __name__ == "__main__":
    main()
