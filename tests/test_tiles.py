"""Tiles cover the image once with their cores and give each core its margin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiducial.tiles import tiles


@given(st.integers(1, 700), st.integers(1, 700), st.integers(20, 200), st.integers(0, 9))
def test_cores_cover_every_pixel_once_with_margin(h: int, w: int, tile: int, margin: int) -> None:
    seen = np.zeros((h, w), int)
    for t in tiles((h, w), tile, margin):
        (y0, x0, y1, x1), (top, left, bottom, right) = t.window, t.core
        assert (y1 - y0, x1 - x0) == (min(tile, h), min(tile, w))
        assert 0 <= y0 <= top < bottom <= y1 <= h
        assert 0 <= x0 <= left < right <= x1 <= w
        for near, core_near, far, core_far, side in ((y0, top, y1, bottom, h), (x0, left, x1, right, w)):
            assert near == 0 or core_near - near >= margin
            assert far == side or far - core_far >= margin
        seen[top:bottom, left:right] += 1
    assert (seen == 1).all()


def test_margins_that_leave_no_core_are_an_error() -> None:
    with pytest.raises(ValueError, match="tile_px must exceed"):
        list(tiles((50, 50), 10, 5))


@pytest.mark.parametrize("side", [300, 512, 513, 536, 900, 2000])
def test_shrunken_tiles_are_as_many_and_keep_their_margins(side: int) -> None:
    full, least = list(tiles((side, 400), 512, 64)), list(tiles((side, 400), 512, 64, shrink=True))
    assert len(full) == len(least)
    covered = np.zeros((side, 400), int)
    for tile in least:
        (y0, _, y1, _), (top, left, bottom, right) = tile.window, tile.core
        assert top - y0 >= 64 or y0 == 0
        assert y1 - bottom >= 64 or y1 == side
        covered[top:bottom, left:right] += 1
    assert (covered == 1).all()
    if side == 536:
        assert least[0].window[2] < 340
