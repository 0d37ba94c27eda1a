"""The house keeps its own rules: imports run downward, files and functions stay short, one file knows half pixels."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fiducial"
SOURCES = sorted(PACKAGE.rglob("*.py"))
FAMILIES = ("blobs", "defects", "landmarks", "places")
BESIDE = {
    "landmarks": {"views"},
    "places": {"proposals", "sweep", "verifier"},
}  # rooms of a family beside the four files that each has

LEVELS = (
    {"version", "coords", "patchwork", "answer"},
    {"records", "layers", "regions"},
    {"images", "device", "encoders"},
    {"drawing", "estimation", "geometry", "metrics", "augment", "pages", "resampling", "banners"},
    {"crowds", "georeference", "ties"},
    {"formats", "matching", "synth", "tiles", "steps", "datasets", "confidence", "scaled"},
    {"scenes", "voting"},
    set(FAMILIES),
    {"weights"},
    {"evaluate"},
    {"train", "api", "inputs"},
    {"runs", "outputs"},
    {"report"},
    {"inspections", "searches", "detections", "registrations"},
    {"cli"},
    {"__main__"},
)
# A record's save, to_frame and plot are doors to what is above it.
EXCEPTIONS = {("records", "formats"), ("records", "drawing"), ("records", "scaled"), ("records", "resampling")}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(name: str) -> int:
    return next(i for i, names in enumerate(LEVELS) if name in names)


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fiducial":
            parts = (node.module or "").split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), "imports are absolute"
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fiducial.")}
    return rooms


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name != "__init__.py"], ids=str)
def test_imports_run_downward_only(path: Path) -> None:
    own = room(path)
    for other in imported_rooms(path) - {own}:
        assert level(other) < level(own) or (own, other) in EXCEPTIONS, f"{own} must not import {other}"


def test_files_beside_the_package_stay_within_the_limit_too() -> None:
    beside = [
        path for room in ("benchmarks", "docs", "examples", "fuzz", "recipes", "tests") for path in (ROOT / room).glob("*.py")
    ]
    assert len(beside) > 50
    assert [path.name for path in beside if len(path.read_text().splitlines()) > 450] == []


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_files_functions_and_signatures_stay_within_the_limits(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 450
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
            length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert length <= 60, f"{path.name}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name != "coords.py"], ids=str)
def test_only_coords_knows_half_pixels(path: Path) -> None:
    assert not re.search(r"\+ 0\.5\b|align_corners", path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_pickle_no_lax_loading_no_drawers(path: Path) -> None:
    assert not re.search(r"pickle\.|torch\.load|torch\.save|allow_pickle|strict=False\)", path.read_text())
    assert path.stem not in {"utils", "common", "helpers", "core", "base"}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_share_one_floor_plan(family: str) -> None:
    for file, names in {"network": ("Config", "Output"), "loss": ("loss",), "samples": ("make_sample",)}.items():
        tree = ast.parse((PACKAGE / family / f"{file}.py").read_text())
        defined = {n.name for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        assert set(names) <= defined, f"{family}/{file}.py must define {names}"
    beside = BESIDE.get(family, set())
    others = {p.stem: p for p in (PACKAGE / family).glob("*.py") if p.stem not in {"network", "loss", "samples", "__init__"}}
    assert beside <= set(others)
    assert len(others) == 1 + len(beside), f"{family}/ must have one owner beside {beside}"
    assert re.search(r"^def decode\(", "\n".join(p.read_text() for p in others.values()), re.MULTILINE)


def test_help_answers_without_loading_the_heavy_libraries() -> None:
    code = "import sys, fiducial.cli; sys.exit(any(m in sys.modules for m in ('torch', 'cv2', 'pandas', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_dependency_has_its_reason() -> None:
    text = (PACKAGE.parent / "pyproject.toml").read_text()
    for line in text.splitlines():
        if re.match(r'\s+"[a-z0-9-]+[<>=]', line):
            assert "#" in line, line


def test_tables_of_the_docs_agree_with_the_result_files() -> None:
    script = PACKAGE.parent / "benchmarks" / "tables.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
