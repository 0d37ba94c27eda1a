"""Blobs come back from every format, meet other programs' frames to the half pixel, and are drawn where they lie."""

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image as PillowImage
from roifile import ROI_TYPE, ImagejRoi, roiread, roiwrite

from fiducial.formats.blobs import (
    FORMATS,
    blobs_from_coco,
    blobs_from_json,
    blobs_from_points,
    blobs_from_rois,
    blobs_to_json,
)
from fiducial.images import write_json
from fiducial.records import Blobs, InputError, Provenance

WORLD = np.array([[10.0, 0, 505], [0, -10, 895], [0, 0, 1]])
READERS = {"a.coco.json": blobs_from_coco, "a.roi.zip": blobs_from_rois, "a.points.csv": blobs_from_points}


def record(n: int = 3, length: int = 0, *, world: bool = False, unit: str | None = "µm") -> Blobs:
    vectors = np.random.default_rng(3).normal(size=(3, length)).astype(np.float32)
    return Blobs(
        yx=np.array([[10.0, 20.0], [44.125, 7.3], [30.7, 81.9]])[:n],
        radius=np.array([5.0, 3.3, 6.75])[:n],
        score=np.array([0.98765, 0.75, 0.5])[:n],
        embedding=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if length else vectors)[:n],
        count_interval=(n, n + 4),
        radii_px=(2.0, 30.0),
        image="a é.tif",
        size=(60, 90),
        pixel_size=None if unit is None else (2.0, 0.5),
        unit=unit,
        crs="LOCAL" if world else None,
        pixel_to_world=WORLD if world else None,
        provenance=Provenance("0.1.0", "w", "ab12", (("calibrated", True), ("false_alarms", None), ("min_probability", 0.5))),
    )


def assert_same(a: Blobs, b: Blobs) -> None:
    for field in dataclasses.fields(Blobs):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y, strict=True, err_msg=field.name)
        else:
            assert x == y, field.name


@pytest.mark.parametrize("made", [record(), record(world=True), record(unit=None), record(0), record(0, 128)])
def test_a_record_comes_back_from_json_and_equal_records_give_equal_bytes(tmp_path: Path, made: Blobs) -> None:
    made.save(tmp_path / "a.json")
    back = blobs_from_json(tmp_path / "a.json")
    assert_same(made, back)
    back.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    stated = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert (stated["count"], stated["count_interval"]) == (len(made), [len(made), len(made) + 4])


def test_each_blob_is_a_line_of_json(tmp_path: Path) -> None:
    made = record(3, 128)
    made.save(tmp_path / "a.json")
    lines = (tmp_path / "a.json").read_text(encoding="utf-8").splitlines()
    first = lines.index(' "blobs": [') + 1
    np.testing.assert_array_equal([json.loads(line.rstrip(","))["yx"] for line in lines[first : first + 3]], made.yx)
    assert lines[first + 3] == " ],"


def test_embeddings_come_back_from_json_to_six_digits_and_stay_there(tmp_path: Path) -> None:
    made = record(3, 128)
    made.save(tmp_path / "a.json")
    back = blobs_from_json(tmp_path / "a.json")
    np.testing.assert_allclose(back.embedding, made.embedding, rtol=0, atol=6e-7)
    back.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("n", [3, 0])
def test_centers_radii_and_probabilities_come_back_from_other_programs_files(tmp_path: Path, name: str, n: int) -> None:
    made = record(n)
    made.save(tmp_path / name)
    back = READERS[name](tmp_path / name)
    assert len(back) == n
    np.testing.assert_allclose(back.yx, made.yx, atol=1e-5)
    np.testing.assert_allclose(back.radius, made.radius, atol=1e-5)
    np.testing.assert_allclose(back.score, made.score, rtol=1e-12)


def test_imagej_and_coco_count_from_the_corner_and_napari_from_the_center(tmp_path: Path) -> None:
    for name in READERS:
        record().save(tmp_path / name)
    roi = roiread(tmp_path / "a.roi.zip")[0]
    assert (roi.roitype.name, roi.xd, roi.yd, roi.widthd, roi.heightd) == ("OVAL", 15.5, 5.5, 10, 10)
    assert (roi.left, roi.top, roi.right, roi.bottom) == (15, 5, 26, 16)
    assert roi.properties == {"probability": 0.98765}
    annotation = json.loads((tmp_path / "a.coco.json").read_text(encoding="utf-8"))["annotations"][0]
    assert annotation["bbox"] == [15.5, 5.5, 10, 10]
    assert annotation["area"] == pytest.approx(25 * np.pi)
    polygon = np.array(annotation["segmentation"][0]).reshape(32, 2)
    np.testing.assert_allclose(np.hypot(*(polygon - (20.5, 10.5)).T), 5, atol=1e-3)
    np.testing.assert_allclose(polygon[[0, 8]], [[25.5, 10.5], [20.5, 15.5]])
    first = pd.read_csv(tmp_path / "a.points.csv").iloc[0]
    assert first.to_dict() == {"index": 0, "axis-0": 10, "axis-1": 20, "radius": 5, "probability": 0.98765}


def test_ovals_drawn_by_hand_are_read_as_disks_of_their_area(tmp_path: Path) -> None:
    oval = ImagejRoi(roitype=ROI_TYPE.OVAL, name="mine", top=10, left=20, bottom=14, right=29)
    roiwrite(tmp_path / "mine.zip", [oval])
    back = blobs_from_rois(tmp_path / "mine.zip")
    np.testing.assert_array_equal(back.yx, [[11.5, 24]])
    assert back.radius.tolist() == [3]
    assert np.isnan(back.score).all()


def test_points_without_radius_are_read_with_an_undefined_one(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("index,axis-0,axis-1\n0.0,3.25,4\n")
    back = blobs_from_points(tmp_path / "p.csv")
    assert back.yx.tolist() == [[3.25, 4]]
    assert np.isnan([back.radius, back.score]).all()


def test_tables_state_pixels_units_and_map_coordinates(tmp_path: Path) -> None:
    record(world=True).save(tmp_path / "a.csv")
    table = pd.read_csv(tmp_path / "a.csv")
    plain = ["id", "y_px", "x_px", "radius_px", "probability"]
    assert sorted(table) == sorted([*plain, "y_um", "x_um", "radius_um", "map_x", "map_y", "radius_map"])
    stated = {"id": 1, "y_px": 10, "x_px": 20, "radius_px": 5, "probability": 0.9876, "y_um": 20, "x_um": 10, "radius_um": 5}
    assert table.iloc[0].to_dict() == pytest.approx(stated | {"map_x": 705, "map_y": 795, "radius_map": 50}, abs=1e-4)
    assert list(record(unit=None).to_frame()) == plain
    assert list(record().to_frame()) == [*plain, "y_um", "x_um", "radius_um"]
    for kind in (record(0), record(0, world=True), record(0, 128, unit=None)):
        assert len(kind.to_frame()) == 0
    assert list(record(0, world=True).to_frame()) == list(table)


def test_geojson_points_lie_on_the_map_or_count_from_the_corner(tmp_path: Path) -> None:
    record(world=True).save(tmp_path / "map.geojson")
    record(unit=None).save(tmp_path / "pixels.geojson")
    record(0).save(tmp_path / "none.geojson")
    mapped, pixels, none = (json.loads((tmp_path / f"{n}.geojson").read_text()) for n in ("map", "pixels", "none"))
    assert mapped["features"][0]["geometry"] == {"type": "Point", "coordinates": [705, 795]}
    assert mapped["features"][0]["properties"]["radius_map"] == pytest.approx(50)
    assert mapped["crs"]["properties"]["name"] == "LOCAL"
    assert pixels["features"][0]["geometry"]["coordinates"] == [20.5, 10.5]
    assert pixels["features"][0]["properties"] == {"image": "a é.tif", "probability": 0.98765, "radius_px": 5}
    assert none == {"type": "FeatureCollection", "features": [], "answer": "nothing"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            record().save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    record().save(path)
    written = path.read_bytes()
    record().save(path)
    assert path.read_bytes() == written != b"old"


def test_unknown_endings_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    for name in ("a.xls", "a.zip", "roi.zip"):
        with pytest.raises(InputError, match=r"\.roi\.zip"):
            record().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    record(3, 4).save(tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    changes = (('"count": 3', '"count": 2'), ("blobs/1", "blobs/9"), ('"yx"', '"xy"'), ("44.125,", "1, 44.125,"))
    for content in ("", text[:300], "[]", *(text.replace(*change) for change in changes)):
        assert content != text
        (tmp_path / "b.json").write_text(content, encoding="utf-8")
        with pytest.raises(InputError):
            blobs_from_json(tmp_path / "b.json")
    two = {"images": [{"id": 1}, {"id": 2}], "annotations": []}
    bad = {"images": [{"id": 1}], "annotations": [{"bbox": [1, 2, -3, 4]}]}
    for content in ("", "[]", json.dumps(two), json.dumps(bad), json.dumps(bad).replace("-3, ", "")):
        (tmp_path / "b.coco.json").write_text(content)
        with pytest.raises(InputError, match="COCO"):
            blobs_from_coco(tmp_path / "b.coco.json")
    for content in ("", "y,x\n1,2\n", "index,axis-0,axis-1\n0,a,b\n", "index,axis-0,axis-1,axis-2\n0,1,2,3\n"):
        (tmp_path / "b.csv").write_text(content)
        with pytest.raises(InputError, match="napari"):
            blobs_from_points(tmp_path / "b.csv")


def test_roi_archives_of_strangers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fiducial.formats.blobs._MAX_ROI_BYTES", 1 << 16)
    record().save(tmp_path / "good.roi.zip")
    whole = (tmp_path / "good.roi.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-30])
    (tmp_path / "flipped.zip").write_bytes(whole[:60] + bytes([whole[60] ^ 255]) + whole[61:])
    roiwrite(tmp_path / "line.zip", [ImagejRoi(roitype=ROI_TYPE.LINE, name="line")])
    oval = ImagejRoi(roitype=ROI_TYPE.OVAL, name="oval", right=9, bottom=9).tobytes()
    for name, content in {"text.zip": b"not a roi", "oval.zip": oval, "bomb.zip": oval + bytes(1 << 16)}.items():
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.roi", content)
    for name in ("cut", "flipped", "line", "text", "bomb", "absent"):
        with pytest.raises(InputError, match="ROI archive"):
            blobs_from_rois(tmp_path / f"{name}.zip")
    assert blobs_from_rois(tmp_path / "oval.zip").radius.tolist() == [4.5]


def lit(picture: PillowImage.Image) -> np.ndarray:
    """Return yx of bright pixels above the caption."""
    return np.argwhere(np.asarray(picture).max(axis=2)[:-50] > 100)


def one(made: Blobs) -> Blobs:
    return dataclasses.replace(made, **{n: getattr(made, n)[:1] for n in ("yx", "radius", "score", "embedding")})


@pytest.mark.parametrize(("shown", "factor"), [(None, 10), ((60, 90), 10), ((30, 45), 10), ((480, 720), 8)])
def test_circles_lie_around_their_blobs_on_pictures_of_any_size(shown: tuple[int, int] | None, factor: int) -> None:
    picture = one(record()).plot(None if shown is None else np.zeros(shown, np.uint8))
    assert picture.size == (90 * factor, 60 * factor)
    offset = lit(picture) - (np.array([10.0, 20.0]) * factor + (factor - 1) / 2)
    distance = np.hypot(*offset.T)
    circle, dot = offset[distance > factor], offset[distance <= factor]
    np.testing.assert_allclose(distance[distance > factor], 5 * factor, atol=1.5)
    np.testing.assert_allclose(circle.mean(axis=0), 0, atol=0.25)
    np.testing.assert_allclose(dot.mean(axis=0), 0, atol=0.5)
    assert len(circle) > 2 * np.pi * 5 * factor * 0.7


def test_circles_shift_by_parts_of_a_pixel() -> None:
    made = dataclasses.replace(one(record()), size=(600, 900), yx=np.array([[100.25, 200.5]]), radius=np.array([20.0]))
    bright = np.asarray(made.plot(np.zeros((600, 900), np.uint8))).max(axis=2)[:-50].astype(float)
    center = [(bright.sum(axis=1 - axis) * np.arange(bright.shape[axis])).sum() / bright.sum() for axis in (0, 1)]
    np.testing.assert_allclose(center, [100.25, 200.5], atol=0.1)


def test_the_least_blobs_have_no_dot_and_colors_tell_the_probability() -> None:
    yx, radius = np.array([[100.0, 200], [100, 400], [300, 200]]), np.array([3.0, 30, 30])
    made = dataclasses.replace(record(), size=(600, 900), yx=yx, radius=radius, score=np.array([1.0, 1.0, 0.5]))
    drawn = np.asarray(made.plot()).astype(int)
    assert drawn[100, 200].max() < 100 < drawn[100, 400].max()
    sure, even = drawn[100, 430], drawn[300, 230]
    assert sure[1] > sure[0] + 100
    assert sure[2] > sure[0] + 100
    assert even[0] > even[2] + 100


def test_color_of_8_bits_stays_color_other_images_are_gray_and_none_is_changed() -> None:
    color = np.zeros((600, 900, 3), np.uint8)
    color[...] = 10, 200, 60
    assert np.asarray(record().plot(color))[300, 600].tolist() == [10, 200, 60]
    assert (color == (10, 200, 60)).all()
    deep = np.arange(600 * 900 * 3, dtype=np.uint16).reshape(600, 900, 3)
    assert len(set(np.asarray(record().plot(deep))[300, 600].tolist())) == 1


def test_a_picture_without_blobs_says_so_and_a_narrow_one_is_drawn(tmp_path: Path) -> None:
    assert not lit(record(0).plot()).size
    assert np.asarray(record(0).plot())[-50:].any()
    dataclasses.replace(record(0), size=(1, 20000)).save(tmp_path / "a.png")
    with PillowImage.open(tmp_path / "a.png") as drawn:
        assert drawn.size == (4096, 1)


@pytest.mark.parametrize("size", [(3000, 64), (64, 3000), (64, 64), (4096, 4096)])
def test_the_count_is_read_whole_and_leaves_room_for_the_picture(size: tuple[int, int]) -> None:
    drawn = np.asarray(dataclasses.replace(record(0), size=size).plot()).max(axis=2)
    at_yx = np.argwhere(drawn > 0)
    (top, left), (bottom, right) = at_yx.min(axis=0), at_yx.max(axis=0)
    assert 0 < left < right < drawn.shape[1] - 1
    assert bottom < drawn.shape[0] - 1
    assert 7 < bottom - top <= drawn.shape[0] / 4 + 2
    assert right - left > 5 * (bottom - top)


def test_numbers_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    write_json(tmp_path / "n.json", {"a": np.int64(3), "b": [np.float32(0.5), np.bool_(True)]})
    assert json.loads((tmp_path / "n.json").read_text()) == {"a": 3, "b": [0.5, True]}
    with pytest.raises(TypeError):
        write_json(tmp_path / "n.json", {"a": object()})


@pytest.mark.parametrize("made", [record(), record(3, 4, world=True), record(1), record(0)])
@pytest.mark.parametrize("name", ["a.json", "a.coco.json", "a.geojson"])
def test_lists_written_row_by_row_are_the_bytes_of_the_whole(tmp_path: Path, made: Blobs, name: str) -> None:
    made.save(tmp_path / name)
    whole = json.loads((tmp_path / name).read_text(encoding="utf-8"))
    write_json(tmp_path / "whole", whole)
    assert (tmp_path / name).read_bytes() == (tmp_path / "whole").read_bytes()
    assert name != "a.json" or whole == json.loads(json.dumps(blobs_to_json(made)))
