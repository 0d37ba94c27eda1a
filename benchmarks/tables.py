"""Write the tables of the docs from the result files, between their markers.

python benchmarks/tables.py            # rewrite
python benchmarks/tables.py --check    # exit 1 if a table differs from its file
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from result_files import FOLDER

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "docs" / "model_cards"
DOCS = (ROOT / "README.md", CARDS / "defects_slim.md", CARDS / "places_slim.md")


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, numbers as they stand."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def made(table: pd.DataFrame) -> str:
    """Return the line that says where a table comes from."""
    row = table.iloc[0]
    return f"\n\nCommit {row['commit']}, {row['machine']}, {row['date']}."


def number(value: float, digits: int = 3) -> str:
    """Return a number for people; empty where it is undefined."""
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def deeppcb(table: pd.DataFrame) -> str:
    """Render the scores beside the plain script's."""
    columns = {
        "region_f": "region F",
        "region_precision": "precision",
        "region_recall": "recall",
        "false_alarms_per_image": "false alarms / image",
        "deeppcb_f": "DeepPCB F",
        "deeppcb_map": "DeepPCB mAP",
        "miou_7": "mIoU, 7 classes",
        "pixel_f2": "F2 of defect",
        "calibration_error": "calibration error",
        "seconds_per_pair": "s / pair",
        "time_ratio": "time ratio",
    }
    shown = table[["method", "case", *columns]].rename(columns=columns)
    return markdown(shown.map(lambda v: number(v) if isinstance(v, float) else v)) + made(table)


def plain(table: pd.DataFrame) -> str:
    """Render every column but those that say where it was measured."""
    shown = table.drop(columns=["commit", "machine", "date"]).rename(columns=lambda c: c.replace("_", " "))
    return markdown(shown.map(lambda v: number(v) if isinstance(v, float) else v)) + made(table)


def places(table: pd.DataFrame) -> str:
    """Render what each method makes of the same cases."""
    columns = {
        "upright_k1": "upright, K = 1",
        "upright_k5": "upright, K = 5",
        "turned_k1": "any angle, K = 1",
        "turned_k5": "any angle, K = 5",
        "absent_accepted": "absent accepted",
        "auroc": "AUROC",
        "corner_error": "corner error / side",
        "calibration_error": "calibration error",
        "seconds": "s / query",
        "paper_k1": "paper's criterion, K = 1",
        "paper_k5": "paper's criterion, K = 5",
    }
    shown = table[["method", *columns]].rename(columns=columns)
    return markdown(shown.map(lambda v: number(v) if isinstance(v, float) else v)) + made(table)


RENDER: dict[str, Callable[[pd.DataFrame], str]] = {"defects_deeppcb": deeppcb, "places_sem": places}


def rendered(text: str) -> str:
    """Return a page with its tables as the result files have them."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        table = RENDER.get(name, plain)(pd.read_csv(FOLDER / f"{name}.csv"))
        return f"<!-- table {name} -->\n{table}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    stale = []
    for page in DOCS:
        text = page.read_text()
        if rendered(text) != text:
            stale.append(page.name)
            if not args.check:
                page.write_text(rendered(text))
    if args.check and stale:
        raise SystemExit(f"tables differ from benchmarks/results: {stale}: run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
