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
DOCS = (
    ROOT / "README.md",
    CARDS / "blobs_slim.md",
    CARDS / "defects_slim.md",
    CARDS / "keypoints_slim.md",
    CARDS / "places_slim.md",
)


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


def blobs(table: pd.DataFrame) -> str:
    """Render what each method finds on micrographs."""
    columns = {
        "f1": "F1",
        "precision": "precision",
        "recall": "recall",
        "error_px": "error / px",
        "error_under_12_px": "error / px, r < 12 px",
        "adjacent": "neighbors both found",
        "radius_error": "radius error, log",
        "count_error": "count error",
        "count_covered": "count in interval",
        "calibration_error": "calibration error",
        "seconds": "s / image",
        "time_ratio": "time ratio",
    }
    shown = table[["kind", "method", *columns]].rename(columns=columns)
    return markdown(shown.map(lambda v: number(v) if isinstance(v, float) else v)) + made(table)


def crowds(table: pd.DataFrame) -> str:
    """Render the scores of each method (rows) by spacing (columns), the widest first."""
    scores = {"f1": "F1", "adjacent": "neighbors both found", "error_px": "error / px"}
    parts = []
    for column, name in scores.items():
        part = table.pivot_table(index="method", columns="spacing", values=column, dropna=False).loc[table["method"].unique()]
        part = part[sorted(part.columns, reverse=True)].map(number)
        part.columns = [f"spacing {spacing:g}" for spacing in part.columns]
        parts.append(part.reset_index().assign(score=name))
    shown = pd.concat(parts)
    return markdown(shown[["score", *[c for c in shown.columns if c != "score"]]]) + made(table)


def repeatability(table: pd.DataFrame) -> str:
    """Render the share of points found again."""
    columns = {"repeatability": "repeatability", "chance": "chance", "points": "points / image", "images": "images"}
    shown = table.assign(points=table["points"].round().astype(int))[["method", *columns]].rename(columns=columns)
    return markdown(shown.map(lambda v: number(v) if isinstance(v, float) else v)) + made(table)


def keypoints(table: pd.DataFrame) -> str:
    """Render the share of points found again by another sensor, or by the same one."""
    columns = {"points": "points / image", "pairs": "pairs"}
    shown = table.assign(points=table["points"].round().astype(int)).drop(columns=["commit", "machine", "date"])
    return markdown(shown.rename(columns=columns).map(lambda v: number(v) if isinstance(v, float) else v)) + made(table)


def keypoint_scenes(table: pd.DataFrame) -> str:
    """Render our repeatability on six scenes beside the paper's on its own."""
    columns = {
        "paper": "the paper's, on its scene",
        "repeatability": "ours",
        "chance": "chance",
        "points_optical": "points, optical",
        "points_sar": "points, SAR",
        "repeatability_300": "ours, 300 points",
    }
    shown = table[["scene", *columns]].rename(columns=columns)
    return markdown(shown.map(lambda v: number(v) if isinstance(v, float) else v)) + made(table)


def registration(table: pd.DataFrame) -> str:
    """Render how often optical and SAR scenes are laid on each other."""
    columns = {
        "cases": "pairs",
        "under_5": "under 5 px",
        "under_10": "under 10 px",
        "accepted": "accepted",
        "accepted_under_5": "accepted, under 5 px",
        "accepted_under_10": "accepted, under 10 px",
        "accepted_over_20": "accepted, over 20 px",
        "absent": "absent pairs",
        "absent_accepted": "absent accepted",
        "calibration_error": "calibration error",
    }
    shown = table[["set", "method", *columns]].rename(columns=columns)
    return markdown(shown.map(lambda v: number(v) if isinstance(v, float) else v)) + made(table)


def blobs_speed(table: pd.DataFrame) -> str:
    """Render the times on crops of 512 × 512 px."""
    columns = {"fiducial_seconds": "fiducial detect / s", "blob_log_seconds": "blob_log / s", "ratio": "time ratio"}
    shown = table[["kind", *columns]].rename(columns=columns)
    return markdown(shown.map(lambda v: number(v) if isinstance(v, float) else v)) + made(table)


RENDER: dict[str, Callable[[pd.DataFrame], str]] = {
    "defects_deeppcb": deeppcb,
    "places_sem": places,
    "blobs_real": blobs,
    "blobs_crowds": crowds,
    "blobs_repeatability": repeatability,
    "blobs_speed": blobs_speed,
    "keypoints_repeatability": keypoints,
    "keypoints_same_sensor": keypoints,
    "keypoints_scenes": keypoint_scenes,
    "keypoints_registration": registration,
}


def rendered(text: str) -> str:
    """Return a page with its tables as the result files have them."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        table = RENDER.get(name, plain)(pd.read_csv(FOLDER / f"{name}.csv", dtype={"commit": str}))
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
