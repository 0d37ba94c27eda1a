"""Paths, folders and patterns name the inputs that a person means, each under a name of its own."""

import os
import tempfile
from pathlib import Path

import pytest

from fiducial import inputs
from fiducial.records import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path


def test_folders_have_names_of_their_own_whatever_the_files_are_called() -> None:
    names = ["a.png", "sub/a.png", "A.tif", "run.json.png", "Summary.csv.tif", "...png", "x.y.png", "b\udcff.png", "c\nd.png"]
    jobs = inputs.name_inputs([{"image": Path(name)} for name in names])
    assert [job.name for job in jobs] == [
        "a", "a_2", "A_3", "run.json_2", "Summary.csv_2", "image", "x.y", "b\ufffd", "c\ufffdd",
    ]  # fmt: skip


def test_links_that_lead_back_do_not_prolong_a_pattern(folder: Path) -> None:
    for name in ("in/one.png", "in/deep/two.png", "in/deep/deeper/three.png", "in/.hidden/no.png", "in/deep/no.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    for at in ("in/back", "in/deep/back", "in/deep/deeper/back"):
        (folder / at).symlink_to(folder / "in")
    (folder / "in" / "itself.png").symlink_to(folder / "in" / "itself.png")
    expected = {"one.png", "two.png", "three.png"}
    for pattern in ("in/**/*.png", str(folder / "in/**/*.png"), "i*/**/*.png"):
        assert sorted(path.name for path in inputs.choose_images([Path(pattern)])) == sorted(expected)
    assert {path.name for path in inputs.choose_images([Path("**/deep/**/*.png")])} == expected - {"one.png"}
    assert {path.name for path in inputs.choose_images([Path("in/deep/**")])} == expected - {"one.png"} | {"no.txt"}


def test_a_folder_that_may_not_be_read_is_named() -> None:
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        (Path(name) / "closed").mkdir(mode=0)
        if me == 0:
            os.seteuid(65534)  # root may read every folder, nobody may not
        try:
            with pytest.raises(InputError, match=r"cannot read .*closed: Permission denied"):
                inputs.choose_images([Path(name) / "closed"])
        finally:
            os.seteuid(me)
