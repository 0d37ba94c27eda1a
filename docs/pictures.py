"""Make the pictures of the tutorials, and the output shown in them and on the first page, by following each as a reader would.

    python docs/pictures.py
    python docs/pictures.py tutorial_detect.md

Runs the blocks of each tutorial's "Step by step", or of "Ten minutes", in a new folder, in their order, writes what the
commands print below them, and keeps the pictures that the tutorial shows.
"""

import os
import re
import shlex
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

DOCS = Path(__file__).parent
PICTURES: dict[str, dict[str, str]] = {
    "index.md": {},
    "tutorial_detect.md": {"detect_found.jpg": "results/coins/overlay.png"},
    "tutorial_inspect.md": {"inspect_pair.jpg": "pair.png", "inspect_found.jpg": "results/part/overlay.png"},
    "tutorial_locate.md": {"locate_found.jpg": "results/zoom/overlay.png"},
    "tutorial_register.md": {
        "register_moving.jpg": "edges.png",
        "register_laid.jpg": "results/edges/overlay.png",
        "register_checkerboard.jpg": "results/edges/checkerboard.png",
    },
}
STEPS = re.compile(r"(\n## (?:Step by step|Ten minutes)\n)(.*?)(?=\n## )", re.DOTALL)
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)


def printed(line: str) -> str:
    """Return what a command of Fiducial prints, on a terminal 100 characters wide; any other is not run."""
    if not line.startswith("fiducial "):
        return ""
    words = [sys.executable, "-m", "fiducial", *shlex.split(line)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"})
    if done.returncode not in (0, 3):  # 3: the answer is no
        raise SystemExit(f"{line}: exit status {done.returncode}\n{done.stderr}")
    return "".join(f"{row.rstrip()}\n" for row in done.stdout.splitlines())


def follow(steps: str) -> str:
    """Run the blocks of a part of a page; return it with what the commands print."""
    known: dict[str, object] = {}

    def run(match: re.Match[str]) -> str:
        if match[1] == "python":
            exec(compile(match[2], "the tutorial", "exec"), known)
            return match[0]
        lines = [line for line in match[2].splitlines() if line.startswith("$ ")]
        return "```console\n" + "".join(f"{line}\n{printed(line[2:])}" for line in lines) + "```"

    return BLOCK.sub(run, steps)


def main() -> None:
    """Follow the pages named, or every one."""
    for name in sys.argv[1:] or PICTURES:
        page, pictures = DOCS / name, PICTURES[name]
        with TemporaryDirectory() as folder, chdir(folder):
            page.write_text(
                STEPS.sub(lambda match: match[1] + follow(match[2]), page.read_text(encoding="utf-8")), encoding="utf-8"
            )
            for picture, made in pictures.items():
                shown = Image.open(made).convert("RGB")
                shown.thumbnail((900, 900))
                shown.save(DOCS / "images" / picture, quality=88, optimize=True)
        print(f"{name}: {', '.join(pictures)}")


if __name__ == "__main__":
    main()
