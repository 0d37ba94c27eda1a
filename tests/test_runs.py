"""A run into a folder can be trusted: it says what it did, goes on where it was stopped, and leaves nothing half written."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from test_api import board, damaged
from typed import run as fiducial_says

import fiducial
from fiducial import inputs, runs, weights
from fiducial.inputs import Input
from fiducial.records import InputError
from fiducial.runs import Answer, Outcome, Run

SHIPPED = weights.load("blobs")
DETECT = ("detect", "in", "--device", "cpu", "-o", "out")


def tables(out: Path) -> dict[str, str]:
    """What a run says, without what its clock says."""
    said = json.loads((out / "run.json").read_text())
    for entry in said["inputs"]:
        del entry["seconds"]
    return {path.name: path.read_text() for path in out.glob("*.csv")} | {"inputs": json.dumps(said["inputs"])}


def crowd(seed: int, size: tuple[int, int] = (60, 72), noise: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    image = rng.normal(40, noise, size)
    for _ in range(5):
        cy, cx = rng.uniform(8, 50, 2)
        image += 120 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 30)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    return tmp_path


# --- runs of a verb that only counts how often it is asked


def counted_run(out: Path, paths: Sequence[Path], **options: object) -> Run:
    jobs = inputs.name_inputs([{"image": path} for path in paths])
    return runs.plan("detect", jobs, out, {"level": 0.5} | options, SHIPPED, ["detect"])


def counting(asked: list[str], fail: Sequence[str] = (), stop: str = "", unfit: str = "") -> Callable[[Input], Answer]:
    """A verb that answers with the bytes of its file, fails for some, is stopped at one, or fails, half its files written."""

    def ask(job: Input) -> Answer:
        asked.append(job.name)
        path = job.files["image"]
        assert isinstance(path, Path)
        if job.name in fail:
            raise InputError(f"{path.name} cannot be read")

        def write(to: Path) -> None:
            for part in ("a", "b"):
                (to / f"{part}.txt").write_text(path.read_text() + part)
                if job.name in (stop, unfit):
                    raise KeyboardInterrupt if job.name == stop else InputError("no file can hold it")

        size = path.stat().st_size
        return Answer("done", "", {"bytes": size, "share": 1 / size, "none": float("nan")} | {f"n_{size}": 1}, write)

    return ask


def carried_out(run: Run, ask: Callable[[Input], Answer]) -> list[Outcome]:
    kept = runs.earlier(run)
    return runs.in_order(run, [*kept, *runs.carry_out(run, ask, kept, ("a.txt", "b.txt"))])


@pytest.fixture
def files(folder: Path) -> list[Path]:
    paths = [folder / "in" / f"{name}.png" for name in "abcd"]
    for n, path in enumerate(paths, start=2):
        path.write_text("x" * n)
    return paths


@settings(max_examples=20)
@given(
    failing=st.sets(st.sampled_from("abcd")),
    mended=st.sets(st.sampled_from("abcd")),
    stop=st.sampled_from("abcd"),
)
def test_a_run_that_went_on_says_the_same_as_one_that_was_never_stopped(failing: set[str], mended: set[str], stop: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / f"{letter}.png" for letter in "abcd"]
        for n, path in enumerate(paths, start=2):
            path.write_text("x" * n)
        stopped, whole = counted_run(Path(name) / "stopped", paths), counted_run(Path(name) / "whole", paths)
        asked: list[str] = []
        interrupted = stop not in failing
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                carried_out(stopped, counting(asked, tuple(failing), stop))
            assert asked == list("abcd"[: "abcd".index(stop) + 1])
        else:
            carried_out(stopped, counting(asked, tuple(failing)))
        done = set(asked) - failing - ({stop} if interrupted else set())
        asked.clear()
        carried_out(stopped, counting(asked, tuple(failing - mended)))
        assert set(asked) == set("abcd") - done
        carried_out(whole, counting([], tuple(failing - mended)))
        assert tables(stopped.out) == tables(whole.out)


def test_a_table_has_whole_numbers_beside_none_and_why_at_its_end(folder: Path, files: list[Path]) -> None:
    carried_out(counted_run(folder / "out", files[:2]), counting([], ["a"]))
    assert (folder / "out" / "summary.csv").read_text() == (
        "name,image,answer,bytes,share,none,n_3,why\n"
        f"a,{files[0]},error,,,,,a.png cannot be read\nb,{files[1]},done,3,0.3333333333333333,,1,\n"
    )


def change(path: Path) -> None:
    path.write_text(path.read_text())  # of the same size
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    ("alter", "options", "anew"),
    [
        (lambda _: None, {}, []),
        (lambda root: change(root / "in" / "b.png"), {}, ["b"]),
        (lambda root: (root / "out" / "c" / "b.txt").unlink(), {}, ["c"]),
        (lambda root: (root / "out" / "run.json").unlink(), {}, ["a", "b", "c", "d"]),
        (lambda _: None, {"level": 0.6}, ["a", "b", "c", "d"]),
    ],
    ids=["nothing", "a file", "a result", "the record", "an option"],
)
def test_what_changed_since_the_last_run_is_computed_anew(
    folder: Path, files: list[Path], alter: Callable[[Path], None], options: dict[str, object], anew: list[str]
) -> None:
    asked: list[str] = []
    carried_out(counted_run(folder / "out", files), counting([]))
    alter(folder)
    carried_out(counted_run(folder / "out", files, **options), counting(asked))
    assert asked == anew


@pytest.mark.parametrize("key", ["fiducial", "verb", "weights"])
def test_a_run_of_another_version_verb_or_weights_is_not_gone_on_with(folder: Path, files: list[Path], key: str) -> None:
    carried_out(counted_run(folder / "out", files), counting([]))
    said = json.loads((folder / "out" / "run.json").read_text())
    (folder / "out" / "run.json").write_text(json.dumps(said | {key: "other"}))
    assert not runs.earlier(counted_run(folder / "out", files))


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", "[" * 100_000, "row: 5", "name: 5", "seconds: NaN", "inputs"])
def test_a_damaged_record_of_a_run_is_as_none(folder: Path, files: list[Path], text: str) -> None:
    carried_out(counted_run(folder / "out", files), counting([]))
    path = folder / "out" / "run.json"
    said = json.loads(path.read_text())
    key, _, value = text.partition(": ")
    said["inputs"] = 7 if text == "inputs" else [entry | {key: json.loads(value or "0")} for entry in said["inputs"]]
    path.write_text(json.dumps(said) if value or text == "inputs" else text)
    asked: list[str] = []
    carried_out(counted_run(folder / "out", files), counting(asked))
    assert asked == ["a", "b", "c", "d"]


def test_a_run_under_other_options_that_is_stopped_at_once_leaves_nothing_to_go_on_with(
    folder: Path, files: list[Path]
) -> None:
    carried_out(counted_run(folder / "out", files), counting([]))
    with pytest.raises(KeyboardInterrupt):
        carried_out(counted_run(folder / "out", files, level=0.6), counting([], stop="a"))
    asked: list[str] = []
    carried_out(counted_run(folder / "out", files), counting(asked))
    assert asked == ["a", "b", "c", "d"]


def test_inputs_that_came_to_a_folder_are_all_that_is_computed(folder: Path, files: list[Path]) -> None:
    carried_out(counted_run(folder / "out", files[1:3]), counting([]))
    asked: list[str] = []
    outcomes = carried_out(counted_run(folder / "out", files), counting(asked))
    assert asked == ["a", "d"]
    assert [outcome.name for outcome in outcomes] == ["a", "b", "c", "d"]


def test_what_a_failed_input_left_before_goes_and_other_files_stay(folder: Path, files: list[Path]) -> None:
    carried_out(counted_run(folder / "out", files), counting([]))
    (folder / "out" / "a" / "mine.txt").write_text("kept")
    carried_out(counted_run(folder / "out", files, level=0.6), counting([], ["a", "b"]))
    assert {str(path.relative_to(folder / "out")) for path in (folder / "out").glob("*/*")} == {
        "a/mine.txt", "c/a.txt", "c/b.txt", "d/a.txt", "d/b.txt",
    }  # fmt: skip
    assert not (folder / "out" / "b").exists()


def test_a_single_bad_input_leaves_the_run_of_before_as_it_was(folder: Path, files: list[Path]) -> None:
    carried_out(counted_run(folder / "out", files[:1]), counting([]))
    (folder / "out" / "blobs.csv").write_text("of the run before")
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    with pytest.raises(InputError):
        carried_out(counted_run(folder / "out", files[:1], level=0.6), counting([], ["a"]))
    assert {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()} == before
    with pytest.raises(KeyboardInterrupt):
        carried_out(counted_run(folder / "out", files[:1], level=0.6), counting([], stop="a"))
    assert json.loads((folder / "out" / "run.json").read_text())["inputs"] == []
    assert not (folder / "out" / "blobs.csv").exists()


def test_a_long_run_is_recorded_less_often_than_it_has_inputs_and_whole_at_its_end(folder: Path) -> None:
    paths = [folder / "in" / f"{n}.png" for n in range(150)]
    for n, path in enumerate(paths):
        path.write_text("x" * (1 + n % 3))
    run, record = counted_run(folder / "out", paths), folder / "out" / "run.json"
    outcomes = runs.carry_out(run, counting([]), (), ("a.txt", "b.txt"))
    written = {record.stat().st_mtime_ns: len(json.loads(record.read_text())["inputs"]) for _ in outcomes}
    assert len(written) < 75
    assert len(json.loads(record.read_text())["inputs"]) == 150
    with closing(runs.carry_out(run, counting([]), (), ("a.txt", "b.txt"))) as stopped:
        assert [next(stopped).name for _ in range(90)] == [str(n) for n in range(90)]
    assert len(json.loads(record.read_text())["inputs"]) == 90


def test_an_input_that_does_not_fit_into_memory_or_its_files_is_told_and_the_run_goes_on(
    folder: Path, files: list[Path]
) -> None:
    def ask(job: Input) -> Answer:
        return counting([], unfit="c")(job) if job.name != "b" else Answer("done", "", {}, np.empty(2**59).tofile)

    outcomes = carried_out(counted_run(folder / "out", files), ask)
    assert [outcome.answer for outcome in outcomes] == ["done", "error", "error", "done"]
    assert outcomes[1].why.startswith("not enough memory")
    assert outcomes[2].why == "no file can hold it"
    for one, said in ((1, MemoryError), (2, InputError)):
        with pytest.raises(said):
            carried_out(counted_run(folder / "alone", files[one : one + 1]), ask)
    assert not [*folder.glob("*/[bc]")]


def test_images_that_inputs_share_are_decoded_once_and_others_as_often_as_they_are_opened(folder: Path) -> None:
    paths = [folder / "in" / f"{n}.tif" for n in range(3)]
    for n, path in enumerate(paths):
        tifffile.imwrite(path, crowd(n), compression="zlib")
    jobs = inputs.name_inputs([{"moving": own, "fixed": paths[0]} for own in paths[1:]])
    run = runs.plan("register", jobs, folder / "out", {}, SHIPPED, [])
    open_shared = runs.sharing(run)
    np.testing.assert_array_equal(open_shared(paths[0]).read((3, 5, 30, 40)), crowd(0)[3:30, 5:40])
    for n, path in enumerate(paths):
        tifffile.imwrite(path, crowd(n + 5), compression="zlib")
    assert [np.array_equal(open_shared(path).read(), crowd(n)) for n, path in enumerate(paths)] == [True, False, False]
    assert not np.array_equal(runs.sharing(run, 72 * 59)(paths[0]), crowd(0))


# --- folders to write to


def make_out(kind: str, out: Path) -> None:
    if kind == "file":
        out.write_text("mine")
    elif kind == "loop":
        out.symlink_to(out)
    elif kind == "dangling":
        out.symlink_to(out.parent / "file" / "below")
        (out.parent / "file").touch()


@pytest.mark.parametrize("kind", ["file", "loop", "dangling", "below a file", "no such device", "a long name"])
@pytest.mark.parametrize("count", [1, 2])
def test_an_out_that_cannot_be_a_folder_is_one_line_and_status_two(folder: Path, kind: str, count: int) -> None:
    for n in range(count):
        PillowImage.fromarray(crowd(n)).save(folder / "in" / f"{n}.png")
    make_out(kind, folder / "out")
    other = {"below a file": "in/0.png/out", "no such device": "/proc/nothing", "a long name": "x" * 300}
    status, text, line = fiducial_says("detect", "in", "-o", other.get(kind, "out"))
    assert (status, text, line.count("\n")) == (2, "", 1), line
    assert line.startswith("fiducial: ")
    assert kind != "file" or (folder / "out").read_text() == "mine"


# --- the verbs


def make_inputs(verb: str) -> list[str]:
    """Write inputs of a verb, one of them broken; return the words that name them."""
    good = board()
    PillowImage.fromarray(good).save("good.png")
    if verb == "detect":
        for n in range(2):
            PillowImage.fromarray(crowd(n)).save(f"in/{n}.png")
        Path("in/b\udcff.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
        return ["in"]
    PillowImage.fromarray(damaged(good)[0][:200, :230] if verb == "locate" else damaged(good)[0]).save("in/one.png")
    two = {"register": good[::2, 10:300:2], "inspect": board(9)}.get(verb, board(9)[:200, :230])
    PillowImage.fromarray(two).save("in/two.png")
    Path("in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    options = {"inspect": ["--samples", "in", "-t", "good.png"], "locate": ["in", "good.png", "--scale", "1"]}
    return options.get(verb, ["in", "good.png", "--scale", "1", "--turn-deg", "0"])


@pytest.mark.parametrize("verb", ["detect", "inspect", "locate", "register"])
def test_each_verb_says_what_it_did_and_goes_on(folder: Path, verb: str) -> None:
    words = [verb, *make_inputs(verb), "--device", "cpu", "-o", "out"]
    first = fiducial_says(*words)
    assert first[0] == 1, first
    said = json.loads((folder / "out" / "run.json").read_text())
    assert (said["fiducial"], said["verb"]) == (fiducial.__version__, verb)
    assert said["options"]["min_probability"] == 0.5
    assert set(said["weights"]) == {"name", "sha256"}
    answers = {entry["name"]: entry["answer"] for entry in said["inputs"]}
    words_of = {"detect": {"done"}, "inspect": {"bad", "refused"}, "locate": {"found", "not here"}}
    assert set(answers.values()) <= words_of.get(verb, {"accepted", "refused"}) | {"error"}
    assert list(answers.values()).count("error") == 1
    roles = {"detect": "image", "inspect": "sample template", "locate": "query sources", "register": "moving fixed"}
    for entry in said["inputs"]:
        assert list(entry["files"]) == roles[verb].split()
        assert {path.name for path in (folder / "out" / entry["name"]).glob("*")} == set(entry["wrote"])
    before, written = tables(folder / "out"), {p: p.stat().st_mtime_ns for p in (folder / "out").glob("*/*")}
    again = fiducial_says(*words)
    assert again[:2] == first[:2]
    assert again[2] == "2 of 3 are taken from the run before, unchanged (--again computes them anew)\n"
    assert tables(folder / "out") == before
    assert {p: p.stat().st_mtime_ns for p in (folder / "out").glob("*/*")} == written


def test_all_is_computed_again_when_asked(folder: Path) -> None:
    words = ["detect", *make_inputs("detect"), "--device", "cpu", "-o", "out"]
    first = fiducial_says(*words)
    before, written = tables(folder / "out"), {p: p.stat().st_mtime_ns for p in (folder / "out").glob("*/*")}
    fresh = fiducial_says(*words, "--again")
    assert (fresh[:2], fresh[2]) == (first[:2], "")
    assert tables(folder / "out") == before
    assert not [path for path in (folder / "out").glob("*/*") if path.stat().st_mtime_ns == written[path]]


def test_the_table_of_all_blobs_is_that_of_the_images_and_goes_with_its_run(folder: Path) -> None:
    for n in range(2):
        PillowImage.fromarray(crowd(n)).save(folder / "in" / f"{n}.png")
    tifffile.imwrite(folder / "in" / "2.tif", crowd(2), ome=True, metadata={"PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0})
    assert fiducial_says(*DETECT)[0] == 0
    own = [pd.read_csv(folder / "out" / str(n) / "blobs.csv", dtype=str).assign(image=str(n)) for n in range(3)]
    joined = pd.concat(own)[["image", *own[2].columns.drop("image")]].reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "out" / "blobs.csv", dtype=str), joined)
    (folder / "out" / "1" / "blobs.csv").write_bytes(b"")  # as after a power cut
    assert fiducial_says(*DETECT)[0] == 0
    pd.testing.assert_frame_equal(pd.read_csv(folder / "out" / "blobs.csv", dtype=str), joined)
    assert fiducial_says(*DETECT, "--min-probability", "2")[0] == 2
    assert (folder / "out" / "blobs.csv").exists()
    with limited_files(3000):
        assert fiducial_says(*DETECT, "--again")[0] in (1, 2)
    assert not (folder / "out" / "blobs.csv").exists()


# --- full disks and interrupts


@contextmanager
def limited_files(most: int) -> Iterator[None]:
    """Let no file grow beyond some bytes: writing fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("large", [0, 1])
def test_a_full_disk_ends_a_run_with_one_line_and_nothing_half_written(folder: Path, large: int) -> None:
    for n in range(3):
        PillowImage.fromarray(crowd(n, (160, 190), 9.0 if n == large else 0.0)).save(folder / "in" / f"{n}.png")
    with limited_files(130_000):
        status, text, line = fiducial_says(*DETECT)
        alone = fiducial_says("detect", f"in/{large}.png", "--device", "cpu", "-o", "alone")
    assert (status, text) == ((1 if large else 2), "")
    assert line == f"fiducial: stopped after {large} of 3: cannot write out/{large}: File too large\n"
    assert (alone[0], alone[2]) == (2, f"fiducial: cannot write alone/{large}: File too large\n")
    assert not list(folder.rglob("*.part"))
    assert (folder / "out" / str(large)).is_dir()
    for path in (folder / "out").glob("*/*.json"):
        json.loads(path.read_text())
    assert fiducial_says(*DETECT)[2].startswith(f"{large} of 3 are taken" if large else "")
    assert [entry["answer"] for entry in json.loads((folder / "out" / "run.json").read_text())["inputs"]] == ["done"] * 3


def stopped_run(words: Sequence[str], after: int, how: int) -> tuple[int, str]:
    """Run a command with a terminal for its errors, and signal it once so many inputs are done."""
    main, side = os.openpty()
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import fiducial.cli as c; c.main()"
    alone = os.environ | {"OMP_NUM_THREADS": "1"}  # as these tests run: sums over threads may differ in their last digit
    with subprocess.Popen([sys.executable, "-c", code, *words], stderr=side, stdout=subprocess.DEVNULL, env=alone) as process:
        os.close(side)
        os.set_blocking(main, False)
        said, deadline, sent = b"", time.monotonic() + 300, False
        record = Path("out/run.json")
        with closing(os.fdopen(main, "rb", buffering=0)) as screen:
            while process.poll() is None and time.monotonic() < deadline:
                with suppress(OSError):  # the other end is closed
                    said += screen.read() or b""
                if not sent and record.exists() and len(json.loads(record.read_text())["inputs"]) >= after:
                    process.send_signal(how)
                    sent = True
                time.sleep(0.01)
            process.kill()
            with suppress(OSError):
                said += screen.read() or b""
        return process.wait(), said.decode()


def test_an_interrupted_run_says_how_far_it_came_and_goes_on_there(folder: Path) -> None:
    for n in range(8):
        PillowImage.fromarray(crowd(n)).save(folder / "in" / f"{n}.png")
    for after, how in ((2, signal.SIGINT), (4, signal.SIGTERM)):
        status, said = stopped_run(DETECT, after, how)
        done = len(json.loads((folder / "out" / "run.json").read_text())["inputs"])
        assert status == 130, said
        assert after <= done < 8
        last = said.replace("\r", "").strip().splitlines()[-1]
        told = re.search(r"fiducial: stopped after (\d+) of 8; run the same command again to go on$", last)
        assert told
        assert 0 <= done - int(told[1]) <= 1  # it may come while an outcome is written
        assert "Traceback" not in said
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
        assert re.search(rf"detecting \S+ +{told[1]}/8 +0:\d\d:\d\d left 0:\d\d:\d\d", shown), shown
        assert not list(folder.rglob("*.part"))
        for path in (folder / "out").glob("*/*.json"):
            json.loads(path.read_text())
    assert fiducial_says(*DETECT)[2].startswith(f"{done} of 8 are taken")
    whole = fiducial_says("detect", "in", "--device", "cpu", "-o", "whole")
    assert whole[0] == 0
    assert tables(folder / "out") == tables(folder / "whole")
