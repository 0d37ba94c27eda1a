"""A banner is left out, whatever it says and wherever it lies; nothing else is taken for one."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

import fiducial
from fiducial.banners import picture_rows, without_banner
from fiducial.coords import apply_transform, corners_yx
from fiducial.datasets import read_aligned, read_textures
from fiducial.images import from_array, write_image
from fiducial.records import InputError


def with_banner(picture: np.ndarray, rows: int, ground: int, *, line: bool = False) -> np.ndarray:
    """Draw a banner over the last rows: text, a scale bar, and a line at its upper side."""
    out = picture.copy()
    h, w = out.shape
    text = 255 if ground < 128 else 0
    out[h - rows :] = ground
    cv2.putText(
        out, "10.0kV x2.00k SE(U)", (5, h - rows // 3), cv2.FONT_HERSHEY_SIMPLEX, rows / 45, (text,), 1, lineType=cv2.LINE_AA
    )
    cv2.rectangle(out, (int(0.75 * w), h - rows // 2), (int(0.95 * w), h - rows // 2 + 2), (text,), -1)
    if line:
        out[h - rows : h - rows + 2] = text
    return out


@pytest.mark.parametrize("ground", [0, 90, 255])
@pytest.mark.parametrize("rows", [20, 34, 60])
@pytest.mark.parametrize("name", ["brick", "gravel", "coins"])
def test_a_banner_is_found_along_either_border(name: str, rows: int, ground: int) -> None:
    picture = getattr(data, name)()[:300, :380]
    seen = with_banner(picture, rows, ground)
    assert picture_rows(from_array(seen)) == (0, 300 - rows)
    assert picture_rows(from_array(seen[::-1])) == (rows, 300)
    assert picture_rows(from_array(seen.astype(np.uint16) * 16)) == (0, 300 - rows)
    assert picture_rows(from_array(seen / np.float32(255))) == (0, 300 - rows)
    top, end = picture_rows(from_array(with_banner(picture, rows, ground, line=True)))
    assert (top, 300 - rows <= end <= 302 - rows) == (0, True)


def test_a_banner_is_found_after_compression() -> None:
    seen = with_banner(data.gravel()[:300, :380], 34, 0)
    _, packed = cv2.imencode(".jpg", seen, (cv2.IMWRITE_JPEG_QUALITY, 85))
    top, end = picture_rows(from_array(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE)))
    assert top == 0
    assert abs(end - 266) <= 3


@pytest.mark.parametrize("name", ["brick", "gravel", "grass", "coins", "camera", "moon", "page", "retina", "hubble_deep_field"])
def test_pictures_without_a_banner_stay_whole(name: str) -> None:
    picture = getattr(data, name)()
    for seen in (picture, picture[::-1], picture[:, ::-1][:200], 255 - picture):
        assert picture_rows(from_array(np.ascontiguousarray(seen))) == (0, len(seen))


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((80, 90), np.uint8),
        np.full((80, 90), np.nan, np.float32),
        np.full((80, 90), np.inf, np.float32),
        np.ones((1, 200), np.uint8),
        np.eye(64, dtype=bool),
        np.vstack([np.zeros((40, 64)), data.gravel()[:40, :64]]).astype(np.uint8),  # half is no banner
    ],
    ids=["black", "NaN", "infinite", "one row", "diagonal", "half"],
)
def test_empty_pictures_have_no_banner(picture: np.ndarray) -> None:
    assert picture_rows(from_array(picture)) == (0, len(picture))


def test_windows_of_a_picture_are_those_of_the_image_below_its_banner(rng: np.random.Generator) -> None:
    image = from_array(np.ascontiguousarray(with_banner(data.brick()[:300, :380], 30, 255)[::-1]))
    picture, first = without_banner(image)
    assert (first, picture.size) == (30, (270, 380))
    np.testing.assert_array_equal(picture.read(), image.read()[30:])
    np.testing.assert_array_equal(picture.read((5, 7, 60, 90)), image.read((35, 7, 90, 90)))
    world = np.array([[2.0, 0, 500], [0, -2, 900], [0, 0, 1]])
    placed, _ = without_banner(replace(image, pixel_to_world=world))
    assert placed.pixel_to_world is not None
    np.testing.assert_allclose(placed.pixel_to_world @ (7, 5, 1), world @ (7, 35, 1))


def test_no_sample_shows_the_banner_of_its_overview(tmp_path: Path) -> None:
    for depth in (np.uint8, np.uint16):
        write_image(tmp_path / "a.tif", with_banner(data.gravel()[:300, :380], 34, 0).astype(depth))
        (seen,) = read_textures((tmp_path,))
        assert seen.shape == (266, 380)
        assert seen.std() > 20


def test_aligned_pairs_stay_pixel_on_pixel(tmp_path: Path) -> None:
    picture = data.gravel()[:300, :380]
    write_image(tmp_path / "a" / "p.png", with_banner(picture, 34, 0))
    write_image(tmp_path / "b" / "p.png", 255 - picture)
    (pair,) = read_aligned(tmp_path)
    assert pair.a.shape == pair.b.shape == (300, 380)


@pytest.mark.parametrize("upside_down", [False, True])
def test_a_view_with_a_banner_lies_where_it_lies_without(*, upside_down: bool) -> None:
    source = data.gravel()[:420, :480]
    view = cv2.resize(source[150:300, 120:320], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    truth = np.array([[0.5, 0, 119.75], [0, 0.5, 149.75], [0, 0, 1]])
    plain, shown = with_banner(view, 44, 0), with_banner(source, 32, 0)
    if upside_down:
        flip = np.diag([1.0, -1.0, 1.0])
        flip[1, 2] = 419
        back = np.diag([1.0, -1.0, 1.0])
        back[1, 2] = 299
        plain, shown, truth = plain[::-1], shown[::-1], flip @ truth @ back
    found = fiducial.locate(np.ascontiguousarray(plain), np.ascontiguousarray(shown), scale=(0.4, 0.6))
    assert found.found
    expected = apply_transform(truth, corners_yx(plain.shape))
    assert np.linalg.norm(found.corners_yx[0] - expected, axis=1).max() < 2


def test_a_view_keeps_a_banner_without_which_it_would_be_too_small_to_search() -> None:
    overview = data.gravel()[:300, :380]
    view = overview[100:136, 150:198].copy()
    view[-6:] = 0
    assert picture_rows(from_array(view)) == (0, 30)
    found = fiducial.locate(view, overview, scale=1.0)
    assert found.found, found.reason
    np.testing.assert_allclose(found.corners_yx[0], corners_yx((36, 48)) + np.array([100, 150]), atol=2)
    view[:7] = view[-7:] = 0
    assert picture_rows(from_array(view)) == (7, 29)
    assert fiducial.locate(view, overview).scales[1] == 1  # 22 px of an overview are none to be sought


@pytest.mark.parametrize("role", ["query", "source"])
def test_sizes_are_judged_before_a_banner_is_left_out(role: str) -> None:
    overview = data.gravel()[:300, :380]
    small = overview[:31, :60].copy()
    small[-6:] = 0
    with pytest.raises(InputError, match=r"at least 32 px a side, array has \(31, 60\)"):
        fiducial.locate(*((small, overview) if role == "query" else (overview[:40, :40], small)), scale=1.0)
