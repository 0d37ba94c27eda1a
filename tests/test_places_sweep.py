"""The sweep of `locate` and the choice of proposals: held to plain loops, to places cut by known transforms, and to shifts."""

import cv2
import numpy as np
import pytest
import torch
from jaxtyping import Float32

from fiducial import augment
from fiducial.coords import image_center_yx, shift, similarity
from fiducial.matching import Look, Match, look
from fiducial.places.locator import COARSELY, FINELY, FOLLOWED, FOLLOWED_SWEPT, OF_RUNG, SWEPT, Guesses, choose
from fiducial.places.network import Output
from fiducial.places.proposals import NONE, Proposals, confidence_around, join, thin
from fiducial.places.sweep import LEAST_VARIANCE, STEP, Grid, Sweep
from fiducial.places.verifier import UNKNOWN, Chance

SIDES = (36.0, 72.0)
FINE, FINER = FINELY
(COARSE,) = COARSELY
CPU = torch.device("cpu")

Gray = Float32[np.ndarray, "_ _"]


def texture(seed: int = 0, size: tuple[int, int] = (240, 300)) -> Gray:
    rng = np.random.default_rng(seed)
    return (augment.smooth_field(rng, size, 40) + 0.5 * augment.smooth_field(rng, size, 90)).astype(np.float32)


def view_of(image: Gray, center_yx: tuple[float, float], side: float, angle: float, pixels: int = 128) -> Gray:
    """Return a square view of `pixels` × `pixels` whose box in the image has that side."""
    y, x = image_center_yx((pixels, pixels))
    to_image = shift(*center_yx) @ similarity(side / pixels, angle) @ shift(-y, -x)
    return cv2.warpAffine(image, to_image[:2], (pixels, pixels), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)


def sweep_of(query: Gray) -> Sweep:
    return Sweep(query, CPU, bf16=False)


def proposals(*rows: tuple[float, float, float, float, float, float]) -> Proposals:
    """Return proposals of (y, x, side, angle, confidence, merit)."""
    table = np.array(rows).reshape(-1, 6)
    return Proposals(table[:, :2], *table[:, 2:].T)


@pytest.mark.parametrize("grid", [FINE, COARSE])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("side", "angle"), [(40.0, 0.0), (55.0, 130.0), (68.0, -77.0)])
def test_the_best_peak_of_a_sweep_is_the_place_that_was_cut(grid: Grid, sign: int, side: float, angle: float) -> None:
    image = texture()
    query = sign * view_of(image, (118.3, 160.7), side, angle)
    peaks = sweep_of(query).peaks(look(image), grid, SIDES)
    assert np.linalg.norm(peaks.center_yx[0] - (118.3, 160.7)) < 4
    assert abs(np.log(peaks.side[0] / side)) < 0.15
    assert abs((np.rad2deg(peaks.angle[0]) - angle + 180) % 360 - 180) < 12
    assert peaks.merit[0] > 1.5 * np.median(peaks.merit)
    assert ((peaks.merit > 0) & (peaks.merit <= 1.001)).all()
    assert (np.diff(peaks.merit) <= 0).all()


@pytest.mark.parametrize(("side", "angle"), [(80.0, 10.0), (130.0, -125.0)])
def test_boxes_of_the_next_rung_are_found_by_the_finer_grid(side: float, angle: float) -> None:
    image = texture()
    query = view_of(image, (118.3, 150.7), side, angle)
    best = sweep_of(query).peaks(look(image), FINER, (72.0, 144.0)).only(np.array([0]))
    assert np.linalg.norm(best.center_yx - (118.3, 150.7)) < 6
    assert abs(np.log(best.side / side)) < 0.15
    assert abs((np.rad2deg(best.angle[0]) - angle + 180) % 360 - 180) < 8


def test_a_source_moved_by_whole_steps_has_its_peaks_moved() -> None:
    image, by = texture(), round(STEP * FINE.reduced) * 3
    query = view_of(image, (120.0, 150.0), 50.0, 30.0)
    seen = look(image)
    moved = Look(*(np.roll(part, (by, -by), (0, 1)) for part in seen))
    one, other = sweep_of(query).peaks(seen, FINE, SIDES), sweep_of(query).peaks(moved, FINE, SIDES)
    np.testing.assert_allclose(other.center_yx[0] - one.center_yx[0], (by, -by), atol=1e-6)
    np.testing.assert_allclose(other.merit[0], one.merit[0], atol=1e-5)


def test_a_peak_is_the_normalized_correlation_of_the_template_there() -> None:
    image = texture(3)
    query = view_of(image, (100.0, 140.0), 60.0, 10.0)
    sweep = sweep_of(query)
    best = sweep.peaks(look(image), FINE, SIDES).only(np.array([0]))
    size = (round(image.shape[0] / 2), round(image.shape[1] / 2))
    small = [cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA) for part in look(image)]
    templates = next(made for made in sweep.made[FINE] if made.side == best.side[0])
    turn, n = round(best.angle[0] / (2 * np.pi) * FINE.angles), templates.disk.shape[-1]
    y, x = ((best.center_yx[0] - 0.5) / 2).round().astype(int)  # the middle of 2 × 2 px lies between them
    inside = templates.disk[0, 0].numpy() > 0
    values = []
    for theirs, own in ((0, templates.contrast), (1, templates.contrast), (1, templates.edges)):
        window = small[theirs][y - n // 2 : y + n // 2 + 1, x - n // 2 : x + n // 2 + 1][inside]
        template = own[turn, 0].numpy()[inside]
        spread = np.sqrt(window.size * max(window.var(), LEAST_VARIANCE))
        values.append((window - window.mean()) @ template / spread)
    assert best.merit[0] == pytest.approx(max(abs(values[0]), *values[1:]), abs=1e-4)


def test_nothing_is_found_in_a_source_of_one_tone_or_smaller_than_the_query() -> None:
    query = view_of(texture(), (120.0, 150.0), 50.0, 0.0)
    for size in ((200, 200), (16, 200), (1, 1)):
        assert len(sweep_of(query).peaks(look(np.zeros(size, np.float32)), FINE, SIDES)) == 0


def test_only_sides_asked_for_are_tried() -> None:
    image = texture()
    query = view_of(image, (120.0, 150.0), 66.0, 0.0)
    sweep = sweep_of(query)
    assert set(sweep.peaks(look(image), FINE, (60.0, 70.0)).side) == {made.side for made in sweep.made[FINE][2:]}
    assert len(sweep.peaks(look(image), FINE, (18.0, 22.0))) == 0


def test_half_precision_finds_the_same_place() -> None:
    image = texture()
    query = view_of(image, (120.0, 150.0), 50.0, 20.0)
    half, full = (Sweep(query, CPU, bf16=bf16).peaks(look(image), FINE, SIDES) for bf16 in (True, False))
    np.testing.assert_array_equal(half.center_yx[0], full.center_yx[0])
    np.testing.assert_allclose(half.merit[:5], full.merit[:5], atol=0.02)


def test_proposals_of_one_place_size_and_angle_are_one_and_the_first_stays() -> None:
    found = proposals(
        (50, 50, 40, 0.1, 0.2, 0.2), (51, 50, 42, 0.0, 0.9, 0.9), (51, 50, 42, 2.0, 0.5, 0.5), (90, 50, 42, 0.0, 0.4, 0.4)
    )
    np.testing.assert_array_equal(thin(found, 10, SIDES).merit, [0.2, 0.5, 0.4])
    np.testing.assert_array_equal(thin(found.ranked(), 10, SIDES).merit, [0.9, 0.5, 0.4])
    np.testing.assert_array_equal(thin(found.ranked(), 2, SIDES).merit, [0.9, 0.5])
    assert len(thin(found, 10, (100.0, 200.0))) == 0


def test_each_rung_and_its_sweep_are_looked_into_however_sure_the_network_is_elsewhere() -> None:
    many = proposals(*((20.0 * i, 500.0 * (i % 7), 40, 0, 0.9, 0.9) for i in range(200)))
    coarse = proposals(*((9e3, 100.0 * i, 60, 0, 0.01, 0.01) for i in range(50)))
    swept = proposals(*((100.0 * i, 9e4, 50, 0, 0.001, 0.5) for i in range(50)))
    chosen, first = choose([Guesses(coarse, [swept]), Guesses(many, [])], SIDES)
    np.testing.assert_array_equal(chosen.merit[:first], [0.9] * FOLLOWED + [0.5] * FOLLOWED_SWEPT)
    assert (chosen.center_yx[:, 0] == 9e3).sum() == OF_RUNG
    assert (chosen.center_yx[:, 1] == 9e4).sum() == SWEPT
    assert len(chosen) < 100


def test_where_network_and_sweep_agree_the_box_is_the_networks() -> None:
    seen, swept = proposals((50, 50, 40, 0.1, 0.3, 0.3)), proposals((51, 50, 41, 0.0, 0.3, 0.8))
    np.testing.assert_array_equal(choose([Guesses(seen, [swept])], SIDES)[0].center_yx, [[50, 50]])


def test_proposals_are_joined_in_turn_and_ranked_by_merit() -> None:
    whole = join([proposals((1, 1, 40, 0, 0.9, 0.1)), NONE, proposals((2, 2, 40, 0, 0.1, 0.8), (3, 3, 40, 0, 0.2, 0.05))])
    np.testing.assert_array_equal(whole.center_yx[:, 0], [1, 2, 3])
    np.testing.assert_array_equal(whole.ranked().center_yx[:, 0], [2, 1, 3])


def test_the_confidence_of_a_point_is_the_largest_in_its_cell_and_those_around() -> None:
    logits = torch.full((2, 3, 5, 6, 5), -9.0)
    logits[1, 2, 4, 2, 3] = 0.0  # of the cell that holds rows 16 to 23, columns 24 to 31
    output = Output(logits, torch.zeros(2, 3, 2, 6, 5), stride=8, block_px=128)
    points = np.array([[16.0, 24.0], [23.4, 31.4], [8.0, 16.0], [31.0, 39.0], [7.4, 24.0], [16.0, 15.4]])
    np.testing.assert_allclose(confidence_around(output, 8, points), [0.5] * 4 + [1 / (1 + np.exp(9))] * 2, rtol=1e-4)


def places(correlation: float, fall: float, scales: np.ndarray) -> list[Match]:
    """Return wrong places whose correlation falls with the octaves of their scale."""
    return [Match(similarity(float(s), 0.0), correlation - fall * float(np.log2(s)), 0.5) for s in scales]


def test_what_is_expected_of_a_wrong_place_falls_with_its_scale_and_is_taken_off() -> None:
    wrong = places(0.2, 0.06, np.geomspace(0.1, 1, 30))
    large, small = (Match(similarity(s, 0.0), 0.35, 0.5) for s in (1.0, 0.1))
    chance = Chance.of(wrong)
    np.testing.assert_allclose([chance.surplus(place) for place in wrong], 0, atol=1e-9)
    assert chance.surplus(large) > 0.1 > chance.surplus(small)


def test_right_places_among_the_wrong_do_not_raise_what_is_expected() -> None:
    right = [Match(similarity(1.0, float(turn)), 0.9, 0.9) for turn in range(36)]  # one place, proposed over and over
    chance = Chance.of([*places(0.3, 0.0, np.geomspace(0.1, 1, 40)), *right])
    assert chance.surplus(right[0]) == pytest.approx(0.6)


def test_of_few_places_or_of_one_scale_no_trend_is_learned() -> None:
    for wrong in (places(0.2, 0.06, np.geomspace(0.1, 1, 4)), places(0.2, 0.06, np.geomspace(0.2, 0.25, 30))):
        assert Chance.of(wrong).slope == 0
    nothing = Chance.of([])
    assert nothing.surplus(Match(np.eye(3), 0.9, 0.5)) == pytest.approx(0.9 - UNKNOWN[0])


def test_a_template_is_as_sharp_as_the_reduced_source() -> None:
    rng, size = np.random.default_rng(5), (240, 300)
    image = (augment.smooth_field(rng, size, 40) + 0.7 * augment.smooth_field(rng, size, 150)).astype(np.float32)
    sweep = sweep_of(view_of(image, (120.0, 150.0), 46.7, 0.0, pixels=160))
    sweep.peaks(look(image), FINE, SIDES)
    templates = sweep.made[FINE][1]
    middle, n = templates.disk.shape[-1] // 2, templates.disk.shape[-1]
    averaged = cv2.GaussianBlur(look(image).contrast, (0, 0), FINE.reduced / np.sqrt(12))
    to_image = shift(120.0, 150.0) @ similarity(FINE.reduced, 0.0) @ shift(-middle, -middle)
    there = cv2.warpAffine(averaged, to_image[:2], (n, n), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    inside = templates.disk[0, 0].numpy() > 0
    assert np.corrcoef(templates.contrast[0, 0].numpy()[inside], there[inside])[0, 1] > 0.985
