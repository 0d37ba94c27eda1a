"""Cases hold what they say, and scores count what they see."""

import importlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from skimage import data as photographs

from fiducial import weights
from fiducial.coords import apply_transform, corners_yx
from fiducial.evaluate.places import (
    LOOKS,
    Candidates,
    draw_cases,
    evaluate_places_on,
    fit_places,
    make_case,
    measure,
    summarize_places,
)
from fiducial.places.locator import PlaceLocator
from fiducial.places.network import FTFY, Config, TripletNet
from fiducial.places.samples import make_pool
from fiducial.records import InputError

TINY = Config(channels=(8,) * 13, filters=16, head=(8,) * 6)


def pictures() -> list[np.ndarray]:
    return [np.asarray(photographs.gravel()), np.asarray(photographs.brick())]


@pytest.mark.parametrize("factor", [1, 4])
@pytest.mark.parametrize("upright", [True, False])
def test_the_truth_of_a_case_is_where_the_pixels_agree(factor: int, *, upright: bool) -> None:
    rng = np.random.default_rng(3)
    case = make_case(pictures(), rng, upright=upright, present=True, factor=factor, look="same")
    assert case.query_to_source is not None
    size = (case.query.shape[0], case.query.shape[1])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    there = cv2.warpAffine(case.source.astype(np.float32), case.query_to_source[:2], size[::-1], flags=flags)
    query = cv2.GaussianBlur(case.query.astype(np.float32), (0, 0), factor / 2)
    assert np.corrcoef(there.ravel(), query.ravel())[0, 1] > 0.9
    assert max(pictures()[0].shape) / factor == pytest.approx(max(case.source.shape), abs=1)
    assert (case.angle_deg == 0) == upright


@pytest.mark.parametrize("look", LOOKS)
def test_every_look_keeps_the_size_and_some_structure(look: str) -> None:
    case = make_case(pictures(), np.random.default_rng(1), upright=True, present=True, factor=1, look=look)
    assert case.query.dtype == np.uint8
    assert case.query.std() > 4


def test_absent_queries_have_no_truth_and_come_every_third_time() -> None:
    cases = list(draw_cases(pictures(), 6, seed=0))
    assert [case.query_to_source is None for case in cases] == [False, False, True] * 2
    again = list(draw_cases(pictures(), 6, seed=0))
    assert all(np.array_equal(a.query, b.query) for a, b in zip(cases, again, strict=True))


def test_images_too_small_for_a_query_are_left_out(rng: np.random.Generator) -> None:
    sizes = [(300, 300), (48, 60), (20, 30), (60, 110)]
    images = [rng.integers(0, 255, size, dtype=np.uint8) for size in sizes]
    for case in draw_cases(images, 72, seed=0):
        assert min(case.query.shape) >= 32
        assert min(case.source.shape) >= 32
    with pytest.raises(InputError, match="at least 54 px a side, the largest has 48"):
        next(draw_cases(images[1:3], 1, seed=0))


def test_scores_of_a_perfect_and_of_a_blind_method() -> None:
    rows = {"perfect": [], "blind": []}
    for case in draw_cases(pictures(), 12, seed=0):
        frame = corners_yx((case.query.shape[0], case.query.shape[1]))
        quad = frame if case.query_to_source is None else apply_transform(case.query_to_source, frame)
        sure = 0.0 if case.query_to_source is None else 1.0
        rows["perfect"].append(measure(case, Candidates(quad[None], np.array([sure])), 0.1))
        rows["blind"].append(measure(case, Candidates(np.zeros((0, 4, 2)), np.zeros(0)), 0.1))
    perfect, blind = (summarize_places(pd.DataFrame(rows[name])) for name in ("perfect", "blind"))
    assert (perfect["upright_k1"], perfect["turned_k5"], perfect["auroc"], perfect["absent_accepted"]) == (1, 1, 1, 0)
    assert (perfect["corner_error"], perfect["calibration_error"]) == (0, 0)
    assert (blind["upright_k1"], blind["auroc"]) == (0, 0.5)


def test_no_answer_is_no_score_and_states_no_probability() -> None:
    nothing = Candidates(np.zeros((0, 4, 2)), np.zeros(0))
    rows = pd.DataFrame([measure(case, nothing, 0.1) for case in draw_cases(pictures(), 12, seed=0)])
    assert (rows.score == -np.inf).all()
    scores = summarize_places(rows)
    assert (scores["upright_k1"], scores["auroc"], scores["calibration_error"]) == (0, 0.5, 0)
    assert np.isnan([scores["absent_accepted"], scores["corner_error"]]).all()


def test_calibration_on_the_last_images_and_evaluation_of_a_folder(tmp_path: Path) -> None:
    locator = PlaceLocator(FTFY(TINY), None, torch.device("cpu"), bf16=False)
    found = fit_places(locator, pictures(), 8)
    assert len(found.weight) == len(found.names)
    cv2.imwrite(str(tmp_path / "a.png"), pictures()[0])
    table = evaluate_places_on(tmp_path, locator, 3)
    assert table["cases"].tolist() == [3]
    with pytest.raises(InputError, match="images"):
        evaluate_places_on(tmp_path / "nothing", locator, 3)


def test_training_starts_from_the_triplet_network_and_publishes(tmp_path: Path) -> None:
    loop = pytest.importorskip("fiducial.train.loop", reason="extra `train` is not installed")
    train = importlib.import_module("fiducial.train.places")
    schedule = loop.Schedule(2, batch=3, warmup=1, precision="32-true", workers=0)
    pool = make_pool(tuple(pictures()))
    triplet = train.train_triplets(pool, TINY, schedule, tmp_path / "t", {})
    assert isinstance(weights.load("triplets", tmp_path / "t" / "weights.safetensors").network, TripletNet)
    train.train_places(pool, TINY, schedule, tmp_path / "p", {}, start=triplet)
    assert isinstance(weights.load("places", tmp_path / "p" / "weights.safetensors").network, FTFY)
    with pytest.raises(InputError, match="configuration"):
        train.train_places(pool, Config(), schedule, tmp_path / "q", {}, start=triplet)
    cv2.imwrite(str(tmp_path / "one.png"), pictures()[0])
    with pytest.raises(InputError, match="at least 5 images"):
        train.train_places_on(tmp_path, tmp_path / "r", 1, scratch=True)
