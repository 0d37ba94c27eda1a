"""Ties of a known transform are judged by how well they agree, and transforms that no camera makes are refused."""

from dataclasses import replace

import numpy as np
import pytest

from fiducial.coords import Matrix, apply_transform, corners_yx, image_center_yx, shift, similarity
from fiducial.estimation import MODELS, Model, transform_distance
from fiducial.ties import (
    ALIKE_TIES,
    EVIDENCE,
    TILES,
    Answer,
    Frame,
    Ties,
    choose_canvas,
    choose_frame,
    error_estimate,
    fit_ties,
    is_plausible,
    join,
    judge,
    local_scale,
    spread,
    spread_tiles,
)

MOVING, FIXED = (220, 310), (260, 280)
WHOLE, START = Frame(1.0, FIXED), np.eye(3)
MIDDLE = shift(*image_center_yx(MOVING))
TRUE = shift(20.0, -14.0) @ similarity(1.05, 12.0, image_center_yx(MOVING))


def drawn(rng: np.random.Generator, n: int = 150, noise_px: float = 0.0, wrong: float = 0.0, matrix: Matrix = TRUE) -> Ties:
    """Ties of a transform, some of them wrong, all over the area that the two images share."""
    tries = rng.uniform(0, np.array(MOVING) - 1, (8 * n, 2))
    placed = apply_transform(matrix, tries)
    inside = ((placed >= 0) & (placed <= np.array(FIXED) - 1)).all(axis=1)
    moving, fixed = tries[inside][:n], placed[inside][:n] + rng.normal(0, noise_px, (n, 2))
    bad = np.arange(n) < wrong * n
    fixed[bad] = rng.uniform(0, np.array(FIXED) - 1, (int(bad.sum()), 2))
    return Ties(moving, fixed, rng.uniform(0.6, 0.9, n), np.ones(n, bool))


def judged(rng: np.random.Generator, model: Model = "affine", **how: float) -> Answer:
    answer = judge(model, drawn(rng, **how), drawn(rng, **how), WHOLE, START, (MOVING, FIXED))
    assert answer is not None
    return answer


def piece(answer: Answer, name: str) -> float:
    return float(answer.evidence[EVIDENCE.index(name)])


@pytest.mark.parametrize("model", MODELS)
def test_exact_ties_give_the_transform_and_full_agreement(model: Model, rng: np.random.Generator) -> None:
    true = shift(20.0, -14.0) if model == "shift" else TRUE
    answer = judge(model, drawn(rng, 600, matrix=true), drawn(rng, 600, matrix=true), WHOLE, START, (MOVING, FIXED))
    assert answer is not None
    np.testing.assert_allclose(answer.matrix, true, atol=1e-6)
    assert piece(answer, "agreement") == 1
    assert piece(answer, "spread") == 1
    assert piece(answer, "log_ties") == pytest.approx(np.log(1201))
    assert (answer.held_out_px, answer.return_px) == pytest.approx((0, 0), abs=1e-6)
    assert piece(answer, "similarity") == pytest.approx(answer.ties.similarity.mean())


def test_wrong_ties_are_left_out_and_lower_the_agreement(rng: np.random.Generator) -> None:
    answer = judged(rng, noise_px=0.3, wrong=0.4)
    assert piece(answer, "agreement") == pytest.approx(0.6, abs=0.03)
    assert len(answer.ties.similarity) == pytest.approx(180, abs=8)
    assert transform_distance(TRUE, answer.matrix, MOVING, FIXED) < 0.3


def test_better_ties_are_better_evidence(rng: np.random.Generator) -> None:
    answers = [judged(rng, noise_px=noise, wrong=wrong) for noise, wrong in ((0.1, 0.0), (0.6, 0.3), (1.2, 0.6))]
    for name, sign in (("agreement", -1), ("held_out", 1), ("way_back", 1), ("log_ties", -1)):
        assert np.all(sign * np.diff([piece(answer, name) for answer in answers]) > 0), name
    assert np.all(np.diff([error_estimate(answer) for answer in answers]) > 0)


def test_ties_that_are_not_mutual_do_not_count(rng: np.random.Generator) -> None:
    good, bad = drawn(rng), drawn(rng, wrong=1.0)
    ahead = join([good, replace(bad, mutual=np.zeros(150, bool))])
    answer = judge("affine", ahead, drawn(rng), WHOLE, START, (MOVING, FIXED))
    assert answer is not None
    assert piece(answer, "agreement") == 1
    found = fit_ties("affine", ahead, 3.0)
    assert found is not None
    np.testing.assert_array_equal(found[1], ahead.mutual)


def test_nothing_that_agrees_is_no_answer(rng: np.random.Generator) -> None:
    few = drawn(rng, 12, wrong=1.0)
    assert judge("affine", few, few.pick(np.zeros(12, bool)), WHOLE, START, (MOVING, FIXED)) is None
    none = few.pick(np.zeros(12, bool))
    assert judge("shift", none, none, WHOLE, START, (MOVING, FIXED)) is None
    mirror = drawn(rng, matrix=shift(0, MOVING[1] - 1) @ np.diag([-1.0, 1, 1]))
    assert judge("affine", mirror, mirror, WHOLE, START, (MOVING, FIXED)) is None


def test_a_way_that_finds_nothing_speaks_against_the_answer(rng: np.random.Generator) -> None:
    ahead, back = drawn(rng, noise_px=0.5), drawn(rng, noise_px=0.5)
    both = judge("affine", ahead, back, WHOLE, START, (MOVING, FIXED))
    alone = judge("affine", ahead, back.pick(np.arange(150) < 3), WHOLE, START, (MOVING, FIXED))
    assert both is not None
    assert alone is not None
    assert np.isnan(alone.return_px)
    assert np.isnan(error_estimate(alone))
    assert np.isfinite(alone.evidence).all()
    assert piece(alone, "way_back") > piece(both, "way_back") + 2


def test_errors_count_in_pixels_of_the_frame(rng: np.random.Generator) -> None:
    """Images ten times as large, seen in a frame of a tenth, are judged as the small ones are."""
    ahead, back = drawn(rng, noise_px=0.5), drawn(rng, noise_px=0.5)
    small = judge("similarity", ahead, back, WHOLE, START, (MOVING, FIXED))
    ten = [replace(ties, moving_yx=10 * ties.moving_yx, fixed_yx=10 * ties.fixed_yx) for ties in (ahead, back)]
    large = judge("similarity", *ten, Frame(0.1, FIXED), START, ((2200, 3100), (2600, 2800)))
    assert small is not None
    assert large is not None
    np.testing.assert_allclose(large.evidence, small.evidence, atol=0.05)
    assert large.held_out_px == pytest.approx(10 * small.held_out_px, rel=0.05)


def test_ties_everywhere_are_spread_and_those_of_a_corner_are_not(rng: np.random.Generator) -> None:
    ties = drawn(rng, 600)
    corner = ties.pick((ties.fixed_yx < 0.25 * np.array(FIXED)).all(axis=1))
    assert spread(TRUE, ties, WHOLE, MOVING, FIXED) == 1
    assert 0 < spread(TRUE, corner, WHOLE, MOVING, FIXED) < 0.2
    assert spread(TRUE, ties.pick(np.zeros(600, bool)), WHOLE, MOVING, FIXED) == 0
    assert spread(shift(900, 0), ties, WHOLE, MOVING, FIXED) == 0


def test_what_lies_outside_the_common_area_does_not_count_as_spread(rng: np.random.Generator) -> None:
    half = shift(0, 140.0)  # the moving image covers the right half of the fixed one
    ties = drawn(rng, 600, matrix=half)
    assert spread(half, ties, WHOLE, MOVING, FIXED) == 1
    elsewhere = replace(ties, fixed_yx=ties.fixed_yx - [0, 140])
    assert spread(half, elsewhere, WHOLE, MOVING, FIXED) == 0


@pytest.mark.parametrize(
    ("matrix", "plausible"),
    [
        (np.eye(3), True),
        (TRUE, True),
        (similarity(0.1, 170.0), True),
        (shift(-200, 250), True),
        (np.diag([1.4, 1.0, 1.0]), True),
        (np.diag([1.6, 1.0, 1.0]), False),
        (np.array([[1, 0.6, 0], [0, 1, 0], [0, 0, 1.0]]), False),
        (np.diag([-1.0, 1.0, 1.0]) + shift(0, 300) - np.eye(3), False),
        (shift(300, 0), False),
        (shift(0, -320), False),
        (shift(-3000, -4100) @ similarity(30.0, 9.0), True),
        (np.array([[1, 0, 0], [0, 1, 0], [1e-4, 1e-4, 1.0]]), True),
        (MIDDLE @ np.array([[1, 0, 0], [0, 1, 0], [-4e-3, -6e-3, 1.0]]) @ np.linalg.inv(MIDDLE), False),
    ],
    ids=[
        "same",
        "true",
        "small",
        "a corner",
        "stretch",
        "strong stretch",
        "shear",
        "mirror",
        "below",
        "left",
        "a part",
        "tilt",
        "fold",
    ],
)
def test_mirrors_folds_stretches_and_images_apart_are_not_plausible(matrix: Matrix, *, plausible: bool) -> None:
    assert is_plausible(matrix, START, MOVING, FIXED) == plausible


@pytest.mark.parametrize(
    "start", [np.diag([1.0, 1.8, 1.0]), shift(0, 300) @ np.diag([-1.0, 1.0, 1.0])], ids=["oblong", "mirror"]
)
def test_what_the_start_stretches_or_mirrors_is_plausible(start: Matrix) -> None:
    assert is_plausible(shift(9, 4) @ start, start, MOVING, FIXED)
    assert not is_plausible(np.diag([1.0, 1.6, 1.0]) @ start, start, MOVING, FIXED)
    assert not is_plausible(np.eye(3), start, MOVING, FIXED)


def test_a_frame_leaves_out_what_is_far_from_a_small_image() -> None:
    small, large = (100, 80), (2000, 3000)
    frame = choose_frame(shift(1900, 700), small, large, 512)
    assert (frame.scale, frame.first) == (1, (1799, 599))
    assert frame.size == (201, 281)
    np.testing.assert_allclose(apply_transform(frame.to_frame, np.array([[1799.0, 599.0]])), [[0, 0]])
    assert choose_frame(shift(1900, 700), small, large, 512, whole=True).first == (0, 0)
    assert choose_frame(shift(-500, -500), small, large, 512).size == (48, 48)
    assert choose_frame(similarity(6.0, 0.0), small, large, 512) == choose_frame(
        similarity(6.0, 0.0), small, large, 512, whole=True
    )


def test_a_canvas_shows_the_moving_image_as_it_lies_or_what_of_it_is_near() -> None:
    small, large = (300, 400), (9000, 8000)
    frame = choose_frame(np.eye(3), large, small, 256, whole=True)
    size, to_canvas = choose_canvas(frame, similarity(1.0, 20.0), large, near=False)
    corners = apply_transform(to_canvas, corners_yx(large))
    assert (corners.min(axis=0) > -1).all()
    assert (corners.max(axis=0) < size).all()
    assert (np.ptp(corners, axis=0) > np.array(size) - 64).all()
    near, to_near = choose_canvas(frame, shift(-4000, -5000), large, near=True)
    assert (np.array(near) <= 3 * np.array(frame.size) + 32).all()
    (middle,) = apply_transform(to_near, np.array([[4150.0, 5200.0]]))  # the fixed image's
    np.testing.assert_allclose(middle, np.array(near) / 2, atol=2)
    assert choose_canvas(frame, np.eye(3), small, near=True)[0] == choose_canvas(frame, np.eye(3), small, near=False)[0]


@pytest.mark.parametrize(("scale", "factor"), [(0.5, 100 / 280), (1.0, 100 / 310), (2.0, 100 / 620), (50.0, 100 / 840)])
def test_in_a_frame_no_image_exceeds_a_side_unless_too_little_of_the_fixed_one_were_left(scale: float, factor: float) -> None:
    frame = choose_frame(similarity(scale, 30.0), MOVING, FIXED, 100)
    assert frame.scale == pytest.approx(factor)
    assert frame.size == tuple(max(48, round(side * factor)) for side in FIXED)
    assert choose_frame(similarity(scale, 30.0), MOVING, FIXED, 10**5).scale == 1


def test_a_plain_pixel_is_as_large_as_the_scale_says() -> None:
    assert local_scale(similarity(0.37, 77.0), MOVING) == pytest.approx(0.37)
    tilt = np.array([[1, 0, 0], [0, 1, 0], [0, 1e-3, 1.0]])
    third = 1 + 1e-3 * image_center_yx(MOVING)[0]
    assert local_scale(tilt, MOVING) == pytest.approx(third**-1.5, rel=2e-3)


@pytest.mark.parametrize("scale", [1.0, 0.25, 2.0])
@pytest.mark.parametrize("matrix", [TRUE * 1.0, similarity(14.0, 40.0), shift(1000, 2500)], ids=["whole", "large", "corner"])
def test_tiles_are_spread_over_the_common_area(scale: float, matrix: Matrix) -> None:
    moving, fixed, longest = (2200, 3100), (2600, 2800), 300
    tiles = spread_tiles(matrix, scale, moving, fixed, longest)
    assert 1 <= len(tiles) <= TILES**2
    assert len({start for start, _ in tiles}) == len(tiles)
    starts, sizes = np.array([start for start, _ in tiles]), np.array([size for _, size in tiles])
    assert (sizes <= longest).all()
    assert (starts >= 0).all()
    assert (starts + sizes <= np.array(fixed) * scale + 1).all()
    ends = starts + sizes
    common = common_extent(matrix, moving, fixed) * scale
    cell = np.maximum(np.subtract(common[1], common[0]) / 20, 2)  # of the grid by which it is found
    assert (starts.min(axis=0) >= common[0] - cell).all()
    assert (np.minimum(starts.min(axis=0), ends.max(axis=0)) <= common[0] + 2 * cell).all()
    assert (ends.max(axis=0) >= common[1] - 2 * cell).all()


def common_extent(matrix: Matrix, moving: tuple[int, int], fixed: tuple[int, int]) -> np.ndarray:
    """Least and largest (y, x) in the fixed image that the moving one covers, by brute force."""
    grid = np.stack(np.meshgrid(*(np.linspace(0, n - 1, 300) for n in moving), indexing="ij"), -1).reshape(-1, 2)
    placed = apply_transform(matrix, grid)
    inside = placed[((placed >= 0) & (placed <= np.array(fixed) - 1)).all(axis=1)]
    return np.array([inside.min(axis=0), inside.max(axis=0)])


def test_no_parts_are_no_ties() -> None:
    none = join([])
    assert none.moving_yx.shape == none.fixed_yx.shape == (0, 2)
    assert fit_ties("affine", none, 3.0) is None


def test_images_apart_have_no_tiles() -> None:
    assert spread_tiles(shift(900, 0), 1.0, MOVING, FIXED, 256) == []


def test_the_error_to_expect_is_the_way_back_and_the_scatter_of_the_mean(rng: np.random.Generator) -> None:
    answer = judged(rng, noise_px=0.5)
    n = len(answer.ties.similarity)
    many = replace(answer, ties=join([answer.ties] * round(9 * ALIKE_TIES / n)))
    counted = len(many.ties.similarity) / ALIKE_TIES
    assert error_estimate(many) == pytest.approx(answer.return_px + answer.held_out_px / np.sqrt(counted))
    assert counted > 8
    assert error_estimate(replace(answer, return_px=4.0)) > 4
    few = replace(answer, ties=answer.ties.pick(np.arange(n) < 9))
    assert error_estimate(few) == pytest.approx(answer.return_px + answer.held_out_px)
