"""Write the tables of the docs from the result files, between their markers.

    python benchmarks/tables.py            # rewrite
    python benchmarks/tables.py --check    # exit 1 if a table differs from its file

A column that has an interval (NAME_low and NAME_high in the file) shows it in brackets. A plot's place, `plot NAME: words`, is
filled once there is a file to draw it from; benchmarks/plots.py draws it.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from result_files import FOLDER, MADE

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "docs" / "model_cards"
DOCS = (
    ROOT / "README.md",
    ROOT / "docs" / "benchmarks.md",
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
    commits, machines, dates = (", ".join(dict.fromkeys(table[column])) for column in MADE)
    return f"\n\nCommit {commits}, {machines}, {dates}."


def number(value: float, digits: int = 3) -> str:
    """Return a number for people; empty where it is undefined."""
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each score that has an interval as words, the interval in brackets."""
    scores = [c for c in table.columns if {f"{c}_low", f"{c}_high"} <= set(table.columns)]
    out = table.drop(columns=[f"{c}_{end}" for c in scores for end in ("low", "high")])
    for c in scores:
        low, high = (table[f"{c}_{end}"] for end in ("low", "high"))
        rows = zip(table[c], low, high, strict=True)
        out[c] = [words(v) + ("" if pd.isna([v, a]).any() else f" ({number(a, 2)}–{number(b, 2)})") for v, a, b in rows]
    return out


def words(value: object) -> str:
    """Return a cell for people: a float as a number, all else as it is."""
    return number(value) if isinstance(value, float) else str(value)


def chosen(table: pd.DataFrame, columns: dict[str, str], first: tuple[str, ...]) -> pd.DataFrame:
    """Return some columns under other names, behind those of `first`."""
    return table[[*first, *columns]].rename(columns=columns)


def deeppcb(table: pd.DataFrame) -> pd.DataFrame:
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
    return chosen(table, columns, ("method", "case"))


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """Render every column but those that say where it was measured."""
    return table.drop(columns=MADE, errors="ignore").rename(columns=lambda c: c.replace("_", " "))


def places(table: pd.DataFrame) -> pd.DataFrame:
    """Render what each method makes of the same cases."""
    columns = {
        "upright_k1": "upright, K = 1",
        "upright_k5": "upright, K = 5",
        "turned_k1": "any angle, K = 1",
        "turned_k5": "any angle, K = 5",
        "absent_accepted": "absent accepted",
        "absent_accepted_upright": "absent accepted, upright",
        "auroc": "AUROC",
        "auroc_upright": "AUROC, upright",
        "present_answered": "present, any answer",
        "absent_answered": "absent, any answer",
        "corner_error": "corner error / side",
        "calibration_error": "calibration error",
        "seconds": "s / query",
        "paper_k1": "paper's criterion, K = 1",
        "paper_k5": "paper's criterion, K = 5",
    }
    return chosen(table, columns, ("method",))


def blobs(table: pd.DataFrame) -> pd.DataFrame:
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
    return chosen(table, columns, ("kind", "method"))


def crowds(table: pd.DataFrame) -> pd.DataFrame:
    """Render the scores of each method (rows) by spacing (columns), the widest first."""
    scores = {"f1": "F1", "adjacent": "neighbors both found", "error_px": "error / px"}
    parts = []
    for column, name in scores.items():
        part = table.pivot_table(index="method", columns="spacing", values=column, aggfunc="first", dropna=False)
        part = part.loc[table["method"].unique()]
        part = part[sorted(part.columns, reverse=True)].map(words)
        part.columns = [f"spacing {spacing:g}" for spacing in part.columns]
        parts.append(part.reset_index().assign(score=name))
    shown = pd.concat(parts)
    return shown[["score", *[c for c in shown.columns if c != "score"]]]


def repeatability(table: pd.DataFrame) -> pd.DataFrame:
    """Render the share of points found again."""
    columns = {"repeatability": "repeatability", "chance": "chance", "points": "points / image", "images": "images"}
    return chosen(table.assign(points=table["points"].round().astype(int)), columns, ("method",))


def keypoints(table: pd.DataFrame) -> pd.DataFrame:
    """Render the share of points found again by another sensor, or by the same one."""
    columns = {"points": "points / image", "pairs": "pairs"}
    shown = table.assign(points=table["points"].round().astype(int)).drop(columns=MADE)
    return shown.rename(columns=columns)


def keypoint_scenes(table: pd.DataFrame) -> pd.DataFrame:
    """Render our repeatability on six scenes beside the paper's on its own."""
    columns = {
        "paper": "the paper's, on its scene",
        "repeatability": "ours",
        "chance": "chance",
        "points_optical": "points, optical",
        "points_sar": "points, SAR",
        "repeatability_300": "ours, 300 points",
    }
    return chosen(table, columns, ("scene",))


def registration(table: pd.DataFrame) -> pd.DataFrame:
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
        "calibration_error_10": "calibration error, under 10 px",
    }
    return chosen(table, columns, ("set", "method"))


def registration_by_tile(table: pd.DataFrame) -> pd.DataFrame:
    """Render the same by tile."""
    columns = {
        "cases": "pairs",
        "under_5": "under 5 px",
        "under_10": "under 10 px",
        "accepted": "accepted",
        "accepted_median_px": "median error of accepted / px",
        "accepted_largest_px": "largest / px",
    }
    return chosen(table, columns, ("tile",))


def blobs_speed(table: pd.DataFrame) -> pd.DataFrame:
    """Render the times on crops of 512 × 512 px."""
    columns = {
        "crops": "crops",
        "fiducial_seconds": "fiducial detect / s",
        "blob_log_seconds": "blob_log / s",
        "ratio": "time ratio",
        "ratio_largest": "largest time ratio",
    }
    return chosen(table, columns, ("kind",))


def giants(table: pd.DataFrame) -> pd.DataFrame:
    """Render how verbs fare on giant images."""
    columns = {"seconds": "seconds", "peak_gib": "peak memory / GiB", "answer": "beside the truth"}
    shown = table.assign(seconds=table["seconds"].round().astype(int))
    return chosen(shown.rename(columns={"side_px": "side / px"}), columns, ("verb", "format", "side / px"))


def speed(table: pd.DataFrame) -> pd.DataFrame:
    """Render the whole of each verb and its overhead, and the clock of each fresh process, before and now."""
    rows = []
    for what, own in table.groupby("what", sort=False):
        stages = own.set_index("stage")
        whole = stages.loc["whole" if "whole" in stages.index else "clock"]
        row = {"what": what, "before / s": whole["before"], "now / s": whole["now"], "now / before": whole["ratio"]}
        for name in ("overhead", "overhead of the answer"):
            row |= {f"{name}, {when}": stages[when].get(name, np.nan) for when in ("before", "now")}
        rows.append(row)
    return pd.DataFrame(rows)


RENDER: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "defects_deeppcb": deeppcb,
    "places_sem": places,
    "blobs_real": blobs,
    "blobs_crowds": crowds,
    "blobs_repeatability": repeatability,
    "blobs_speed": blobs_speed,
    "giants": giants,
    "speed": speed,
    "keypoints_repeatability": keypoints,
    "keypoints_same_sensor": keypoints,
    "keypoints_scenes": keypoint_scenes,
    "keypoints_registration": registration,
    "keypoints_tiles": registration_by_tile,
}


def read(name: str, folder: Path = FOLDER) -> pd.DataFrame:
    """Return a result file as it is."""
    return pd.read_csv(folder / f"{name}.csv", dtype={"commit": str})


def for_people(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return a result file's table as people read it."""
    return RENDER.get(name, plain)(with_intervals(table))


def rendered(text: str) -> str:
    """Return a page with its tables as the result files have them."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        table = read(name)
        return f"<!-- table {name} -->\n{markdown(for_people(name, table).map(words))}{made(table)}\n<!-- end -->"

    def picture(match: re.Match[str]) -> str:
        name, what = match.groups()
        shown = f"![{what}](../images/{name}.png)\n" if (FOLDER / f"{name}.csv").is_file() else ""
        return f"<!-- plot {name}: {what} -->\n{shown}<!-- end -->"

    text = re.sub(r"<!-- table (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)
    return re.sub(r"<!-- plot (\w+): (.*?) -->.*?<!-- end -->", picture, text, flags=re.DOTALL)


def rewrite(*, check: bool = False) -> list[str]:
    """Return the pages whose tables differ from their files, and write them anew unless they are only checked."""
    stale = []
    for page in DOCS:
        text = page.read_text()
        if rendered(text) != text:
            stale.append(page.name)
            if not check:
                page.write_text(rendered(text))
    return stale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    stale = rewrite(check=args.check)
    if args.check and stale:
        raise SystemExit(f"tables differ from benchmarks/results: {stale}: run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
