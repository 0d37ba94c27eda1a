"""Write one page of all tables and plots of a folder of results, with the numbers that others have published beside ours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plots
import tables
from markupsafe import Markup

from fiducial import pages

PUBLISHED = Path(__file__).parent / "published.csv"
FAMILIES = {
    "blobs": ("detect", "Where is every blob, how big, how many?"),
    "defects": ("inspect", "What differs from the good template?"),
    "places": ("locate", "Where in this overview is my zoomed-in view?"),
    "keypoints": ("register", "How does this image lie on that one, whatever the sensor?"),
}
CAPTIONS = {
    "blobs_real": "Micrographs that nothing was learned from, all methods on the same images",
    "blobs_crowds": "Drawn crowds by the spacing of blobs",
    "blobs_negatives": "Images where nothing is to be found: false findings",
    "blobs_repeatability": "Points found again under known homographies and other light",
    "blobs_speed": "Time for 512 × 512 px",
    "blobs_ablation": "The network's parts, trained alike and short",
    "defects_deeppcb": "DeepPCB, groups that nothing was learned from, the template displaced",
    "defects_good_boards": "Good boards, and other boards: false alarms and refusals",
    "defects_ablation": "The network's parts, trained alike and short",
    "places_sem": "SEM images that nothing was learned from, a third of the queries absent",
    "places_factors": "Accuracy by the factor between the scales",
    "places_looks": "Accuracy by what the exposure changed",
    "places_speed": "Time by the side of the query, over correlation at 25 scales",
    "keypoints_reference": "How exact the pairs are that register is measured against",
    "keypoints_repeatability": "Keypoints found again by another sensor, 2 px; chance: points of another scene",
    "keypoints_same_sensor": "Keypoints found again by the same sensor, 3 px",
    "keypoints_scenes": "The paper's protocol on six scenes like its own",
    "keypoints_registration": "Optical and SAR scenes displaced by a known similarity; a quarter of the pairs absent",
    "keypoints_tiles": "The same by tile",
    "keypoints_speed": "Time of a pair, over SIFT",
    "keypoints_ablation": "The network's parts, trained alike and short",
}
HOW = (
    "Each table is written by one script of benchmarks/, all methods on the same images in one run; each row of its file says "
    "at which commit, on which machine and when. In brackets: 95 % intervals, by the percentile bootstrap over images, pairs "
    "or cases (1,000 draws; of nuclei, over clusters of images that look alike), of plain shares by Wilson's formula. They say "
    "how far the score would move with other images of the kind, not with other kinds. Tables of trainings have none: what "
    "varies most there is the training. In a plot of "
    "reliability, answers are gathered by the probability that they state; bars are Wilson's 95 % intervals, and points on "
    "the dashed line are calibrated."
)


@dataclass(frozen=True)
class Own:
    """Where our number for a published metric stands: a result file, which row, which column."""

    family: str
    metric: str
    data: str
    file: str
    column: str
    where: tuple[tuple[str, object], ...]


def _rows(file: str, data: str, columns: dict[str, str], **where: object) -> tuple[Own, ...]:
    """Return where one row of a file has what metrics, by the column of each."""
    family = file.partition("_")[0]
    return tuple(Own(family, metric, data, file, column, tuple(where.items())) for metric, column in columns.items())


FOUND = {"F1": "f1", "precision": "precision", "recall": "recall", "error / px": "error_px", "neighbors both found": "adjacent"}
CROWDED = {name: column for name, column in FOUND.items() if name not in ("precision", "recall")}
MARKED = {
    "DeepPCB F": "deeppcb_f",
    "DeepPCB mAP": "deeppcb_map",
    "mIoU, 7 classes": "miou_7",
    "mACC, 7 classes": "macc_7",
    "F2 of defect": "pixel_f2",
}
PLACED = {"upright, K = 1": "upright_k1", "upright, K = 5": "upright_k5", "s / query": "seconds"}
LAID = {"under 5 px": "under_5", "under 10 px": "under_10"}
SAME, OTHER = {"repeatability, viewpoint": "repeatability"}, {"repeatability at 2 px": "repeatability"}
REPEATED = {"repeatability": "repeatability"}
SCENES = {"urban": "urban", "suburban": "suburban", "industrial": "industrial", "ponds": "pond", "mountain": "mountain"}
DISPLACED, ANY, NEAR = "±10 px, ±5°", "any angle, scale 0.6-1.6", "±10°, scale 0.9-1.1"
OWN = (
    *_rows("blobs_real", "nuclei in fluorescence, dsb2018", FOUND, method="fiducial detect", kind="fluorescence"),
    *_rows("blobs_crowds", "drawn crowds, spacing 1", CROWDED, method="fiducial detect", spacing=1.0),
    *_rows("blobs_repeatability", "micrographs and two photographs", REPEATED, method="fiducial detect"),
    *_rows("defects_deeppcb", "DeepPCB, 150 pairs, aligned", MARKED, method="fiducial inspect", case="aligned"),
    *_rows("defects_deeppcb", f"DeepPCB, 150 pairs, {DISPLACED}", MARKED, method="fiducial inspect", case=DISPLACED),
    *_rows("places_sem", "SEM images, re-exposed", PLACED, method="fiducial locate"),
    *_rows("keypoints_repeatability", "optical and SAR, 300 points", OTHER, method="fiducial keypoints"),
    *_rows("keypoints_same_sensor", "optical, other light, 3 px", SAME, method="fiducial keypoints", sensor="optical"),
    *_rows("keypoints_same_sensor", "SAR, other light, 3 px", SAME, method="fiducial keypoints", sensor="SAR"),
    *(
        own
        for scene, named in SCENES.items()
        for own in _rows(
            "keypoints_scenes", "scenes like those, 300 points", {f"2 px, {named}": "repeatability_300"}, scene=scene
        )
    ),
    *_rows("keypoints_registration", f"optical and SAR, {ANY}", LAID, method="fiducial register", set=ANY),
    *_rows("keypoints_registration", f"optical and SAR, {NEAR}", LAID, method="fiducial register", set=NEAR),
)


def own_rows(results: Path) -> pd.DataFrame:
    """Return our numbers in the columns of published.csv, those whose files are there."""
    rows = []
    for own in OWN:
        if not (results / f"{own.file}.csv").is_file():
            continue
        table = tables.read(own.file, results)
        shown = tables.with_intervals(table)
        for column, value in own.where:
            shown = shown[table.loc[shown.index, column] == value]
        row = {"family": own.family, "data": own.data, "method": "fiducial", "metric": own.metric}
        rows += [row | {"value": value, "source": f"{own.file}.csv", "differs": ""} for value in shown[own.column]]
    return pd.DataFrame(rows, columns=["family", "data", "method", "metric", "value", "source", "differs"])


def beside(family: str, results: Path) -> list[Markup]:
    """Return what others have published for a family, a table for each source, our numbers for its metrics first."""
    published = pd.read_csv(PUBLISHED)
    ours = own_rows(results)
    parts = []
    for (data, source, differs), rows in published[published["family"] == family].groupby(
        ["data", "source", "differs"], sort=False
    ):
        metrics = list(dict.fromkeys(rows["metric"]))
        known = ours[(ours["family"] == family) & ours["metric"].isin(metrics)]
        shared = known[2 * known.groupby("data")["data"].transform("size") >= len(metrics)]
        shared = shared.assign(method=[pages.answer(f"fiducial, {where}") for where in shared["data"]])
        both = pd.concat([shared, rows])[["method", "metric", "value"]]
        both["value"] = [cell(value) for value in both["value"]]
        wide = both.pivot_table(index="method", columns="metric", values="value", aggfunc="first", sort=False)
        wide = wide.reindex(index=list(dict.fromkeys(both["method"])), columns=metrics).fillna("").reset_index()
        parts += [pages.table(wide, caption=f"{data}. {source}"), pages.note(f"How it differs: {differs}.")]
    return parts


def cell(value: object) -> str:
    """Return a cell of the page: as in the docs, but an interval stands below its score."""
    score, space, interval = tables.words(value).partition(" (")
    return (
        pages.with_interval(score, f"({interval}")
        if space and interval.endswith(")") and "–" in interval
        else tables.words(value)
    )


def table_of(name: str, results: Path) -> Markup:
    """Return a result file as a table of the page, and where it was measured."""
    table = tables.read(name, results)
    shown = tables.for_people(name, table).map(cell)
    where = f"{name}.csv. {tables.made(table).strip()}" if "commit" in table else f"{name}.csv"
    return pages.table(shown, caption=CAPTIONS.get(name, name.replace("_", " "))) + pages.note(where)


def family_section(family: str, results: Path, names: Sequence[str], pictures: Path) -> Markup:
    """Return the tables, plots and published numbers of a family."""
    verb, question = FAMILIES[family]
    own = [name for name in names if name.startswith(f"{family}_")]
    parts = [pages.paragraph(question), *(table_of(name, results) for name in own)]
    drawn = [n for n in plots.drawable(results) if n.startswith(family) or n == f"reliability_{family}"]
    parts += [pages.figure(plots.draw(name, results, pictures), plots.PLOTS[name].alt, longest_px=1400) for name in drawn]
    published = beside(family, results)
    if published:
        note = (
            "These numbers are of other images, as the line under each table says: they show the scale of things, no ranking."
        )
        parts.append(pages.section("What others have published", pages.note(note), *published, level=3))
    return pages.section(verb, *parts, anchor=family)


def write(out: Path, ran: pd.DataFrame, *, quick: bool) -> None:
    """Write OUT/index.html from the result files in `out`; `ran` lists the scripts that were run."""
    names = [
        path.stem for path in sorted(out.glob("*.csv")) if path.stem != "scripts" and not path.stem.startswith("reliability")
    ]
    names.sort(key=lambda name: list(CAPTIONS).index(name) if name in CAPTIONS else len(CAPTIONS))
    others = [name for name in names if not name.startswith(tuple(f"{family}_" for family in FAMILIES))]
    pictures = out / "plots"
    sections = [family_section(family, out, names, pictures) for family in FAMILIES]
    whole = [table_of(name, out) for name in others]
    if "times" in plots.drawable(out):
        whole.append(pages.figure(plots.draw("times", out, pictures), plots.PLOTS["times"].alt, longest_px=1400))
    if whole:
        sections.append(pages.section("All four verbs", *whole, anchor="all"))
    sections.append(pages.section("How these numbers are made", pages.paragraph(HOW), anchor="how"))
    sections.append(pages.section("Scripts", pages.table(ran, caption="Run for this page, in seconds"), anchor="scripts"))
    entries = [pages.link(family, f"{verb}: {question}") for family, (verb, question) in FAMILIES.items()]
    entries += [pages.link("how", "How these numbers are made"), pages.link("scripts", "Scripts")]
    lead = (
        "A quick run on small subsets: it shows that everything runs, and its numbers say little."
        if quick
        else "Every table of the docs, measured anew."
    )
    page = pages.page("Benchmarks", pages.contents(entries), *sections, lead=pages.paragraph(lead), foot="fiducial benchmark")
    (out / "index.html").write_text(page)
