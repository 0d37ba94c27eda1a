"""Lay the radar images of training pairs on the optical ones more exactly than they come, as a folder of aligned pairs.

    python recipes/keypoints_flatten.py --data ../shared/data --out runs/keypoints_flat
    python recipes/keypoints_slim.py --data ../shared/data --pairs runs/keypoints_flat --start WEIGHTS

Relief and errors of projection put what a radar image shows up to 20 px beside what an optical one shows
(benchmarks/keypoints_reference.py). In each of 7 × 7 windows of a tile, the weights of before match cells near; the densest
shift among the matches is the window's, and the radar image is resampled by the smooth field of shifts, found twice. Only
tiles that are learned from are laid anew: what is measured on stays as it comes. Asked by mutual information as in that script,
24 % of 28 quarters of seven tiles lay over 5 px apart before, and 4 % do afterwards (commit 70fd86a, 2026-11-22).
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from keypoints_data import learned
from rich.progress import track

from fiducial import api
from fiducial.coords import shift
from fiducial.images import from_array, write_image
from fiducial.landmarks.registrar import NARROW, ImageRegistrar
from fiducial.landmarks.views import match_views
from fiducial.scenes import Scene, open_scene

WINDOW_PX, WINDOWS, ROUNDS = 256, 7, 2  # side of a window, windows along a side of a tile
DENSE_PX, AGREE_PX = 2.0, 4.0  # width of the density of shifts, and around its peak what counts
LEAST, CHANCE = 20, 8  # matches that a window needs, and what of those that agree is put down to chance
SMOOTH = 0.7  # in windows


def shifts(registrar: ImageRegistrar, moving: Scene, fixed: Scene, before: np.ndarray) -> np.ndarray:
    """Return for each window by how many pixels (dy, dx) the moving image must be shifted, and the weight of that."""
    found = np.zeros((WINDOWS, WINDOWS, 3))
    tops = np.linspace(0, fixed.image.size[0] - WINDOW_PX, WINDOWS).round()
    for i, y in enumerate(tops):
        for j, x in enumerate(tops):
            start, window = shift(before[i, j, 0], before[i, j, 1]), shift(-y, -x)
            there, view = (
                registrar.observer.see(scene, to_view, (WINDOW_PX, WINDOW_PX))
                for scene, to_view in ((fixed, window), (moving, window @ start))
            )
            both = match_views(there, view, NARROW), match_views(view, there, NARROW).turned()
            apart = np.concatenate([ties.fixed_yx[ties.mutual] - ties.moving_yx[ties.mutual] for ties in both])
            if len(apart) < LEAST:
                continue
            distance = np.linalg.norm(apart[:, None] - apart[None], axis=2)
            near = distance[np.exp(-((distance / DENSE_PX) ** 2) / 2).sum(1).argmax()] < AGREE_PX
            found[i, j] = [*apart[near].mean(0), max(0, int(near.sum()) - CHANCE)]
    return found


def smoothed(found: np.ndarray) -> np.ndarray:
    """Return the shifts averaged over neighboring windows by their weights."""
    blurred = [
        cv2.GaussianBlur(part, (0, 0), SMOOTH) for part in (found[..., 0] * found[..., 2], found[..., 1] * found[..., 2])
    ]
    weight = np.maximum(cv2.GaussianBlur(found[..., 2], (0, 0), SMOOTH), 1e-6)
    return np.stack([*(part / weight for part in blurred), found[..., 2]], axis=-1)


def laid(image: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Resample an image by the field of its windows' shifts."""
    side = image.shape[0]
    place = np.interp(np.arange(side), np.linspace(WINDOW_PX / 2, side - WINDOW_PX / 2, WINDOWS), np.arange(WINDOWS))
    in_y, in_x = np.meshgrid(place.astype(np.float32), place.astype(np.float32), indexing="ij")
    how = {"interpolation": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    dy, dx = (cv2.remap(found[..., k].astype(np.float32), in_x, in_y, **how) for k in (0, 1))
    y, x = np.mgrid[:side, :side].astype(np.float32)
    return cv2.remap(image, x - dx, y - dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with volkov/")
    parser.add_argument("--weights", type=Path, default=None, help="by default those that ship")
    parser.add_argument("--out", type=Path, default=Path("runs/keypoints_flat"))
    args = parser.parse_args()
    _, registrar = api.load_registrar(args.weights, "auto")
    for folder in ("a", "b"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    for pair in track(learned(args.data), "laying"):
        moving, fixed = open_scene(from_array(pair.b)), open_scene(from_array(pair.a))
        found = np.zeros((WINDOWS, WINDOWS, 3))
        for _ in range(ROUNDS):
            found = smoothed(shifts(registrar, moving, fixed, found))
        write_image(args.out / "a" / f"{pair.name}.png", pair.a)
        write_image(args.out / "b" / f"{pair.name}.png", laid(pair.b, found))


if __name__ == "__main__":
    main()
