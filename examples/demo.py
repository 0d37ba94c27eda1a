"""Run every verb on real images through the public command line, and leave what it writes in demo/.

    make demo

The photographs come with scikit-image. Each is a template; the sample is a copy of it with drawn defects, turned, shifted and
taken in other light. Where DeepPCB is present (--data), real boards are inspected too.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np
from skimage import data

from fiducial import augment, synth
from fiducial.coords import image_center_yx, shift, similarity
from fiducial.geometry import warp

OUT = Path("demo")
PHOTOGRAPHS = {"coins": data.coins, "brick": data.brick, "page": data.page}


def damaged_copy(photograph: np.ndarray, seed: int) -> np.ndarray:
    """Return a stained, displaced, re-lit copy of a photograph."""
    rng = np.random.default_rng(seed)
    picture = photograph.astype(np.float32) / 255
    stained, _ = synth.stain(picture, rng, 4)
    matrix = shift(5.0, -8.0) @ similarity(1.02, 3.0, image_center_yx((picture.shape[0], picture.shape[1])))
    moved, _ = warp(stained, matrix, (picture.shape[0], picture.shape[1]))
    relit = augment.add_noise(augment.add_light_gradient(0.85 * moved + 0.05, rng, 0.25), rng, 0.01)
    return np.clip(relit * 255, 0, 255).astype(np.uint8)


def fiducial(*words: str) -> None:
    """Run the command line, showing it."""
    print("\n$ fiducial " + shlex.join(words), flush=True)
    start = perf_counter()
    status = subprocess.run([sys.executable, "-m", "fiducial.cli", *words], check=False).returncode
    print(f"  exit status {status}, {perf_counter() - start:.1f} s", flush=True)
    if status:
        raise SystemExit(f"the demo expected exit status 0, got {status}")


def inspect_photographs() -> None:
    """Write templates and damaged copies of photographs and inspect them as a table of pairs."""
    folder = OUT / "inspect"
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["sample,template"]
    for seed, (name, load) in enumerate(PHOTOGRAPHS.items()):
        photograph = load()
        cv2.imwrite(str(folder / f"{name}_template.png"), photograph)
        cv2.imwrite(str(folder / f"{name}.png"), damaged_copy(photograph, seed))
        rows.append(f"{name}.png,{name}_template.png")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    fiducial("inspect", "--pairs", str(folder / "pairs.csv"), "-o", str(folder / "photographs"))


def inspect_boards(root: Path) -> None:
    """Inspect three real boards of DeepPCB, if it is there."""
    base = root / "deeppcb" / "PCBData" / "group77000" / "77000"
    names = [path.name.removesuffix("_test.png") for path in sorted(base.glob("*_test.png"))[:60:20]]
    if not names:
        print(f"\nDeepPCB is not in {root}: real boards are left out")
        return
    table = OUT / "inspect" / "boards.csv"
    rows = [f"{base.resolve() / name}_test.png,{base.resolve() / name}_temp.png" for name in names]
    table.write_text("\n".join(["sample,template", *rows]) + "\n")
    fiducial("inspect", "--pairs", str(table), "-o", str(OUT / "inspect" / "boards"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    args = parser.parse_args()
    inspect_photographs()
    inspect_boards(args.data)
    print("\nLook at:", *sorted(str(path) for path in OUT.rglob("overlay.png")), sep="\n  ")


if __name__ == "__main__":
    main()
