"""FTFY compares as its equations say, and its loss asks for what is true."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fiducial.coords import cell_centers_yx, nearest_cell
from fiducial.layers import fold_norms
from fiducial.metrics import box_iou
from fiducial.places.loss import COORD, MARGIN, NO_OBJECT, RANKING, Truth, loss, overlap, ranking_loss, triplet_loss
from fiducial.places.network import FTFY, Config, Extractor, Output, TripletNet, paper

TINY = Config(
    channels=(8,) * 13, filters=16, head=(16,) * 6, dropout=0, last_dropout=0, query_px=32, block_px=64, box_px=(16.0, 40.0)
)
STRIDES = pytest.mark.parametrize("config", [TINY, replace(TINY, first_pool=True, query_px=64)], ids=["stride 8", "stride 16"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def network() -> FTFY:
    """Return a narrow network whose answers differ clearly from cell to cell."""
    made = FTFY(TINY).eval()
    with torch.no_grad():
        made.last.weight.mul_(30)
    return made


# The network


def test_most_of_the_papers_extractor_is_convolution_12() -> None:
    with torch.device("meta"):
        network = FTFY(paper())
    assert network.extractor.convs[11][0].weight.numel() == 1024 * (16 * 128 + 4 * 256 + 512) * 9  # 33 M
    assert sum(p.numel() for p in network.extractor.parameters()) == 36_849_504


def test_the_papers_example_makes_256_filters_of_512_from_8_by_8_cells() -> None:
    with torch.device("meta"):
        network, query = FTFY(paper()).eval(), torch.zeros(1, 1, 128, 128)
    assert network.extractor(query).shape == (1, 512, 8, 8)
    assert network.encode_query(query).shape == (1, 256, 512)


@STRIDES
def test_a_pixel_is_seen_by_the_cells_around_it_only(config: Config) -> None:
    extractor, s = Extractor(config).eval(), config.stride
    image = torch.rand(1, 1, 11 * s, 14 * s)
    for y, x in ((5 * s, 7 * s), (6 * s - 1, 8 * s - 1), (5 * s + 3, 7 * s + 1)):
        changed = image.clone()
        changed[..., y, x] += 1
        seen = (extractor(changed) != extractor(image)).any(dim=1)[0]
        assert seen.shape == (11, 14)
        far = np.linalg.norm(cell_centers_yx((11 * s, 14 * s), s) - (y, x), ord=np.inf, axis=1).reshape(11, 14)
        assert seen[5, 7]
        assert far[seen.numpy()].max() < 4.5 * s


@STRIDES
def test_the_passthrough_lays_each_part_on_its_cell(config: Config) -> None:
    """Entry c·f² + f·i + j of a part is channel c at row i, column j of the f × f positions of its cell."""
    extractor, s = Extractor(config).eval(), config.stride
    seen: list[torch.Tensor] = []
    extractor.convs[11].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = torch.rand(1, 1, 2 * s, 3 * s)
    extractor(x)
    parts = []
    for i, conv in enumerate(extractor.convs[:11], start=1):
        x = conv(x)
        x = F.avg_pool2d(x, 2) if i in (5, 8, 11) or (i == 2 and config.first_pool) else x
        parts += [x] if i in (5, 8, 11) else []
    (stacked,) = seen
    start = 0
    for part, fold in zip(parts, (4, 2, 1), strict=True):
        for c, i, j in np.ndindex(part.shape[1], fold, fold):
            assert torch.equal(stacked[:, start + c * fold**2 + i * fold + j], part[:, c, i::fold, j::fold])
        start += part.shape[1] * fold**2
    assert start == stacked.shape[1]


def test_features_filters_and_descriptors_have_unit_length(network: FTFY) -> None:
    patches = torch.rand(2, 1, 32, 32)
    for vectors in (
        network.encode_source(torch.rand(2, 1, 40, 72)).movedim(1, -1),
        network.encode_query(patches),
        TripletNet(TINY).eval()(patches),
    ):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))


def test_filters_start_as_the_features_of_the_querys_cells() -> None:
    """With as many channels as cells, filter j resembles the feature at cell j more than any other."""
    network = FTFY(replace(TINY, channels=(16,) * 13)).eval()
    query = torch.rand(1, 1, 32, 32)
    cells = network.encode_source(query)[0].flatten(1)  # (D, k·k)
    cosine = network.encode_query(query)[0] @ cells
    own = cosine.argmax(dim=1) == torch.arange(16)
    assert own.float().mean() > 0.7


def test_training_starts_from_nothing_found_and_nothing_turned() -> None:
    output = FTFY(TINY).eval()(torch.rand(1, 1, 64, 64), torch.rand(1, 1, 32, 32), torch.tensor([0]), torch.tensor([0]))
    assert output.logits[:, :, 4].sigmoid().max() < 0.1
    assert output.boxes()[:, :, 4].abs().max() < np.deg2rad(45)


def test_pairs_of_a_batch_equal_one_pair_at_a_time(network: FTFY) -> None:
    source, query = torch.rand(2, 1, 48, 72), torch.rand(3, 1, 32, 32)
    i, j = torch.tensor([0, 1, 1, 0]), torch.tensor([2, 0, 2, 0])
    together = network(source, query, i, j)
    zero = torch.tensor([0])
    for pair in range(4):
        alone = network(source[i[pair], None], query[j[pair], None], zero, zero)
        torch.testing.assert_close(together.logits[pair, None], alone.logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.heading[pair, None], alone.heading, atol=1e-4, rtol=1e-4)
    assert (together.logits[0] - together.logits[3]).abs().max() > 0.05  # the query matters
    assert (together.logits[0] - together.logits[2]).abs().max() > 0.05  # and so does the source


def test_correlation_is_a_convolution_with_one_group_per_pair(network: FTFY) -> None:
    source = network.encode_source(torch.rand(3, 1, 48, 72))  # (P, D, h, w)
    filters = network.encode_query(torch.rand(3, 1, 32, 32))  # (P, N, D)
    maps = F.conv2d(source.flatten(0, 1)[None], filters.flatten(0, 1)[..., None, None], groups=3).unflatten(1, (3, 16))[0]
    terms = network.last(network.head(network.log_temperature.exp() * maps)).unflatten(1, (2, 7))
    output = network.correlate(source, filters)
    torch.testing.assert_close(output.logits, terms[:, :, :5], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.heading, terms[:, :, 5:], atol=1e-4, rtol=1e-4)


def test_a_source_moved_by_a_cell_has_its_boxes_moved_by_a_stride(network: FTFY) -> None:
    scene, query, zero = torch.rand(1, 1, 192, 208), torch.rand(1, 1, 32, 32), torch.tensor([0])
    before, after = (network(view, query, zero, zero).boxes() for view in (scene[..., :-8, :-16], scene[..., 8:, 16:]))
    a, b = before[..., 9:15, 10:16], after[..., 8:14, 8:14]  # 8 cells from the border nothing knows of it
    assert b[:, :, :2].std(dim=(-2, -1)).min() > 0
    torch.testing.assert_close(a, b + torch.tensor([8.0, 16.0, 0, 0, 0])[:, None, None], atol=1e-2, rtol=1e-3)
    assert (before - after).abs().amax(dim=(0, 1, 3, 4))[2:].min() > 1e-2  # the map is not the same everywhere


def test_norms_folded_into_convolutions_change_no_answer(network: FTFY) -> None:
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5)
    given = torch.rand(2, 1, 48, 72), torch.rand(2, 1, 32, 32), torch.tensor([0, 1]), torch.tensor([1, 0])
    folded = fold_norms(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(*given).logits, network(*given).logits, atol=1e-3, rtol=1e-3)


def test_boxes_are_decoded_from_cells_roots_and_headings() -> None:
    logits, heading = torch.zeros(1, 2, 5, 3, 4), torch.zeros(1, 2, 2, 3, 4)
    heading[:, :, 0] = 1
    logits[0, 1, :4, 2, 1] = torch.tensor([0.75, 0.25, 0.5, 0.8]).logit()  # x, y, √w, √h
    heading[0, 1, :, 2, 1] = 3 * torch.tensor([math.cos(2.5), math.sin(2.5)])
    boxes = Output(logits, heading, stride=8, block_px=128).boxes()
    center = torch.tensor([2 * 8 + 3.5 - 2, 8 + 3.5 + 2])
    torch.testing.assert_close(boxes[0, 1, :, 2, 1], torch.tensor([*center, 0.64 * 128, 0.25 * 128, 2.5]))
    torch.testing.assert_close(boxes[0, 0, :, 0, 3], torch.tensor([3.5, 27.5, 32, 32, 0]))  # a half is a cell's middle


# The loss


def true_boxes() -> Truth:
    box = torch.tensor(
        [[20.3, 37.9, 24.0, 20.0, 0.4], [1.0, 1.0, 1.0, 1.0, 1.0], [7.7, 46.9, 30.0, 33.0, -0.5]]
    )  # the last just inside its row
    return Truth(box, torch.tensor([True, False, True]))


def cells_of(truth: Truth) -> list[tuple[int, int]]:
    return [divmod(i, 7) for i in nearest_cell(truth.box[:, :2].numpy(), (40, 56), 8).tolist()]


def perfect_output(truth: Truth) -> Output:
    """Return the output on 5 × 7 cells of 8 px that says what is true, in the second of two boxes."""
    logits, heading = torch.zeros(3, 2, 5, 5, 7), torch.ones(3, 2, 2, 5, 7)
    logits[:, :, 4] = -20
    centers = cell_centers_yx((40, 56), 8).reshape(5, 7, 2)
    for pair, (row, column) in enumerate(cells_of(truth)):
        if truth.present[pair]:
            y, x, h, w, angle = truth.box[pair].tolist()
            part = ((y, x) - centers[row, column]) / 8 + 0.5
            terms = torch.tensor([part[1], part[0], math.sqrt(w / 64), math.sqrt(h / 64), 1 - 1e-7], dtype=torch.float64)
            logits[pair, 1, :, row, column] = terms.logit().float()
            heading[pair, 1, :, row, column] = 5 * torch.tensor([math.cos(angle), math.sin(angle)])
    return Output(logits, heading, stride=8, block_px=64)


def test_a_perfect_output_decodes_to_the_truth_and_costs_nothing() -> None:
    truth = true_boxes()
    output = perfect_output(truth)
    for pair in (0, 2):
        row, column = cells_of(truth)[pair]
        torch.testing.assert_close(output.boxes()[pair, 1, :, row, column], truth.box[pair], atol=1e-3, rtol=1e-4)
    assert loss(output, truth) < 1e-5


@pytest.mark.parametrize(
    ("term", "change"),
    [("x", 2.0), ("y", -2.0), ("width", 1.0), ("height", -1.0), ("confidence", -19.0), ("cos", -9.0), ("sin", -9.0)],
)
def test_each_wrong_term_costs(term: str, change: float) -> None:
    truth = true_boxes()
    output = perfect_output(truth)
    row, column = cells_of(truth)[0]
    terms = torch.cat([output.logits, output.heading], dim=2)
    terms[0, 1, ["x", "y", "width", "height", "confidence", "cos", "sin"].index(term), row, column] += change
    assert loss(Output(terms[:, :, :5], terms[:, :, 5:], 8, 64), truth) > loss(output, truth) + 0.05


@pytest.mark.parametrize("pair", [0, 1])
def test_confidence_costs_where_nothing_is(pair: int) -> None:
    truth = true_boxes()
    output = perfect_output(truth)
    output.logits[pair, 0, 4, 3, 1] = 5
    assert loss(output, truth) > 0.1


def test_of_a_pair_without_a_place_only_confidence_is_judged() -> None:
    logits, heading = (torch.randn(3, 2, n, 5, 7, requires_grad=True) for n in (5, 2))
    loss(Output(logits, heading, 8, 64), true_boxes()).backward()
    assert logits.grad is not None
    assert heading.grad is not None
    assert logits.grad[1, :, :4].abs().max() == heading.grad[1].abs().max() == 0
    assert logits.grad[1, :, 4].min() > 0
    assert (logits.grad[0, :, :4] != 0).sum() == (logits.grad[2, :, :4] != 0).sum() == 4  # the responsible box alone


def test_the_loss_is_that_of_yolo_with_headings_and_ranking() -> None:
    truth = true_boxes()
    output = Output(torch.randn(3, 2, 5, 5, 7), torch.randn(3, 2, 2, 5, 7), 8, 64)
    centers = cell_centers_yx((40, 56), 8).reshape(5, 7, 2)
    total = 0.0
    for pair, (row, column) in enumerate(cells_of(truth)):
        confidence = output.logits[pair, :, 4].sigmoid()
        total += NO_OBJECT * confidence.square().sum().item()
        cells = output.logits[pair, :, 4].exp().sum(0)
        wanted = cells[row, column] if truth.present[pair] else torch.tensor(1.0)
        total += RANKING * -math.log(wanted.item() / (1 + cells.sum().item()))
        if not truth.present[pair]:
            continue
        iou = overlap(output.boxes()[pair, None, :, :, row, column], truth.box[pair, None])[0]
        best = int(iou.argmax())
        x, y, root_w, root_h, own = output.logits[pair, best, :, row, column].sigmoid().tolist()
        ty, tx, h, w, angle = truth.box[pair].tolist()
        cy, cx = centers[row, column] - 4
        errors = (x - (tx - cx) / 8, y - (ty - cy) / 8, root_w - math.sqrt(w / 64), root_h - math.sqrt(h / 64))
        c, s = F.normalize(output.heading[pair, best, :, row, column], dim=0).tolist()
        total += COORD * sum(e * e for e in errors) + (c - math.cos(angle)) ** 2 + (s - math.sin(angle)) ** 2
        total += (own - iou[best].item()) ** 2 - NO_OBJECT * own**2
    assert loss(output, truth).item() == pytest.approx(total / 3, rel=1e-5)


def test_the_overlap_asked_of_confidence_is_no_way_to_move_a_box() -> None:
    truth = true_boxes()
    row, column = cells_of(truth)[0]
    output = perfect_output(truth)
    output.logits[0, 1, 4, row, column] = 0
    output.logits[0, 1, 0, row, column] += 1
    x, wanted = (v.logits[0, 1, 0, row, column].sigmoid().item() for v in (output, perfect_output(truth)))
    output.logits.requires_grad_()
    loss(output, truth).backward()
    assert output.logits.grad is not None
    assert output.logits.grad[0, 1, 0, row, column].item() == pytest.approx(
        COORD * 2 * (x - wanted) * x * (1 - x) / 3, rel=1e-4
    )


def test_ranking_prefers_the_right_cell_and_absent_to_any() -> None:
    truth = true_boxes()
    row, column = (torch.tensor(part) for part in zip(*cells_of(truth), strict=True))
    logits = torch.full((3, 2, 5, 5, 7), -20.0)
    right, wrong = Output(logits, torch.ones(3, 2, 2, 5, 7), 8, 64), Output(logits.clone(), torch.ones(3, 2, 2, 5, 7), 8, 64)
    for pair in range(3):
        right.logits[pair, 0, 4, row[pair], column[pair]] = 9.0
        wrong.logits[pair, 0, 4, 4, 4] = 9.0
    good, bad = ranking_loss(right, truth, row, column), ranking_loss(wrong, truth, row, column)
    assert good[[0, 2]].max() < 1e-3
    assert bad[[0, 2]].min() > 8
    assert good[1] == pytest.approx(9, abs=1e-3)  # of an absent pair any cell that bids is wrong


boxes_st = st.lists(st.tuples(*[st.floats(-20, 20)] * 2, *[st.floats(1, 30)] * 2), min_size=2, max_size=2)


@given(boxes_st, st.floats(-6, 6))
def test_overlap_is_the_iou_times_the_cosine(boxes: list[tuple[float, float, float, float]], turn: float) -> None:
    a, b = (torch.tensor([[*box, angle]]) for box, angle in zip(boxes, (turn, 0.0), strict=True))
    upright = [np.array([[y - h / 2, x - w / 2, y + h / 2, x + w / 2]]) for y, x, h, w in boxes]
    expected = box_iou(upright[0], upright[1])[0, 0] * max(0.0, math.cos(turn))
    assert overlap(a[None], b)[0, 0].item() == pytest.approx(expected, abs=1e-4)


def test_triplet_loss_equals_a_plain_loop() -> None:
    a, p, n = (F.normalize(torch.randn(9, 6), dim=1) for _ in range(3))
    n = F.normalize(n + a, dim=1)  # so that the second moment exceeds its bound
    hinge = [max(0.0, MARGIN + (a[i] - p[i]).norm() ** 2 - (a[i] - n[i]).norm() ** 2) for i in range(9)]
    inner = [(a[i] @ n[i]).item() for i in range(9)]
    first, second = np.mean(inner), np.mean(np.square(inner))
    assert second > 1 / 6
    assert triplet_loss(a, p, n).item() == pytest.approx(np.mean(hinge) + first**2 + second - 1 / 6, rel=1e-5)


def test_triplets_that_are_apart_and_spread_cost_nothing() -> None:
    a, n = torch.eye(6)[:4], torch.eye(6)[[4, 5, 4, 5]]
    assert triplet_loss(a, a, n) == 0
    assert triplet_loss(a, n, a) > 2
