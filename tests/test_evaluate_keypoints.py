"""Cases of `register` hold what they say, scores count what they see, and training ends in calibrated weights."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from skimage import data as photographs
from typed import run

from fiducial import weights
from fiducial.coords import apply_transform, shift
from fiducial.datasets import AlignedPair
from fiducial.evaluate.keypoints import (
    RegistrationCase,
    draw_cases,
    error_of,
    evaluate_registrations,
    fit_registrations,
    summarize_registrations,
)
from fiducial.landmarks.network import Config, KeypointNet
from fiducial.landmarks.registrar import ImageRegistrar
from fiducial.records import InputError
from fiducial.ties import EVIDENCE

TINY = Config(channels=(4, 4, 8, 8, 8, 8), deformable_channels=8, context=(8, 8), descriptor=8)


def pairs(count: int = 3, size: tuple[int, int] = (210, 250)) -> tuple[AlignedPair, ...]:
    """Aligned pairs: a scene, and its negative with less contrast."""
    found = []
    for i in range(count):
        image = np.asarray((photographs.camera, photographs.brick, photographs.gravel)[i % 3]())
        part = image[7 * i : 7 * i + size[0], 11 * i : 11 * i + size[1]].copy()
        found.append(AlignedPair(f"p{i:02}", part, (220 - part // 2).astype(np.uint8)))
    return tuple(found)


def test_the_truth_of_a_case_is_where_the_pixels_agree() -> None:
    for case in draw_cases(pairs(), 8, seed=4):
        assert max(case.moving.shape) <= 210
        if case.moving_to_fixed is None:
            continue
        h, w = case.moving.shape
        there = cv2.warpPerspective(
            case.fixed.astype(np.float32), case.moving_to_fixed, (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        grid = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1).reshape(-1, 2)
        at = apply_transform(case.moving_to_fixed, grid.astype(float)).reshape(h, w, 2)
        both = ((at > 1) & (at < np.array(case.fixed.shape) - 2)).all(axis=-1) & (case.moving > 0)
        assert both.mean() > 0.1
        assert np.corrcoef(there[both], case.moving[both])[0, 1] < -0.9  # the negative


def test_every_fourth_case_is_absent_and_all_are_drawn_again() -> None:
    cases = list(draw_cases(pairs(), 8, seed=0))
    assert [case.moving_to_fixed is None for case in cases] == [False, False, False, True] * 2
    again = list(draw_cases(pairs(), 8, seed=0))
    assert all(np.array_equal(a.moving, b.moving) for a, b in zip(cases, again, strict=True))


@pytest.mark.parametrize(
    ("count", "size", "says"),
    [(1, (210, 250), "two pairs, got 1"), (3, (95, 250), r"96 to 32766 px a side, p00 has \(95, 250\)")],
)
def test_cases_need_two_pairs_of_some_size(count: int, size: tuple[int, int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        next(draw_cases(pairs(count, size), 4, seed=0))


def test_pairs_larger_than_can_be_resampled_are_refused() -> None:
    strip = np.zeros((96, 32_767), np.uint8)
    strips = tuple(AlignedPair(name, strip[:, :wide], strip[:, :wide]) for name, wide in (("a", 32_766), ("b", 32_767)))
    with pytest.raises(InputError, match=r"px a side, b has \(96, 32767\)"):
        next(draw_cases(strips, 4, seed=0))


def test_the_error_of_an_answer_is_infinite_for_none_and_for_an_absent_case() -> None:
    image = np.zeros((100, 120), np.uint8)
    case = RegistrationCase(image, image, shift(3, 4))
    assert error_of(case, shift(3, 4)) == 0
    assert error_of(case, np.eye(3)) == pytest.approx(5)
    assert error_of(case, None) == np.inf
    assert error_of(RegistrationCase(image, image, None), np.eye(3)) == np.inf


def test_scores_count_what_they_say() -> None:
    rows = pd.DataFrame(
        [(True, 1.0, 0.9, 1.0), (True, 7.0, 0.8, 2.0), (True, 30.0, 0.7, 3.0), (True, np.inf, 0.0, 4.0),
         (False, np.inf, 0.6, 5.0), (False, np.inf, 0.1, 6.0)], columns=["present", "error_px", "score", "seconds"],
    )  # fmt: skip
    row = summarize_registrations(rows).iloc[0]
    assert (row["under_5"], row["under_10"], row["accepted"]) == (0.25, 0.5, 0.75)
    assert (row["accepted_over_20"], row["absent_accepted"], row["cases"]) == (1, 1, 6)
    assert row["seconds"] == 3.5
    assert 0 < row["calibration_error"] < 1


def test_a_network_that_has_learned_nothing_cannot_be_calibrated() -> None:
    torch.manual_seed(0)
    registrar = ImageRegistrar(KeypointNet(TINY).eval(), None, torch.device("cpu"), bf16=False)
    blank = tuple(AlignedPair(str(i), np.full((110, 130), 9, np.uint8), np.full((110, 130), 9, np.uint8)) for i in range(2))
    with pytest.raises(InputError, match="at least one answer"):
        fit_registrations(registrar, blank, 4)
    with pytest.raises(InputError, match="at least 4 cases"):
        evaluate_registrations(registrar, pairs(), 3)


def test_a_folder_of_pairs_is_evaluated(tmp_path: Path) -> None:
    for pair in pairs(2, (130, 150)):
        for side, image in (("a", pair.a), ("b", pair.b)):
            (tmp_path / side).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / side / f"{pair.name}.png"), image)
    assert run("evaluate", "keypoints", "--data", tmp_path, "--cases", 4, "-o", tmp_path / "s.csv")[0] == 0
    row = pd.read_csv(tmp_path / "s.csv").iloc[0]
    assert row["cases"] == 4
    assert row["under_5"] <= row["under_10"]
    assert row["absent_accepted"] == 0
    status, _, line = run("evaluate", "keypoints", "--data", tmp_path / "a", "-o", tmp_path / "s.csv")
    assert status == 2
    assert "a/ and b/" in line


@pytest.mark.parametrize("paired", [True, False])
def test_training_on_a_folder_ends_in_calibrated_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, paired: bool
) -> None:
    train = pytest.importorskip("fiducial.train.keypoints", reason="extra `train` is not installed")
    monkeypatch.setattr(train, "CASES", 2)
    for pair in pairs(10, (100, 130)):
        for side, image in (("a", pair.a), ("b", pair.b))[: 1 + paired]:
            (tmp_path / "d" / side).mkdir(exist_ok=True, parents=True)
            cv2.imwrite(str(tmp_path / "d" / side / f"{pair.name}.png"), image)
    data = tmp_path / "d" if paired else tmp_path / "d" / "a"
    status, _, line = run("train", "keypoints", "--data", data, "-o", tmp_path / "run", "--steps", 2)
    assert status == 0, line
    loaded = weights.load("keypoints", tmp_path / "run" / "weights.safetensors")
    assert loaded.calibration is not None
    assert loaded.calibration.names == EVIDENCE
    assert loaded.network.config == weights.load("keypoints").network.config
    assert f"8 scenes of {data.name}" in loaded.card["data"]


@pytest.mark.parametrize("side", [95, 24])
def test_images_too_small_are_refused_before_the_training(tmp_path: Path, side: int) -> None:
    pytest.importorskip("fiducial.train.keypoints", reason="extra `train` is not installed")
    (tmp_path / "d").mkdir()
    for name, image in [(pair.name, pair.a) for pair in pairs(9, (100, 130))] + [("small", pairs(1, (side, 250))[0].a)]:
        cv2.imwrite(str(tmp_path / "d" / f"{name}.png"), image)
    status, _, line = run("train", "keypoints", "--data", tmp_path / "d", "-o", tmp_path / "run", "--steps", 1)
    assert status == 2
    assert f"96 to 32766 px a side, small has ({side}, 250)" in line
    assert not (tmp_path / "run").exists()


def test_training_needs_ten_images(tmp_path: Path) -> None:
    pytest.importorskip("fiducial.train.keypoints", reason="extra `train` is not installed")
    cv2.imwrite(str(tmp_path / "one.png"), pairs(1)[0].a)
    status, _, line = run("train", "keypoints", "--data", tmp_path, "-o", tmp_path / "run", "--scratch")
    assert status == 2
    assert "at least 10" in line
