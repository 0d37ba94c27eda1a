"""Hold guesses at where a query lies, and choose those that are worth a look."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64

from fiducial.coords import nearest_cell
from fiducial.places.network import Output

SIDE_SLACK = 1.2  # by which a proposed side may be smaller or larger than asked for: it is but a guess


@dataclass(frozen=True)
class Proposals:
    """Boxes where the query may lie; pixels are those of the source or rung that was asked about.

    Attributes:
        confidence: the network's, there.
        merit: by which they are ranked: that confidence, or of what a sweep has found the correlation.
    """

    center_yx: Float64[np.ndarray, "n 2"]
    side: Float64[np.ndarray, " n"]
    angle: Float64[np.ndarray, " n"]
    confidence: Float64[np.ndarray, " n"]
    merit: Float64[np.ndarray, " n"]

    def __len__(self) -> int:
        """Return the number of proposals."""
        return len(self.side)

    def only(self, chosen: np.ndarray) -> "Proposals":
        """Return those proposals."""
        return Proposals(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def ranked(self) -> "Proposals":
        """Return them in the order of their merit, the largest first."""
        return self.only(np.argsort(-self.merit, kind="stable"))


NONE = Proposals(np.zeros((0, 2)), *(np.zeros(0) for _ in range(4)))


def decode(output: Output, keep: int) -> Proposals:
    """Return the `keep` most confident boxes over all turned views; the angle is that of the query, not of the view."""
    boxes, trust = output.boxes(), output.logits[:, :, 4].sigmoid()  # (R, B, 5, h, w), (R, B, h, w)
    turns, per_cell, h, w = trust.shape
    value, index = trust.flatten().topk(min(keep, trust.numel()))
    turn = index // (per_cell * h * w)
    rows = boxes.permute(0, 1, 3, 4, 2).reshape(-1, 5)[index].double().cpu().numpy()
    angle, confidence = rows[:, 4] + 2 * np.pi / turns * turn.cpu().numpy(), value.double().cpu().numpy()
    return Proposals(rows[:, :2], rows[:, 2:4].mean(axis=1), angle, confidence, confidence)


def confidence_around(output: Output, stride: int, yx: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, " n"]:
    """Return the largest confidence of any turned view's boxes in the cell that holds each point and the eight around it."""
    trust = F.max_pool2d(output.logits[:, :, 4].float().amax((0, 1)).sigmoid()[None], 3, 1, 1)[0]
    size = (stride * trust.shape[0], stride * trust.shape[1])
    return trust.flatten()[torch.from_numpy(nearest_cell(yx, size, stride)).to(trust.device)].double().cpu().numpy()


def join(parts: Sequence[Proposals]) -> Proposals:
    """Return all proposals of several parts, one part after the other."""
    return Proposals(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Proposals)))


def thin(proposals: Proposals, keep: int, sides: tuple[float, float]) -> Proposals:
    """Return up to `keep` that differ in place, size or angle from each one before them, and are of a side asked for."""
    p = proposals.only(np.flatnonzero((proposals.side > sides[0] / SIDE_SLACK) & (proposals.side < sides[1] * SIDE_SLACK)))
    left = np.ones(len(p), dtype=bool)
    kept: list[int] = []
    while left.any() and len(kept) < keep:
        i = int(left.argmax())
        kept.append(i)
        near = np.linalg.norm(p.center_yx - p.center_yx[i], axis=1) < 0.2 * np.minimum(p.side, p.side[i])
        alike = np.abs(np.log(p.side / p.side[i])) < 0.25
        turned = np.abs(np.angle(np.exp(1j * (p.angle - p.angle[i])))) < np.deg2rad(20)
        left &= ~(near & alike & turned)
        left[i] = False
    return p.only(np.array(kept, dtype=np.int64))
