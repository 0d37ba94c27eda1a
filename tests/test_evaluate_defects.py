"""What `evaluate defects` counts, for answers that are known: the truth itself, nothing at all, one thing too many."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fiducial.datasets import InspectionPair
from fiducial.defects.inspector import Found
from fiducial.evaluate.defects import CASES, Answer, evaluate_defects_on, evaluate_pairs, without_defects

SIZE = (96, 128)
BOXES = np.array([[9.5, 9.5, 19.5, 23.5], [49.5, 59.5, 65.5, 70.5]])  # in the house frame: whole pixels, up to their edges
THIRD = np.array([[75.5, 99.5, 89.5, 111.5]])


def template() -> np.ndarray:
    return (np.add.outer(np.arange(SIZE[0]) // 13, np.arange(SIZE[1]) // 13) % 2 * 255).astype(np.uint8)


def pair(boxes: np.ndarray = BOXES) -> InspectionPair:
    mask, number = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.int32)
    for n, (y0, x0, y1, x1) in enumerate((boxes + 0.5).astype(int), start=1):
        mask[y0:y1, x0:x1], number[y0:y1, x0:x1] = n, n
    sample = np.where(mask > 0, 255 - template(), template())
    return InspectionPair("a_1", "a", sample, template(), mask, number, boxes, np.arange(1, len(boxes) + 1))


def always(shown: InspectionPair, *, refused: bool = False) -> Callable[[np.ndarray, np.ndarray], Answer]:
    """Return a method that finds just these defects in any sample, sure of each."""
    area = np.bincount(shown.number.ravel(), minlength=len(shown.label) + 1)[1:]
    found = Found(shown.mask, shown.boxes_yxyx, shown.label, np.ones(len(shown.label)), area)
    return lambda sample, template: Answer(found, found, refused)


def test_the_truth_scores_all_there_is() -> None:
    row = evaluate_pairs(always(pair()), [pair(), pair()], CASES[:1]).iloc[0]
    for full in ("region_precision", "region_recall", "region_f", "deeppcb_f", "deeppcb_map", "miou_7", "macc_7", "pixel_f2"):
        assert row[full] == 1, full
    for none in ("false_alarms_per_image", "images_with_false_alarm", "calibration_error", "refused"):
        assert row[none] == 0, none
    assert row["images"] == 2


def named(shown: InspectionPair, kind: int) -> InspectionPair:
    return replace(shown, mask=np.where(shown.mask == 2, kind, shown.mask).astype(np.uint8), label=np.array([1, kind]))


def test_defects_of_other_kinds_than_six_are_defects_too() -> None:
    other = evaluate_pairs(always(named(pair(), 7)), [pair()], CASES[:1]).iloc[0]  # "other": a defect, and misnamed
    assert (other["pixel_precision"], other["pixel_recall"], other["deeppcb_map"]) == (1, 1, 0.5)
    assert other["macc_7"] == pytest.approx(2 / 3)
    own = evaluate_pairs(always(named(pair(), 12)), [named(pair(), 12), pair()], CASES[:1]).iloc[0]
    assert (own["pixel_f2"], own["deeppcb_map"]) == (1, pytest.approx((1 + 1 + 0) / 3))
    missed = evaluate_pairs(always(pair(BOXES[:1])), [named(pair(), 12)], CASES[:1]).iloc[0]
    assert missed["pixel_recall"] < 1
    assert missed["deeppcb_map"] == 0.5


def test_each_fault_is_counted_where_it_belongs() -> None:
    one, three = BOXES[:1], np.concatenate([BOXES, THIRD])
    missed = evaluate_pairs(always(pair(one)), [pair()], CASES[:1]).iloc[0]
    assert (missed["region_precision"], missed["region_recall"], missed["deeppcb_map"]) == (1, 0.5, 0.5)
    extra = evaluate_pairs(always(pair(three)), [pair()], CASES[:1]).iloc[0]
    assert (extra["region_precision"], extra["region_recall"]) == (pytest.approx(2 / 3), 1)
    assert (extra["false_alarms_per_image"], extra["images_with_false_alarm"]) == (1, 1)
    assert extra["calibration_error"] == pytest.approx(1 / 3)  # sure of three, of which two are true
    swapped = evaluate_pairs(always(pair(BOXES[::-1])), [pair()], CASES[:1]).iloc[0]
    assert (swapped["region_f"], swapped["deeppcb_f"]) == (1, 0)  # found, and misnamed
    both = evaluate_pairs(always(pair(one), refused=True), [pair(), pair(one)], CASES[:1]).iloc[0]
    assert (both["region_recall"], both["refused"]) == (pytest.approx(2 / 3), 2)


def test_all_that_is_found_on_a_good_part_is_a_false_alarm() -> None:
    good = without_defects(pair())
    np.testing.assert_array_equal(good.sample, good.template)
    rows = evaluate_pairs(always(pair()), [good], CASES[1:])
    assert (rows["false_alarms_per_image"] == 2).all()
    assert (rows["images_with_false_alarm"] == 1).all()
    assert (rows["calibration_error"] == 1).all()
    assert (evaluate_pairs(always(good), [good], CASES[1:])["images_with_false_alarm"] == 0).all()


def test_a_folder_is_measured_on_its_defects_and_on_its_good_parts(tmp_path: Path) -> None:
    shown = pair()
    for folder, image in (("samples", shown.sample), ("templates", shown.template), ("masks", shown.mask)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a_1.png"), image)
    steps: list[tuple[int, int]] = []
    table = evaluate_defects_on(tmp_path, "", None, "cpu", lambda done, total: steps.append((done, total)))
    names = [case.name for case in CASES]
    assert table["case"].tolist() == [*names, *(f"good parts, {name}" for name in names[1:])]
    good = table[table["case"].str.startswith("good")]
    assert good["images_with_false_alarm"].between(0, 1).all()
    assert good["region_recall"].isna().all()
    assert table["region_recall"][0] > 0
    assert steps == [(1, 2), (2, 2)]
