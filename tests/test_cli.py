"""The command line writes what it says, speaks plainly, and a folder goes on past bad files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image as PillowImage
from test_api import board, damaged
from typed import run

from fiducial import weights
from fiducial.cli.parts import Errors, print_table

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
    status, _, error = run("inspect", "--samples", boards / "in", *words)
    assert status == 2
    assert "bad board.png, found none" in error
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
