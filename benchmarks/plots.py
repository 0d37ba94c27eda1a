"""Draw the plots of the docs and of the benchmarks' page from the result files.

    python benchmarks/plots.py            # draw docs/images/reliability_*.png
    python benchmarks/plots.py --check    # exit 1 if a plot was not drawn from its file as it is

A plot carries, in the PNG's text under "Source", the names of its files and the SHA-256 of each: that is what is checked.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from reliability import stated_error
from result_files import FOLDER

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SOURCE = "Source"  # keyword of the PNG's text chunk
INK, SOFT, OURS = "#1c2024", "#8a9097", "#0a5f63"
OTHERS = ("#c26a1b", "#6a51a3", "#8a9097", "#a63d57", "#7a8b2c")
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": SOFT, "text.color": INK}
VERBS = {"blobs": "detect", "defects": "inspect", "places": "locate", "keypoints": "register"}

Tables = Sequence[pd.DataFrame]


@dataclass(frozen=True)
class Plot:
    """A plot: the result files it shows, how it is drawn, and what it says to who cannot see it."""

    files: tuple[str, ...]
    draw: Callable[[Tables], Figure]
    alt: str


def draw_reliability(tables: Tables) -> Figure:
    """Draw, for each set, the share of true answers over the probability stated, and how many answers there are."""
    (table,) = tables
    sets = list(table.groupby("set", sort=False))
    figure = Figure(figsize=(0.9 + 2.2 * len(sets), 3.7), layout="constrained")
    axes = figure.subplots(2, len(sets), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1))
    for i, (name, own) in enumerate(sets):
        _reliability_of(axes[0, i], axes[1, i], own)
        all_of, likely = (
            f"{part['answers'].sum():,}, off by {stated_error(part):.3f}" for part in (own, own[own["low"] >= 0.5])
        )
        axes[0, i].set_title(f"{fill(str(name), 31)}\nall: {all_of}\nfrom 0.5 on: {likely}", fontsize=9)
    axes[0, 0].set_ylabel("share of true answers")
    axes[1, 0].set_ylabel("answers")
    figure.supxlabel("probability stated", fontsize=9)
    return figure


def _reliability_of(shares: Axes, counts: Axes, own: pd.DataFrame) -> None:
    shares.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle="--")
    low, high = own["observed"] - own["observed_low"], own["observed_high"] - own["observed"]
    reach = np.clip([low, high], 0, None)
    shares.errorbar(own["stated"], own["observed"], reach, fmt="o", color=OURS, markersize=4, elinewidth=1, capsize=2)
    shares.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    counts.bar((own["low"] + own["high"]) / 2, own["answers"], width=0.085, color=SOFT)
    counts.set_yscale("log")
    counts.set_ylim(bottom=0.7)


def draw_density(tables: Tables) -> Figure:
    """Draw F1 over the spacing of blobs, a line for each method."""
    (table,) = tables
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    ax = figure.subplots()
    for color, (name, own) in zip((OURS, *OTHERS), table.groupby("method", sort=False), strict=False):
        line = own.sort_values("spacing")
        ax.plot(
            line["spacing"], line["f1"], marker="o", markersize=4, color=color, label=name, linewidth=2 if color == OURS else 1
        )
        if "f1_low" in line:
            ax.fill_between(line["spacing"], line["f1_low"], line["f1_high"], color=color, alpha=0.12, linewidth=0)
    ax.set(xlabel="distance of neighbors over the sum of their radii", ylabel="F1", ylim=(0, 1.02))
    ax.legend(frameon=False)
    return figure


def draw_factors(tables: Tables) -> Figure:
    """Draw accuracy at K = 1 over the factor between the scales, upright and turned, a line for each method."""
    (table,) = tables
    skipped = ("factor", "queries", "cases", "commit", "machine", "date")
    methods = [c for c in table.columns if c not in skipped and not c.endswith(("_low", "_high"))]
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, queries in zip(axes, ("upright", "turned"), strict=True):
        own = table[table["queries"] == queries].sort_values("factor")
        for color, name in zip((OURS, *OTHERS), methods, strict=False):
            ax.plot(
                own["factor"], own[name], marker="o", markersize=4, color=color, label=name, linewidth=2 if color == OURS else 1
            )
            if f"{name}_low" in own and color == OURS:
                ax.fill_between(own["factor"], own[f"{name}_low"], own[f"{name}_high"], color=color, alpha=0.12, linewidth=0)
        ax.set(title=f"{queries} queries", xlabel="factor between the scales", ylim=(-0.02, 1.04))
    axes[0].set_ylabel("accuracy, K = 1")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2)
    return figure


def draw_times(tables: Tables) -> Figure:
    """Draw our time over that of what people use today, a point for each case."""
    real, crops, boards, queries, scenes = tables
    ours = real[(real["method"] == "fiducial detect") & real["time_ratio"].notna()]
    points = [(f"detect, {row.kind}, over LoG", row.time_ratio) for row in ours.itertuples()]
    points += [(f"detect, {row.kind}, 512 px, over blob_log", row.ratio) for row in crops.itertuples()]
    inspected = boards[boards["method"] == "fiducial inspect"]
    points += [(f"inspect, {row.case}, over the plain script", row.time_ratio) for row in inspected.itertuples()]
    points += [(f"locate, {row.query_px} px, {row.query}, over correlation", row.ratio) for row in queries.itertuples()]
    registered = scenes[scenes["method"] == "fiducial register"]
    points += [(f"register, {row.set}, over SIFT", row.ratio) for row in registered.itertuples()]
    figure = Figure(figsize=(7.2, 0.8 + 0.22 * len(points)), layout="constrained")
    ax = figure.subplots()
    y, ratio = np.arange(len(points)), np.array([value for _, value in points])
    ax.hlines(y, 1, ratio, color=SOFT, linewidth=1)
    ax.plot(ratio, y, "o", color=OURS, markersize=5)
    ax.axvline(1, color=INK, linewidth=0.8)
    ax.set_yticks(y, [name for name, _ in points])
    ax.set(xscale="log", xlabel="our time over theirs; left of the line we are faster")
    ax.set_xticks((0.5, 1, 2, 5, 10, 20), ("0.5", "1", "2", "5", "10", "20"))
    ax.minorticks_off()
    ax.invert_yaxis()
    return figure


PLOTS: dict[str, Plot] = {
    **{
        f"reliability_{family}": Plot(
            (f"reliability_{family}",), draw_reliability, f"Share of true answers of {verb} over the probability it states"
        )
        for family, verb in VERBS.items()
    },
    "blobs_density": Plot(("blobs_crowds",), draw_density, "F1 of each method over the spacing of blobs"),
    "places_accuracy": Plot(("places_factors",), draw_factors, "Accuracy of each method over the factor between the scales"),
    "times": Plot(
        ("blobs_real", "blobs_speed", "defects_deeppcb", "places_speed", "keypoints_speed"),
        draw_times,
        "Time of each verb over that of what people use today",
    ),
}


def stamp(plot: Plot, results: Path) -> str:
    """Return the names and the SHA-256 of a plot's files."""
    digests = (hashlib.sha256((results / f"{name}.csv").read_bytes()).hexdigest() for name in plot.files)
    return ", ".join(f"{name}.csv {digest}" for name, digest in zip(plot.files, digests, strict=True))


def drawable(results: Path) -> list[str]:
    """Return the plots of which all files are there."""
    return [name for name, plot in PLOTS.items() if all((results / f"{file}.csv").is_file() for file in plot.files)]


def draw(name: str, results: Path, folder: Path) -> Path:
    """Draw one plot into a folder."""
    plot, path = PLOTS[name], folder / f"{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = plot.draw([pd.read_csv(results / f"{file}.csv") for file in plot.files])
        figure.savefig(path, dpi=130, metadata={SOURCE: stamp(plot, results), "Title": plot.alt})
    return path


def of_docs(results: Path) -> list[str]:
    """Return the plots that the docs show: those of reliability."""
    return [name for name in drawable(results) if name.startswith("reliability_")]


def draw_docs(results: Path = FOLDER, folder: Path = IMAGES) -> None:
    """Draw the plots of the docs anew."""
    for name in of_docs(results):
        draw(name, results, folder)


def stale(results: Path = FOLDER, folder: Path = IMAGES) -> list[str]:
    """Return the plots of the docs that are not drawn from their files as they are, or not at all."""
    return [name for name in of_docs(results) if stamped(folder / f"{name}.png") != stamp(PLOTS[name], results)]


def stamped(path: Path) -> str:
    """Return what a plot says that it was drawn from; nothing if there is no plot."""
    if not path.is_file():
        return ""
    with Image.open(path) as picture:
        return str(picture.info.get(SOURCE, ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if not args.check:
        draw_docs()
    elif wrong := stale():
        raise SystemExit(f"plots differ from benchmarks/results: {wrong}: run python benchmarks/plots.py")


if __name__ == "__main__":
    main()
