"""Records come back from what was written, and other programs' frames are met to the half pixel."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image as PillowImage

from fiducial.formats.defects import boxes_from_coco, defects_from_json, defects_to_coco
from fiducial.records import Defects, InputError, Provenance
from fiducial.regions import from_run_lengths, run_lengths


def record(*, found: bool = True, refused: bool = False, pixel_size: tuple[float, float] | None = (2.0, 0.5)) -> Defects:
    mask = np.zeros((90, 121), np.uint8)
    if found:
        mask[10:20, 30:50], mask[60:66, 100:110], mask[30:36, 80:86] = 2, 1, 1
    boxes = np.array([[6.5, 26.5, 22.5, 52.5], [56.5, 96.5, 68.5, 112.5], [26.5, 76.5, 38.5, 88.5]])
    n = 3 if found else 0
    return Defects(
        mask=mask,
        boxes_yxyx=boxes[:n],
        label=np.array([2, 1, 1])[:n],
        score=np.array([0.95, 0.8, 0.6])[:n],
        area_px=np.array([200, 60, 36])[:n],
        classes=("open", "short"),
        template_to_sample=None if refused else np.array([[1.0, 0, 3.25], [0, 1, -2], [0, 0, 1]]),
        alignment_score=float("nan") if refused else 0.97,
        coverage=0.0 if refused else 0.98,
        verdict="refused" if refused else "bad" if found else "good",
        reason="no alignment" if refused else "",
        sample="a b.png",
        template="t.png",
        pixel_size=pixel_size,
        unit=None if pixel_size is None else "µm",
        crs="LOCAL" if found else None,
        pixel_to_world=np.array([[10.0, 0, 505], [0, -10, 895], [0, 0, 1]]) if found else None,
        provenance=Provenance("0.1.0", "w", "ab12", (("align", True), ("false_alarms", None), ("min_probability", 0.5))),
    )


def same(a: Defects, b: Defects) -> bool:
    for name in Defects.__dataclass_fields__:
        x, y = getattr(a, name), getattr(b, name)
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype, name
        else:
            assert x == y or (np.isnan(x) and np.isnan(y)), name
    return True


@pytest.mark.parametrize("made", [record(), record(found=False), record(found=False, refused=True, pixel_size=None)])
def test_a_record_comes_back_from_json_and_equal_records_give_equal_bytes(tmp_path: Path, made: Defects) -> None:
    made.save(tmp_path / "a.json")
    back = defects_from_json(tmp_path / "a.json")
    assert same(made, back)
    back.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_damaged_json_is_refused(tmp_path: Path) -> None:
    record().save(tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text()
    for content in ("", text[:200], text.replace("fiducial.defects/1", "other/9"), "[]", text.replace('"verdict"', '"x"')):
        (tmp_path / "b.json").write_text(content)
        with pytest.raises(InputError):
            defects_from_json(tmp_path / "b.json")


def test_coco_boxes_are_counted_from_the_corner_and_segments_from_the_mask(tmp_path: Path) -> None:
    made = record()
    made.save(tmp_path / "a.coco.json")
    stated = json.loads((tmp_path / "a.coco.json").read_text())
    assert stated["annotations"][0]["bbox"] == [27, 7, 26, 16]
    for annotation in stated["annotations"]:
        segment = from_run_lengths(annotation["segmentation"]["counts"], tuple(annotation["segmentation"]["size"]))
        x, y, w, h = (int(v) for v in annotation["bbox"])
        assert segment.sum() == annotation["area"]
        assert run_lengths(segment) == annotation["segmentation"]["counts"]
        assert segment[y : y + h, x : x + w].sum() == annotation["area"]
        assert set(made.mask[segment]) == {annotation["category_id"]}
    boxes, label = boxes_from_coco(tmp_path / "a.coco.json")["a b.png"]
    np.testing.assert_array_equal(boxes, made.boxes_yxyx)
    np.testing.assert_array_equal(label, made.label)


def test_segments_of_defects_that_lie_close_are_their_own() -> None:
    mask = np.zeros((90, 121), np.uint8)
    mask[20:32, 20:32], mask[20:32, 40:52], mask[60:64, 20:30], mask[60:64, 42:52], mask[70:80, 100:118] = 1, 1, 2, 2, 2
    boxes = np.array([[15, 7, 37, 45], [15, 35, 37, 57], [55, 15, 69, 57], [65, 95, 85, 121]]) - 0.5
    label, score, area = np.array([1, 1, 2, 2]), np.array([0.9, 0.8, 0.7, 0.6]), np.array([144, 144, 80, 180])
    made = replace(record(), mask=mask, boxes_yxyx=boxes, label=label, score=score, area_px=area)
    stated = [annotation["segmentation"]["counts"] for annotation in defects_to_coco([made])["annotations"]]
    segments = [from_run_lengths(counts, (90, 121)) for counts in stated]
    own = [(20, 32, 20, 32), (20, 32, 40, 52), (60, 64, 20, 52), (70, 80, 100, 118)]
    for segment, (y0, y1, x0, x1), label in zip(segments, own, made.label.tolist(), strict=True):
        expected = np.zeros_like(mask, bool)
        expected[y0:y1, x0:x1] = mask[y0:y1, x0:x1] == label
        np.testing.assert_array_equal(segment, expected)


@pytest.mark.parametrize("turns", range(4))
def test_a_segment_at_the_images_border_is_not_taken_for_cut_off(turns: int) -> None:
    mask = np.zeros((100, 120), np.uint8)
    mask[40:50, 0:10], mask[36:54, 24:40] = 1, 1
    boxes = np.array([[29.5, -0.5, 59.5, 26.5], [25.5, 13.5, 64.5, 49.5]])
    for _ in range(turns):  # a quarter, each border in turn
        mask, last = np.rot90(mask).copy(), mask.shape[1] - 1
        boxes = np.column_stack([last - boxes[:, 3], boxes[:, 0], last - boxes[:, 1], boxes[:, 2]])
    label, score, area = np.array([1, 1]), np.array([0.9, 0.8]), np.array([100, 288])
    made = replace(record(), mask=mask, boxes_yxyx=boxes, label=label, score=score, area_px=area)
    stated = [annotation["segmentation"] for annotation in defects_to_coco([made])["annotations"]]
    segments = [from_run_lengths(one["counts"], mask.shape) for one in stated]
    assert [segment.sum() for segment in segments] == [100, 288]
    np.testing.assert_array_equal(segments[0] | segments[1], mask > 0)


def test_tables_have_a_row_per_defect_with_its_area_and_place_in_the_unit_and_on_the_map(tmp_path: Path) -> None:
    record().save(tmp_path / "a.csv")
    table = pd.read_csv(tmp_path / "a.csv")
    assert table["class"].tolist() == ["short", "open", "open"]
    assert table["area_um2"].tolist() == [200, 60, 36]
    assert table.loc[0, ["y_px", "x_px"]].tolist() == [14.5, 39.5]
    assert table.loc[0, ["y_um", "x_um", "map_x", "map_y"]].tolist() == [29, 19.75, 900, 750]
    empty = record(found=False).to_frame()
    assert len(empty) == 0
    assert [*empty, "map_x", "map_y", "answer"] == list(table)  # it has no map


def test_the_mask_is_a_label_tiff_with_pixel_size(tmp_path: Path) -> None:
    made = replace(record(), crs=None, pixel_to_world=None)
    made.save(tmp_path / "mask.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "mask.tif"), made.mask)
    with tifffile.TiffFile(tmp_path / "mask.tif") as file:
        assert 'PhysicalSizeX="0.5"' in file.ome_metadata


@pytest.mark.parametrize("shown", [None, (90, 121), (45, 60), (1, 2)])
def test_overlays_tint_the_defects_and_leave_the_rest_on_pictures_of_any_size(shown: tuple[int, int] | None) -> None:
    drawn = np.asarray(record().plot(None if shown is None else np.zeros(shown, np.uint8)))
    tinted = (drawn == np.array([51, 108, 139])).all(axis=2)  # 0.6 of the second class's color
    at_yx = np.argwhere(tinted) * np.divide((90, 121), tinted.shape) - 0.5
    assert min(tinted.shape) > 400
    if shown != (1, 2):
        np.testing.assert_allclose([at_yx.min(axis=0), at_yx.max(axis=0)], [[9.5, 29.5], [19.5, 49.5]], atol=0.6)
    assert not drawn[-40:].any()


@pytest.mark.parametrize("size", [(64, 3000), (3000, 64)])
def test_on_a_strip_lines_are_thin_enough_to_see_what_they_enclose(size: tuple[int, int]) -> None:
    mask, middle = np.zeros(size, np.uint8), np.array(size) // 2
    box = np.concatenate([middle - 10, middle + 9]) + np.array([-0.5, -0.5, 0.5, 0.5])
    made = replace(record(), mask=mask, boxes_yxyx=box[None], label=np.array([1]), score=np.ones(1), area_px=np.array([9]))
    lit = np.asarray(made.plot()).max(axis=2) > 0
    y, x = middle.tolist()
    assert lit[y - 10 : y + 10, x - 10].all()
    assert not lit[y - 8 : y + 8, x - 8 : x + 8].any()


def test_a_small_overlay_is_enlarged_and_a_large_one_stays(tmp_path: Path) -> None:
    record().save(tmp_path / "a.png")
    with PillowImage.open(tmp_path / "a.png") as drawn:
        assert drawn.size == (121 * 7, 90 * 7)
    assert record().plot(np.zeros((700, 941), np.uint8)).size == (941, 700)


@pytest.mark.parametrize("size", [(3000, 64), (64, 3000), (64, 64), (700, 900), (4096, 4096)])
@pytest.mark.parametrize("verdict", ["good", "refused"])
def test_the_verdict_is_read_whole_and_leaves_room_for_the_picture(size: tuple[int, int], verdict: str) -> None:
    made = replace(record(found=False, refused=verdict == "refused"), mask=np.zeros(size, np.uint8))
    drawn = np.asarray(made.plot()).max(axis=2)
    at_yx = np.argwhere(drawn > 0)
    (top, left), (bottom, right) = at_yx.min(axis=0), at_yx.max(axis=0)
    assert top > 0 < left
    assert right < drawn.shape[1] - 1
    assert 7 < bottom - top < drawn.shape[0] / 4
    assert bottom < drawn.shape[0] / 3
    assert right - left > 2 * (bottom - top)


def test_unknown_suffixes_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.csv"):
        record().save(tmp_path / "a.xls")
    assert not list(tmp_path.iterdir())
