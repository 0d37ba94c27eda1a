"""Datasets in their public layouts become images and truth; what is missing is named."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from fiducial import datasets, synth
from fiducial.defects.inspector import _normalized
from fiducial.defects.samples import Pool, make_sample
from fiducial.evaluate.defects import CASES, displace
from fiducial.images import from_array, open_image
from fiducial.records import InputError
from fiducial.regions import label_regions


def write_deeppcb(root: Path, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    board = synth.draw_board(rng, (200, 240))
    sample, mask = synth.damage_board(board, rng, 8)
    regions = label_regions(mask > 0, join_px=0)
    boxes, label = regions.boxes_yxyx, np.array([mask[regions.number == i + 1].max() for i in range(len(regions.area_px))])
    folder = root / "PCBData" / "group7"
    (folder / "7").mkdir(parents=True)
    (folder / "7_not").mkdir()
    cv2.imwrite(str(folder / "7" / "70001_temp.png"), board)
    cv2.imwrite(str(folder / "7" / "70001_test.png"), sample)
    rows = [
        f"{x0 + 0.5:.0f} {y0 + 0.5:.0f} {x1 + 0.5:.0f} {y1 + 0.5:.0f} {k}"
        for (y0, x0, y1, x1), k in zip(boxes, label, strict=True)
    ]
    (folder / "7_not" / "70001.txt").write_text("\n".join(rows))
    (root / "PCBData" / "trainval.txt").write_text("group7/7/70001.jpg group7/7_not/70001.txt\n")
    return mask, label


def test_deeppcb_masks_follow_from_its_boxes(tmp_path: Path, rng: np.random.Generator) -> None:
    mask, label = write_deeppcb(tmp_path, rng)
    (pair,) = datasets.read_deeppcb(tmp_path)
    assert (pair.name, pair.group) == ("70001", "7")
    np.testing.assert_array_equal(np.sort(pair.label), np.sort(label))
    agree = (pair.mask > 0) & (mask > 0)
    assert agree.sum() > 0.85 * (mask > 0).sum()  # opening rounds corners off
    np.testing.assert_array_equal(pair.mask[agree], mask[agree])
    assert not datasets.read_pairs(tmp_path)[0].mask[mask == 0].any()


def test_groups_choose_pairs_and_none_left_is_said(tmp_path: Path, rng: np.random.Generator) -> None:
    write_deeppcb(tmp_path, rng)
    assert len(datasets.read_pairs(tmp_path, ("7",))) == 1
    with pytest.raises(InputError, match=r"are held out \(7\): none is left to learn from"):
        datasets.read_pairs(tmp_path, but=("7",))
    for chosen in ({"groups": ("7", "8")}, {"but": ("70",)}):
        with pytest.raises(InputError, match=r"belongs to (8|70): its groups are 7"):
            datasets.read_pairs(tmp_path, **chosen)
    assert datasets.listed("7, 8,") == ("7", "8")


@pytest.mark.parametrize(
    ("boxes", "match"),
    [
        ("10 10 30 x 2", "expected lines of x0 y0 x1 y1 class"),
        ("10 10 30 30", "expected lines of x0 y0 x1 y1 class"),
        ("30 10 10 30 2", "got 30 10 10 30 2"),
        ("10 10 30 30 7", "got 10 10 30 30 7"),
        (None, "expected lines"),
    ],
)
def test_boxes_that_cannot_be_meant_are_named(tmp_path: Path, rng: np.random.Generator, boxes: str | None, match: str) -> None:
    write_deeppcb(tmp_path, rng)
    path = tmp_path / "PCBData" / "group7" / "7_not" / "70001.txt"
    path.unlink() if boxes is None else path.write_text(boxes)
    with pytest.raises(InputError, match=match) as error:
        list(datasets.read_deeppcb(tmp_path))
    assert "\n" not in str(error.value)


def test_a_line_without_boxes_and_a_template_of_another_size_are_named(tmp_path: Path, rng: np.random.Generator) -> None:
    write_deeppcb(tmp_path, rng)
    cv2.imwrite(str(tmp_path / "PCBData" / "group7" / "7" / "70001_temp.png"), np.zeros((50, 60), np.uint8))
    with pytest.raises(InputError, match="one size"):
        list(datasets.read_deeppcb(tmp_path))
    (tmp_path / "PCBData" / "trainval.txt").write_text("group7/7/70001.jpg\n")
    with pytest.raises(InputError, match="must name an image and its boxes"):
        list(datasets.read_deeppcb(tmp_path))


def test_a_good_board_has_no_boxes(tmp_path: Path, rng: np.random.Generator) -> None:
    write_deeppcb(tmp_path, rng)
    (tmp_path / "PCBData" / "group7" / "7_not" / "70001.txt").write_text("")
    (pair,) = datasets.read_deeppcb(tmp_path)
    assert not pair.mask.any()
    assert (pair.boxes_yxyx.shape, len(pair.label)) == ((0, 4), 0)


def test_a_box_in_which_nothing_differs_is_filled() -> None:
    same = np.zeros((30, 40), np.uint8)
    mask, number = datasets.mask_from_boxes(same, same, np.array([[4.5, 9.5, 9.5, 19.5]]), np.array([3]))
    assert (mask[5:10, 10:20] == 3).all()
    assert (mask > 0).sum() == 50
    np.testing.assert_array_equal(number > 0, mask > 0)


def test_edge_jitter_inside_a_box_is_no_defect() -> None:
    template = np.zeros((60, 60), np.uint8)
    template[:, 20:40] = 255
    sample = template.copy()
    sample[:, 19] = 255  # an edge that moved by a pixel
    sample[25:33, 40:48] = 255  # a spur
    mask, number = datasets.mask_from_boxes(sample, template, np.array([[15.0, 10, 45, 55]]), np.array([4]))
    assert set(np.unique(mask[25:33, 40:48])) == {4}
    assert not mask[:, 19].any()
    assert set(np.unique(number)) == {0, 1}


def test_a_folder_of_pairs_is_read(tmp_path: Path, rng: np.random.Generator) -> None:
    board = synth.draw_board(rng, (100, 130))
    sample, mask = synth.damage_board(board, rng, 5)
    for folder, image in (("samples", sample), ("templates", board), ("masks", mask)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "line3_001.png"), image)
    (pair,) = datasets.read_pairs(tmp_path)
    assert pair.group == "line3"
    np.testing.assert_array_equal(pair.mask, mask)
    for stored in (PillowImage.fromarray(mask.astype(np.uint16)), PillowImage.fromarray(mask).convert("P")):
        stored.save(tmp_path / "masks" / "line3_001.png")
        np.testing.assert_array_equal(datasets.read_pairs(tmp_path)[0].mask > 0, mask > 0)
    cv2.imwrite(str(tmp_path / "masks" / "line3_001.png"), np.dstack([mask, mask, 0 * mask]))
    with pytest.raises(InputError, match="in color"):
        datasets.read_pairs(tmp_path)
    (tmp_path / "masks" / "line3_001.png").unlink()
    with pytest.raises(InputError, match="line3_001"):
        datasets.read_pairs(tmp_path)


def write_pair(root: Path, sample: np.ndarray, template: np.ndarray, mask: np.ndarray) -> None:
    for folder, image in (("samples", sample), ("templates", template), ("masks", mask)):
        (root / folder).mkdir()
        tifffile.imwrite(root / folder / "a_1.tif", image)


def test_masks_of_defects_may_be_of_any_whole_numbers_and_of_a_palette(tmp_path: Path) -> None:
    gray, mask = np.arange(80, dtype=np.uint8).reshape(8, 10), np.zeros((8, 10), np.int64)
    mask[2:5, 3:7] = 2
    write_pair(tmp_path, gray, gray, mask)
    path, colors = tmp_path / "masks" / "a_1.tif", np.random.default_rng(0).integers(0, 2**16, (3, 256)).astype(np.uint16)
    for write in (
        lambda: None,
        lambda: tifffile.imwrite(path, mask.astype(np.uint32)),
        lambda: tifffile.imwrite(path, mask.astype(np.uint8), photometric="palette", colormap=colors),
    ):
        write()
        np.testing.assert_array_equal(datasets.read_pairs(tmp_path)[0].mask, mask)
    tifffile.imwrite(path, mask > 0, photometric="minisblack")
    np.testing.assert_array_equal(datasets.read_pairs(tmp_path)[0].mask, mask > 0)
    path.unlink()
    PillowImage.fromarray(mask > 0).save(path.with_suffix(".png"))
    np.testing.assert_array_equal(datasets.read_pairs(tmp_path)[0].mask, mask > 0)
    path.with_suffix(".png").unlink()
    for wrong, said in ((300 * mask, "classes from 0 to 200, got 0 to 600"), (mask - 1, "got -1 to 1"), (mask / 2, "float64")):
        tifffile.imwrite(path, wrong)
        with pytest.raises(InputError, match=said):
            datasets.read_pairs(tmp_path)


def test_the_class_of_a_region_is_that_of_most_of_its_pixels(tmp_path: Path) -> None:
    gray, mask = np.arange(140, dtype=np.uint8).reshape(10, 14), np.zeros((10, 14), np.uint8)
    mask[1:6, 2:9], mask[6, 2:4] = 1, 2  # two pixels of another class hang on a scratch
    write_pair(tmp_path, gray, gray, mask)
    (pair,) = datasets.read_pairs(tmp_path)
    assert pair.label.tolist() == [1]
    assert np.bincount(pair.mask.ravel())[1:].tolist() == [35, 2]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_glaring_defect_stands_as_high_in_what_is_evaluated_and_learned_from_as_inspect_sees_it(
    tmp_path: Path, rng: np.random.Generator, dtype: type
) -> None:
    template = rng.normal(60, 4, (120, 150))
    sample, mask = template.copy(), np.zeros((120, 150), np.uint8)
    sample[50:54, 70:75], mask[50:54, 70:75] = 90, 1  # beyond the 99th percentile by as much as that is above the first
    sample[80:84, 20:25], mask[80:84, 20:25] = 250, 1
    write_pair(tmp_path, sample.astype(dtype), template.astype(dtype), mask)
    (pair,) = datasets.read_pairs(tmp_path)
    for shown, name in zip(displace(pair, CASES[0], rng), ("samples", "templates"), strict=True):
        seen, own = (_normalized(image, invert=False).read() for image in (
            from_array(shown), open_image(tmp_path / name / "a_1.tif")))  # fmt: skip
        np.testing.assert_allclose(seen, own, atol=2e-3)
    assert float(_normalized(from_array(pair.sample), invert=False).read().max()) == pytest.approx(2, abs=1e-3)
    photographs = [displace(pair, CASES[3], np.random.default_rng(i))[0] for i in range(5)]
    assert max(float(image.max()) for image in photographs) > 260  # 8 bits end at 255
    drawn = [make_sample(Pool((pair,), (), boards=False), np.random.default_rng(i), 96) for i in range(12)]
    assert np.median([float(d.sample.max() - d.template.max()) for d in drawn]) > 0.3


def test_names_that_begin_with_a_dot_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "._a.png").write_bytes(b"\0\5\x16\7")  # what a Mac leaves beside each file on another's disk
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 5), np.uint8))
    assert datasets.list_images(tmp_path) == [tmp_path / "a.png"]


def test_the_docs_name_every_suffix_that_a_folder_is_searched_for() -> None:
    text = (Path(__file__).parents[1] / "docs" / "formats.md").read_text(encoding="utf-8")
    searched = text.split("(a folder is searched for ")[1].split(")")[0]
    assert sorted(re.findall(r"`(\.\w+)`", searched)) == sorted(datasets.IMAGE_SUFFIXES)


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder with images"):
        datasets.read_pairs(tmp_path)


def test_the_public_deeppcb_is_read(data: Path) -> None:
    pairs = datasets.read_pairs(data / "deeppcb", ("44000",))
    assert len(pairs) == 50
    for pair in pairs:
        assert pair.mask.shape == pair.sample.shape == (640, 640)
        assert set(np.unique(pair.mask)) <= set(range(7))
        assert len(np.unique(pair.label)) == len(set(np.unique(pair.mask)) - {0})


def write_aligned(root: Path, folders: tuple[str, str], rng: np.random.Generator) -> dict[str, np.ndarray]:
    images = {name: rng.integers(0, 255, (2, 30, 41)).astype(np.uint8) for name in ("003", "017")}
    for i, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for name, both in images.items():
            cv2.imwrite(str(root / folder / f"{name}.{('png', 'tif')[i]}"), both[i])
    return images


@pytest.mark.parametrize("folders", [("a", "b"), ("opt", "sar")])
def test_aligned_pairs_are_read_by_name(tmp_path: Path, rng: np.random.Generator, folders: tuple[str, str]) -> None:
    images = write_aligned(tmp_path, folders, rng)
    pairs = datasets.read_aligned(tmp_path)
    assert [pair.name for pair in pairs] == ["003", "017"]
    for pair in pairs:
        np.testing.assert_array_equal(pair.a, images[pair.name][0])
        np.testing.assert_array_equal(pair.b, images[pair.name][1])
    assert [pair.name for pair in datasets.read_aligned(tmp_path, ("017",))] == ["017"]


def test_what_is_wrong_with_aligned_pairs_is_said(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="found neither"):
        datasets.read_aligned(tmp_path)
    (tmp_path / "opt").mkdir()
    with pytest.raises(InputError, match="found neither"):  # one folder of two
        datasets.read_aligned(tmp_path)
    write_aligned(tmp_path, ("a", "b"), rng)
    cv2.imwrite(str(tmp_path / "b" / "017.tif"), np.zeros((30, 40), np.uint8))
    with pytest.raises(InputError, match=r"one size, 017 has \(30, 41\).*\(30, 40\)"):
        datasets.read_aligned(tmp_path)
    (tmp_path / "b" / "017.tif").unlink()
    with pytest.raises(InputError, match="017"):
        datasets.read_aligned(tmp_path)
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="expected a folder with images"):
        datasets.read_aligned(tmp_path)
