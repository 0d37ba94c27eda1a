"""Hold the network blocks that two or more families use.

Glossary
    B batch, C channels, H, W height and width, L = H·W positions of a flattened map, N = heads.
    T template (or fixed, source), S sample (or moving, query); a, b a position in T and in S.
    C1..C5 the channels of an encoder's maps at strides 2, 4, 8, 16 and 32.

Each block that replaces a library's is tested against a plain loop or a published formula.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fiducial.coords import sample_bilinear

NetworkT = TypeVar("NetworkT", bound=nn.Module)


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


class BasicBlock(nn.Module):
    """Add two 3×3 convolutions to their input (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(channels_in, channels, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """Add a 1×1, 3×3, 1×1 stack of convolutions to its input (ResNet-50)."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = _shortcut(channels_in, 4 * channels, stride)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class ResNet(nn.Module):
    """Encode an image into five maps, at strides 2 to 32, with torchvision's parameter names."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int], in_channels: int, width: int = 64
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = (width, 2 * width, 4 * width, 8 * width)
        fan_in = (width, *(w * block.expansion for w in widths[:-1]))
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stack(block, c, w, depth, stride) for c, w, depth, stride in zip(fan_in, widths, depths, (1, 2, 2, 2), strict=True)
        )
        self.channels = (width, *(w * block.expansion for w in widths))

    def forward(self, image: Float[Tensor, "b c h w"]) -> tuple[Tensor, ...]:
        c1 = torch.relu(self.bn1(self.conv1(image)))  # (B, C1, H/2, W/2)
        c2 = self.layer1(self.maxpool(c1))  # (B, C2, H/4, W/4)
        c3 = self.layer2(c2)  # (B, C3, H/8, W/8)
        c4 = self.layer3(c3)  # (B, C4, H/16, W/16)
        return c1, c2, c3, c4, self.layer4(c4)  # (B, C5, H/32, W/32)


def _stack(block: type[BasicBlock] | type[Bottleneck], c: int, width: int, depth: int, stride: int) -> nn.Sequential:
    rest = [block(width * block.expansion, width, 1) for _ in range(depth - 1)]
    return nn.Sequential(block(c, width, stride), *rest)


Encoder = Literal["resnet18", "resnet18_half", "resnet50"]


def build_encoder(name: Encoder, in_channels: int) -> ResNet:
    """Build an encoder: ResNet-18 (11 M parameters), the same at half the width (2.8 M), or ResNet-50 (24 M).

    Raises:
        ValueError: the name is not one of the three encoders.
    """
    if name == "resnet18":
        return ResNet(BasicBlock, (2, 2, 2, 2), in_channels)
    if name == "resnet18_half":
        return ResNet(BasicBlock, (2, 2, 2, 2), in_channels, width=32)
    if name == "resnet50":
        return ResNet(Bottleneck, (3, 4, 6, 3), in_channels)
    raise ValueError(f"encoder must be resnet18, resnet18_half or resnet50, got {name!r}")


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


def nms(boxes_yxyx: Float[Tensor, "n 4"], score: Float[Tensor, " n"], iou_above: float) -> Int[Tensor, " k"]:
    """Return the indices of the boxes kept by greedy non-maximum suppression, best score first."""
    order = score.argsort(descending=True, stable=True)
    boxes = boxes_yxyx[order]
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    area = size.prod(1)
    alive = torch.ones(len(boxes), dtype=torch.bool)
    kept = []
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        kept.append(i)
        low = torch.maximum(boxes[i, :2], boxes[i + 1 :, :2])
        high = torch.minimum(boxes[i, 2:], boxes[i + 1 :, 2:])
        common = (high - low).clamp(min=0).prod(1)
        alive[i + 1 :] &= common <= iou_above * (area[i] + area[i + 1 :] - common)
    return order[torch.tensor(kept, dtype=torch.long)]


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

    One bilinear resampling of the nine shifted maps and one matrix product; samples outside the map are zero.
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
    b, c, h, w = x.shape
    ys, xs = torch.meshgrid(torch.arange(h, device=x.device), torch.arange(w, device=x.device), indexing="ij")
    taps = torch.stack(torch.meshgrid(torch.arange(-1, 2), torch.arange(-1, 2), indexing="ij"), -1).reshape(9, 1, 1, 2)
    place = torch.stack([ys, xs], -1) + taps.to(x.device)  # (9, H, W, 2)
    yx = place + offset_yx.reshape(b, 9, 2, h, w).permute(0, 1, 3, 4, 2)  # (B, 9, H, W, 2)
    taken = sample_bilinear(x, yx.reshape(b, 9 * h, w, 2), "zeros").reshape(b, c, 9, h, w)
    if mask is not None:
        taken = taken * mask[:, None]
    columns = taken.reshape(b, c * 9, h * w)
    return (weight.reshape(len(weight), -1) @ columns + bias[:, None]).reshape(b, -1, h, w)  # (B, D, H, W)
