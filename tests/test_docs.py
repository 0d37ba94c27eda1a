"""The docs tell the truth: their commands exist, their Python runs, their lists are complete."""

import ast
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import tifffile
import typer
from skimage import data

import fiducial
from fiducial.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

import cli_page  # noqa: E402

PAGES = sorted(page for page in (ROOT / "README.md", *DOCS.rglob("*.md")) if page.name != "benchmarks.md")
WITH_PYTHON = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]
COMMANDS = [
    (page.name, line.removeprefix("$ "))
    for page in PAGES
    for line in page.read_text(encoding="utf-8").splitlines()
    if line.startswith("$ fiducial")
]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put files under the names that the pages call those of a reader."""
    monkeypatch.chdir(tmp_path)
    coins, brick, gravel, scene = data.coins(), data.brick()[:150, :170], data.gravel(), data.camera()[100:300, 120:340]
    board = brick.copy()
    cv2.line(board, (60, 50), (90, 95), 215, 3)
    tifffile.imwrite("nuclei.tif", coins[:120, :130])
    cv2.imwrite("board.png", board)
    cv2.imwrite("good.png", brick)
    tifffile.imwrite("overview.tif", cv2.resize(gravel[:400, :440], (220, 200), interpolation=cv2.INTER_AREA))
    tifffile.imwrite("zoom.tif", gravel[100:250, 120:260])
    tifffile.imwrite("optical.tif", scene)
    tifffile.imwrite("sar.tif", 255 - scene[20:190, 10:200])
    tifffile.imwrite("scene.tif", scene)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
@pytest.mark.usefixtures("files")
def test_the_python_of_a_page_runs_from_its_top_to_its_end(page: Path) -> None:
    known: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(page), "exec"), known)
    assert "fiducial" in known


def parse(words: list[str]) -> None:
    """Parse a command line as the program does; raises what the program would tell."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command = command.commands[words[0]]
        words = words[1:]
    command.make_context("fiducial", words)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_of_the_docs_can_be_parsed(page: str, line: str) -> None:
    assert page
    with suppress(typer.Exit):  # --help, --version
        parse(shlex.split(line)[1:])


def test_a_command_that_does_not_exist_cannot_be_parsed() -> None:
    with pytest.raises(KeyError):
        parse(["measure", "a.png"])
    with pytest.raises(Exception, match="No such option"):
        parse(["detect", "a.png", "--radius", "3"])


def test_every_option_that_the_docs_name_is_one_of_the_program() -> None:
    known = {"--help", "--version"}
    for _, command in cli_page.commands(typer.main.get_command(app)):
        known |= {word for option in command.params for word in (*option.opts, *option.secondary_opts)}
    for page in PAGES:
        if page.parent.name != "model_cards":  # they name options of the benchmarks
            named = set(re.findall(r"`(--[a-z-]+)", page.read_text(encoding="utf-8")))
            assert named <= known, page.name


def test_the_page_of_the_command_line_is_the_programs() -> None:
    assert cli_page.PAGE.read_text(encoding="utf-8") == cli_page.page(), "run make docs"


def test_every_command_has_an_example_that_names_it_in_its_help() -> None:
    told = dict(cli_page.commands(typer.main.get_command(app)))
    assert len(told) > 15
    for name, command in told.items():
        assert f"Example: {name} " in " ".join(command.help.split())


def test_the_page_of_python_has_every_public_name_once() -> None:
    shown = re.findall(r"^::: fiducial\.\w+\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(shown) == sorted(set(fiducial.__all__) - {"__version__"})


def told() -> str:
    """Return every text of the package as it stands in the source, one to a line, … for what is filled in."""
    texts = []
    for path in (ROOT / "fiducial").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_every_line_that_troubleshooting_explains_is_one_that_the_package_tells() -> None:
    source = told()
    lines = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) > 20
    for line in lines:
        for piece in line.split("…"):
            assert piece.strip() in source, line


@pytest.mark.parametrize("page", sorted((DOCS / "theory").glob("*.md")), ids=lambda page: page.name)
def test_equations_are_numbered_once_and_every_number_cited_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    numbers = re.findall(r"\\tag\{(\w+)\}", text)
    assert len(numbers) == len(set(numbers)) >= 10
    formulas = re.findall(r"\$\$.+?\$\$", text, re.DOTALL)
    assert len(formulas) == len(numbers), "each formula on a line of its own has a number"
    before = text.split("## Deviations from the paper")[0]  # there, numbers are the paper's
    assert set(re.findall(r"(?:eq\.|[Ee]quation) (\d+)", before)) <= set(numbers)


def test_every_room_stands_in_the_architecture_and_every_room_there_exists() -> None:
    plan = (DOCS / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    drawn = {word.strip("/") for line in plan.splitlines() if line for word in re.split(r"  +", line)[0].split(", ")}
    built = {
        path.stem for path in (ROOT / "fiducial").iterdir() if not path.name.startswith("_") and path.suffix in ("", ".py")
    }
    assert drawn == built


def test_a_formula_becomes_mathml_with_a_number_that_links_to_it() -> None:
    pytest.importorskip("mkdocs", reason="extra `docs` is not installed")
    import hooks  # noqa: PLC0415

    page = '<div class="arithmatex">\\[ a &lt; b^2 \\tag{7} \\]</div><span class="arithmatex">\\(x\\)</span>'
    drawn = hooks.on_page_content(page, None, None, None)
    assert drawn.count("<math") == 2
    assert 'id="eq-7"' in drawn
    assert '<a href="#eq-7">(7)</a>' in drawn
    assert "arithmatex" not in drawn
    with pytest.raises(ValueError, match="cannot be drawn"):
        hooks.mathml(r"\frac{1}{", display=True)


def test_a_page_that_would_load_a_script_from_the_net_stops_the_build() -> None:
    pytest.importorskip("mkdocs", reason="extra `docs` is not installed")
    import hooks  # noqa: PLC0415
    from mkdocs.exceptions import PluginError  # noqa: PLC0415
    from mkdocs.structure.files import File  # noqa: PLC0415

    page = SimpleNamespace(file=File("a.md", "docs", "site", use_directory_urls=False))
    linked = '<a href="https://example.org/x.js">a link is no load</a><script src="own.js"></script>'
    assert hooks.on_post_page(linked, page, None) == linked
    with pytest.raises(PluginError, match=r"a\.md: a page must load nothing"):
        hooks.on_post_page('<script async src="https://example.org/x.js"></script>', page, None)


def test_every_function_on_the_ways_through_the_house_exists() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    ways = re.findall(r"`([^`]*→[^`]*)`", text)
    steps = {step for way in ways for step in re.findall(r"\b([a-z]+)\.([a-z_]+)\b", way)} - {
        ("run", "json"),
        ("summary", "csv"),
    }
    assert len(steps) > 15
    for room, name in steps:
        files = [ROOT / "fiducial" / f"{room}.py", *(ROOT / "fiducial" / room).glob("*.py")]
        source = "".join(path.read_text(encoding="utf-8") for path in files if path.is_file())
        assert re.search(rf"^(def|class) {name}\b", source, re.MULTILINE), f"{room}.{name}"
