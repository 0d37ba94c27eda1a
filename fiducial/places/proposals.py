"""Hold guesses at where a query lies, and choose those that are worth a look."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float64

from fiducial.places.network import Output


@dataclass(frozen=True)
class Proposals:
    """Boxes where the query may lie; pixels are those of the source or rung that was asked about.

    `confidence` is the network's. `merit` says which come first: that confidence, or what else has proposed them says.
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
        rows = (getattr(self, field.name)[chosen] for field in fields(self))
        return Proposals(*rows)


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


def join(parts: Sequence[Proposals]) -> Proposals:
    """Return all proposals of several parts, those of most merit first."""
    whole = Proposals(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Proposals)))
    return whole.only(np.argsort(-whole.merit, kind="stable"))


def thin(parts: Sequence[Proposals], keep: int, sides: tuple[float, float]) -> Proposals:
    """Join parts and drop what is no other place, size or angle than a proposal of more merit, or of a side not asked for."""
    p = join(parts)
    p = p.only(np.flatnonzero((p.side > sides[0] / 1.2) & (p.side < sides[1] * 1.2)))
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
