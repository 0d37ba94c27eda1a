"""Find every blob in a crowd: CADSN (Song and Lu, Cross-Attention Dual-Stream Network for Dense Blob Detection).

Glossary
    B batch, H, W size of the image in pixels, D channels of both streams, N heads, L = (H/s)·(W/s) cells at stride s.
    F_i maps of the backbone at stride 2^(i+1), i = 1..4, and F_0 at stride 2.
    MS the multi-scale stream, E the edge-aware stream; P_k a map pooled by 2^k, α_k its weight (eq. 1-3).
    G magnitude of the gradient (eq. 5), M its mask (eq. 6); A attention across streams (eq. 7-8); β the gate (eq. 9).
    P_blob probability that a pixel is a blob's center (eq. 10), r radius in pixels; e embedding of a blob (eq. 11).

The paper's order: backbone, pyramid pooling, edges, attention across streams, gate, pyramid, heads. Equations have the paper's
numbers; docs/theory/blobs.md has its own, and lists the deviations.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fiducial.coords import to_cells
from fiducial.encoders import Encoder, build_encoder
from fiducial.layers import conv_norm, roi_align

STRIDE = 32
POOLS = 4  # scales k = 0..3 of the pyramid pooling
NOMINAL_RADIUS_PX = 8.0  # the radius at which the radius map is 0
EMBEDDING = 128
ROI_CELLS = 3  # cells a side that an embedding sees of its blob
_FUSED_STRIDE = 4

Fusion = Literal["attention", "gated", "addition", "concatenation"]


@dataclass(frozen=True)
class Config:
    """Sizes and switches of a CADSN; it travels in the header of the weights.

    Attributes:
        encoder: the backbone. dim: D, channels of both streams. heads: of the attention across streams.
        fine_dim: channels of the pyramid's level at stride 2 (not in the paper).
        pyramid: False takes the blobs from stride 8 and the fine level alone (Table 3, the baseline).
        edges: the edge-aware stream. pooling: the scale-adaptive pyramid pooling.
        fusion: "attention" (across streams, then the gate), the gate alone, sum, or concatenation.
    """

    encoder: Encoder = "lite0"
    dim: int = 64
    heads: int = 4
    fine_dim: int = 48
    pyramid: bool = True
    edges: bool = True
    pooling: bool = True
    fusion: Fusion = "attention"


def slim() -> Config:
    """Return the configuration that ships: EfficientNet-Lite0, 64 channels."""
    return Config()


def paper() -> Config:
    """Return the paper's size: ResNet-50, eight heads."""
    return Config(encoder="resnet50", dim=256, heads=8, fine_dim=64)


@dataclass(frozen=True)
class Output:
    """What a CADSN says of an image.

    Attributes:
        logits: of P_blob, before the sigmoid (eq. 10).
        log_radius: log2 of the radius over NOMINAL_RADIUS_PX, meant where P_blob is high.
        fused: F_fused at stride 4, from which blobs are embedded.
    """

    logits: Float[Tensor, "b 1 h w"]
    log_radius: Float[Tensor, "b 1 h w"]
    fused: Float[Tensor, "b d i j"]


Tokens = tuple[Tensor, Tensor, Tensor, Tensor]  # keys and values of MS, then of E, each (B, N, L, D/N)


class Shared(NamedTuple):
    """What the fusion at one depth owes to the whole image: what is attended to (eq. 7), and β (B, D, 1, 1)."""

    tokens: Tokens | None
    beta: Tensor | None


@dataclass(frozen=True)
class Context:
    """All that the maps of any part of an image owe to the whole of it: α (1, 4) of the pooling, and `shared` by depth."""

    alpha: Tensor | None
    shared: list[Shared]


class ScaleAdaptivePooling(nn.Module):
    """Weigh copies of a map pooled by 1, 2, 4 and 8 by what their statistics say of the blobs' sizes (eq. 1-3)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(2 * dim, dim // 4), nn.ReLU(), nn.Linear(dim // 4, 1))

    def weights(self, pooled: list[Tensor]) -> Float[Tensor, "b k"]:
        """Return α_k; of mean and deviation of P_k the deviation alone depends on k."""
        statistics = [torch.cat([p.mean((2, 3)), (p.var((2, 3), correction=0) + 1e-6).sqrt()], dim=1) for p in pooled]
        return torch.cat([self.weigh(s) for s in statistics], dim=1).softmax(dim=1)  # (B, 4), eq. 2

    def pooled(self, x: Float[Tensor, "b d h w"]) -> list[Tensor]:
        """Return P_k."""
        h, w = x.shape[-2:]
        return [F.adaptive_avg_pool2d(x, (max(1, h >> k), max(1, w >> k))) for k in range(POOLS)]  # eq. 1

    def forward(self, x: Float[Tensor, "b d h w"], alpha: Float[Tensor, "n k"] | None = None) -> Float[Tensor, "b d h w"]:
        pooled = self.pooled(x)
        alpha = self.weights(pooled) if alpha is None else alpha
        spread = [F.interpolate(p, size=x.shape[-2:], mode="bilinear") for p in pooled]
        return torch.stack([a[:, None, None, None] * p for a, p in zip(alpha.unbind(1), spread, strict=True)]).sum(0)  # eq. 3


class GradientEnhancedConv(nn.Module):
    """Join learned filters with the gradient's magnitude, and dwell on edges (eq. 5-6)."""

    sobel: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.learned = conv_norm(dim, dim, 3, act=nn.ReLU())
        self.join = nn.Conv2d(2 * dim, dim, 1)
        self.focus = nn.Conv2d(2, 1, 7, padding=3)
        x = [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]
        y = [list(row) for row in zip(*x, strict=True)]
        sobel = torch.tensor([[x], [y]])  # not stacked: on the meta device, a stack loads torch's compiler, for seconds
        self.register_buffer("sobel", sobel.repeat(dim, 1, 1, 1), persistent=False)  # (2D, 1, 3, 3)

    def gradient(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        """Return G of each channel."""
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        slopes = F.conv2d(padded, self.sobel.to(x.dtype), groups=x.shape[1])  # (B, 2D, H, W): x and y of each channel
        return (slopes.reshape(len(x), -1, 2, *x.shape[2:]).float().square().sum(2) + 1e-6).sqrt().to(x.dtype)

    def forward(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
        g = self.gradient(x)
        enhanced = self.join(torch.cat([self.learned(x), g], dim=1))  # eq. 5
        pooled = torch.cat([g.amax(1, keepdim=True), g.mean(1, keepdim=True)], dim=1)  # (B, 2, H, W)
        return self.focus(pooled).sigmoid() * enhanced  # eq. 6


class CrossStreamAttention(nn.Module):
    """Let each stream attend to the other (eq. 7-8); the attention map is never held in memory.

    Raises:
        ValueError: `dim` is no multiple of `heads`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got dim={dim} heads={heads}")
        self.heads = heads
        self.of_ms, self.of_edges = (nn.Conv2d(dim, 3 * dim, 1) for _ in range(2))  # queries, keys and values of each stream

    def forward(
        self, ms: Float[Tensor, "b d h w"], edges: Float[Tensor, "b d h w"], tokens: Tokens | None = None
    ) -> tuple[Tensor, Tensor, Tokens]:
        """Return both streams and what they attended to: `tokens`, or else their own."""
        (q_ms, *own_ms), (q_e, *own_e) = (
            project(x).flatten(2).unflatten(1, (3 * self.heads, -1)).transpose(2, 3).contiguous().chunk(3, dim=1)
            for project, x in ((self.of_ms, ms), (self.of_edges, edges))
        )  # each (B, N, L, D/N)
        k_ms, v_ms, k_e, v_e = tokens = tokens or (*own_ms, *own_e)
        to_ms = F.scaled_dot_product_attention(q_ms, k_e, v_e)  # A_(E→MS) · V_E
        to_edges = F.scaled_dot_product_attention(q_e, k_ms, v_ms)
        return ms + _to_map(to_ms, ms), edges + _to_map(to_edges, edges), tokens  # eq. 8


def _to_map(tokens: Float[Tensor, "b n l e"], like: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d h w"]:
    return tokens.transpose(2, 3).reshape(like.shape)


class StreamFusion(nn.Module):
    """Fuse the two streams at one depth, as the configuration says."""

    def __init__(self, config: Config, *, attend: bool) -> None:
        super().__init__()
        self.kind = config.fusion
        self.attention = CrossStreamAttention(config.dim, config.heads) if attend and self.kind == "attention" else None
        self.gate = nn.Linear(2 * config.dim, config.dim) if self.kind in ("attention", "gated") else None
        self.join = nn.Conv2d(2 * config.dim, config.dim, 1) if self.kind == "concatenation" else None

    def forward(
        self, ms: Float[Tensor, "b d h w"], edges: Float[Tensor, "b d h w"], shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b d h w"], Shared]:
        """Return the fused stream and what it owes to the whole image: `shared`, or else what the streams themselves give."""
        tokens, beta = (None, None) if shared is None else shared
        if self.attention is not None:
            ms, edges, tokens = self.attention(ms, edges, tokens)
        if self.join is not None:
            return torch.as_tensor(self.join(torch.cat([ms, edges], dim=1))), Shared(tokens, beta)
        if self.gate is None:
            return ms + edges, Shared(tokens, beta)
        if beta is None:
            beta = self.gate(torch.cat([ms.mean((2, 3)), edges.mean((2, 3))], dim=1)).sigmoid()[:, :, None, None]
        return beta * ms + (1 - beta) * edges, Shared(tokens, beta)  # eq. 9


class CADSN(nn.Module):
    """Map an image to centers and radii of blobs, and blobs to embeddings."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder, 4)
        fine, *channels = self.encoder.channels
        self.lateral = nn.ModuleList(nn.Conv2d(c, config.dim, 1) for c in channels)
        self.pooling = ScaleAdaptivePooling(config.dim) if config.pooling else None
        self.edges = nn.ModuleList(GradientEnhancedConv(config.dim) for _ in channels if config.edges)
        self.fusion = nn.ModuleList(StreamFusion(config, attend=i > 0) for i in range(len(channels)) if config.edges)
        self.fine_lateral = nn.Conv2d(fine, config.fine_dim, 1)
        self.fine_top = nn.Conv2d(config.dim, config.fine_dim, 1)
        width = 2 * config.fine_dim
        self.head = nn.Sequential(conv_norm(config.fine_dim, width, 3, act=nn.ReLU()), nn.Conv2d(width, 5, 1))
        self.embed = nn.Linear(config.dim * ROI_CELLS**2, EMBEDDING)
        last = self.head[1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.constant_(last.bias[:4], -3.0)  # few pixels are centers

    def forward(self, image: Float[Tensor, "b 3 h w"], context: Context | None = None) -> Output:
        """Map RGB images with intensities near [0, 1]; a gray one holds its values three times.

        Of a part of an image, `context` is that of the whole: then parts give what the whole would.
        """
        h, w = image.shape[-2:]
        fine, maps = self._encode(image)
        if self.pooling is not None:
            maps[-1] = maps[-1] + self.pooling(maps[-1], None if context is None else context.alpha)
        if self.config.edges:
            shared = [None] * len(maps) if context is None else context.shared
            levels = zip(self.fusion, self.edges, maps, shared, strict=True)
            maps = [fuse(m, edge(m), of_whole)[0] for fuse, edge, m, of_whole in levels]
        fused = self._pyramid(maps)  # (B, D, H/4, W/4)
        top = F.interpolate(self.fine_top(fused), size=fine.shape[-2:], mode="bilinear")
        hidden = self.head[0](self.fine_lateral(fine) + top)
        with torch.autocast(image.device.type, enabled=False):  # bf16 would round the tops of wide peaks
            out = self.head[1](hidden.float())  # (B, 5, H/2, W/2), eq. 10
        logits = F.pixel_shuffle(out[:, :4], 2)[..., :h, :w]
        log_radius = F.interpolate(out[:, 4:], scale_factor=2.0, mode="bilinear")[..., :h, :w]
        return Output(logits, log_radius, fused)

    def context(self, views: Float[Tensor, "b 3 h w"], rows: int) -> Context:
        """Return what the maps of an image owe to the whole of it, given that, or views spread over it in a grid of `rows`."""
        _, maps = self._encode(views)
        alpha = None
        if self.pooling is not None:
            alpha = self.pooling.weights(self.pooling.pooled(side_by_side(maps[-1], rows)))
            maps[-1] = maps[-1] + self.pooling(maps[-1], alpha)
        levels = zip(self.fusion, self.edges, maps, strict=True) if self.config.edges else ()
        return Context(alpha, [fuse(*(side_by_side(x, rows) for x in (m, edge(m))))[1] for fuse, edge, m in levels])

    def _encode(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, list[Tensor]]:
        """Return F_0 and MS at strides 4 to 32, before pooling."""
        h, w = image.shape[-2:]
        padded = F.pad(image, (0, -w % STRIDE, 0, -h % STRIDE), mode="replicate")
        fine, *maps = self.encoder(torch.cat([padded - 0.5, local_contrast(padded)], dim=1))  # F_0 .. F_4
        return fine, [lateral(f) for lateral, f in zip(self.lateral, maps, strict=True)]  # each (B, D, H/s, W/s)

    def _pyramid(self, maps: list[Tensor]) -> Float[Tensor, "b d i j"]:
        """Add coarser maps to finer ones, down to stride 4 (eq. 4)."""
        if not self.config.pyramid:
            return F.interpolate(maps[1], size=maps[0].shape[-2:], mode="bilinear")
        x = maps[-1]
        for finer in reversed(maps[:-1]):
            x = finer + F.interpolate(x, size=finer.shape[-2:], mode="bilinear")
        return x

    def embeddings(
        self, fused: Float[Tensor, "b d i j"], yx: Float[Tensor, "n 2"], radius: Float[Tensor, " n"], index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n 128"]:
        """Return unit vectors of blobs, given their centers and radii in pixels and the images they lie in (eq. 11)."""
        reach = radius[:, None].clamp(min=2.0)
        boxes = torch.cat([yx - reach, yx + reach], dim=1)  # of pixels; the cells of F_fused are centered on their blocks
        seen = roi_align(fused.float(), to_cells(boxes, _FUSED_STRIDE), index, ROI_CELLS)
        return F.normalize(self.embed(seen.flatten(1)), dim=1)


def side_by_side(x: Float[Tensor, "b d h w"], rows: int) -> Float[Tensor, "1 d i j"]:
    """Lay maps of views side by side as a map of one image, row by row."""
    b, d, h, w = x.shape
    return x.reshape(rows, b // rows, d, h, w).permute(2, 0, 3, 1, 4).reshape(1, d, rows * h, b // rows * w)


def local_contrast(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Return half of the gray values less their mean nearby (about 40 px), over their deviation there, within ±2."""
    gray = image.float().mean(1, keepdim=True)
    mean = _nearby(gray)
    deviation = (_nearby((gray - mean).square()) + 0.02**2).sqrt()
    return ((gray - mean) / deviation).clamp(-4, 4).to(image.dtype) / 2


def _nearby(x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
    coarse = F.avg_pool2d(x, 8)
    wide = F.avg_pool2d(F.pad(coarse, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    return F.interpolate(wide, size=x.shape[-2:], mode="bilinear")
