"""A known transform is recovered from its points, however many of them are wrong, and what cannot be told is not."""

import numpy as np
import pytest

from fiducial.coords import Matrix, apply_transform, shift, similarity
from fiducial.estimation import MODELS, Model, estimate, fit, held_out_error, residuals, transform_distance

SIZE = (230, 310)

TRUE: dict[Model, Matrix] = {
    "shift": shift(-13.5, 22.25),
    "similarity": shift(7.0, -3.0) @ similarity(1.3, 37.0),
    "affine": np.array([[1.1, -0.2, 4.0], [0.3, 0.9, -8.0], [0, 0, 1]]),
    "homography": np.array([[0.9, 0.1, 5.0], [-0.2, 1.1, 9.0], [4e-4, -3e-4, 1]]),
}


def drawn(model: Model, rng: np.random.Generator, n: int = 120, noise_px: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Points of a moving image, and where the known transform and some noise put them."""
    moving = rng.uniform(0, np.array(SIZE) - 1, (n, 2))
    return moving, apply_transform(TRUE[model], moving) + rng.normal(0, noise_px, (n, 2))


def off_px(model: Model, found: Matrix) -> float:
    return transform_distance(TRUE[model], found, SIZE, (10**6, 10**6))


@pytest.mark.parametrize("model", MODELS)
def test_exact_points_give_the_transform(model: Model, rng: np.random.Generator) -> None:
    found = estimate(model, *drawn(model, rng), 3.0)
    assert found is not None
    np.testing.assert_allclose(found[0], TRUE[model], atol=1e-6)
    assert found[1].all()


@pytest.mark.parametrize("model", MODELS)
def test_points_that_are_wrong_are_told_and_move_nothing(model: Model, rng: np.random.Generator) -> None:
    moving, fixed = drawn(model, rng)
    wrong = rng.permutation(len(moving)) < 0.4 * len(moving)
    fixed[wrong] += rng.uniform(4, 60, (int(wrong.sum()), 2)) * rng.choice([-1, 1], (int(wrong.sum()), 2))
    found = estimate(model, moving, fixed, 3.0)
    assert found is not None
    np.testing.assert_array_equal(found[1], ~wrong)
    np.testing.assert_allclose(found[0], TRUE[model], atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_noise_is_averaged(model: Model, rng: np.random.Generator) -> None:
    moving, fixed = drawn(model, rng, 300, noise_px=0.8)
    fixed[:60] += 40
    found = estimate(model, moving, fixed, 3.0)
    assert found is not None
    assert off_px(model, found[0]) < 0.4
    assert found[1][60:].mean() > 0.97
    assert not found[1][:60].any()


@pytest.mark.parametrize("model", MODELS)
def test_points_that_are_somewhat_off_weigh_less(model: Model, rng: np.random.Generator) -> None:
    moving, fixed = drawn(model, rng, 200, noise_px=0.1)
    fixed[::5] += 2.5
    assert off_px(model, fit(model, moving, fixed)) < 0.1


@pytest.mark.parametrize(("model", "least"), [("shift", 4), ("similarity", 4), ("affine", 5), ("homography", 6)])
def test_a_model_needs_two_points_more_than_determine_it(model: Model, least: int, rng: np.random.Generator) -> None:
    moving, fixed = drawn(model, rng, least)
    assert estimate(model, moving[:-1], fixed[:-1], 3.0) is None
    assert estimate(model, moving[:0], fixed[:0], 3.0) is None
    found = estimate(model, moving, fixed, 3.0)
    assert found is not None
    assert off_px(model, found[0]) < 1e-3


def test_a_simple_model_keeps_nothing_of_what_it_cannot_say(rng: np.random.Generator) -> None:
    moving = rng.uniform(0, 200, (80, 2))
    grown = apply_transform(shift(5, 6) @ similarity(1.01, 0.5, (100.0, 100.0)), moving)
    found = estimate("shift", moving, grown, 3.0)
    assert found is not None
    np.testing.assert_array_equal(found[0][:2, :2], np.eye(2))
    np.testing.assert_allclose(found[0][1::-1, 2], [5, 6], atol=0.3)
    sheared = apply_transform(np.array([[1, 0.01, 3.0], [0, 1, 2.0], [0, 0, 1]]), moving)
    found = estimate("similarity", moving, sheared, 3.0)
    assert found is not None
    linear = found[0][:2, :2]
    np.testing.assert_allclose(linear.T @ linear, np.linalg.det(linear) * np.eye(2), atol=1e-12)


def test_points_on_which_nothing_agrees_give_none(rng: np.random.Generator) -> None:
    a, b = rng.uniform(0, 1000, (2, 9, 2))
    for model in MODELS:
        assert estimate(model, a, b, 0.1) is None


@pytest.mark.parametrize("model", MODELS)
def test_a_transform_ends_in_one_and_no_model_but_the_last_has_a_horizon(model: Model, rng: np.random.Generator) -> None:
    matrix = fit(model, *drawn(model, rng, noise_px=0.5))
    assert matrix[2, 2] == pytest.approx(1, abs=1e-12)
    assert (model == "homography") == bool(np.abs(matrix[2, :2]).max() > 1e-12)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", ["one line", "a row", "one point", "to one point", "a line to anywhere"])
def test_points_that_determine_nothing_give_no_exception(model: Model, kind: str, rng: np.random.Generator) -> None:
    line = np.stack([np.arange(20.0), 2 * np.arange(20.0)], 1)
    moving, fixed = {
        "one line": (line, line + 3),
        "a row": (line * [0, 1] + 5, line * [0, 1] + 7),
        "one point": (np.full((20, 2), 5.0), np.full((20, 2), 9.0)),
        "to one point": (rng.uniform(0, 99, (20, 2)), np.full((20, 2), 9.0)),
        "a line to anywhere": (line, rng.uniform(0, 99, (20, 2))),
    }[kind]
    found = estimate(model, moving, fixed, 3.0)
    assert found is None or np.isfinite(found[0]).all()


@pytest.mark.parametrize("model", MODELS)
def test_the_error_of_points_held_out_grows_with_the_noise(model: Model, rng: np.random.Generator) -> None:
    errors = [held_out_error(model, *drawn(model, rng, 200, noise)) for noise in (0.0, 0.5, 1.0, 2.0)]
    assert errors[0] < 1e-6
    assert np.all(np.diff(errors) > 0.2)
    assert errors[2] == pytest.approx(np.sqrt(2 * np.log(2)), rel=0.15)  # the median of Rayleigh's distribution


def test_points_held_out_are_not_fitted_to(rng: np.random.Generator) -> None:
    moving, fixed = drawn("homography", rng, 12, noise_px=1.0)
    own = float(np.median(residuals(fit("homography", moving, fixed), moving, fixed)))
    assert held_out_error("homography", moving, fixed) > 1.3 * own


@pytest.mark.parametrize(("model", "least"), [("shift", 8), ("similarity", 8), ("affine", 10), ("homography", 12)])
def test_few_points_leave_none_to_hold_out(model: Model, least: int, rng: np.random.Generator) -> None:
    moving, fixed = drawn(model, rng, least)
    assert np.isfinite(held_out_error(model, moving, fixed))
    assert np.isnan(held_out_error(model, moving[1:], fixed[1:]))


def test_residuals_are_distances_where_the_points_should_lie() -> None:
    moving = np.array([[0.0, 0.0], [10.0, 20.0]])
    fixed = apply_transform(TRUE["affine"], moving) + np.array([[3.0, 4.0], [0.0, -2.0]])
    np.testing.assert_allclose(residuals(TRUE["affine"], moving, fixed), [5, 2])


def test_transforms_lie_as_far_apart_as_they_were_shifted() -> None:
    a = TRUE["similarity"]
    assert transform_distance(a, shift(3, -4) @ a, SIZE, (500, 600)) == pytest.approx(5)
    assert transform_distance(a, a, SIZE, (500, 600)) == 0
    a = shift(-12, 7)
    grown = similarity(1.1, 0.0) @ a  # 0.1 of the distance from the corner
    assert transform_distance(a, grown, (101, 51), (81, 61)) == pytest.approx(0.1 * np.hypot(*common()).mean(), rel=0.01)


def common() -> tuple[np.ndarray, np.ndarray]:
    """Where shift(-12, 7) puts the pixels of an image of 101 × 51 that one of 81 × 61 shows."""
    y, x = np.meshgrid(np.arange(101.0) - 12, np.arange(51.0) + 7, indexing="ij")
    inside = (y >= 0) & (y <= 80) & (x >= 0) & (x <= 60)
    return y[inside], x[inside]


@pytest.mark.parametrize("scale", [1.0, 30.0, 200.0])
def test_a_fixed_image_may_show_any_part_of_the_moving_one(scale: float) -> None:
    a = shift(40, 40) @ similarity(scale, 20.0) @ shift(-151.3, -207.9)
    assert transform_distance(a, shift(0, 2) @ a, SIZE, (81, 91)) == pytest.approx(2)


def test_a_horizon_in_view_does_not_hide_what_lies_before_it() -> None:
    a = np.array([[1, 0, 0], [0, 1, 0], [0, 1 / 300, 1.0]])  # nothing of the moving image comes to lie below row 300
    grown = similarity(1.1, 0.0) @ a
    y, x = np.meshgrid(*(np.linspace(0, side - 1, 200) for side in SIZE), indexing="ij")
    expected = 0.1 * np.hypot(y / (1 + y / 300), x / (1 + y / 300)).mean()
    assert transform_distance(a, grown, SIZE, (900, 400)) == pytest.approx(expected, rel=0.01)


def test_transforms_without_common_area_lie_nowhere() -> None:
    assert np.isnan(transform_distance(shift(400, 0), np.eye(3), SIZE, SIZE))
    assert np.isfinite(transform_distance(np.eye(3), shift(400, 0), SIZE, SIZE))
