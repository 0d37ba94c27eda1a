"""Samples of crowds show their blobs where the truth says, and a network learns from them."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import center_of_mass, gaussian_filter, maximum_filter

from fiducial import weights
from fiducial.blobs import samples
from fiducial.blobs.loss import CONTRAST, contrast_loss, neighbors
from fiducial.blobs.network import CADSN, Config
from fiducial.coords import apply_transform, shift, similarity
from fiducial.crowds import NOTHING, Crowd, Style, disks, render_crowd, scatter
from fiducial.datasets import CrowdImage

TINY = Config(encoder="resnet18_half", dim=16, heads=2, fine_dim=8)
ROUND = Style("disk", over=True, contrast=(0.8, 0.8), softness=0.15, texture=0.0, ragged=0.0, stretch=0.0)
DRAWN_ONLY = samples.Pool((), ())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every sample from the pool."""
    monkeypatch.setattr(samples, "DRAWN", 0.0)
    monkeypatch.setattr(samples, "EMPTY", 0.0)


def bright_disks(rng: np.random.Generator, channels: int = 1) -> CrowdImage:
    """Return well separated bright disks on dark, of 5 to 12 px, none cut by the border."""
    crowd = scatter(rng, (260, 330), (5.0, 12.0), (1.5, 2.0), 0.2)
    crowd = crowd.only(((crowd.yx > 15) & (crowd.yx < np.array([260, 330]) - 16)).all(axis=1))
    gray = (30 + 220 * render_crowd(crowd, (260, 330), ROUND, rng)).astype(np.uint8)
    return CrowdImage("disks", gray if channels == 1 else np.stack([gray, gray // 2, 255 - gray], axis=2), crowd)


def pool_of(*images: CrowdImage) -> samples.Pool:
    return samples.Pool((images,), (1.0,))


def inner(crowd: Crowd, size: int) -> Crowd:
    """Return the blobs that are wholly seen."""
    far = 1.3 * crowd.radius[:, None]
    return crowd.only(((crowd.yx > far) & (crowd.yx < size - 1 - far)).all(axis=1))


def seen_at(image: np.ndarray, yx: np.ndarray, radius: float) -> np.ndarray:
    """Return the center of what stands out, bright or dark, within 1.3 radii of a point."""
    gray = gaussian_filter(image.mean(axis=2), 0.7)
    y, x = np.mgrid[: gray.shape[0], : gray.shape[1]]
    away = np.hypot(y - yx[0], x - yx[1]) / radius
    ring = np.median(gray[(away > 1.2) & (away < 1.4)])
    clear = np.where(away < 1.3, np.abs(gray - ring), 0)
    return np.array(center_of_mass(np.where(clear > 0.5 * clear.max(), clear, 0)))


# Views and their truth


@pytest.mark.parametrize("angle", [0.0, 37.0, 90.0])
@pytest.mark.parametrize(("scale", "mirrored"), [(1.0, 1.0), (0.6, -1.0), (1.8, 1.0)])
def test_a_views_blobs_lie_where_its_truth_says(angle: float, scale: float, mirrored: float, rng: np.random.Generator) -> None:
    picture = bright_disks(rng)
    view = shift(128.3, 160.7) @ similarity(scale, angle) @ np.diag([mirrored, 1.0, 1.0]) @ shift(-79.5, -79.5)
    sample, index = samples._look(picture.pixels, picture.crowd, view, rng, 160)
    whole = (
        (sample.crowd.yx > 2 * sample.crowd.radius[:, None]) & (sample.crowd.yx < 159 - 2 * sample.crowd.radius[:, None])
    ).all(1)
    assert whole.sum() >= 4
    own = picture.crowd.only(index[whole])
    np.testing.assert_allclose(apply_transform(view, sample.crowd.yx[whole]), own.yx, atol=1e-9)
    np.testing.assert_allclose(sample.crowd.radius[whole], own.radius / scale)
    crowd = inner(sample.crowd, 160)
    assert len(crowd) >= 4
    apart = [np.linalg.norm(seen_at(sample.image, c, r) - c) for c, r in zip(crowd.yx, crowd.radius, strict=True)]
    assert np.median(apart) < 0.5
    assert max(apart) < 1.5


def test_the_truth_of_a_drawn_crowd_lies_within_its_picture(rng: np.random.Generator) -> None:
    blobs = 0
    for _ in range(40):
        pixels, crowd, drawn = samples._source(DRAWN_ONLY, rng, 64)
        low, high = crowd.yx.min(initial=0), (crowd.yx - pixels.shape[:2]).max(initial=-0.5)
        assert low >= -0.5
        assert high <= -0.5
        blobs += len(crowd) * drawn
    assert blobs > 100


@pytest.mark.usefixtures("_never_drawn")
def test_peaks_of_the_heat_map_are_the_crowds_centers(rng: np.random.Generator) -> None:
    pool, blobs = pool_of(bright_disks(rng)), 0
    for seed in range(8):
        sample = samples.make_sample(pool, np.random.default_rng(seed), 128)
        inside = sample.crowd.only(((sample.crowd.yx > 1) & (sample.crowd.yx < 126)).all(axis=1))
        peaks = (sample.heat == maximum_filter(sample.heat, 3)) & (sample.heat > 0.6)
        peaks[:2] = peaks[-2:] = peaks[:, :2] = peaks[:, -2:] = False
        deep = inside.only(((inside.yx > 3) & (inside.yx < 124)).all(axis=1))
        apart = np.linalg.norm(deep.yx[:, None] - np.argwhere(peaks)[None], axis=2)
        assert (apart.min(axis=1, initial=99) < 0.75).all()
        near = np.linalg.norm(np.argwhere(peaks)[:, None] - inside.yx[None], axis=2)
        assert (near.min(axis=1, initial=99) < 0.75).all()
        row, column = np.round(deep.yx).astype(int).T
        np.testing.assert_allclose(sample.radius[row, column], deep.radius, rtol=1e-6)
        blobs += len(deep)
    assert blobs > 30


def test_two_views_share_blobs_that_one_affine_transform_joins(rng: np.random.Generator) -> None:
    shared_blobs = 0
    for seed in range(12):
        first, second, shared = samples.make_pair(DRAWN_ONLY, np.random.default_rng(seed), 128)
        assert len(shared) <= samples.EACH_VIEW
        assert len(set(shared[:, 0].tolist())) == len(set(shared[:, 1].tolist())) == len(shared)
        a, b = first.crowd.only(shared[:, 0]), second.crowd.only(shared[:, 1])
        whole = np.all([(c.yx > 2 * c.radius[:, None]) & (c.yx < 127 - 2 * c.radius[:, None]) for c in (a, b)], axis=(0, 2))
        a, b = a.only(whole), b.only(whole)
        if len(a) < 5:
            continue
        design = np.column_stack([a.yx, np.ones(len(a))])
        affine, *_ = np.linalg.lstsq(design, b.yx, rcond=None)
        np.testing.assert_allclose(design @ affine, b.yx, atol=1e-6)
        np.testing.assert_allclose(b.radius, a.radius * abs(np.linalg.det(affine[:2])) ** 0.5, rtol=1e-9)
        assert np.abs(affine - np.eye(3, 2)).max() > 1e-3  # the views differ
        shared_blobs += len(a)
    assert shared_blobs > 60


@pytest.mark.usefixtures("_never_drawn")
def test_shared_blobs_are_seen_in_both_views(rng: np.random.Generator) -> None:
    pool, apart = pool_of(bright_disks(rng)), []
    for seed in range(12):
        pair = samples.make_pair(pool, np.random.default_rng(seed), 128)
        for which in (0, 1):
            crowd = inner(pair[which].crowd.only(pair[2][:, which]), 128)
            crowd = crowd.only(crowd.radius > 4)
            apart += [
                np.linalg.norm(seen_at(pair[which].image, c, r) - c) / r for c, r in zip(crowd.yx, crowd.radius, strict=True)
            ]
    assert len(apart) > 40
    assert np.median(apart) < 0.1
    assert np.quantile(apart, 0.9) < 0.4


def test_samples_and_pairs_are_drawn_again_from_their_seed(rng: np.random.Generator) -> None:
    pool = pool_of(bright_disks(rng), bright_disks(rng, channels=3))
    for make in (samples.make_sample, lambda *given: samples.make_pair(*given)[1]):
        first, again, other = (make(pool, np.random.default_rng(seed), 64) for seed in (1, 1, 2))
        for name in ("image", "heat", "radius", "weight"):
            np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        np.testing.assert_array_equal(first.crowd.yx, again.crowd.yx)
        assert not np.array_equal(first.image, other.image)


@pytest.mark.usefixtures("_never_drawn")
def test_median_radii_of_samples_spread_over_what_is_to_be_learned(rng: np.random.Generator) -> None:
    pool = pool_of(bright_disks(rng))
    typical = []
    for seed in range(60):
        crowd = samples.make_sample(pool, np.random.default_rng(seed), 64).crowd
        typical += [float(np.median(crowd.radius))] if len(crowd) else []
    assert min(typical) < 5
    assert max(typical) > 15
    assert samples.RADII_PX[0] <= min(typical) <= max(typical) <= samples.RADII_PX[1]


# Targets


def targets_of(*radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return heat, weight and radius of blobs 150 px from each other along row 60."""
    yx = np.array([[60.0, 75.0 + 150 * i] for i in range(len(radius))])
    return samples.targets(disks(yx, np.array(radius)), (121, 150 * len(radius)))


def test_too_large_blobs_are_background_and_those_in_between_are_not_judged() -> None:
    heat, weight, radius = targets_of(1.5, 10.0, 44.0, 60.0)
    np.testing.assert_array_equal(heat[60, 75::150], [0, 1, 0, 0])
    np.testing.assert_array_equal(radius[60, 75::150], [0, 10, 0, 0])
    assert (weight[60, 75::150] == 0).tolist() == [True, False, True, False]
    assert weight[60, 525] == 1
    assert (weight[heat > 0.01] > 0).all()
    assert weight[60, 75 + 300 + 60] == 1  # far from the blob in between


def test_a_blob_to_be_found_is_judged_even_beside_one_that_is_not() -> None:
    yx = np.array([[40.0, 40.0], [40.0, 52.0]])
    heat, weight, _ = samples.targets(disks(yx, np.array([44.0, 6.0])), (81, 120))
    assert heat[40, 52] == 1
    assert weight[40, 52] > 0
    assert weight[40, 40] == 0


def test_blobs_of_all_sizes_count_about_the_same() -> None:
    """The weight of a blob, Σ w Y, grows far less than its area."""
    heat, weight, _ = targets_of(3.0, 6.0, 12.0, 24.0)
    mass = (heat * weight).reshape(121, 4, 150).sum(axis=(0, 2))
    assert (np.diff(mass) > 0).all()
    assert mass[3] / mass[0] < 0.25 * (24 / 3) ** 2
    np.testing.assert_allclose(weight[60, 75::150], np.clip(8 / np.array([3, 6, 12, 24]), 0.4, 3), rtol=1e-6)


# What a stranger's image may be


@pytest.mark.usefixtures("_never_drawn")
@pytest.mark.parametrize(
    "picture",
    [
        CrowdImage("empty", np.full((90, 130), 17, np.uint8), NOTHING),
        CrowdImage("tiny", np.arange(15, dtype=np.uint8).reshape(3, 5), disks(np.array([[1.0, 2.0]]), np.array([1.0]))),
        CrowdImage("pixel", np.zeros((1, 1), np.uint8), NOTHING),
        CrowdImage("thin", np.zeros((2, 900, 3), np.uint8), disks(np.array([[0.5, 300.0]]), np.array([3.0]))),
        CrowdImage("vast blob", np.zeros((90, 130), np.uint8), disks(np.array([[40.0, 60.0]]), np.array([500.0]))),
        CrowdImage("color", np.zeros((90, 130, 3), np.uint8), disks(np.array([[40.0, 60.0]]), np.array([9.0]))),
    ],
    ids=lambda picture: picture.name,
)
def test_hostile_images_make_samples_like_any_other(picture: CrowdImage) -> None:
    for seed in range(6):
        first, second, shared = samples.make_pair(pool_of(picture), np.random.default_rng(seed), 64)
        for sample in (first, second, samples.make_sample(pool_of(picture), np.random.default_rng(seed), 64)):
            assert sample.image.shape == (64, 64, 3)
            for part in (sample.image, sample.heat, sample.radius, sample.weight):
                assert np.isfinite(part).all()
        assert shared.shape == (len(shared), 2)


# Samples without blobs


def test_background_keeps_away_from_every_blob(rng: np.random.Generator) -> None:
    """Blobs are painted white, each with the distance that is kept: no window shows any white."""
    crowd = disks(rng.uniform(0, 1, (9, 2)) * (400, 520), rng.uniform(4, 20, 9))
    y, x = np.mgrid[:400, :520]
    near = np.zeros((400, 520), bool)
    for (cy, cx), radius in zip(crowd.yx, crowd.radius, strict=True):
        near |= np.hypot(y - cy, x - cx) <= radius + samples.APART_PX
    image = CrowdImage("painted", (255 * near).astype(np.uint8), crowd)
    windows = [window for _ in range(40) if (window := samples.background(image, rng)) is not None]
    assert len(windows) > 20
    assert not any(window.any() for window in windows)
    assert all(min(window.shape) >= samples.BACKGROUND_PX[0] for window in windows)


def test_an_image_full_of_blobs_has_no_background(rng: np.random.Generator) -> None:
    full = CrowdImage("full", np.zeros((90, 130), np.uint8), disks(np.array([[45.0, 65.0]]), np.array([60.0])))
    assert samples.background(full, rng) is None


@pytest.mark.usefixtures("_never_drawn")
def test_textures_are_shown_and_hold_no_blobs(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "EMPTY", 1.0)
    columns = np.tile(np.where(np.arange(300) % 2, 0, 255).astype(np.uint8), (280, 1))
    pool = samples.Pool((), (), (columns,))
    drawn = [samples.make_sample(pool, np.random.default_rng(i), 64) for i in range(30)]
    assert all(len(sample.crowd) == 0 and not sample.heat.any() and (sample.weight == 1).all() for sample in drawn)
    monkeypatch.setattr(samples, "draw_crowd", lambda *_: (np.zeros((64, 64), np.float32), NOTHING))
    lively = [samples.make_sample(pool, np.random.default_rng(i), 64).image.mean(axis=2).std() > 0.2 for i in range(30)]
    assert 2 <= sum(lively) <= 25  # about a third are the texture


def test_patterns_are_bright_and_dark_and_hold_no_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [samples.draw_pattern(np.random.default_rng(seed), (90, 110)) for seed in range(40)]
    assert {image.shape for image in drawn} == {(90, 110)}
    assert all(np.isfinite(image).all() and image.std() > 0.01 for image in drawn)
    striped = 0
    for image in drawn:
        dy, dx = np.gradient(gaussian_filter(image, 1.0))
        yy, xx, yx = (float((a * b).mean()) for a, b in ((dy, dy), (dx, dx), (dy, dx)))
        striped += np.hypot(yy - xx, 2 * yx) > 0.5 * (yy + xx)  # coherence: 1 where all gradients are parallel
    assert striped > 15
    monkeypatch.setattr(samples, "EMPTY", 1.0)
    made = [samples.make_sample(DRAWN_ONLY, np.random.default_rng(seed), 64) for seed in range(20)]
    assert all(not len(sample.crowd) and not sample.heat.any() for sample in made)


def test_half_of_the_views_are_stretched_and_some_show_narrow_blobs_side_by_side(rng: np.random.Generator) -> None:
    ratios = []
    for _ in range(400):
        view = samples._draw_view(np.zeros((300, 300), np.uint8), NOTHING, rng, 64, drawn=False)
        large, small = np.linalg.svd(view[:2, :2], compute_uv=False)
        ratios.append(large / small)
    assert 0.35 < np.mean(np.array(ratios) < 1.001) < 0.5
    assert 1.1 < np.percentile(ratios, 70) < 1.5
    assert 0.05 < np.mean(np.array(ratios) > 1.6) < 0.15
    for _ in range(20):
        narrow = samples._squeeze(rng)
        np.testing.assert_allclose(np.linalg.det(narrow), 1.0)
        large, small = np.linalg.svd(narrow[:2, :2], compute_uv=False)
        assert 1 <= large / small <= samples.NARROWEST


def test_exposures_keep_three_channels_and_gray_stays_gray_in_them(rng: np.random.Generator) -> None:
    gray = bright_disks(rng).pixels.astype(np.float32) / 255
    color = bright_disks(rng, channels=3).pixels.astype(np.float32) / 255
    negative, colorless = 0, 0
    for seed in range(40):
        seen = samples.photograph(gray, np.random.default_rng(seed))
        np.testing.assert_array_equal(seen[..., 0], seen[..., 2])
        negative += bool(np.corrcoef(seen[..., 0].ravel(), gray.ravel())[0, 1] < -0.5)
        seen = samples.photograph(color, np.random.default_rng(seed))
        assert seen.shape == color.shape
        assert -0.5 <= seen.min() <= seen.max() <= 2
        colorless += bool(np.array_equal(seen[..., 0], seen[..., 2]))
    assert 3 < negative < 20
    assert 3 < colorless < 20


# Batches and losses


def test_batches_stack_images_and_maps(rng: np.random.Generator) -> None:
    made = [samples.make_sample(pool_of(bright_disks(rng)), np.random.default_rng(i), 64) for i in range(3)]
    batch = samples.collate(made)
    assert batch.image.shape == (3, 3, 64, 64)
    for i, sample in enumerate(made):
        np.testing.assert_array_equal(batch.image[i].permute(1, 2, 0), sample.image)
        for stacked, own in zip(batch[1:], (sample.heat, sample.radius, sample.weight), strict=True):
            np.testing.assert_array_equal(stacked[i, 0], own)


def pairs_with_blobs(count: int) -> list[tuple[samples.Sample, samples.Sample, np.ndarray]]:
    made = (samples.make_pair(DRAWN_ONLY, np.random.default_rng(i), 64) for i in range(200))
    return list(islice((pair for pair in made if len(pair[2]) > 2), count))


def test_batches_of_pairs_hold_first_views_then_second_ones_and_who_is_who() -> None:
    pairs = pairs_with_blobs(3)
    batch = samples.collate_pairs(pairs)
    assert len(batch.image) == 6
    start = 0
    for i, (first, second, shared) in enumerate(pairs):
        np.testing.assert_array_equal(batch.image[i].permute(1, 2, 0), first.image)
        np.testing.assert_array_equal(batch.image[i + 3].permute(1, 2, 0), second.image)
        own = slice(start, start + len(shared))
        assert (batch.pair[own] == i).all()
        np.testing.assert_allclose(batch.yx[own], first.crowd.yx[shared[:, 0]], rtol=1e-6)
        np.testing.assert_allclose(batch.other_yx[own], second.crowd.yx[shared[:, 1]], rtol=1e-6)
        np.testing.assert_allclose(batch.blob_radius[own], first.crowd.radius[shared[:, 0]], rtol=1e-6)
        np.testing.assert_allclose(batch.other_radius[own], second.crowd.radius[shared[:, 1]], rtol=1e-6)
        start += len(shared)
    assert start == len(batch.pair)


def test_the_second_stages_loss_adds_half_the_contrast_of_the_views() -> None:
    network, batch = CADSN(TINY).eval(), samples.collate_pairs(pairs_with_blobs(2))
    single = samples.batch_loss(network, samples.Batch(*batch[:4]))
    first, second = network(batch.image[:2]).fused, network(batch.image[2:]).fused
    e = network.embeddings(first, batch.yx, batch.blob_radius, batch.pair)
    positive = network.embeddings(second, batch.other_yx, batch.other_radius, batch.pair)
    contrast = contrast_loss(e, positive, neighbors(batch.yx, batch.blob_radius, batch.pair))
    assert contrast > 0.01
    torch.testing.assert_close(samples.pair_loss(network, batch), single + CONTRAST * contrast, atol=1e-4, rtol=1e-4)


def test_views_that_share_no_blob_are_judged_as_single_ones() -> None:
    empty = CrowdImage("empty", np.full((90, 130), 17, np.uint8), NOTHING)
    sample = samples.make_sample(samples.Pool(((empty,),), (1.0,)), np.random.default_rng(3), 64)
    batch = samples.collate_pairs([(sample, sample, np.zeros((0, 2), np.int64))])
    network = CADSN(TINY).eval()
    torch.testing.assert_close(samples.pair_loss(network, batch), samples.batch_loss(network, samples.Batch(*batch[:4])))


def test_every_parameter_learns_in_the_second_stage() -> None:
    network = CADSN(replace(TINY, fusion="attention"))
    samples.pair_loss(network, samples.collate_pairs(pairs_with_blobs(2))).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


# Training


def mean_loss(network: CADSN, pool: samples.Pool) -> float:
    """Return the loss on samples that training does not see."""
    batch = samples.collate([samples.make_sample(pool, np.random.default_rng([9, i]), 64) for i in range(12)])
    with torch.no_grad():
        return float(samples.batch_loss(network.eval(), batch))


def test_training_goes_through_two_stages_and_leaves_weights_that_found_more(tmp_path: Path, rng: np.random.Generator) -> None:
    train = pytest.importorskip("fiducial.train.blobs", reason="extra `train` is not installed")
    loop = pytest.importorskip("fiducial.train.loop")
    schedule = loop.Schedule(80, batch=4, learning_rate=3e-3, warmup=4, average=0.9, precision="32-true", workers=0)
    pool = pool_of(bright_disks(rng))
    trained = train.train_blobs(pool, TINY, schedule, tmp_path / "run", {"data": "drawn"}, size=64)
    torch.manual_seed(0)
    assert mean_loss(trained, pool) < 0.85 * mean_loss(CADSN(TINY), pool)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"warmup", "contrast", "weights.safetensors"}
    for stage, steps in (("warmup", 80), ("contrast", 8)):
        assert (tmp_path / "run" / stage / "log.csv").read_text().splitlines()[-1].startswith(f"{steps},")
    loaded = weights.load("blobs", tmp_path / "run" / "weights.safetensors")
    assert isinstance(loaded.network, CADSN)
    assert (loaded.network.config, loaded.card) == (TINY, {"data": "drawn"})
    image = torch.rand(1, 3, 37, 70)
    torch.testing.assert_close(loaded.network(image).logits, trained.eval()(image).logits, atol=0.05, rtol=0.05)


def test_a_start_of_another_configuration_is_refused(tmp_path: Path) -> None:
    train = pytest.importorskip("fiducial.train.blobs", reason="extra `train` is not installed")
    loop = pytest.importorskip("fiducial.train.loop")
    with pytest.raises(ValueError, match="a start must have the configuration"):
        train.train_blobs(DRAWN_ONLY, TINY, loop.Schedule(1), tmp_path, {}, start=CADSN(replace(TINY, pooling=False)))
