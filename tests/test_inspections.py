"""The command `inspect` takes its samples as the other verbs take their images: one, a folder, or a pattern."""

import json
import shutil
from pathlib import Path

import cv2
import pandas as pd
import pytest
from test_api import board, damaged
from typed import run


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boards") / "in"
    folder.mkdir()
    for name, pixels in (("good", board(size=(200, 260))), ("bad", damaged(board(size=(200, 260)))[0])):
        cv2.imwrite(str(folder / f"{name}.png"), pixels)
    shutil.copy(folder / "good.png", folder / "other.png")
    return folder


@pytest.mark.parametrize("how", [["."], ["*.png"], ["--samples", "."], ["--samples", "*.png"]])
def test_a_folder_or_a_pattern_names_samples_and_the_template_among_them_is_none(
    boards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: list[str]
) -> None:
    monkeypatch.chdir(boards)
    assert run("inspect", *how, "-t", "good.png", "-o", tmp_path / "out")[0] == 0
    assert pd.read_csv(tmp_path / "out" / "summary.csv").set_index("name").answer.to_dict() == {"bad": "bad", "other": "good"}


def test_a_sample_without_a_template_of_its_own_fails_alone(boards: Path, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    shutil.copy(boards / "good.png", tmp_path / "templates" / "bad.png")
    status, told, _ = run("inspect", boards, "-t", tmp_path / "templates", "-o", tmp_path / "out")
    said = {entry["name"]: entry["answer"] for entry in json.loads((tmp_path / "out" / "run.json").read_text())["inputs"]}
    assert (status, said) == (1, {"bad": "bad", "good": "error", "other": "error"})
    assert "other.png: No such file" in " ".join(told.split())


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (["none*.png"], "no file matches none*.png"),
        (["good.png*"], "good.png* holds the template alone"),
        (["."], "expected a template nothing.png, found none"),
    ],
)
def test_samples_that_are_none_are_one_clear_line(
    boards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: list[str], says: str
) -> None:
    monkeypatch.chdir(boards)
    template = "nothing.png" if how == ["."] else "good.png"
    status, _, error = run("inspect", *how, "-t", template, "-o", tmp_path / "out")
    assert (status, says in error) == (2, True), error
    assert not (tmp_path / "out").exists()
