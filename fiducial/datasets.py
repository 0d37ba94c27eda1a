"""Read public datasets, and users' own in the same layouts, from disk into images and truth.

Nothing is downloaded: each function takes the folder that the public archive unpacks to. Images may be `.png`, `.jpg` or
`.tif` whatever the list file says.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import tifffile
from jaxtyping import Float16, Float32, Float64, Int, Int32, Shaped, UInt8
from PIL.PngImagePlugin import PngImageFile
from scipy.spatial import cKDTree

from fiducial.banners import without_banner
from fiducial.coords import corners_yx, pixel_edges_to_yx, yx_to_pixel_edges
from fiducial.crowds import Crowd, crowd_of_labels, disks
from fiducial.images import as_image, intensity_range, is_omezarr, open_image, to_gray
from fiducial.images.limits import decoding, first_bytes
from fiducial.records import Image, InputError
from fiducial.regions import label_regions

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".btf", ".tf8", ".tf2")  # what keeps numbers as they are
IMAGE_SUFFIXES = (*MASK_SUFFIXES, ".jpg", ".jpeg", ".zarr")
DEEPPCB_CLASSES = ("open", "short", "mousebite", "spur", "copper", "pinhole")

MOST_CLASSES = 200  # in a mask of 8 bits, below the value that stands for "unknown"

DRAWN_IN = -1.0, 2.0  # intensities, where 0 and 1 are the 1st and 99th percentile, beyond which `inspect` tells nothing apart

BOX_MARGIN_PX = 10.0  # median by which DeepPCB's boxes exceed the masks derived from them

Stated = tuple[int | None, int | None]  # height and width of an image, None where a file does not state them

_ALSO_POINTS = {"y_px": "y", "x_px": "x", "radius_px": "radius", "axis-0": "y", "axis-1": "x"}  # other names of columns
_GROW_PX = 2  # how far a derived mask may leave its box
_SMALLEST_PX = 12  # and the area under which a part of it is edge jitter


Gray = UInt8[np.ndarray, "h w"] | Float16[np.ndarray, "h w"]


@dataclass(frozen=True)
class InspectionPair:
    """A sample, its template, and what is wrong with the sample.

    Attributes:
        name: unique within the dataset. group: boards of one design share it; splits go by group.
        sample, template: of DeepPCB in 8 bits; of a folder in float16, 0 and 255 at the 1st and the 99th percentile, and as far
            again to both sides, as `inspect` sees them.
        mask: classes from 1, 0 for background, on the grid of both images.
        number: of the annotated defect, from 1, that each pixel of the mask belongs to; fragments of one share it.
        boxes_yxyx: the annotators' boxes in the house frame; label: their classes from 1.
    """

    name: str
    group: str
    sample: Gray
    template: Gray
    mask: UInt8[np.ndarray, "h w"]
    number: Int32[np.ndarray, "h w"]
    boxes_yxyx: Float64[np.ndarray, "n 4"]
    label: Int[np.ndarray, " n"]


def read_deeppcb(root: Path, groups: tuple[str, ...] | None = None, every: int = 1) -> Iterator[InspectionPair]:
    """Yield the pairs of DeepPCB's `trainval.txt` (or of those groups, every n-th), with masks derived from boxes.

    Raises:
        InputError: the folder does not hold DeepPCB, or a line of its lists cannot be meant.
    """
    base = root / "PCBData" if (root / "PCBData").is_dir() else root
    if not (base / "trainval.txt").is_file():
        raise InputError(f"expected DeepPCB (PCBData/trainval.txt) in {root}, found none")
    rows = [line.split() for line in (base / "trainval.txt").read_text().splitlines() if line.strip()]
    if strange := [row for row in rows if len(row) != 2]:
        raise InputError(f"a line of {base / 'trainval.txt'} must name an image and its boxes, got {' '.join(strange[0])[:80]}")
    chosen = [row for row in rows if groups is None or row[0].split("/")[0].removeprefix("group") in groups]
    for image, truth in chosen[::every]:
        stem = base / image.rsplit(".", 1)[0]
        sample, template = (_read_gray(_existing(stem, ending)) for ending in ("_test", "_temp"))
        if sample.shape != template.shape:
            raise InputError(f"sample and template must have one size, {stem.name} has {sample.shape} and {template.shape}")
        table = _read_boxes(base / truth)
        boxes = pixel_edges_to_yx(table[:, [1, 0, 3, 2]])
        mask, number = mask_from_boxes(sample, template, boxes, table[:, 4])
        group = image.split("/")[0].removeprefix("group")
        yield InspectionPair(stem.name, group, sample, template, mask, number, boxes, table[:, 4])


def _read_boxes(path: Path) -> Int[np.ndarray, "n 5"]:
    """Read a line for each defect: x0, y0, x1, y1 from the image's corner, and the class from 1; no lines are no defects."""
    try:
        lines = [[int(word) for word in line.split()] for line in path.read_text().splitlines() if line.strip()]
        table = np.array(lines, np.int64).reshape(-1, 5)
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"expected lines of x0 y0 x1 y1 class in {path}: {error}") from error
    x0, y0, x1, y1, kind = table.T
    known = (x0 >= 0) & (y0 >= 0) & (x1 > x0) & (y1 > y0) & (kind >= 1) & (kind <= len(DEEPPCB_CLASSES))
    if not known.all():
        raise InputError(f"expected x0 y0 x1 y1 class in {path}, got {' '.join(map(str, table[~known][0].tolist()))}")
    return table


def is_deeppcb(root: Path) -> bool:
    """Say whether a folder is laid out like DeepPCB."""
    return (root / "PCBData").is_dir() or (root / "trainval.txt").is_file()


def listed(names: str) -> tuple[str, ...]:
    """Return the names of a list with commas."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def read_pairs(root: Path, groups: tuple[str, ...] = (), *, but: tuple[str, ...] = ()) -> tuple[InspectionPair, ...]:
    """Read DeepPCB or a folder of pairs, whichever `root` holds: only those groups, or all `but` some.

    Raises:
        InputError: neither, a group that no pair belongs to, or no pair is left.
    """
    known: set[str] = set()
    pairs: list[InspectionPair] = []
    for pair in read_deeppcb(root) if is_deeppcb(root) else read_pair_folder(root):
        known.add(pair.group)
        if (not groups or pair.group in groups) and pair.group not in but:
            pairs.append(pair)  # the others are not kept: all of DeepPCB would take gigabytes
    if unknown := [name for name in (*groups, *but) if name not in known]:
        raise InputError(f"no pair of {root} belongs to {', '.join(unknown)}: its groups are {', '.join(sorted(known)[:20])}")
    if not pairs:
        raise InputError(f"all groups of {root} are held out ({', '.join(but)}): none is left to learn from")
    return tuple(pairs)


def mask_from_boxes(
    sample: UInt8[np.ndarray, "h w"],
    template: UInt8[np.ndarray, "h w"],
    boxes_yxyx: Float64[np.ndarray, "n 4"],
    label: Int[np.ndarray, " n"],
) -> tuple[UInt8[np.ndarray, "h w"], Int32[np.ndarray, "h w"]]:
    """Derive a mask of classes, and of the boxes' numbers from 1, from boxes around the differences of two binary images.

    Inside each box, grown by 2 px: the XOR of the images, opened to drop one-pixel edges, without parts that are small in
    themselves or beside the largest. A box in which nothing is left is filled.
    """
    difference = ((sample > 127) ^ (template > 127)).astype(np.uint8)
    mask, number = np.zeros(sample.shape, np.uint8), np.zeros(sample.shape, np.int32)
    edges = yx_to_pixel_edges(boxes_yxyx).round().astype(int)
    for i, ((y0, x0, y1, x1), kind) in enumerate(zip(edges.tolist(), label.tolist(), strict=True), start=1):
        window = np.s_[max(0, y0 - _GROW_PX) : y1 + _GROW_PX, max(0, x0 - _GROW_PX) : x1 + _GROW_PX]
        opened = cv2.morphologyEx(difference[window], cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        _, regions, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=8)
        area = stats[1:, cv2.CC_STAT_AREA]
        keep = 1 + np.flatnonzero((area >= _SMALLEST_PX) & (area >= 0.15 * area.max(initial=0)))
        own = np.isin(regions, keep)
        if not len(keep):
            window, own = np.s_[y0:y1, x0:x1], np.ones((y1 - y0, x1 - x0), dtype=bool)
        mask[window][own] = kind
        number[window][own] = i
    return mask, number


def read_pair_folder(root: Path) -> Iterator[InspectionPair]:
    """Yield the pairs of a folder with `samples/`, `templates/` and `masks/` that share file names.

    A mask holds 0 for background and classes from 1. A single file in `templates/` serves all samples. The group of a
    pair is its name up to the first underscore. A region's class is that of most of its pixels.

    Raises:
        InputError: a folder, template or mask is missing, sizes differ, or a mask does not hold classes.
    """
    templates = list_images(root / "templates")
    for path in list_images(root / "samples"):
        good = templates[0] if len(templates) == 1 else _existing(root / "templates" / path.stem, "")
        sample, template = ((255 * _normalized(open_image(own))).astype(np.float16) for own in (path, good))
        mask = _read_classes(_existing(root / "masks" / path.stem, "", MASK_SUFFIXES))
        if not sample.shape == template.shape == mask.shape:
            raise InputError(f"{path.name}: sample, template and mask must have one size, got "
                             f"{sample.shape}, {template.shape}, {mask.shape}")  # fmt: skip
        regions = label_regions(mask > 0)
        own = (mask[regions.window(i)][regions.pixels(i)] for i in range(len(regions.area_px)))
        label = np.array([np.bincount(kinds).argmax() for kinds in own], np.int64)
        group = path.stem.split("_")[0]
        yield InspectionPair(path.stem, group, sample, template, mask, regions.number, regions.boxes_yxyx, label)


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder, and the folders that hold OME-Zarr, sorted by name; none that begin with a dot.

    Raises:
        InputError: there is no such folder or it holds no image.
    """
    files = folder.iterdir() if folder.is_dir() else ()
    found = sorted(p for p in files if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not found:
        raise InputError(f"expected a folder with images ({', '.join(IMAGE_SUFFIXES)}), found none in {folder}")
    return found


def read_textures(folders: tuple[Path, ...], longest_px: int = 700) -> list[UInt8[np.ndarray, "h w"]]:
    """Read the images of several folders as gray, without banners, reduced so that no side exceeds `longest_px`.

    Images of more than 8 bits are normalized, from their 1st to their 99th percentile.
    """
    paths = [path for folder in folders for path in list_images(folder)]
    return [_shrink(_in_bytes(without_banner(open_image(path))[0]), longest_px) for path in paths]


@dataclass(frozen=True)
class AlignedPair:
    """Two images of one scene by different sensors, pixel on pixel. A name is unique within a dataset."""

    name: str
    a: UInt8[np.ndarray, "h w"]
    b: UInt8[np.ndarray, "h w"]


ALIGNED_FOLDERS = (("a", "b"), ("opt", "sar"))


def read_aligned(root: Path, names: tuple[str, ...] = ()) -> tuple[AlignedPair, ...]:
    """Read the pairs of `a/` and `b/`, or `opt/` and `sar/` (Volkov's layout), that share a name; only those named if any are.

    Raises:
        InputError: no such folders, a name without its partner, or two images of a pair that differ in size.
    """
    for first, second in ALIGNED_FOLDERS:
        if (root / first).is_dir() and (root / second).is_dir():
            paths = [path for path in list_images(root / first) if not names or path.stem in names]
            for path in () if names else list_images(root / second):
                _existing(root / first / path.stem, "")
            return tuple(_read_aligned(path, root / second) for path in paths)
    raise InputError(f"expected folders a/ and b/, or opt/ and sar/, of aligned images in {root}, found neither")


def _read_aligned(path: Path, partners: Path) -> AlignedPair:
    a, b = _in_bytes(open_image(path)), _in_bytes(open_image(_existing(partners / path.stem, "")))
    if a.shape != b.shape:
        raise InputError(f"the images of a pair must have one size, {path.stem} has {a.shape} in {path.parent} and {b.shape}")
    return AlignedPair(path.stem, a, b)


def _in_bytes(image: Image) -> UInt8[np.ndarray, "h w"]:
    gray = to_gray(image.read(), image.name) if image.dtype == np.uint8 else 255 * _normalized(image)
    return np.clip(gray, 0, 255).round().astype(np.uint8)


def _shrink(image: UInt8[np.ndarray, "h w"], longest_px: int) -> UInt8[np.ndarray, "i j"]:
    factor = longest_px / max(image.shape)
    return image if factor >= 1 else cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def _existing(stem: Path, ending: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Path:
    for suffix in suffixes:
        for spelled in (suffix, suffix.upper()):
            path = stem.with_name(stem.name + ending + spelled)
            if path.is_file() or is_omezarr(path):
                return path
    raise InputError(f"expected an image {stem.name}{ending} ({', '.join(suffixes)}) in {stem.parent}, found none")


def _normalized(image: Image) -> Float32[np.ndarray, "h w"]:
    """Read an image as inspection sees it, from 0 at its 1st to 1 at its 99th percentile; what has no value is 0."""
    low, high = intensity_range(image)
    gray = (to_gray(image.read(), image.name) - low) / (high - low)
    return np.where(np.isfinite(gray), np.clip(gray, *DRAWN_IN), 0).astype(np.float32)


def _read_labels(path: Path) -> Shaped[np.ndarray, "h w"]:
    """Read whole numbers: of a palette image the indices, of one bit 0 and 1, of gray in several channels the gray."""
    labels = _read_indices(path)
    labels = open_image(path).read() if labels is None else labels
    if labels.ndim == 3 and not (labels[..., :3] == labels[..., :1]).all():
        raise InputError(f"{path} must be a label image with one number per region, it is in color")
    if labels.dtype.kind not in "bui":
        raise InputError(f"{path} must hold whole numbers, got {labels.dtype}")
    return labels[..., 0] if labels.ndim == 3 else labels


def _read_indices(path: Path) -> Shaped[np.ndarray, "h w"] | None:
    """Read the indices of a palette, which ImageJ writes too, and PNG of one bit; None of any other image."""
    head = first_bytes(path, 26)
    if head.startswith(b"\x89PNG") and (head[25:] == b"\x03" or head[24:25] == b"\x01"):
        with decoding(path), PngImageFile(path) as image:
            return np.asarray(image)
    if head[:2] in (b"II", b"MM"):
        with decoding(path), tifffile.TiffFile(path) as tiff:
            return tiff.pages[0].asarray() if tiff.pages[0].photometric == tifffile.PHOTOMETRIC.PALETTE else None
    return None


def _read_classes(path: Path) -> UInt8[np.ndarray, "h w"]:
    labels = _read_labels(path)
    if labels.min() < 0 or labels.max() > MOST_CLASSES:
        raise InputError(f"{path} must hold classes from 0 to {MOST_CLASSES}, got {labels.min()} to {labels.max()}")
    return labels.astype(np.uint8)


def _read_gray(path: Path) -> UInt8[np.ndarray, "h w"]:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise InputError(f"expected an image, cannot decode {path}")
    return image


@dataclass(frozen=True)
class CrowdImage:
    """An image and its blobs.

    Attributes:
        name: unique within the dataset. pixels: gray or RGB, as the file holds them but in 8 bits.
    """

    name: str
    pixels: UInt8[np.ndarray, "h w *c"]
    crowd: Crowd


def read_crowds(root: Path) -> tuple[CrowdImage, ...]:
    """Read a folder of images with their blobs: `images/` and, of the same names, the first of the following that is there.

    `masks/` or `segmaps/`: label images, 0 for background; the pieces of a mask of one value are its blobs. `points/`: CSV with
    columns y, x and, if known, radius, in pixels of the house frame, or as `detect` wrote it, for itself or for napari.
    `annotations.json`: boxes as COCO writes them.

    Raises:
        InputError: none of these, an image without its truth, or truth that is not of its image.
    """
    images = list_images(root / "images")
    for folder in ("masks", "segmaps"):
        if (root / folder).is_dir():
            return tuple(_with_labels(path, root / folder) for path in images)
    if (root / "points").is_dir():
        tables = [root / "points" / f"{path.stem}.csv" for path in images]
        return tuple(_beside(path, _read_points(table), table) for path, table in zip(images, tables, strict=True))
    if (known := root / "annotations.json").is_file():
        boxes = _read_coco(known)
        if unknown := [path.name for path in images if path.stem not in boxes]:
            raise InputError(f"{known} must list every image of images/, it lacks {', '.join(unknown[:5])}")
        return tuple(_beside(path, boxes[path.stem][0], known, boxes[path.stem][1]) for path in images)
    raise InputError(f"expected masks/, segmaps/, points/ or annotations.json beside images/ in {root}, found none")


def read_color(path: Path) -> UInt8[np.ndarray, "h w *c"]:
    """Read an image as gray or RGB in 8 bits; deeper ones from their 0.2th percentile to as far again above their 99.8th.

    That is what `detect` sees of them. Where the percentiles coincide, the least and the largest value stand for them.

    Raises:
        InputError: as `open_image`, or channels that are not gray or color.
    """
    image = as_image(path)
    if image.channels > 4:
        raise InputError(f"expected gray or RGB(A), {image.name} has {image.channels} channels")
    pixels = image.read()
    pixels = pixels[..., :3] if image.channels >= 3 else pixels[..., 0] if image.channels == 2 else pixels
    pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == np.bool_ else pixels
    if pixels.dtype == np.uint8:
        gray = pixels.ndim == 3 and np.array_equal(pixels[..., :2], pixels[..., 1:])
        return pixels[..., 0].copy() if gray else pixels
    known = pixels[np.isfinite(pixels)]
    low, high = (float(v) for v in np.percentile(known, [0.2, 99.8])) if len(known) else (0.0, 1.0)
    if len(known) and high <= low:
        low, high = float(known.min()), float(known.max())
    high = min(2 * high - low, float(known.max())) if len(known) else high
    scaled = (np.nan_to_num(pixels.astype(np.float64), nan=low) - low) / max(high - low, 1e-12)
    return np.clip(scaled * 255, 0, 255).round().astype(np.uint8)


def _beside(path: Path, crowd: Crowd, truth: Path, stated: Stated = (None, None)) -> CrowdImage:
    """Read an image, and put the blobs beside it that a file of truth lists for it, and for the size that the file states."""
    pixels = read_color(path)
    size = (pixels.shape[0], pixels.shape[1])
    if None not in stated and stated != size:
        raise InputError(f"{truth} states the size {stated} (h, w) for {path.name}, which has {size}")
    (first, _, last, _), reach = corners_yx(size), crowd.radius[:, None]  # of a blob at the border the center may be outside
    if (outside := ((crowd.yx < first - reach) | (crowd.yx > last + reach)).any(axis=1)).any():
        y, x = crowd.yx[outside][0]
        raise InputError(f"{truth} must list places inside {path.name} of {size} px (h, w), got y={y:g} x={x:g}")
    return CrowdImage(path.stem, pixels, crowd)


def _with_labels(path: Path, folder: Path) -> CrowdImage:
    pixels, found = read_color(path), _existing(folder / path.stem, "", MASK_SUFFIXES)
    labels = _read_labels(found)
    if labels.shape != pixels.shape[:2]:
        raise InputError(f"{found} must have its image's size {pixels.shape[:2]}, got {labels.dtype} of {labels.shape}")
    if labels.any() and (labels[labels != 0] == labels.max()).all():  # a mask of one value: its pieces are the blobs
        labels = cv2.connectedComponents((labels != 0).astype(np.uint8), connectivity=4)[1]
    return CrowdImage(path.stem, pixels, crowd_of_labels(labels.astype(np.int64)))


def _read_points(path: Path) -> Crowd:
    """Read centers, of columns as in `read_crowds`; blobs without a radius get a third of the median distance to others."""
    try:
        table = pd.read_csv(path, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} as CSV: {str(error).strip()}") from error
    if "axis-2" in table.columns:
        raise InputError(f"{path} lists points of a stack (axis-2): save those of one plane, as axis-0 and axis-1")
    if twice := [f"{name} and {known}" for name, known in _ALSO_POINTS.items() if {name, known} <= set(table.columns)]:
        raise InputError(f"{path} must state each column once, it has {twice[0]}")
    table = table.rename(columns=_ALSO_POINTS)
    if not {"y", "x"} <= set(table.columns):
        raise InputError(f"{path} must have columns y, x and, if known, radius, got {list(table.columns)}")
    known = table[[name for name in ("y", "x", "radius") if name in table.columns]].apply(pd.to_numeric, errors="coerce")
    if not np.isfinite(known.to_numpy(np.float64)).all() or ("radius" in known and (known["radius"] <= 0).any()):
        raise InputError(f"{path} must hold finite numbers, and radii above 0, in every row")
    yx = known[["y", "x"]].to_numpy(np.float64)
    if "radius" in known or not len(yx):
        return disks(yx, known["radius"].to_numpy(np.float64) if len(yx) else np.zeros(0))
    if len(yx) == 1:
        raise InputError(f"{path} needs a column radius: the size of a single blob cannot be guessed")
    apart = float(np.median(np.asarray(cKDTree(yx).query(yx, 2)[0])[:, 1]))
    if apart == 0:
        raise InputError(f"{path} lists most points twice: a size cannot be guessed, add a column radius")
    return disks(yx, np.full(len(yx), apart / 3))


def _read_coco(path: Path) -> dict[str, tuple[Crowd, Stated]]:
    """Read boxes, and the size stated, by the stem of an image's file name; a blob is the ellipse that fills its box."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: (Path(image["file_name"]).stem, image) for image in content["images"]}
        boxes: dict[object, list[list[float]]] = {number: [] for number in images}
        for annotation in content["annotations"]:
            x, y, wide, tall = (float(v) for v in annotation["bbox"])
            if not (wide > 0 and tall > 0 and np.isfinite([x, y, wide, tall]).all()):
                raise ValueError(f"a box is x, y, width and height, both above 0, got {annotation['bbox']}")
            boxes[annotation["image_id"]].append([x, y, wide, tall])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"expected COCO's images and annotations in {path}: {error!r}") from error
    stems = [stem for stem, _ in images.values()]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"{path} must tell its images apart by the stems of their names, two are {twice}")
    return {
        stem: (_ellipses(np.array(boxes[number]).reshape(-1, 4)), (image.get("height"), image.get("width")))
        for number, (stem, image) in images.items()
    }


def _ellipses(boxes_xywh: Float64[np.ndarray, "n 4"]) -> Crowd:
    corner_yx, tall_wide = boxes_xywh[:, 1::-1], boxes_xywh[:, :1:-1]
    center = pixel_edges_to_yx(np.concatenate([corner_yx, corner_yx], axis=1))[:, :2] + tall_wide / 2
    return Crowd(center, (tall_wide**2 / 16)[:, :, None] * np.eye(2))
