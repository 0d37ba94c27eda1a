"""The keypoint network scores and describes as its equations say, and its loss asks for what repeats."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fiducial.coords import apply_transform, cell_centers_yx, shift
from fiducial.landmarks.loss import (
    CORRELATION,
    DELTA,
    NEAR_PX,
    STEP,
    TEMPERATURE,
    WINDOW,
    Truth,
    agreement_loss,
    contrast_loss,
    correlation_loss,
    huber_loss,
    loss,
    on_grid_of_a,
)
from fiducial.landmarks.network import STRIDE, Config, KeypointNet, Output, confidence, paper, peakiness, slim
from fiducial.layers import DeformableConv2d

TINY = Config(channels=(4, 6, 6, 8, 8, 10), deformable_channels=6, context=(12, 14), descriptor=8)
DOCS = Path(__file__).parents[1] / "docs"
SIZE = (50, 70)  # no multiple of any stride


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def lively(config: Config = TINY) -> KeypointNet:
    """Return a network in eval mode whose answers differ clearly from place to place, and normalizations by channel."""
    made = KeypointNet(config).eval()
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, torch.nn.Conv2d | DeformableConv2d):
                module.weight.mul_(2.5)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return made


def make_truth(
    size: tuple[int, int],
    matrix: np.ndarray | None = None,
    points_yx: np.ndarray | None = None,
    *,
    near: bool = True,
    n: int = 1,
) -> Truth:
    """Return the truth of views that show the scene all over."""
    matrix = np.eye(3) if matrix is None else matrix
    points = np.zeros((1, 2)) if points_yx is None else points_yx
    everywhere = torch.ones(n, *size, dtype=torch.bool)
    both = (torch.from_numpy(p).float().expand(n, -1, -1) for p in (points, apply_transform(matrix, points)))
    matrices = torch.from_numpy(matrix).expand(n, 3, 3)
    return Truth(matrices, everywhere, everywhere, *both, torch.full((n,), near))


# The network


def test_peakiness_is_what_equations_4_to_6_say() -> None:
    y = 3 * torch.randn(2, 3, 4, 5)
    softplus = lambda v: math.log1p(math.exp(v))  # noqa: E731
    expected = torch.zeros(2, 1, 4, 5)
    for b, i, j in np.ndindex(2, 4, 5):
        gammas = []
        for c in range(3):
            own = y[b, c, i, j].item()
            around = y[b, c, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            gammas.append(softplus(own - around.mean().item()) * softplus(own - y[b, :, i, j].mean().item()))
        expected[b, 0, i, j] = max(gammas)
    torch.testing.assert_close(peakiness(y), expected)


def test_each_weight_of_equation_7_picks_its_scale() -> None:
    network = lively()
    image, kept = torch.randn(1, 1, *SIZE), {}
    network.cnn[3].register_forward_hook(lambda *given: kept.update(cnn3=given[2]))
    network.cnn[5].register_forward_hook(lambda *given: kept.update(cnn5=given[2]))
    network.dcn[2].register_forward_hook(lambda *given: kept.update(dcn2=given[2][..., 3:-3, 3:-3]))
    parts = []
    for i, name in enumerate(("cnn3", "cnn5", "dcn2")):
        network.config = replace(TINY, scale_weights=tuple(float(i == j) for j in range(3)))
        parts.append(network(image).score)
        gamma = F.interpolate(peakiness(kept[name]), size=(64, 80), mode="bilinear")
        torch.testing.assert_close(parts[i], gamma[:, 0, :50, :70])
        assert parts[i].std() > 0.01
    network.config = TINY
    torch.testing.assert_close(network(image).score, 0.1 * parts[0] + 0.3 * parts[1] + 0.6 * parts[2])


def test_confidence_grows_with_the_score_from_0_and_never_reaches_1() -> None:
    score = torch.linspace(0, 30, 500, dtype=torch.float64)
    mapped = confidence(score)
    assert mapped[0] == 0
    assert (mapped.diff() > 0).all()
    assert mapped[-1] < 1
    torch.testing.assert_close(confidence(torch.tensor([math.log(2.5)])), torch.tensor([0.6]))


@pytest.mark.parametrize("size", [SIZE, (33, 47), (64, 48)])
def test_an_image_of_any_size_is_seen_as_its_reflection_beyond_it(size: tuple[int, int]) -> None:
    network, image = lively(), torch.randn(2, 1, *size)
    padded = F.pad(image, (0, -size[1] % 16, 0, -size[0] % 16), mode="reflect")
    own, whole = network(image), network(padded)
    rows, columns = (math.ceil(side / STRIDE) for side in size)
    assert own.score.shape == (2, *size)
    assert own.descriptors.shape == (2, 8, rows, columns)
    torch.testing.assert_close(own.score, whole.score[:, : size[0], : size[1]])
    torch.testing.assert_close(own.descriptors, whole.descriptors[..., :rows, :columns])


def test_descriptors_have_unit_length_alone_and_with_the_score() -> None:
    network, image = lively(), torch.randn(2, 1, *SIZE)
    descriptors = network.describe(image)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(2, 13, 18))
    torch.testing.assert_close(descriptors, network(image).descriptors)
    assert (descriptors[0] - descriptors[1]).abs().max() > 0.05  # they depend on the image


def test_plain_convolutions_take_the_place_of_deformable_ones_and_of_nothing_else() -> None:
    """Before training no sample is displaced, so with the same weights both score alike."""
    deformable, image = lively(), torch.randn(1, 1, *SIZE)
    plain = KeypointNet(replace(TINY, deformable=False)).eval()
    names = [name for name in deformable.state_dict() if ".offset." not in name]
    assert names == list(plain.state_dict())
    plain.load_state_dict({name: deformable.state_dict()[name] for name in names})
    a, b = deformable(image), plain(image)
    torch.testing.assert_close(a.descriptors, b.descriptors)
    torch.testing.assert_close(a.score, b.score)
    with torch.no_grad():
        deformable.dcn[1].offset.bias.add_(0.7)
    assert (deformable(image).score - a.score).abs().max() > 0.01


def test_a_shift_of_the_image_shifts_score_and_descriptors() -> None:
    network, scene = lively(), torch.randn(1, 1, 304, 320)
    a, b = network(scene[..., :288, :304]), network(scene[..., 16:, 16:])
    inner = np.s_[..., 112:-112, 112:-112]  # what sees no border
    torch.testing.assert_close(a.score[..., 16:, 16:][inner], b.score[..., :-16, :-16][inner], atol=1e-4, rtol=1e-4)
    cells = np.s_[..., 28:-28, 28:-28]
    torch.testing.assert_close(a.descriptors[..., 4:, 4:][cells], b.descriptors[..., :-4, :-4][cells], atol=1e-4, rtol=1e-4)
    assert (a.score[inner] - b.score[inner]).abs().max() > 0.01


def test_a_constant_image_shows_no_border() -> None:
    output = lively()(torch.full((1, 1, *SIZE), 0.7))
    assert output.score.max() - output.score.min() < 1e-5
    assert (output.descriptors - output.descriptors[..., :1, :1]).abs().max() < 1e-4


def test_the_sizes_are_those_that_the_docs_state() -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in KeypointNet(config).parameters()) for config in (paper(), slim())]
    stated = re.findall(r"([0-9.]+) M", (DOCS / "theory" / "keypoints.md").read_text().split("parameters |")[1].split("\n")[0])
    assert [f"{count / 1e6:.1f}" for count in counts] == stated
    assert f"{stated[1]} M parameters" in (slim.__doc__ or "")


# The loss


def unit_descriptors(d: int = 64) -> torch.Tensor:
    return F.normalize(torch.randn(1, d, 13, 18), dim=1)


def test_contrast_is_least_for_the_right_correspondence(rng: np.random.Generator) -> None:
    own = unit_descriptors()
    centers = cell_centers_yx(SIZE, STRIDE)
    points = centers[(centers < (30, 50)).all(axis=1)]
    right = contrast_loss(own, own, make_truth(SIZE, points_yx=points))
    assert right < 0.01
    for dy, dx in ((0, 4), (4, 0), (8, 12)):
        assert contrast_loss(own, own, make_truth(SIZE, shift(dy, dx), points)) > 5
    moved = torch.zeros_like(own)
    moved[..., 2:, 3:] = own[..., :-2, :-3]  # view b shows the scene 8 px lower and 12 px further right
    assert contrast_loss(own, moved, make_truth(SIZE, shift(8, 12), points)) < 0.01


def test_contrast_between_cells_is_shared_out_among_the_four_around() -> None:
    a, b = unit_descriptors(), unit_descriptors()
    points_a, points_b = np.array([[13.5, 21.5]]), np.array([[18.5, 6.5]])  # cells (3, 5) and (4.25, 1.25)
    truth = replace(make_truth(SIZE, points_yx=points_a), points_b=torch.from_numpy(points_b).float()[None])

    def between(maps: torch.Tensor) -> torch.Tensor:
        return sum(w * v * maps[0, :, 4 + i, 1 + j] for i, w in ((0, 0.75), (1, 0.25)) for j, v in ((0, 0.75), (1, 0.25)))

    log_p = (torch.einsum("d,dhw->hw", a[0, :, 3, 5], b[0]) / TEMPERATURE).flatten().log_softmax(0).reshape(1, 1, 13, 18)
    log_q = (torch.einsum("d,dhw->hw", F.normalize(between(b), dim=0), a[0]) / TEMPERATURE).flatten().log_softmax(0)
    expected = -(between(log_p)[0] + log_q.reshape(13, 18)[3, 5]) / 2
    torch.testing.assert_close(contrast_loss(a, b, truth), expected)


def test_pairs_that_are_not_near_give_no_contrast_and_break_no_gradient() -> None:
    a, b = (torch.randn(2, 8, 13, 18, requires_grad=True) for _ in range(2))
    points = cell_centers_yx(SIZE, STRIDE)[:50]
    value = contrast_loss(a, b, make_truth(SIZE, points_yx=points, near=False, n=2))
    value.backward()
    assert value == 0
    assert a.grad is not None
    assert not a.grad.any()
    mixed = replace(make_truth(SIZE, points_yx=points, n=2), near=torch.tensor([False, True]))
    alone = make_truth(SIZE, points_yx=points)
    torch.testing.assert_close(contrast_loss(a, b, mixed), contrast_loss(a[1:], b[1:], alone))


def test_the_score_of_b_is_read_where_the_transform_points() -> None:
    score_b = torch.randn(1, *SIZE)
    moved, shown = on_grid_of_a(score_b, make_truth(SIZE, shift(3, -5)))
    torch.testing.assert_close(moved[:, :-3, 5:], score_b[:, 3:, :-5], atol=1e-4, rtol=1e-4)
    inside = torch.zeros(1, *SIZE, dtype=torch.bool)
    inside[:, :-3, 5:] = True
    assert torch.equal(shown, inside)


HOMOGRAPHY = np.array([[1.1, 0.2, -4.0], [-0.15, 0.95, 6.0], [4e-4, -6e-4, 1.0]])


def ramps(size: tuple[int, int]) -> torch.Tensor:
    """Return two maps that hold at each pixel its y and its x."""
    return torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))


def mapped_by_hand(size: tuple[int, int]) -> torch.Tensor:
    yx = ramps(size).flatten(1).T.double().numpy()
    return torch.from_numpy(apply_transform(HOMOGRAPHY, yx)).float().T.reshape(2, *size)


def test_a_homography_is_followed_and_hidden_pixels_of_either_view_are_not_shown() -> None:
    truth = make_truth(SIZE, HOMOGRAPHY, n=2)
    truth.shown_a[:, 20:22] = False
    truth.shown_b[:, :, 40:] = False
    moved, shown = on_grid_of_a(ramps(SIZE), truth)
    expected = mapped_by_hand(SIZE)
    assert 0.2 < shown.float().mean() < 0.8
    assert torch.equal(shown[0], shown[1])
    torch.testing.assert_close(moved[shown], expected[shown], atol=1e-3, rtol=0)
    assert not shown[:, 20:22].any()
    assert (expected[1][shown[0]] <= 39.011).all()  # of x in b


def test_places_keep_their_precision_while_training_in_bfloat16() -> None:
    size = (192, 230)  # bfloat16 has steps of 1 px from 128 on
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moved, shown = on_grid_of_a(ramps(size), make_truth(size, HOMOGRAPHY, n=2))
    assert shown.float().mean() > 0.5
    error_px = (moved - mapped_by_hand(size))[shown].abs()  # at the last pixels zeros beyond count up to 1 %
    assert error_px.quantile(0.999) < 0.01


def everywhere(x: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def test_constant_maps_agree_by_chance_alone() -> None:
    flat = torch.full((1, *SIZE), 1.7)
    near = sum(1 for i in range(WINDOW) for j in range(WINDOW) if abs(i - j) <= NEAR_PX)  # pairs along an axis
    torch.testing.assert_close(agreement_loss(flat, flat, everywhere(flat)), torch.tensor(math.log(WINDOW**4 / near**2)))


def peaks(dy: int = 0, dx: int = 0) -> torch.Tensor:
    """Return a map with a peak in each 16 × 16 px, shifted."""
    score = torch.zeros(1, 48, 80)
    score[:, 5::WINDOW, 7::WINDOW] = 4
    return score.roll((dy, dx), (1, 2))


def test_common_peaks_win_over_constant_maps_and_these_over_peaks_apart() -> None:
    flat = torch.zeros(1, 48, 80)
    others = peaks(), peaks(NEAR_PX, -NEAR_PX), flat, peaks(0, NEAR_PX + 1)
    common, near, one_constant, apart = (agreement_loss(peaks(), other, everywhere(flat)) for other in others)
    constant = agreement_loss(flat, flat, everywhere(flat))
    assert STEP < WINDOW
    assert common < 0.01
    assert near < 0.01
    assert common < one_constant < apart
    assert common < constant < apart


def test_maps_correlate_with_themselves_and_constant_ones_with_nothing() -> None:
    score = torch.rand(2, 60, 70, generator=torch.Generator().manual_seed(1))
    other = torch.rand(2, 60, 70, generator=torch.Generator().manual_seed(2))
    itself, scaled, negative, constant, strange = (
        correlation_loss(score, b, everywhere(score)) for b in (score, 3 * score + 1, -score, torch.ones_like(score), other)
    )
    torch.testing.assert_close(itself, torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled, torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(negative, torch.tensor(2.0), atol=1e-5, rtol=0)
    assert constant == pytest.approx(1, abs=0.05)
    assert strange == pytest.approx(1, abs=0.3)


def test_correlation_looks_only_where_both_views_show_the_scene() -> None:
    score = torch.rand(1, 60, 70, generator=torch.Generator().manual_seed(1))
    other, shown = score.clone(), everywhere(score)
    other[:, :, 40:], shown[:, :, 40:] = 50, False
    assert correlation_loss(score, other, shown) < 1e-4
    assert correlation_loss(score, other, everywhere(score)) > 0.5


def test_a_lattice_that_ignores_the_image_loses_once_a_view_is_moved() -> None:
    """What a network shows at the same pixels of every image lies elsewhere on the grid of the other view."""
    lattice = peaks()
    still, shown = on_grid_of_a(lattice, make_truth((48, 80)))
    moved, shown_then = on_grid_of_a(lattice, make_truth((48, 80), shift(5, 6)))
    assert agreement_loss(lattice, still, shown) < 0.01
    assert agreement_loss(lattice, moved, shown_then) > 3


def test_windows_that_hardly_show_the_scene_do_not_count() -> None:
    a, b = peaks(), peaks()
    shown = everywhere(a)
    shown[:, :, 48:] = False
    b[:, :, 48:] = 30 * torch.rand(1, 48, 32)
    assert agreement_loss(a, b, shown) < 0.01
    assert agreement_loss(a, b, everywhere(a)) > 1


@given(st.floats(-4, 4))
def test_hubers_loss_is_equation_1(difference: float) -> None:
    a = torch.full((1, 3, 4), 2.0)
    size = abs(difference)
    expected = difference**2 / 2 if size <= DELTA else DELTA * size - DELTA**2 / 2
    assert huber_loss(a, a + difference, everywhere(a)).item() == pytest.approx(expected, abs=1e-5)


def test_hubers_loss_counts_only_what_both_show() -> None:
    a, b = torch.randn(2, 2, 20, 30).unbind(0)
    shown = torch.rand(2, 20, 30) < 0.3
    torch.testing.assert_close(huber_loss(a, b, shown), F.huber_loss(a[shown], b[shown], delta=DELTA))


def test_the_loss_is_the_sum_of_its_terms_and_0_where_nothing_is_shown() -> None:
    points = cell_centers_yx(SIZE, STRIDE)[:20]
    a, b = (Output(torch.rand(2, *SIZE), torch.randn(2, 8, 13, 18)) for _ in range(2))
    truth = make_truth(SIZE, shift(3, -5), points, n=2)
    moved, shown = on_grid_of_a(b.score, truth)
    contrast = contrast_loss(a.descriptors, b.descriptors, truth)
    terms = contrast + agreement_loss(a.score, moved, shown) + huber_loss(a.score, moved, shown)
    terms = terms + CORRELATION * correlation_loss(a.score, moved, shown)
    torch.testing.assert_close(loss(a, b, truth), terms)
    hidden = replace(truth, shown_a=torch.zeros_like(truth.shown_a))
    torch.testing.assert_close(loss(a, b, hidden), contrast)
    assert loss(a, b, replace(hidden, near=torch.zeros(2, dtype=torch.bool))) == 0


def test_every_parameter_is_reached_by_the_loss() -> None:
    network = lively()  # in eval mode: normalization by the batch would take constants out again
    a, b = (network(torch.randn(2, 1, *SIZE)) for _ in range(2))
    loss(a, b, make_truth(SIZE, shift(3, -5), 20 + 20 * np.random.default_rng(0).random((40, 2)), n=2)).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
