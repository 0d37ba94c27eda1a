"""The command line writes what it says, speaks plainly, and a folder goes on past bad files."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image as PillowImage
from test_api import board, damaged
from typed import run

from fiducial import api, weights
from fiducial.cli.parts import Errors, print_table
from fiducial.images import from_array
from fiducial.records import InputError

FILES = {"defects.csv", "defects.json", "defects.coco.json", "mask.tif", "overlay.png"}


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    template = board()
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "good template.png"), template)
    cv2.imwrite(str(tmp_path / "in" / "bad board.png"), damaged(template)[0])
    cv2.imwrite(str(tmp_path / "in" / "fine.png"), template)
    return tmp_path


def test_one_pair_writes_its_files_and_a_summary(boards: Path) -> None:
    status, text, _ = run("inspect", boards / "in" / "bad board.png", "-t", boards / "good template.png", "-o", boards / "out")
    assert status == 0
    assert "bad" in text
    assert {p.name for p in (boards / "out" / "bad board").iterdir()} == FILES
    assert pd.read_csv(boards / "out" / "summary.csv")["answer"].tolist() == ["bad"]


def test_json_is_all_that_is_printed_when_asked(boards: Path) -> None:
    status, text, _ = run(
        "inspect", boards / "in" / "fine.png", "-t", boards / "good template.png", "-o", boards / "o", "--json"
    )
    assert status == 0
    (row,) = json.loads(text)
    assert (row["answer"], row["defects"]) == ("good", 0)


def test_a_folder_goes_on_past_bad_files_and_says_so(boards: Path) -> None:
    (boards / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    cv2.imwrite(str(boards / "in" / "small.png"), board()[:50, :50])
    cv2.imwrite(str(boards / "in" / "other.png"), board(9))
    status, _, _ = run("inspect", "--samples", boards / "in", "-t", boards / "good template.png", "-o", boards / "out")
    assert status == 1
    table = pd.read_csv(boards / "out" / "summary.csv").set_index("name")
    assert table["answer"].to_dict() == {
        "bad board": "bad", "broken": "error", "fine": "good", "other": "refused", "small": "error",
    }  # fmt: skip
    assert "damaged" in table.loc["broken", "why"]
    assert not (boards / "out" / "broken").exists()
    assert not list((boards / "out").rglob("*.part"))


def test_a_table_of_pairs_is_followed(boards: Path) -> None:
    (boards / "pairs.csv").write_text("sample,template\nin/fine.png,good template.png\nin/bad board.png,good template.png\n")
    status, _, _ = run("inspect", "--pairs", boards / "pairs.csv", "-o", boards / "out")
    assert status == 0
    assert pd.read_csv(boards / "out" / "summary.csv")["answer"].tolist() == ["good", "bad"]


def test_a_folder_of_templates_serves_a_sample_of_any_suffix(boards: Path) -> None:
    (boards / "goods").mkdir()
    cv2.imwrite(str(boards / "goods" / "fine.tif"), board())
    words = ["-t", boards / "goods", "-o", boards / "out"]
    assert run("inspect", boards / "in" / "fine.png", *words)[0] == 0
    status, said, _ = run("inspect", "--samples", boards / "in", *words)
    assert status == 1
    assert "bad board.png: No such file" in " ".join(said.split())
    cv2.imwrite(str(boards / "goods" / "bad board.tif"), board())
    assert run("inspect", "--samples", boards / "in", *words)[0] == 0
    assert pd.read_csv(boards / "out" / "summary.csv")["answer"].tolist() == ["bad", "good"]


def test_names_that_look_like_markup_are_printed_as_they_are(boards: Path) -> None:
    (boards / "in" / "fine.png").rename(boards / "in" / "a[b].png")
    assert "a[b]" in run("inspect", boards / "in" / "a[b].png", "-t", boards / "good template.png", "-o", boards / "out")[1]


def test_a_row_without_its_template_is_named(boards: Path) -> None:
    (boards / "p.csv").write_text("sample,template\nin/fine.png,good template.png\nin/fine.png,\n")
    status, _, error = run("inspect", "--pairs", boards / "p.csv", "-o", boards / "out")
    assert status == 2
    assert "row 3" in error


def test_a_refused_pair_has_its_own_status(boards: Path) -> None:
    cv2.imwrite(str(boards / "other.png"), board(9))
    assert run("inspect", boards / "other.png", "-t", boards / "good template.png", "-o", boards / "out")[0] == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["in/fine.png"], "--template"),
        ([], "one of SAMPLE"),
        (["in/fine.png", "--samples", "in", "-t", "good template.png"], "one of SAMPLE"),
        (["--samples", "none", "-t", "good template.png"], "folder with images"),
        (["--pairs", "good template.png"], "CSV"),
        (["in/fine.png", "-t", "good template.png", "--weights", "none"], "weights must be"),
        (["in/fine.png", "-t", "good template.png", "--min-probability", "7"], "between 0 and 1"),
        (["in/fine.png", "-t", "good template.png", "--false-alarms", "nan"], "above 0"),
        (["in/fine.png", "-t", "good template.png", "--device", "tpu"], "device must be"),
        (["good template.png", "-t", "in"], "expected a template"),
        (["--pairs", "p.csv", "-t", "good template.png"], "leave --template out"),
    ],
)
def test_bad_requests_are_one_line_and_status_two(
    boards: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(boards)
    status, _, error = run("inspect", *words, "-o", "out")
    assert status == 2
    assert says in error
    assert error.startswith("fiducial: ")
    assert error.count("\n") == 1
    assert not (boards / "out").exists()


def test_names_that_break_a_line_are_told_in_one(boards: Path) -> None:
    status, _, error = run("inspect", "--pairs", boards / "no\n\x1b[1mtable.csv", "-o", boards / "out")
    assert (status, error.count("\n")) == (2, 1)
    assert "no\ufffd\ufffd[1mtable.csv" in error


def test_too_little_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), Errors():
        np.empty(2**59)
    assert re.fullmatch(r"fiducial: not enough memory.*\n", capsys.readouterr().err)


def test_a_file_that_could_not_be_written_is_refused_before_the_work(boards: Path) -> None:
    words = ("evaluate", "defects", "--data", boards / "nothing", "-o")
    for out, says in (
        (boards / "in", "is a folder"),
        (boards / "good template.png" / "scores.csv", "good template.png is none"),
    ):
        status, _, error = run(*words, out)
        assert (status, says in error) == (2, True), error


def test_calibrate_evaluate_and_the_budget(boards: Path) -> None:
    (boards / "good").mkdir()
    for n in range(3):
        cv2.imwrite(str(boards / "good" / f"{n}.png"), np.roll(board(), n, axis=1))
    mine = boards / "mine.safetensors"
    assert run("calibrate", "defects", "--good", boards / "good", "-t", boards / "good template.png", "-o", mine)[0] == 0
    status, _, told = run(
        "inspect", boards / "in" / "fine.png", "-t", boards / "good template.png", "-o", boards / "o", "--weights", mine,
        "--false-alarms", 0.5,
    )  # fmt: skip
    assert status == 0
    assert re.fullmatch(r"fiducial: a budget of 0\.5 false alarms: answers from a probability of [\d.e-]+ on\n", told)
    for folder, image in (("samples", damaged(board())[0]), ("templates", board()), ("masks", damaged(board())[1])):
        (boards / "pairs" / folder).mkdir(parents=True)
        cv2.imwrite(str(boards / "pairs" / folder / "a_1.png"), image)
    assert run("evaluate", "defects", "--data", boards / "pairs", "-o", boards / "new" / "scores.csv")[0] == 0
    scores = pd.read_csv(boards / "new" / "scores.csv")
    assert (scores["region_f"].isna() == scores["case"].str.startswith("good parts")).all()


def test_training_from_the_shipped_weights_starts_from_them(boards: Path) -> None:
    pytest.importorskip("lightning", reason="extra `train` is not installed")
    for folder, image in (("samples", damaged(board())[0]), ("templates", board()), ("masks", damaged(board())[1])):
        (boards / "pairs" / folder).mkdir(parents=True)
        cv2.imwrite(str(boards / "pairs" / folder / "a_1.png"), image)
    status, text, _ = run("train", "defects", "--data", boards / "pairs", "-o", boards / "run", "--steps", 2)
    assert status == 0
    assert "--hold-out" in text
    assert (boards / "run" / "weights.safetensors").is_file()
    assert run("train", "defects", "--data", boards / "pairs", "-o", boards / "run2", "--classes", "x")[0] == 2


def test_training_with_groups_held_out_leaves_calibrated_weights(boards: Path) -> None:
    pytest.importorskip("lightning", reason="extra `train` is not installed")
    for folder, image in (("samples", damaged(board())[0]), ("templates", board()), ("masks", damaged(board())[1])):
        (boards / "pairs" / folder).mkdir(parents=True)
        for name in ("a_1.png", "b_1.png"):
            cv2.imwrite(str(boards / "pairs" / folder / name), image)
    words = ["--data", boards / "pairs", "-o", boards / "run", "--steps", 2, "--hold-out", "b"]
    assert run("train", "defects", *words)[0] == 0
    loaded = weights.load("defects", boards / "run" / "weights.safetensors")
    assert loaded.calibration is not None
    assert loaded.calibration.good_images == 3
    assert loaded.network.config.box_margin_px == 0


def test_names_that_the_terminal_has_no_letters_for_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("ünï 图.png", "b.png"):
        PillowImage.fromarray(np.full((40, 40), 7, np.uint8) + np.eye(40, dtype=np.uint8)).save(tmp_path / "in" / name)
    words = [sys.executable, "-m", "fiducial", "detect", "in", "-o", "out"]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    shown = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert shown.stderr == b""
    asked = subprocess.run([*words, "--json"], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert [row["name"] for row in json.loads(asked.stdout.decode("cp1252"))] == ["b", "ünï 图"]
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *words], cwd=tmp_path, capture_output=True, check=True)
    assert b"Traceback" not in closed.stderr


def test_json_has_every_digit_and_null_for_what_is_undefined(capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"name": ["a", "b"], "y_m": [9.815305177074821e-08, np.nan], "n": np.array([3, 4])})
    for upright in (False, True):
        print_table(table, Path("out"), as_json=True, upright=upright)
        first, second = json.loads(capsys.readouterr().out)
        assert first == {"name": "a", "y_m": 9.815305177074821e-08, "n": 3}
        assert second["y_m"] is None


def summary(name: str, **more: object) -> pd.DataFrame:
    """Return the summary of one place on a map, as `locate` has it."""
    row = {
        "name": name, "query": "q.tif", "answer": "found", "source": "maps/geo.tif", "probability": 1.0, "y_px": 12100.3123,
        "x_px": 144.4983, "scale": 0.5, "angle_deg": 90.0006, "map_x": 404570.1234567, "map_y": 5399750.00098, "why": "",
    }  # fmt: skip
    return pd.DataFrame([row | more], dtype=object)


def test_a_table_writes_coordinates_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    print_table(summary("a", tie_points=123456, correction_y=8.17e-06), Path("out"), as_json=False)
    shown = capsys.readouterr().out.splitlines()[4].replace("│", " ").split()
    assert shown == [
        "a", "found", "geo.tif", "1", "12100.3", "144.5", "0.5", "90", "404570.1235", "5399750.001", "123456", "8.17e-06",
    ]  # fmt: skip
    print_table(summary("a", map_x=11.0014499812, map_y=-47.99875), Path("out"), as_json=False)
    assert "│ 11.00144998 │ -47.99875 │" in capsys.readouterr().out
    print_table(pd.concat([summary("a"), summary("b", source=None)]), Path("out"), as_json=False)
    assert re.search(r"│ b +│ found +│ +│ 1 ", capsys.readouterr().out)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
@pytest.mark.parametrize(
    "name", ["view", "ten_letter", "not_quite_half_of_sixty", "a_view_of_one_name_that_is_longer_than_a_half"]
)
def test_a_table_wider_than_the_terminal_goes_on_below_and_cuts_no_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table = summary(name, correction_y=-0.81831, correction_x=1.2, median_radius_px=22.6123)
    print_table(table, Path("out"), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    cells = [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines if line[0] in "┃│"]
    heads = [line for line in cells if line[0] == "name"]
    assert [head for line in heads for head in line[1:]] == [c for c in table.columns if c not in ("name", "query", "why")]
    numbers = {"1", "12100.3", "144.5", "0.5", "90", "404570.1235", "5399750.001", "-0.8183", "1.2", "22.61"}
    assert numbers <= {cell for line in cells for cell in line}
    assert "".join(line[0] for line in cells if line[0] != "name") == name * len(heads)
    assert len(cells) == 2 * len(heads) or len(name) > width / 2 - 4
    assert any({"y_px", "x_px"} <= set(line) for line in heads)
    assert any({"map_x", "map_y"} <= set(line) for line in heads) or width == 40


def test_scores_stand_beside_their_names_under_what_they_were_measured_on(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"data": "images [old]", "f1": 0.91234, "blobs": 3}, {"data": "why", "f1": np.nan, "blobs": 0}]
    for table, heads in (
        (pd.DataFrame(rows), ["score", "images [old]", "why"]),
        (pd.DataFrame(rows[:1])[["f1"]], ["score", "value"]),
    ):
        print_table(table, Path("scores.csv"), as_json=False, upright=True)
        cells = [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in capsys.readouterr().out.splitlines()]
        assert cells[2] == heads
        assert cells[4] == ["f1", "0.9123", ""][: len(heads)]


@pytest.mark.parametrize(
    ("text", "scale"),
    [("0.25", 0.25), ("1e-2", 0.01), ("0.1-0.5", (0.1, 0.5)), (" .5 – 2", (0.5, 2.0)), ("1-1", (1.0, 1.0))],
)
def test_a_scale_may_be_typed_as_a_range(text: str, scale: object) -> None:
    assert api.parse_scale(text) == scale


@pytest.mark.parametrize("text", ["0,5", "0.1-", "a-b", "0.1-0.2-0.3", "", "1:2"])
def test_a_scale_that_is_none_is_told_how_it_is_written(text: str) -> None:
    with pytest.raises(
        InputError, match=r"above 0, or the least and the largest of a range: --scale 0.1-0.5, in Python \(0.1, 0.5\)"
    ):
        api.parse_scale(text)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("3 micron", 3.0, "µm"), ("3.5microns", 3.5, "µm"), ("2 Micrometres", 2.0, "µm"), ("2e3nm", 2000.0, "nm"),
        ("0.5 inches", 0.5, "in"), ("4 \u03bcm", 4.0, "µm"), ("12", 12.0, "px"), ("12. px", 12.0, "px"), (".5 mm", 0.5, "mm"),
    ],
)  # fmt: skip
def test_a_diameter_has_its_unit_as_files_spell_it(text: str, value: float, unit: str) -> None:
    assert api.parse_diameter(text) == (value, unit)


@pytest.mark.parametrize("text", ["3 kg", "um", "-3", "0", "nan", "1e999", "3 4"])
def test_a_diameter_that_is_none_is_refused_and_decimals_need_a_point(text: str) -> None:
    with pytest.raises(InputError, match=r"got '.*'$"):
        api.parse_diameter(text)
    with pytest.raises(InputError, match=r"got '3,5um': write decimals with a point$"):
        api.parse_diameter("3,5um")


def test_a_diameter_out_of_range_is_told_without_an_exponent() -> None:
    with pytest.raises(InputError, match=r"2 to 2000 px, '12345' is 12345 px$"):
        api.diameter_px(from_array(np.eye(20)), "12345")


def test_a_range_of_scales_is_searched_by_register_too(boards: Path) -> None:
    words = ["register", boards / "good template.png", boards / "in" / "fine.png", "-o", boards / "out", "--turn-deg", 0]
    assert run(*words, "--scale", "0.9-1.2")[0] == 0
    made = json.loads((boards / "out" / "good template" / "registration.json").read_text())["provenance"]["parameters"]
    assert (made["least_scale"], made["largest_scale"]) == pytest.approx((0.9, 1.2))


@pytest.mark.parametrize(
    ("family", "check"),
    [
        ("blobs", api.check_detection), ("places", api.check_location),
        ("defects", api.check_inspection), ("keypoints", api.check_registration),
    ],
)  # fmt: skip
def test_weights_without_probabilities_are_named_by_their_file(
    tmp_path: Path, family: str, check: Callable[..., object]
) -> None:
    path, shipped = tmp_path / "run" / "weights.safetensors", weights.load(family)
    weights.save(path, family, shipped.network, shipped.card, None)
    with pytest.raises(InputError, match=rf"^weights {re.escape(str(path))} are not calibrated"):
        check(path, "cpu", 0.5, None)


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"fiducial \d+\.\d+\.\d+\n", run("--version")[1])


@pytest.mark.parametrize(
    ("words", "status", "said", "complained"),
    [
        (["--version"], 0, r"fiducial \d+\.\d+\.\d+\n", ""),
        (["--help"], 0, r"(?s).*Usage: .*evaluate .*", ""),
        (["detect", "nothing.png", "-o", "out"], 2, "", r"(?s)fiducial: cannot read nothing\.png.*\n"),
    ],
    ids=["version", "help", "no such file"],
)
def test_a_process_ends_with_its_status_once_all_is_said(
    tmp_path: Path, words: list[str], status: int, said: str, complained: str
) -> None:
    for start in (["-m", "fiducial"], ["-c", "import fiducial.cli; fiducial.cli.main()"]):
        done = subprocess.run([sys.executable, *start, *words], capture_output=True, check=False, text=True, cwd=tmp_path)
        assert done.returncode == status
        assert re.fullmatch(said, done.stdout)
        assert re.fullmatch(complained, done.stderr)


def test_an_interrupted_folder_leaves_no_half_file(boards: Path) -> None:
    code = (
        "import os, fiducial.cli as cli\n"
        "real, calls = os.replace, []\n"
        "def stop(*names):\n"
        "    calls.append(names)\n"
        "    if len(calls) == 5: raise KeyboardInterrupt\n"
        "    real(*names)\n"
        "os.replace = stop\n"
        "cli.main()"
    )
    words = ["inspect", "--samples", str(boards / "in"), "-t", str(boards / "good template.png"), "-o", str(boards / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False, text=True)
    assert done.returncode == 130
    written = {p.name for p in (boards / "out" / "bad board").iterdir()}
    assert written == {"defects.csv", "defects.json"}
    assert json.loads((boards / "out" / "bad board" / "defects.json").read_text())["verdict"] == "bad"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_help_that_cannot_be_printed_is_told_in_one_line() -> None:
    for words in (["--version"], ["detect", "--help"]):
        with Path("/dev/full").open("w") as full:
            start = [sys.executable, "-m", "fiducial", *words]
            done = subprocess.run(start, stdout=full, stderr=subprocess.PIPE, check=False, text=True)
        assert (done.returncode, done.stderr) == (2, "fiducial: cannot print: No space left on device\n")
