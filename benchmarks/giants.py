"""Run the four verbs on giant images drawn by blocks: time, peak memory, and whether the answer is right.

    python benchmarks/giants.py --side 20000
    python benchmarks/giants.py --side 6000 --verbs locate register --formats tif --limit-s 900
    python benchmarks/giants.py --tiles --data ../shared/data     # tiles against the whole, on images that fit

Each image is drawn and written in a process of its own, given to the command line in another, whose peak resident memory is
what the system says, and judged in a third. The truth is known by construction:

    detect    a drawn crowd, repeated with fresh noise; F1 of centers within half a radius
    locate    a view cut from a drawn terrain, turned and enlarged; distance of its corners over its side
    inspect   a drawn board with damage, its template displaced; F1 of regions at IoU 0.33
    register  the terrain in other tones, displaced; mean error in pixels

Formats: tiled TIFF (zlib), tiled GeoTIFF, OME-Zarr. `same`: the answer equals that from the first format; `register` begins
where the map of a GeoTIFF says, so that its answer there is another one.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from options import MISSING
from result_files import FOLDER, commit, write_result

VERBS, FORMATS = ("detect", "locate", "inspect", "register"), ("tif", "geotiff", "zarr")
SMALL_TILES_PX = (300, 512)  # tiles that are compared with the whole
SUFFIX = {"tif": ".tif", "geotiff": ".geo.tif", "zarr": ".ome.zarr"}
ANSWERS = {"detect": "blobs.json", "locate": "places.json", "inspect": "defects.json", "register": "registration.json"}
BLOCK_PX, SEAM_PX, PATCH_PX, TILE_PX = 1000, 30, 2000, 512
VIEW_PX, VIEW_SCALE, VIEW_DEG = (640, 800), 0.5, 20.0


def store(pixels: np.ndarray, folder: Path, name: str, form: str, pixel_to_world: np.ndarray | None = None) -> None:
    """Write an image in a format, tile by tile."""
    path = folder / f"{name}{SUFFIX[form]}"
    if form == "zarr":
        from fiducial.images import from_array, write_omezarr  # noqa: PLC0415 (heavy imports are the drawing process's alone)

        write_omezarr(path, from_array(pixels))
        return
    import tifffile  # noqa: PLC0415

    if form == "tif":
        tifffile.imwrite(path, pixels, tile=(TILE_PX, TILE_PX), compression="zlib")
        return
    import rasterio  # noqa: PLC0415

    matrix = np.array([[0.5, 0, 400_000.0], [0, -0.5, 5_600_000.0], [0, 0, 1]]) @ (
        np.eye(3) if pixel_to_world is None else pixel_to_world
    )
    profile = {"driver": "GTiff", "height": pixels.shape[0], "width": pixels.shape[1], "count": 1, "dtype": pixels.dtype.name}
    profile |= {"tiled": True, "blockxsize": TILE_PX, "blockysize": TILE_PX, "compress": "deflate", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", transform=rasterio.Affine(*matrix[:2].ravel().tolist()), **profile) as file:
        file.write(pixels, 1)


def draw_crowd_block() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a block of a crowd, and the centers and radii of its blobs."""
    from fiducial.crowds import draw_crowd  # noqa: PLC0415

    image, crowd = draw_crowd(np.random.default_rng(5), (BLOCK_PX, BLOCK_PX), (6, 14), (0.9, 1.4), 0.1)
    return (image - image.min()) / np.ptp(image) * 40_000, crowd.yx, crowd.radius


def draw_detect(folder: Path, side: int) -> dict[str, np.ndarray]:
    """Repeat a crowd over the whole image."""
    rng, (plain, _, _) = np.random.default_rng(6), draw_crowd_block()
    pixels = np.zeros((side, side), np.uint16)
    for y in range(0, side, BLOCK_PX):
        for x in range(0, side, BLOCK_PX):
            block = np.clip(plain + rng.normal(0, 500, plain.shape), 0, 65_535)
            pixels[y : y + BLOCK_PX, x : x + BLOCK_PX] = block[: side - y, : side - x]
    return {"image": pixels}


def terrain(side: int) -> np.ndarray:
    """Draw structure of every size, from a thousandth of a cell's to a thousand pixels, with edges."""
    import cv2  # noqa: PLC0415

    rng, half = np.random.default_rng(7), -(-side // 2)
    field = np.zeros((half, half), np.float32)
    cell = 2.0
    while cell < 700:
        grid = rng.normal(0, cell**0.45, (round(half / cell) + 2,) * 2).astype(np.float32)
        field += cv2.resize(grid, (half, half), interpolation=cv2.INTER_CUBIC)
        cell *= 1.7
    field = field / field[::7, ::7].std()
    field = 0.5 * np.tanh(6 * np.sin(2.2 * field)) + 0.35 * field  # terraces, for edges
    low, high = np.percentile(field[::7, ::7], [0.5, 99.5])
    small = np.clip((field - low) / (high - low) * 235 + 10, 0, 255).astype(np.uint8)
    return cv2.resize(small, (2 * half, 2 * half), interpolation=cv2.INTER_CUBIC)[:side, :side].copy()


def view_to_source(side: int) -> np.ndarray:
    """Return the transform from pixels of the view to pixels of the source."""
    from fiducial.coords import image_center_yx, shift, similarity  # noqa: PLC0415

    y, x = image_center_yx(VIEW_PX)
    return shift(0.63 * side, 0.29 * side) @ similarity(VIEW_SCALE, VIEW_DEG) @ shift(-y, -x)


def draw_locate(folder: Path, side: int) -> dict[str, np.ndarray]:
    """Cut a turned view out of a terrain, noise and contrast of its own."""
    import cv2  # noqa: PLC0415

    source = terrain(side)
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(source, view_to_source(side)[:2], VIEW_PX[::-1], flags=how).astype(np.float32)
    view = 255 * (view / 255) ** 1.3 + np.random.default_rng(8).normal(0, 6, view.shape)
    import tifffile  # noqa: PLC0415

    tifffile.imwrite(folder / "view.tif", np.clip(view, 0, 255).astype(np.uint8))
    return {"source": source}


def draw_inspect(folder: Path, side: int) -> dict[str, np.ndarray]:
    """Draw a board by patches, damage it, and displace its template; the mask of the damage is kept beside."""
    import cv2  # noqa: PLC0415

    from fiducial import synth  # noqa: PLC0415
    from fiducial.coords import image_center_yx, shift, similarity  # noqa: PLC0415

    rng = np.random.default_rng(0)
    template, sample, mask = (np.zeros((side, side), np.uint8) for _ in range(3))
    for y in range(0, side, PATCH_PX):
        for x in range(0, side, PATCH_PX):
            patch = np.s_[y : y + PATCH_PX, x : x + PATCH_PX]
            template[patch] = synth.draw_board(rng, template[patch].shape)
            sample[patch], mask[patch] = synth.damage_board(template[patch], rng, 25)
    np.save(folder / "mask.npy", mask)
    matrix = shift(4.0, -3.0) @ similarity(1.0, 0.1, image_center_yx((side, side)))
    moved = cv2.warpPerspective(255 - template, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    return {"sample": 255 - sample, "template": moved}


def moving_to_fixed(side: int) -> np.ndarray:
    """Return how the moving image of `register` lies on the fixed one."""
    from fiducial.coords import image_center_yx, shift, similarity  # noqa: PLC0415

    return shift(0.011 * side, -0.017 * side) @ similarity(1.03, 2.0, image_center_yx((side, side)))


def draw_register(folder: Path, side: int) -> dict[str, np.ndarray]:
    """Show a terrain in other tones, as another sensor might, and displaced."""
    import cv2  # noqa: PLC0415

    fixed = terrain(side)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moving = cv2.warpPerspective(fixed, moving_to_fixed(side), (side, side), flags=how, borderMode=cv2.BORDER_REFLECT_101)
    tones = (255 - 200 * (np.arange(256) / 255) ** 0.6).astype(np.uint8)
    return {"moving": tones[moving], "fixed": fixed}


DRAW = {"detect": draw_detect, "locate": draw_locate, "inspect": draw_inspect, "register": draw_register}


def draw(verb: str, form: str, folder: Path, side: int) -> None:
    """Draw a verb's images and write them; of a GeoTIFF that moves, the map errs by 20 px."""
    from fiducial.coords import shift  # noqa: PLC0415

    for name, pixels in DRAW[verb](folder, side).items():
        stated = shift(20, 0) @ moving_to_fixed(side) if name == "moving" else None
        store(pixels, folder, name, form, stated)


def judge_detect(folder: Path, side: int) -> tuple[str, bool]:
    """Return F1 over blocks, without what the blocks' seams cut."""
    from fiducial import metrics  # noqa: PLC0415

    _, own, radius = draw_crowd_block()
    found = pd.read_csv(folder / "out" / "blobs.csv")[["y_px", "x_px"]].to_numpy(np.float64)
    inside = ((own > SEAM_PX) & (own < BLOCK_PX - SEAM_PX)).all(axis=1)
    total = metrics.Counts(0, 0, 0)
    for y in range(0, side - BLOCK_PX + 1, BLOCK_PX):
        for x in range(0, side - BLOCK_PX + 1, BLOCK_PX):
            local = found - (y, x)
            local = local[((local > SEAM_PX) & (local < BLOCK_PX - SEAM_PX)).all(axis=1)]
            matched = int((metrics.match_points(local, own[inside], radius[inside] / 2) >= 0).sum())
            total += metrics.Counts(matched, len(local) - matched, int(inside.sum()) - matched)
    return f"{len(found)} blobs, F1 {total.f():.4f}", total.f() > 0.85


def judge_locate(folder: Path, side: int) -> tuple[str, bool]:
    """Return the mean distance of the corners, over the shorter side of the place."""
    from fiducial.coords import apply_transform, corners_yx  # noqa: PLC0415

    stated = json.loads(next((folder / "out").glob("*/places.json")).read_text())
    if not stated["found"]:
        return f"not here: {stated['reason']}", False
    truth = apply_transform(view_to_source(side), corners_yx(VIEW_PX))
    error = np.linalg.norm(np.array(stated["places"][0]["corners_yx"]) - truth, axis=1).mean()
    share = float(error) / (VIEW_SCALE * min(VIEW_PX))
    return f"corner error {share:.4f} of the side", share < 0.05


def judge_inspect(folder: Path, side: int) -> tuple[str, bool]:
    """Return F1 of the damaged regions, patch by patch."""
    import tifffile  # noqa: PLC0415

    from fiducial import metrics  # noqa: PLC0415
    from fiducial.regions import label_regions  # noqa: PLC0415

    truth, found = np.load(folder / "mask.npy", mmap_mode="r"), tifffile.imread(next((folder / "out").glob("*/mask.tif")))
    total = metrics.Counts(0, 0, 0)
    for y in range(0, side, PATCH_PX):
        for x in range(0, side, PATCH_PX):
            patch = np.s_[y : y + PATCH_PX, x : x + PATCH_PX]
            iou = metrics.region_iou(label_regions(found[patch] > 0), label_regions(truth[patch] > 0))
            total += metrics.match_counts(iou, 0.33)
    return f"{total.true_positive + total.false_negative} defects, F1 {total.f():.4f}", total.f() > 0.85


def judge_register(folder: Path, side: int) -> tuple[str, bool]:
    """Return the mean error over the common area."""
    from fiducial.estimation import transform_distance  # noqa: PLC0415

    stated = json.loads(next((folder / "out").glob("*/registration.json")).read_text())
    if not stated["accepted"]:
        return f"refused: {stated['reason']}", False
    error = transform_distance(np.array(stated["moving_to_fixed"]), moving_to_fixed(side), (side, side), (side, side))
    return f"mean error {error:.3f} px", error < 5


JUDGE = {"detect": judge_detect, "locate": judge_locate, "inspect": judge_inspect, "register": judge_register}


def words_for(verb: str, form: str, folder: Path) -> list[str]:
    """Return the command that a person would type."""
    files = {
        name: str(folder / f"{name}{SUFFIX[form]}") for name in ("image", "source", "sample", "template", "moving", "fixed")
    }
    inputs = {
        "detect": [files["image"]],
        "locate": [str(folder / "view.tif"), files["source"]],
        "inspect": [files["sample"], "--template", files["template"]],
        "register": [files["moving"], files["fixed"]],
    }
    return [sys.executable, "-m", "fiducial", verb, *inputs[verb], "-o", str(folder / "out"), "--json"]


def run_limited(words: list[str], limit_s: float) -> tuple[int, float, float, str]:
    """Return exit status, seconds, peak resident memory in GiB and the last line of errors; a process that lasts is killed."""
    with tempfile.TemporaryFile("w+") as errors:
        begin = perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors)
        watch = threading.Timer(limit_s, process.kill)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        watch.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = perf_counter() - begin
        errors.seek(0)
        lines = errors.read().strip().splitlines() or [""]
    return process.returncode, seconds, usage.ru_maxrss / 2**20, lines[-1]


def answer_of(verb: str, folder: Path) -> object:
    """Return the record without what depends on the file's name and format."""
    stated = json.loads(next((folder / "out").glob(f"**/{ANSWERS[verb]}")).read_text())
    for name in ("image", "query", "source", "sample", "template", "moving", "fixed", "crs", "pixel_to_world", "unit"):
        stated.pop(name, None)
    return {name: value for name, value in stated.items() if not name.startswith(("pixel_size", "provenance"))}


def measure(verb: str, form: str, side: int, limit_s: float) -> tuple[dict[str, object], object]:
    """Draw, run and judge one verb on one format; return the row and the answer."""
    with tempfile.TemporaryDirectory(prefix="giants-") as name:
        folder = Path(name)
        step = [sys.executable, __file__, "--verbs", verb, "--formats", form, "--side", str(side), "--folder", name]
        subprocess.run([*step, "--step", "draw"], check=True)
        status, seconds, peak, error = run_limited(words_for(verb, form, folder), limit_s)
        row: dict[str, object] = {"verb": verb, "format": form, "side_px": side, "seconds": seconds, "peak_gib": peak}
        row["seconds_per_megapixel"] = seconds / (side * side / 1e6)
        if status not in (0, 3):
            told = f"stopped after {limit_s:g} s" if status < 0 else error
            return row | {"answer": told, "right": False}, None
        done = subprocess.run([*step, "--step", "judge"], check=True, capture_output=True, text=True)
        told, right = json.loads(done.stdout)
        return row | {"answer": told, "right": right}, answer_of(verb, folder)


def measure_all(verbs: list[str], formats: list[str], side: int, limit_s: float) -> list[dict[str, object]]:
    """Return a row for each verb and format; one is also told as soon as it is known."""
    rows: list[dict[str, object]] = []
    for verb in verbs:
        first = None
        for form in formats:
            row, answer = measure(verb, form, side, limit_s)
            first = answer if first is None else first
            rows.append(row | {"same": answer is not None and answer == first})
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def tiles_against_whole(data: Path) -> list[dict[str, object]]:
    """Return the share of centers of either answer that the other has within 0.5 px, on images that fit into one tile."""
    from fiducial import api, metrics  # noqa: PLC0415
    from fiducial.crowds import draw_crowd  # noqa: PLC0415
    from fiducial.datasets import read_color  # noqa: PLC0415
    from fiducial.images import from_array  # noqa: PLC0415

    _, detector, least = api.check_detection(None, "auto", 0.5, None)

    def centers(image: np.ndarray, tile_px: int) -> np.ndarray:
        found, evidence = detector.candidates(from_array(image), tile_px=tile_px)
        return found.yx[detector.probability(evidence) >= least]

    paths = sorted((data / "dsb2018" / "images").iterdir())[::23] + sorted((data / "emps" / "images").iterdir())[::15]
    rng = np.random.default_rng(5)
    drawn = [draw_crowd(rng, (1500, 1500), (4, 16), (0.8, 1.4), 0.3)[0] for _ in range(2)]
    sets = {"real": [read_color(path) for path in paths], "drawn": drawn}
    rows: list[dict[str, object]] = []
    for name, images in sets.items():
        whole = [centers(image, 4096) for image in images]
        for tile_px in SMALL_TILES_PX:
            same, total = 0, 0
            for image, expected in zip(images, whole, strict=True):
                own = centers(image, tile_px)
                same += 2 * int((metrics.match_points(expected, own, np.full(len(own), 0.5)) >= 0).sum())
                total += len(own) + len(expected)
            what = f"detect, {name} images, tiles of {tile_px} px against the whole"
            rows.append({"what": what, "images": len(images), "agreement": same / total})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--limit-s", type=float, default=7200, help="seconds after which a verb is stopped")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the table; benchmarks/results by default")
    parser.add_argument("--tiles", action="store_true", help="compare tiles with the whole instead")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--step", choices=("draw", "judge"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step == "draw":
        draw(args.verbs[0], args.formats[0], args.folder, args.side)
    elif args.step == "judge":
        print(json.dumps(JUDGE[args.verbs[0]](args.folder, args.side)))
    elif args.tiles:
        if not all((args.data / name).is_dir() for name in ("dsb2018", "emps")):
            print(f"needs dsb2018 and emps in the folder that --data names, got --data {args.data}", file=sys.stderr)
            raise SystemExit(MISSING)
        write_result("giants_tiles", pd.DataFrame(tiles_against_whole(args.data)), args.out)
    else:
        commit()  # now: the clone may change while this runs
        table = pd.DataFrame(measure_all(args.verbs, args.formats, args.side, args.limit_s))
        write_result("giants", table, args.out, keys=("verb", "side_px", "format"))


if __name__ == "__main__":
    main()
