"""Keypoints come back from JSON, lie where they say in every format, and are drawn there."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fiducial.formats.keypoints import FORMATS, keypoints_from_json
from fiducial.records import InputError, Keypoints, Provenance

WORLD = np.array([[10.0, 0, 505], [0, -10, 895], [0, 0, 1]])


def record(n: int = 3, *, world: bool = False, unit: str | None = "µm") -> Keypoints:
    vectors = np.random.default_rng(3).normal(size=(3, 16)).astype(np.float32)
    return Keypoints(
        yx=np.array([[10.0, 20.0], [44.125, 7.3], [30.7, 81.9]])[:n],
        score=np.array([0.98765432, 0.75, 0.5])[:n],
        descriptor=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[:n],
        image="a é.tif",
        size=(60, 90),
        pixel_size=None if unit is None else (2.0, 0.5),
        unit=unit,
        crs="LOCAL" if world else None,
        pixel_to_world=WORLD if world else None,
        provenance=Provenance("0.1.0", "w", "ab12", (("max_points", 2000.0), ("weights", None))),
    )


@pytest.mark.parametrize("made", [record(), record(world=True), record(unit=None), record(0)])
def test_a_record_comes_back_from_json_with_descriptors_to_six_digits(tmp_path: Path, made: Keypoints) -> None:
    made.save(tmp_path / "a.json")
    back = keypoints_from_json(tmp_path / "a.json")
    for field in dataclasses.fields(Keypoints):
        ours, theirs = getattr(made, field.name), getattr(back, field.name)
        if field.name == "descriptor":
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=6e-7)
            assert (theirs.dtype, theirs.shape) == (np.float32, (len(made), 16))
        elif isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(theirs, ours, strict=True, err_msg=field.name)
        else:
            assert theirs == ours, field.name
    back.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_tables_state_pixels_units_and_map_coordinates(tmp_path: Path) -> None:
    record(world=True).save(tmp_path / "a.csv")
    table = pd.read_csv(tmp_path / "a.csv")
    stated = {"y_px": 10, "x_px": 20, "score": 0.98765432, "y_um": 20, "x_um": 10, "map_x": 705, "map_y": 795}
    assert table.iloc[0].to_dict() == pytest.approx(stated)
    assert list(record(unit=None).to_frame()) == ["y_px", "x_px", "score"]
    assert list(record(0, world=True).to_frame()) == list(table)
    assert len(record(0).to_frame()) == 0


def test_geojson_points_lie_on_the_map_or_count_from_the_corner(tmp_path: Path) -> None:
    record(world=True).save(tmp_path / "map.geojson")
    record(unit=None).save(tmp_path / "pixels.geojson")
    record(0).save(tmp_path / "none.geojson")
    mapped, pixels, none = (json.loads((tmp_path / f"{n}.geojson").read_text()) for n in ("map", "pixels", "none"))
    assert mapped["features"][0]["geometry"] == {"type": "Point", "coordinates": [705, 795]}
    assert mapped["crs"]["properties"]["name"] == "LOCAL"
    assert pixels["features"][0]["geometry"]["coordinates"] == [20.5, 10.5]
    assert pixels["features"][0]["properties"] == {"image": "a é.tif", "score": 0.98765432}
    assert none == {"type": "FeatureCollection", "features": []}


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            record().save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_endings_and_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.geojson"):
        record().save(tmp_path / "a.xls")
    record().save(tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    changes = (('"count": 3', '"count": 2'), ("keypoints/1", "keypoints/9"), ('"yx"', '"xy"'), ("44.125,", "1, 44.125,"))
    for content in ("", text[:300], "[]", *(text.replace(*change) for change in changes)):
        assert content != text
        (tmp_path / "b.json").write_text(content, encoding="utf-8")
        with pytest.raises(InputError):
            keypoints_from_json(tmp_path / "b.json")


@pytest.mark.parametrize("shown", [None, (60, 90), (30, 45), (480, 720)])
def test_dots_lie_on_their_points_on_pictures_of_any_size(shown: tuple[int, int] | None) -> None:
    made = dataclasses.replace(record(1), yx=np.array([[20.0, 30.0]]))
    drawn = np.asarray(made.plot(None if shown is None else np.zeros(shown, np.uint8))).max(axis=2).astype(float)
    factor = drawn.shape[0] / 60
    assert max(drawn.shape) >= 640
    lit = drawn[:-50] * (drawn[:-50] > 100)
    center = [(lit.sum(axis=1 - axis) * np.arange(lit.shape[axis])).sum() / lit.sum() for axis in (0, 1)]
    np.testing.assert_allclose(center, np.array([20.0, 30.0]) * factor + (factor - 1) / 2, atol=0.1)
    assert np.asarray(record(0).plot())[-50:].any()


def test_the_score_colors_the_dot_and_color_images_stay_as_they_are() -> None:
    color = np.zeros((600, 900, 3), np.uint8)
    color[...] = 10, 200, 60
    made = dataclasses.replace(record(2), size=(600, 900), yx=np.array([[100.0, 200], [100, 400]]), score=np.array([1.0, 0.0]))
    drawn = np.asarray(made.plot(color)).astype(int)
    assert drawn[300, 600].tolist() == [10, 200, 60]
    assert drawn[100, 200, 2] > drawn[100, 200, 0] + 100
    assert drawn[100, 400, 0] > drawn[100, 400, 2] + 100
