"""Keypoints are taken off the map O where it is highest, to parts of a pixel."""

import cv2
import numpy as np
import torch

from fiducial import api
from fiducial.landmarks.views import SPACING_PX, Observer, decode, spaced

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


def test_keypoints_turn_with_the_image(rng: np.random.Generator) -> None:
    shipped = api.load_registrar(None, "cpu")[1].observer
    observer = Observer(shipped.network, shipped.device, bf16=False)
    view = np.tanh(cv2.GaussianBlur(rng.normal(0, 12, (96, 128)), (0, 0), 3)).astype(np.float32)  # sides a network need not pad
    upright = observer.examine(view).score[0]
    for quarters in (1, 2, 3):
        turned = observer.examine(np.rot90(view, quarters)).score[0]
        np.testing.assert_allclose(np.rot90(turned.numpy(), -quarters), upright.numpy(), atol=1e-3)
    assert upright.std() > 0.1
    odd = observer.examine(view[:95, :101])
    assert odd.score.shape == (1, 95, 101)
    inner = slice(0, 40), slice(0, 40)
    np.testing.assert_allclose(odd.score[0][inner], upright[inner], atol=0.2)  # half the size begins at the same corner
