"""Maps of descriptors that are parts of one another are found where they were cut, and their points near where they lie."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fiducial.voting import Pairs, Vote, match_near, vote, vote_all

D = 16


def whole(size: tuple[int, int] = (60, 70), seed: int = 0) -> torch.Tensor:
    """A map of random descriptors of unit length."""
    return F.normalize(torch.randn(D, *size, generator=torch.Generator().manual_seed(seed)), dim=0)


def smooth(size: tuple[int, int] = (60, 70), seed: int = 0) -> torch.Tensor:
    """Descriptors that change from cell to cell as a network's do: their inner product falls slowly around each."""
    noise = torch.randn(1, D, *size, generator=torch.Generator().manual_seed(seed))
    for _ in range(6):
        noise = F.avg_pool2d(F.pad(noise, (1,) * 4, mode="reflect"), 3, stride=1)
    return F.normalize(noise[0], dim=0)


@pytest.mark.parametrize(
    ("start_yx", "size"),
    [((0, 0), (60, 70)), ((11, 23), (30, 35)), ((37, 5), (23, 60)), ((45, 52), (15, 18)), ((2, 0), (58, 33))],
)
def test_a_part_is_found_where_it_was_cut(start_yx: tuple[int, int], size: tuple[int, int]) -> None:
    (y, x), (h, w) = start_yx, size
    part = smooth()[:, y : y + h, x : x + w]
    (ahead,) = vote(part[None], smooth())
    assert ahead.shift_yx == (y, x)
    assert ahead.strength > 5
    (back,) = vote(smooth()[None], part)  # the larger map on the smaller: the shift is negative
    assert back.shift_yx == (-y, -x)


@pytest.mark.parametrize("shift_yx", [(17, -21), (-14, 9), (-25, -30), (0, 31), (-33, 0), (0, 0)])
def test_maps_that_share_a_part_are_not_wrapped_around(shift_yx: tuple[int, int]) -> None:
    canvas, (dy, dx) = smooth((120, 130)), shift_yx
    moving, fixed = canvas[:, 40:84, 42:93], canvas[:, 40 - dy : 90 - dy, 42 - dx : 90 - dx]
    (found,) = vote(moving[None], fixed)
    assert found.shift_yx == shift_yx


def test_a_part_that_is_shown_twice_is_found_at_both_places() -> None:
    part, twice = smooth((20, 22), seed=3), smooth()
    twice[:, 5:25, 8:30] = twice[:, 33:53, 41:63] = part
    found = vote_all(part, twice, 2, 0.6)
    assert [own.shift_yx for own in sorted(found, key=lambda own: own.shift_yx)] == [(5, 8), (33, 41)]
    assert found[0].strength >= found[1].strength
    assert len(vote_all(part, twice, 50, 0.6)) == 1  # nearer than the spacing
    once = smooth()
    once[:, 5:25, 8:30] = part
    assert vote_all(part, once, 2, 0.6) == vote(part[None], once)
    assert len(vote_all(part, once, 2, 0.01)) > 1
    assert vote_all(torch.zeros_like(part), once, 2, 0.6) == []


def test_several_maps_are_voted_for_each_by_itself() -> None:
    parts = torch.stack([smooth()[:, y : y + 30, x : x + 30] for y, x in ((3, 5), (20, 31))] + [smooth((30, 30), seed=5)])
    votes = vote(parts, smooth())
    assert [v.shift_yx for v in votes[:2]] == [(3, 5), (20, 31)]
    assert votes[2].strength < 0.6 * min(v.strength for v in votes[:2])
    alone = vote(parts[1:2], smooth())[0]
    assert alone.shift_yx == votes[1].shift_yx
    assert alone.strength == pytest.approx(votes[1].strength, rel=1e-4)


@pytest.mark.parametrize("shift_yx", [(0, 0), (0, 7), (-6, 0), (5, 4)])
def test_smooth_maps_are_found_to_the_cell_at_every_shift_alike(shift_yx: tuple[int, int]) -> None:
    canvas, (dy, dx) = smooth((80, 90)), shift_yx
    moving, fixed = canvas[:, 20:61, 20:73], canvas[:, 20 - dy : 61 - dy, 20 - dx : 73 - dx]
    noise = 0.5 * torch.randn(*fixed.shape, generator=torch.Generator().manual_seed(1))
    (found,) = vote(moving[None], F.normalize(fixed + noise, dim=0))
    assert found.shift_yx == shift_yx


def test_cells_that_show_nothing_do_not_vote() -> None:
    part, there = smooth()[:, 11:41, 23:58].clone(), smooth().clone()
    part[:, :12] = 0
    there[:, 35:] = 0
    (found,) = vote(part[None], there)
    assert found.shift_yx == (11, 23)


def test_blocks_without_data_are_not_laid_on_each_other() -> None:
    alike = F.normalize(torch.ones(D, 1, 1) + 0.2 * smooth(), dim=0)  # what all cells share says nothing
    moving, fixed = alike[None, :, 11:41, 20:65].clone(), alike.clone()
    moving[..., :25], fixed[:, :, :35] = 0, 0
    (found,) = vote(moving, fixed)
    assert found.shift_yx == (11, 20)


def test_a_large_area_that_agrees_a_little_wins_over_small_ones_that_agree_by_chance() -> None:
    moving, noise = smooth((60, 70)), smooth((60, 70), seed=4)
    fixed = F.normalize(0.2 * moving + noise, dim=0)
    (found,) = vote(moving[None], fixed)
    assert found.shift_yx == (0, 0)


def test_maps_that_show_nothing_have_no_vote() -> None:
    empty = torch.zeros(1, D, 20, 30)
    assert vote(empty, whole()) == [Vote((0, 0), 0.0)]
    assert vote(whole((20, 30))[None], empty[0]) == [Vote((0, 0), 0.0)]
    constant = torch.ones(1, D, 20, 30) / D**0.5
    (found,) = vote(constant, constant[0])
    assert np.isfinite(found.strength)


def test_a_sliver_in_common_is_not_enough() -> None:
    canvas = smooth((120, 130))
    moving = canvas[:, 40:80, 5:125]
    found = [vote(moving[None], canvas[:, 40 + dy : 80 + dy, 5:125])[0].shift_yx == (-dy, 0) for dy in (30, 33, 35)]
    assert found == [True, True, False]  # 10, 7 and 5 of 40 rows


def field(yx: torch.Tensor) -> torch.Tensor:
    """Unit descriptors (D, ...) at points of a plane, smooth and each unlike the others."""
    angle = 2.4 * torch.arange(D // 2)  # by the golden angle: no direction counts more
    rate = torch.stack([angle.cos(), angle.sin()], 1) * torch.linspace(0.1, 0.5, D // 2)[:, None]
    phase = torch.tensordot(rate, yx, dims=([1], [-1]))
    return torch.cat([phase.cos(), phase.sin()]) / (D // 2) ** 0.5


def grid(size: tuple[int, int]) -> torch.Tensor:
    return torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij"), -1)


def points(low: float, high_yx: tuple[float, float], n: int = 60) -> torch.Tensor:
    random = torch.rand(n, 2, generator=torch.Generator().manual_seed(2))
    return low + random * (torch.tensor(high_yx) - low)


def apart(found: Pairs, true_yx: np.ndarray) -> np.ndarray:
    return np.linalg.norm(found.other_yx - true_yx, axis=1)


@pytest.mark.parametrize("off_yx", [(0.0, 0.0), (2.3, -1.6), (-2.75, 2.5), (0.5, 0.5)])
def test_points_are_found_to_a_fraction_of_a_cell(off_yx: tuple[float, float]) -> None:
    sizes, off = ((30, 41), (36, 37)), torch.tensor(off_yx)
    own, other = field(grid(sizes[0])), field(grid(sizes[1]) - off)
    yx = points(9, (20, 28))
    found = match_near(own, other, yx, 4)
    assert apart(found, (yx + off).numpy()).max() < 0.15
    assert found.mutual.all()
    assert found.similarity.min() > 0.9
    np.testing.assert_allclose(found.own_yx, yx.numpy())


def test_nothing_is_found_beyond_the_radius() -> None:
    own, other = field(grid((40, 50))), field(grid((40, 50)) - torch.tensor([0.0, 7.0]))
    yx = points(14, (25, 32))
    near, far = (match_near(own, other, yx, radius) for radius in (4, 9))
    assert np.abs(near.other_yx - near.own_yx.round()).max() <= 4.5
    assert (apart(near, yx.numpy() + np.array([0, 7])) > 2).all()
    assert apart(far, yx.numpy() + np.array([0, 7])).max() < 0.15
    assert far.mutual.all()


def test_a_partner_that_lies_outside_is_not_mutual() -> None:
    own, other = whole((30, 40)), whole((30, 40))[:, :, :20]
    yx = grid((30, 40)).reshape(-1, 2)
    found = match_near(own, other, yx, 3)
    inside = yx[:, 1].numpy() < 20
    assert found.mutual[inside].all()
    np.testing.assert_allclose(found.other_yx[inside], yx.numpy()[inside], atol=0.5)
    assert not found.mutual[yx[:, 1].numpy() > 22].any()  # windows without a cell
    assert found.mutual[~inside].mean() < 0.02


def test_places_at_the_border_are_not_drawn_inward() -> None:
    size = (20, 30)
    own, yx = field(grid(size)), grid(size).reshape(-1, 2)
    assert apart(match_near(own, own, yx, 4), yx.numpy()).max() < 0.15


def test_places_beside_what_is_hidden_are_not_drawn_away_from_it() -> None:
    size = (20, 30)
    own, yx = field(grid(size)), grid(size).reshape(-1, 2)
    other = own.clone()
    other[:, :, 17:] = 0
    beside = yx[yx[:, 1] == 16]
    assert apart(match_near(own, other, beside, 4), beside.numpy()).max() < 0.15


def test_zeros_are_no_partners() -> None:
    found = match_near(whole((20, 30)), torch.zeros(D, 20, 30), points(2, (17, 27)), 4)
    assert not found.mutual.any()


def test_a_window_may_be_larger_than_the_map() -> None:
    own = field(grid((12, 15)))
    other = field(grid((9, 10)) - torch.tensor([-2.0, -3.0]))
    yx = torch.tensor([[5.3, 6.2], [7.0, 9.0], [4.4, 8.1]])
    found = match_near(own, other, yx, 30)
    assert apart(found, yx.numpy() - [2, 3]).max() < 0.15
    assert found.mutual.all()


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other, yx = whole((20, 30)), whole((20, 30), seed=3), points(2, (17, 27), 50)
    all_at_once = match_near(own, other, yx, 3)
    monkeypatch.setattr("fiducial.voting._CHUNK", 20 * 30 * 7)
    by_sevens = match_near(own, other, yx, 3)
    np.testing.assert_allclose(by_sevens.other_yx, all_at_once.other_yx, atol=1e-4)
    np.testing.assert_array_equal(by_sevens.mutual, all_at_once.mutual)


def test_the_order_of_points_does_not_matter() -> None:
    own, other, yx = whole((40, 30)), whole((40, 30), seed=3), points(2, (37, 27), 300)
    found, order = match_near(own, other, yx, 3), torch.randperm(300, generator=torch.Generator().manual_seed(1))
    mixed = match_near(own, other, yx[order], 3)
    np.testing.assert_allclose(mixed.other_yx, found.other_yx[order], atol=1e-4)
    np.testing.assert_allclose(mixed.similarity, found.similarity[order], atol=1e-5)
    np.testing.assert_array_equal(mixed.mutual, found.mutual[order])


def test_no_points_are_no_pairs() -> None:
    found = match_near(whole(), whole(), torch.zeros(0, 2), 4)
    assert found.own_yx.shape == found.other_yx.shape == (0, 2)
    assert len(found.similarity) == len(found.mutual) == 0
