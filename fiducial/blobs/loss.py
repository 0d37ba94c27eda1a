"""Score a CADSN's output: focal loss on the map of centers, radii, and the contrast between adjacent blobs.

Glossary
    Y target of P_blob: a Gaussian of each blob's own shape, 1 at its center; w weight of a pixel.
    e embedding of a blob, e⁺ of the same blob in another view of the image, N(i) its neighbors, τ temperature (eq. 12).
    Equations have the paper's numbers.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fiducial.blobs.network import NOMINAL_RADIUS_PX, Output

GAMMA = 2.0  # of the focal loss
TEMPERATURE = 0.07  # τ of eq. 12
CONTRAST = 0.5  # weight of eq. 12 in the total
RADIUS = 0.5  # weight of the radii, which the paper does not have
NEIGHBORS, NEAR = 6, 3.0  # N(i): how many, and within how many mean radii
_CENTER_Y = 0.4  # target above which a pixel's radius counts


class Truth(NamedTuple):
    """Targets of a batch: Y, the radius of the blob that Y is highest of, and w (0 where a pixel is not judged)."""

    heat: Float[Tensor, "b 1 h w"]
    radius: Float[Tensor, "b 1 h w"]
    weight: Float[Tensor, "b 1 h w"]


def focal_loss(logits: Tensor, heat: Tensor, weight: Tensor) -> Tensor:
    """Return the focal loss for targets between 0 and 1, per unit of target.

    |Y - P|^γ times the cross entropy: for Y of 0 and 1 the paper's focal loss, and least at P = Y in between (Li et al.
    2020, generalized focal loss).
    """
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, heat, reduction="none")
    return (weight * (p - heat).abs().pow(GAMMA) * entropy).sum() / (weight * heat).sum().clamp(min=1.0)


def radius_loss(log_radius: Tensor, truth: Truth) -> Tensor:
    """Return the mean smooth L1 distance of log2 radii near centers."""
    share = truth.weight * truth.heat * (truth.heat > _CENTER_Y)
    target = (truth.radius / NOMINAL_RADIUS_PX).clamp(min=2**-5).log2()
    apart = F.smooth_l1_loss(log_radius, target, reduction="none", beta=0.2)
    return (share * apart).sum() / share.sum().clamp(min=1.0)


def loss(output: Output, truth: Truth) -> Tensor:
    """Return the loss of the first stage: centers and radii."""
    found = focal_loss(output.logits.float(), truth.heat, truth.weight)
    return found + RADIUS * radius_loss(output.log_radius.float(), truth)


def contrast_loss(
    embedding: Float[Tensor, "n d"], positive: Float[Tensor, "n d"], adjacent: Bool[Tensor, "n n"]
) -> Float[Tensor, ""]:
    """Return the contrastive blob discrimination of eq. 12; `adjacent[i, j]` says that j is in N(i). 0 without blobs."""
    if not len(embedding):
        return embedding.sum()
    with torch.autocast(embedding.device.type, enabled=False):
        same = (embedding.float() * positive.float()).sum(1, keepdim=True) / TEMPERATURE  # (N, 1)
        others = (embedding.float() @ embedding.float().T / TEMPERATURE).masked_fill(~adjacent, -torch.inf)  # (N, N)
        return (torch.cat([same, others], dim=1).logsumexp(1) - same[:, 0]).mean()


def neighbors(
    yx: Float[Tensor, "n 2"], radius: Float[Tensor, " n"], index: Tensor, count: int = NEIGHBORS
) -> Bool[Tensor, "n n"]:
    """Say which blobs are in N(i): the nearest of the same image whose centers lie within NEAR mean radii of i and j."""
    apart = torch.cdist(yx[None], yx[None])[0]
    near = apart <= NEAR * (radius[:, None] + radius[None]) / 2
    near &= (index[:, None] == index[None]) & ~torch.eye(len(yx), dtype=torch.bool, device=yx.device)
    order = apart.masked_fill(~near, torch.inf).argsort(dim=1).argsort(dim=1)  # rank of j among the neighbors of i
    return near & (order < count)
