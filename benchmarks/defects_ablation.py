"""Train BGNet's ablations S1 to S5 alike on a short schedule, and measure each.

    python benchmarks/defects_ablation.py --data ../shared/data --steps 300

S1 concatenates the images, S2 subtracts in place, S3 adds attention, S4 matching, S5 both (Table 1 of the paper). "S5, no
context" leaves out the sample's own features in the fusion, which the paper does not have. All run without the alignment
stage, on templates displaced a little, because absorbing that is what attention and matching are for. Short schedules favor
simple networks: the table says what these steps say, no more.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from options import options, read_options
from result_files import write_result

from fiducial.datasets import BOX_MARGIN_PX, read_deeppcb
from fiducial.defects.inspector import DefectInspector
from fiducial.defects.network import slim
from fiducial.defects.samples import CLASSES, Pool
from fiducial.evaluate.defects import Case, evaluate_pairs, inspector_method
from fiducial.train.defects import train_defects
from fiducial.train.loop import Schedule

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))
from defects_data import TRAINED, VALIDATED

CASES = (Case("aligned"), Case("±2 px, ±0.5°", 2, 0.5), Case("±4 px, ±1°", 4, 1))
KEPT = ["case", "images", "region_precision", "region_recall", "region_f", "miou_7", "pixel_f2"]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=5, help="measure on every N-th pair")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"), help="folder for the trainings")
    args = read_options(parser, {"steps": 4, "every": 75}, ("deeppcb",))
    base = replace(slim(CLASSES), box_margin_px=BOX_MARGIN_PX)
    variants = {
        "S1": replace(base, siamese=False),
        "S2": replace(base, attention=False, matching=False),
        "S3": replace(base, matching=False),
        "S4": replace(base, attention=False),
        "S5": base,
        "S5, no context": replace(base, sample_context=False),
    }
    pool = Pool(tuple(read_deeppcb(args.data / "deeppcb", TRAINED, every=2)), ())
    pairs = list(read_deeppcb(args.data / "deeppcb", VALIDATED, args.every))
    tables = []
    for name, config in variants.items():
        out = args.runs / name.replace(", ", "_").replace(" ", "_")
        network = train_defects(pool, config, Schedule(args.steps, average=0.98), out, {}, size=192)
        inspector = DefectInspector(network, None, torch.device("cpu"), bf16=True)
        table = evaluate_pairs(inspector_method(inspector, align=False), pairs, CASES)
        parameters = sum(p.numel() for p in network.parameters()) / 1e6
        tables.append(table[KEPT].assign(variant=name, parameters_m=parameters, steps=args.steps))
        print(table[KEPT].to_string())
    write_result("defects_ablation", pd.concat(tables), args.out)


if __name__ == "__main__":
    main()
