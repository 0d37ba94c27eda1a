"""Find a query in a source by filters made from the query: FTFY (Ha et al., CVPR Workshops 2018).

Glossary
    S sources, Q queries, P pairs of one source and one query in a batch; R turned views of one query.
    s stride of the features (16 in the paper, 8 in the slim size); h, w cells of a source's map; k cells a side of a query's.
    D channels of the features (D_fm); N filters made from a query (N_f); B boxes predicted at each cell.
    S_i feature of a source at cell i, F_j filter j of a query; both of unit length.
    x, y place of a box's center within its cell; √w, √h roots of its sides as parts of the block's; C confidence;
    (cos, sin) of the angle by which the query's x axis is turned towards y in the source.

The paper's order: feature extraction (3.1), filter generator and correlation (3.2), box prediction (3.3). The triplet network
(section 4) is at the end. Deviations are listed in docs/theory/places.md.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fiducial.coords import cell_centers_yx
from fiducial.layers import conv_norm

KERNELS = (3, 3, 3, 1, 3, 3, 1, 3, 3, 1, 3, 3, 1)
HEAD_KERNELS = (3, 3, 1, 3, 1, 3)
TERMS = 7  # x, y, √w, √h, C, cos, sin
_SLOPE = 0.1  # of the leaky rectifier, as in YOLO


@dataclass(frozen=True)
class Config:
    """Sizes of an FTFY network; it travels in the header of the weights.

    Attributes:
        channels: of the 13 convolutions of the extractor. first_pool: False leaves out the pooling after the second.
        filters: N, made from each query.
        head: channels of the six convolutions before the last.
        boxes: B. dropout, last_dropout: on the correlation map, and before the last layer.
        query_px: side to which a query is brought. block_px: side of a training block, the unit of box sides.
        box_px: least and largest side of a box in the block that the network learns.
        turn_deg: largest angle, either way, of a query in its source that the network learns.
    """

    channels: tuple[int, ...] = (16, 16, 24, 16, 24, 48, 32, 64, 96, 64, 128, 128, 128)
    first_pool: bool = False
    filters: int = 64
    head: tuple[int, ...] = (96, 96, 64, 96, 64, 96)
    boxes: int = 2
    dropout: float = 0.1
    last_dropout: float = 0.1
    query_px: int = 64
    block_px: int = 128
    box_px: tuple[float, float] = (32.0, 80.0)
    turn_deg: float = 30.0

    @property
    def stride(self) -> int:
        """Pixels of a source in a cell of its features."""
        return 16 if self.first_pool else 8


def slim() -> Config:
    """Return the configuration that ships: stride 8 and narrow convolutions, 1.4 M parameters against 40 M."""
    return Config()


def paper() -> Config:
    """Return the paper's sizes, by the authors' released configuration."""
    return Config(
        channels=(32, 64, 128, 64, 128, 256, 128, 256, 512, 256, 512, 1024, 512),
        first_pool=True,
        filters=256,
        head=(512, 256, 128, 256, 128, 256),
        dropout=0.3,
        last_dropout=0.2,
        query_px=128,
        block_px=256,
        box_px=(40.0, 160.0),
    )


@dataclass(frozen=True)
class Output:
    """What the network says of P pairs: for each cell and box the seven terms of the glossary.

    Attributes:
        logits: of x, y, √w, √h and C. heading: (cos, sin), of any length.
    """

    logits: Float[Tensor, "p b 5 h w"]
    heading: Float[Tensor, "p b 2 h w"]
    stride: int
    block_px: int

    def boxes(self) -> Float[Tensor, "p b 5 h w"]:
        """Return center y, center x, height, width in pixels of the source, and the angle in radians."""
        h, w = self.logits.shape[-2:]
        centers = torch.from_numpy(cell_centers_yx((h * self.stride, w * self.stride), self.stride)).to(self.logits)
        cell_y, cell_x = centers.T.reshape(2, h, w)
        x, y, root_w, root_h = self.logits[:, :, :4].sigmoid().unbind(2)
        angle = torch.atan2(self.heading[:, :, 1], self.heading[:, :, 0])
        center = cell_y + (y - 0.5) * self.stride, cell_x + (x - 0.5) * self.stride
        return torch.stack([*center, root_h**2 * self.block_px, root_w**2 * self.block_px, angle], dim=2)


class Extractor(nn.Module):
    """Turn an image into features at stride s: 13 convolutions with a passthrough (section 3.1)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config.channels
        fan_in = [1, *c[:10], 16 * c[4] + 4 * c[7] + c[10], c[11]]
        self.convs = nn.ModuleList(
            conv_norm(a, b, kernel, act=nn.LeakyReLU(_SLOPE, inplace=True))
            for a, b, kernel in zip(fan_in, c, KERNELS, strict=True)
        )
        self.first_pool = config.first_pool

    def forward(self, image: Float[Tensor, "b 1 H W"]) -> Float[Tensor, "b d h w"]:
        x, stacked = image, []
        for i, conv in enumerate(self.convs[:11], start=1):
            x = conv(x)
            if i in (5, 8, 11) or (i == 2 and self.first_pool):
                x = F.avg_pool2d(x, 2)
            if i in (5, 8, 11):
                stacked.append(x)  # at strides s/4, s/2 and s
        stacked = [F.pixel_unshuffle(part, fold) for part, fold in zip(stacked, (4, 2, 1), strict=True)]
        for conv in self.convs[11:]:
            x = conv(torch.cat(stacked, dim=1)) if conv is self.convs[11] else conv(x)
        return x  # (B, D, H/s, W/s)


class FilterGenerator(nn.Module):
    """Make N filters of length D from a query's features: the hyper-network of section 3.2.

    Each channel image (k, k) is projected by the same D filters of k × k to a latent of length D, and that to N values. At
    the start latent j is the feature at cell j of the query, and filter j is latent j: training begins with a comparison
    cell by cell.
    """

    def __init__(self, channels: int, cells: int, filters: int) -> None:
        super().__init__()
        project, expand = nn.Conv2d(1, channels, cells, bias=False), nn.Conv2d(channels, filters, 1, bias=False)
        with torch.no_grad():
            for conv in (project, expand):
                flat = conv.weight.view(conv.out_channels, -1)
                flat.mul_(0.1).add_(torch.eye(*flat.shape))
        self.project = nn.Sequential(project, nn.BatchNorm2d(channels), nn.LeakyReLU(_SLOPE, inplace=True))
        self.expand = nn.Sequential(expand, nn.BatchNorm2d(filters), nn.LeakyReLU(_SLOPE, inplace=True))

    def forward(self, features: Float[Tensor, "q d k k"]) -> Float[Tensor, "q n d"]:
        q, d, k, _ = features.shape
        latent = self.project(features.reshape(q * d, 1, k, k))  # (Q·D, D, 1, 1)
        made = self.expand(latent).reshape(q, d, -1).mT  # (Q, N, D)
        return F.normalize(made.float(), dim=-1)


class FTFY(nn.Module):
    """Extract, make filters, correlate, predict boxes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        depth = config.channels[-1]
        self.extractor = Extractor(config)
        self.generator = FilterGenerator(depth, config.query_px // config.stride, config.filters)
        self.log_temperature = nn.Parameter(torch.tensor(2.0))  # cosines are multiplied by its exponential
        fan_in = (config.filters, *config.head[:-1])
        convs = [
            conv_norm(a, b, kernel, act=nn.LeakyReLU(_SLOPE, inplace=True))
            for a, b, kernel in zip(fan_in, config.head, HEAD_KERNELS, strict=True)
        ]
        self.head = nn.Sequential(nn.Dropout(config.dropout), *convs, nn.Dropout(config.last_dropout))
        self.last = nn.Conv2d(config.head[-1], TERMS * config.boxes, 1)
        assert self.last.bias is not None
        with torch.no_grad():
            bias = self.last.bias.view(config.boxes, TERMS)
            bias[:, 4], bias[:, 5] = -4.0, 1.0  # most cells hold no box; headings start upright

    def encode_source(self, source: Float[Tensor, "s 1 H W"]) -> Float[Tensor, "s d h w"]:
        """Return a source's features of unit length; its sides are multiples of the stride."""
        return F.normalize(self.extractor(source).float(), dim=1)

    def encode_query(self, query: Float[Tensor, "q 1 H W"]) -> Float[Tensor, "q n d"]:
        """Return the filters of queries of query_px × query_px pixels."""
        made: Tensor = self.generator(self.extractor(query))
        return made

    def correlate(self, source: Float[Tensor, "p d h w"], filters: Float[Tensor, "p n d"]) -> Output:
        """Compare features and filters, pair by pair, and predict boxes.

        A 1×1 convolution with one group per pair is a product of matrices for each pair.
        """
        cosine = torch.einsum("pnd,pdhw->pnhw", filters.to(source.dtype), source)  # (P, N, h, w)
        terms = self.last(self.head(self.log_temperature.exp() * cosine))  # (P, 7·B, h, w)
        terms = terms.float().unflatten(1, (self.config.boxes, TERMS))  # (P, B, 7, h, w)
        return Output(terms[:, :, :5], terms[:, :, 5:], self.config.stride, self.config.block_px)

    def forward(
        self,
        source: Float[Tensor, "s 1 H W"],
        query: Float[Tensor, "q 1 K K"],
        source_index: Int[Tensor, " p"],
        query_index: Int[Tensor, " p"],
    ) -> Output:
        """Predict the boxes of pairs of sources and queries, each named by its index in the batch."""
        return self.correlate(self.encode_source(source)[source_index], self.encode_query(query)[query_index])


class TripletNet(nn.Module):
    """Describe a patch by a vector of unit length (section 4): what FTFY starts from and is compared with."""

    LENGTH = 128

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        cells = config.query_px // config.stride
        self.extractor = Extractor(config)
        self.last = nn.Linear(config.channels[-1] * cells * cells, self.LENGTH)

    def forward(self, patch: Float[Tensor, "b 1 K K"]) -> Float[Tensor, "b v"]:
        """Return the descriptors of patches of query_px × query_px pixels."""
        return F.normalize(self.last(self.extractor(patch).flatten(1)).float(), dim=1)
