"""Run the scripts of this folder one after the other, and put their tables and plots into one page.

    fiducial benchmark --data ../shared/data -o out            # all of it: rewrites benchmarks/results and the docs' tables
    fiducial benchmark --quick --data ../shared/data -o out    # small subsets, into `out` alone
    fiducial benchmark --only blobs_crowds,places_sem --data ../shared/data -o out

One line for each script: done, failed, or what it misses; with its seconds. What a script prints goes to OUT/logs. Writes
OUT/index.html with all tables, OUT/scripts.csv, and a copy of the tables. Exit status 1 if a script failed, 2 for a bad
request.
"""

import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import pandas as pd
from options import MISSING
from result_files import FOLDER

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Script:
    """A script of this folder.

    Attributes:
        name: of its file, or of what it measures.
        file: where that is another name.
        shared: which of the shared options it takes.
        words: what else it is told: how the docs' tables are measured.
        quick: what it is told instead with --quick; None if it has no small version.
        asked: run only where --only names it.
    """

    name: str
    file: str = ""
    shared: tuple[str, ...] = ("data", "out", "threads")
    words: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ("--quick",)
    asked: bool = False

    @property
    def path(self) -> Path:
        """The file."""
        return HERE / f"{self.file or self.name}.py"


SCRIPTS = (
    Script("blobs_real", words=("--every", "2")),
    Script("blobs_crowds"),
    Script("blobs_negatives"),
    Script("blobs_repeatability", words=("--views", "1")),
    Script("defects_deeppcb"),
    Script("defects_good_boards"),
    Script("places_sem"),
    Script("keypoints_reference"),
    Script("keypoints_repeatability"),
    Script("keypoints_registration"),
    Script("giants", shared=("out",), quick=("--side", "2000", "--formats", "tif")),
    Script("giants_tiles", file="giants", shared=("data", "out"), words=("--tiles",), quick=None),
    Script("speed", shared=("out",), quick=None),
    Script("defects_ablation", words=("--steps", "200", "--every", "10")),
    Script(
        "keypoints_ablation",
        words=("--start", "runs/keypoints_slim/features/weights.safetensors", "--steps", "60", "--every", "4"),
    ),
    Script("blobs_ablation", words=("--steps", "300", "--every", "6"), asked=True),
)


@dataclass(frozen=True)
class Outcome:
    """How a script ended: "done", "missing" or "failed", why, and after how many seconds."""

    name: str
    answer: str
    why: str
    seconds: float


def chosen(names: str, *, quick: bool) -> list[Script]:
    """Return the scripts to run, those named or all that need not be asked for.

    Raises:
        ValueError: there is no such script.
    """
    asked = [name for name in names.split(",") if name]
    known = {script.name: script for script in SCRIPTS if script.path.is_file()}
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(f"--only must name scripts of benchmarks/, got {','.join(unknown)}: there are {', '.join(known)}")
    if asked:
        return [known[name] for name in asked]
    return [script for script in known.values() if not script.asked and not (quick and script.quick is None)]


def command(script: Script, out: Path, args: Namespace) -> list[str]:
    """Return the command line of a script."""
    values = {"data": args.data, "out": out, "threads": args.threads}
    words = [sys.executable, str(script.path)]
    for name in script.shared:
        if values[name] is not None:
            words += [f"--{name}", str(values[name])]
    if args.quick and script.quick is not None:
        return [*words, *script.quick] if script.quick == ("--quick",) else [*words, *script.words, *script.quick]
    return [*words, *script.words]


def run(name: str, words: Sequence[str], log: Path) -> Outcome:
    """Run a command, what it says going to a file, and tell how it ended."""
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = perf_counter()
    with log.open("w") as file:
        status = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False, cwd=HERE.parent).returncode
    seconds = perf_counter() - begin
    last = next((line.strip() for line in reversed(log.read_text().splitlines()) if line.strip()), "")
    if status == 0:
        return Outcome(name, "done", "", seconds)
    return Outcome(name, "missing" if status == MISSING else "failed", last or f"exit status {status}", seconds)


def run_all(scripts: Sequence[Script], results: Path, args: Namespace) -> list[Outcome]:
    """Run scripts one after the other, with a line for each."""
    outcomes = []
    for i, script in enumerate(scripts, start=1):
        print(f"{i:>2} of {len(scripts)}  {script.name:<24}", end="", flush=True)
        ended = run(script.name, command(script, results, args), args.out / "logs" / f"{script.name}.txt")
        why = f"  {'passed over, ' if ended.answer == 'missing' else ''}{ended.why}" if ended.why else ""
        print(f"{ended.answer:<8}{ended.seconds:>7.0f} s{why}", flush=True)
        outcomes.append(ended)
    return outcomes


def publish(results: Path, outcomes: Sequence[Outcome], args: Namespace) -> None:
    """Write the page and the list of scripts; after a full run also the docs' tables and plots."""
    import page  # noqa: PLC0415 (draws, which an interrupted run does not need)
    import plots  # noqa: PLC0415
    import tables  # noqa: PLC0415

    if not args.quick:
        tables.rewrite()
        plots.draw_docs()
        for path in sorted(results.glob("*.csv")):
            shutil.copy(path, args.out / path.name)
    ran = pd.DataFrame([vars(outcome) for outcome in outcomes]).rename(columns={"name": "script"})
    ran.round(1).to_csv(args.out / "scripts.csv", index=False, lineterminator="\n")
    page.write(args.out, ran, quick=args.quick)


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="folder of the public datasets")
    parser.add_argument("--quick", action="store_true", help="small subsets, into --out alone")
    parser.add_argument("--only", default="", help="scripts, separated by commas; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder of the page")
    parser.add_argument("--threads", type=int, default=2, help="of torch and OpenCV, each")
    args = parser.parse_args()
    try:
        scripts = chosen(args.only, quick=args.quick)
    except ValueError as error:
        print(f"fiducial: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    if args.out.resolve() == FOLDER.resolve():
        print(f"fiducial: --out must not be {FOLDER}, where the docs' tables lie: name another folder", file=sys.stderr)
        raise SystemExit(2)
    args.out.mkdir(parents=True, exist_ok=True)
    args.out, args.data = args.out.resolve(), None if args.data is None else args.data.resolve()
    results, begin = args.out if args.quick else FOLDER, perf_counter()
    try:
        outcomes = run_all(scripts, results, args)
    except KeyboardInterrupt as stop:
        print("\nfiducial: stopped; what was measured so far is written", file=sys.stderr)
        raise SystemExit(130) from stop
    publish(results, outcomes, args)
    print(f"{args.out / 'index.html'}, after {perf_counter() - begin:.0f} s")
    raise SystemExit(any(outcome.answer == "failed" for outcome in outcomes))


if __name__ == "__main__":
    main()
