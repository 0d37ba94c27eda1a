"""Compare two views of one scene: descriptors by contrast, keypoint maps by agreement, by correlation and by Huber's loss.

Glossary
    a, b the two views; O_a, O_b their keypoint maps, O_b also as sampled on the grid of a.
    K points of the scene that both views show; p, q probabilities of the pixels of one window, in a and in b.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fiducial.coords import sample_bilinear, to_cells
from fiducial.landmarks.network import STRIDE, Output

TEMPERATURE = 0.07  # of the contrast between descriptors
WINDOW, STEP = 16, 8  # side of the windows in which keypoints must agree, and their spacing, px
NEAR_PX = 2  # within which keypoints agree, along each axis
SHARPNESS = 8.0  # factor of O in the softmax over a window
BLURS_PX, CORRELATION = (5, 21), 3.0  # sides of the means whose correlation counts, and how much it does
DELTA = 1.0  # eq. 1


@dataclass(frozen=True)
class Truth:
    """How pairs of views lie on each other.

    Attributes:
        a_to_b: from pixels of a to pixels of b, on (x, y, 1).
        shown_a, shown_b: pixels that show the scene.
        points_a, points_b: points that both views show, in pixels of each.
        near: whether the views' angles are close enough for their descriptors to agree.
    """

    a_to_b: Float[Tensor, "n 3 3"]
    shown_a: Bool[Tensor, "n H W"]
    shown_b: Bool[Tensor, "n H W"]
    points_a: Float[Tensor, "n k 2"]
    points_b: Float[Tensor, "n k 2"]
    near: Bool[Tensor, " n"]


def loss(output_a: Output, output_b: Output, truth: Truth) -> Float[Tensor, ""]:
    """Return the contrast of descriptors, and the disagreement of the keypoint maps by three measures."""
    contrast = contrast_loss(output_a.descriptors, output_b.descriptors, truth)
    moved, shown = on_grid_of_a(output_b.score, truth)
    maps = output_a.score, moved, shown
    return contrast + agreement_loss(*maps) + CORRELATION * correlation_loss(*maps) + huber_loss(*maps)


def contrast_loss(
    descriptors_a: Float[Tensor, "n d h w"], descriptors_b: Float[Tensor, "n d h w"], truth: Truth
) -> Float[Tensor, ""]:
    """Return the InfoNCE loss of points of each view against all cells of the other, both ways; 0 where no pair is near."""
    if not truth.near.any():
        return descriptors_a.sum() * 0
    a, b = descriptors_a[truth.near], descriptors_b[truth.near]
    points_a, points_b = truth.points_a[truth.near], truth.points_b[truth.near]
    return (_find(a, points_a, b, points_b) + _find(b, points_b, a, points_a)) / 2


def _find(
    own: Float[Tensor, "n d h w"],
    own_yx: Float[Tensor, "n k 2"],
    other: Float[Tensor, "n d h w"],
    other_yx: Float[Tensor, "n k 2"],
) -> Float[Tensor, ""]:
    """Return -log of the probability that each point of one view is found at its cells of the other."""
    described = sample_bilinear(own, to_cells(own_yx, STRIDE)[:, :, None], "border")[..., 0]  # (N, D, K)
    logits = torch.einsum("ndk,ndhw->nkhw", F.normalize(described, dim=1), other) / TEMPERATURE
    log_p = logits.flatten(2).log_softmax(2)  # (N, K, h·w)
    h, w = other.shape[-2:]
    place = to_cells(other_yx, STRIDE)
    low = place.floor()
    total = log_p.new_zeros(())
    for dy in (0, 1):
        for dx in (0, 1):
            corner = low + torch.tensor([dy, dx], device=low.device)
            weight = (1 - (place - corner).abs()).clamp(min=0).prod(-1)  # (N, K), bilinear
            cell = corner[..., 0].clamp(0, h - 1) * w + corner[..., 1].clamp(0, w - 1)
            total = total - (weight * log_p.gather(2, cell.long()[..., None])[..., 0]).mean()
    return total


def on_grid_of_a(score_b: Float[Tensor, "n H W"], truth: Truth) -> tuple[Float[Tensor, "n H W"], Bool[Tensor, "n H W"]]:
    """Sample O_b at the pixels of a, and say where both views show the scene."""
    h, w = truth.shown_a.shape[1:]
    y, x = torch.meshgrid(*(torch.arange(n, device=score_b.device, dtype=torch.float32) for n in (h, w)), indexing="ij")
    columns = truth.a_to_b.float()[:, :, :, None, None].unbind(2)  # (N, 3, 1, 1) each; autocast rounds products of matrices
    xy1 = columns[0] * x + columns[1] * y + columns[2]  # (N, 3, H, W)
    yx = (xy1[:, [1, 0]] / xy1[:, 2:]).movedim(1, -1)  # (N, H, W, 2)
    stacked = torch.stack([score_b.float(), truth.shown_b.float()], 1)
    moved, shown = sample_bilinear(stacked, yx, "zeros").unbind(1)  # (N, H, W) each
    return moved, truth.shown_a & (shown > 0.99)


def agreement_loss(
    score_a: Float[Tensor, "n H W"], moved_b: Float[Tensor, "n H W"], shown: Bool[Tensor, "n H W"]
) -> Float[Tensor, ""]:
    """Return the mean of -log Σ p·q' over windows that show the scene in both views.

    p and q are softmaxes of O over a window, q' sums q over all pixels within NEAR_PX. Σ p·q' is the probability that points
    drawn from the two maps lie that near to each other: largest for common peaks, and low for maps that are constant, which
    Huber's loss alone would accept.
    """
    inside = _windows(shown.float()) > 0.5  # (N, L, W²)
    p, q = ((SHARPNESS * _windows(s)).masked_fill(~inside, -1e4).softmax(2) for s in (score_a, moved_b))
    counted = inside.float().mean(2) > 0.5
    if not counted.any():
        return score_a.sum() * 0
    side = 2 * NEAR_PX + 1
    squares = q[counted].reshape(-1, 1, WINDOW, WINDOW)
    near = F.avg_pool2d(squares, side, stride=1, padding=NEAR_PX).flatten(1) * side**2
    return -(p[counted] * near).sum(1).clamp(min=1e-9).log().mean()


def _windows(x: Float[Tensor, "n H W"]) -> Float[Tensor, "n l k"]:
    return F.unfold(x[:, None], WINDOW, stride=STEP).mT


def correlation_loss(
    score_a: Float[Tensor, "n H W"], moved_b: Float[Tensor, "n H W"], shown: Bool[Tensor, "n H W"]
) -> Float[Tensor, ""]:
    """Return 1 less the correlation of the two maps where both show the scene, the mean over several blurs.

    Maps that agree on where points are many agree on which are the best. A constant map correlates with nothing.
    """
    some = shown.flatten(1).any(1)
    if not some.any():
        return score_a.sum() * 0
    score_a, moved_b, m = score_a[some], moved_b[some], shown[some].float()
    count = m.sum((1, 2))
    total = score_a.new_zeros(())
    for side in BLURS_PX:
        weight = F.avg_pool2d(m[:, None], side, stride=1, padding=side // 2)[:, 0].clamp(min=1e-6)
        blurred = [F.avg_pool2d((s * m)[:, None], side, stride=1, padding=side // 2)[:, 0] / weight for s in (score_a, moved_b)]
        a, b = (((s - ((s * m).sum((1, 2)) / count)[:, None, None]) * m).flatten(1) for s in blurred)
        total = total + (1 - F.cosine_similarity(a, b, dim=1, eps=1e-6)).mean()
    return total / len(BLURS_PX)


def huber_loss(
    score_a: Float[Tensor, "n H W"], moved_b: Float[Tensor, "n H W"], shown: Bool[Tensor, "n H W"]
) -> Float[Tensor, ""]:
    """Return Huber's loss between the two maps where both show the scene (eq. 1)."""
    if not shown.any():
        return score_a.sum() * 0
    return F.huber_loss(moved_b[shown], score_a[shown], delta=DELTA)
