"""Each block equals a plain loop or a published figure."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates

from fiducial.layers import (
    DeformableConv2d,
    conv_norm,
    deformable_conv2d,
    fold_norms,
    linear_attention,
    matching_log_probability,
    mutual_matches,
    roi_align,
    sinusoidal_encoding,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_position_code_follows_equation_9() -> None:
    code = sinusoidal_encoding(8, (3, 5), (2, 1))
    for c in range(8):
        k, kind = divmod(c, 4)
        omega = 10000 ** (-2 * k / 8)
        for y in range(3):
            for x in range(5):
                angle = ((x + 1) if kind < 2 else (y + 2)) * omega
                expected = np.cos(angle) if kind % 2 else np.sin(angle)
                assert code[c, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_linear_attention_equals_the_quadratic_formula() -> None:
    q, k, v = torch.randn(2, 7, 3, 4), torch.randn(2, 9, 3, 4), torch.randn(2, 9, 3, 4)
    weight = torch.einsum("blnd,bmnd->blmn", F.elu(q) + 1, F.elu(k) + 1)
    expected = torch.einsum("blmn,bmnd->blnd", weight / weight.sum(2, keepdim=True), v)
    torch.testing.assert_close(linear_attention(q, k, v), expected)


def test_matching_probability_follows_equations_13_and_14() -> None:
    t, s = torch.randn(1, 4, 8), torch.randn(1, 6, 8)
    got = matching_log_probability(t, s, 0.1).exp()[0]
    score = (t[0] @ s[0].T) / (8 * 0.1)
    for a in range(4):
        for b in range(6):
            row, column = score[a].exp(), score[:, b].exp()
            assert got[a, b].item() == pytest.approx((row[b] / row.sum() * column[a] / column.sum()).item(), rel=1e-4)


def test_mutual_matches_follow_algorithm_1_with_argmax() -> None:
    p = torch.rand(2, 7, 5)
    matches = mutual_matches(p.log(), 0.6)
    for image in range(2):
        for b in range(5):
            a = int(p[image, :, b].argmax())
            expected = int(p[image, a].argmax()) == b and p[image, a, b] >= 0.6
            assert bool(matches.matched[image, b]) == bool(expected)
            assert int(matches.template_index[image, b]) == (a if expected else 0)


def test_roi_align_equals_a_loop_of_bilinear_samples() -> None:
    features = torch.rand(2, 3, 11, 14, dtype=torch.float64)
    boxes = torch.tensor([[1.0, 2.0, 6.5, 9.0], [-2.0, -1.0, 4.0, 5.0], [3.0, 3.0, 12.0, 16.0]], dtype=torch.float64)
    index = torch.tensor([0, 1, 1])
    got = roi_align(features, boxes, index, size=3)
    for n, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
        for i in range(3):
            for j in range(3):
                y = [y0 + (y1 - y0) * (2 * (2 * i + s) + 1) / 12 for s in (0, 1)]
                x = [x0 + (x1 - x0) * (2 * (2 * j + s) + 1) / 12 for s in (0, 1)]
                at = np.stack(np.meshgrid(y, x, indexing="ij")).reshape(2, -1)
                for c in range(3):
                    samples = map_coordinates(features[index[n], c].numpy(), at, order=1, mode="nearest")
                    assert got[n, c, i, j].item() == pytest.approx(samples.mean(), abs=1e-9)


def test_deformable_convolution_without_offsets_is_a_convolution() -> None:
    x, layer = torch.rand(2, 3, 9, 13), DeformableConv2d(3, 5)
    expected = F.conv2d(x, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)  # the mask starts at 2·sigmoid(0) = 1


def test_deformable_convolution_equals_a_loop() -> None:
    x, offset = torch.rand(2, 2, 6, 7, dtype=torch.float64), 3 * torch.randn(2, 18, 6, 7, dtype=torch.float64)
    mask, weight = torch.rand(2, 9, 6, 7, dtype=torch.float64), torch.randn(4, 2, 3, 3, dtype=torch.float64)
    got = deformable_conv2d(x, offset, mask, weight, torch.zeros(4, dtype=torch.float64))
    for n, y, column in ((0, 0, 0), (0, 3, 4), (1, 5, 6), (1, 0, 6)):
        total = np.zeros(4)
        for k in range(9):
            place = [
                [y + k // 3 - 1 + offset[n, 2 * k, y, column].item()],
                [column + k % 3 - 1 + offset[n, 2 * k + 1, y, column].item()],
            ]
            padded = [np.pad(x[n, c].numpy(), 20) for c in range(2)]
            value = np.array([map_coordinates(p, np.array(place) + 20, order=1)[0] for p in padded])
            total += mask[n, k, y, column].item() * (weight[:, :, k // 3, k % 3].numpy() @ value)
        np.testing.assert_allclose(got[n, :, y, column].numpy(), total, atol=1e-9)


def test_deformable_convolution_learns_offsets_as_well_as_weights() -> None:
    x, offset = torch.rand(2, 3, 5, 6, dtype=torch.float64), torch.rand(2, 18, 5, 6, dtype=torch.float64)
    given = (x, offset, torch.rand(2, 9, 5, 6, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64))
    assert torch.autograd.gradcheck(deformable_conv2d, tuple(t.requires_grad_() for t in (*given, torch.zeros(4).double())))


def test_deformable_convolution_keeps_a_fraction_of_a_pixel_far_from_the_corner() -> None:
    ramp = torch.arange(400.0).expand(1, 1, 3, 400)
    weight = torch.zeros(1, 1, 3, 3)
    weight[..., 1, 1] = 1
    offset = torch.full((1, 18, 3, 400), 0.25, dtype=torch.bfloat16)  # exact in it; 390.25 is not
    out = deformable_conv2d(ramp, offset, None, weight, torch.zeros(1))
    assert out[0, 0, 1, 390].item() == pytest.approx(390.25, abs=1e-3)
    nowhere = deformable_conv2d(ramp, torch.full_like(offset, float("nan")), None, weight, torch.zeros(1))
    assert nowhere.isnan().all()  # of a training that came apart; no place outside is read


def test_folded_normalization_changes_nothing_but_the_work() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(conv_norm(2, 5, act=torch.nn.ReLU()), conv_norm(5, 3, 1, act=None))
    image = torch.randn(2, 2, 9, 7)
    for _ in range(3):
        network(3 * image + 1)  # gathers statistics
    folded = fold_norms(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(image), network.eval()(image))
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
