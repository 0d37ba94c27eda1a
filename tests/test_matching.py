"""A place is found to a fraction of a pixel from a first guess, whatever the sign of the contrast."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from fiducial.coords import apply_transform, corners_yx, image_center_yx, resize_transform, shift, similarity
from fiducial.images import from_array
from fiducial.matching import (
    ALIKE_IOU,
    Match,
    Rung,
    _correlation,
    _phase,
    apart,
    compare,
    look,
    outline,
    read_with_side,
    refine,
    with_side,
)
from fiducial.metrics import quad_iou
from fiducial.places.locator import without_stripes
from fiducial.places.proposals import Proposals
from fiducial.places.verifier import EVIDENCE, Verifier

SIZE = (83, 101)


def texture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).random(size, dtype=np.float32)
    smooth = sum(s * cv2.GaussianBlur(noise, (0, 0), s) for s in (2.0, 4.0, 8.0))
    return (cv2.normalize(smooth, None, 0, 1, cv2.NORM_MINMAX)).astype(np.float32)


def scene(scale: float = 0.7, angle: float = 25.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a source, a query, and the transform from query to source."""
    source = texture((240, 300))
    y, x = image_center_yx(SIZE)
    truth = shift(110.0, 160.0) @ similarity(scale, angle) @ shift(-y, -x)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return source, cv2.warpAffine(source, truth[:2], SIZE[::-1], flags=flags), truth


def rungs_of(source: np.ndarray) -> list[Rung]:
    half = cv2.resize(source, (150, 120), interpolation=cv2.INTER_AREA)
    return [Rung(source, look(source), np.eye(3), 1.0), Rung(half, look(half), resize_transform((240, 300), (120, 150)), 0.5)]


@pytest.mark.parametrize("sign", [1, -1])
def test_compare_and_refine_find_the_place_from_a_rough_guess(sign: int) -> None:
    source, query, truth = scene()
    image = from_array(sign * query)
    small = read_with_side(image, 40)
    to_small = resize_transform(SIZE, (small.shape[0], small.shape[1]))
    center = image_center_yx(SIZE)
    guess = Match(shift(5.0, -6.0) @ truth @ similarity(1.1, 8.0, center), 0.0, 0.5)
    rungs = rungs_of(source)
    near = compare(look(small), to_small, rungs, guess, angles=(-8, 0, 8), stretches=(0.9, 1.0, 1.1), pad=0.3)
    assert near.correlation > 0.7
    assert near.confidence == 0.5
    found = refine(sign * query, rungs, near)
    error = np.linalg.norm(outline(found, SIZE) - apply_transform(truth, corners_yx(SIZE)), axis=1)
    assert error.max() < 0.2
    assert found.correlation > 0.95


def test_edges_alone_are_enough() -> None:
    source, query, truth = scene()
    smooth = cv2.GaussianBlur(query, (0, 0), 1.5)
    edges = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    small = read_with_side(from_array(edges), 40)
    to_small = resize_transform(SIZE, (small.shape[0], small.shape[1]))
    match = Match(truth, 0.0, 0.5)
    near = compare(look(small), to_small, rungs_of(source), match, angles=(0,), stretches=(1.0,), pad=0.1)
    assert near.channel == 2
    assert near.correlation > 0.6


def test_a_place_beyond_the_source_correlates_with_nothing() -> None:
    source, query, _ = scene()
    small = read_with_side(from_array(query), 40)
    to_small = resize_transform(SIZE, (small.shape[0], small.shape[1]))
    away = Match(shift(2000.0, 2000.0), 0.0, 0.5)
    assert compare(look(small), to_small, rungs_of(source), away, angles=(0,), stretches=(1.0,), pad=0.1).correlation <= 0


def test_looks_of_constant_images_are_empty() -> None:
    flat = look(np.full((40, 50), 3.0, np.float32))
    assert max(np.abs(flat.contrast).max(), np.abs(flat.edges).max()) < 0.01


def by(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a probability that ranks by one column of the evidence."""
    return lambda evidence: evidence[:, EVIDENCE.index(name)]


def guesses_near(truth: np.ndarray) -> Proposals:
    """Return a guess near the true place of the scene, and eleven elsewhere."""
    rng = np.random.default_rng(4)
    center = np.concatenate(
        [apply_transform(truth, np.array([image_center_yx(SIZE)])) + 3, rng.uniform((150, 20), (220, 90), (11, 2))]
    )
    falling = np.linspace(0.9, 0.1, 12)
    return Proposals(center, np.full(12, 0.7 * min(SIZE)), np.full(12, np.deg2rad(30.0)), falling, falling)


def test_what_is_verified_in_two_steps_equals_what_is_verified_at_once() -> None:
    source, query, truth = scene()
    rungs, sides = rungs_of(source), (20.0, 200.0)
    every = guesses_near(truth)
    verifier = Verifier(query, rungs, by("correlation"))
    at_once = Verifier(query, rungs, by("correlation")).verify(every, sides)
    before = verifier.verify(every.only(np.arange(2, 8)), sides)
    after = verifier.verify(every, sides)
    assert before[0][0].correlation < after[0][0].correlation > 0.95
    np.testing.assert_array_equal([m.matrix for m in after[0]], [m.matrix for m in at_once[0]])
    np.testing.assert_array_equal(after[1], at_once[1])


@pytest.mark.parametrize("name", ["size", "confidence"])
def test_of_places_that_overlap_the_most_probable_stays(name: str) -> None:
    source, query, truth = scene()
    verifier = Verifier(query, rungs_of(source), by(name))
    larger = truth @ similarity(1.5, 0.0, image_center_yx(SIZE))
    near, far = (Match(matrix, 0.5, p) for matrix, p in ((truth, 0.9), (larger, 0.1)))
    elsewhere = [Match(shift(0, -900) @ truth, 0.2, 0.5)]
    (kept,), evidence = verifier._judge([far, near], elsewhere)
    assert kept is (far if name == "size" else near)
    assert evidence.shape == (1, len(EVIDENCE))
    both, ranked = verifier._judge([far, Match(shift(0, 900) @ truth, 0.4, 0.5), near], elsewhere)
    assert len(both) == 2
    assert (np.diff(by(name)(ranked)) < 0).all()


def test_fine_detail_that_the_coarse_comparison_steps_over_is_met_by_the_thorough_one() -> None:
    rng, size = np.random.default_rng(0), (240, 300)
    source = cv2.GaussianBlur(rng.normal(0, 1, size).astype(np.float32), (0, 0), 0.8)
    guess, truth = (
        shift(100, 110) @ similarity(0.5, angle) @ shift(*(-c for c in image_center_yx((160, 160)))) for angle in (0.0, 5.0)
    )
    view = cv2.warpAffine(source, truth[:2], (160, 160), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
    verifier = Verifier(view, rungs_of(source), by("correlation"))
    coarse, thorough = (compared(Match(guess, 0.0, 0.5)) for compared in (verifier.coarse, verifier.thorough))
    assert coarse.correlation < 0.5
    assert thorough.correlation > 0.9
    assert quad_iou(outline(thorough, (160, 160)), apply_transform(truth, corners_yx((160, 160)))) > 0.95


def test_beside_a_place_all_but_certain_only_its_rivals_are_refined() -> None:
    source, query, truth = scene()
    every = guesses_near(truth)
    verifier = Verifier(query, rungs_of(source), by("correlation"))
    all_places, _ = verifier.verify(every, (20.0, 200.0))
    rivals, _ = verifier.verify(every, (20.0, 200.0), rivals=0.05)
    assert len(rivals) == 1 < len(all_places)
    np.testing.assert_array_equal(rivals[0].matrix, all_places[0].matrix)


def test_places_that_overlap_are_one() -> None:
    places = [Match(shift(0, dx), 0.9 - dx / 1000, 0.5) for dx in (0.0, 5.0, 300.0, 305.0)]
    assert [match.matrix[0, 2] for match in apart(places, SIZE, 9)] == [0, 300]
    assert len(apart(places, SIZE, 1)) == 1


def test_guesses_are_one_only_if_nearly_all_of_them_overlaps() -> None:
    shifts = [0.0, 0.3 * SIZE[1], 0.5 * SIZE[1]]  # IoU with the first: 0.54 and 0.33, between the others 0.67
    guesses = [Match(shift(0, dx), 0.9, 0.5) for dx in shifts]
    assert [m.matrix[0, 2] for m in apart(guesses, SIZE, 9)] == [0.0]
    assert [m.matrix[0, 2] for m in apart(guesses, SIZE, 9, ALIKE_IOU)] == shifts[:2]
    assert [m.matrix[0, 2] for m in apart(guesses, SIZE, 9, 0.9)] == shifts


def test_a_side_is_brought_to_size_and_intensities_to_one_range_whatever_their_unit() -> None:
    image = texture((90, 180))
    plain = read_with_side(from_array(image), 40)
    assert plain.shape == (40, 80)
    assert np.percentile(read_with_side(from_array(image), 90), [1, 99]) == pytest.approx([-1, 1], abs=0.02)
    np.testing.assert_allclose(read_with_side(from_array(1e-9 * image.astype(np.float64)), 40), plain, atol=1e-4)
    np.testing.assert_allclose(read_with_side(from_array(30000 + 500 * image), 40), plain, atol=1e-2)
    assert with_side(image, (90, 180), 120).shape == (120, 240)


def test_weak_fine_structure_in_strong_noise_and_light_speaks_for_the_true_place_alone(rng: np.random.Generator) -> None:
    source, query, truth = scene()
    rungs, light = rungs_of(source), cv2.GaussianBlur(rng.random(SIZE, dtype=np.float32), (0, 0), 12.0)
    exposed = (0.2 * query + 2 * light + 0.01 * rng.standard_normal(SIZE)).astype(np.float32)
    there = refine(exposed, rungs, Match(truth, 0.0, 0.5))
    elsewhere = [refine(exposed, rungs, Match(shift(dy, dx) @ truth, 0.0, 0.5)) for dy, dx in ((30, -25), (-28, 12), (6, 40))]
    assert there.phase > 0.7
    assert max(match.phase for match in elsewhere) < 0.35


def test_gaps_are_read_as_such_and_dead_pixels_from_around() -> None:
    image = texture((90, 180))
    holes = image.copy()
    holes[:9], holes[0, 0], holes[40, 70], holes[60] = np.nan, np.inf, np.nan, np.nan
    plain, seen = (read_with_side(from_array(one), 90) for one in (image, holes))
    assert np.isnan(seen[:9]).all()
    np.testing.assert_allclose(seen[9:], plain[9:], atol=0.25)
    small, reduced = (read_with_side(from_array(one), 30) for one in (image, holes))
    assert np.isnan(reduced[:3]).all()
    np.testing.assert_allclose(reduced[3:], small[3:], atol=0.2)
    larger, enlarged = (read_with_side(from_array(one), 135) for one in (image, holes))
    assert np.isnan(enlarged[:13]).all()
    np.testing.assert_allclose(enlarged[15:], larger[15:], atol=0.25)


def test_looks_do_not_know_how_deep_a_gap_is_and_see_no_edge_there() -> None:
    image = texture((120, 150))
    hole = np.zeros(image.shape, bool)
    hole[30:80, 50:110] = True
    plain, seen = look(image), look(np.where(hole, np.float32(np.nan), image))
    rim = (cv2.dilate(hole.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & ~hole
    for whole, part in zip(plain, seen, strict=True):
        assert np.abs(whole - part)[rim].mean() < 0.6 * np.abs(whole).mean()
        assert not part[hole].any()
        assert np.abs(whole - part)[~hole].mean() < 0.1 * np.abs(whole).mean()
        assert np.abs(part[~hole]).max() <= 1.1 * np.abs(whole[~hole]).max()


def test_correlation_over_gaps_is_that_of_what_both_show_times_the_root_of_its_share(rng: np.random.Generator) -> None:
    window, template = (rng.normal(3, 1, size).astype(np.float32) for size in ((40, 52), (33, 41)))
    window[5:20, 8:30], template[25:, 30:] = np.nan, np.nan
    surface = _correlation(window, template)
    assert surface.shape == (8, 12)
    for y, x in ((0, 0), (7, 11), (3, 5)):
        seen = window[y : y + 33, x : x + 41]
        both = np.isfinite(seen) & np.isfinite(template)
        expected = np.corrcoef(seen[both], template[both])[0, 1] * np.sqrt(both.mean())
        assert surface[y, x] == pytest.approx(expected, abs=1e-4)
    flat = np.where(np.isnan(window), np.float32(np.nan), np.float32(2))
    assert not _correlation(flat, template).any()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("where", ["query", "source"])
def test_a_gap_draws_no_outline(where: str, sign: int) -> None:
    source, query, truth = scene()
    hole = np.zeros(SIZE, bool)
    hole[:60, 30:] = True  # half of it
    if where == "query":
        query[hole] = np.nan
    else:
        source[cv2.warpAffine(hole.astype(np.uint8), truth[:2], (300, 240), flags=cv2.INTER_NEAREST) > 0] = np.nan
    near = Match(shift(2.0, -2.0) @ truth @ similarity(1.05, 2.0, image_center_yx(SIZE)), 0.0, 0.5)
    found = refine(sign * query, [Rung(source, look(source), np.eye(3), 1.0)], near)
    error = np.linalg.norm(outline(found, SIZE) - apply_transform(truth, corners_yx(SIZE)), axis=1)
    assert error.max() < 0.1
    assert 0.65 < found.correlation < 0.75
    assert found.phase > 0.7


def test_the_outline_of_a_gap_is_no_structure_in_common(rng: np.random.Generator) -> None:
    hole = np.zeros(SIZE, bool)
    hole[20:60, 20:70] = True
    phases = []
    for seed in range(60):
        pair = (look(texture(SIZE, 2 * seed + k) + rng.normal(0, 0.02, SIZE).astype(np.float32)).contrast for k in (0, 1))
        phases.append(_phase(*(np.where(hole, np.float32(np.nan), contrast) for contrast in pair)))
    assert np.mean(phases) < 0.01


def test_offsets_of_scan_lines_are_learned_from_what_is_known(rng: np.random.Generator) -> None:
    stripes = 0.5 * rng.standard_normal((83, 1)).astype(np.float32)
    image = texture(SIZE)
    striped = image + stripes
    striped[30:60, 10:80] = np.nan  # most of these lines
    striped[:7] = np.nan  # all of these
    clean, known = without_stripes(striped), np.isfinite(striped)
    np.testing.assert_array_equal(np.isfinite(clean), known)
    left = clean - image
    offsets = [float(np.median(line[seen])) for line, seen in zip(left, known, strict=True) if seen.any()]
    assert np.std(np.diff(offsets)) < 0.25 * np.std(np.diff(stripes[:, 0]))
    nothing = np.full(SIZE, np.nan, np.float32)
    assert np.isnan(without_stripes(nothing)).all()
