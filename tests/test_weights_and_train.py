"""Weights come back as they were saved, strictly; training lowers the loss and resumes where it stopped."""

import importlib
import subprocess
import sys
from dataclasses import replace
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


def test_a_folder_goes_on_with_its_own_run_alone(tmp_path: Path) -> None:
    train = pytest.importorskip("fiducial.train.loop", reason="extra `train` is not installed")

    published: list[Path] = []

    def publish(network: torch.nn.Module, path: Path) -> None:
        published.append(path)

    def run(steps: int = 3, weight: float = 0.5, value: float = 191.0, out: str = "run") -> None:
        task = train.Task(
            lambda rng: torch.tensor([value, rng.random()]),
            lambda drawn: Places(torch.stack(drawn)),
            lambda network, batch: network(batch.yx).square().mean(),
        )
        network = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(network.weight, weight)
        torch.nn.init.zeros_(network.bias)
        schedule = train.Schedule(steps, batch=2, precision="32-true", workers=0)
        train.fit(network, task, schedule, tmp_path / out, publish)

    run()
    run()  # it is done: nothing is trained
    for other in ({"steps": 5}, {"weight": 0.4}, {"value": 150.0}):
        with pytest.raises(InputError, match="other steps, data or weights"):
            run(**other)
    run(value=150.0, out="another")
    assert [path.parent.name for path in published] == ["run", "another"]
