"""CADSN computes what its equations say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fiducial.blobs.network import (
    CADSN,
    Config,
    CrossStreamAttention,
    GradientEnhancedConv,
    ScaleAdaptivePooling,
    StreamFusion,
    local_contrast,
    paper,
    side_by_side,
    slim,
)

TINY = Config(encoder="resnet18_half", dim=16, heads=2, fine_dim=8)
BARE = replace(TINY, pyramid=False, edges=False, pooling=False)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def network() -> CADSN:
    """Return a small network whose norms have statistics and whose answers differ clearly from place to place."""
    made = CADSN(TINY)
    with torch.no_grad():
        for _ in range(3):
            made(torch.rand(2, 3, 64, 96))
    return made.eval()


# Pooling across scales


def alpha_by_hand(pooling: ScaleAdaptivePooling, maps: list[Tensor]) -> Tensor:
    first, _, last = pooling.weigh
    bids = []
    for p in maps:
        statistics = torch.cat([p.mean((0, 2, 3)), (p.var((0, 2, 3), correction=0) + 1e-6).sqrt()])
        bids.append(last.weight[0] @ torch.relu(first.weight @ statistics + first.bias) + last.bias[0])
    e = torch.stack(bids).exp()
    return e / e.sum()


def blocks(x: Tensor, side: int) -> Tensor:
    """Return the mean of each block of side × side cells."""
    b, d, h, w = x.shape
    return x.reshape(b, d, h // side, side, w // side, side).mean((3, 5))


def test_scales_are_weighed_by_a_softmax_over_their_statistics() -> None:
    pooling, x = ScaleAdaptivePooling(16), 3 * torch.randn(1, 16, 16, 24)
    maps = [blocks(x, 2**k) for k in range(4)]  # eq. 1
    alpha = alpha_by_hand(pooling, maps)  # eq. 2
    torch.testing.assert_close(pooling.weights(maps)[0], alpha)
    assert alpha.sum().item() == pytest.approx(1)
    assert alpha.std() > 1e-3
    spread = [F.interpolate(p, size=(16, 24), mode="bilinear") for p in maps]
    torch.testing.assert_close(pooling(x), torch.stack([a * p for a, p in zip(alpha, spread, strict=True)]).sum(0))  # eq. 3


def test_the_mean_alone_cannot_tell_scales_apart() -> None:
    pooling, x = ScaleAdaptivePooling(16), torch.randn(2, 16, 16, 24)
    maps = [blocks(x, 2**k) for k in range(4)]
    assert pooling.weights(maps).std(dim=1).min() > 1e-3
    pooling.weigh[0].weight.data[:, 16:] = 0  # what weighs the deviations
    torch.testing.assert_close(pooling.weights(maps), torch.full((2, 4), 0.25))


def test_maps_of_equal_statistics_weigh_the_same() -> None:
    pooling = ScaleAdaptivePooling(16)
    torch.testing.assert_close(pooling.weights([torch.randn(2, 16, 5, 7)] * 4), torch.full((2, 4), 0.25))
    flat = torch.rand(1, 16, 1, 1).expand(1, 16, 6, 9).contiguous()
    torch.testing.assert_close(pooling(flat), flat)


# Edges


def test_the_gradient_of_a_ramp_is_eight_times_its_slope() -> None:
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(14.0), indexing="ij")
    ramps = torch.stack([3 * x, -2 * y, 3 * x + 4 * y])[None]
    g = GradientEnhancedConv(3).gradient(ramps)[0, :, 1:-1, 1:-1]
    torch.testing.assert_close(g, torch.tensor([24.0, 16.0, 40.0])[:, None, None].expand_as(g), atol=1e-3, rtol=1e-5)


def gradient_by_hand(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, 1, mode="edge")
    g = np.zeros_like(x)
    for i, j in np.ndindex(*x.shape):
        (a, b, c), (d, _, e), (f, h, k) = padded[i : i + 3, j : j + 3]
        g[i, j] = math.sqrt((c + 2 * e + k - a - 2 * d - f) ** 2 + (f + 2 * h + k - a - 2 * b - c) ** 2 + 1e-6)
    return g


def test_edges_are_weighed_as_equations_5_and_6_say() -> None:
    conv, x = GradientEnhancedConv(4).eval(), torch.randn(2, 4, 7, 10)
    g = torch.tensor(np.array([[gradient_by_hand(c) for c in image] for image in x.double().numpy()])).float()
    torch.testing.assert_close(conv.gradient(x), g, atol=1e-4, rtol=1e-4)
    enhanced = conv.join(torch.cat([torch.relu(conv.learned[1](conv.learned[0](x))), g], dim=1))
    mask = conv.focus(torch.stack([g.amax(1), g.mean(1)], dim=1)).sigmoid()
    assert mask.std() > 0.01
    torch.testing.assert_close(conv(x), mask * enhanced, atol=1e-4, rtol=1e-4)


def test_the_gradients_filter_is_fixed() -> None:
    conv = GradientEnhancedConv(4)
    assert "sobel" in dict(conv.named_buffers())
    assert not [name for name in (*dict(conv.named_parameters()), *conv.state_dict()) if "sobel" in name]


# Streams


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Return the softmax attention of maps (D, H, W), one head and one query after the other (eq. 7)."""
    flat = [m.flatten(1).T for m in (q, k, v)]  # (L, D)
    width, out = q.shape[0] // heads, torch.zeros_like(flat[0])
    for n in range(heads):
        own = slice(n * width, (n + 1) * width)
        for i, query in enumerate(flat[0]):
            e = (flat[1][:, own] @ query[own] / math.sqrt(width)).exp()
            out[i, own] = (e / e.sum()) @ flat[2][:, own]
    return out.T.reshape(q.shape)


def test_each_stream_attends_to_the_other() -> None:
    attention, (ms, edges) = CrossStreamAttention(8, 2), 2 * torch.randn(2, 1, 8, 3, 5)
    q_ms, k_ms, v_ms = attention.of_ms(ms)[0].chunk(3)
    q_e, k_e, v_e = attention.of_edges(edges)[0].chunk(3)
    to_ms, to_edges, _ = attention(ms, edges)
    torch.testing.assert_close(to_ms[0], ms[0] + attended(q_ms, k_e, v_e, 2))  # eq. 8
    torch.testing.assert_close(to_edges[0], edges[0] + attended(q_e, k_ms, v_ms, 2))


def test_part_of_an_image_attends_to_the_whole() -> None:
    attention, (ms, edges) = CrossStreamAttention(8, 2), 2 * torch.randn(2, 1, 8, 3, 5)
    to_ms, to_edges, of_whole = attention(ms, edges)
    part = (..., slice(1, 3), slice(0, 4))
    seen_ms, seen_edges, tokens = attention(ms[part], edges[part], of_whole)
    torch.testing.assert_close((seen_ms, seen_edges), (to_ms[part], to_edges[part]))
    assert all(used is given for used, given in zip(tokens, of_whole, strict=True))


def test_heads_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="dim=10 heads=4"):
        CrossStreamAttention(10, 4)


def test_the_gate_lies_between_the_streams_one_value_per_channel() -> None:
    fusion, (ms, edges) = StreamFusion(replace(TINY, fusion="gated"), attend=True), torch.randn(2, 2, 16, 3, 5)
    assert fusion.gate is not None
    means = torch.cat([ms.mean((2, 3)), edges.mean((2, 3))], dim=1)
    beta = 1 / (1 + (-(means @ fusion.gate.weight.T + fusion.gate.bias)).exp())  # (2, 16)
    assert beta.std(dim=1).min() > 0.01
    expected = edges + beta[:, :, None, None] * (ms - edges)  # eq. 9
    torch.testing.assert_close(fusion(ms, edges)[0], expected)


def test_attention_comes_before_the_gate() -> None:
    fusion, (ms, edges) = StreamFusion(TINY, attend=True), torch.randn(2, 2, 16, 3, 5)
    gate = StreamFusion(replace(TINY, fusion="gated"), attend=True)
    assert fusion.attention is not None
    assert fusion.gate is not None
    assert gate.gate is not None
    gate.gate.load_state_dict(fusion.gate.state_dict())
    torch.testing.assert_close(fusion(ms, edges)[0], gate(*fusion.attention(ms, edges)[:2])[0])


def test_the_plain_fusions_are_a_sum_and_a_learned_mix() -> None:
    ms, edges = torch.randn(2, 2, 16, 3, 5)
    torch.testing.assert_close(StreamFusion(replace(TINY, fusion="addition"), attend=True)(ms, edges)[0], ms + edges)
    mix = StreamFusion(replace(TINY, fusion="concatenation"), attend=True)
    assert mix.join is not None
    w, b = mix.join.weight[:, :, 0, 0], mix.join.bias
    assert b is not None
    expected = torch.einsum("oi,bihw->bohw", w, torch.cat([ms, edges], dim=1)) + b[:, None, None]
    torch.testing.assert_close(mix(ms, edges)[0], expected)


# The whole


def forward_by_hand(network: CADSN, image: Tensor) -> Tensor:
    """Return the logits of an image whose sides are multiples of 32, in the order of docs/theory/blobs.md."""
    fine, *maps = network.encoder(torch.cat([image - 0.5, local_contrast(image)], dim=1))
    streams = []
    for i, f in enumerate(maps):
        ms = network.lateral[i](f)
        ms = ms + network.pooling(ms) if i == 3 and network.pooling is not None else ms
        e = network.edges[i](ms)
        if i > 0:
            ms, e, _ = network.fusion[i].attention(ms, e)
        beta = network.fusion[i].gate(torch.cat([ms.mean((2, 3)), e.mean((2, 3))], dim=1)).sigmoid()[..., None, None]
        streams.append(beta * ms + (1 - beta) * e)
    x = streams[3]
    for finer in (streams[2], streams[1], streams[0]):  # eq. 4
        x = finer + F.interpolate(x, scale_factor=2, mode="bilinear")
    top = F.interpolate(network.fine_top(x), scale_factor=2, mode="bilinear")
    out = network.head(network.fine_lateral(fine) + top)
    logits = torch.zeros(len(image), 1, *image.shape[-2:])
    for i, j in np.ndindex(2, 2):
        logits[:, 0, i::2, j::2] = out[:, 2 * i + j]
    return logits


def test_the_network_goes_through_its_parts_in_the_stated_order(network: CADSN) -> None:
    image = torch.rand(2, 3, 64, 96)
    logits = network(image).logits
    assert logits.std() > 0.05
    torch.testing.assert_close(logits, forward_by_hand(network, image), atol=1e-4, rtol=1e-4)
    assert [fusion.attention is not None for fusion in network.fusion] == [False, True, True, True]


def test_without_the_pyramid_what_is_fused_comes_from_stride_8_alone() -> None:
    bare, image = CADSN(BARE).eval(), torch.rand(1, 3, 64, 96)
    eighth = bare.encoder(torch.cat([image - 0.5, local_contrast(image)], dim=1))[2]
    expected = F.interpolate(bare.lateral[1](eighth), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(bare(image).fused, expected)


@pytest.mark.parametrize(
    "config", [TINY, BARE, *(replace(TINY, fusion=fusion) for fusion in ("gated", "addition", "concatenation"))], ids=str
)
def test_an_image_in_the_context_of_itself_gives_what_it_gives_alone(config: Config) -> None:
    network, image = CADSN(config).eval(), torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(network(image, network.context(image, 1)).logits, network(image).logits)


def test_a_part_far_from_its_borders_gives_what_the_whole_gives() -> None:
    """Alone it does not: other means gate it, and it attends to less."""
    torch.manual_seed(1)
    shallow = CADSN(TINY).eval()
    image = torch.cat([torch.rand(1, 3, 256, 384), 0.2 * torch.rand(1, 3, 256, 128)], dim=3)
    whole = shallow(image).logits[..., 96:160, 96:160]
    alone, within = (shallow(image[..., :256, :256], c).logits[..., 96:160, 96:160] for c in (None, shallow.context(image, 1)))
    scale = whole.std()
    assert (within - whole).std() < 0.1 * (alone - whole).std() + 1e-4 * scale


def test_views_stand_for_an_image_as_one_row_by_row(network: CADSN) -> None:
    """Of views that are all alike, any number in any grid says what one does."""
    view = torch.rand(1, 3, 64, 64)
    one, many = network.context(view, 1), network.context(view.expand(6, -1, -1, -1), 2)
    assert one.alpha is not None
    assert many.alpha is not None
    torch.testing.assert_close(many.alpha[0, 0], one.alpha[0, 0], atol=0.02, rtol=0)
    for few, more in zip(one.shared, many.shared, strict=True):
        assert few.beta is not None
        assert more.beta is not None
        torch.testing.assert_close(more.beta, few.beta, atol=0.02, rtol=0)
        assert few.tokens is None or [6 * t.shape[2] for t in few.tokens] == [t.shape[2] for t in more.tokens or ()]


def test_views_keep_their_order() -> None:
    """Four views, two by two, lie side by side as the quarters of an image."""
    whole = torch.arange(24.0).reshape(1, 1, 4, 6)
    quarters = torch.cat([whole[..., y : y + 2, x : x + 3] for y in (0, 2) for x in (0, 3)])
    torch.testing.assert_close(side_by_side(quarters, 2), whole)


def test_radii_are_read_at_the_centers_of_their_cells(network: CADSN) -> None:
    """A map that holds the column of each cell's center reads, between the outermost, as the column of each pixel."""
    columns = torch.arange(48) * 2 + 0.5

    def ramp(_: torch.nn.Module, __: tuple[Tensor], out: Tensor) -> Tensor:
        return columns.expand_as(out)

    network.head[1].register_forward_hook(ramp)
    radius = network(torch.rand(1, 3, 64, 96)).log_radius
    torch.testing.assert_close(radius[0, 0, 5, 1:-1], torch.arange(1.0, 95.0))


@pytest.mark.parametrize("size", [(37, 70), (64, 96), (5, 9), (1, 33)])
def test_outputs_have_the_size_of_the_image_whatever_it_is(network: CADSN, size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size)
    output = network(image)
    assert output.logits.shape == output.log_radius.shape == (1, 1, *size)
    padded = F.pad(image, (0, -size[1] % 32, 0, -size[0] % 32), mode="replicate")
    torch.testing.assert_close(output.logits, network(padded).logits[..., : size[0], : size[1]])


@pytest.mark.parametrize(
    "config",
    [
        replace(TINY, pyramid=False),
        replace(TINY, edges=False),
        replace(TINY, pooling=False),
        replace(TINY, fusion="gated"),
        replace(TINY, fusion="addition"),
        replace(TINY, fusion="concatenation"),
        replace(TINY, encoder="resnet18"),
        BARE,
        slim(),
        paper(),
    ],
    ids=["no pyramid", "no edges", "no pooling", "gated", "addition", "concatenation", "resnet18", "bare", "slim", "paper"],
)
def test_every_configuration_runs_and_starts_from_few_centers(config: Config) -> None:
    network = CADSN(config).eval()
    with torch.no_grad():
        output = network(torch.rand(1, 3, 33, 50))
    assert output.logits.shape == (1, 1, 33, 50)
    assert output.fused.shape == (1, config.dim, 16, 16)
    assert output.logits.isfinite().all()
    assert output.logits.sigmoid().mean() < 0.2


def test_a_switch_takes_its_part_out() -> None:
    def names(config: Config) -> set[str]:
        with torch.device("meta"):
            return {name.split(".")[0] for name in CADSN(config).state_dict()}

    assert names(TINY) - names(replace(TINY, pooling=False)) == {"pooling"}
    assert names(TINY) - names(replace(TINY, edges=False)) == {"edges", "fusion"}


def test_images_of_a_batch_equal_single_ones(network: CADSN) -> None:
    images = torch.rand(3, 3, 37, 70)
    together = network(images)
    for i in range(3):
        alone = network(images[i, None])
        torch.testing.assert_close(together.logits[i, None], alone.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.log_radius[i, None], alone.log_radius, atol=1e-4, rtol=1e-4)
    assert (together.logits[0] - together.logits[1]).abs().max() > 0.05


def test_local_contrast_knows_neither_gain_nor_offset_and_is_bounded() -> None:
    image = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(local_contrast(0.5 * image + 0.3), local_contrast(image), atol=0.02, rtol=0.02)
    assert local_contrast(image).std() == pytest.approx(0.5, abs=0.05)
    assert not local_contrast(torch.full((1, 3, 32, 64), 0.7)).abs().gt(1e-4).any()
    spike = torch.zeros(1, 3, 64, 96)
    spike[..., 30, 40] = 100
    assert local_contrast(spike).max() == 2


# Embeddings


def test_an_embedding_sees_its_blobs_own_pixels(network: CADSN) -> None:
    """Maps that hold y, x and 1 at each cell's center are averaged to the blob's center, however large it is."""
    rows, columns = (torch.arange(n) * 4 + 1.5 for n in (20, 30))
    fused = torch.stack([rows[:, None].expand(20, 30), columns.expand(20, 30), torch.ones(20, 30), *torch.zeros(13, 20, 30)])[
        None
    ]
    given: list[Tensor] = []
    network.embed.register_forward_pre_hook(lambda _, part: given.append(part[0]))
    yx, radius = torch.tensor([[30.0, 41.5], [37.25, 60.0], [40.0, 55.0]]), torch.tensor([1.0, 6.0, 20.0])
    network.embeddings(fused, yx, radius, torch.zeros(3, dtype=torch.long))
    seen = given[0].unflatten(1, (16, 3, 3))
    torch.testing.assert_close(seen[:, :2].mean((2, 3)), yx)
    reach = seen[:, 0, 2].mean(1) - yx[:, 0]  # of the last of three rows, from the center
    torch.testing.assert_close(reach, 2 / 3 * torch.tensor([2.0, 6.0, 20.0]))


def test_embeddings_are_unit_vectors_of_the_image_that_is_named(network: CADSN) -> None:
    fused = torch.randn(2, 16, 20, 30)
    yx, radius = torch.tensor([[30.0, 41.0]]).repeat(4, 1), torch.tensor([6.0, 6.0, 12.0, 6.0])
    e = network.embeddings(fused, yx, radius, torch.tensor([0, 1, 1, 0]))
    torch.testing.assert_close(e.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(e[0], e[3])
    assert (e[0] @ e[1]) < 0.99
    assert (e[1] @ e[2]) < 0.99
    assert network.embeddings(fused, yx[:0], radius[:0], torch.zeros(0, dtype=torch.long)).shape == (0, 128)


def test_embeddings_move_with_the_image() -> None:
    bare, scene = CADSN(BARE).eval(), torch.rand(1, 3, 288, 320)
    before, after = (bare(view.contiguous()).fused for view in (scene[..., :-32, :-64], scene[..., 32:, 64:]))
    yx, radius, zero = torch.tensor([[144.0, 160.5], [130.25, 150.0]]), torch.tensor([6.0, 11.0]), torch.zeros(2).long()
    e = bare.embeddings(before, yx, radius, zero)
    torch.testing.assert_close(bare.embeddings(after, yx - torch.tensor([32.0, 64.0]), radius, zero), e, atol=1e-4, rtol=1e-3)
    assert (bare.embeddings(after, yx, radius, zero) - e).abs().max() > 1e-3


# What was learned
