"""Keypoints are taken off the map O where it is highest, to parts of a pixel."""

import numpy as np
import torch

from fiducial.landmarks.views import SPACING_PX, decode, spaced

SIZE = (20, 31)


def hill(*tops: tuple[float, float]) -> torch.Tensor:
    """A map of round hills of unit height and deviation 1.5 px."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in SIZE), indexing="ij")
    return torch.stack([torch.exp(-((y - v) ** 2 + (x - u) ** 2) / 4.5) for v, u in tops]).amax(0)


def places(score: torch.Tensor, most: int) -> np.ndarray:
    yx, _ = decode(score, torch.ones(SIZE, dtype=torch.bool), most)
    return yx[np.lexsort((yx[:, 1], yx[:, 0]))]


def test_tops_are_found_to_a_fraction_of_a_pixel() -> None:
    tops = ((4.3, 5.0), (10.0, 20.4), (14.75, 9.25))
    np.testing.assert_allclose(places(hill(*tops), 3), tops, atol=0.06)


def test_tops_at_the_border_stay_on_their_pixels() -> None:
    tops = ((0.0, 12.0), (7.0, 0.0), (11.0, 30.0), (19.0, 5.0), (19.0, 30.0))
    np.testing.assert_allclose(places(hill(*tops), 5), tops, atol=1e-6)


def test_points_are_apart_and_only_where_something_is_shown() -> None:
    score = torch.rand(SIZE, generator=torch.Generator().manual_seed(1))
    shown = torch.ones(SIZE, dtype=torch.bool)
    shown[:, 18:] = False
    yx, height = decode(score, shown, 1000)
    assert (np.diff(height) <= 0).all()
    at = yx.round()
    assert (at[:, 1] < 18.5).all()
    near = np.abs(yx[:, None] - yx[None]).max(axis=2) + 99 * np.eye(len(yx))
    assert near.min() >= SPACING_PX - 1  # each may be half a pixel off its own


def test_of_points_that_crowd_the_best_stay_and_none_goes_without_need(rng: np.random.Generator) -> None:
    yx = rng.uniform(0, 30, (200, 2))
    kept = spaced(yx, 2.0)
    near = np.linalg.norm(yx[:, None] - yx[None], axis=2) <= 2
    better = np.tri(200, k=-1, dtype=bool)  # those before a point
    np.testing.assert_array_equal(kept, ~(near & better & kept[None]).any(axis=1))
    assert 20 < kept.sum() < 180
    assert spaced(np.zeros((0, 2)), 2.0).shape == (0,)
    assert spaced(np.zeros((4, 2)), 2.0).tolist() == [True, False, False, False]
