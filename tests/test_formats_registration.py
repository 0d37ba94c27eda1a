"""Registrations come back from every format, meet QGIS and GDAL to the half pixel, and are drawn as they lie."""

import dataclasses
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image as PillowImage
from skimage.data import camera

from fiducial.coords import Matrix, apply_transform, resize_transform, shift, similarity, to_corner_frame
from fiducial.drawing import draw_checkerboard, draw_registration
from fiducial.formats.registration import FORMATS, registration_from_json, tie_points_from_qgis
from fiducial.records import InputError, Provenance, Registration

WORLD = np.array([[10.0, 0, 505], [0, -10, 895], [0, 0, 1]])
MATRIX = shift(7.25, -3) @ similarity(0.5, 20.0)
WKT = 'LOCAL_CS["a,b",\n    UNIT["metre",1]]'
NOTHING = ("error_px", "held_out_px", "return_px")


def record(
    n: int = 3, *, found: bool = True, accepted: bool = True, world: bool = False, matrix: Matrix = MATRIX
) -> Registration:
    moving = np.array([[10.0, 20.0], [44.125, 7.3], [30.7, 81.9]])[:n]
    off = np.array([[0.3, 0.4], [0.0, 0.0], [-0.5, 0.0]])[:n]
    return Registration(
        moving_to_fixed=matrix if found else None,
        model="homography",
        moving_yx=moving,
        fixed_yx=apply_transform(matrix, moving) + off,
        residual_px=np.hypot(off[:, 0], off[:, 1]),
        **{name: 1.5 if found else float("nan") for name in NOTHING},
        score=0.93 if accepted else 0.12,
        within_px=5.0,
        accepted=accepted,
        reason="" if accepted else "too few points agree",
        start="map" if world else "searched",
        correction=(-2.5, 4.0) if world else None,
        moving="m é.tif",
        fixed="f.tif",
        moving_size=(60, 90),
        fixed_size=(50, 71),
        pixel_size=None if world else (2.0, 0.5),
        unit=None if world else "µm",
        crs=WKT if world else None,
        pixel_to_world=WORLD if world else None,
        provenance=Provenance("0.1.0", "w", "ab12", (("min_probability", 0.5), ("model", None))),
    )


EMPTY = record(0, found=False, accepted=False)
KINDS = [record(), record(world=True), record(accepted=False), EMPTY, record(0, found=False, accepted=False, world=True)]


@pytest.mark.parametrize("made", KINDS)
def test_a_record_comes_back_from_json_and_what_is_undefined_is_null(tmp_path: Path, made: Registration) -> None:
    made.save(tmp_path / "a.json")
    back = registration_from_json(tmp_path / "a.json")
    for field in dataclasses.fields(Registration):
        ours, theirs = getattr(made, field.name), getattr(back, field.name)
        if isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(theirs, ours, strict=True, err_msg=field.name)
        elif field.name in NOTHING:
            np.testing.assert_equal(theirs, ours)
        else:
            assert theirs == ours, field.name
    back.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert "NaN" not in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_an_undefined_residual_comes_back_undefined(tmp_path: Path) -> None:
    dataclasses.replace(record(), residual_px=np.array([0.5, np.nan, 0.5])).save(tmp_path / "a.json")
    np.testing.assert_array_equal(registration_from_json(tmp_path / "a.json").residual_px, [0.5, np.nan, 0.5])


def test_both_matrices_are_stated_and_undo_each_other(tmp_path: Path) -> None:
    record(world=True).save(tmp_path / "a.transform.json")
    stated = json.loads((tmp_path / "a.transform.json").read_text(encoding="utf-8"))
    np.testing.assert_array_equal(stated["moving_to_fixed"], MATRIX)
    np.testing.assert_allclose(np.array(stated["moving_to_fixed"]) @ stated["fixed_to_moving"], np.eye(3), atol=1e-12)
    assert (stated["moving_size_yx"], stated["fixed_size_yx"], stated["model"]) == ([60, 90], [50, 71], "homography")
    assert (stated["moving"], stated["accepted"], stated["crs"]) == ("m é.tif", True, WKT)
    assert stated["frame"] == "pixels, (x, y, 1), center of the first pixel at 0, 0"
    EMPTY.save(tmp_path / "none.transform.json")
    none = json.loads((tmp_path / "none.transform.json").read_text(encoding="utf-8"))
    assert (none["moving_to_fixed"], none["fixed_to_moving"], none["error_px"]) == (None, None, None)
    assert not none["accepted"]


def test_tables_state_both_places_and_the_residual(tmp_path: Path) -> None:
    made = dataclasses.replace(record(), fixed_yx=np.array([[4.0, 8.0], [1, 2], [3, 5]]))
    made.save(tmp_path / "a.csv")
    table = pd.read_csv(tmp_path / "a.csv")
    stated = {"moving_y_px": 10, "moving_x_px": 20, "fixed_y_px": 4, "fixed_x_px": 8, "residual_px": 0.5}
    assert table.drop(columns="answer").iloc[0].to_dict() == pytest.approx(stated | {"fixed_y_um": 8, "fixed_x_um": 4})
    on_map = dataclasses.replace(made, pixel_size=None, pixel_to_world=WORLD).to_frame()
    assert on_map.iloc[0].to_dict() == pytest.approx(stated | {"fixed_map_x": 585, "fixed_map_y": 855})
    assert [*EMPTY.to_frame(), "answer"] == list(table)
    assert len(EMPTY.to_frame()) == 0


def test_geojson_points_lie_on_the_map_of_the_fixed_image_or_count_from_its_corner(tmp_path: Path) -> None:
    fixed = np.array([[10.0, 20.0], [1, 2], [3, 5]])
    dataclasses.replace(record(world=True), fixed_yx=fixed).save(tmp_path / "map.geojson")
    dataclasses.replace(record(accepted=False), fixed_yx=fixed).save(tmp_path / "pixels.geojson")
    EMPTY.save(tmp_path / "none.geojson")
    mapped, pixels, none = (json.loads((tmp_path / f"{n}.geojson").read_text("utf-8")) for n in ("map", "pixels", "none"))
    assert mapped["features"][0]["geometry"] == {"type": "Point", "coordinates": [705, 795]}
    assert mapped["crs"]["properties"]["name"] == WKT
    assert pixels["features"][0]["geometry"]["coordinates"] == [20.5, 10.5]
    first = pixels["features"][0]["properties"]
    assert (first["moving_y"], first["moving_x"], first["accepted"]) == (10, 20, False)
    assert first["residual_px"] == pytest.approx(0.5)
    assert none == {"type": "FeatureCollection", "features": [], "answer": "refused", "reason": "too few points agree"}


@pytest.mark.parametrize("made", KINDS)
def test_tie_points_come_back_from_qgis(tmp_path: Path, made: Registration) -> None:
    made.save(tmp_path / "a.points")
    moving_yx, map_xy = tie_points_from_qgis(tmp_path / "a.points")
    np.testing.assert_allclose(moving_yx, made.moving_yx, atol=1e-12)
    expected = apply_transform(WORLD, made.fixed_yx)[:, ::-1] if made.crs else (made.fixed_yx[:, ::-1] + 0.5) * (1, -1)
    np.testing.assert_allclose(map_xy, expected, atol=1e-9)


def test_qgis_counts_from_the_corner_with_rows_negative(tmp_path: Path) -> None:
    made = record(world=True, matrix=shift(5, -10))
    made.save(tmp_path / "a.points")
    lines = (tmp_path / "a.points").read_text(encoding="utf-8").splitlines()
    assert lines[0] == '#CRS: LOCAL_CS["a,b", UNIT["metre",1]]'
    assert lines[1] == "mapX,mapY,sourceX,sourceY,enable,dX,dY,residual"
    map_x, map_y = 505 + 10 * 10.4, 895 - 10 * 15.3  # the tie point is 0.3 px lower and 0.4 px to the right of its place
    values = [float(v) for v in lines[2].split(",")]
    assert values == pytest.approx([map_x, map_y, 20.5, -10.5, 1, 0.4, 0.3, 0.5])
    dataclasses.replace(made, accepted=False, crs=None).save(tmp_path / "b.points")
    refused = (tmp_path / "b.points").read_text(encoding="utf-8").splitlines()
    assert (refused[0], refused[1].split(",")[4]) == (lines[1], "0")


def test_gdal_makes_of_the_control_points_the_transform_that_made_them(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    made = record(world=True)
    dataclasses.replace(made, fixed_yx=apply_transform(MATRIX, made.moving_yx)).save(tmp_path / "a.points")
    table = pd.read_csv(tmp_path / "a.points", skiprows=1)
    points = [rasterio.control.GroundControlPoint(-p.sourceY, p.sourceX, p.mapX, p.mapY) for p in table.itertuples()]
    found = np.array(rasterio.transform.from_gcps(points)).reshape(3, 3)
    np.testing.assert_allclose(found, to_corner_frame(WORLD @ MATRIX), rtol=1e-6, atol=1e-4)


def test_files_that_hold_no_control_points_are_refused(tmp_path: Path) -> None:
    header = "mapX,mapY,sourceX,sourceY,enable,dX,dY,residual\n"
    for content in ("", "#CRS: EPSG:4326\n", "mapX,mapY,sourceX\n1,2,3\n", header + "1,2,a,4,1,0,0,0\n", header + "1,2\n"):
        (tmp_path / "a.points").write_text(content)
        with pytest.raises(InputError, match="control points"):
            tie_points_from_qgis(tmp_path / "a.points")
    with pytest.raises(InputError, match="control points"):
        tie_points_from_qgis(tmp_path / "absent.points")


def report(made: Registration, tmp_path: Path) -> dict[str, str]:
    made.save(tmp_path / "a.txt")
    lines = (tmp_path / "a.txt").read_text(encoding="utf-8").splitlines()
    return {name: text.strip() for name, text in (line.split(":", 1) for line in lines)}


def test_the_report_states_the_error_and_what_the_transform_does_at_the_center(tmp_path: Path) -> None:
    stated = report(record(matrix=shift(3, -4) @ similarity(0.5, 20.0, (29.5, 44.5))), tmp_path)
    assert stated["answer"] == "accepted"
    assert stated["mean error"].startswith("1.50 px (1.5 µm)")
    assert stated["scale"].startswith("0.5 px")
    assert stated["angle"].startswith("20.000°")
    assert stated["shift"].startswith("+3.00 px in y, -4.00 px in x")
    assert "correction" not in stated
    on_map = report(record(world=True, accepted=False), tmp_path)
    assert on_map["answer"] == "refused: too few points agree"
    assert on_map["mean error"].startswith("1.50 px (15 map units)")
    assert on_map["correction"].startswith("+4 in x, -2.5 in y")
    nothing = report(EMPTY, tmp_path)
    assert (nothing["transform"], nothing["tie points"]) == ("none was found", "0")
    assert nothing["mean error"].startswith("undefined")


def test_scale_and_angle_of_a_homography_are_those_at_the_center(tmp_path: Path) -> None:
    tilt = np.array([[1.0, 0, 0], [0, 1, 0], [2e-3, 1e-3, 1]])
    matrix = -3 * shift(29.5, 44.5) @ similarity(0.8, -30.0) @ tilt @ shift(-29.5, -44.5)
    stated = report(record(matrix=matrix), tmp_path)
    assert stated["scale"].startswith("0.8 px")
    assert stated["angle"].startswith("-30.000°")
    assert stated["shift"].startswith("+0.00 px in y, +0.00 px")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("made", [record(), EMPTY])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, suffix: str, made: Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            made.save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    made.save(path)
    written = path.read_bytes()
    made.save(path)
    assert path.read_bytes() == written != b"old"


def test_unknown_endings_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.points"):
        record().save(tmp_path / "a.gcp")
    record().save(tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    changes = (("registration/1", "transform/1"), ('"fixed_yx"', '"xy"'), ("44.125,", "1, 44.125,"), ('"start"', '"x"'))
    for content in ("", text[:300], "[]", *(text.replace(*change) for change in changes)):
        assert content != text
        (tmp_path / "b.json").write_text(content, encoding="utf-8")
        with pytest.raises(InputError):
            registration_from_json(tmp_path / "b.json")


VIEW = np.array([[0.9, -0.25, 90.0], [0.22, 0.95, -30], [1e-4, 2e-4, 1]])  # from the fixed to the moving image


def pair(n: int = 0, *, accepted: bool = True) -> tuple[Registration, np.ndarray, np.ndarray]:
    """Return a registration, a photograph that is not square, and a view of it."""
    fixed = camera()[:, :470]
    moving = cv2.warpPerspective(fixed, VIEW, (430, 400))
    made = record(n, accepted=accepted, matrix=np.linalg.inv(VIEW))
    return dataclasses.replace(made, moving_size=(400, 430), fixed_size=(512, 470)), fixed, moving


def small(drawn: PillowImage.Image, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(np.asarray(drawn), size[::-1], interpolation=cv2.INTER_AREA).astype(int)


def test_identical_images_are_gray_where_they_lie_on_each_other() -> None:
    _, fixed, _ = pair()
    made = dataclasses.replace(record(0, matrix=np.eye(3)), moving_size=fixed.shape, fixed_size=fixed.shape)
    drawn = np.asarray(draw_registration(made, fixed, fixed)).astype(int)[4:-60, 4:-4]
    assert np.ptp(drawn, axis=2).max() == 0
    assert drawn.max() - drawn.min() == 255


@pytest.mark.parametrize("reduced", [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_a_view_is_gray_on_its_scene_and_green_beyond_whatever_copies_are_given(reduced: tuple[int, int]) -> None:
    made, fixed, moving = pair()
    less_fixed, less_moving = (
        cv2.resize(image, (image.shape[1] // k, image.shape[0] // k), interpolation=cv2.INTER_AREA)
        for image, k in zip((fixed, moving), reduced, strict=True)
    )
    size = (less_fixed.shape[0], less_fixed.shape[1])
    drawn = small(made.plot(less_fixed, less_moving), size)
    points = np.stack(np.meshgrid(*(np.arange(side) for side in size), indexing="ij"), axis=-1).reshape(-1, 2)
    at = apply_transform(VIEW @ resize_transform(size, fixed.shape), points.astype(float)).reshape(*size, 2)
    within = (at > 4).all(axis=2) & (at < (395, 425)).all(axis=2)
    beyond = (at < -4).any(axis=2) | (at > (403, 433)).any(axis=2)
    within[-40:] = beyond[-40:] = False  # there stands the text
    red, green, blue = drawn[..., 0], drawn[..., 1], drawn[..., 2]
    assert 0.02 < beyond.mean() < 0.6
    assert red[beyond].max() == blue[beyond].max() == 0
    np.testing.assert_array_equal(red[within], blue[within])
    assert np.median(np.abs(red - green)[within]) <= 12  # the stretches differ: the view lacks part of the scene
    assert np.corrcoef(red[within], green[within])[0, 1] > 0.98


def test_a_shift_of_the_answer_shows_as_color() -> None:
    made, fixed, moving = pair()
    off = dataclasses.replace(made, moving_to_fixed=shift(0, 6) @ made.moving_to_fixed)
    right, wrong = (small(r.plot(fixed, moving), fixed.shape)[60:300, 60:260] for r in (made, off))
    assert np.std(wrong[..., 0] - wrong[..., 1]) > 4 * np.std(right[..., 0] - right[..., 1])


def test_what_a_homography_sees_behind_itself_is_not_drawn() -> None:
    to_moving = np.array([[200.0, 100.0, -25_000.0], [0.0, 120.0, 9_000 - 120 * 99.5], [0.0, 1.0, -99.5]])
    made = dataclasses.replace(record(0, matrix=np.linalg.inv(to_moving)), moving_size=(400, 600), fixed_size=(240, 310))
    striped = np.tile(np.array([[0, 255]], np.uint8), (400, 300))
    drawn = small(draw_registration(made, np.zeros((240, 310, 3), np.uint8), striped), (240, 310))
    assert not drawn[:98].any()
    assert drawn[130:200, 60:250, 0].mean() > 20


@pytest.mark.parametrize("shown", [None, (50, 71), (25, 36)])
def test_tie_points_lie_where_the_fixed_image_has_them(shown: tuple[int, int] | None) -> None:
    made = dataclasses.replace(EMPTY, fixed_yx=np.array([[20.0, 31.0]]), moving_yx=np.zeros((1, 2)), residual_px=np.zeros(1))
    drawn = np.asarray(made.plot(None if shown is None else np.zeros(shown, np.uint8))).astype(float)[..., 0]
    factor = drawn.shape[1] / 71
    lit = np.where(drawn > 100, drawn, 0)[:-50]
    center = [(lit.sum(axis=1 - axis) * np.arange(lit.shape[axis])).sum() / lit.sum() for axis in (0, 1)]
    scale = np.array([drawn.shape[0] / 50, factor])
    np.testing.assert_allclose(center, np.array([20.0, 31.0]) * scale + (scale - 1) / 2, atol=0.2)


def test_refused_answers_are_drawn_and_say_so_and_nothing_found_leaves_the_fixed_image() -> None:
    made, fixed, moving = pair()
    refused, _, _ = pair(accepted=False)
    good, bad = (np.asarray(r.plot(fixed, moving)) for r in (made, refused))
    np.testing.assert_array_equal(good[:-60], bad[:-60])
    amber = (bad == (255, 190, 0)).all(axis=2)
    assert amber[-60:].sum() > 50
    assert not (good == (255, 190, 0)).all(axis=2).any()
    nothing = dataclasses.replace(EMPTY, moving_size=(400, 430), fixed_size=fixed.shape)
    drawn = np.asarray(nothing.plot(fixed, moving))
    assert not drawn[:-60, :, [0, 2]].any()
    assert drawn[:-60, :, 1].std() > 30
    board = np.asarray(draw_checkerboard(nothing, fixed, moving))
    np.testing.assert_array_equal(board[:-60], drawn[:-60, :, 1])


def test_a_checkerboard_shows_each_image_in_its_squares() -> None:
    fixed = np.tile(np.linspace(0, 100, 88).astype(np.uint8), (60, 1))
    moving = 3 * fixed[::-1, ::-1].astype(np.uint16) + 7  # turned by 180°, 16 bits, other tones
    made = dataclasses.replace(
        record(0, matrix=shift(59, 87) @ np.diag([-1.0, -1, 1])), fixed_size=(60, 88), moving_size=(60, 88)
    )
    board = small(draw_checkerboard(made, fixed, moving), (60, 88))[:50]
    other = small(draw_checkerboard(made, fixed, 307 - moving), (60, 88))[:50]
    rows, columns = np.mgrid[:50, :88]
    own = (rows // 8 + columns // 8) % 2 == 0
    edge = (rows % 8 % 7 == 0) | (columns % 8 % 7 == 0)
    ramp = np.tile(np.linspace(0, 255, 88), (50, 1))
    np.testing.assert_allclose(board[~edge], ramp[~edge], atol=6)
    np.testing.assert_allclose(other[own & ~edge], ramp[own & ~edge], atol=6)
    np.testing.assert_allclose(other[~own & ~edge], 255 - ramp[~own & ~edge], atol=6)


def test_a_large_image_is_drawn_at_most_as_large_as_an_overlay(tmp_path: Path) -> None:
    dataclasses.replace(EMPTY, fixed_size=(3, 20_000)).save(tmp_path / "a.png")
    with PillowImage.open(tmp_path / "a.png") as drawn:
        assert drawn.size == (4096, 1)
