"""Measure where the time of each verb goes on images of 2,048 × 2,048 px, before and now, stage by stage.

    python benchmarks/speed.py
    python benchmarks/speed.py --before v0.1.0 --verbs 'detect;inspect' --runs 3 --out /tmp/results

The earlier state is checked out into a temporary folder. Each measurement is a process of its own that runs the verb's command
within itself, once on small images to warm up, once on the large ones; the two states take turns, so that a busy machine slows
both. Times are of the processor, of one thread, the least of the runs; only the fresh processes are timed by the clock, too.

Stages: `read` decodes pixels; `prepare` samples tones, resizes and normalizes; `network` is the network's forward passes;
`search` is what is classical in an answer: alignment, votes, matching, verification, estimates; `decode` turns maps into
records; `write` makes files and drawings; `rest` is what remains. `overhead` is the share of all but `network` and `search`,
`overhead of the answer` the same where nothing is written, as by the functions of the package. The images are drawn: a crowd
of blobs, a damaged board and its template, and a mosaic of the pictures that scikit-image brings, as is and as by another
sensor. Most of a first answer is `import torch`, which is listed, too.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from itertools import chain
from pathlib import Path
from time import perf_counter, process_time
from types import ModuleType
from typing import ParamSpec, TypeVar

import cv2
import numpy as np
import pandas as pd

SIDE_PX, SMALL_PX = 2048, 256
ROOT = Path(__file__).parents[1]
ANSWERED = (None, 0, 3)  # exit statuses of a command that gave an answer
STAGES = ("read", "prepare", "network", "search", "decode", "write")

# What belongs to each stage. A function inside another one's call takes its time from it; `write` gives up only what is read.
# A name that one of the two states does not have is passed over there.
OWNERS = {
    "read": ("images.open_image", "records.Image.read"),
    "prepare": (
        "images.sample_gray",
        "images.intensity_range",
        "images.read_reduced",
        "scaled.Scaled.read",
        "scenes.Scene.view",
        "scenes.open_scene",
        "matching.read_with_side",
        "geometry.remove_stripes",
        "places.locator.build_ladder",
        "places.locator.turned_views",
        "defects.inspector.prepare",
    ),
    "network": (
        "blobs.detector.BlobDetector.forward",
        "blobs.detector.BlobDetector.context",
        "defects.inspector.DefectInspector.predict",
        "places.network.FTFY.encode_query",
        "places.network.FTFY.encode_source",
        "places.network.FTFY.correlate",
        "landmarks.registrar.ImageRegistrar.forward",
        "landmarks.registrar.ImageRegistrar.describe",
        "landmarks.network.KeypointNet.convolve",
        "landmarks.network.KeypointNet.describe_maps",
        "landmarks.network.KeypointNet.score",
    ),
    "search": (
        "geometry.align",
        "places.locator.verify",
        "places.locator.Verifier.verify",
        "places.locator.thin",
        "places.locator.choose",
        "places.sweep.Sweep.peaks",
        "landmarks.registrar.ImageRegistrar.find",
        "landmarks.registrar.ImageRegistrar.finish",
    ),
    "decode": (
        "blobs.detector.peaks",
        "blobs.detector.decode",
        "defects.inspector.decode",
        "places.locator.decode",
        "landmarks.registrar.decode",
        "landmarks.views.decode",
    ),
    "write": (
        "detections.write_detection",
        "detections.write_all",
        "runs.write_files",
        "runs._write",
        "inspections.write_files",
        "searches.write_search",
        "registrations.write_registration",
        "images.write_text",
        "images.write_image",
    ),
}

# The command of each verb, on files of the folder with images.
COMMANDS = {
    "detect": ("detect", "crowd.png"),
    "inspect": ("inspect", "board.png", "--template", "good.png"),
    "locate": ("locate", "view.png", "overview.png"),
    "locate, absent": ("locate", "elsewhere.png", "overview.png"),
    "register": ("register", "moving.png", "fixed.png"),
    "register, turned": ("register", "turned.png", "fixed.png"),
}


def draw_images(folder: Path, side: int) -> None:
    """Write the images of all commands."""
    from fiducial import synth  # noqa: PLC0415 (of the state that is being measured, elsewhere)
    from fiducial.coords import image_center_yx, shift, similarity  # noqa: PLC0415
    from fiducial.crowds import draw_crowd  # noqa: PLC0415

    rng = np.random.default_rng(7)
    crowd, _ = draw_crowd(rng, (side, side), (6, 14), (0.9, 1.4), 0.3)
    write(folder / "crowd.png", 255 * (crowd - crowd.min()) / np.ptp(crowd))
    good = synth.draw_board(rng, (side, side))
    board, _ = synth.damage_board(good, rng, side // 64)
    middle = image_center_yx((side, side))
    moved = cv2.warpPerspective(
        255 - good, shift(4, -3) @ similarity(1.0, 0.1, middle), (side, side), borderMode=cv2.BORDER_REPLICATE
    )
    write(folder / "good.png", moved)
    write(folder / "board.png", 255 - board)
    mosaic, other = draw_mosaics(side)
    write(folder / "overview.png", mosaic)
    to_view = shift(side // 8, side // 8) @ similarity(1.6, 20.0) @ shift(-0.4 * side, -0.3 * side)
    for name, source in (("view", mosaic), ("elsewhere", other)):
        write(folder / f"{name}.png", cv2.warpPerspective(source, to_view, (side // 4, side // 4)))
    write(folder / "fixed.png", mosaic)
    for name, angle in (("moving", 3.0), ("turned", 75.0)):
        laid = cv2.warpPerspective(mosaic, shift(20, -30) @ similarity(0.95, angle, middle), (side, side))
        write(folder / f"{name}.png", np.clip(255 - laid * 0.8 + rng.normal(0, 6, laid.shape), 0, 255))


def draw_mosaics(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one picture of what scikit-image brings, and one of the same pictures, parts of them, mirrored."""
    from skimage import data  # noqa: PLC0415

    names = ("camera", "coffee", "retina", "moon", "rocket", "immunohistochemistry", "astronaut", "hubble_deep_field", "coins")
    tile, rows = -(-side // 3), []
    for row in range(3):
        pictures = [getattr(data, name)() for name in names[3 * row : 3 * row + 3]]
        gray = [p if p.ndim == 2 else cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in pictures]
        rows.append(np.hstack([cv2.resize(p, (tile, tile), interpolation=cv2.INTER_AREA) for p in gray]))
    mosaic = np.vstack(rows)[:side, :side]
    return mosaic, np.ascontiguousarray(cv2.resize(mosaic[: side // 2, side // 2 :], (side, side))[:, ::-1])


def write(path: Path, pixels: np.ndarray) -> None:
    cv2.imwrite(str(path), pixels.round().astype(np.uint8))


P, R = ParamSpec("P"), TypeVar("R")


class Clock:
    """Time of the processor by stage; what runs inside a stage is taken from it."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((*STAGES, "rest"), 0.0)
        self.stack, self.since = ["rest"], process_time()

    def turn(self) -> None:
        now = process_time()
        self.seconds[self.stack[-1]] += now - self.since
        self.since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.turn()
        self.stack.append(self.stack[-1] if self.stack[-1] == "write" and name != "read" else name)
        try:
            yield
        finally:
            self.turn()
            self.stack.pop()


def wrap(clock: Clock) -> None:
    """Put a clock around everything that OWNERS names, wherever it was imported to."""
    for stage, names in OWNERS.items():
        for name in names:
            owner, last = find(name)
            if owner is None or not hasattr(owner, last):
                continue
            plain = getattr(owner, last)
            timed = timing(plain, clock, stage)
            setattr(owner, last, timed)
            if isinstance(owner, ModuleType):
                for module in [m for key, m in sys.modules.items() if key.startswith("fiducial")]:
                    for alias in [key for key, value in vars(module).items() if value is plain]:
                        setattr(module, alias, timed)


def find(name: str) -> tuple[object | None, str]:
    """Return the module or the class that a name lives in, None where this state has none, and its last part."""
    import fiducial  # noqa: PLC0415 (the state's own)

    home, _, last = name.rpartition(".")
    parent, _, kind = home.rpartition(".")
    in_class = kind[:1].isupper()
    where = parent if in_class else home
    file = Path(fiducial.__file__).parent.joinpath(*where.split("."))
    if not file.with_suffix(".py").exists() and not file.exists():  # an installed package would lend its own module
        return None, last
    module = import_module(f"fiducial.{where}")
    return (getattr(module, kind, None) if in_class else module), last


def timing(plain: Callable[P, R], clock: Clock, stage: str) -> Callable[P, R]:
    @wraps(plain)
    def timed(*args: P.args, **kwargs: P.kwargs) -> R:
        with clock.stage(stage):
            return plain(*args, **kwargs)

    return timed


def measure(verb: str, images: Path) -> dict[str, float]:
    """Run a verb's command in this process, on small images and on large ones, and return the seconds of each stage."""
    import torch  # noqa: PLC0415 (the state's own, as all below)

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    from fiducial import api, cli  # noqa: F401, PLC0415 (whatever imports what is wrapped comes before)

    for name in chain.from_iterable(OWNERS.values()):
        find(name)
    clock = Clock()
    wrap(clock)
    for folder in ("small", "large"):
        clock.turn()
        clock.seconds = dict.fromkeys(clock.seconds, 0.0)
        name, *files = COMMANDS[verb]
        words = [word if word.startswith("-") else str(images / folder / word) for word in files]
        with tempfile.TemporaryDirectory() as out:
            try:
                cli.app([name, *words, "-o", out, "--json"], standalone_mode=False)
            except SystemExit as end:
                if end.code not in ANSWERED:
                    raise RuntimeError(f"{words} ended with {end.code}") from end
        clock.turn()
    return clock.seconds


def run_apart(root: Path, words: list[str]) -> tuple[str, float, float]:
    """Run Python in a process of its own, with the package at `root`; return its output and seconds, also of the processor."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = perf_counter()
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    seconds, after = perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in ANSWERED:
        raise RuntimeError(f"{words} failed: {done.stderr}")
    return done.stdout, seconds, after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime


def fresh(root: Path, images: Path, out: Path) -> dict[str, tuple[float, float]]:
    """Return the seconds of fresh processes: the import, the help, and the first answer on a small image of each verb."""
    cli, small = ["-c", "from fiducial.cli import main; main()"], images / "small"
    words = {
        "import fiducial": ["-c", "import fiducial"],
        "fiducial --help": [*cli, "--help"],
        "import torch": ["-c", "import torch"],
    }
    for verb, (name, *files) in COMMANDS.items():
        if "," not in verb:
            paths = [word if word.startswith("-") else str(small / word) for word in files]
            words[f"first {verb}, {SMALL_PX} px"] = [*cli, name, *paths, "-o", str(out)]
    return {what: run_apart(root, line)[1:] for what, line in words.items()}


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Give a folder with the state of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(root), commit], check=True, capture_output=True)
        try:
            yield root
        finally:
            subprocess.run([*git, "remove", "--force", str(root)], check=True, capture_output=True)


def table_of(
    stages: dict[tuple[str, str], list[dict[str, float]]], starts: dict[str, list[dict[str, tuple[float, float]]]]
) -> pd.DataFrame:
    """Return a row for each verb and stage: the least seconds of either state, and their ratio."""
    rows = []
    for verb in dict.fromkeys(verb for verb, _ in stages):
        own = {}
        for state in starts:
            runs = stages[verb, state]
            best = dict(min(runs, key=lambda run: sum(run.values())))
            whole = sum(best.values())
            own[state] = best | {"whole": whole}
            wanted = best["network"] + best["search"]
            own[state] |= {"overhead": 1 - wanted / whole, "overhead of the answer": 1 - wanted / (whole - best["write"])}
        rows += [{"what": verb, "stage": stage} | {state: own[state][stage] for state in own} for stage in own["now"]]
    for what in starts["now"][0]:
        for i, unit in enumerate(("clock", "processor")):
            least = {state: min(run[what][i] for run in runs) for state, runs in starts.items()}
            rows.append({"what": what, "stage": unit} | least)
    table = pd.DataFrame(rows)
    table["ratio"] = np.where(table["before"] > 0, table["now"] / table["before"].where(table["before"] > 0), np.nan)
    return table


def compare(before: str, verbs: list[str], runs: int) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as name, checked_out(before) as old:
        images = Path(name)
        for folder, side in (("large", SIDE_PX), ("small", SMALL_PX)):
            (images / folder).mkdir()
            draw_images(images / folder, side)
        states = {"before": old, "now": ROOT}
        stages: dict[tuple[str, str], list[dict[str, float]]] = {}
        starts: dict[str, list[dict[str, tuple[float, float]]]] = {state: [] for state in states}
        for run in range(runs):
            for state, root in states.items():
                starts[state].append(fresh(root, images, images / "out"))
            for verb in verbs:
                for state, root in states.items():
                    words = [__file__, "--measure", verb, "--images", str(images)]
                    stages.setdefault((verb, state), []).append(json.loads(run_apart(root, words)[0].splitlines()[-1]))
            print(f"{run + 1} of {runs} runs", file=sys.stderr, flush=True)
    return table_of(stages, starts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="76f7f35", help="commit to compare with")
    parser.add_argument("--verbs", default=";".join(COMMANDS), help="separated by semicolons")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--measure", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        print(json.dumps(measure(args.measure, args.images)))
        return
    import torch  # noqa: PLC0415 (it and the package as they are now, unlike what is measured above)
    from result_files import write_result  # noqa: PLC0415

    torch.set_num_threads(1)  # as in the processes that are measured: the table tells it
    table = compare(args.before, args.verbs.split(";"), args.runs)
    write_result("speed", table.assign(before_commit=args.before), args.out)


if __name__ == "__main__":
    main()
