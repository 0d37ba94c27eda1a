"""Crowds come from label images, lists of points and boxes; what is missing or wrong is named in one line."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from fiducial.crowds import Crowd
from fiducial.datasets import read_color, read_crowds
from fiducial.records import InputError

SIZE = (40, 55)


def write_images(root: Path, *names: str) -> None:
    (root / "images").mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(root / "images" / name), np.full(SIZE, 90, np.uint8))


def squares() -> np.ndarray:
    labels = np.zeros(SIZE, np.uint16)
    labels[4:10, 6:14] = 700  # beyond 8 bits
    labels[20:31, 30:41] = 3
    return labels


def write_points(root: Path, text: str, name: str = "a") -> None:
    (root / "points").mkdir(exist_ok=True)
    (root / "points" / f"{name}.csv").write_text(text)


def write_boxes(root: Path, content: object) -> None:
    (root / "annotations.json").write_text(json.dumps(content))


def coco(*boxes: list[float], name: str = "a.png") -> dict[str, list[dict[str, object]]]:
    images = [{"id": 4, "file_name": name}, {"id": 9, "file_name": "b.png"}]
    return {"images": images, "annotations": [{"image_id": 4, "bbox": box} for box in boxes]}


def by_column(crowd: Crowd) -> Crowd:
    return crowd.only(np.argsort(crowd.yx[:, 1]))


def refused(root: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        read_crowds(root)
    assert "\n" not in str(error.value)


# Label images


def test_the_pieces_of_a_mask_of_one_value_are_its_blobs(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), (255 * (squares() > 0)).astype(np.uint8))
    (image,) = read_crowds(tmp_path)
    np.testing.assert_allclose(by_column(image.crowd).yx, [[6.5, 9.5], [25, 35]])


def test_labels_in_color_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "masks").mkdir()
    color = np.zeros((*SIZE, 3), np.uint8)
    color[5:9, 5:9] = (255, 0, 0)
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), color)
    refused(tmp_path, "in color")


@pytest.mark.parametrize(("folder", "suffix"), [("masks", ".png"), ("segmaps", ".tif")])
def test_label_images_of_the_same_name_are_measured(tmp_path: Path, folder: str, suffix: str) -> None:
    write_images(tmp_path, "b.png", "a.jpg")
    (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / folder / f"a{suffix}"), squares())
    cv2.imwrite(str(tmp_path / folder / f"b{suffix}"), np.zeros(SIZE, np.uint8))
    first, second = read_crowds(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert first.pixels.shape == SIZE
    crowd = by_column(first.crowd)
    np.testing.assert_allclose(crowd.yx, [[6.5, 9.5], [25, 35]])
    np.testing.assert_allclose(np.pi * crowd.radius**2, [48, 121])
    assert len(second.crowd) == 0


def test_names_with_dots_keep_them(tmp_path: Path) -> None:
    write_images(tmp_path, "a.10x.png")
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "a.10x.tif"), squares())
    (image,) = read_crowds(tmp_path)
    assert (image.name, len(image.crowd)) == ("a.10x", 2)


def test_an_image_without_its_labels_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "lonely.png")
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), squares())
    refused(tmp_path, "lonely")


def test_labels_of_another_size_or_of_fractions_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "masks").mkdir()
    path = tmp_path / "masks" / "a.tif"
    tifffile.imwrite(path, squares()[:-1])
    refused(tmp_path, r"\(40, 55\), got uint16 of \(39, 55\)")
    tifffile.imwrite(path, squares().astype(np.float32))
    refused(tmp_path, "whole numbers.*float32")


def test_negative_labels_are_background(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "a.tif", squares().astype(np.int32) - 1 + (squares() > 0))
    (image,) = read_crowds(tmp_path)
    assert len(image.crowd) == 2


def test_a_mask_with_losses_is_not_taken_and_one_in_capitals_is(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "a.jpg"), (255 * (squares() > 0)).astype(np.uint8))
    refused(tmp_path, "a .*in masks|a .*found none")
    tifffile.imwrite(tmp_path / "masks" / "a.TIF", squares())
    assert len(read_crowds(tmp_path)[0].crowd) == 2


# Points


@pytest.mark.parametrize("header", ["y_px,x_px,radius_px,probability", "index,axis-0,axis-1,radius"])
def test_tables_that_detect_wrote_are_points(tmp_path: Path, header: str) -> None:
    write_images(tmp_path, "a.png")
    row = "3.25,12.5,4,0.9" if header.startswith("y") else "0,3.25,12.5,4"
    write_points(tmp_path, f"{header}\n{row}\n")
    crowd = read_crowds(tmp_path)[0].crowd
    np.testing.assert_allclose(crowd.yx, [[3.25, 12.5]])
    np.testing.assert_allclose(crowd.radius, [4])


def test_points_with_radii_are_taken_as_they_are(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    write_points(tmp_path, "name,x,y,radius\nfirst,12.5,3.25,4\nsecond,40,30,7.5\n")
    crowd = read_crowds(tmp_path)[0].crowd
    np.testing.assert_allclose(crowd.yx, [[3.25, 12.5], [30, 40]])
    np.testing.assert_allclose(crowd.radius, [4, 7.5])


def test_a_blob_at_the_border_may_have_its_center_outside(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    write_points(tmp_path, "y,x,radius\n10,-3.4,3\n42.4,57.4,3\n")
    np.testing.assert_allclose(read_crowds(tmp_path)[0].crowd.yx, [[10, -3.4], [42.4, 57.4]])


def test_points_without_radii_get_a_third_of_the_median_distance_to_the_next(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    write_points(tmp_path, "y,x\n10,10\n10,16\n10,25\n30,50\n")  # nearest others at 6, 6, 9 and about 32 px
    np.testing.assert_allclose(read_crowds(tmp_path)[0].crowd.radius, 2.5)


@pytest.mark.parametrize("header", ["y,x\n", "y,x,radius\n"])
def test_a_list_without_points_is_an_image_without_blobs(tmp_path: Path, header: str) -> None:
    write_images(tmp_path, "a.png")
    write_points(tmp_path, header)
    assert len(read_crowds(tmp_path)[0].crowd) == 0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("row,column\n1,2\n", r"columns y, x.*\['row', 'column'\]"),
        ("y,x\n10,12\n", "column radius"),
        ("y,x,radius\n10,12,\n", "finite numbers"),
        ("y,x,radius\n10,inf,3\n", "finite numbers"),
        ("y,x,radius\n10,twelve,3\n", "finite numbers"),
        ("y,x,radius\n10,12,3\n10,12,0\n", "above 0"),
        ("y,x,radius\n10,12,-3\n", "above 0"),
        ("y,x,radius\n10,12,3\n43,12,3\n", r"points/a\.csv must list places inside a\.png of \(40, 55\) px.*got y=43 x=12"),
        ("y,x,radius\n10,-3.6,3\n", "places inside"),
        ("index,axis-0,axis-1,axis-2\n0,3,10,12\n1,3,20,30\n", r"a\.csv lists points of a stack"),
        ("y,x,y_px,x_px,radius\n10,12,10,12,3\n", "each column once, it has y_px and y"),
        ("", "as CSV"),
        ("y,x\n1,2\n1,2,3,4\n", "as CSV"),
    ],
)
def test_a_list_of_points_that_cannot_be_used_says_why(tmp_path: Path, text: str, match: str) -> None:
    write_images(tmp_path, "a.png")
    write_points(tmp_path, text)
    refused(tmp_path, match)


def test_an_image_without_its_points_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "lonely.png")
    write_points(tmp_path, "y,x,radius\n10,12,3\n")
    refused(tmp_path, "lonely")


# Boxes


def test_a_box_becomes_the_ellipse_that_fills_it_in_the_house_frame(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    write_boxes(tmp_path, coco([10, 4, 12, 8]))  # columns 10 to 21, rows 4 to 11
    a, b = read_crowds(tmp_path)
    np.testing.assert_allclose(a.crowd.yx, [[7.5, 15.5]])
    np.testing.assert_allclose(a.crowd.moments, [np.diag([4**2 / 4, 6**2 / 4])])
    np.testing.assert_allclose(a.crowd.radius, np.sqrt(4 * 6))
    assert len(b.crowd) == 0  # listed, without a box


def test_boxes_name_their_image_by_its_stem(tmp_path: Path) -> None:
    write_images(tmp_path, "a.tif", "b.png")
    write_boxes(tmp_path, coco([10, 4, 12, 8], [1, 1, 5, 5], name="somewhere/else/a.jpg"))
    assert [len(image.crowd) for image in read_crowds(tmp_path)] == [2, 0]


def test_an_image_that_the_boxes_do_not_know_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png", "lonely.png")
    write_boxes(tmp_path, coco([10, 4, 12, 8]))
    refused(tmp_path, r"lacks lonely\.png")


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"images": []},
        {"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]},
        coco([1, 2, 3]),
        coco([1, 2, 3, 4, 5]),
        coco([1, 2, 0, 4]),
        coco([1, 2, 3, -4]),
        coco([1, float("nan"), 3, 4]),
    ],
)
def test_boxes_that_are_not_cocos_are_refused(tmp_path: Path, content: object) -> None:
    write_images(tmp_path, "a.png", "b.png")
    write_boxes(tmp_path, content)
    refused(tmp_path, "COCO")


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png")
    (tmp_path / "annotations.json").write_text("{")
    refused(tmp_path, "COCO")


def test_boxes_of_another_size_of_image_or_of_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    content = coco([10, 4, 12, 8])
    content["images"][0] |= {"width": 550, "height": 400}
    write_boxes(tmp_path, content)
    refused(tmp_path, r"annotations\.json states the size \(400, 550\) \(h, w\) for a\.png, which has \(40, 55\)")
    content["images"][0] |= {"width": 55, "height": 40}
    write_boxes(tmp_path, content)
    assert [len(image.crowd) for image in read_crowds(tmp_path)] == [1, 0]
    write_boxes(tmp_path, coco([100, 40, 12, 8]))
    refused(tmp_path, r"annotations\.json must list places inside a\.png")
    content["images"].append({"id": 12, "file_name": "val/a.png"})
    write_boxes(tmp_path, content)
    refused(tmp_path, r"annotations\.json must tell its images apart by the stems of their names, two are a")


# Folders and colors


def test_labels_come_before_points_and_points_before_boxes(tmp_path: Path) -> None:
    write_images(tmp_path, "a.png", "b.png")
    write_boxes(tmp_path, coco())
    assert [len(image.crowd) for image in read_crowds(tmp_path)] == [0, 0]
    for name in ("a", "b"):
        write_points(tmp_path, "y,x,radius\n10,12,3\n", name)
    assert [len(image.crowd) for image in read_crowds(tmp_path)] == [1, 1]
    (tmp_path / "masks").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), squares())
    assert [len(image.crowd) for image in read_crowds(tmp_path)] == [2, 2]


def test_a_folder_without_images_or_truth_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "folder with images")
    write_images(tmp_path, "a.png")
    refused(tmp_path, "expected masks/, segmaps/, points/ or annotations.json")


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((4, 6), 77, np.uint8), (4, 6)),
        (np.full((4, 6, 3), 77, np.uint8), (4, 6)),  # gray in three channels
        (np.full((4, 6, 3), (10, 20, 30), np.uint8), (4, 6, 3)),
        (np.full((4, 6, 4), (10, 20, 30, 255), np.uint8), (4, 6, 3)),
    ],
)
def test_colors_are_kept_and_grays_have_one_channel(tmp_path: Path, pixels: np.ndarray, expected: tuple[int, ...]) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    read = read_color(path)
    assert read.shape == expected
    np.testing.assert_array_equal(read, pixels[..., :3] if len(expected) == 3 else pixels.reshape(4, 6, -1)[..., 0])


def test_deep_images_reach_from_their_least_to_their_largest_value(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    deep = np.linspace(1000, 3000, 24).reshape(4, 6)
    tifffile.imwrite(path, deep.astype(np.uint16))
    read = read_color(path)
    assert (read.min(), read.max()) == (0, 255)
    assert (np.diff(read.ravel().astype(int)) > 0).all()
    deep[2, 3] = np.nan
    tifffile.imwrite(path, deep.astype(np.float32))
    read = read_color(path)
    assert read[2, 3] == 0
    assert (read[0, 0], read[3, 5]) == (0, 255)


@pytest.mark.parametrize(("dataset", "folder"), [("emps", "segmaps"), ("dsb2018", "masks")])
def test_public_crowds_beside_the_project_have_blobs_inside_their_images(
    tmp_path: Path, data: Path, dataset: str, folder: str
) -> None:
    if not (data / dataset).is_dir():
        pytest.skip(f"{dataset} is not beside the project")
    for part in ("images", folder):
        (tmp_path / part).mkdir()
    for path in sorted((data / dataset / "images").iterdir())[::200]:
        (tmp_path / "images" / path.name).symlink_to(path.resolve())
        (labels,) = (data / dataset / folder).glob(f"{path.stem}.*")
        (tmp_path / folder / labels.name).symlink_to(labels.resolve())
    for image in read_crowds(tmp_path):
        assert 1 < np.median(image.crowd.radius) < min(image.pixels.shape[:2]) / 2
        assert (image.crowd.yx > 0).all()
        assert (image.crowd.yx < np.array(image.pixels.shape[:2]) - 1).all()


def test_bright_blobs_of_a_deep_image_stand_as_high_above_it_as_detect_sees_them(tmp_path: Path) -> None:
    deep = np.random.default_rng(2).normal(1000, 30, (100, 120)).astype(np.uint16)
    deep[40:43, 50:53] = 9000  # a thousandth of it
    tifffile.imwrite(tmp_path / "a.tif", deep)
    read = read_color(tmp_path / "a.tif")
    assert read[41, 51] == 255
    rest = np.delete(read.ravel(), np.flatnonzero(deep.ravel() == 9000))
    assert 110 < rest.max() < 170  # half as high, and the noise of a thousand pixels above that
    deep[:] = 7
    deep[3, 4] = 9
    tifffile.imwrite(tmp_path / "a.tif", deep)
    assert np.flatnonzero(read_color(tmp_path / "a.tif")).tolist() == [3 * 120 + 4]


def test_an_image_of_one_bit_is_black_and_white(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", squares() > 0, photometric="minisblack")
    np.testing.assert_array_equal(read_color(tmp_path / "a.tif"), 255 * (squares() > 0))
