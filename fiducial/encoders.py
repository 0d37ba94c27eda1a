"""Encode images into maps at strides 2 to 32: the backbones that two or more families use.

Glossary
    B batch, C1..C5 the channels of an encoder's maps at strides 2, 4, 8, 16 and 32.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fiducial.layers import conv_norm


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


# Kernel, stride, expansion, channels, number of blocks of each stage (Tan and Le 2019, table 1; "lite": ReLU6, no attention).
LITE0 = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_TF_EPS = 1e-3  # of normalization, with which the public weights were made


class InvertedResidual(nn.Module):
    """Widen by a 1×1 convolution, filter each channel, and narrow; add the input where sizes agree (Sandler et al. 2018)."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * channels_in
        self.widen = conv_norm(channels_in, wide, 1, act=nn.ReLU6()) if expansion > 1 else nn.Identity()
        self.filter = conv_norm(wide, wide, kernel, stride=stride, groups=wide, act=nn.ReLU6())
        self.narrow = conv_norm(wide, channels, 1, act=None)
        self.adds = stride == 1 and channels_in == channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        wide = self.widen(x)
        with torch.autocast(x.device.type, enabled=False):  # channel by channel, CPUs go back through float32 faster than bf16
            filtered = self.filter(wide.float())
        y: Tensor = self.narrow(filtered)
        return x + y if self.adds else y


class EfficientNetLite(nn.Module):
    """Encode an image into five maps, at strides 2 to 32: EfficientNet-Lite0 without its classifier (3.0 M parameters)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stem = conv_norm(in_channels, 32, 3, stride=2, act=nn.ReLU6())
        stages, c = [], 32
        for kernel, stride, expansion, channels, depth in LITE0:
            first = InvertedResidual(c, channels, kernel, stride, expansion)
            rest = (InvertedResidual(channels, channels, kernel, 1, expansion) for _ in range(depth - 1))
            stages.append(nn.Sequential(first, *rest))
            c = channels
        self.stages = nn.ModuleList(stages)
        self.channels = (16, 24, 40, 112, 320)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = _TF_EPS

    def forward(self, image: Float[Tensor, "b c h w"]) -> tuple[Tensor, ...]:
        x, maps = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[0], maps[1], maps[2], maps[4], maps[6]


def load_public_lite(encoder: EfficientNetLite, public: Mapping[str, Tensor]) -> None:
    """Begin an encoder of images near [-0.5, 0.5] with the public ImageNet weights of EfficientNet-Lite0, which see [-1, 1].

    `public` has the tensors in the network's order, whatever their names; channels beyond the first three begin with no effect.

    Raises:
        ValueError: it holds other tensors.
    """
    own, given = encoder.state_dict(), list(public.values())[: len(encoder.state_dict())]
    expected = [(32, 3, 3, 3), *(tuple(t.shape) for t in list(own.values())[1:])]
    if [tuple(t.shape) for t in given] != expected:
        raise ValueError("public must hold the tensors of EfficientNet-Lite0 in its order")
    begun = dict(zip(own, given, strict=True))
    stem = torch.zeros_like(own["stem.0.weight"])
    stem[:, :3] = begun["stem.0.weight"] * 255 / 128  # they were made for (rgb - 127) / 128
    encoder.load_state_dict(begun | {"stem.0.weight": stem})


Encoder = Literal["resnet18", "resnet18_half", "resnet50", "lite0"]


def build_encoder(name: Encoder, in_channels: int) -> ResNet | EfficientNetLite:
    """Build ResNet-18 (11 M parameters), the same at half the width (2.8 M), ResNet-50 (24 M), or EfficientNet-Lite0 (3.0 M).

    Raises:
        ValueError: the name is not one of the four encoders.
    """
    if name == "resnet18":
        return ResNet(BasicBlock, (2, 2, 2, 2), in_channels)
    if name == "resnet18_half":
        return ResNet(BasicBlock, (2, 2, 2, 2), in_channels, width=32)
    if name == "resnet50":
        return ResNet(Bottleneck, (3, 4, 6, 3), in_channels)
    if name == "lite0":
        return EfficientNetLite(in_channels)
    raise ValueError(f"encoder must be resnet18, resnet18_half, resnet50 or lite0, got {name!r}")
