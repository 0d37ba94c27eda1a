"""What `evaluate blobs` counts, for findings that are known and for a folder whose blobs were drawn."""

import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from typed import run

from fiducial import weights
from fiducial.confidence import CrowdCalibration
from fiducial.crowds import NOTHING, disks, draw_crowd
from fiducial.evaluate.blobs import Findings, judge, summarize

CROWD = disks(np.array([[20.0, 20.0], [20.0, 34.0], [60.0, 60.0]]), np.array([6.0, 6.0, 20.0]))


def findings(yx: list[list[float]], interval: tuple[int, int] | None = (0, 9)) -> Findings:
    """Return findings, each sure and of 6 px."""
    return Findings(np.array(yx, float).reshape(-1, 2), np.full(len(yx), 6.0), np.ones(len(yx)), interval, 0.5)


def test_each_finding_is_matched_with_one_blob_within_its_reach() -> None:
    row = summarize([judge(CROWD, findings([[20, 21], [20, 19], [69.5, 60], [90, 90]]))])
    assert (row["blobs"], row["precision"], row["recall"]) == (3, 0.5, pytest.approx(2 / 3))
    assert row["error_under_12_px"] == 1
    assert row["error_px"] == pytest.approx((1 + 9.5) / 2)  # half of 20 px is in reach
    assert row["adjacent"] == 0  # one of the two that touch is missed
    assert row["calibration_error"] == 0.5


def test_the_truth_scores_all_there_is() -> None:
    row = summarize([judge(CROWD, Findings(CROWD.yx, CROWD.radius, np.ones(3), (3, 3), 0.5))])
    assert (row["f1"], row["adjacent"], row["count_covered"]) == (1, 1, 1)
    assert (row["error_px"], row["radius_error"], row["count_error"], row["calibration_error"]) == (0, 0, 0, 0)


def test_where_nothing_is_all_findings_are_false() -> None:
    row = summarize([judge(NOTHING, findings([[5, 5], [9, 40]], (1, 2))), judge(NOTHING, findings([], (0, 0)))])
    assert (row["blobs"], row["precision"], row["calibration_error"], row["count_covered"]) == (0, 0, 1, 0.5)
    assert np.isnan(row["recall"])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two drawn crowds and where their blobs lie."""
    for folder in ("images", "points"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for n in range(2):
        image, crowd = draw_crowd(np.random.default_rng(n), (256, 320), (7.0, 9.0), (1.6, 2.2), 0.05)
        low, high = image.min(), image.max()
        cv2.imwrite(str(tmp_path / "data" / "images" / f"{n}.png"), ((image - low) / (high - low) * 255).astype(np.uint8))
        table = pd.DataFrame({"y": crowd.yx[:, 0], "x": crowd.yx[:, 1], "radius": crowd.radius})
        table.to_csv(tmp_path / "data" / "points" / f"{n}.csv", index=False)
    return tmp_path / "data"


def test_a_folder_is_measured_on_its_blobs_and_on_its_background(tmp_path: Path, data: Path) -> None:
    status, text, _ = run("evaluate", "blobs", "--data", data, "-o", tmp_path / "scores.csv")
    assert status == 0
    assert re.search(r"┃ score +┃ data +┃ background of data ┃", text)
    known, bare = pd.read_csv(tmp_path / "scores.csv").to_dict("records")
    assert (known["data"], known["images"]) == ("data", 2)
    assert known["megapixels"] == pytest.approx(2 * 256 * 320 / 1e6)
    assert known["f1"] > 0.9
    assert (bare["data"], bare["blobs"]) == ("background of data", 0)
    assert 1 <= bare["images"] <= 2
    assert np.isnan(bare["f1"])
    assert bare["false_per_megapixel"] == pytest.approx(0)


def test_probabilities_are_fitted_on_a_folder_and_few_images_do_not_narrow_intervals(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "mine.safetensors"
    status, text, _ = run("calibrate", "blobs", "--data", data, "-o", out)
    assert status == 0
    assert re.fullmatch(rf"{out}: fitted on \d+ blobs in 2 images, 0.164 megapixels\n", text)
    own, shipped = (weights.load("blobs", path).calibration for path in (out, None))
    assert isinstance(own, CrowdCalibration)
    assert isinstance(shipped, CrowdCalibration)
    assert own.megapixels == pytest.approx(2 * 256 * 320 / 1e6)
    assert own.weight != shipped.weight
    assert (own.inflation, own.spread) >= (shipped.inflation, shipped.spread)
    assert own.spread >= shipped.spread
    assert run("detect", data / "images" / "0.png", "--weights", out, "-o", tmp_path / "o")[0] == 0
