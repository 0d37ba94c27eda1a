"""Paths, folders and patterns name the inputs that a person means, each under a name of its own."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from fiducial import inputs
from fiducial.images import open_image
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


def test_a_folder_is_searched_for_large_tiffs_by_all_their_names(folder: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name in ("a.btf", "b.tf8", "c.TF2", "d.tiff"):
        tifffile.imwrite(folder / "in" / name, pixels, bigtiff=True)
    (folder / "in" / "e.bft").touch()
    found = inputs.choose_images([Path("in")])
    assert [path.name for path in found] == ["a.btf", "b.tf8", "c.TF2", "d.tiff"]
    assert all(np.array_equal(open_image(path).read(), pixels) for path in found)


def test_what_a_run_wrote_of_an_image_is_no_match_of_a_pattern_for_folders_in_folders(folder: Path) -> None:
    for name in ("in/a.png", "in/res/a/overlay.png", "in/res/a/blobs.json", "in/res/mine.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert {path.name for path in inputs.choose_images([Path("in/**/*.png")])} == {"a.png", "mine.png"}


@pytest.mark.parametrize("at", ["out/a/a.png", "out/a/deeper/a.png", "link/a/a.png"])
def test_a_run_that_would_clear_away_what_it_reads_is_refused(folder: Path, at: str) -> None:
    (folder / "out").mkdir()
    (folder / "link").symlink_to(folder / "out")
    (folder / at).parent.mkdir(parents=True)
    (folder / at).touch()
    jobs = inputs.name_inputs([{"image": Path(at)}])
    with pytest.raises(InputError, match="where results would go: choose another --out"):
        inputs.check_folders(jobs, Path("out"))
    inputs.check_folders(jobs, Path("elsewhere"))


def test_a_file_where_a_folder_of_results_would_be_is_named_before_the_work(folder: Path) -> None:
    jobs = inputs.name_inputs([{"image": Path("in/a.png")}, {"image": Path("in/b.png")}])
    inputs.check_folders(jobs, folder)
    (folder / "b").touch()
    with pytest.raises(InputError, match=r"b is a file, where a folder of results would be"):
        inputs.check_folders(jobs, folder)
