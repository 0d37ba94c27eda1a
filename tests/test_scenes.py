"""A view of a scene shows what direct resampling would, with the tones of the whole, and reads no more than it needs."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from fiducial import scenes
from fiducial.coords import Matrix, apply_transform, scale_transform, shift, similarity
from fiducial.geometry import equalize, tone_curve
from fiducial.images import from_array
from fiducial.records import Image, InputError, Window
from fiducial.scenes import open_scene

SIZE = (230, 310)

VIEWS: dict[str, tuple[Matrix, tuple[int, int]]] = {
    "as it is": (np.eye(3), SIZE),
    "a crop": (shift(-40, -70), (90, 130)),
    "a cut": (shift(-158, -430), (90, 130)),
    "turned": (shift(60, 70) @ similarity(1.2, 33.0) @ shift(-110, -150), (120, 140)),
    "tilted": (np.array([[1, 0.1, -20], [0, 1, -30], [2e-4, 4e-4, 1.0]]), (130, 170)),
}


def picture(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A texture of several scales, of which a view at a half or a quarter shows something, too."""
    noise = [cv2.GaussianBlur(rng.normal(0, s, size).astype(np.float32), (0, 0), s) for s in (2.5, 6, 15)]
    return np.asarray(1000 + 50 * np.sum(noise, axis=0), np.float32)


@pytest.mark.parametrize("name", ["as it is", "a crop", "turned", "tilted"])
def test_a_view_is_the_image_resampled_with_even_tones(name: str, rng: np.random.Generator) -> None:
    image, (to_view, size) = picture(rng), VIEWS[name]
    seen, shown = open_scene(from_array(image)).view(to_view, size)
    even = equalize(image, tone_curve(image.ravel()))
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1).reshape(-1, 2)
    at = apply_transform(np.linalg.inv(to_view), grid.astype(float)).reshape(*size, 2).astype(np.float32)
    expected = cv2.remap(even, at[..., 1], at[..., 0], cv2.INTER_LINEAR)
    inside = ((at >= 0) & (at <= np.array(SIZE) - 1)).all(axis=-1)
    within = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert shown[within].all()
    assert not shown[cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0].any()
    np.testing.assert_allclose(seen[within], expected[within], atol=0.02)
    assert not seen[~shown].any()
    assert np.abs(seen).max() <= 1


@pytest.mark.parametrize("scale", [0.5, 0.25, 0.37])
def test_a_reduced_view_is_an_average_that_lies_where_it_should(scale: float, rng: np.random.Generator) -> None:
    image = picture(rng, (330, 410))
    size = (int(330 * scale), int(410 * scale))
    seen, shown = open_scene(from_array(image)).view(scale_transform(scale), size)
    area = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[: size[0], : size[1]]
    expected = equalize(area, tone_curve(area.ravel()))
    inner = np.s_[3:-3, 3:-3]
    assert shown[inner].all()
    assert np.corrcoef(seen[inner].ravel(), expected[inner].ravel())[0, 1] > 0.99
    apart, _ = cv2.phaseCorrelate(seen[inner].astype(np.float64), expected[inner].astype(np.float64))
    np.testing.assert_allclose(apart, 0, atol=0.06)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("reduced", [1.0, 0.45])
def test_copies_read_by_windows_show_what_whole_ones_show(
    name: str, reduced: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, (to_view, size) = picture(rng, (430, 610)), VIEWS[name]
    image[150:260, 200:420] = 700  # without data
    image[150:175, 380:600] = 650  # narrower than what counts as that
    to_view = scale_transform(reduced) @ to_view
    whole = open_scene(from_array(image)).view(to_view, size)
    monkeypatch.setattr(scenes, "_KEPT_PX", 10)
    windowed = open_scene(from_array(image)).view(to_view, size)
    np.testing.assert_array_equal(windowed[1], whole[1])
    assert whole[1].any()
    assert np.corrcoef(windowed[0].ravel(), whole[0].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("nothing", [np.nan, np.inf, 0.0, 65535.0])
def test_what_is_without_data_is_not_shown(nothing: float, rng: np.random.Generator) -> None:
    image = picture(rng)
    image[:, :100] = nothing
    image[30:40, 200:210] = nothing  # a saturated spot is no area without data; one of NaN is
    image[20, 240] = nothing
    seen, shown = open_scene(from_array(image)).view(np.eye(3), SIZE)
    assert not shown[:, :98].any()
    gap = np.zeros(SIZE, bool)
    gap[30:40, 200:210] = not np.isfinite(nothing)
    assert not shown[32:38, 202:208][gap[32:38, 202:208]].any()
    assert shown[:, 102:][cv2.dilate(gap.astype(np.uint8), np.ones((5, 5)))[:, 102:] == 0].all()
    assert not seen[:, :98].any()
    even = equalize(image[:, 100:], tone_curve(image[:, 100:][np.isfinite(image[:, 100:])]))
    rest = np.s_[50:-5, 10:-5]
    np.testing.assert_allclose(seen[:, 100:][rest], even[rest], atol=0.03)


@pytest.mark.parametrize("reduced", [1.0, 0.25])
def test_strips_without_values_are_not_shown_however_narrow(reduced: float, rng: np.random.Generator) -> None:
    image = picture(rng, (430, 610))
    image[:, 300:320] = np.nan
    image[rng.random(image.shape) < 0.02] = np.nan  # dead pixels take nothing else away
    size = (int(430 * reduced), int(610 * reduced))
    seen, shown = open_scene(from_array(image)).view(scale_transform(reduced), size)
    strip = slice(int(301 * reduced) + 1, int(319 * reduced) - 1)
    assert not shown[:, strip].any()
    assert not seen[:, strip].any()
    assert shown[5:-5, 5 : strip.start - 5].all()
    whole = open_scene(from_array(np.where(np.isnan(image), 1000, image).astype(np.float32))).view(
        scale_transform(reduced), size
    )
    assert whole[1][5:-5, strip].all()


def test_a_constant_image_shows_nothing_and_one_without_values_is_refused() -> None:
    seen, shown = open_scene(from_array(np.full(SIZE, 7, np.uint8))).view(np.eye(3), SIZE)
    assert not shown.any()
    assert not seen.any()
    with pytest.raises(InputError, match="finite"):
        open_scene(from_array(np.full(SIZE, np.nan)))
    with pytest.raises(InputError, match="channels"):
        open_scene(from_array(np.zeros((*SIZE, 5))))


@pytest.mark.parametrize("change", [lambda v: 3 * v + 2, np.exp, lambda v: v**3, lambda v: np.log(v + 2)])
def test_any_increasing_change_of_tones_gives_the_same_view(
    change: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator
) -> None:
    image = (picture(rng) - 1000) / 200
    image = np.clip(image, -1.5, 3).astype(np.float32)
    views = [open_scene(from_array(pixels)).view(*VIEWS["turned"])[0] for pixels in (image, change(image))]
    np.testing.assert_allclose(views[1], views[0], atol=4e-3)
    assert np.ptp(views[0]) > 1.2


def test_colors_are_seen_by_their_luminance_and_alpha_is_not(rng: np.random.Generator) -> None:
    gray = np.clip(picture(rng) / 8, 0, 255).astype(np.uint8)
    color = np.dstack([gray, gray, gray, rng.integers(0, 255, SIZE, dtype=np.uint8)])
    views = [open_scene(from_array(pixels)).view(*VIEWS["a crop"])[0] for pixels in (gray, color)]
    np.testing.assert_allclose(views[1], views[0], atol=1e-3)


def test_a_view_beside_the_image_shows_nothing(rng: np.random.Generator) -> None:
    scene = open_scene(from_array(picture(rng)))
    for away in (shift(1000, 0), shift(0, -5000), shift(-300, 400)):
        seen, shown = scene.view(away, (60, 70))
        assert not shown.any()
        assert not seen.any()


def drawn_on_demand(size: tuple[int, int], reads: list[Window]) -> Image:
    """A giant image that no file and no memory holds; it notes what is read of it."""

    def read(window: Window) -> np.ndarray:
        reads.append(window)
        y, x = np.ogrid[window[0] : window[2], window[1] : window[3]]
        return (100 * np.sin(y / 17.0) * np.cos(x / 23.0) + 100).astype(np.float32)

    return Image("giant", size, 1, np.dtype(np.float32), read)


def test_a_view_of_a_giant_image_reads_what_it_shows(rng: np.random.Generator) -> None:
    reads: list[Window] = []
    scene = scenes.Scene(
        drawn_on_demand((60_000, 90_000), reads), 100.0, tone_curve(np.linspace(0, 200, 500, dtype=np.float32))
    )
    seen, shown = scene.view(shift(-41_000, -73_500), (200, 310))
    assert shown.all()
    assert sum((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in reads) < 310 * 420
    assert not scene.copies
    y, x = np.ogrid[41_000:41_200, 73_500:73_810]
    np.testing.assert_allclose(seen, np.sin(y / 17.0) * np.cos(x / 23.0), atol=0.01)


@pytest.mark.parametrize("size", [(64, 40_000), (40_000, 64)])
def test_a_strip_longer_than_opencv_resamples_is_seen_by_windows(size: tuple[int, int]) -> None:
    reads: list[Window] = []
    scene = scenes.Scene(drawn_on_demand(size, reads), 100.0, tone_curve(np.linspace(0, 200, 500, dtype=np.float32)))
    top, left = (0, 36_000) if size[1] > size[0] else (36_000, 0)
    seen, shown = scene.view(shift(-top, -left), (64, 64))
    assert shown.all()
    assert not scene.copies  # a whole copy is more than `cv2.remap` takes, of some versions
    y, x = np.ogrid[top : top + 64, left : left + 64]
    np.testing.assert_allclose(seen, np.sin(y / 17.0) * np.cos(x / 23.0), atol=0.01)


def test_a_reduced_copy_is_read_once_in_bands() -> None:
    reads: list[Window] = []
    scene = scenes.Scene(drawn_on_demand((6_000, 9_000), reads), 100.0, tone_curve(np.linspace(0, 200, 500, dtype=np.float32)))
    for turn in (0.0, 45.0, 90.0):
        _, shown = scene.view(similarity(1 / 32, turn, (90.0, 140.0)), (180, 280))
        assert shown.any()
    assert list(scene.copies) == [5]
    assert sum((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in reads) == 6_000 * 9_000
    assert max((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in reads) <= 2**22 + 32 * 9_000
