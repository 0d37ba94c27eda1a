"""Find keypoints that repeat across sensors: the multimodal keypoint network (Li et al., ISPRS Archives 2022), and describe.

Glossary
    y a map of features, C its channels; i, j a position.
    α peakiness of a value among its neighbors, β among the channels; γ their product, the best of all channels.
    Δ_1, Δ_2, Δ_3 weights of the maps of CNN-3, CNN-5 and DCN-2; O the keypoint map.
    s = 4 stride of the descriptors; D their length; h, w cells of their map.

The paper's order: convolutions and pooling (3.2), deformable convolutions (eq. 2-3), peakiness (eq. 4-6), the sum of the scales
(eq. 7). The descriptors, from the convolutions and a pyramid above them, are ours. Deviations: docs/theory/keypoints.md.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fiducial.layers import DeformableConv2d

STRIDE = 4  # pixels of an image in a cell of the descriptors
MULTIPLE = 16  # sides of an image are padded to it
_RIM = 3  # cells of reflection around the deformable convolutions, beyond which samples are zero; learned offsets get there


@dataclass(frozen=True)
class Config:
    """Sizes of a keypoint network; it travels in the header of the weights.

    Attributes:
        channels: of CNN-0 to CNN-5.
        deformable_channels: of DCN-0 to DCN-2. deformable: False puts plain convolutions in their place.
        scale_weights: Δ of eq. 7; (0, 0, 1) is a single scale.
        context: channels of the maps at strides 8 and 16 that the descriptors also see. descriptor: D.
        turn_deg, stretch: largest turn, either way, and largest ratio of scales at which descriptors are trained to agree.
    """

    channels: tuple[int, ...] = (8, 16, 32, 32, 64, 64)
    deformable_channels: int = 32
    deformable: bool = True
    scale_weights: tuple[float, ...] = (0.1, 0.3, 0.6)
    context: tuple[int, ...] = (96, 128)
    descriptor: int = 64
    turn_deg: float = 25.0
    stretch: float = 1.25


def slim() -> Config:
    """Return the configuration that ships: 0.9 M parameters, narrow where the maps are large."""
    return Config()


def paper() -> Config:
    """Return the paper's sizes; the descriptors' branch, which it does not have, in proportion."""
    return Config(channels=(32, 64, 64, 64, 128, 128), deformable_channels=128, context=(192, 256), descriptor=128)


@dataclass(frozen=True)
class Output:
    """What the network says of images.

    Attributes:
        score: O of each pixel, positive and unbounded.
        descriptors: of unit length, one for each cell of STRIDE pixels.
    """

    score: Float[Tensor, "b H W"]
    descriptors: Float[Tensor, "b d h w"]


def peakiness(y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 h w"]:
    """Return γ, how much each position stands out among its neighbors and among the channels (eq. 4-6)."""
    y = y.float()
    beta = F.softplus(y - y.mean(1, keepdim=True))  # eq. 4
    alpha = F.softplus(y - F.avg_pool2d(y, 3, stride=1, padding=1, count_include_pad=False))  # eq. 5
    return (alpha * beta).amax(1, keepdim=True)  # eq. 6


def confidence(score: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """Map O monotonically to [0, 1): 1 - exp(-O)."""
    return -torch.expm1(-score)


class KeypointNet(nn.Module):
    """Map an image to keypoint scores and descriptors."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        fan_in = (1, *config.channels[:-1])
        self.cnn = nn.ModuleList(_conv(a, b) for a, b in zip(fan_in, config.channels, strict=True))
        last, width = config.channels[-1], config.deformable_channels
        kind = DeformableConv2d if config.deformable else _plain
        self.dcn = nn.ModuleList(kind(last if i == 0 else width, width) for i in range(3))
        self.dcn_norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        coarse, coarsest = config.context
        self.down = nn.ModuleList([_conv(last, coarse, stride=2), _conv(coarse, coarsest, stride=2)])
        self.deepen = nn.ModuleList(
            [_conv(coarse, coarse), nn.Sequential(_conv(coarsest, coarsest), _conv(coarsest, coarsest))]
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, coarse, 1) for c in (last, coarse, coarsest))
        self.join = _conv(coarse, coarse)
        self.last = nn.Sequential(_conv(coarse, coarse), nn.Conv2d(coarse, config.descriptor, 1))

    def forward(self, image: Float[Tensor, "b 1 H W"]) -> Output:
        """Map gray images, equalized to [-1, 1] with 0 where undefined, of any size."""
        maps = self.convolve(image)
        size = (image.shape[2], image.shape[3])
        return Output(self.score(maps, size), self.describe_maps(maps, size))

    def describe(self, image: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b d h w"]:
        """Return the descriptors alone, which need no deformable convolution."""
        return self.describe_maps(self.convolve(image), (image.shape[2], image.shape[3]))

    def convolve(self, image: Float[Tensor, "b 1 H W"]) -> tuple[Tensor, Tensor]:
        """Return the maps of CNN-3 and CNN-5, at strides 2 and 4, of the image padded to a multiple of MULTIPLE."""
        h, w = image.shape[-2:]
        x = F.pad(image, (0, -w % MULTIPLE, 0, -h % MULTIPLE), mode="reflect")
        maps = []
        for i, conv in enumerate(self.cnn):
            x = conv(F.max_pool2d(x, 2) if i in (2, 4) else x)
            maps.append(x)
        return maps[3], maps[5]  # (B, C, H/2, W/2), (B, C, H/4, W/4)

    def score(self, maps: tuple[Tensor, Tensor], size: tuple[int, int]) -> Float[Tensor, "b H W"]:
        """Return O of images of a size from what `convolve` says of them."""
        x = F.pad(maps[1], (_RIM,) * 4, mode="reflect")
        for i, conv in enumerate(self.dcn):
            x = conv(x) if i == 2 else torch.relu(self.dcn_norms[i](conv(x)))  # eq. 3
        stages = (*maps, x[..., _RIM:-_RIM, _RIM:-_RIM])
        padded = [side + -side % MULTIPLE for side in size]
        gammas = [F.interpolate(peakiness(y), size=padded, mode="bilinear") for y in stages]
        total = sum(weight * gamma for weight, gamma in zip(self.config.scale_weights, gammas, strict=True))  # eq. 7
        return torch.as_tensor(total)[:, 0, : size[0], : size[1]]

    def describe_maps(self, maps: tuple[Tensor, Tensor], size: tuple[int, int]) -> Float[Tensor, "b d i j"]:
        """Return the descriptors of images of a size from what `convolve` says of them."""
        fine = maps[1]  # (B, C, H/4, W/4)
        middle = self.deepen[0](self.down[0](fine))  # (B, C, H/8, W/8)
        coarse = self.deepen[1](self.down[1](middle))  # (B, C, H/16, W/16)
        x = self.lateral[2](coarse)
        x = self.join(self.lateral[1](middle) + F.interpolate(x, size=middle.shape[-2:], mode="bilinear"))
        x = self.lateral[0](fine) + F.interpolate(x, size=fine.shape[-2:], mode="bilinear")
        cells = (-(-side // STRIDE) for side in size)
        described = self.last(x)[..., : next(cells), : next(cells)]
        return F.normalize(described.float(), dim=1)  # (B, D, h, w)


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """Build a convolution that reflects the map at its border: zeros would tell a network where it is."""
    conv = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False, padding_mode="reflect")
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


def _plain(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)
