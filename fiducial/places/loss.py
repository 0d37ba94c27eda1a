"""Score FTFY's boxes (the multi-part loss of YOLO, as section 4 asks) and the triplet network's descriptors.

Glossary
    P pairs, B boxes per cell, h, w cells; a box is responsible if the true center lies in its cell and its overlap with the
    true box is the largest there.
    a, p, n descriptors of anchor, positive and negative; d their length.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fiducial.coords import cell_and_part
from fiducial.places.network import Output

COORD, NO_OBJECT = 5.0, 0.5  # λ of the paper's source, Redmon et al. 2016
RANKING = 0.2  # weight of the term that is ours
MARGIN = 0.5  # of the triplet loss, Zhang et al. 2017


@dataclass(frozen=True)
class Truth:
    """Where the queries of P pairs lie: center, height, width (pixels of the source) and angle; if they lie there at all."""

    box: Float[Tensor, "p 5"]
    present: Bool[Tensor, " p"]


def overlap(box: Float[Tensor, "p b 5"], truth: Float[Tensor, "p 5"]) -> Float[Tensor, "p b"]:
    """Return the IoU of boxes taken upright, times the cosine of the angle between them (0 beyond a right angle)."""
    y, x, h, w, angle = box.unbind(-1)
    ty, tx, th, tw, turned = truth[:, None].unbind(-1)
    tall = (torch.minimum(y + h / 2, ty + th / 2) - torch.maximum(y - h / 2, ty - th / 2)).clamp(min=0)
    wide = (torch.minimum(x + w / 2, tx + tw / 2) - torch.maximum(x - w / 2, tx - tw / 2)).clamp(min=0)
    shared = tall * wide
    return shared / (h * w + th * tw - shared).clamp(min=1e-6) * torch.cos(angle - turned).clamp(min=0)


def loss(output: Output, truth: Truth) -> Float[Tensor, ""]:
    """Return YOLO's multi-part loss, the squared error of the heading, and RANKING times the ranking loss; mean over pairs."""
    p = torch.arange(len(truth.present), device=truth.present.device)
    y, x, h, w, _ = truth.box.unbind(1)
    (row, y_part), (column, x_part) = (
        cell_and_part(ordinate, output.stride, cells) for ordinate, cells in zip((y, x), output.logits.shape[-2:], strict=True)
    )
    wanted = torch.stack([x_part, y_part, (w / output.block_px).sqrt(), (h / output.block_px).sqrt()], dim=1)
    at_cell = output.boxes()[p, :, :, row, column]  # (P, B, 5)
    iou = overlap(at_cell.detach(), truth.box)  # (P, B)
    best = iou.argmax(dim=1)
    terms = output.logits[p, best, :, row, column].sigmoid()  # (P, 5): x, y, √w, √h, C
    heading = F.normalize(output.heading[p, best, :, row, column], dim=1)
    wanted_heading = torch.stack([truth.box[:, 4].cos(), truth.box[:, 4].sin()], dim=1)
    coordinates = (terms[:, :4] - wanted).square().sum(1)
    coordinates = COORD * coordinates + (heading - wanted_heading).square().sum(1)
    confidence = output.logits[:, :, 4].sigmoid()  # (P, B, h, w)
    own = (terms[:, 4] - iou.amax(1)).square()
    others = NO_OBJECT * (confidence.square().sum((1, 2, 3)) - truth.present * terms[:, 4].square())
    parts = truth.present * (coordinates + own) + others + RANKING * ranking_loss(output, truth, row, column)
    return parts.mean()


def ranking_loss(output: Output, truth: Truth, row: Tensor, column: Tensor) -> Float[Tensor, " p"]:
    """Return -log softmax of the confidence at the true cell, over all cells and "absent", whose logit is 0.

    Not in the paper. It makes the right place outbid every other, and all of them lose where the query is absent.
    """
    cells = output.logits[:, :, 4].logsumexp(dim=1).flatten(1)  # (P, h·w)
    logits = F.pad(cells, (0, 1))
    w = output.logits.shape[-1]
    target = torch.where(truth.present, row * w + column, torch.full_like(row, cells.shape[1]))
    return F.cross_entropy(logits, target, reduction="none")


def triplet_loss(a: Float[Tensor, "b d"], p: Float[Tensor, "b d"], n: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Return the triplet loss on squared distances, plus the global orthogonal regularizer of Zhang et al. 2017.

    Descriptors of unrelated patches shall have inner products of mean 0 and of mean square at most 1/d, as have points
    spread evenly over the sphere.
    """
    apart = (MARGIN + (a - p).square().sum(1) - (a - n).square().sum(1)).clamp(min=0).mean()
    inner = (a * n).sum(1)
    return apart + inner.mean().square() + (inner.square().mean() - 1 / a.shape[1]).clamp(min=0)
