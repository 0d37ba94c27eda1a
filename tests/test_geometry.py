"""A board laid over its displaced, re-lit self is found; another board is not trusted."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from fiducial import augment, geometry, synth
from fiducial.coords import apply_transform, image_center_yx, shift, similarity
from fiducial.defects.inspector import TRUSTED_ALIGNMENT

SIZE = (330, 410)


def board(seed: int) -> np.ndarray:
    return synth.draw_board(np.random.default_rng(seed), SIZE).astype(np.float32) / 255


def error_px(found: np.ndarray, true: np.ndarray, image: np.ndarray) -> float:
    """Mean distance between where two transforms put the image's copper edges."""
    edges = np.argwhere(np.abs(np.diff(image, axis=0)) > 0.5).astype(float)
    return float(np.linalg.norm(apply_transform(found, edges) - apply_transform(true, edges), axis=1).mean())


@pytest.mark.parametrize(
    ("dy", "dx", "angle", "scale"),
    [(0, 0, 0, 1), (9, -7, 3, 1), (-31, 22, 11, 1.08), (4, 3, 90, 0.93), (12, 5, 187, 1), (6, 6, -82, 1)],
)
@pytest.mark.parametrize("relit", [False, True])
def test_alignment_finds_shift_angle_quarter_turn_and_scale(
    dy: float, dx: float, angle: float, scale: float, relit: bool
) -> None:
    rng, moving = np.random.default_rng(5), board(3)
    true = shift(dy, dx) @ similarity(scale, angle, image_center_yx(SIZE))
    fixed, _ = geometry.warp(moving, true, SIZE)
    if relit:
        moving, fixed = (augment.photograph(0.2 + 0.6 * image, rng, 0.6) for image in (moving, fixed))
    found = geometry.align(moving.astype(np.float32), fixed.astype(np.float32))
    assert error_px(found.moving_to_fixed, true, board(3)) < 0.7
    assert found.score > 0.85


@pytest.mark.parametrize("seed", range(4))
def test_another_board_is_below_the_trusted_score(seed: int) -> None:
    assert geometry.align(board(seed), board(seed + 10)).score < TRUSTED_ALIGNMENT


def test_equal_images_stay_where_they_are() -> None:
    np.testing.assert_array_equal(geometry.align(board(1), board(1)).moving_to_fixed, np.eye(3))


def test_a_whole_shift_is_exact_and_says_what_it_covers() -> None:
    image = board(2)
    moved, covered = geometry.warp(image, shift(3, -5), SIZE)
    np.testing.assert_array_equal(moved[3:, :-5], image[:-3, 5:])
    assert covered[3:, :-5].all()
    assert not covered[:3].any()
    assert not covered[:, -5:].any()


def test_correlation_is_one_for_other_light_and_undefined_is_minus_one(rng: np.random.Generator) -> None:
    a = rng.random((20, 30)).astype(np.float32)
    everywhere = np.ones(a.shape, bool)
    assert geometry.correlation(a, 3 * a + 2, everywhere) == pytest.approx(1, abs=1e-5)
    assert geometry.correlation(a, np.ones_like(a), everywhere) == -1
    assert geometry.correlation(a, a, ~everywhere) == -1


def test_stripes_of_scan_lines_are_removed_and_nothing_else(rng: np.random.Generator) -> None:
    image = cv2.GaussianBlur(rng.random((120, 160), dtype=np.float32), (0, 0), 2.0)
    image[40:] += 0.2  # an edge along the lines is no stripe: there are none elsewhere
    assert geometry.remove_stripes(image) is image
    lines = rng.normal(0, 0.3, (120, 1)).astype(np.float32)
    cleaned = geometry.remove_stripes(image + lines)
    left = np.median(cleaned - image, axis=1)
    assert np.abs(left - cv2.GaussianBlur(lines, (1, 0), sigmaX=0.1, sigmaY=6.0)[:, 0]).mean() < 0.05  # slow changes stay
    assert np.std(cleaned - image) < 0.4 * np.std(lines)


def seen(image: np.ndarray) -> np.ndarray:
    return geometry.equalize(image, geometry.tone_curve(image.ravel()))


@pytest.mark.parametrize("change", [lambda v: 3 * v + 2, np.exp, lambda v: v**3, lambda v: np.log(v + 2)])
def test_tones_are_the_same_after_any_increasing_change(rng: np.random.Generator, change: Callable[..., np.ndarray]) -> None:
    fine, coarse = rng.normal(0, 0.5, (90, 120)).clip(-1.5), rng.integers(0, 7, (90, 120))
    for image in (fine.astype(np.float32), coarse.astype(np.float32)):
        np.testing.assert_allclose(seen(change(image)), seen(image), atol=2e-3)
        assert np.ptp(seen(image)) > 1.5


def test_tones_are_spread_evenly_whatever_the_tails(rng: np.random.Generator) -> None:
    image = np.minimum(rng.lognormal(5, 2, (200, 300)), 65535).astype(np.uint16).astype(np.float32)
    even = np.quantile(seen(image), np.linspace(0, 1, 11))
    np.testing.assert_allclose(even, np.linspace(-1, 1, 11), atol=0.03)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
@pytest.mark.parametrize(
    "dark", [lambda rng, n: rng.normal(1000, 30, n), lambda rng, n: rng.choice([7.0, 900.0, 901.0, 40_000.0], n)]
)
def test_tones_go_to_their_rank_whichever_values_are_common(
    rng: np.random.Generator, share: float, dark: Callable[..., np.ndarray]
) -> None:
    """Nearly all values are in a tail of few pixels, as bright cells on a dark ground are."""
    size = (400, 500)
    bright = rng.uniform(0, 65535, size)
    image = np.where(rng.random(size) < share, bright, dark(rng, size)).astype(np.uint16).astype(np.float32)
    _, place, count = np.unique(image, return_inverse=True, return_counts=True)
    rank = 2 * ((np.cumsum(count) - count / 2) / image.size)[place].reshape(size) - 1
    np.testing.assert_allclose(seen(image), rank, atol=2 / 1023 + 1e-5)


def test_the_negative_has_the_negative_of_the_tones(rng: np.random.Generator) -> None:
    for image in (rng.random((90, 120), dtype=np.float32), rng.integers(0, 255, (90, 120)).astype(np.float32)):
        np.testing.assert_allclose(seen(-image), -seen(image), atol=2e-3)


def test_equal_tones_go_to_their_mean_rank() -> None:
    image = np.array([[3.0, 1.0, 1.0], [1.0, 1.0, 9.0], [3.0, 1.0, 3.0]], np.float32)  # five, three and one
    expected = {1.0: 2 * 2.5 / 9 - 1, 3.0: 2 * 6.5 / 9 - 1, 9.0: 2 * 8.5 / 9 - 1}
    np.testing.assert_allclose(seen(image), np.vectorize(expected.get)(image), atol=1e-6)


def test_undefined_pixels_become_0_and_move_no_tone(rng: np.random.Generator) -> None:
    image = rng.random((40, 50), dtype=np.float32)
    holed = image.copy()
    holed[:5], holed[5, :3] = np.nan, np.inf
    out = seen(holed)
    assert not out[:5].any()
    np.testing.assert_allclose(out[6:], seen(image[5:])[1:], atol=0.01)
    for empty in (np.full((4, 5), np.nan, np.float32), np.full((4, 5), 17.0, np.float32)):
        np.testing.assert_array_equal(seen(empty), np.zeros((4, 5)))


def test_images_that_do_not_overlap_score_minus_one(rng: np.random.Generator) -> None:
    image = rng.random((40, 55), np.float32)
    assert geometry.score(image, image, np.eye(3)) == pytest.approx(1)
    assert geometry.score(image, image, shift(0, 60)) == -1


def test_what_either_image_does_not_know_is_not_compared_and_no_fault_of_the_other(rng: np.random.Generator) -> None:
    fixed = rng.random((40, 55), np.float32)
    moving, all_of_it = fixed.copy(), np.ones((40, 55), bool)
    moving[:25], known = rng.random((25, 55), np.float32), all_of_it.copy()
    known[:25] = False
    assert geometry.score(moving, fixed, np.eye(3)) < 0.7
    for given in ((known, None), (None, known), (known, known)):
        assert geometry.score(moving, fixed, np.eye(3), *given) == pytest.approx(1)
    assert geometry.score(fixed, fixed, shift(10, 0), known, ~known) == -1
    moved, _ = geometry.warp(moving, shift(4, 0), (40, 55))
    assert geometry.score(moving, moved, shift(4, 0), known) == pytest.approx(1)
    assert geometry.score(moving, moved, shift(4, 0), None, np.roll(known, 4, axis=0)) == pytest.approx(1)
