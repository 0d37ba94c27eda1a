"""What the recipes and benchmarks of `detect` learn from, calibrate on and measure on: splits by cluster.

Images of dsb2018 that look alike (size, color, brightness) form a cluster and go to one split together. Clusters touch: an
image may look as much like one of another cluster (benchmarks/blobs_real.py tells those apart that have none such trained on).
emps is split by the hash of the file name, its images come from different papers.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32
from scipy.cluster.hierarchy import fcluster, linkage

from fiducial.blobs.samples import Pool
from fiducial.crowds import Crowd
from fiducial.datasets import CrowdImage, list_images, read_color, read_crowds

LICENSE = "weights Apache-2.0; dsb2018: CC0; EMPS: MIT; volkov: modified Copernicus Sentinel data 2020"
TEXTURES = "volkov/opt", 6  # images without blobs: which folder, every n-th of it
SLIVER = 0.03  # area, in parts of the image's median, under which a label of dsb2018 is a slip of the annotator's
ALIKE = 0.16  # distance of looks within a cluster
FOLDS = {"fluorescence": 7, "stained": 4, "particles": 7}  # one fold of clusters is measured on, another calibrated on
SHARES = {"fluorescence": 0.4, "stained": 0.4, "particles": 0.2}  # of the samples learned from
Kind = str  # fluorescence, stained or particles


@dataclass(frozen=True)
class Split:
    """Images by kind: those trained on in groups that look alike, drawn by the root of their size within a kind."""

    trained: Pool
    calibrated: dict[Kind, list[CrowdImage]]
    validated: dict[Kind, list[CrowdImage]]


def look(image: CrowdImage) -> np.ndarray:
    """Return size, color and brightness of an image as a vector."""
    rgb = np.repeat(image.pixels[..., None], 3, axis=2) if image.pixels.ndim == 2 else image.pixels
    levels = np.percentile(rgb[::3, ::3].reshape(-1, 3), [5, 25, 50, 75, 95, 99], axis=0).ravel() / 255
    radius = np.log(np.median(image.crowd.radius)) if len(image.crowd) else 2.0
    return np.concatenate([np.log(rgb.shape[:2]) * 2, levels, [0.3 * radius]])


def kind_of(image: CrowdImage) -> Kind:
    """Say whether an image of dsb2018 is of fluorescence (bright on dark) or of stained tissue."""
    return "stained" if np.median(image.pixels) > 100 else "fluorescence"


def without_slivers(image: CrowdImage) -> CrowdImage:
    """Drop labels that are far smaller than the others of the image."""
    if not len(image.crowd):
        return image
    area = image.crowd.radius**2
    kept: Crowd = image.crowd.only(area >= SLIVER * np.median(area))
    return CrowdImage(image.name, image.pixels, kept)


def clusters(nuclei: Sequence[CrowdImage]) -> Int32[np.ndarray, " n"]:
    """Return the number of each image's cluster."""
    return fcluster(linkage(np.stack([look(image) for image in nuclei]), "average"), ALIKE, "distance")


def split(data: Path) -> Split:
    """Read dsb2018 and emps, and split them."""
    nuclei = tuple(without_slivers(image) for image in read_crowds(data / "dsb2018"))
    cluster = clusters(nuclei)
    groups: dict[Kind, list[tuple[CrowdImage, ...]]] = {"fluorescence": [], "stained": []}
    calibrated: dict[Kind, list[CrowdImage]] = {"fluorescence": [], "stained": [], "particles": []}
    validated: dict[Kind, list[CrowdImage]] = {"fluorescence": [], "stained": [], "particles": []}
    for kind in ("fluorescence", "stained"):
        own = [
            [im for im, c in zip(nuclei, cluster, strict=True) if c == k and kind_of(im) == kind] for k in np.unique(cluster)
        ]
        own = sorted((images for images in own if images), key=lambda images: (-len(images), images[0].name))
        for i, images in enumerate(own):
            if i % FOLDS[kind] == 1:
                calibrated[kind] += images
            elif i % FOLDS[kind] == 3:
                validated[kind] += images
            else:
                groups[kind].append(tuple(images))
    particles = read_crowds(data / "emps")
    fold = [int(hashlib.sha256(image.name.encode()).hexdigest(), 16) % FOLDS["particles"] for image in particles]
    calibrated["particles"] = [image for image, f in zip(particles, fold, strict=True) if f == 1]
    validated["particles"] = [image for image, f in zip(particles, fold, strict=True) if f == 3]
    groups["particles"] = [tuple(image for image, f in zip(particles, fold, strict=True) if f not in (1, 3))]
    weights = [SHARES[k] * np.sqrt([len(g) for g in own]) / np.sqrt([len(g) for g in own]).sum() for k, own in groups.items()]
    textures = tuple(read_color(path) for path in list_images(data / TEXTURES[0])[:: TEXTURES[1]])
    pool = Pool(tuple(g for own in groups.values() for g in own), tuple(np.concatenate(weights).tolist()), textures)
    return Split(pool, calibrated, validated)
