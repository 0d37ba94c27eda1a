"""A folder of a training keeps what is in it: interrupted, damaged, finished, of another family; useless data is refused."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from typed import run

from fiducial import datasets, weights
from fiducial.confidence import Calibration
from fiducial.crowds import disks
from fiducial.datasets import CrowdImage, read_aligned
from fiducial.defects.network import BGNet, Config
from fiducial.evaluate.blobs import check_blobs
from fiducial.evaluate.places import draw_cases
from fiducial.records import InputError

loop = pytest.importorskip("fiducial.train.loop", reason="extra `train` is not installed")
TINY = Config(("hole",), detail_dim=16, semantic_dim=16, heads=2, decoder=(16, 8, 8, 8))


def draw(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.normal(0, 1, 3).astype(np.float32))


class Line(nn.Linear):
    """What is trained here; it raises Ctrl-C at one of its steps."""

    def __init__(self, stops_at: int = -1) -> None:
        super().__init__(3, 1)
        self.step, self.stops_at = 0, stops_at

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        self.step += 1
        if self.step == self.stops_at:
            signal.raise_signal(signal.SIGINT)
        return (self(batch)[:, 0] - batch.sum(1)).square().mean()


def fit(out: Path, stops_at: int = -1) -> nn.Module:
    torch.manual_seed(3)
    task = loop.Task(draw, torch.stack, lambda network, batch: network.loss(batch))
    schedule = loop.Schedule(12, batch=2, warmup=2, precision="32-true", workers=0)
    return loop.fit(Line(stops_at), task, schedule, out, lambda network, path: path.write_text(str(network.weight)))


def test_a_training_that_is_interrupted_has_lost_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", stops_at=5)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopped after 5 of 12 steps; run the same command again" in capsys.readouterr().out
    whole, resumed = fit(tmp_path / "whole"), fit(tmp_path / "cut")
    torch.testing.assert_close(resumed.weight, whole.weight)
    assert len((tmp_path / "cut" / "log.csv").read_text().splitlines()) == 3  # its header, the step it stopped at, the last


SLOW = """
import sys, time
from pathlib import Path
import torch
from test_training_folders import Line, draw, loop

def slowly(rng):
    time.sleep(0.05)
    return draw(rng)

task = loop.Task(slowly, torch.stack, lambda network, batch: network.loss(batch))
loop.fit(Line(), task, loop.Schedule(5000, batch=2, precision="32-true"), Path(sys.argv[1]), lambda network, path: None)
"""


def test_ctrl_c_in_a_terminal_reaches_the_loader_too_and_loses_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parent,
    ) as process:
        while process.poll() is None and not (tmp_path / "log.csv").is_file():
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said, errors = process.communicate(timeout=60)
    assert "run the same command again to go on" in said, errors
    assert "RuntimeError" not in errors
    assert (tmp_path / "state.safetensors").is_file()


@pytest.mark.parametrize("content", [b"", b"nothing", "half", "weights"])
def test_a_damaged_state_is_refused_in_a_line(tmp_path: Path, content: bytes | str) -> None:
    fit(tmp_path)
    state = tmp_path / "state.safetensors"
    if content == "weights":
        weights.save(state, "defects", BGNet(TINY), {})
    else:
        state.write_bytes(content if isinstance(content, bytes) else state.read_bytes()[:200])
    with pytest.raises(InputError, match=r"state\.safetensors is damaged: remove it to begin anew"):
        fit(tmp_path)


def test_a_finished_run_keeps_its_calibration(tmp_path: Path) -> None:
    path, network = tmp_path / "weights.safetensors", BGNet(TINY)
    weights.save(path, "defects", network, {}, Calibration(1.5, -0.25, (0.7,), 12))
    publish = loop.publisher("defects", {})
    publish(network, path)
    assert weights.load("defects", path).calibration is not None
    publish(BGNet(TINY), path)  # another one: what was fitted does not hold for it
    assert weights.load("defects", path).calibration is None
    path.write_bytes(b"")
    publish(network, path)
    assert weights.holds(path, "defects", network)


def test_a_folder_of_another_family_is_left_alone(tmp_path: Path) -> None:
    weights.save(tmp_path / "weights.safetensors", "defects", BGNet(TINY), {})
    with pytest.raises(InputError, match="holds weights of defects, which a training of blobs would overwrite"):
        loop.begin(tmp_path, "blobs", None, scratch=True)
    assert loop.begin(tmp_path, "defects", None, scratch=True) is None
    started = loop.begin(tmp_path, "defects", tmp_path / "weights.safetensors", scratch=False)
    assert started.network.config == TINY
    with pytest.raises(InputError, match="exclude each other"):
        loop.begin(tmp_path / "new", "defects", tmp_path / "weights.safetensors", scratch=True)


@pytest.mark.parametrize("family", ["blobs", "defects", "keypoints", "places"])
def test_where_nothing_can_be_written_nothing_is_begun(tmp_path: Path, family: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "run" / "weights.safetensors").mkdir(parents=True)
    for out in ("file", "run"):
        status, _, line = run("train", family, "--data", tmp_path, "-o", tmp_path / out)
        assert status == 2
        assert "a folder" in line
        assert line.count("\n") == 1


def test_a_run_that_began_with_weights_is_not_begun_from_scratch(tmp_path: Path) -> None:
    train = pytest.importorskip("fiducial.train.keypoints")
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "state.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="is a run that began with weights"):
        train.train_keypoints(train.make_pool((), ()), train.Config(), loop.Schedule(20), tmp_path, {})
    assert not (tmp_path / "near").exists()


def test_cases_are_cut_where_something_is_shown(rng: np.random.Generator) -> None:
    half = cv2.GaussianBlur(rng.integers(0, 255, (200, 200), dtype=np.uint8), (0, 0), 2)
    half[:, 80:] = 0
    cases = list(draw_cases([half], 60, seed=1))
    assert len(cases) == 60
    assert all(np.ptp(case.query) > 0 and np.ptp(case.source) > 0 for case in cases)
    with pytest.raises(InputError, match="leave out images of nothing"):
        list(draw_cases([np.zeros((200, 200), np.uint8)], 1, seed=1))


def test_images_without_any_blob_are_refused() -> None:
    none = CrowdImage("empty", np.zeros((40, 50), np.uint8), disks(np.zeros((0, 2)), np.zeros(0)))
    some = CrowdImage("some", np.zeros((40, 50), np.uint8), disks(np.array([[20.0, 20.0]]), np.array([5.0])))
    check_blobs([none, some])
    with pytest.raises(InputError, match="no blob is marked in empty, empty: check how"):
        check_blobs([none, none])


def test_partners_are_missed_on_either_side(tmp_path: Path, rng: np.random.Generator) -> None:
    for name in ("a/1", "b/1", "b/2"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"{name}.png"), rng.integers(0, 255, (60, 70), dtype=np.uint8))
    with pytest.raises(InputError, match="expected an image 2 "):
        read_aligned(tmp_path)
    assert [pair.name for pair in read_aligned(tmp_path, ("1",))] == ["1"]


def test_points_of_a_spreadsheet_may_have_blanks_after_commas(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("y, x, radius\n3, 4.5, 2\n")
    crowd = datasets._read_points(tmp_path / "p.csv")
    np.testing.assert_allclose(crowd.yx, [[3, 4.5]])
