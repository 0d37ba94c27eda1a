"""Compare a sample with its template by matched features: BGNet (Chen et al., Advanced Engineering Informatics).

Glossary
    B batch, H, W size of the pair in pixels, K defect classes (channel 0 of the output is the background).
    F_i^T, F_i^S features of template and sample at stride 2^i, i = 1..5; F^D their difference (eq. 8).
    C channels of a map, L = (H/s)·(W/s) positions of a map at stride s; a, b a position in the template, in the sample.
    P (L, L) matching probability (eq. 14); θ its threshold.
    detail: stride 8, many positions, fewer attention layers. semantic: stride 32, more attention layers.

The paper's order: Siamese encoder, position code, self- and cross-attention, matching, subtraction, fusion. Deviations are
listed in docs/theory/defects.md.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fiducial.encoders import Encoder, build_encoder
from fiducial.layers import (
    LinearAttentionLayer,
    conv_norm,
    matching_log_probability,
    mutual_matches,
    sinusoidal_encoding,
)

STRIDE = 32


@dataclass(frozen=True)
class Config:
    """Sizes and switches of a BGNet; it travels in the header of the weights.

    Attributes:
        classes: names of the defect classes; a mask holds 0 for background and 1 + index for a class.
        encoder: the Siamese encoder.
        siamese: False concatenates the two images before one encoder (ablation S1).
        attention: self- and cross-attention at strides 8 and 32 (S3, S5).
        matching: subtraction at matched places at strides 8 and 32 (S4, S5), else in place.
        detail_dim, semantic_dim: channels of attention and matching at strides 8 and 32.
        detail_layers, semantic_layers: pairs of self- and cross-attention there.
        heads: heads of the linear attention.
        temperature: of the dual softmax. threshold: θ of eq. 15.
        decoder: channels of the fusion at strides 16, 8, 4 and 2.
        sample_context: also hand the sample's own features at strides 4 and 2 to the fusion (not in the paper).
        box_margin_px: by how much the boxes of the training annotations exceed the defect on each side.
    """

    classes: tuple[str, ...]
    encoder: Encoder = "resnet18_half"
    siamese: bool = True
    attention: bool = True
    matching: bool = True
    detail_dim: int = 64
    semantic_dim: int = 128
    detail_layers: int = 1
    semantic_layers: int = 2
    heads: int = 4
    temperature: float = 0.1
    threshold: float = 0.2
    decoder: tuple[int, int, int, int] = (96, 64, 48, 32)
    sample_context: bool = True
    box_margin_px: float = 0.0


def slim(classes: tuple[str, ...]) -> Config:
    """Return the configuration that ships: half-width encoder, narrow attention."""
    return Config(classes)


def paper(classes: tuple[str, ...]) -> Config:
    """Return the paper's size: ResNet-18, attention and matching on the encoder's own channels."""
    return Config(
        classes,
        encoder="resnet18",
        detail_dim=128,
        semantic_dim=512,
        detail_layers=2,
        semantic_layers=4,
        heads=8,
        decoder=(256, 128, 64, 64),
        sample_context=False,
    )


@dataclass(frozen=True)
class Output:
    """What a BGNet says of a pair.

    Attributes:
        logits: class scores of each pixel of the sample before softmax; channel 0 is the background.
        detail_log_p, semantic_log_p: log P of eq. 14 at strides 8 and 32, or None where the network does not match.
    """

    logits: Float[Tensor, "b k h w"]
    detail_log_p: Float[Tensor, "b l l"] | None
    semantic_log_p: Float[Tensor, "b m m"] | None


class MatchedDifference(nn.Module):
    """Subtract the template's features from the sample's where they match (eq. 5-15)."""

    def __init__(self, config: Config, channels_in: int, dim: int, layers: int) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Identity() if channels_in == dim else nn.Conv2d(channels_in, dim, 1)
        self.self_attention, self.cross_attention = (
            nn.ModuleList(LinearAttentionLayer(dim, config.heads) for _ in range(layers if config.attention else 0))
            for _ in range(2)
        )

    def forward(
        self, template: Float[Tensor, "b c h w"], sample: Float[Tensor, "b c h w"], origin_yx: tuple[int, int]
    ) -> tuple[Float[Tensor, "b d h w"], Float[Tensor, "b l l"] | None]:
        maps = self.project(torch.cat([template, sample]))  # (2B, C, H/s, W/s)
        size = maps.shape[-2:]
        if self.config.attention:
            maps = maps + sinusoidal_encoding(maps.shape[1], (size[0], size[1]), origin_yx).to(maps)  # eq. 10
        t, s = maps.flatten(2).transpose(1, 2).chunk(2)  # each (B, L, C)
        for within, across in zip(self.self_attention, self.cross_attention, strict=True):
            t, s = within(t, t), within(s, s)  # eq. 5-6, inner
            t, s = across(t, s), across(s, t)  # eq. 5-6, outer
        if not self.config.matching:
            return _to_map(s - t, size), None
        log_p = matching_log_probability(t, s, self.config.temperature)  # (B, L, L), eq. 13-14
        matches = mutual_matches(log_p.detach(), self.config.threshold)  # eq. 15
        partner = t.gather(1, matches.template_index[..., None].expand_as(s))  # (B, L, C)
        return _to_map(s - partner * matches.matched[..., None], size), log_p  # eq. 8


def _to_map(tokens: Float[Tensor, "b l c"], size: torch.Size) -> Float[Tensor, "b c h w"]:
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *size)


class Fusion(nn.Module):
    """Fuse the differences from stride 32 up to full resolution, U-Net fashion (section 3.5)."""

    def __init__(self, skips: tuple[int, ...], widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        *shallow, deep = skips
        below = (deep, *widths[:-1])
        self.steps = nn.ModuleList(
            nn.Sequential(
                conv_norm(b + skip, width, 3, act=nn.ReLU()),
                conv_norm(width, width, 3, act=nn.ReLU()),
            )
            for b, skip, width in zip(below, reversed(shallow), widths, strict=True)
        )
        self.head = nn.Conv2d(widths[-1], 4 * classes, 3, padding=1)

    def forward(self, skips: tuple[Tensor, ...]) -> Float[Tensor, "b k h w"]:
        *shallow, x = skips
        for step, skip in zip(self.steps, reversed(shallow), strict=True):
            up = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = step(torch.cat([up, skip], dim=1))  # (B, width, H/s, W/s), s = 16, 8, 4, 2
        return F.pixel_shuffle(self.head(x), 2)  # (B, K+1, H, W)


class BGNet(nn.Module):
    """Segment the defects of a sample against its template."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder, 1 if config.siamese else 2)
        c1, c2, c3, c4, c5 = self.encoder.channels
        if config.siamese:
            self.detail = MatchedDifference(config, c3, config.detail_dim, config.detail_layers)
            self.semantic = MatchedDifference(config, c5, config.semantic_dim, config.semantic_layers)
            c3, c5 = config.detail_dim, config.semantic_dim
            if config.sample_context:
                c1, c2 = 2 * c1, 2 * c2
        self.fusion = Fusion((c1, c2, c3, c4, c5), config.decoder, 1 + len(config.classes))

    def forward(
        self,
        sample: Float[Tensor, "b 1 h w"],
        template: Float[Tensor, "b 1 h w"],
        origin_yx: tuple[int, int] = (0, 0),
    ) -> Output:
        """Compare two images with intensities near [0, 1].

        `origin_yx` shifts the position code, in cells of stride 32: training draws it, so that the network meets
        positions beyond its crops.
        """
        h, w = sample.shape[-2:]
        pad = (0, -w % STRIDE, 0, -h % STRIDE)
        sample, template = (F.pad(image - 0.5, pad, mode="replicate") for image in (sample, template))
        if not self.config.siamese:
            logits = self.fusion(self.encoder(torch.cat([sample, template], dim=1)))  # S1
            return Output(logits[..., :h, :w], None, None)
        both = self.encoder(torch.cat([template, sample]))  # five maps (2B, C_i, H/2^i, W/2^i)
        (t1, s1), (t2, s2), (t3, s3), (t4, s4), (t5, s5) = (m.chunk(2) for m in both)
        d3, detail_log_p = self.detail(t3, s3, (4 * origin_yx[0], 4 * origin_yx[1]))
        d5, semantic_log_p = self.semantic(t5, s5, origin_yx)
        d1, d2 = s1 - t1, s2 - t2
        if self.config.sample_context:
            d1, d2 = torch.cat([d1, s1], dim=1), torch.cat([d2, s2], dim=1)
        logits = self.fusion((d1, d2, d3, s4 - t4, d5))
        return Output(logits[..., :h, :w], detail_log_p, semantic_log_p)
