"""Drawn damage is what its mask says: every change marked, every class true to its name."""

import cv2
import numpy as np
import pytest

from fiducial import synth
from fiducial.synth import COPPER, MOUSEBITE, OPEN, PINHOLE, SHORT, SPUR

BLOCK = np.ones((3, 3), np.uint8)


def two_traces() -> synth.Binary:
    """Return two traces with a wide gap between them, from side to side."""
    board = np.zeros((110, 170), np.uint8)
    board[14:32], board[52:72] = 255, 255
    return board


def defects(count: int) -> list[tuple[synth.Binary, synth.Binary, int]]:
    """Return samples of `two_traces` with one defect each, their masks and classes."""
    found = []
    for seed in range(count):
        sample, mask = synth.damage_board(two_traces(), np.random.default_rng(seed), 1, by_hand=True)
        if mask.any():
            found.append((sample, mask, int(mask.max())))
    return found


def pieces(material: np.ndarray) -> int:
    _, _, stats, _ = cv2.connectedComponentsWithStats(material.astype(np.uint8), connectivity=4)
    return int((stats[1:, cv2.CC_STAT_AREA] >= 20).sum())


def test_every_changed_pixel_is_marked_and_no_mark_is_far_from_a_change(rng: np.random.Generator) -> None:
    for size in ((150, 211), (96, 64)):
        board = synth.draw_board(rng, size)
        sample, mask = synth.damage_board(board, rng, 25, by_hand=True)
        changed = sample != board
        assert changed.any()
        assert (mask[changed] > 0).all()
        assert not ((mask > 0) & (cv2.dilate(changed.astype(np.uint8), BLOCK) == 0)).any()
        assert set(np.unique(sample)) <= {0, 255}
        removed = np.isin(mask, (OPEN, MOUSEBITE, PINHOLE))
        assert (sample[changed & removed] == 0).all()
        assert (sample[changed & ~removed] == 255).all()


def test_damage_is_drawn_again_from_its_seed() -> None:
    board = synth.draw_board(np.random.default_rng(5), (140, 99))
    first, again, other = (synth.damage_board(board, np.random.default_rng(seed), 12, by_hand=True) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], other[0])


def test_all_six_kinds_are_drawn_and_each_does_to_the_board_what_its_name_says() -> None:
    seen = set()
    for sample, mask, kind in defects(150):
        seen.add(kind)
        filled = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, BLOCK) > 0
        removed = kind in (OPEN, MOUSEBITE, PINHOLE)
        material = (two_traces() > 0) == removed  # what the defect takes away
        if kind < COPPER:
            assert (pieces(material & ~filled) > pieces(material)) == (kind in (OPEN, SHORT)), kind
        touches = (cv2.dilate(mask, np.ones((5, 5), np.uint8)) > 0) & ~material
        assert touches.any() == (kind not in (COPPER, PINHOLE)), kind
        assert (sample != two_traces()).sum() >= 12
    assert seen == {OPEN, SHORT, MOUSEBITE, SPUR, COPPER, PINHOLE}


def test_hands_draw_thin_strokes_and_dither_as_well_as_solid_patches() -> None:
    changed = [sample != two_traces() for sample, _, _ in defects(150)]
    kept = np.array([cv2.morphologyEx(c.astype(np.uint8), cv2.MORPH_OPEN, BLOCK).sum() / c.sum() for c in changed])
    assert (kept < 0.2).mean() > 0.1
    assert (kept > 0.8).mean() > 0.3
    marked = np.array([(mask > 0).sum() for _, mask, _ in defects(150)])
    assert (np.array([c.sum() for c in changed]) < 0.8 * marked).mean() > 0.05


def test_new_damage_keeps_away_from_what_is_wrong_already() -> None:
    taken = np.zeros((110, 170), np.uint8)
    taken[40:80, 50:120] = 7
    sample, mask = synth.damage_board(two_traces(), np.random.default_rng(0), 60, taken, by_hand=True)
    inside = cv2.dilate(taken, BLOCK) > 0
    np.testing.assert_array_equal(mask[inside], taken[inside])
    np.testing.assert_array_equal(sample[inside], two_traces()[inside])
    assert ((mask > 0) & (mask < 7)).any()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_jitter_sets_that_share_of_the_pixels_beside_edges(share: float, rng: np.random.Generator) -> None:
    board = two_traces()
    changed = synth.jitter_edges(board, rng, share) != board
    rim = np.zeros(board.shape, dtype=bool)
    rim[[13, 14, 31, 32, 51, 52, 71, 72]] = True
    assert not changed[~rim].any()
    assert changed[rim].mean() == pytest.approx(share / 2, abs=0.03)
