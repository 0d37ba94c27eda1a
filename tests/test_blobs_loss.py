"""The loss of CADSN asks for what is true, term by term."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fiducial.blobs.loss import (
    CONTRAST,
    GAMMA,
    NEAR,
    NEIGHBORS,
    RADIUS,
    TEMPERATURE,
    Truth,
    contrast_loss,
    focal_loss,
    loss,
    neighbors,
    radius_loss,
)
from fiducial.blobs.network import NOMINAL_RADIUS_PX, Output
from fiducial.crowds import disks, heat_map


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("wanted", [0.05, 0.3, 0.5, 0.8, 0.97])
def test_the_focal_loss_is_least_where_the_answer_is_the_target(wanted: float) -> None:
    p = torch.linspace(0.001, 0.999, 999)
    heat, one = torch.full((1, 1, 1, 1), wanted), torch.ones(1, 1, 1, 1)
    values = torch.stack([focal_loss(v.logit().reshape(1, 1, 1, 1), heat, one) for v in p])
    assert p[values.argmin()].item() == pytest.approx(wanted, abs=2e-3)
    assert values.min() < 1e-5
    assert (values[: values.argmin()].diff() < 0).all()


def test_the_focal_loss_of_certain_targets_is_the_papers() -> None:
    logits, heat = torch.randn(2, 1, 5, 7), (torch.rand(2, 1, 5, 7) > 0.6).float()
    total = 0.0
    for z, y in zip(logits.flatten().tolist(), heat.flatten().tolist(), strict=True):
        right = 1 / (1 + math.exp(-z if y else z))
        total += -((1 - right) ** GAMMA) * math.log(right)
    assert focal_loss(logits, heat, torch.ones_like(heat)).item() == pytest.approx(total / heat.sum().item(), rel=1e-5)


def truth_and_answer(shift_px: float = 0.0, larger: float = 1.0) -> tuple[Truth, Output]:
    """Return targets of three blobs, and the answer that would be right were they elsewhere or larger."""
    yx, radius = np.array([[12.0, 15.0], [30.0, 40.0], [25.0, 62.0]]), np.array([5.0, 8.0, 3.0])
    true = [torch.from_numpy(m)[None, None] for m in heat_map(disks(yx, radius), (45, 80), 0.42, 1.0)]
    said, size = heat_map(disks(yx + shift_px, larger * radius), (45, 80), 0.42, 1.0)
    logits = torch.from_numpy(said).clamp(1e-4, 1 - 1e-4).logit()[None, None]
    log_radius = torch.from_numpy(np.log2(np.maximum(size, 0.3) / NOMINAL_RADIUS_PX))[None, None]
    return Truth(true[0], true[1], torch.ones(1, 1, 45, 80)), Output(logits, log_radius, torch.zeros(1, 2, 3, 4))


def test_a_right_answer_costs_less_than_a_shifted_or_an_enlarged_one() -> None:
    truth, right = truth_and_answer()
    costs = [
        loss(truth_and_answer(**wrong)[1], truth).item() for wrong in ({"shift_px": 1.0}, {"shift_px": 3.0}, {"larger": 1.5})
    ]
    assert loss(right, truth) < 1e-3
    assert 0.05 < costs[0] < costs[1]
    assert costs[2] > 0.05


def test_pixels_without_weight_are_not_judged() -> None:
    truth, _ = truth_and_answer()
    weight = torch.ones(1, 1, 45, 80)
    weight[..., 40:] = 0
    logits, log_radius = (torch.randn(1, 1, 45, 80, requires_grad=True) for _ in range(2))
    loss(Output(logits, log_radius, torch.zeros(1, 2, 3, 4)), truth._replace(weight=weight)).backward()
    for answer in (logits, log_radius):
        assert answer.grad is not None
        assert not answer.grad[..., 40:].any()
        assert answer.grad[..., :40].any()


def test_radii_are_judged_near_centers_by_their_ratio() -> None:
    truth, right = truth_and_answer()
    assert radius_loss(right.log_radius, truth) == 0
    far = right.log_radius + 5 * (truth.heat < 0.4)
    assert radius_loss(far, truth) == 0
    doubled, halved = (radius_loss(right.log_radius + change, truth).item() for change in (1, -1))
    assert doubled == halved == pytest.approx(1 - 0.1)  # smooth L1: |d| - β/2 beyond β = 0.2
    assert loss(Output(right.logits, far + 1, right.fused), truth) - loss(right, truth) == pytest.approx(RADIUS * doubled)


def test_an_image_without_blobs_asks_for_no_centers_and_no_radii() -> None:
    nothing = torch.zeros(1, 1, 33, 50)
    truth = Truth(nothing, nothing, torch.ones(1, 1, 33, 50))
    quiet, loud = (loss(Output(torch.full_like(nothing, z), nothing + 3, nothing), truth) for z in (-9.0, 0.0))
    assert quiet < 1e-6
    assert loud > 10


def test_contrast_is_equation_12() -> None:
    e, positive = (F.normalize(torch.randn(6, 128), dim=1) for _ in range(2))
    adjacent = torch.rand(6, 6) > 0.5
    adjacent[2] = False
    total = 0.0
    for i in range(6):
        same = math.exp((e[i] @ positive[i]).item() / TEMPERATURE)
        others = sum(math.exp((e[i] @ e[j]).item() / TEMPERATURE) for j in range(6) if adjacent[i, j])
        total -= math.log(same / (same + others))
    assert contrast_loss(e, positive, adjacent).item() == pytest.approx(total / 6, rel=1e-4)
    assert contrast_loss(e[:0], positive[:0], adjacent[:0, :0]) == 0
    assert contrast_loss(e, positive, torch.zeros(6, 6, dtype=torch.bool)).abs() < 1e-6
    assert CONTRAST == 0.5


def test_neighbors_are_the_nearest_of_the_same_image_within_three_mean_radii() -> None:
    yx, radius, index = torch.rand(70, 2) * torch.tensor([90.0, 130.0]), torch.rand(70) * 6 + 2, torch.arange(70) % 2
    expected = torch.zeros(70, 70, dtype=torch.bool)
    for i in range(70):
        near = []
        for j in range(70):
            apart = math.dist(yx[i].tolist(), yx[j].tolist())
            if j != i and index[i] == index[j] and apart <= NEAR * (radius[i] + radius[j]).item() / 2:
                near.append((apart, j))
        for _, j in sorted(near)[:NEIGHBORS]:
            expected[i, j] = True
    adjacent = neighbors(yx, radius, index)
    assert torch.equal(adjacent, expected)
    assert adjacent.sum(1).max() == NEIGHBORS
    assert neighbors(yx[:0], radius[:0], index[:0]).shape == (0, 0)
