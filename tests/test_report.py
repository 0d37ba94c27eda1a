"""A page shows what a run left, takes no name for HTML, needs nothing from elsewhere, and says what is missing."""

import base64
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from PIL import Image as PillowImage
from test_api import board, damaged
from typed import run as fiducial

from fiducial import pages
from fiducial.coords import shift, similarity
from fiducial.images import from_array, write_omezarr
from fiducial.records import InputError

HOSTILE = '<script>alert("1")&<b>\'.png'
ANSWERS = {"detect": "blobs", "inspect": "bad", "locate": "found", "register": "accepted"}


class Parsed(HTMLParser):
    """The tags of a page with their attributes, the text that is read, and the boxes of code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.codes, self.open = "", [], [""]
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "pre":
            self.codes.append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "pre" in self.open:
            self.codes[-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def dots(seed: int) -> np.ndarray:
    """A picture of bright dots."""
    rng = np.random.default_rng(seed)
    image = np.full((90, 130), 40, np.uint8)
    for y in range(18, 80, 24):
        for x in range(18, 120, 24):
            cv2.circle(image, (x, y), int(rng.integers(5, 8)), 210, -1, cv2.LINE_AA)
    return image


def ground() -> np.ndarray:
    """A picture that looks alike nowhere."""
    rng = np.random.default_rng(3)
    layers = [
        cv2.resize(rng.random((n, n + 3), dtype=np.float32), (300, 260), interpolation=cv2.INTER_CUBIC) for n in (9, 24, 60)
    ]
    return np.clip(255 * (0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the four verbs' commands write of small pictures."""
    home = tmp_path_factory.mktemp("report")
    (home / "in").mkdir()
    PillowImage.fromarray(dots(0)).save(home / "in" / HOSTILE)
    PillowImage.fromarray(dots(1)).save(home / "in" / "plain.png")
    for name, image in {"good": board(), "sample": damaged(board())[0], "ground": ground()}.items():
        PillowImage.fromarray(image).save(home / f"{name}.png")
    view = shift(40, 60) @ similarity(1.0, 8.0)
    PillowImage.fromarray(cv2.warpAffine(ground(), np.linalg.inv(view)[:2], (170, 150))).save(home / "view.png")
    detect = ("detect", home / "in", "--min-probability", 0.6)
    for words in (
        detect,
        ("inspect", home / "sample.png", "-t", home / "good.png"),
        ("locate", home / "view.png", home / "ground.png", "--scale", 1),
        ("register", home / "view.png", home / "ground.png", "--turn-deg", 15, "--scale", 1),
    ):
        status, _, error = fiducial(*words, "-o", home / "runs" / words[0])
        assert status == 0, error
    return home


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    """A copy of the folder of one run of `detect`, to be spoiled."""
    return Path(shutil.copytree(written / "runs" / "detect", tmp_path / "run"))


def page_of(folder: Path, *words: object) -> Parsed:
    status, _, error = fiducial("report", folder, "-o", folder.parent / "page.html", *words)
    assert status == 0, error
    return Parsed((folder.parent / "page.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("verb", ANSWERS)
def test_what_a_run_of_each_verb_left_becomes_a_page(written: Path, verb: str) -> None:
    folder = written / "runs" / verb
    page, stated = page_of(folder), json.loads((folder / "run.json").read_text())
    assert page.codes[0].startswith(f"fiducial {verb} ")
    assert stated["weights"]["sha256"] in page.text
    assert ANSWERS[verb] in page.text
    for entry in stated["inputs"]:
        assert entry["name"] in page.text
        assert f"{entry['seconds']:.2f} s" in page.text
        shown = [picture["alt"] or "" for picture in page.named("img")]
        for path in entry["files"].values():
            assert any(Path(path if isinstance(path, str) else path[0]).name in alt for alt in shown)
        assert any(f"overlay.png of {entry['name']}" in alt for alt in shown)
    assert "missing" not in page.text
    assert "left out" not in page.text


def test_the_table_shows_its_first_rows_and_says_how_many_there_are(written: Path) -> None:
    page = page_of(written / "runs" / "detect")
    rows = pd.read_csv(written / "runs" / "detect" / "plain" / "blobs.csv")
    assert len(rows) > 6
    assert f"blobs.csv, the first 6 of {len(rows)} rows" in page.text
    assert f"{rows['y_px'][5]:.3f}" in page.text
    assert f"{rows['y_px'][6]:.3f}" not in page.text


@pytest.mark.parametrize("verb", ANSWERS)
def test_the_python_lines_give_the_same_answer_again(written: Path, verb: str) -> None:
    lines = page_of(written / "runs" / verb).codes[-1]
    names: dict[str, object] = {}
    exec(lines, names)  # as a reader of the page would
    table = pd.read_csv(written / "runs" / verb / "summary.csv").iloc[-1]
    found = names["found"]
    again = {
        "detect": lambda: len(found) == table["count"],
        "inspect": lambda: (found.verdict, len(found)) == (table["answer"], table["defects"]),
        "locate": lambda: found.score[0] == pytest.approx(table["probability"], abs=1e-4),
        "register": lambda: found.error_px == pytest.approx(table["error_px"], abs=1e-3),
    }
    assert again[verb]()
    assert ("min_probability=0.6" in lines) == (verb == "detect")


def test_names_of_files_never_become_part_of_the_page(written: Path) -> None:
    page = page_of(written / "runs" / "detect", "--title", "</title><script>")
    assert HOSTILE in page.text
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert any(HOSTILE in (picture["alt"] or "") for picture in page.named("img"))


def test_a_page_asks_for_nothing_from_elsewhere(written: Path) -> None:
    page = page_of(written / "runs")
    links = [str(value) for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    text = (written / "page.html").read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text
    assert "://" not in text


def test_many_runs_share_a_page_and_every_link_leads_somewhere(written: Path) -> None:
    page = page_of(written / "runs")
    anchors = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {str(attributes["href"]).removeprefix("#") for attributes in page.named("a")}
    assert links <= anchors
    assert {"run-1", "run-2", "run-3", "run-4", "run-1-2"} <= links
    assert "4 runs of fiducial, 5 inputs" in page.text


@pytest.mark.parametrize("left", ["nothing", "other tables", "no folder"])
def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path, left: str) -> None:
    folder = tmp_path / "folder"
    if left != "no folder":
        folder.mkdir()
    if left == "other tables":
        (folder / "summary.csv").write_text("name,price\nbread,3\n")
        (folder / "run.json").write_text('{"speed": 3}')
    status, _, error = fiducial("report", folder)
    assert status == 2
    assert len(error.strip().splitlines()) == 1
    assert "expected a folder" in error
    assert not (folder / "index.html").exists()


def test_what_is_missing_is_said(run: Path) -> None:
    (run / "plain" / "overlay.png").unlink()
    (run / "plain" / "blobs.csv").unlink()
    stated = json.loads((run / "run.json").read_text())
    stated["inputs"][1]["files"]["image"] = "gone.png"
    (run / "run.json").write_text(json.dumps(stated))
    page = page_of(run)
    assert "overlay.png is missing" in page.text
    assert "blobs.csv is missing" in page.text
    assert "gone.png is not there any more" in page.text
    assert len(page.named("img")) == 2  # the other input's


@pytest.mark.parametrize("spoil", [b"", b"\x89PNG\r\n\x1a\n broken", b"GIF89a"])
def test_a_drawing_that_is_damaged_is_left_out_and_said(run: Path, spoil: bytes) -> None:
    (run / "plain" / "overlay.png").write_bytes(spoil)
    (run / "plain" / "blobs.json").write_bytes(spoil)
    (run / "plain" / "blobs.csv").write_bytes(spoil)
    assert "overlay.png is left out" in page_of(run).text


def test_weights_are_told_where_no_record_is_left_to_state_them(run: Path) -> None:
    stated = json.loads((run / "run.json").read_text())
    for entry in stated["inputs"]:
        (run / entry["name"] / "blobs.json").unlink()
    assert stated["weights"]["sha256"] in page_of(run).text


@pytest.mark.skipif(find_spec("zarr") is None, reason="needs the extra zarr")
def test_an_image_that_is_omezarr_is_shown(run: Path) -> None:
    write_omezarr(run.parent / "dots.zarr", from_array(dots(3)))
    stated = json.loads((run / "run.json").read_text())
    stated["inputs"][0]["files"]["image"] = str(run.parent / "dots.zarr")
    (run / "run.json").write_text(json.dumps(stated))
    page = page_of(run)
    assert "dots.zarr" in page.text
    assert "left out" not in page.text


def test_a_run_without_its_run_json_is_shown_from_its_summary(run: Path) -> None:
    (run / "run.json").unlink()
    page = page_of(run)
    assert "The command is not recorded" in page.text
    assert page.codes == []
    assert len(page.named("img")) == 4
    count = pd.read_csv(run / "summary.csv")["count"].sum()
    assert f"{count} blobs" in page.text


@pytest.mark.parametrize(
    "change",
    [{"inputs": [{"name": "../in", "files": {}, "answer": "done"}]}, {"inputs": [3]}, {"inputs": 3}, {"options": 3}],
    ids=str,
)
def test_a_damaged_run_json_is_refused_in_one_line(run: Path, change: dict[str, object]) -> None:
    (run / "run.json").write_text(json.dumps(json.loads((run / "run.json").read_text()) | change))
    status, _, error = fiducial("report", run)
    assert status == 2
    assert len(error.strip().splitlines()) == 1
    assert "run.json is damaged" in error


def test_another_programs_run_json_is_passed_over(run: Path) -> None:
    for place, text in (("other", "[]"), ("more", "no JSON"), ("last", '{"verb": "walk"}')):
        (run.parent / "both" / place).mkdir(parents=True, exist_ok=True)
        (run.parent / "both" / place / "run.json").write_text(text)
    shutil.move(run, run.parent / "both" / "run")
    assert len(page_of(run.parent / "both").named("img")) == 4


def test_a_page_that_could_not_be_written_is_refused_in_one_line(run: Path) -> None:
    os.mkfifo(run.parent / "pipe")
    for out, why in ((run, "is a folder"), (run.parent / "pipe", "is no file")):
        status, _, error = fiducial("report", run, "-o", out)
        assert (status, len(error.strip().splitlines())) == (2, 1)
        assert why in error


def test_only_so_many_inputs_are_shown_and_the_page_says_so(run: Path) -> None:
    page = page_of(run, "--most", 1)
    assert "The first 1 of 2 inputs are shown" in page.text
    assert len(page.named("img")) == 2


def test_the_page_of_several_runs_counts_all_inputs(written: Path) -> None:
    page = page_of(written / "runs", "--most", 1)
    assert "The first 1 of 2 inputs are shown" in page.text
    assert "4 runs of fiducial, 5 inputs" in page.text


def test_map_coordinates_in_degrees_tell_neighbors_apart(run: Path) -> None:
    degrees = {"map_x": [11.57512341, 11.57512355, np.nan], "map_y": [48.1371, 48.13710021, 48.1371]}
    far = {"corner0_map_x": [500000.25, 500000.5, 512345.0], "corner0_map_y": [1e-7, np.inf, 5e5]}
    pd.DataFrame({"y_px": [123.45678, 2, 3]} | degrees | far).to_csv(run / "plain" / "blobs.csv", index=False)
    summary = pd.read_csv(run / "summary.csv")
    summary.assign(map_x=[48.25000011, 48.25000022][: len(summary)]).to_csv(run / "summary.csv", index=False)
    page = page_of(run).text
    assert "48.25000011" in page
    for words in ("11.57512341", "11.57512355", "48.13710000", "48.13710021", "500000.25", "500000.50", "512345.00", "1e-07"):
        assert words in page
    assert "123.46" in page


def test_notes_stand_on_the_page_as_text(run: Path) -> None:
    (run / "notes.txt").write_text("Lens 2 <b>was</b> dusty.\n\nSecond night.")
    page = page_of(run)
    assert "Lens 2 <b>was</b> dusty." in page.text
    assert "b" not in {tag for tag, _ in page.tags}


def test_inputs_are_found_from_another_folder(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(shutil.copytree(written, tmp_path / "home"))
    monkeypatch.chdir(home)
    status, _, error = fiducial("detect", "in/plain.png", "-o", "fresh/run")
    assert status == 0, error
    monkeypatch.chdir(home / "fresh")
    assert len(page_of(Path("run")).named("img")) == 2


def test_a_file_of_the_same_name_that_lies_here_is_not_taken_for_the_runs(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = Path(shutil.copytree(written, tmp_path / "home")), tmp_path / "elsewhere"
    monkeypatch.chdir(home)
    assert fiducial("detect", "in/plain.png", "-o", "fresh")[0] == 0
    (elsewhere / "in").mkdir(parents=True)
    PillowImage.fromarray(dots(1)[:77]).save(elsewhere / "in" / "plain.png")
    monkeypatch.chdir(elsewhere)
    text = page_of(home / "fresh").text
    assert "130 × 90 px" in text
    assert "130 × 77 px" not in text


@given(
    st.lists(st.sampled_from(["<b>", "&lt;", "</p>", "<!--", '"', "'", "&", " ", "a"]), min_size=1).map("".join)
    | st.text(min_size=1)
)
def test_any_text_is_read_back_from_a_page_as_it_was(text: str) -> None:
    readable = text.replace("\r", "").replace("\0", "")
    frame = pd.DataFrame({readable: [readable], "count": [3]})
    parts = [pages.paragraph(readable), pages.note(readable), pages.code(readable, readable), pages.answer(readable)]
    parts += [pages.key_values([(readable, readable)]), pages.table(frame, readable), pages.link(readable, readable)]
    page = Parsed(pages.page(readable, pages.section(readable, *parts, anchor=readable), lead=readable, foot=readable))
    plain = Parsed(pages.page("a", pages.section("a", *(Markup(str(part)) for part in parts), anchor="a"), lead="a", foot="a"))
    assert [tag for tag, _ in page.tags if tag != "wbr"] == [tag for tag, _ in plain.tags if tag != "wbr"]
    assert page.text.count(readable) >= 14
    assert page.named("section")[0].get("id", "") == readable


def test_a_folder_whose_name_is_no_text_gets_its_page(run: Path) -> None:
    strange = run.rename(run.parent / "caf\udce9")
    page = page_of(strange)
    assert "detect: caf?" in page.text
    assert len(page.named("img")) == 4


def test_numbers_stand_to_the_right_with_equal_decimals_and_what_is_undefined_is_a_dash() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "px": [118.936879, 48.912], "n": [3.0, np.nan], "small": [1e-9, 250.0]})
    page = pages.table(frame.astype({"px": np.float32}).assign(said=["0.5", ""]))
    cells = re.findall("<td([^>]*)>([^<]*)</td>", page)
    assert [cell for _, cell in cells] == ["a", "118.94", "3", "1e-09", "0.5", "b", "48.91", "–", "250", ""]
    assert [bool(attributes) for attributes, _ in cells] == 2 * [False, True, True, True, True]


def test_a_picture_is_reduced_and_stays_what_it_was() -> None:
    picture = np.zeros((300, 500, 3), np.uint8)
    picture[:, 250:] = (200, 30, 40)
    (shown,) = Parsed(pages.figure(PillowImage.fromarray(picture), "halves", "", 100)).named("img")
    assert (shown["width"], shown["height"], shown["alt"]) == ("100", "60", "halves")
    kind, data = str(shown["src"]).split(";base64,")
    assert kind == "data:image/png"  # smaller than JPEG for a drawing
    with PillowImage.open(io.BytesIO(base64.b64decode(data))) as back:
        pixels = np.asarray(back).astype(int)
    assert np.abs(pixels[30, 20] - 0).max() <= 2
    assert np.abs(pixels[30, 80] - (200, 30, 40)).max() <= 2


def test_what_shows_through_a_picture_is_white_on_the_page() -> None:
    file = io.BytesIO()
    PillowImage.new("RGBA", (7, 5), (10, 20, 30, 0)).save(file, "PNG")
    (shown,) = Parsed(pages.figure(file.getvalue(), "nothing")).named("img")
    data = base64.b64decode(str(shown["src"]).split(",")[1])
    with PillowImage.open(io.BytesIO(data)) as back:
        assert back.convert("RGB").getpixel((3, 2)) == (255, 255, 255)


def test_a_figure_needs_words_and_a_picture() -> None:
    with pytest.raises(ValueError, match="alt"):
        pages.figure(PillowImage.new("L", (3, 2)), " ")
    with pytest.raises(InputError, match="cannot show"):
        pages.figure(b"BM not a picture", "bitmap")
    with pytest.raises(InputError, match="nowhere"):
        pages.figure(Path("nowhere.png"), "gone")
