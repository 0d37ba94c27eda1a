"""Hold the network blocks that two or more families use.

Glossary
    B batch, C channels, H, W height and width, L = H·W positions of a flattened map, N = heads.
    T template (or fixed, source), S sample (or moving, query); a, b a position in T and in S.

Each block that replaces a library's is tested against a plain loop or a published formula.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fiducial.coords import sample_bilinear

NetworkT = TypeVar("NetworkT", bound=nn.Module)
_AT_ONCE = 2048  # cells that a deformable convolution samples at once: more would not stay in a processor's cache


def conv_norm(
    channels_in: int,
    channels_out: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    act: nn.Module | None,
) -> nn.Sequential:
    """Build convolution, batch normalization and activation; padding keeps the size at stride 1."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.Identity() if act is None else act)


def fold_norms(network: NetworkT) -> NetworkT:
    """Return a copy for inference in which each batch normalization that follows a convolution is part of it."""
    folded = deepcopy(network).eval()
    for block in folded.modules():
        if isinstance(block, nn.Sequential):
            for i in range(len(block) - 1):
                conv, norm = block[i], block[i + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    block[i], block[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return folded


def sinusoidal_encoding(channels: int, size: tuple[int, int], origin_yx: tuple[int, int] = (0, 0)) -> Float[Tensor, "c h w"]:
    """Return the 2-D position code of a map (eq. 9 of BGNet); `origin_yx` is the position of its first cell.

    Raises:
        ValueError: `channels` is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"channels must be a multiple of 4, got {channels}")
    k = torch.arange(channels // 4, dtype=torch.float32)
    omega = 10000.0 ** (-2 * k / channels)  # (C/4,)
    height, width = size
    y = torch.arange(height, dtype=torch.float32) + origin_yx[0]
    x = torch.arange(width, dtype=torch.float32) + origin_yx[1]
    x_phase = (omega[:, None] * x)[:, None, :].expand(-1, height, -1)  # (C/4, H, W)
    y_phase = (omega[:, None] * y)[:, :, None].expand(-1, -1, width)  # (C/4, H, W)
    code = torch.stack([x_phase.sin(), x_phase.cos(), y_phase.sin(), y_phase.cos()], dim=1)  # (C/4, 4, H, W)
    return code.flatten(0, 1)  # (C, H, W)


def linear_attention(
    q: Float[Tensor, "b l n d"], k: Float[Tensor, "b m n d"], v: Float[Tensor, "b m n d"]
) -> Float[Tensor, "b l n d"]:
    """Return φ(Q)(φ(K)ᵀV) with its normalizer, φ = elu + 1 (eq. 12 of BGNet; Katharopoulos et al. 2020, eq. 5).

    Computed in float32 whatever the input's type: the sums over positions overflow the precision of half types.
    """
    with torch.autocast(q.device.type, enabled=False):
        phi_q, phi_k, values = F.elu(q.float()) + 1, F.elu(k.float()) + 1, v.float()
        summary = torch.einsum("bmnd,bmne->bnde", phi_k, values / values.shape[1])  # (B, N, D, D)
        normalizer = torch.einsum("blnd,bnd->bln", phi_q, phi_k.mean(1))  # (B, L, N)
        message = torch.einsum("blnd,bnde->blne", phi_q, summary) / normalizer[..., None]  # (B, L, N, D)
    return message.to(v.dtype)


class LinearAttentionLayer(nn.Module):
    """Update the positions of one map from those of another by linear attention (Fig. 3 of BGNet; LoFTR's layer).

    Raises:
        ValueError: `dim` is no multiple of `heads`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got dim={dim} heads={heads}")
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.merge = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim))
        self.mix = nn.Sequential(
            nn.Linear(2 * dim, 2 * dim, bias=False), nn.ReLU(), nn.Linear(2 * dim, dim, bias=False), nn.LayerNorm(dim)
        )

    def forward(self, to: Float[Tensor, "b l c"], source: Float[Tensor, "b m c"]) -> Float[Tensor, "b l c"]:
        q, k, v = (  # each (B, L or M, N, C/N)
            layer(x).reshape(*x.shape[:2], self.heads, -1)
            for layer, x in ((self.query, to), (self.key, source), (self.value, source))
        )
        message = self.merge(linear_attention(q, k, v).flatten(-2))  # (B, L, C)
        return to + self.mix(torch.cat([to, message], dim=-1))  # (B, L, C)


def matching_log_probability(
    template: Float[Tensor, "b l c"], sample: Float[Tensor, "b m c"], temperature: float
) -> Float[Tensor, "b l m"]:
    """Return log P, the dual softmax of the scaled inner products of two sets of features (eq. 13-14 of BGNet)."""
    with torch.autocast(template.device.type, enabled=False):
        scale = 1.0 / (template.shape[-1] * temperature)
        score = torch.einsum("blc,bmc->blm", template.float() * scale, sample.float())  # (B, L, M)
        return score.log_softmax(dim=2) + score.log_softmax(dim=1)


@dataclass(frozen=True)
class Matches:
    """The mutual nearest neighbors of two sets of features.

    Attributes:
        template_index: for each position of the sample, the position of its match in the template; 0 where it has none.
        matched: whether the position has a match.
    """

    template_index: Int[Tensor, "b m"]
    matched: Bool[Tensor, "b m"]


def mutual_matches(log_probability: Float[Tensor, "b l m"], threshold: float) -> Matches:
    """Keep the pairs that are each other's most probable partner with P ≥ threshold (eq. 15 and Algorithm 1 of BGNet)."""
    best, template_index = log_probability.max(dim=1)  # (B, M): the template's position for each position of the sample
    sample_index = log_probability.argmax(dim=2)  # (B, L)
    back = sample_index.gather(1, template_index)  # (B, M)
    mutual = back == torch.arange(back.shape[1], device=back.device)
    matched = mutual & (best.exp() >= threshold)
    return Matches(template_index.where(matched, 0), matched)


def roi_align(
    features: Float[Tensor, "b c h w"],
    boxes_yxyx: Float[Tensor, "n 4"],
    batch_index: Int[Tensor, " n"],
    size: int,
    samples: int = 2,
) -> Float[Tensor, "n c s s"]:
    """Average bilinear samples of `features` in a size × size grid of cells over each box (He et al. 2017, RoIAlign).

    Boxes are in pixels of `features`, whose cell (0, 0) has its center at (0, 0): the house frame, in which a box from
    y0 to y1 spans those two ordinates. Samples outside the map are taken from its border.
    """
    steps = torch.arange(size * samples, dtype=features.dtype, device=features.device)
    fraction = (2 * steps + 1) / (2 * size * samples)  # (size·samples,), the middles of equal cells
    low, span = boxes_yxyx[:, :2], boxes_yxyx[:, 2:] - boxes_yxyx[:, :2]
    y, x = (low[:, i, None] + span[:, i, None] * fraction for i in (0, 1))  # each (N, K)
    yx = torch.stack([y[:, :, None].expand(-1, -1, x.shape[1]), x[:, None, :].expand(-1, y.shape[1], -1)], -1)  # (N, K, K, 2)
    out = features.new_zeros(len(boxes_yxyx), features.shape[1], size, size)
    for image in sorted(set(batch_index.tolist())):
        own = batch_index == image
        taken = sample_bilinear(features[image, None], yx[own].flatten(0, 1)[None], "border")  # (1, C, n·K, K)
        cells = taken[0].reshape(-1, int(own.sum()), size * samples, size * samples).transpose(0, 1)  # (n, C, K, K)
        out[own] = F.avg_pool2d(cells, samples)
    return out


class DeformableConv2d(nn.Module):
    """Convolve 3×3 at learned offsets, each sample weighted by a learned mask (Dai et al. 2017; Zhu et al. 2019).

    Samples are sums of four rows of a table of cells, then a product of matrices; samples outside the map are zero.
    """

    def __init__(self, channels_in: int, channels_out: int, *, modulated: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.offset = nn.Conv2d(channels_in, 27 if modulated else 18, 3, padding=1)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        predicted = self.offset(x)  # (B, 18 or 27, H, W): dy, dx of each tap, then the mask's logits
        mask = 2 * predicted[:, 18:].sigmoid() if predicted.shape[1] == 27 else None
        return deformable_conv2d(x, predicted[:, :18], mask, self.weight, self.bias)


def deformable_conv2d(
    x: Float[Tensor, "b c h w"],
    offset_yx: Float[Tensor, "b 18 h w"],
    mask: Float[Tensor, "b 9 h w"] | None,
    weight: Float[Tensor, "d c 3 3"],
    bias: Float[Tensor, " d"],
) -> Float[Tensor, "b d h w"]:
    """Return Σ_k w_k · m_k · x(p + p_k + Δp_k) + bias over the nine taps k (Zhu et al. 2019, eq. 1)."""
    (b, c, h, w), kind = x.shape, torch.promote_types(x.dtype, torch.float32)  # of places, which half types would round
    ys, xs = torch.meshgrid(torch.arange(h, device=x.device), torch.arange(w, device=x.device), indexing="ij")
    taps = torch.stack(torch.meshgrid(torch.arange(-1, 2), torch.arange(-1, 2), indexing="ij"), -1).reshape(9, 2)
    place = torch.stack([ys, xs], -1)[:, :, None] + taps.to(x.device)  # (H, W, 9, 2)
    yx = place + offset_yx.to(kind).reshape(b, 9, 2, h, w).permute(0, 3, 4, 1, 2)  # (B, H, W, 9, 2)
    row, share = _corners(yx, h, w)  # (B, H, W, 9, 4)
    if mask is not None:
        share = share * mask.to(kind).permute(0, 2, 3, 1)[..., None]
    table = F.pad(x.to(kind), (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape(-1, c)  # a row for each cell of the maps and their rim
    kernel = weight.permute(2, 3, 1, 0).reshape(9 * c, -1)  # (9·C, D)
    row, share, out = row.reshape(-1, 4), share.reshape(-1, 4), []
    for first in range(0, len(row), 9 * _AT_ONCE):
        part = slice(first, first + 9 * _AT_ONCE)
        taken = F.embedding_bag(row[part], table, per_sample_weights=share[part], mode="sum")  # (n·9, C)
        out.append(taken.reshape(-1, 9 * c) @ kernel)
    return (torch.cat(out) + bias).reshape(b, h, w, -1).permute(0, 3, 1, 2)  # (B, D, H, W)


def _corners(
    yx: Float[Tensor, "b h w k 2"], height: int, width: int
) -> tuple[Int[Tensor, "b h w k 4"], Float[Tensor, "b h w k 4"]]:
    """Return the four cells around each point and their bilinear shares; cells are counted through maps with a rim of one."""
    yx = torch.stack([yx[..., 0].clamp(-1, height), yx[..., 1].clamp(-1, width)], -1)  # the rim is zero, as all beyond it
    y, x = (yx[..., i].detach().floor().clamp(max=last - 1).nan_to_num() for i, last in ((0, height), (1, width)))
    down, right = yx[..., 0] - y, yx[..., 1] - x
    image = torch.arange(len(yx), device=yx.device).reshape(-1, 1, 1, 1) * (height + 2)
    first = (image + y.long() + 1) * (width + 2) + x.long() + 1
    row = torch.stack([first, first + 1, first + width + 2, first + width + 3], -1)
    share = torch.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], -1)
    return row, share
