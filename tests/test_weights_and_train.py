"""Weights come back as they were saved, strictly; training lowers the loss and resumes where it stopped."""

import importlib
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_defects import make_pool

from fiducial import weights
from fiducial.confidence import Calibration
from fiducial.defects.network import BGNet, Config
from fiducial.defects.samples import batch_loss, collate, make_sample
from fiducial.records import InputError

TINY = Config(("open", "short", "mousebite", "spur", "copper", "pinhole", "other"), detail_dim=16, semantic_dim=16, heads=2,
              decoder=(16, 8, 8, 8))  # fmt: skip


def test_weights_come_back_with_configuration_card_and_calibration(tmp_path: Path) -> None:
    network, calibration = BGNet(TINY).eval(), Calibration(1.5, -0.25, (0.7,), 12)
    weights.save(tmp_path / "w.safetensors", "defects", network, {"data": "none"}, calibration)
    loaded = weights.load("defects", tmp_path / "w.safetensors")
    assert (loaded.network.config, loaded.calibration, loaded.card) == (TINY, calibration, {"data": "none"})
    a, b = torch.rand(2, 1, 1, 64, 64)
    torch.testing.assert_close(loaded.network(a, b).logits, network(a, b).logits, atol=0.05, rtol=0.05)


def test_damaged_strange_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weights.save(path, "defects", BGNet(TINY), {})
    whole = path.read_bytes()
    for content in (b"", b"no weights", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="safetensors"):
            weights.load("defects", path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="family"):
        weights.load("defects", path)
    save_file({"x": torch.zeros(1)}, path, {"family": "defects", "config": "{}", "calibration": "null", "card": "[" * 100_000})
    with pytest.raises(InputError, match="damaged header"):
        weights.load("defects", path)
    with pytest.raises(InputError, match="must be a file or"):
        weights.load("defects", tmp_path / "none.safetensors")


def test_unknown_fields_and_missing_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    weights.save(path, "defects", BGNet(TINY), {})
    tensors = load_file(path)
    header = {"family": "defects", "card": "{}", "calibration": "null", "config": '{"depth": 3}'}
    save_file(tensors, path, header)
    with pytest.raises(InputError, match="depth"):
        weights.load("defects", path)
    weights.save(path, "defects", BGNet(TINY), {})
    with safe_open(path, "pt") as file:
        header = file.metadata()
    del tensors["encoder.conv1.weight"]
    save_file(tensors, path, header)
    with pytest.raises(InputError, match=r"encoder\.conv1\.weight"):
        weights.load("defects", path)


def test_the_shipped_weights_are_the_published_ones() -> None:
    loaded = weights.load("defects")
    assert loaded.sha256 == weights.SHIPPED["defects"][1]
    assert loaded.calibration is not None
    assert {"data", "license", "recipe"} <= set(loaded.card)


@pytest.mark.parametrize("family", ["blobs", "places"])
def test_shipped_weights_are_loaded_without_torchs_compiler_which_takes_seconds(family: str) -> None:
    code = f"import sys; from fiducial import weights; weights.load({family!r}); sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_learns_resumes_and_leaves_its_curves(tmp_path: Path, rng: np.random.Generator) -> None:
    train = pytest.importorskip("fiducial.train.loop", reason="extra `train` is not installed")
    pool = make_pool(rng)
    schedule = train.Schedule(30, batch=2, warmup=3, average=0.8, precision="32-true", workers=0)
    train_defects = importlib.import_module("fiducial.train.defects").train_defects
    whole = train_defects(pool, TINY, schedule, tmp_path / "whole", {}, size=64)
    task = train.Task(partial(make_sample, pool, size=64), collate, batch_loss)
    before, after = (mean_loss(n, task) for n in (BGNet(TINY), whole))
    assert after < 0.7 * before
    assert {p.name for p in (tmp_path / "whole").iterdir()} == {
        "state.safetensors",
        "weights.safetensors",
        "log.csv",
        "curves.png",
    }
    assert weights.load("defects", tmp_path / "whole" / "weights.safetensors").network.config == TINY


def mean_loss(network: BGNet, task: object) -> float:
    with torch.no_grad():
        values = [batch_loss(network, collate([task.draw(np.random.default_rng([9, i]))])).item() for i in range(6)]
    return float(np.mean(values))


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, rng: np.random.Generator) -> None:
    train = pytest.importorskip("fiducial.train.loop", reason="extra `train` is not installed")
    network = BGNet(TINY)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    batch_loss(network, collate([make_sample(make_pool(rng), rng, 64)])).backward()
    optimizer.step()
    train.save_state(tmp_path / "s.safetensors", 17, network, network, optimizer, "a run")
    other, average = BGNet(TINY), BGNet(TINY)
    restored = torch.optim.AdamW(other.parameters(), lr=1e-3)
    assert train.load_state(tmp_path / "s.safetensors", other, average, restored, "a run") == 17
    for optimizer_, net in ((optimizer, network), (restored, other)):
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        optimizer_.step()
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert train.load_state(tmp_path / "none", other, average, restored, "a run") == 0


def test_a_start_with_other_classes_lends_all_but_the_last_layer() -> None:
    lend = pytest.importorskip("fiducial.train.defects", reason="extra `train` is not installed").lend
    start, network = BGNet(TINY), BGNet(replace(TINY, classes=("scratch",)))
    head = network.fusion.head.weight.clone()
    lend(start, network)
    torch.testing.assert_close(network.encoder.conv1.weight, start.encoder.conv1.weight)
    torch.testing.assert_close(network.fusion.head.weight, head)
    with pytest.raises(InputError, match="configuration"):
        lend(BGNet(replace(TINY, semantic_dim=32)), network)


class Places(NamedTuple):
    yx: torch.Tensor


def fitted(out: Path, network: torch.nn.Module, seen: list[torch.Tensor], **options: object) -> torch.nn.Module:
    """Train on the same two numbers at every step, and note what the network answers."""
    train = pytest.importorskip("fiducial.train.loop", reason="extra `train` is not installed")

    def loss(network: torch.nn.Module, batch: Places) -> torch.Tensor:
        seen.append(network(batch.yx))
        return (seen[-1].float() - 3).square().mean()

    task = train.Task(lambda rng: torch.tensor([0.37, 0.25]), lambda drawn: Places(torch.stack(drawn)), loss)
    schedule = train.Schedule(**{"batch": 2, "workers": 0, "precision": "32-true", **options})
    return train.fit(network, task, schedule, out, lambda network, path: None)


def test_the_average_of_a_short_run_has_forgotten_the_start(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    begun = [p.detach().clone() for p in network.parameters()]
    average = fitted(tmp_path, network, [], steps=100, warmup=10, learning_rate=0.01)
    moved, behind = (
        sum(float((a - b).detach().abs().sum()) for a, b in zip(network.parameters(), others, strict=True))
        for others in (begun, average.parameters())
    )
    assert moved > 1
    assert behind < 0.1 * moved  # a decay of 0.998 would leave four fifths
    torch.testing.assert_close(average[1].running_mean, network[1].running_mean)


def test_long_runs_are_averaged_as_their_schedule_says() -> None:
    train = pytest.importorskip("fiducial.train.loop", reason="extra `train` is not installed")
    assert [train.Schedule(steps, average=0.998).decay for steps in (2500, 20_000)] == [0.998, 0.998]
    assert train.Schedule(1000).decay == pytest.approx(0.995)


@pytest.mark.parametrize("fast", [True, False])
def test_training_takes_bfloat16_only_where_it_is_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, fast: bool) -> None:
    if torch.cuda.is_available():
        pytest.skip("a graphics card is taken, whose answer does not depend on the processor")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": fast}, raising=False)  # another processor
    seen: list[torch.Tensor] = []
    fitted(tmp_path, torch.nn.Linear(2, 1), seen, steps=1, precision="auto")
    assert [answer.dtype for answer in seen] == [torch.bfloat16 if fast else torch.float32]


def test_one_device_of_several_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerators = pytest.importorskip("lightning.fabric.accelerators", reason="extra `train` is not installed")
    for kind in (accelerators.CPUAccelerator, accelerators.CUDAAccelerator):
        monkeypatch.setattr(kind, "auto_device_count", staticmethod(lambda: 2))  # a machine with two of them
    seen: list[torch.Tensor] = []
    fitted(tmp_path, torch.nn.Linear(2, 1), seen, steps=2)
    assert len(seen) == 2


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": -3}, {"steps": 5, "warmup": 0}])
def test_a_schedule_without_steps_is_refused(options: dict[str, int]) -> None:
    train = pytest.importorskip("fiducial.train.loop", reason="extra `train` is not installed")
    with pytest.raises(InputError, match=r"(steps|warmup) must be at least 1, got (0|-3)"):
        train.Schedule(**options)


@pytest.mark.parametrize("left", ["", "step,loss", "step,loss,seconds_per_step\n1,0.5,0.1\n2,0.4", "\0\0\0\n1,0.5,0.1\n\0"])
def test_a_log_that_a_power_cut_left_is_gone_on_with(tmp_path: Path, left: str) -> None:
    class PowerCutError(Exception):
        pass

    class Cut(torch.nn.Linear):
        answers = 0

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            self.answers += 1
            if self.answers > 2:
                raise PowerCutError
            return super().forward(given)

    options = {"steps": 4, "checkpoint_s": 0.0}
    torch.manual_seed(0)
    with pytest.raises(PowerCutError):
        fitted(tmp_path, Cut(2, 1), [], **options)
    (tmp_path / "log.csv").write_text(left)
    torch.manual_seed(0)
    fitted(tmp_path, torch.nn.Linear(2, 1), [], **options)
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header == "step,loss,seconds_per_step"
    assert [row.split(",")[0] for row in rows] == (["1", "3", "4"] if "0.5" in left else ["3", "4"])


def test_numbers_of_a_batch_keep_their_precision_in_mixed_training(tmp_path: Path) -> None:
    train = pytest.importorskip("fiducial.train.loop", reason="extra `train` is not installed")
    seen: list[torch.Tensor] = []

    def loss(network: torch.nn.Module, batch: Places) -> torch.Tensor:
        seen.append(batch.yx)
        return network(batch.yx).float().square().mean()

    task = train.Task(lambda rng: torch.tensor([191.37, 3.25]), lambda drawn: Places(torch.stack(drawn)), loss)
    schedule = train.Schedule(1, batch=2, precision="bf16-mixed", workers=0)
    train.fit(torch.nn.Linear(2, 1), task, schedule, tmp_path, lambda network, path: None)
    (given,) = seen  # bfloat16 would make 191 of it
    torch.testing.assert_close(given, torch.tensor([[191.37, 3.25]] * 2), atol=0, rtol=0)


@dataclass(frozen=True)
class Told:
    """Stand for a family's configuration and data."""

    names: tuple[str, ...]
    images: tuple[np.ndarray, ...]


class Named(torch.nn.Linear):
    def __init__(self, names: tuple[str, ...], weight: float) -> None:
        super().__init__(2, 1)
        self.config = Told(names, ())
        torch.nn.init.constant_(self.weight, weight)
        torch.nn.init.zeros_(self.bias)


def draw_from(told: Told, value: float, rng: np.random.Generator) -> torch.Tensor:
    return torch.tensor([value, rng.random()])


def test_a_folder_goes_on_with_its_own_run_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = pytest.importorskip("fiducial.train.loop", reason="extra `train` is not installed")

    published: list[Path] = []

    def publish(network: torch.nn.Module, path: Path) -> None:
        published.append(path)

    def run(
        steps: int = 3, weight: float = 0.5, value: float = 191.0, names: str = "ab", pixel: int = 7, out: str = "run"
    ) -> None:
        image = np.full((4, 5), 7, np.uint8)
        image[3, 4] = pixel
        told = Told(("x",), (np.zeros((2, 3), np.uint8), image))
        task = train.Task(
            partial(draw_from, told, value),
            lambda drawn: Places(torch.stack(drawn)),
            lambda network, batch: network(batch.yx).square().mean(),
        )
        schedule = train.Schedule(steps, batch=2, precision="32-true", workers=0)
        train.fit(Named(tuple(names), weight), task, schedule, tmp_path / out, publish)

    run()
    assert "nothing is left" not in capsys.readouterr().out
    run()
    assert "run is done, all 3 steps: nothing is left to train" in capsys.readouterr().out
    for other in ({"steps": 5}, {"weight": 0.4}, {"value": 150.0}, {"names": "ba"}, {"pixel": 8}):
        with pytest.raises(InputError, match="other steps, data or weights"):
            run(**other)
    run(value=150.0, out="another")
    assert [path.parent.name for path in published] == ["run", "another"]


_SMALL_TRAINING = """
import sys
from pathlib import Path
import numpy as np, torch
from fiducial.train.loop import Schedule, Task, fit

def draw(rng): return rng.standard_normal((1, 4, 4)).astype(np.float32)
def collate(samples): return (torch.from_numpy(np.stack(samples)),)
def loss(network, batch): return (network(batch[0]) - 2 * batch[0]).square().mean()

torch.manual_seed(0)
schedule = Schedule(6, batch=2, warmup=1, precision="32-true", workers=0)
fit(torch.nn.Conv2d(1, 1, 1), Task(draw, collate, loss), schedule, Path(sys.argv[1]), lambda network, path: path.touch())
"""


def test_fabric_run_trains_on_the_devices_that_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(_SMALL_TRAINING)
    words = ["-m", "lightning.fabric.cli", "--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "train.py", "run"]
    told = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    assert "Starting with 2 processes" in told.stdout + told.stderr
    assert [line.split(",")[0] for line in (tmp_path / "run" / "log.csv").read_text().split()] == ["step", "6"]
    assert (tmp_path / "run" / "weights.safetensors").exists()
