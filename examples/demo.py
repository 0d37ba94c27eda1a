"""Run every verb on real images through the public command line, and make a page of it: demo/index.html.

    make demo

The photographs come with scikit-image and mahotas. To detect: galaxies, nuclei, coins. To inspect: each is a template; the
sample is a copy of it with drawn defects, turned, shifted and taken in other light. To locate: each, reduced, is an overview;
the views are cut from it at full resolution, turned and taken by another detector, and one view is of none of them. To
register: each is fixed; the moving images show parts of it, turned and scaled, as sensors with other tones would, and one
shows none of it. Where the public datasets are present (--data), real boards are inspected, real micrographs searched, and
real radar scenes, from which nothing was learned, laid on optical ones.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import cv2
import mahotas
import numpy as np
import pandas as pd
from PIL import Image
from skimage import data

from fiducial import augment, synth
from fiducial.coords import Matrix, image_center_yx, shift, similarity
from fiducial.estimation import transform_distance
from fiducial.geometry import warp

OUT = Path("demo")
PHOTOGRAPHED = "The photographs come with scikit-image and mahotas; what was done to them is said at each run."
PHOTOGRAPHS = {"coins": data.coins, "brick": data.brick, "page": data.page}
OVERVIEWS = {"retina": data.retina, "gravel": data.gravel, "moon": data.moon}
SCENES = {"196": (-115.0, 0.9), "172": (40.0, 1.1)}  # of Volkov's: by which angle and scale the radar image is displaced
WRONG_PX = 20.0  # mean error that no answer may have


def damaged_copy(photograph: np.ndarray, seed: int) -> np.ndarray:
    """Return a stained, displaced, re-lit copy of a photograph."""
    rng = np.random.default_rng(seed)
    picture = photograph.astype(np.float32) / 255
    stained, _ = synth.stain(picture, rng, 4)
    matrix = shift(5.0, -8.0) @ similarity(1.02, 3.0, image_center_yx((picture.shape[0], picture.shape[1])))
    moved, _ = warp(stained, matrix, (picture.shape[0], picture.shape[1]))
    relit = augment.add_noise(augment.add_light_gradient(0.85 * moved + 0.05, rng, 0.25), rng, 0.01)
    return np.clip(relit * 255, 0, 255).astype(np.uint8)


def view_of(photograph: np.ndarray, center_yx: tuple[float, float], angle: float, side: int, seed: int) -> np.ndarray:
    """Return a turned view of a photograph, as another detector takes it: the negative, in uneven light, with noise."""
    rng = np.random.default_rng(seed)
    matrix = shift(*center_yx) @ similarity(1.0, angle) @ shift(*(-c for c in image_center_yx((side, side))))
    view, _ = warp(photograph.astype(np.float32) / 255, np.linalg.inv(matrix), (side, side))
    taken = augment.add_noise(augment.add_light_gradient(0.9 - 0.7 * view, rng, 0.4), rng, 0.03)
    return np.clip(taken * 255, 0, 255).astype(np.uint8)


def fiducial(*words: str, expected: int = 0) -> None:
    """Run the command line, showing it."""
    print("\n$ fiducial " + shlex.join(words), flush=True)
    start = perf_counter()
    status = subprocess.run([sys.executable, "-m", "fiducial", *words], check=False).returncode
    print(f"  exit status {status}, {perf_counter() - start:.1f} s", flush=True)
    if status != expected:
        raise SystemExit(f"the demo expected exit status {expected}, got {status}")


def note(folder: Path, text: str) -> None:
    """Write what the page says of a run into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.txt").write_text(text + "\n", encoding="utf-8")


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
    note(folder / "photographs", "Each sample is a copy of its template with drawn stains, turned, shifted and in other light.")
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
    note(OUT / "inspect" / "boards", "Real circuit boards of the public dataset DeepPCB, each beside its good template.")
    fiducial("inspect", "--pairs", str(table), "-o", str(OUT / "inspect" / "boards"))


def expect_found(folder: Path) -> None:
    """Stop the demo unless each view was found in the overview it was cut from."""
    for row in pd.read_csv(folder / "summary.csv").itertuples():
        if row.answer != "found" or Path(str(row.source)).stem != str(row.name).removesuffix("_view"):
            raise SystemExit(f"the demo expected {row.name} in its overview, got {row.answer} in {row.source}")


def locate_photographs() -> None:
    """Write overviews and views of photographs, and let each view find its overview; one view is of another thing."""
    overviews, views = OUT / "locate" / "overviews", OUT / "locate" / "views"
    for folder in (overviews, views):
        folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, load) in enumerate(OVERVIEWS.items()):
        photograph = load() if load().ndim == 2 else cv2.cvtColor(load(), cv2.COLOR_RGB2GRAY)
        factor = 0.3 if max(photograph.shape) > 1000 else 0.5
        cv2.imwrite(
            str(overviews / f"{name}.png"), cv2.resize(photograph, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        )
        center, side = (0.45 * photograph.shape[0], 0.55 * photograph.shape[1]), round(0.3 * photograph.shape[0])
        cv2.imwrite(str(views / f"{name}_view.png"), view_of(photograph, center, 50.0 + 80 * seed, side, seed))
    made = "turned and taken by another detector: the negative, in uneven light, with noise"
    note(OUT / "locate" / "photographs", f"Views cut from photographs, {made}; the overviews are the photographs, reduced.")
    fiducial("locate", str(views), str(overviews), "-o", str(OUT / "locate" / "photographs"))
    expect_found(OUT / "locate" / "photographs")
    cv2.imwrite(str(OUT / "locate" / "grass_view.png"), view_of(data.grass(), (256, 256), 30.0, 160, 9))
    absent = [str(OUT / "locate" / "grass_view.png"), str(overviews / "gravel.png")]
    note(OUT / "locate" / "absent", "A view of grass, sought in gravel: the right answer is that it is not here.")
    fiducial("locate", *absent, "-o", str(OUT / "locate" / "absent"), expected=3)


def locate_micrographs(root: Path) -> None:
    """Search three electron micrographs, reduced by four, for views cut from them, if they are there."""
    images = sorted((root / "sem" / "nanomfg").glob("Set_[12]_*"))[::7]
    if not images:
        print(f"\nSEM images are not in {root}: real micrographs are left out")
        return
    folder = OUT / "locate" / "sem"
    (folder / "overviews").mkdir(parents=True, exist_ok=True)
    (folder / "views").mkdir(parents=True, exist_ok=True)
    for seed, path in enumerate(images):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        small = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / "overviews" / f"{path.stem}.png"), small)
        view = view_of(image, (500 - 60 * seed, 420 + 150 * seed), 25.0 - 90 * seed, 260, seed)
        cv2.imwrite(str(folder / "views" / f"{path.stem}_view.png"), view)
    note(folder / "found", "Views cut from real electron micrographs, turned, as a negative; overviews reduced by four.")
    fiducial("locate", str(folder / "views"), str(folder / "overviews"), "-o", str(folder / "found"))
    expect_found(folder / "found")


def detect_photographs() -> None:
    """Detect galaxies, nuclei and coins in one run over a folder."""
    folder = OUT / "detect" / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"hubble_deep_field": data.hubble_deep_field(), "coins": data.coins()}
    nuclei = Path(mahotas.__file__).parent / "demos" / "data" / "nuclear.png"
    pictures["nuclear"] = cv2.imread(str(nuclei), cv2.IMREAD_GRAYSCALE)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    note(OUT / "detect" / "found", "Coins, galaxies and nuclei as they were photographed, in one run with the same options.")
    fiducial("detect", str(folder), "-o", str(OUT / "detect" / "found"))
    counts = pd.read_csv(OUT / "detect" / "found" / "summary.csv").set_index("name")["count"]
    for name, (low, high) in {"coins": (23, 25), "nuclear": (50, 65), "hubble_deep_field": (300, 6000)}.items():
        if not low <= counts[name] <= high:
            raise SystemExit(f"the demo expected {low} to {high} blobs in {name}, got {counts[name]}")


def part_of(image: np.ndarray, angle: float, scale: float, side: int) -> tuple[np.ndarray, Matrix]:
    """Return a square part of an image, turned and scaled, in float32 near [0, 1], and the transform from it to the image."""
    y, x = image_center_yx((image.shape[0], image.shape[1]))
    matrix = shift(1.05 * y, 0.96 * x) @ similarity(scale, angle) @ shift(*(-c for c in image_center_yx((side, side))))
    part, _ = warp(image.astype(np.float32) / 255, np.linalg.inv(matrix), (side, side))
    return part, matrix


def taken_by(sensor: str, part: np.ndarray) -> np.ndarray:
    """Return what another sensor shows: edges, dark on bright; other tones in uneven light; the negative under speckle."""
    rng = np.random.default_rng(len(sensor))
    if sensor == "edges":
        taken = augment.invert(0.9 * augment.gradient_look(part, 1.2))
    elif sensor == "tones":
        tones = np.interp(part, [0, 0.35, 0.7, 1], [0.9, 0.1, 0.8, 0.2]).astype(np.float32)
        taken = augment.add_noise(augment.add_light_gradient(tones, rng, 0.3), rng, 0.02)
    else:
        taken = augment.add_speckle(0.5 * augment.blur(1.02 - part, 1.0), rng, 4)
    return np.clip(taken * 255, 0, 255).astype(np.uint8)


def expect_laid(folder: Path, true: Matrix) -> None:
    """Stop the demo unless the answer was accepted and its mean error is small; pairs of scenes are a few px off themselves."""
    stated = json.loads((folder / "registration.transform.json").read_text())
    if not stated["accepted"]:
        raise SystemExit(f"the demo expected {folder.name} to be accepted, it was {stated['reason']}")
    error = transform_distance(true, np.array(stated["moving_to_fixed"]), stated["moving_size_yx"], stated["fixed_size_yx"])
    print(f"  {folder.name}: {error:.2f} px off the truth, {stated['error_px']:.2f} px were to be expected")
    if not error < WRONG_PX:
        raise SystemExit(f"the demo expected {folder.name} within {WRONG_PX:g} px, got {error:.1f}")


def register_photographs() -> None:
    """Lay parts of photographs, taken by other sensors, on the photographs; one part is of another thing."""
    folder = OUT / "register"
    (folder / "sensors").mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.astronaut()).save(folder / "astronaut.png")
    Image.fromarray(data.moon()).save(folder / "moon.png")
    portrait, truth = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY), {}
    for name, sensor, image, angle, scale, side in (
        ("sensors/edges", "edges", portrait, 35.0, 0.8, 420),
        ("sensors/speckle", "speckle", portrait, 160.0, 1.05, 330),
        ("moon_tones", "tones", data.moon(), -100.0, 0.9, 400),
        ("gravel_tones", "tones", data.gravel(), 20.0, 0.8, 420),
    ):
        part, truth[Path(name).name] = part_of(image, angle, scale, side)
        Image.fromarray(taken_by(sensor, part)).save(folder / f"{name}.png")
    note(folder / "portrait", "Turned parts of a portrait, as a sensor of edges and one of speckled negatives would show them.")
    note(folder / "moon", "A turned part of the moon in other tones and uneven light.")
    note(folder / "absent", "Gravel to be laid on a portrait: the right answer is a refusal.")
    fiducial("register", str(folder / "sensors"), str(folder / "astronaut.png"), "-o", str(folder / "portrait"))
    fiducial("register", str(folder / "moon_tones.png"), str(folder / "moon.png"), "-o", str(folder / "moon"))
    for found in (folder / "portrait" / "edges", folder / "portrait" / "speckle", folder / "moon" / "moon_tones"):
        expect_laid(found, truth[found.name])
    absent = [str(folder / "gravel_tones.png"), str(folder / "astronaut.png")]
    fiducial("register", *absent, "-o", str(folder / "absent"), expected=3)


def register_scenes(root: Path) -> None:
    """Lay displaced tiles of two radar scenes on the optical ones, if they are there."""
    if not (root / "volkov" / "sar").is_dir():
        print(f"\nVolkov's scenes are not in {root}: real radar images are left out")
        return
    folder = OUT / "register" / "scenes"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (angle, scale) in SCENES.items():
        sar = cv2.imread(str(root / "volkov" / "sar" / f"{name}.jpg"), cv2.IMREAD_GRAYSCALE)
        part, true = part_of(sar, angle, scale, 600)
        Image.fromarray(np.clip(part * 255, 0, 255).astype(np.uint8)).save(folder / f"sar_{name}.png")
        optical = root / "volkov" / "opt" / f"{name}.jpg"
        note(
            folder / name, "A turned and scaled part of a real radar scene on the optical one; nothing was learned from either."
        )
        fiducial("register", str(folder / f"sar_{name}.png"), str(optical), "-o", str(folder / name))
        expect_laid(folder / name / f"sar_{name}", true)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    args = parser.parse_args()
    detect_photographs()
    inspect_photographs()
    inspect_boards(args.data)
    locate_photographs()
    locate_micrographs(args.data)
    register_photographs()
    register_scenes(args.data)
    note(OUT, f"{PHOTOGRAPHED}\n\nTimes are of this machine: {os.cpu_count()} {platform.machine()} cores, {platform.system()}.")
    fiducial("report", str(OUT), "--title", "Fiducial: detect, locate, inspect, register")
    print(f"\nLook at {(OUT / 'index.html').resolve()}")


if __name__ == "__main__":
    main()
