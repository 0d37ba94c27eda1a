"""Samples of places carry the places they were cut from, look as other exposures do, and can be learned."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fiducial import augment
from fiducial.coords import apply_transform, image_center_yx, shift, similarity
from fiducial.geometry import local_contrast
from fiducial.metrics import box_iou
from fiducial.places import samples
from fiducial.places.network import FTFY, Config, TripletNet, slim

TINY = Config(
    channels=(8,) * 13, filters=16, head=(16,) * 6, dropout=0, last_dropout=0, query_px=32, block_px=64, box_px=(16.0, 40.0)
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw a texture with detail at every scale, no two places of which are alike."""
    field = sum(
        augment.smooth_field(rng, size, cells) * weight for cells, weight in ((6, 0.5), (14, 0.7), (40, 1.0), (90, 0.6))
    )
    return np.clip(128 + 45 * field, 0, 255).astype(np.uint8)


@pytest.fixture
def pool(rng: np.random.Generator) -> samples.Pool:
    return samples.make_pool((texture(rng, (300, 411)), texture(rng, (340, 290))))


def test_pools_hold_images_reduced_by_halves(rng: np.random.Generator) -> None:
    image = np.repeat(np.repeat(texture(rng, (50, 65)), 2, axis=0), 2, axis=1)
    ((full, half, quarter),) = samples.make_pool((image,)).pyramids
    np.testing.assert_array_equal(full, image)
    np.testing.assert_array_equal(half, image[::2, ::2])
    assert quarter.shape == (25, 32)


@given(st.sampled_from(samples.IOU_RANGES), st.floats(10, 200), st.integers(0, 10**6))
def test_shifts_bring_the_iou_into_the_range_asked_for(bounds: tuple[float, float], side: float, seed: int) -> None:
    dy, dx = samples.shifted(np.random.default_rng(seed), side, bounds)
    square = np.array([[0.0, 0.0, side, side]])
    assert bounds[0] - 1e-9 <= box_iou(square, square + np.array([dy, dx, dy, dx]))[0, 0] <= bounds[1]


def test_shifts_go_every_way(rng: np.random.Generator) -> None:
    shifts = [samples.shifted(rng, 1.0, (0.3, 0.5)) for _ in range(50)]
    assert {(dy > 0, dx > 0) for dy, dx in shifts} == {(a, b) for a in (True, False) for b in (True, False)}


@given(st.integers(0, 10**6), st.floats(29, 240))
def test_a_group_lies_inside_its_image_in_sets_of_falling_iou(seed: int, side: float) -> None:
    group = samples.draw_group(np.random.default_rng(seed), (300, 411), side)
    low, high = group - side / 2, group + side / 2
    assert (low >= -1).all()  # half a pixel beyond the image at most
    assert (high <= (300, 411)).all()
    squares = np.concatenate([low, high], axis=1)
    iou = box_iou(squares[:1], squares)[0]
    free = ((low > 0) & (high < (299, 410))).all(axis=1)  # what was not moved back inside
    for i, (least, most) in enumerate(samples.IOU_RANGES):
        own = slice(1 + i * samples.SHIFTS, 1 + (i + 1) * samples.SHIFTS)
        assert (iou[own][free[own]] >= least - 1e-9).all()
        assert (iou[own][free[own]] <= most).all()
    assert len(group) == 1 + 3 * samples.SHIFTS


@given(st.integers(0, 10**6), st.floats(60, 300))
def test_a_window_holds_its_group_and_stays_inside_the_image(seed: int, window: float) -> None:
    rng = np.random.default_rng(seed)
    group, side = rng.uniform(150, 180, 5), 30.0
    center = samples._window_center(rng, group, window, 400, side)
    assert window / 2 <= center <= 400 - window / 2
    assert center - window / 2 <= group.min() - side / 2 + 1e-9
    assert center + window / 2 >= group.max() + side / 2 - 1e-9


def test_an_image_seen_as_it_is_is_the_image(pool: samples.Pool) -> None:
    image = pool.pyramids[0][0]
    seen = samples.render(pool.pyramids[0], np.eye(3), (300, 411), 1.0)
    np.testing.assert_allclose(seen, image / 255, atol=1e-6)


def test_a_source_reduced_by_a_factor_has_lost_what_is_finer() -> None:
    x = np.arange(400)
    for period, least, most in ((5, 0.0, 0.15), (100, 0.9, 1.05)):
        image = np.broadcast_to(127 + 100 * np.sin(2 * np.pi * x / period), (300, 400)).astype(np.uint8)
        (pyramid,) = samples.make_pool((image,)).pyramids
        full, reduced = (samples.render(pyramid, np.eye(3), (300, 400), factor)[20:-20, 20:-20] for factor in (1.0, 10.0))
        assert least <= reduced.std() / full.std() <= most
        again = samples.render(pyramid, np.diag([4.0, 4.0, 1.0]), (75, 100), 4.0)
        np.testing.assert_array_equal(again, samples.render(pyramid, np.diag([4.0, 4.0, 1.0]), (75, 100), 1.0))


def test_what_lies_outside_the_image_is_undefined(pool: samples.Pool) -> None:
    seen = samples.render(pool.pyramids[0], shift(-10, 20), (100, 411), 1.0)
    np.testing.assert_array_equal(np.isnan(seen[:, 0]), np.arange(100) < 9)
    np.testing.assert_array_equal(np.isnan(seen[50]), np.arange(411) > 391)


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_drift_moves_what_is_seen_by_pixels_of_the_view_along_its_axes(scale: float) -> None:
    image = np.ascontiguousarray(np.broadcast_to(np.arange(250, dtype=np.uint8), (200, 250)))
    (pyramid,) = samples.make_pool((image,)).pyramids
    for turned, (dy, dx) in ((0, (0, 4)), (90, (-4, 0)), (60, (0, 8)), (180, (0, -4))):  # each is 4 to the right of the image
        view = samples._view((100.0, 120.0), scale, turned, np.eye(3), (40, 40))
        drift = np.broadcast_to(np.float32([dy, dx]), (40, 40, 2)).astype(np.float32)
        still, moved = (samples.render(pyramid, view, (40, 40), 1.0, d)[8:-8, 8:-8] for d in (None, drift))
        np.testing.assert_allclose((moved - still) * 255, 4 * scale, atol=0.6)


def blob_yx(image: np.ndarray) -> np.ndarray:
    """Return the center of mass of a bright spot on black."""
    weight = np.nan_to_num(image)
    assert weight.max() > 0.2
    return np.array([(axis * weight).sum() for axis in np.mgrid[: image.shape[0], : image.shape[1]]]) / weight.sum()


@given(
    st.floats(40, 160), st.sampled_from([1.0, 2.0, 4.0]), st.floats(-180, 180), st.floats(-30, 30), st.sampled_from([-1.0, 1.0])
)
def test_a_landmark_of_a_patch_lies_in_the_block_where_the_box_says(
    side: float, factor: float, turned: float, turn: float, mirrored: float
) -> None:
    mirror, center = np.diag([mirrored, 1.0, 1.0]), np.array([260.0, 330.0])
    landmark, size, block = center + np.array([0.2, -0.15]) * side, (64, 64), (128, 128)
    y, x = np.mgrid[:520, :610]
    spot = 250 * np.exp(-((y - landmark[0]) ** 2 + (x - landmark[1]) ** 2) / (2 * (side / 14) ** 2))
    (pyramid,) = samples.make_pool((spot.astype(np.uint8),)).pyramids
    to_image = samples._view((250.0, 337.0), 2.5 * side / 128, turned, mirror, block)
    view = samples._view((center[0], center[1]), side / 64, turned + turn, mirror, size)
    y, x, h, w, angle = samples.box_of(np.linalg.inv(to_image) @ view, size)
    seen = blob_yx(samples.render(pyramid, view, size, 1.0))
    offset = apply_transform(similarity(h / 64, float(np.rad2deg(angle))), (seen - image_center_yx(size))[None])[0]
    assert h == w == pytest.approx(128 / 2.5)
    assert np.rad2deg(angle) == pytest.approx(turn, abs=1e-6)
    found = blob_yx(samples.render(pyramid, to_image, block, factor))
    np.testing.assert_allclose(found, np.array([y, x]) + offset, atol=0.35)


def seen_in_block(sample: samples.Sample, box: np.ndarray, patch: np.ndarray) -> float:
    """Return the correlation, without its sign, of a patch with what the block shows under a box."""
    to_block = shift(box[0], box[1]) @ similarity(box[2] / len(patch), float(np.rad2deg(box[4])))
    to_block = to_block @ shift(*(-v for v in image_center_yx(patch.shape)))
    under = cv2.warpAffine(sample.source, to_block[:2], patch.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    a, b = (cv2.GaussianBlur(image, (0, 0), 2).ravel() for image in (patch, under))
    return abs(float(np.corrcoef(a, b)[0, 1]))


def test_patches_look_like_their_block_under_their_boxes_and_nowhere_else(pool: samples.Pool) -> None:
    right, moved, turned = [], [], []
    for seed in range(24):
        sample = samples.make_sample(pool, slim(), np.random.default_rng(seed))
        assert np.isnan(sample.boxes[-1]).all()  # the stranger
        for box, patch in zip(sample.boxes, sample.patches, strict=True):
            if np.isfinite(box).all():
                right.append(seen_in_block(sample, box, patch))
                moved.append(seen_in_block(sample, box + np.eye(5)[0] * box[2] / 3, patch))
                turned.append(seen_in_block(sample, box * [1, 1, 1, 1, -1], patch))
    assert len(right) > 60
    assert np.median(right) > 0.7
    assert np.median(moved) < 0.25
    assert np.median(turned) < 0.4


def test_boxes_keep_to_what_the_network_learns(pool: samples.Pool) -> None:
    config = slim()
    boxes = np.concatenate([samples.make_sample(pool, config, np.random.default_rng(i)).boxes for i in range(30)])
    y, x, h, w, angle = boxes[np.isfinite(boxes[:, 0])].T
    assert np.abs(np.rad2deg(angle)).max() <= config.turn_deg
    np.testing.assert_allclose(h, w)
    assert 0.75 * config.box_px[0] < h.min() < 45
    assert 65 < h.max() < 1.3 * config.box_px[1]
    assert min(y.min(), x.min()) > 0
    assert max(y.max(), x.max()) < config.block_px - 1


def test_samples_are_drawn_again_from_their_seed(pool: samples.Pool) -> None:
    first, again, other = (samples.make_sample(pool, TINY, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for name in ("source", "patches", "boxes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.source, other.source)
    assert np.isfinite(first.source).all()
    assert np.isfinite(first.patches).all()


def test_a_stranger_is_not_in_the_block(rng: np.random.Generator) -> None:
    one, two = texture(rng, (300, 411)), texture(rng, (340, 290))
    pool = samples.make_pool((one, one, two))  # an image may count twice
    pyramid = pool.pyramids[0]
    for window in (60.0, 150.0, 320.0, 900.0):  # the last covers all of the image
        for _ in range(20):
            shown, center = samples._stranger(pool, rng, pyramid, 40.0, (150.0, 200.0), window)
            same = shown[0] is one
            assert not (same and np.abs(center - (150, 200)).max() < (window + 40) / 2)
            assert same or window > 100


def numbered_sample(number: int) -> samples.Sample:
    n = samples.PATCHES + 1
    patches = np.broadcast_to(10 * number + np.arange(n)[:, None, None], (n, 8, 8)).astype(np.float32)
    boxes = np.full((n, 5), np.nan)
    boxes[:3] = 100 * number + np.arange(3)[:, None] + np.arange(5) / 10
    return samples.Sample(np.full((16, 16), number, np.float32), patches, boxes)


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_a_batch_pairs_blocks_with_their_patches_and_with_strangers(blocks: int) -> None:
    batch = samples.collate([numbered_sample(i) for i in range(blocks)])
    pairs = [
        (int(batch.source[s].mean()), *divmod(int(batch.query[q].mean()), 10))
        for s, q in zip(batch.source_index, batch.query_index, strict=True)
    ]
    own = [(b, i) for b, other, i in pairs if b == other]
    assert own == [(b, i) for b in range(blocks) for i in range(samples.PATCHES + 1)]
    strangers = [b for b, other, _ in pairs if b != other]
    assert strangers == [b for b in range(blocks) for _ in range(2) if blocks > 2]
    for (b, other, i), present, box in zip(pairs, batch.present, batch.box, strict=True):
        assert present == (b == other and i < 3)
        if present:
            np.testing.assert_allclose(box, 100 * b + i + np.arange(5) / 10, rtol=1e-6)
    assert torch.isfinite(batch.box).all()


@pytest.mark.parametrize("angle", [0.0, 10.0, -30.0, 45.0])
def test_a_turned_frame_keeps_the_area_that_two_squares_share(angle: float) -> None:
    c, s = abs(np.cos(np.deg2rad(angle))), abs(np.sin(np.deg2rad(angle)))
    lost = (c + s - 1) ** 2 / (2 * s * c) if angle else 0.0  # four right triangles at the corners
    frame = samples.turned_frame(101, angle)
    assert frame.mean() == pytest.approx(1 - lost, abs=0.01)
    np.testing.assert_array_equal(frame, np.rot90(frame))


def test_looks_stay_finite_and_float_even_of_a_constant_image(rng: np.random.Generator) -> None:
    for image in (texture(rng, (60, 75)).astype(np.float32) / 255, np.full((60, 75), 0.5, np.float32)):
        for seed in range(30):
            seen = samples.change_look(image, np.random.default_rng(seed))
            assert seen.dtype == np.float32
            assert seen.shape == (60, 75)
            assert np.isfinite(seen).all()


def test_most_looks_keep_what_is_to_be_seen(rng: np.random.Generator) -> None:
    image = texture(rng, (60, 75)).astype(np.float32) / 255
    looks = [samples.change_look(image, np.random.default_rng(seed)) for seed in range(40)]
    alike = np.array([np.corrcoef(image.ravel(), look.ravel())[0, 1] for look in looks])
    assert np.median(np.abs(alike)) > 0.8
    assert 0.05 < (alike < -0.5).mean() < 0.4  # some are inverted


def test_an_anchor_looks_like_its_positive_and_not_like_its_negative(pool: samples.Pool) -> None:
    alike = []
    for seed in range(150):
        a, p, n = (
            cv2.GaussianBlur(v, (0, 0), 3).ravel() for v in samples.make_triplet(pool, slim(), np.random.default_rng(seed))
        )
        alike.append([abs(np.corrcoef(a, other)[0, 1]) for other in (p, n)])
    clear = np.array([pair for pair in alike if max(pair) > 0.5])  # not too noisy, nor another tone curve
    assert len(clear) > 40
    assert (clear[:, 0] > clear[:, 1]).mean() > 0.93


def test_a_triplet_network_learns_from_a_batch_in_its_order(pool: samples.Pool) -> None:
    stacked = samples.collate_triplets(
        [np.full((3, 32, 32), i, np.float32) + np.float32([[[0]], [[10]], [[20]]]) for i in (1, 2)]
    )
    assert [part.mean(dim=(1, 2, 3)).tolist() for part in stacked] == [[1, 2], [11, 12], [21, 22]]
    network = TripletNet(TINY)
    batch = samples.collate_triplets([samples.make_triplet(pool, TINY, np.random.default_rng(i)) for i in range(6)])
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    values = []
    for _ in range(25):
        values.append(samples.triplet_batch_loss(network, batch))
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.5 * values[0]


def test_a_tiny_network_learns_a_batch_by_heart(pool: samples.Pool) -> None:
    network = FTFY(TINY)
    batch = samples.collate([samples.make_sample(pool, TINY, np.random.default_rng(i)) for i in range(3)])
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    values = []
    for _ in range(40):
        values.append(samples.batch_loss(network, batch))
        optimizer.zero_grad()
        values[-1].backward()
        optimizer.step()
    assert not [name for name, p in network.named_parameters() if p.grad is None]
    assert values[-1] < 0.4 * values[0]


# What samples are drawn with


def test_a_negative_of_a_negative_is_the_image(rng: np.random.Generator) -> None:
    image = rng.random((5, 7)).astype(np.float32)
    np.testing.assert_allclose(augment.invert(augment.invert(image)), image, atol=1e-6)
    assert augment.invert(np.full((2, 2), 0.3, np.float32))[0, 0] == pytest.approx(0.7)


def test_the_gradient_look_sees_edges_whatever_their_sign() -> None:
    step = np.zeros((40, 60), np.float32)
    step[:, 30:] = 0.6
    seen = augment.gradient_look(step, 1.0)
    assert set(seen.argmax(axis=1).tolist()) <= {29, 30}
    assert seen[:, :20].max() < 1e-3
    assert 0.8 < seen.max() < 1.5
    np.testing.assert_allclose(augment.gradient_look(augment.invert(step), 1.0), seen, atol=1e-5)


def test_tones_depend_on_intensity_alone(rng: np.random.Generator) -> None:
    ramp = np.linspace(-0.2, 1.2, 500, dtype=np.float32)
    image = np.stack([ramp, ramp[::-1]])
    falling = 0
    for _ in range(20):
        out = augment.random_tones(image, rng)
        np.testing.assert_array_equal(out[0], out[1][::-1])
        assert out.min() == pytest.approx(0, abs=0.03)
        assert out.max() == pytest.approx(1, abs=0.03)
        assert np.abs(np.diff(out[0])).max() < 0.05  # no jumps
        falling += bool((np.diff(out[0]) < -1e-3).any())
    assert falling > 10


def test_charging_brightens_lines_and_patches_and_nothing_at_strength_zero(rng: np.random.Generator) -> None:
    image = rng.random((60, 80)).astype(np.float32)
    np.testing.assert_array_equal(augment.charge(image, rng, 0.0), image)
    added = augment.charge(image, rng, 1.0) - image
    line = np.median(added, axis=1)
    on_line = np.abs(added - line[:, None]) < 1e-5
    assert 0.4 < on_line.mean() < 0.98  # elsewhere a patch is charged
    assert line.std() > 0.02


def test_scan_drift_is_one_shift_for_each_line(rng: np.random.Generator) -> None:
    drift = augment.scan_drift(rng, (60, 33), 2.0)
    assert drift.shape == (60, 33, 2)
    np.testing.assert_array_equal(drift, np.broadcast_to(drift[:, :1], drift.shape))
    assert len(np.unique(drift[:, 0, 1])) == 60
    assert not augment.scan_drift(rng, (60, 33), 0.0).any()
    many = np.concatenate([augment.scan_drift(rng, (60, 4), 2.0)[:, 0] for _ in range(200)])
    assert 1.2 < many[:, 0].std() < 2.5
    assert 1.2 < many[:, 1].std() < 2.5
    slow, jittered = (np.diff(many[:, i].reshape(200, 60), axis=1).std() for i in (0, 1))
    assert jittered > 1.5 * slow  # jitter is along the line, not across


def test_shot_noise_grows_with_the_root_of_the_intensity(rng: np.random.Generator) -> None:
    for intensity, expected in ((1.0, 0.1), (0.25, 0.05), (0.0, 0.1 * math.sqrt(0.05))):
        image = np.full((200, 200), intensity, np.float32)
        noise = augment.add_shot_noise(image, rng, 0.1) - image
        assert noise.std() == pytest.approx(expected, rel=0.05)
        assert abs(noise.mean()) < 0.002


@given(st.floats(0.05, 20), st.floats(-3, 3))
def test_local_contrast_knows_neither_gain_nor_offset(gain: float, offset: float) -> None:
    image = np.random.default_rng(0).random((50, 70)).astype(np.float32)
    changed = (np.float32(gain) * image + np.float32(offset)).astype(np.float32)
    np.testing.assert_allclose(local_contrast(changed, 8.0), local_contrast(image, 8.0), atol=0.01)


def test_local_contrast_is_bounded_and_zero_where_there_is_none(rng: np.random.Generator) -> None:
    spike = np.zeros((80, 90), np.float32)
    spike[40, 45] = 1e4
    assert np.abs(local_contrast(spike, 10.0)).max() == 4
    np.testing.assert_allclose(local_contrast(np.full((30, 40), 0.5, np.float32), 10.0), 0, atol=0.01)
    noise = rng.standard_normal((200, 200)).astype(np.float32)
    noise[:, 100:] *= 3
    out = local_contrast(noise, 8.0)
    assert out[:, 140:].std() / out[:, :60].std() == pytest.approx(1, abs=0.15)
    assert out[:, 140:].std() == pytest.approx(1, abs=0.1)
