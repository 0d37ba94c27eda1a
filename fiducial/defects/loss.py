"""Score a BGNet's output against the truth: focal loss (eq. 16) and the loss on the matching probability.

Glossary
    B batch, H, W pixels, K defect classes; p the probability of a pixel's true class; γ the focusing parameter.
    P (L, L) the matching probability of eq. 14; b a position of the sample, a(b) its true partner in the template.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fiducial.defects.network import Output

IGNORE = 255  # in a mask: the truth is unknown
GAMMA = 2.0  # γ of eq. 16
MATCHING_WEIGHT = 0.2  # of each scale's matching loss in the total
_FEW = 500  # one pixel in so many counts as a defect's at least: a batch without defects would weigh without bound


@dataclass(frozen=True)
class Truth:
    """What the network should say of a batch of pairs.

    Attributes:
        mask: class of each pixel of the sample; 0 background, IGNORE where the truth is unknown.
        detail_partner, semantic_partner: for each cell of the sample at strides 8 and 32 the flat index of the
            template's cell that shows the same place; -1 where none does.
    """

    mask: Int[Tensor, "b h w"]
    detail_partner: Int[Tensor, "b l"]
    semantic_partner: Int[Tensor, "b m"]


def focal_loss(logits: Float[Tensor, "b k h w"], mask: Int[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Sum -(1 - p)^γ log p over pixels (eq. 16, for several classes), divided by the number of defect pixels."""
    log_p = -F.cross_entropy(logits.float(), mask.long(), ignore_index=IGNORE, reduction="none")  # (B, H, W)
    defects = ((mask > 0) & (mask != IGNORE)).sum().clamp(min=mask.numel() // _FEW)
    return -((1 - log_p.exp()) ** GAMMA * log_p).sum() / defects


def matching_loss(log_p: Float[Tensor, "b l m"], partner: Int[Tensor, "b m"]) -> Float[Tensor, ""]:
    """Average -log P(a(b), b) over the sample's cells that have a partner; 0 when none has."""
    chosen = log_p.gather(1, partner.clamp(min=0)[:, None])[:, 0]  # (B, M)
    known = partner >= 0
    return -(chosen * known).sum() / known.sum().clamp(min=1)


def loss(output: Output, truth: Truth) -> Float[Tensor, ""]:
    """Return focal loss plus MATCHING_WEIGHT times the matching losses of the scales that match."""
    total = focal_loss(output.logits, truth.mask)
    pairs = ((output.detail_log_p, truth.detail_partner), (output.semantic_log_p, truth.semantic_partner))
    terms = [matching_loss(log_p, partner) for log_p, partner in pairs if log_p is not None]
    return total + MATCHING_WEIGHT * torch.stack(terms).sum() if terms else total
