"""Count false alarms on good boards, and how alignment separates a board from other boards.

    python benchmarks/defects_good_boards.py --data ../shared/data

A good board is a template of groups 44000 and 77000 compared with its displaced self. Another board is the template of another
pair of those groups, which shows another part of a similar design: the hardest case for the gate.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from result_files import write_result

import fiducial
from fiducial.datasets import read_deeppcb
from fiducial.evaluate.defects import CASES, displace

GROUPS = ("44000", "77000")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    templates = [pair.template for pair in read_deeppcb(args.data / "deeppcb", GROUPS, args.every)]
    pairs = list(read_deeppcb(args.data / "deeppcb", GROUPS, args.every))
    rows = []
    for case in CASES[1:]:
        records = []
        for i, pair in enumerate(pairs):
            clean = replace(pair, sample=pair.template)
            records.append(fiducial.inspect(*displace(clean, case, np.random.default_rng([2, i]))))
        scores = np.array([r.alignment_score for r in records])
        rows.append(
            {
                "case": f"good board, {case.name}",
                "pairs": len(records),
                "false_alarms_per_board": np.mean([len(r) for r in records]),
                "boards_with_alarm": np.mean([r.verdict == "bad" for r in records]),
                "refused": np.mean([r.verdict == "refused" for r in records]),
                "alignment_score_lowest": scores.min(),
                "alignment_score_5th_percentile": np.percentile(scores, 5),
                "alignment_score_highest": scores.max(),
            }
        )
    others = [fiducial.inspect(templates[i], templates[(i + 37) % len(templates)]) for i in range(len(templates))]
    scores = np.array([r.alignment_score for r in others])
    rows.append(
        {
            "case": "another board",
            "pairs": len(others),
            "refused": np.mean([r.verdict == "refused" for r in others]),
            "alignment_score_lowest": scores.min(),
            "alignment_score_5th_percentile": np.percentile(scores, 5),
            "alignment_score_highest": scores.max(),
        }
    )
    write_result("defects_good_boards", pd.DataFrame(rows))


if __name__ == "__main__":
    main()
