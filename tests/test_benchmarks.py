import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from skimage import data as photographs

from fiducial import metrics
from fiducial.blobs.samples import Pool
from fiducial.crowds import NOTHING, Crowd
from fiducial.datasets import CrowdImage
from fiducial.evaluate.blobs import Findings
from fiducial.metrics import Counts

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import blobs_ablation
import blobs_baselines
import blobs_real
import defects_deeppcb
import keypoints_reference
import keypoints_registration
import options
import page
import places_baselines
import places_sem
import plots
import result_files
import suite
import tables
from reliability import reliability_table, stated_error

ROOT = Path(__file__).parents[1]
MADE = {"commit": "abc1234", "machine": "x86_64", "date": "2026-01-02"}


# Intervals


def test_the_bootstrap_of_a_mean_agrees_with_scipy(rng: np.random.Generator) -> None:
    values = rng.exponential(2.0, 40)
    low, high = metrics.bootstrap_interval(40, lambda i: float(values[i].mean()), draws=4000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=rng).confidence_interval
    assert low == pytest.approx(theirs.low, abs=0.05)
    assert high == pytest.approx(theirs.high, abs=0.05)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=12))
def test_the_interval_of_f1_lies_between_the_worst_and_the_best_image(counts: list[tuple[int, int, int]]) -> None:
    table = np.array(counts)
    low, high = metrics.bootstrap_interval(len(table), lambda i: Counts(*table[i].sum(axis=0).tolist()).f(), draws=50)
    each = [Counts(*row).f() for row in counts]
    if np.isnan(low):
        assert np.isnan(each).any()
        return
    assert np.nanmin(each) - 1e-12 <= low <= high <= np.nanmax(each) + 1e-12


def test_images_are_resampled_whole_so_that_alike_blobs_of_one_image_do_not_narrow_the_interval() -> None:
    hits = np.array([100, 0, 100, 0, 100, 0])  # of 100 blobs each
    low, high = metrics.bootstrap_interval(6, lambda i: float(hits[i].sum() / (100 * len(i))))
    assert high - low > 0.6


def found_or_not(*hits: bool) -> list[blobs_baselines.Judged]:
    """Return images of one blob each."""
    blob, far = Crowd(np.zeros((1, 2)), np.eye(2)[None]), {True: np.zeros((1, 2)), False: np.full((1, 2), 99.0)}
    return [blobs_baselines.judge(blob, Findings(far[hit], np.ones(1), np.ones(1), None, 1.0)) for hit in hits]


def test_images_of_one_cluster_are_resampled_together() -> None:
    judged = found_or_not(*[True] * 9, *[False] * 9)
    alone, together = (blobs_baselines.crowd_bounds(judged, cluster) for cluster in (None, [4] * 9 + [2] * 9))
    assert alone["f1_high"] - alone["f1_low"] < 0.6
    assert (together["f1_low"], together["f1_high"]) == (0, 1)
    assert np.isnan(blobs_baselines.crowd_bounds(judged, [1] * 18)["f1_low"])


def test_images_that_none_alike_was_trained_on_have_a_row_of_their_own() -> None:
    image = CrowdImage("a", np.zeros((4, 4), np.uint8), NOTHING)
    kind = blobs_real.Kind("nuclei", [image] * 4, range(4), [True, False, True, False])
    rows = pd.DataFrame(blobs_real.rows_of("ours", "none", kind, found_or_not(True, False, True, True)))
    assert rows[["kind", "images", "f1"]].to_numpy().tolist() == [["nuclei", 4, 0.75], ["nuclei, none alike trained on", 2, 1]]
    kind = blobs_real.Kind("nuclei", [image] * 2, range(2), [True, True])
    assert len(blobs_real.rows_of("ours", "none", kind, found_or_not(True, False))) == 1


def test_one_case_or_a_score_mostly_undefined_has_no_interval_and_one_seed_gives_one_answer() -> None:
    assert np.isnan(metrics.bootstrap_interval(1, lambda i: 1.0)).all()
    assert np.isnan(metrics.bootstrap_interval(9, lambda i: np.nan)).all()
    values = np.sqrt(np.arange(9.0))
    first, second, other = (metrics.bootstrap_interval(9, lambda i: float(values[i].mean()), seed=s) for s in (3, 3, 4))
    assert first == second != other


def test_wilson_gives_no_hits_of_few_cases_a_width() -> None:
    low, high = result_files.wilson(0, 16)
    assert low == 0
    assert high == pytest.approx(0.194, abs=0.001)  # Newcombe's formula by hand: z² / (16 + z²)
    assert np.isnan(result_files.wilson(0, 0)).all()


def test_shares_that_all_or_none_of_the_cases_have_are_given_a_width() -> None:
    known = blobs_baselines.judge(
        Crowd(np.zeros((1, 2)), np.eye(2)[None]), Findings(np.zeros((1, 2)), np.ones(1), np.ones(1), (0, 1), 1.0)
    )
    crowds = blobs_baselines.crowd_bounds([known] * 16)
    answers = pd.DataFrame(
        {"set": "any", "method": "ours", "present": True, "error_px": 1.0, "accepted": False, "score": np.nan}, index=range(16)
    )
    pairs = keypoints_registration.summarize(answers).iloc[0]
    found = pd.DataFrame(
        {"present": True, "upright": [True] * 16 + [False] * 16, "score": 0.5, "right_1": False, "right_5": True}
    )
    places = places_sem.place_bounds(found)
    for got, name, all_of_them in (
        (crowds, "count_covered", True), (pairs, "under_5", True), (pairs, "under_10", True), (pairs, "accepted", False),
        (places, "upright_k1", False), (places, "upright_k5", True), (places, "turned_k1", False), (places, "turned_k5", True),
    ):  # fmt: skip
        expected = (1 - 0.1936, 1.0) if all_of_them else (0.0, 0.1936)  # z² / (16 + z²)
        assert (got[f"{name}_low"], got[f"{name}_high"]) == pytest.approx(expected, abs=1e-4)


def test_the_plain_script_keeps_what_is_large_enough_and_is_not_judged_by_classes() -> None:
    template = np.kron(np.indices((8, 10)).sum(axis=0) % 2, np.ones((20, 20))).astype(np.uint8) * 255
    sample = template.copy()
    sample[45:55, 65:75] = 255 - sample[45:55, 65:75]  # large enough, then too small: what an opening leaves of it has 25 px
    sample[105:110, 125:130] = 255 - sample[105:110, 125:130]
    found = defects_deeppcb.plain_script(sample, template).default
    assert len(found.boxes_yxyx) == 1
    assert set(np.unique(found.mask[46:54, 66:74])) == {1}
    row = {
        "method": "a",
        "region_f": 0.5,
        "region_f_low": 0.4,
        "deeppcb_f": 0.3,
        "deeppcb_map_high": 0.2,
        "calibration_error": 0.1,
    }
    bare = defects_deeppcb.without_classes(pd.DataFrame([row])).iloc[0]
    assert bare[["method", "region_f", "region_f_low"]].tolist() == ["a", 0.5, 0.4]
    assert bare[["deeppcb_f", "deeppcb_map_high", "calibration_error"]].isna().all()


def test_refusals_are_judged_over_all_and_over_upright_queries() -> None:
    rows = pd.DataFrame({"present": [True, True, False] * 20, "upright": [True] * 30 + [False] * 30})
    rows["score"] = np.where(rows.upright, np.where(rows.present, 0.9, 0.1), np.where(rows.present, -np.inf, 0.5))
    found = places_sem.refusals(rows)
    assert (found["auroc_upright"], found["absent_accepted_upright"], found["absent_accepted_upright_high"]) == (1, 0, 0)
    assert found["auroc"] == 0.5
    assert np.isnan([found["absent_accepted"], found["absent_accepted_low"]]).all()
    assert (found["present_answered"], found["absent_answered"]) == (0.5, 1)


def test_a_negative_is_found_by_correlation_and_a_small_source_by_sift() -> None:
    picture = np.asarray(photographs.gravel())
    query, truth = picture[120:200, 100:180], np.array([[119.5, 99.5], [119.5, 179.5], [199.5, 179.5], [199.5, 99.5]])
    small = picture.reshape(128, 4, 128, 4).mean(axis=(1, 3)).astype(np.uint8)  # of which SIFT finds nothing as it is
    negative = places_baselines.correlate_over_scales(255 - query, picture)
    turned = places_baselines.sift_ransac(np.rot90(query).copy(), small)
    for found, where in ((negative, truth), (turned, (truth + 0.5) / 4 - 0.5)):
        assert metrics.quad_iou(found.corners_yx[0], where) > 0.9


def test_the_halves_of_a_part_tell_how_exact_its_shift_is(rng: np.random.Generator) -> None:
    scene = np.asarray(photographs.gravel())
    found = keypoints_reference.best_shifts(scene[40:360, 40:380], 255 - scene[44:364, 34:374])
    np.testing.assert_array_equal(found, [[-4, 6]] * 3)
    shifts = np.array([[[0, 2], [0, 2], [0, 4]], [[0, 6], [0, 6], [8, 6]], [[16, 0], [0, 0], [0, 0]]])
    row = keypoints_reference.summarize("some", shifts)
    assert (row["at_end"], row["median_length_px"], row["halves_apart_px"], row["halves_over_5_px"]) == (1, 4, 5, 0.5)
    assert (row["agreeing"], row["agreeing_length_px"], row["agreeing_over_5_px"]) == (1, 2, 0)


def test_parameters_beyond_what_the_loss_reaches_do_not_count(tmp_path: Path) -> None:
    drawn, configs = Pool((), ()), (blobs_ablation.PLAIN, blobs_ablation.FULL)
    small, whole = (blobs_ablation.million_parameters(config, drawn, contrast=False) for config in configs)
    assert (small, whole) == pytest.approx((0.2, 3.1), abs=0.1)
    (tmp_path / "t.csv").write_text("configuration,million_parameters,f1,commit\na,2.9,0.1235,0012345\nb,3.0,0.5,0012345\n")
    blobs_ablation.recount(tmp_path / "t.csv", {"a": 0.25, "b": 3.125})
    expected = "configuration,million_parameters,f1,commit\na,0.25,0.1235,0012345\nb,3.125,0.5,0012345\n"
    assert (tmp_path / "t.csv").read_text() == expected


# Reliability


def test_the_bins_hold_every_answer_once_and_their_error_is_the_calibration_error(rng: np.random.Generator) -> None:
    stated = np.concatenate([rng.random(500), [0.0, 0.1, 0.7, 1.0]])
    true = rng.random(504) < stated**2
    bins = metrics.reliability(stated, true)
    assert bins.answers.sum() == 504
    assert bins.true.sum() == true.sum()
    assert bins.answers[9] == (stated >= 0.9).sum()
    assert ((bins.low <= bins.stated) & (bins.stated <= bins.high)).all()
    gaps = [
        abs(stated[own].sum() - true[own].sum())
        for low, high in zip(bins.low, [*bins.low[1:], 2.0], strict=True)
        for own in [(stated >= low) & (stated < high)]
    ]
    assert bins.error == pytest.approx(sum(gaps) / 504)
    assert metrics.calibration_error(stated, true) == bins.error


def test_answers_as_true_as_they_state_lie_within_their_intervals(rng: np.random.Generator) -> None:
    stated = rng.random(4000)
    table = reliability_table(
        {"honest": (stated, rng.random(4000) < stated), "boastful": (stated, rng.random(4000) < stated / 3)}
    )
    inside = (table["observed_low"] <= table["stated"]) & (table["stated"] <= table["observed_high"])
    assert inside[table["set"] == "honest"].sum() >= 8
    assert inside[table["set"] == "boastful"].sum() <= 2
    assert stated_error(table[table["set"] == "honest"]) < 0.03 < stated_error(table[table["set"] == "boastful"])


def test_bins_without_answers_are_no_rows() -> None:
    table = reliability_table({"sure": (np.array([0.95, 0.99]), np.array([True, False]))})
    assert table["answers"].tolist() == [2]
    assert table["observed"].tolist() == [0.5]


# Tables


def test_an_interval_is_shown_where_the_file_has_it_and_nothing_changes_where_not() -> None:
    table = pd.DataFrame([{"method": "a", "f1": 0.5, "images": 3}, {"method": "b", "f1": 0.25, "images": 3}])
    assert tables.with_intervals(table).equals(table)
    shown = tables.with_intervals(table.assign(f1_low=[0.412, np.nan], f1_high=[0.587, np.nan]))
    assert list(shown.columns) == ["method", "f1", "images"]
    assert shown["f1"].tolist() == ["0.500 (0.41–0.59)", "0.250"]
    assert tables.with_intervals(table.assign(f1=np.nan, f1_low=0.4, f1_high=0.6))["f1"].tolist() == ["", ""]


def test_rows_measured_anew_replace_theirs_and_tell_their_own_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pd.DataFrame({"verb": ["a", "a", "b"], "side": [1, 2, 1], "seconds": [1.0, 2.0, 3.0]})
    for made, table in (("0012345", first), ("60e8912", first.iloc[[1]].assign(seconds=9.0))):
        monkeypatch.setattr(result_files, "commit", lambda made=made: made)
        result_files.write_result("t", table, tmp_path, keys=("verb", "side"))
    written = tables.read("t", tmp_path)  # commits may look like numbers
    assert written[["verb", "side", "seconds", "commit"]].to_numpy().tolist() == [
        ["a", 1, 1, "0012345"], ["a", 2, 9, "60e8912"], ["b", 1, 3, "0012345"],
    ]  # fmt: skip
    assert tables.made(written).startswith("\n\nCommit 0012345, 60e8912, ")
    result_files.write_result("t", first.iloc[:1], tmp_path)
    assert len(pd.read_csv(tmp_path / "t.csv")) == 1


def test_a_plot_stands_where_there_is_a_file_to_draw_it_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    empty = "Words.\n\n<!-- plot reliability_x: what it shows -->\n<!-- end -->\n"
    assert tables.rendered(empty) == empty
    (tmp_path / "reliability_x.csv").touch()
    filled = tables.rendered(empty)
    assert "\n![what it shows](../images/reliability_x.png)\n<!-- end -->" in filled
    assert tables.rendered(filled) == filled


@pytest.mark.parametrize("name", ["blobs_real", "blobs_crowds", "places_sem", "keypoints_registration", "defects_deeppcb"])
def test_every_renderer_takes_a_file_with_intervals(name: str) -> None:
    table = tables.read(name)
    column = {"places_sem": "upright_k1", "keypoints_registration": "under_5", "defects_deeppcb": "region_f"}.get(name, "f1")
    table[f"{column}_low"], table[f"{column}_high"] = 0.125, 0.875
    text = tables.for_people(name, table).map(tables.words).to_csv()
    assert text.count("(0.12–0.88)") == len(table)
    assert "_low" not in text


# Plots


def test_plots_of_the_docs_are_drawn_from_their_files() -> None:
    assert plots.stale() == []
    shown = re.findall(r"images/(reliability_\w+)\.png", "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md")))
    for name in set(shown):
        assert (ROOT / "docs" / "images" / f"{name}.png").is_file(), name


def test_a_plot_is_stale_once_its_file_has_changed(tmp_path: Path) -> None:
    table = reliability_table({"one": (np.array([0.2, 0.8, 0.9]), np.array([False, True, True]))}).assign(**MADE)
    file = tmp_path / "reliability_blobs.csv"
    table.to_csv(file, index=False)
    assert plots.stale(tmp_path, tmp_path) == ["reliability_blobs"]
    plots.draw_docs(tmp_path, tmp_path)
    assert plots.stale(tmp_path, tmp_path) == []
    with Image.open(tmp_path / "reliability_blobs.png") as picture:
        assert picture.width > picture.height * 0.5 > 50
    table.assign(answers=table["answers"] + 1).to_csv(file, index=False)
    assert plots.stale(tmp_path, tmp_path) == ["reliability_blobs"]


# The suite


def ask(monkeypatch: pytest.MonkeyPatch, *words: str, needs: tuple[str, ...] = ()) -> Namespace:
    """Return what a script with an option --images makes of words."""
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    monkeypatch.setattr("cv2.setNumThreads", lambda _: None)  # of this process
    parser = options.options("A script.")
    parser.add_argument("--images", type=int, default=8)
    return options.read_options(parser, {"images": 1}, needs)


def test_quick_asks_for_less_but_not_of_what_is_given_and_never_writes_to_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--threads", "1", "--out", str(tmp_path))
    assert ask(monkeypatch, *words).images == 8
    assert ask(monkeypatch, *words, "--quick").images == 1
    assert ask(monkeypatch, *words, "--quick", "--images", "5").images == 5
    with pytest.raises(SystemExit) as end:
        ask(monkeypatch, "--quick")
    assert end.value.code == 2
    assert "name another folder by --out" in capsys.readouterr().err


def test_missing_data_have_an_exit_status_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--threads", "1", "--data", str(tmp_path))
    with pytest.raises(SystemExit) as end:
        ask(monkeypatch, *words, needs=("moon",))
    assert end.value.code == options.MISSING
    assert capsys.readouterr().err.startswith("needs moon ")
    (tmp_path / "moon").mkdir()
    assert ask(monkeypatch, *words, needs=("moon",)).data == tmp_path


@pytest.mark.parametrize(
    ("code", "answer", "why"),
    [
        ("print('a table')", "done", ""),
        (f"import sys; print('needs moon', file=sys.stderr); sys.exit({options.MISSING})", "missing", "needs moon"),
        ("raise ValueError('broken')", "failed", "ValueError: broken"),
        ("import os; os.abort()", "failed", "exit status -6"),
    ],
)
def test_a_script_is_done_or_misses_data_or_fails(tmp_path: Path, code: str, answer: str, why: str) -> None:
    ended = suite.run("one", [sys.executable, "-c", code], tmp_path / "logs" / "one.txt")
    assert (ended.answer, ended.why) == (answer, why)


def test_one_failed_script_makes_the_run_fail_and_the_others_are_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, code in (("first", "raise ValueError('broken')"), ("second", "print('a table')")):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(suite, "HERE", tmp_path)
    monkeypatch.setattr(suite, "SCRIPTS", tuple(suite.Script(name, shared=(), quick=()) for name in ("first", "second")))
    monkeypatch.setattr(sys, "argv", ["suite.py", "--quick", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        suite.main()
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" 1 of 2  first +failed +\d+ s  ValueError: broken", lines[0])
    assert re.fullmatch(r" 2 of 2  second +done +\d+ s", lines[1])
    assert pd.read_csv(tmp_path / "out" / "scripts.csv")["answer"].tolist() == ["failed", "done"]


def test_every_script_takes_the_shared_options_that_the_suite_gives_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for one in suite.SCRIPTS:
        if not one.path.is_file():
            continue
        module = __import__(one.path.stem)
        monkeypatch.setattr(sys, "argv", [one.path.name, "--help"])
        with pytest.raises(SystemExit) as end:
            module.main()
        assert end.value.code == 0
        said = capsys.readouterr().out
        wanted = {f"--{name}" for name in one.shared} | {w for w in (*one.words, *(one.quick or ())) if w.startswith("--")}
        assert wanted <= set(re.findall(r"--[a-z-]+", said)), one.name


def test_the_suite_measures_as_the_docs_tables_were() -> None:
    words = {one.name: dict(zip(one.words[::2], one.words[1::2], strict=True)) for one in suite.SCRIPTS if len(one.words) > 1}
    for name in ("defects_ablation", "keypoints_ablation", "blobs_ablation"):
        assert set(tables.read(name)["steps"].astype(str)) == {words[name]["--steps"]}, name


def test_every_script_of_the_folder_is_run_or_asked_for() -> None:
    no_scripts = {"blobs_baselines", "keypoints_baselines", "places_baselines"}
    files = {path.stem for path in (ROOT / "benchmarks").glob("*_*.py")} - no_scripts - {"result_files"}
    assert files <= {one.path.stem for one in suite.SCRIPTS}


def test_the_page_holds_every_table_and_puts_published_numbers_beside_ours(tmp_path: Path) -> None:
    row = {"method": "fiducial detect", "kind": "fluorescence", "f1": 0.5, "precision": 0.5, "recall": 0.5, "error_px": 1.0}
    names = ("error_under_12_px", "adjacent", "radius_error", "count_error", "count_covered", "calibration_error", "seconds")
    row |= dict.fromkeys(names, 0.5) | {"time_ratio": 2.0, "f1_low": 0.375, "f1_high": 0.625, **MADE}
    pd.DataFrame([row]).to_csv(tmp_path / "blobs_real.csv", index=False)
    pd.DataFrame([{"what": "<b>giant</b>", "seconds": 3.0}]).to_csv(tmp_path / "giants_tiles.csv", index=False)
    ran = pd.DataFrame([{"script": "blobs_real", "answer": "done", "why": "", "seconds": 12.0}])
    page.write(tmp_path, ran, quick=True)
    text = (tmp_path / "index.html").read_text()
    assert text.count(">0.500 <small>(0.38–0.62)</small><") >= 3  # the table, CADSN's scenes, StarDist's nuclei
    assert "StarDist 2D, example notebook" in text
    assert "&lt;b&gt;giant" in text
    assert "http" not in re.sub(r"data:image/[^\"]*", "", text)


def test_published_numbers_name_what_they_are_and_where_they_stand() -> None:
    table = pd.read_csv(page.PUBLISHED)
    assert list(table.columns) == ["family", "data", "method", "metric", "value", "source", "differs"]
    assert table.notna().all(axis=None)
    assert set(table["family"]) == set(page.FAMILIES)
    assert not table.duplicated(["family", "data", "method", "metric", "source"]).any()
    shares = ~table["metric"].isin(["error / px", "mean error / px", "s / query"])
    assert table.loc[shares, "value"].between(0, 1).all()


def test_our_numbers_on_the_page_are_one_cell_each_of_the_result_files() -> None:
    ours = page.own_rows(result_files.FOLDER)
    there = [own for own in page.OWN if (result_files.FOLDER / f"{own.file}.csv").is_file()]
    assert len(ours) == len(there)
    assert ours["metric"].isin(pd.read_csv(page.PUBLISHED)["metric"]).all()


def test_the_command_says_in_one_line_that_benchmarks_come_with_a_clone(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "fiducial", "benchmark", "--folder", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "come with a clone" in done.stderr


def test_the_command_passes_over_what_misses_data_and_writes_nothing_beside_its_folder(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "fiducial", "benchmark", "--quick", "--only", "keypoints_reference", "-o", str(tmp_path)]
    before = {path: path.stat().st_mtime_ns for path in result_files.FOLDER.iterdir()}
    done = subprocess.run([*words, "--data", str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"keypoints_reference +missing +\d+ s +passed over, needs volkov", done.stdout)
    assert (tmp_path / "index.html").is_file()
    assert {path: path.stat().st_mtime_ns for path in result_files.FOLDER.iterdir()} == before


def test_scripts_are_chosen_by_name(tmp_path: Path) -> None:
    assert [one.name for one in suite.chosen("places_sem,blobs_ablation", quick=True)] == ["places_sem", "blobs_ablation"]
    assert "blobs_ablation" not in [one.name for one in suite.chosen("", quick=False)]
    with pytest.raises(ValueError, match="got moon: there are blobs_real, "):
        suite.chosen("moon", quick=True)
