"""Train a network: one visible loop for all families, on one device, or on those that `fabric run` is told (Lightning Fabric).

A run lives in a folder: `state.safetensors` (to resume from), `log.csv`, `curves.png` and `weights.safetensors` (the
exponential moving average of the network, what one evaluates and ships). Started again, a run goes on where it stopped.
Sample i of a run is drawn from a generator seeded by (seed, i), so a resumed run sees what an unbroken one would.
"""

import csv
import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from lightning.fabric import Fabric
from rich import progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fiducial import weights
from fiducial.device import choose_device, has_fast_bf16
from fiducial.images import whole_file, write_text
from fiducial.records import InputError, Progress

LOGGED = "step,loss,seconds_per_step"  # columns of log.csv

ImageT = TypeVar("ImageT")
SampleT = TypeVar("SampleT")
BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        learning_rate: the peak, reached after `warmup` steps and lowered to zero along a cosine.
        average: decay per step of the moving average of the parameters; less where steps are few, so that it forgets the start.
        precision: as Fabric names it; "auto" is "bf16-mixed" where that is fast, and "32-true" where it is many times slower.

    Raises:
        InputError: no step, or none of warmup.
    """

    steps: int
    batch: int = 8
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    average: float = 0.998
    seed: int = 0
    precision: str = "auto"
    workers: int = 1
    checkpoint_s: float = 240.0

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("warmup", self.warmup)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")

    @property
    def decay(self) -> float:
        """`average`, or what lets it reach back a fifth of the steps at most."""
        return min(self.average, 1 - 1 / max(2.0, self.steps / 5))


@dataclass(frozen=True)
class Task(Generic[SampleT, BatchT]):
    """What is to be learned: how to draw a sample, stack samples to a named tuple of tensors, and score a network on it."""

    draw: Callable[[np.random.Generator], SampleT]
    collate: Callable[[list[SampleT]], BatchT]
    loss: Callable[[nn.Module, BatchT], Tensor]


class _Whole(Generic[BatchT]):
    """Hold a batch whose numbers keep their precision: Fabric would round coordinates to bfloat16, whose step is 1 at 200."""

    def __init__(self, batch: BatchT) -> None:
        self.batch = batch


class _Scored(nn.Module):
    """Put the loss inside the forward pass, where mixed precision and several devices expect it."""

    def __init__(self, network: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, whole: _Whole[Any]) -> Tensor:
        return self.loss(self.network, whole.batch)


class _Stream(IterableDataset[SampleT]):
    """Yield samples first, first + stride, ... of a run, shared out among loader processes."""

    def __init__(self, draw: Callable[[np.random.Generator], SampleT], seed: int, first: int, stride: int) -> None:
        self.draw, self.seed, self.first, self.stride = draw, seed, first, stride

    def __iter__(self) -> Iterator[SampleT]:
        info = get_worker_info()
        own, count = (0, 1) if info is None else (info.id, info.num_workers)
        index = self.first + own * self.stride
        while True:
            yield self.draw(np.random.default_rng([self.seed, index]))
            index += count * self.stride


def fit(
    network: nn.Module,
    task: Task[SampleT, BatchT],
    schedule: Schedule,
    out: Path,
    publish: Callable[[nn.Module, Path], None],
) -> nn.Module:
    """Train a network in folder `out`, resuming a run found there, and return its moving average.

    `publish(network, path)` writes a network to the family's weight file.
    """
    out.mkdir(parents=True, exist_ok=True)
    fabric = _fabric(schedule.precision)
    fabric.seed_everything(schedule.seed, verbose=False)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(schedule.decay))  # type: ignore[no-untyped-call]
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    scored = _Scored(network, task.loss)
    model, prepared = fabric.setup(scored, optimizer)
    average.to(fabric.device)
    of = _fingerprint(network, task, schedule)
    start = load_state(out / "state.safetensors", network, average.module, optimizer, of)
    if start == schedule.steps:
        print(f"{out} is done, all {start} steps: nothing is left to train")
        return average.module
    average.n_averaged.fill_(start)
    _trim_log(out / "log.csv", start)
    stream = _Stream(
        task.draw, schedule.seed, start * schedule.batch * fabric.world_size + fabric.global_rank, fabric.world_size
    )
    loader = DataLoader(stream, schedule.batch, num_workers=schedule.workers, collate_fn=task.collate, worker_init_fn=_draw_on)
    batches = iter(fabric.setup_dataloaders(loader, use_distributed_sampler=False))
    saved, since, logged = time.monotonic(), time.monotonic(), start
    with _training_bar() as bar, _stopping() as stopped:
        shown = bar.add_task("training", total=schedule.steps, completed=start, loss=float("nan"))
        for step in range(start, schedule.steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * _rate(step, schedule)
            model.train()
            value = model(_Whole(next(batches)))
            fabric.backward(value)
            fabric.clip_gradients(model, prepared, max_norm=schedule.clip_norm)
            prepared.step()
            prepared.zero_grad()
            average.update_parameters(network)
            bar.update(shown, advance=1, loss=value.item())
            ending = step + 1 == schedule.steps or stopped()
            saving = ending or time.monotonic() - saved > schedule.checkpoint_s
            if fabric.is_global_zero and (step % 20 == 19 or saving):
                _log(out / "log.csv", step + 1, value.item(), (time.monotonic() - since) / (step + 1 - logged))
                since, logged = time.monotonic(), step + 1
            if fabric.is_global_zero and saving:
                save_state(out / "state.safetensors", step + 1, network, average.module, optimizer, of)
                publish(average.module, out / "weights.safetensors")
                plot_curves(out)
                saved = time.monotonic()
            if ending and step + 1 < schedule.steps:
                print(f"{out}: stopped after {step + 1} of {schedule.steps} steps; run the same command again to go on")
                raise KeyboardInterrupt
    return average.module


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Let a first Ctrl-C wait for the end of a step, so that nothing is lost; what this gives says whether there was one.

    A second one ends at once.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is told of it
        yield lambda: False
        return
    pressed, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def press(*_: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _draw_on(_: int) -> None:
    """Let a loader process go on at Ctrl-C, which reaches it too: the step that it draws for is still to be ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fabric(precision: str) -> Fabric:
    """Return Fabric on the one device that every other command takes, too, unless `fabric run` has chosen devices."""
    device = choose_device("auto")
    fast = "bf16-mixed" if has_fast_bf16(device) else "32-true"
    wanted: Any = fast if precision == "auto" else precision
    if "LT_CLI_USED" in os.environ:  # nothing may contradict it
        return Fabric() if "LT_PRECISION" in os.environ else Fabric(precision=wanted)
    return Fabric(accelerator=device.type, devices=1, precision=wanted)


def _rate(step: int, schedule: Schedule) -> float:
    warm = min(1.0, (step + 1) / schedule.warmup)
    return warm * 0.5 * (1 + math.cos(math.pi * step / schedule.steps))


def _fingerprint(network: nn.Module, task: Task[Any, Any], schedule: Schedule) -> str:
    """Return what tells a run from one with another schedule, configuration, beginning, or data.

    Of data these are all that samples are drawn from, exactly, and the first batch, to three digits: machines round apart.
    """
    told = hashlib.sha256(repr(replace(schedule, precision="", workers=0, checkpoint_s=0.0)).encode())
    told.update(repr(getattr(network, "config", None)).encode())  # classes and margins, which no parameter shows
    for tensor in network.state_dict().values():
        told.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for piece in _pieces(task.draw):
        told.update(piece)
    for part in task.collate([task.draw(np.random.default_rng([schedule.seed, i])) for i in range(schedule.batch)]):
        told.update(f"{tuple(part.shape)} {part.double().mean():.3g}".encode() if isinstance(part, Tensor) else b"")
    return told.hexdigest()


def _pieces(value: object) -> Iterator[bytes]:
    """Yield what a function is bound to, part by part: arrays by their shape and bytes, functions by their names."""
    if isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, partial):
        yield from _pieces((value.func, value.args, sorted(value.keywords.items())))
    elif isinstance(value, list | tuple):
        yield f"{len(value)} of".encode()
        for part in value:
            yield from _pieces(part)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _pieces([getattr(value, field.name) for field in fields(value)])
    else:
        yield repr(getattr(value, "__qualname__", value)).encode()


def save_state(
    path: Path, step: int, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, of: str
) -> None:
    """Write all that is needed to resume the run that `of` tells from others, without pickle; whole or not at all."""
    tensors = {f"network/{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": torch.as_tensor(v) for k, v in moments.items()}
    known = {"step": json.dumps(step), "of": of}
    with whole_file(path) as temporary:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary, known)


def load_state(path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, of: str) -> int:
    """Restore a run and return its step; 0 where no run is found.

    Raises:
        InputError: the run found is damaged, or another than `of` tells: of other steps, data, weights to start from, or
            configuration.
    """
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a method, not a mapping)
            step, same = int(json.loads(file.metadata()["step"])), file.metadata().get("of") == of
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: remove it to begin anew, or choose another folder") from error
    for part, target in (("network/", network), ("average/", average)):
        stored = {k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)}
        own = target.state_dict()
        if not same or {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in stored.items()}:
            raise InputError(
                f"{path} is a run of other steps, data or weights: resume it with the same options, or choose another folder"
            )
        target.load_state_dict(stored)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return step


def hold_out(images: Sequence[ImageT], data: Path) -> tuple[tuple[ImageT, ...], tuple[ImageT, ...]]:
    """Return the images to learn from and the last fifth, to calibrate on.

    Raises:
        InputError: fewer than five.
    """
    if len(images) < 5:
        raise InputError(f"training needs at least 5 images, {data} holds {len(images)}")
    count = len(images) // 5
    return tuple(images[:-count]), tuple(images[-count:])


def begin(out: Path, family: str, start: Path | None, *, scratch: bool) -> weights.Weights | None:
    """Return the weights that a training in a folder begins with, the shipped ones if none are named; None from scratch.

    Raises:
        InputError: a start beside `scratch`, one that cannot be loaded, or a folder that holds weights of another family.
    """
    if scratch and start is not None:
        raise InputError("to start from nothing (--scratch) and from weights (--start) exclude each other: give one of them")
    if (held := weights.family_of(out / "weights.safetensors")) not in (None, family):
        raise InputError(f"{out} holds weights of {held}, which a training of {family} would overwrite: choose another folder")
    return None if scratch else weights.load(family, start)


def check_start(start: object, config: object) -> None:
    """Refuse weights to start from whose configuration is not that of the network to be trained; raises InputError."""
    if start != config:
        raise InputError(f"a start must have the configuration {config}, got {start}")


def publisher(family: str, card: Mapping[str, str]) -> Callable[[nn.Module, Path], None]:
    """Return what writes networks of a family to files, with that card."""

    def publish(trained: nn.Module, path: Path) -> None:
        assert isinstance(trained, weights.Network)
        if not weights.holds(path, family, trained):  # a run that was done before: they may be calibrated
            weights.save(path, family, trained, card)

    return publish


@contextmanager
def calibrating() -> Iterator[Progress]:
    """Show a bar while probabilities are fitted; it is moved by what this gives."""
    with progress.Progress() as bar:
        task = bar.add_task("calibrating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _training_bar() -> progress.Progress:
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn())
    return progress.Progress(*columns, progress.TimeRemainingColumn(), progress.TextColumn("loss {task.fields[loss]:.3f}"))


def _log(path: Path, step: int, value: float, seconds: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(LOGGED.split(","))
        writer.writerow([step, f"{value:.5f}", f"{seconds:.3f}"])


def _trim_log(path: Path, step: int) -> None:
    """Drop the rows after a step, which a resumed run will write again, and what a power cut left of others."""
    if path.exists():
        rows = path.read_text(errors="replace").splitlines()
        write_text(path, "\n".join([LOGGED, *(row for row in rows if _step_of(row) <= step)]) + "\n")


def _step_of(row: str) -> float:
    """Return the step of a row of the log; infinite if it is no whole row."""
    try:
        step, _, _ = (float(word) for word in row.split(","))
    except ValueError:
        return math.inf
    return step


def plot_curves(out: Path) -> None:
    """Draw the loss of a run, raw and smoothed, into `curves.png`."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (heavy, and only drawn while training)

    steps, values = np.loadtxt(out / "log.csv", delimiter=",", skiprows=1, usecols=(0, 1), ndmin=2).T
    width = min(len(values), 15)
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    axes.semilogy(steps, values, color="0.8", label="batch")
    axes.semilogy(steps[width - 1 :], smooth, label=f"mean of {width}")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    figure.savefig(out / "curves.png", dpi=120)
