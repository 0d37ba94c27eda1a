"""Whatever is given to it, each reader, verb and command gives pixels, an answer, or one clear line; never a traceback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hostile
import hostile_parts
import hostile_tiffs
import numpy as np
import pandas as pd
import pytest
from hostile_parts import Entry

import fiducial
from fiducial.images import open_image
from fiducial.images.limits import readable
from fiducial.records import InputError

GOOD = hostile.scene()
VIEW = GOOD[10:58, 20:68].repeat(2, axis=0).repeat(2, axis=1)  # what `locate` finds in it
QUICK = {"turn_deg": 0.0, "scale": 1.0}

# Each verb, with the bad image in each of its places.
VERBS: dict[str, Callable[..., object]] = {
    "detect": fiducial.detect,
    "keypoints": fiducial.keypoints,
    "inspect a sample": lambda bad, **budget: fiducial.inspect(bad, GOOD, resize=True, **budget),
    "inspect by a template": lambda bad, **budget: fiducial.inspect(GOOD, bad, resize=True, **budget),
    "locate a query": lambda bad, **budget: fiducial.locate(bad, GOOD, **budget),
    "locate in a source": lambda bad, **budget: fiducial.locate(VIEW, bad, **budget),
    "register a moving image": lambda bad, **budget: fiducial.register(bad, GOOD, **QUICK, **budget),
    "register on a fixed image": lambda bad, **budget: fiducial.register(GOOD, bad, **QUICK, **budget),
}


@pytest.mark.parametrize("entry", hostile.ENTRIES, ids=str)
def test_a_hostile_file_gives_its_pixels_or_one_line(tmp_path: Path, entry: Entry) -> None:
    path = entry.make(tmp_path)
    if entry.pixels is None:
        with pytest.raises(InputError, match=entry.says) as caught:
            open_image(path, entry.max_bytes).read()
        assert len(str(caught.value).splitlines()) == 1
        return
    image = open_image(path, entry.max_bytes)
    pixels = image.read()
    assert (image.size, image.dtype) == (entry.pixels.shape[:2], entry.pixels.dtype) == (pixels.shape[:2], pixels.dtype)
    assert image.channels == (1 if entry.pixels.ndim == 2 else entry.pixels.shape[2])
    np.testing.assert_allclose(pixels.astype(np.float64), entry.pixels.astype(np.float64), rtol=0, atol=entry.near)
    h, w = image.size
    window = (h // 3, w // 4, h // 3 + max(1, h // 2), w // 4 + max(1, w // 2))
    np.testing.assert_array_equal(image.read(window), pixels[window[0] : window[2], window[1] : window[3]])


@pytest.mark.parametrize("entry", hostile.REFUSED, ids=str)
def test_every_verb_refuses_it_in_one_line_that_names_the_file(tmp_path: Path, entry: Entry) -> None:
    path = entry.make(tmp_path)
    for name, verb in VERBS.items():  # which may refuse it before its pixels are read: for its size, for its colors
        with pytest.raises(InputError) as caught:
            verb(path, max_bytes=entry.max_bytes)
        assert len(str(caught.value).splitlines()) == 1, name
        assert readable(path.name) in str(caught.value), name


@pytest.mark.parametrize("what", hostile.NO_ANSWER)
def test_every_verb_refuses_an_array_that_shows_nothing(what: str) -> None:
    array, says = hostile.NO_ANSWER[what]
    for verb in VERBS.values():
        with pytest.raises(InputError, match=says) as caught:
            verb(array)
        assert len(str(caught.value).splitlines()) == 1


def test_a_constant_image_holds_no_blobs_and_is_no_partner() -> None:
    constant = np.full(GOOD.shape, 7.0)
    found = fiducial.detect(constant)
    assert (len(found), found.count_interval) == (0, (0, 0))
    assert len(fiducial.keypoints(constant)) == 0
    for name in ("inspect a sample", "inspect by a template", "locate a query", "locate in a source"):
        with pytest.raises(InputError, match="constant"):
            VERBS[name](constant)
    for moving, fixed in ((constant, GOOD), (GOOD, constant), (constant, constant)):
        laid = fiducial.register(moving, fixed, **QUICK)
        assert (laid.accepted, laid.moving_to_fixed) == (False, None)


def answers(image: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the verbs say of an image, in numbers."""
    template = GOOD if image.ndim == 2 or image.shape[2] < 3 else np.dstack([GOOD] * 3)
    blobs, defects = fiducial.detect(image), fiducial.inspect(image, template)
    order = np.argsort(blobs.yx[:, 0])  # of nearly equal scores either may come first
    place, laid = fiducial.locate(VIEW, image), fiducial.register(image, GOOD, **QUICK)
    assert place.found
    assert laid.accepted
    return {
        "blobs": np.column_stack([blobs.yx, blobs.radius, blobs.score])[order],
        "defects": np.array([len(defects), defects.alignment_score, defects.coverage]),
        "place": np.append(place.corners_yx[0].ravel(), place.score[0]),
        "transform": np.append(laid.moving_to_fixed.ravel(), laid.score),
    }


@pytest.fixture(scope="module")
def of_the_scene() -> dict[str, np.ndarray]:
    return answers(GOOD)


@pytest.mark.parametrize("what", hostile.SAME)
def test_the_type_of_pixels_makes_no_difference(what: str, of_the_scene: dict[str, np.ndarray]) -> None:
    found = answers(hostile.SAME[what])
    apart = np.abs(found["blobs"][:, None] - of_the_scene["blobs"][None]).max(axis=-1)
    assert min((apart.min(axis=0) < 0.1).mean(), (apart.min(axis=1) < 0.1).mean()) > 0.97  # one that overlaps another may flip
    for name in ("defects", "place", "transform"):
        np.testing.assert_allclose(found[name], of_the_scene[name], atol=0.1, err_msg=name)


def test_infinite_pixels_are_none_as_nan_is(of_the_scene: dict[str, np.ndarray]) -> None:
    of_nan = answers(hostile.torn(np.nan))
    for value in (np.inf, -np.inf):
        for name, found in answers(hostile.torn(value)).items():
            np.testing.assert_array_equal(found, of_nan[name], err_msg=name)
    away = of_the_scene["blobs"][(of_the_scene["blobs"][:, :2] > (60, 70)).all(1)]
    kept = of_nan["blobs"][(of_nan["blobs"][:, :2] > (60, 70)).all(1)]
    assert abs(len(kept) - len(away)) <= 1  # far from the hole the same blobs are found
    assert of_nan["defects"][2] < of_the_scene["defects"][2]  # the hole was not inspected


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_files_that_change_between_opening_and_reading_are_refused(tmp_path: Path, name: str) -> None:
    whole = {"a.png": hostile.PHOTO, "a.jpg": hostile.NOISE, "a.tif": hostile_tiffs.tiff(hostile_parts.picture())}[name]
    path = tmp_path / name
    path.write_bytes(whole)
    cut, other, gone = (open_image(path) for _ in range(3))
    path.write_bytes(whole[:3000])
    with pytest.raises(InputError, match="damaged"):
        cut.read()
    path.write_bytes(
        hostile_tiffs.tiff(hostile_parts.picture("uint16")) if name == "a.tif" else hostile.png(np.zeros((5, 4), np.uint8))
    )
    with pytest.raises(InputError, match="damaged"):
        other.read()
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        gone.read()


def test_folders_that_may_not_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = hostile_parts.stored(hostile.PHOTO)(tmp_path / "in")
    (tmp_path / "in").chmod(0)
    mine = os.geteuid()
    try:
        if mine == 0:
            os.seteuid(65534)  # root may read anything
        for verb in VERBS.values():
            with pytest.raises(InputError, match="Permission denied"):
                verb(path)
    finally:
        os.seteuid(mine)
        (tmp_path / "in").chmod(0o755)


# Runs each job in a process forked from one that has loaded everything: what it prints, its status, its peak memory.
RUNNER = """
import json, os, signal, sys, tempfile, traceback
from pathlib import Path
import fiducial.cli
from fiducial import api, detections, inspections, registrations, runs, searches
from fiducial.images import open_image
from fiducial.records import InputError
api.check_detection(None, "auto", 0.5, None)
api.check_inspection(None, "auto", 0.5, None)
api.load_locator(None, "auto")
api.load_registrar(None, "auto")
def work(job):
    if "read" in job:
        try:
            open_image(job["read"], job["max_bytes"]).read()
        except InputError:
            pass
    else:
        sys.argv = ["fiducial", *job["command"]]
        fiducial.cli.main()
for line in sys.stdin:
    job = json.loads(line)
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            signal.alarm(100)
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            os.dup2(said.fileno(), 2)
            status = 0
            try:
                work(job)
            except SystemExit as end:
                status = end.code
            except BaseException:
                traceback.print_exc()
                status = 99
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status or 0)
        _, status, used = os.wait4(child, 0)
        said.seek(0)
        print(json.dumps([os.waitstatus_to_exitcode(status), said.read().decode(), used.ru_maxrss * 1024]), flush=True)
"""


@pytest.fixture(scope="module")
def runner() -> Iterator[Callable[[dict[str, object]], tuple[int, str, int]]]:
    """Run jobs as the command line would: status, standard error, peak bytes."""
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # a fork takes no threads along
    words = [sys.executable, "-c", RUNNER]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=one_thread) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(job: dict[str, object]) -> tuple[int, str, int]:
            print(json.dumps(job), file=process.stdin, flush=True)
            status, said, peak = json.loads(process.stdout.readline())
            return status, said, peak

        yield run
        process.stdin.close()


Runner = Callable[[dict[str, object]], tuple[int, str, int]]


def one_line(status: int, said: str) -> bool:
    return status == 2 and said.startswith("fiducial: ") and said.endswith("\n") and len(said.splitlines()) == 1


@pytest.mark.parametrize("entry", [e for e in hostile.REFUSED if e not in hostile.CUT or e in hostile.CUT[::12]], ids=str)
def test_a_command_says_one_line_and_exits_with_2(tmp_path: Path, runner: Runner, entry: Entry) -> None:
    path = str(entry.make(tmp_path)).replace("\0", "")  # which no argument can hold
    budget = ["--max-bytes", str(entry.max_bytes), "-o", str(tmp_path / "out")]
    status, said, _ = runner({"command": ["detect", path, *budget]})
    assert one_line(status, said), said
    assert not (tmp_path / "out").exists()


PICKED = ("empty file", "pipe", "TIFF without strips", "PNG cut at 3072 bytes",
          "GeoTIFF cut at 4096 bytes", "PNG that claims 100,000 × 100,000", "bad file of a name that is no UTF-8",
          "bad file of a name with a line break")  # fmt: skip


@pytest.mark.parametrize("name", PICKED)
def test_each_verb_says_one_line_on_the_command_line(tmp_path: Path, runner: Runner, name: str) -> None:
    (entry,) = (entry for entry in hostile.ENTRIES if entry.name == name)
    (tmp_path / "bad").mkdir()
    bad, good = str(entry.make(tmp_path / "bad")), str(hostile_parts.stored(hostile.png(GOOD), "good.png")(tmp_path))
    out = ["-o", str(tmp_path / "out")]
    for words in (
        ["inspect", bad, "-t", good, *out],
        ["inspect", good, "-t", bad, *out],
        ["locate", bad, good, *out],
        ["locate", good, bad, "--scale", "1", *out],
        ["register", bad, good, *out],
        ["register", good, bad, *out],
        ["keypoints", bad, "-o", str(tmp_path / "points.csv")],
    ):
        status, said, _ = runner({"command": words})
        assert one_line(status, said), (words, said)
    assert {path.name for path in tmp_path.iterdir()} == {"bad", "good.png"}


@pytest.mark.parametrize("verb", ["detect", "inspect", "locate", "register"])
def test_bad_files_among_good_ones_are_rows_with_their_reason(tmp_path: Path, runner: Runner, verb: str) -> None:
    folder = tmp_path / "in"
    hostile_parts.stored(hostile.png(VIEW if verb == "locate" else GOOD), "good.png")(folder)
    hostile_parts.stored(b"", "empty.png")(folder)
    hostile_parts.stored(b"", os.fsdecode(b"\xff.png"))(folder)
    hostile_parts.stored(hostile_tiffs.raw_tiff(hostile_tiffs.page(offsets=(9, -400)), hostile_tiffs.PLAIN), "torn.tif")(folder)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    hostile.loop(folder)
    partner, out = str(hostile_parts.stored(hostile.png(GOOD), "partner.png")(tmp_path)), ["-o", str(tmp_path / "out")]
    words = {
        "detect": ["detect", str(folder), *out],
        "inspect": ["inspect", "--samples", str(folder), "-t", partner, *out],
        "locate": ["locate", str(folder), partner, *out],
        "register": ["register", str(folder), partner, "--turn-deg", "0", "--scale", "1", *out],
    }
    status, said, _ = runner({"command": words[verb]})
    assert (status, said) == (1, "")
    why = pd.read_csv(tmp_path / "out" / "summary.csv", dtype=str).set_index("name")["why"]
    assert len(why) == 8
    assert pd.isna(why["good"])
    assert (why.drop("good").str.len() > 20).all()
    assert "pipe" in why["pipe"]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["good"]


def test_the_module_itself_says_one_line(tmp_path: Path) -> None:
    path = hostile_parts.stored(hostile.PHOTO[:3000])(tmp_path)
    words = [sys.executable, "-m", "fiducial", "detect", str(path), "-o", str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert one_line(done.returncode, done.stderr)


@pytest.mark.parametrize("entry", [e for e in hostile.REFUSED if e not in hostile.CUT], ids=str)
def test_reading_stays_within_the_budget(tmp_path: Path, runner: Runner, entry: Entry) -> None:
    path = str(entry.make(tmp_path))
    _, _, base = runner({"read": str(hostile_parts.stored(b"", "empty.png")(tmp_path / "base")), "max_bytes": 0})
    status, _, peak = runner({"read": path, "max_bytes": entry.max_bytes})
    assert status == 0
    assert peak - base < entry.max_bytes + 2**25
