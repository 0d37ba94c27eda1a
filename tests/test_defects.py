"""BGNet computes what its equations say, its samples carry true correspondences, its decoder finds what is there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fiducial import augment, synth
from fiducial.confidence import Calibration
from fiducial.coords import cell_centers_yx, shift
from fiducial.datasets import InspectionPair
from fiducial.defects import samples
from fiducial.defects.inspector import decode
from fiducial.defects.loss import IGNORE, Truth, focal_loss, loss, matching_loss
from fiducial.defects.network import BGNet, Config, MatchedDifference, Output, paper, slim
from fiducial.defects.samples import CLASSES, Pool, Residual, batch_loss, collate, make_sample
from fiducial.layers import sinusoidal_encoding

TINY = Config(("a", "b"), detail_dim=16, semantic_dim=16, heads=2, decoder=(16, 8, 8, 8))
ABLATIONS = {
    "S1": replace(TINY, siamese=False),
    "S2": replace(TINY, attention=False, matching=False),
    "S3": replace(TINY, matching=False),
    "S4": replace(TINY, attention=False),
    "S5": TINY,
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_segments_any_size_and_learns(name: str) -> None:
    network = BGNet(ABLATIONS[name])
    sample, template = torch.rand(2, 1, 70, 101), torch.rand(2, 1, 70, 101)
    output = network(sample, template)
    assert output.logits.shape == (2, 3, 70, 101)
    assert (output.detail_log_p is not None) == ABLATIONS[name].matching * ABLATIONS[name].siamese
    cells = [torch.zeros(2, (-(-96 // s)) * (-(-128 // s)), dtype=torch.long) for s in (8, 32)]
    loss(output, Truth(torch.ones(2, 70, 101, dtype=torch.long), *cells)).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None]
    assert not silent


def test_the_papers_size_has_its_encoder() -> None:
    network = BGNet(paper(CLASSES))
    assert sum(p.numel() for p in network.encoder.parameters()) == 11_176_512 - 2 * 64 * 49  # one channel in, not three
    assert network.config.detail_layers < network.config.semantic_layers


def test_matched_features_are_subtracted_at_their_matched_place() -> None:
    """Equation 8, with features that match exactly after a shift by one cell."""
    block = MatchedDifference(replace(TINY, attention=False, threshold=0.5), 16, 16, 0)
    features = 20 * F.normalize(torch.randn(1, 16, 4, 6), dim=1)
    template = features.roll(1, dims=3)
    difference, log_p = block(template, features, (0, 0))
    assert log_p is not None
    assert difference.abs().max() < 1e-5  # every cell found its partner one column on
    lost = features.clone()
    lost[..., 2, 3] = -features[..., 2, 3]
    difference, _ = block(template, lost, (0, 0))
    torch.testing.assert_close(difference[..., 2, 3], lost[..., 2, 3])  # unmatched features stay as they are


def test_across_a_map_looks_at_what_self_attention_left_of_the_other() -> None:
    """Equations 5 and 6, two pairs of layers, without matching."""
    block = MatchedDifference(replace(TINY, matching=False), 16, 16, 2)
    template, sample = torch.randn(2, 1, 16, 3, 5)
    t, s = ((m + sinusoidal_encoding(16, (3, 5))).flatten(2).mT for m in (template, sample))
    for within, across in zip(block.self_attention, block.cross_attention, strict=True):
        own_t, own_s = within(t, t), within(s, s)
        t, s = across(own_t, own_s), across(own_s, own_t)
    difference, _ = block(template, sample, (0, 0))
    torch.testing.assert_close(difference.flatten(2).mT, s - t)


def test_a_sample_equal_to_its_template_has_no_plain_difference() -> None:
    network = BGNet(replace(TINY, attention=False, matching=False, sample_context=False)).eval()
    image = torch.rand(1, 1, 64, 64)
    nothing = network.fusion(tuple(torch.zeros_like(m[:1]) for m in _skips(network, image)))
    torch.testing.assert_close(network(image, image).logits, nothing)


def _skips(network: BGNet, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
    c1, c2, c3, c4, c5 = network.encoder(image)
    return c1, c2, network.detail.project(c3), c4, network.semantic.project(c5)


def test_the_position_code_starts_where_it_is_told() -> None:
    network = BGNet(replace(TINY, matching=False)).eval()
    a, b = torch.rand(2, 1, 1, 64, 96)
    assert not torch.equal(network(a, b).logits, network(a, b, (3, 1)).logits)


def test_focal_loss_is_equation_16_over_the_defect_pixels() -> None:
    logits, mask = torch.randn(1, 3, 4, 5), torch.tensor([[[0, 1, 2, 0, IGNORE]] * 4])
    p = logits.softmax(1)
    known = [(y, x) for y in range(4) for x in range(5) if mask[0, y, x] != IGNORE]
    own = torch.stack([p[0, mask[0, y, x], y, x] for y, x in known])
    torch.testing.assert_close(focal_loss(logits, mask), -((1 - own) ** 2 * own.log()).sum() / 8)


def test_matching_loss_looks_at_known_partners_only() -> None:
    log_p = torch.randn(1, 6, 4)
    partner = torch.tensor([[2, -1, 0, -1]])
    torch.testing.assert_close(matching_loss(log_p, partner), -(log_p[0, 2, 0] + log_p[0, 0, 2]) / 2)
    assert matching_loss(log_p, torch.full((1, 4), -1)) == 0


def test_the_loss_of_a_network_without_matching_is_focal_alone() -> None:
    logits, mask = torch.randn(1, 3, 32, 32), torch.ones(1, 32, 32, dtype=torch.long)
    truth = Truth(mask, torch.zeros(1, 16, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
    torch.testing.assert_close(loss(Output(logits, None, None), truth), focal_loss(logits, mask))


def test_each_scale_that_matches_adds_a_fifth_of_its_loss() -> None:
    """Equation 22."""
    logits, mask = torch.randn(1, 3, 32, 32), torch.randint(0, 3, (1, 32, 32))
    detail, semantic = (torch.randn(1, n, n).log_softmax(1) for n in (16, 1))
    partners = torch.randint(-1, 16, (1, 16)), torch.zeros(1, 1, dtype=torch.long)
    matched = matching_loss(detail, partners[0]) + matching_loss(semantic, partners[1])
    torch.testing.assert_close(
        loss(Output(logits, detail, semantic), Truth(mask, *partners)), focal_loss(logits, mask) + matched / 5
    )


def make_pool(rng: np.random.Generator) -> Pool:
    template = synth.draw_board(rng, (200, 220))
    sample, mask = synth.damage_board(template, rng, 8)
    pair = InspectionPair(
        "a", "g", sample, template, mask, np.zeros(mask.shape, np.int32), np.zeros((0, 4)), np.zeros(0, np.int64)
    )
    return Pool((pair,), (rng.integers(0, 255, (150, 300)).astype(np.uint8),))


def test_samples_are_drawn_anew_and_again_from_their_seed(rng: np.random.Generator) -> None:
    pool = make_pool(rng)
    first, again, other = (make_sample(pool, np.random.default_rng(seed), 96) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.sample, again.sample)
    assert not np.array_equal(first.sample, other.sample)
    batch = collate([first, other])
    assert batch.sample.shape == (2, 1, 96, 96)
    assert batch.detail_partner.shape == (2, 144)
    assert torch.isfinite(batch_loss(BGNet(slim(CLASSES)), batch))


def test_classes_of_ones_own_are_never_mixed_with_those_of_boards(rng: np.random.Generator) -> None:
    pool = make_pool(rng)
    (pair,) = pool.pairs
    scratches = replace(pair, mask=np.where(pair.mask > 0, 9, 0).astype(np.uint8))
    for seed in range(30):
        sample = make_sample(Pool((scratches,), (), boards=False), np.random.default_rng(seed), 96)
        assert set(np.unique(sample.mask)) <= {0, 9, IGNORE}


def test_further_damage_is_drawn_on_boards_and_on_nothing_else(rng: np.random.Generator) -> None:
    (pair,) = make_pool(rng).pairs
    clean = replace(pair, sample=255 - pair.template, template=255 - pair.template, mask=np.zeros_like(pair.mask))
    drawn, never = (
        [int(make_sample(Pool((clean,), (), boards=boards), np.random.default_rng([3, i]), 96).mask.max()) for i in range(40)]
        for boards in (True, False)
    )
    assert 0 < np.mean(np.array(drawn) > 0) < 1
    assert not any(never)


def test_partners_point_to_the_same_place_of_the_template(rng: np.random.Generator) -> None:
    """A template moved by two cells has its partners two cells on, wherever that is inside."""
    mapping = augment.map_from_matrix(shift(-16, 8), (64, 96))
    residual = Residual(shift(-16, 8), np.zeros_like(mapping))
    centers = cell_centers_yx((64, 96), 8)
    np.testing.assert_allclose(residual.template_yx(centers), centers + np.array([16, -8]))


def test_what_the_template_does_not_show_is_not_judged() -> None:
    residual = Residual(
        shift(0, 10), np.zeros((64, 64, 2), np.float32)
    )  # columns 0 to 9 of the sample lie left of the template
    blank = np.zeros((64, 64))
    mask = samples._finish([blank, blank], np.ones((64, 64), np.uint8), residual, np.random.default_rng(0)).mask
    np.testing.assert_array_equal(mask[:, :10], IGNORE)
    np.testing.assert_array_equal(mask[:, 10:], 1)


def probabilities() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p, kind = np.zeros((80, 110), np.float16), np.ones((80, 110), np.uint8)
    p[10:20, 30:50], kind[10:20, 30:50] = 0.9, 2
    kind[10:20, 30:34] = 1
    p[50:60, 5:12] = 0.7
    p[70:72, 100:103] = 1  # 6 pixels: too small
    return p, kind, p > 0


def test_decoding_returns_regions_best_first_with_the_class_of_most_votes() -> None:
    found = decode(*probabilities(), None, 0.0, 3.0)
    assert found.label.tolist() == [2, 1]
    assert found.area_px.tolist() == [200, 70]
    np.testing.assert_allclose(found.boxes_yxyx, [[6.5, 26.5, 22.5, 52.5], [46.5, 1.5, 62.5, 14.5]])
    np.testing.assert_allclose(found.score, [0.9 * 200 / 208, 0.7 * 70 / 78], rtol=1e-3)
    assert set(np.unique(found.mask[10:20, 30:50])) == {2}
    assert (found.mask > 0).sum() == 270


def test_a_mask_is_that_of_the_outline_and_the_box_holds_both() -> None:
    p, kind, outline = probabilities()
    outline[10:20, 30:40] = False  # half of one region is no part of it, and another is wider than it was taken for
    outline[50:60, 12:14] = True
    outline[50:60, 30:33] = True  # nothing suspect is near
    found = decode(p, kind, outline, None, 0.0, 0.0)
    assert found.area_px.tolist() == [100, 90]
    np.testing.assert_allclose(found.boxes_yxyx, [[9.5, 29.5, 19.5, 49.5], [49.5, 4.5, 59.5, 13.5]])
    np.testing.assert_array_equal(np.unique(found.mask[:, 30:40]), [0])
    assert set(np.unique(found.mask[50:60, 5:14])) == {1}
    np.testing.assert_allclose(found.score, [0.9 * 200 / 208, 0.7 * 70 / 78], rtol=1e-3)


def test_a_region_without_an_outline_keeps_its_own() -> None:
    p, kind, outline = probabilities()
    found = decode(p, kind, np.zeros_like(outline), None, 0.0, 0.0)
    assert found.area_px.tolist() == [200, 70]
    assert (found.mask > 0).sum() == 270


def test_decoding_drops_what_is_less_probable_from_mask_and_lists() -> None:
    calibration = Calibration(4.0, -3.5, (), 0)
    found = decode(*probabilities(), calibration, 0.5, 0.0)
    assert found.label.tolist() == [2]
    assert (found.mask > 0).sum() == 200


def test_decoding_nothing_is_empty_and_well_shaped() -> None:
    found = decode(np.zeros((70, 80), np.float16), np.ones((70, 80), np.uint8), np.zeros((70, 80), bool), None, 0.5, 5.0)
    assert found.boxes_yxyx.shape == (0, 4)
    assert len(found.label) == len(found.score) == len(found.area_px) == 0


def test_boxes_stay_inside_the_image() -> None:
    p = np.zeros((70, 80), np.float16)
    p[:9, 75:] = 1
    np.testing.assert_allclose(
        decode(p, np.ones(p.shape, np.uint8), p > 0, None, 0.0, 9.0).boxes_yxyx, [[-0.5, 65.5, 17.5, 79.5]]
    )
