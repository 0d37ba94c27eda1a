"""Samples of keypoints lie on each other as they say, hide what they say, and look as other sensors might see them."""

import math

import numpy as np
import pytest
import torch

from fiducial import augment
from fiducial.coords import apply_transform, image_center_yx, shift
from fiducial.datasets import AlignedPair
from fiducial.landmarks import samples
from fiducial.landmarks.network import Config, KeypointNet

TINY = Config(channels=(4, 6, 6, 8, 8, 10), deformable_channels=6, context=(12, 14), descriptor=8)
SIZE = 96


def texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw a texture with detail at several scales, no two places of which are alike."""
    field = sum(augment.smooth_field(rng, size, cells) * weight for cells, weight in ((6, 0.5), (14, 0.8), (40, 1.0)))
    return np.clip(128 + 45 * field, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scenes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    return texture(rng, (300, 411)), texture(rng, (337, 291))  # odd sides, too


@pytest.fixture(scope="module")
def twins(scenes: tuple[np.ndarray, np.ndarray]) -> samples.Pool:
    """Return pairs by the same sensor: their views differ in geometry, noise and gamma only."""
    return samples.make_pool(tuple(AlignedPair(str(i), scene, scene) for i, scene in enumerate(scenes)), ())


@pytest.fixture(scope="module")
def pool(scenes: tuple[np.ndarray, np.ndarray]) -> samples.Pool:
    return samples.make_pool((AlignedPair("0", scenes[0], 255 - scenes[0]),), scenes)


def draw(pool: samples.Pool, seed: int, **options: float) -> samples.Sample:
    return samples.make_sample(pool, TINY, np.random.default_rng(seed), SIZE, **options)


def likeness(sample: samples.Sample, a_to_b: np.ndarray) -> float:
    """Return the correlation of a with b read where a transform points, where both show the scene."""
    mapping = augment.map_from_matrix(a_to_b, (SIZE, SIZE))
    inside = ((mapping >= 0) & (mapping <= SIZE - 1)).all(axis=-1)
    shown = sample.shown_a & inside & (augment.resample(sample.shown_b.astype(np.float32), mapping) > 0.99)
    a, b = (augment.blur(image, 1.0)[shown] for image in (sample.a, augment.resample(sample.b, mapping)))
    return float(np.corrcoef(a, b)[0, 1])


def test_b_shows_at_the_transformed_place_what_a_shows(twins: samples.Pool) -> None:
    drawn = [draw(twins, seed) for seed in range(30)]
    right = [likeness(s, s.a_to_b) for s in drawn]
    off = [likeness(s, shift(0, 4) @ s.a_to_b) for s in drawn]
    back = [likeness(s, np.linalg.inv(s.a_to_b)) for s in drawn]
    assert np.median(right) > 0.97
    assert min(right) > 0.8
    assert np.median(off) < np.median(right) - 0.05
    assert np.median(back) < 0.5
    assert np.mean(np.array(right) > off) == 1


def test_pairs_of_two_sensors_and_either_order_are_drawn(scenes: tuple[np.ndarray, np.ndarray]) -> None:
    scene = scenes[0]
    bright = samples.make_pool((AlignedPair("0", scene, 255 - scene),), ())
    assert bright.share == 1
    assert all(likeness(s, s.a_to_b) < -0.8 for s in (draw(bright, seed) for seed in range(8)))
    rng = np.random.default_rng(0)
    first = [samples._draw_scene(bright, rng, paired=True)[0][0] is scene for _ in range(30)]
    assert 5 < sum(first) < 25


@pytest.mark.parametrize("ease", [0.0, 0.4, 1.0])
def test_points_lie_on_each_other_inside_both_views_where_both_show_the_scene(pool: samples.Pool, ease: float) -> None:
    for seed in range(12):
        sample = draw(pool, seed, ease=ease)
        assert len(sample.points_a) == samples.POINTS
        np.testing.assert_allclose(apply_transform(sample.a_to_b, sample.points_a), sample.points_b, atol=1e-3)
        for points, shown in ((sample.points_a, sample.shown_a), (sample.points_b, sample.shown_b)):
            assert points.min() >= 0
            assert points.max() <= SIZE - 1
            y, x = points.round().astype(int).T
            assert shown[y, x].all()
        assert np.ptp(sample.points_a, axis=0).min() > SIZE / 4  # spread


def turn_scale_shift(matrix: np.ndarray) -> tuple[float, float, float]:
    """Return what a homography does at a view's middle: degrees, factor, and the larger shift in parts of the side."""
    middle = np.array([image_center_yx((SIZE, SIZE))])
    at, right, below = (apply_transform(matrix, middle + step)[0] for step in ((0, 0), (0, 1e-3), (1e-3, 0)))
    linear = np.stack([below - at, right - at], axis=1) * 1e3  # of (y, x)
    turn = math.degrees(math.atan2(linear[0, 1] - linear[1, 0], linear[0, 0] + linear[1, 1]))
    return turn, math.sqrt(np.linalg.det(linear)), float(np.abs(at - middle).max() / SIZE)


def test_near_views_differ_as_much_as_the_configuration_says() -> None:
    config, rng = Config(turn_deg=20.0, stretch=1.3), np.random.default_rng(0)
    drawn = np.array([turn_scale_shift(samples.draw_homography(rng, config, SIZE)) for _ in range(400)])
    turn, scale, moved = np.abs(drawn[:, 0]), np.exp(np.abs(np.log(drawn[:, 1]))), drawn[:, 2]
    assert 17 < turn.max() < 20 + 5  # shear turns a little, too
    assert (drawn[:, 0] > 10).any()
    assert (drawn[:, 0] < -10).any()
    assert 1.22 < scale.max() < 1.3 * 1.15
    assert (turn > 20).mean() < 0.1
    assert 0.12 < moved.max() <= 0.15 + 1e-6


def test_ease_scales_the_differences_and_views_that_are_not_near_turn_any_way() -> None:
    rng = np.random.default_rng(0)
    still = samples.draw_homography(rng, TINY, SIZE, 0.0)
    np.testing.assert_allclose(still, shift(still[1, 2], still[0, 2]), atol=1e-9)
    little = np.array([turn_scale_shift(samples.draw_homography(rng, TINY, SIZE, 0.4)) for _ in range(100)])
    assert np.abs(little[:, 0]).max() < 0.4 * TINY.turn_deg + 3
    any_way = np.array([turn_scale_shift(samples.draw_homography(rng, TINY, SIZE, near=False)) for _ in range(200)])
    assert set(np.histogram(any_way[:, 0], 8, (-180, 180))[0] > 5) == {True}


def test_some_pairs_are_turned_far_and_say_so(pool: samples.Pool) -> None:
    drawn = [draw(pool, seed) for seed in range(80)]
    far = np.array([abs(turn_scale_shift(s.a_to_b)[0]) > TINY.turn_deg + 5 for s in drawn])
    near = np.array([s.near for s in drawn])
    assert not (far & near).any()
    assert 0.05 < far.mean() < 0.45
    assert all(draw(pool, seed, ease=0.0).near for seed in range(10))


def test_samples_are_drawn_again_from_their_seed(pool: samples.Pool) -> None:
    first, again, other = (draw(pool, seed) for seed in (1, 1, 2))
    for name in samples.Sample.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.a, other.a)


def test_what_is_hidden_is_0_and_not_shown(pool: samples.Pool) -> None:
    hidden = 0
    for seed in range(40):
        sample = draw(pool, seed)
        for image, shown in ((sample.a, sample.shown_a), (sample.b, sample.shown_b)):
            assert not image[~shown].any()
            assert np.abs(image).max() <= 1
            assert image[shown].std() > 0.2  # equalized
            hidden += not shown.all()
    assert hidden > 5


def test_a_part_without_data_leaves_most_of_a_view() -> None:
    share = [samples._half_plane(np.random.default_rng(seed), SIZE).mean() for seed in range(200)]
    assert 0.6 < min(share) < 0.75
    assert max(share) > 0.95


def test_other_sensors_see_finite_images_and_sometimes_the_negative(scenes: tuple[np.ndarray, np.ndarray]) -> None:
    image, alike = scenes[0][:90, :120].astype(np.float32) / 255, []
    for seed in range(60):
        seen = samples.change_modality(image, np.random.default_rng(seed))
        assert seen.dtype == np.float32
        assert np.isfinite(seen).all()
        assert np.isfinite(samples.change_modality(np.full((30, 40), 0.5, np.float32), np.random.default_rng(seed))).all()
        alike.append(np.corrcoef(image.ravel(), seen.ravel())[0, 1])
    assert 0.1 < (np.array(alike) < -0.3).mean() < 0.6
    assert (np.array(alike) > 0.5).mean() > 0.1


def test_the_share_of_pairs_counts_only_where_there_are_both(scenes: tuple[np.ndarray, np.ndarray]) -> None:
    pairs = (AlignedPair("0", scenes[0], scenes[0]),)
    assert [samples.make_pool(p, s, 0.3).share for p, s in ((pairs, ()), ((), scenes), (pairs, scenes))] == [1, 0, 0.3]
    sample = draw(samples.make_pool((), scenes), 3)
    assert np.isfinite(sample.a).all()
    assert np.isfinite(sample.b).all()


def test_scenes_smaller_than_the_view_are_shown_with_nothing_around(rng: np.random.Generator) -> None:
    small = samples.make_pool((), (texture(rng, (41, 56)),))
    for seed in range(5):
        sample = draw(small, seed)
        assert 0.15 < sample.shown_a.mean() < 0.9
        assert not sample.a[~sample.shown_a].any()


def test_a_pyramid_is_reduced_by_halves(rng: np.random.Generator) -> None:
    image = np.repeat(np.repeat(texture(rng, (80, 65)), 2, axis=0), 2, axis=1)
    ((full, half, quarter),) = samples.make_pool((), (image,)).singles
    np.testing.assert_array_equal(full, image)
    np.testing.assert_array_equal(half, image[::2, ::2])
    assert quarter.shape == (40, 32)
    (alone,) = samples.make_pool((), (image[:60],)).singles
    assert len(alone) == 1  # too small to be reduced


def test_a_batch_holds_first_all_of_a_then_all_of_b(pool: samples.Pool) -> None:
    drawn = [draw(pool, seed) for seed in range(3)]
    batch = samples.collate(drawn)
    for i, sample in enumerate(drawn):
        np.testing.assert_array_equal(batch.image[i, 0], sample.a)
        np.testing.assert_array_equal(batch.image[3 + i, 0], sample.b)
        for name in samples.Batch._fields[1:]:
            np.testing.assert_array_equal(getattr(batch, name)[i], getattr(sample, name))


@pytest.mark.parametrize("stage", [samples.contrast_batch_loss, samples.batch_loss], ids=["features", "peaks"])
def test_a_tiny_network_learns_a_batch_by_heart(pool: samples.Pool, stage: object) -> None:
    torch.manual_seed(0)
    network, batch = KeypointNet(TINY), samples.collate([draw(pool, seed, ease=0.4) for seed in range(2)])
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    values = []
    for _ in range(25):
        values.append(stage(network, batch))
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
    assert torch.isfinite(torch.stack(values)).all()
    assert values[-1] < values[0] - 0.5
