"""`locate` end to end on photographs that scikit-image brings: finds what is there, at any angle, and says when it is not."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from skimage import data as photographs
from typed import run

import fiducial
from fiducial import metrics
from fiducial.coords import apply_transform, corners_yx, image_center_yx, resize_transform, shift, similarity
from fiducial.formats.places import places_from_json, places_to_frame
from fiducial.images import from_array
from fiducial.places.locator import build_ladder, sides_to_search
from fiducial.records import InputError, Places, Provenance

SIZE = (120, 150)  # of queries


def overview() -> np.ndarray:
    return np.asarray(photographs.gravel())


def half(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def cut(
    image: np.ndarray, center_yx: tuple[float, float], angle: float, size: tuple[int, int] = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Return a view of an image turned about a center, and the transform from its pixels to the image's."""
    y, x = image_center_yx(size)
    view = shift(*center_yx) @ similarity(1.0, angle) @ shift(-y, -x)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, view[:2], size[::-1], flags=flags), view


def iou(found: Places, truth: np.ndarray, size: tuple[int, int] = SIZE) -> float:
    return metrics.quad_iou(found.corners_yx[0], apply_transform(truth, corners_yx(size)))


@pytest.mark.parametrize("angle", [0.0, 37.0, 180.0, -101.0])
def test_a_view_is_found_at_any_angle_in_a_source_of_half_the_scale(angle: float) -> None:
    image = overview()
    query, view = cut(image, (230.0, 300.0), angle)
    source = half(image)
    truth = resize_transform((image.shape[0], image.shape[1]), (source.shape[0], source.shape[1])) @ view
    found = fiducial.locate(query, source)
    assert found.found
    assert iou(found, truth) > 0.9
    assert found.scale[0] == pytest.approx(0.5, rel=0.02)
    assert abs((found.angle_deg[0] - angle + 180) % 360 - 180) < 1.5
    assert np.all(np.diff(found.score) <= 0)


@pytest.mark.parametrize("look", ["negative", "dim and noisy"])
def test_another_exposure_is_found(look: str) -> None:
    image = overview()
    query, view = cut(image, (200.0, 180.0), 20.0)
    if look == "negative":
        query = 255 - query
    else:
        noise = np.random.default_rng(0).normal(0, 12, query.shape)
        query = np.clip(60 + 0.3 * query + noise, 0, 255).astype(np.uint8)
    assert iou(fiducial.locate(query, image), view) > 0.8


def test_a_view_of_something_else_is_not_here() -> None:
    query, _ = cut(np.asarray(photographs.brick()), (250.0, 250.0), 10.0)
    found = fiducial.locate(query, half(overview()))
    assert not found.found
    assert "not here" in found.reason


def test_shifting_the_source_shifts_the_answer() -> None:
    image = overview()
    query, _ = cut(image, (260.0, 260.0), 15.0)
    whole, part = fiducial.locate(query, image), fiducial.locate(query, image[48:, 32:])
    assert np.allclose(whole.corners_yx[0] - part.corners_yx[0], [48, 32], atol=0.5)


@pytest.mark.parametrize(("gain", "offset"), [(1e-9, 0.0), (1.0, 30000.0), (-1.0, 255.0)])
def test_neither_unit_nor_black_level_matter_even_over_the_border(gain: float, offset: float) -> None:
    image = overview().astype(np.float64)
    query, view = cut(image, (230.0, 300.0), 0.0)
    found = fiducial.locate(query, gain * image[:, :340] + offset)
    assert found.found
    assert iou(found, view) > 0.8


def test_holes_do_not_hide_a_view() -> None:
    image = overview().astype(np.float64) + 1000
    query, view = cut(image, (230.0, 300.0), 0.0)
    image[200:250, 300:350] = np.nan
    query[:25] = np.nan
    assert iou(fiducial.locate(query, image), view) > 0.8


def test_two_equal_places_are_both_returned() -> None:
    tile = half(overview())
    source = np.hstack([tile, tile])
    query, view = cut(overview(), (256.0, 250.0), 0.0)
    found = fiducial.locate(query, source)
    twin = shift(0, tile.shape[1])
    truth = resize_transform((512, 512), (256, 256)) @ view
    outlines = [apply_transform(m @ truth, corners_yx(SIZE)) for m in (np.eye(3), twin)]
    hits = [max(metrics.quad_iou(quad, outline) for quad in found.corners_yx[:2]) for outline in outlines]
    assert min(hits) > 0.85
    assert found.score[1] > 0.5


def test_the_same_input_gives_the_same_answer(tmp_path: Path) -> None:
    query, _ = cut(overview(), (256.0, 200.0), 33.0)
    for name in ("a.json", "b.json"):
        fiducial.locate(query, half(overview())).save(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_pixel_sizes_say_the_scale(tmp_path: Path) -> None:
    image = overview()
    query, view = cut(image, (230.0, 300.0), 0.0)
    for name, pixels, size in (("q.ome.tif", query, 0.5), ("s.ome.tif", image, 0.5)):
        meta = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size}
        tifffile.imwrite(tmp_path / name, pixels, metadata=meta)
    found = fiducial.locate(tmp_path / "q.ome.tif", tmp_path / "s.ome.tif")
    assert found.scales == (pytest.approx(1 / 1.1), pytest.approx(1.1))
    assert iou(found, view) > 0.9
    frame = found.to_frame()
    assert frame["y_um"][0] == pytest.approx(0.5 * frame["y_px"][0])
    with pytest.raises(InputError, match="larger than"):
        fiducial.locate(image, query, scale=1.0)
    tifffile.imwrite(tmp_path / "n.ome.tif", image, metadata=meta | {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"})
    wrong = r"searched \(909 to 1100\): swap them, .*; the scale follows from the pixel sizes that both files state: if they"
    with pytest.raises(InputError, match=wrong):  # the source is a thousand times as fine
        fiducial.locate(tmp_path / "q.ome.tif", tmp_path / "n.ome.tif")
    tifffile.imwrite(tmp_path / "o.ome.tif", image, metadata=meta | {"PhysicalSizeX": 1.0})
    for scale in (None, (0.9, 1.1)):
        with pytest.raises(InputError, match="square"):
            fiducial.locate(tmp_path / "q.ome.tif", tmp_path / "o.ome.tif", scale=scale)


def test_a_stated_scale_bounds_the_answer() -> None:
    image = overview()
    query, _ = cut(image, (230.0, 300.0), 0.0)
    for scale in (0.8, [0.5, 0.85]):
        found = fiducial.locate(query, image, scale=scale)
        assert (found.scale < 0.92).all()
        assert not found.found
        assert "scales from" in found.reason


@pytest.mark.parametrize(
    "options", [{"scale": -1.0}, {"scale": (0.5, 0.2)}, {"scale": [0.5]}, {"most": 0}, {"min_probability": 1.5}]
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="must"):
        fiducial.locate(half(overview()), overview(), **options)


def test_nothing_proposed_is_not_found_at_any_probability() -> None:
    flat = np.tile(np.linspace(0, 1, 64), (64, 1))
    found = fiducial.locate(flat, half(overview()), min_probability=0.0, scale=(0.9, 0.95))
    assert found.found == (len(found) > 0)


@pytest.mark.parametrize(
    ("query", "source", "message"),
    [
        (np.zeros((31, 80)), np.eye(100), "at least 32 px"),
        (np.full((64, 64), 7.0), np.eye(100), "constant"),
        (np.full((64, 64), np.nan), np.eye(100), "finite"),
        (np.eye(64), np.full((128, 128), 3), "constant"),
        (np.eye(64), np.eye(20), "at least 32 px"),
        (np.eye(900), np.eye(64), r"larger than .* swap them, or state another scale \(--scale\)$"),
        (np.eye(32, 3201), np.eye(4000), "at most 100 times as long as wide"),
        (np.zeros((64, 64, 5)), np.eye(100), "channels"),
    ],
)
def test_bad_input_gets_one_clear_line(query: np.ndarray, source: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        fiducial.locate(query, source)
    assert "\n" not in str(caught.value)


def test_a_source_too_large_to_be_searched_for_so_small_a_query_is_what_the_message_says() -> None:
    query = from_array(np.eye(256))
    overview = replace(query, name="overview", size=(100_000, 120_000))
    with pytest.raises(InputError, match=r"256 px of overview, too few: needs \d{3} in so large a source: crop it"):
        sides_to_search(query, overview, (0.1, 1.0))


def test_deep_gray_color_alpha_and_holes_are_read_alike() -> None:
    image = overview()
    query, view = cut(image, (230.0, 300.0), 12.0)
    holes = image.astype(np.float64)
    holes[:40, :60] = np.nan
    color = np.dstack([query, query, query, np.full_like(query, 9)])
    for sought, source in ((query.astype(np.uint16) * 257, image), (color, image), (query, holes), (query / 1e6, image)):
        assert iou(fiducial.locate(sought, source), view) > 0.9


def corner_error_px(found: Places, truth: np.ndarray, size: tuple[int, int] = SIZE) -> float:
    return float(np.linalg.norm(found.corners_yx[0] - apply_transform(truth, corners_yx(size)), axis=1).max())


def gap(size: tuple[int, int], window: tuple[int, int, int, int]) -> np.ndarray:
    missing = np.zeros(size, bool)
    missing[window[0] : window[2], window[1] : window[3]] = True
    return missing


@pytest.mark.parametrize(
    "missing",
    [
        gap(SIZE, (10, 60, 90, 140)),
        gap(SIZE, (0, 0, 120, 60)),
        ~gap(SIZE, (20, 25, 100, 110)),
        gap(SIZE, (45, 0, 120, 150)),
        np.random.default_rng(1).random(SIZE) < 0.2,
    ],
    ids=["hole", "side", "frame", "most of it", "dead pixels"],
)
def test_a_gap_in_the_query_moves_no_corner(missing: np.ndarray) -> None:
    query, view = cut(photographs.camera(), (230.0, 300.0), 12.0)
    found = fiducial.locate(np.where(missing, np.nan, query), photographs.camera())
    assert found.found
    assert corner_error_px(found, view) < (0.1 if missing.mean() < 0.6 else 0.5)


@pytest.mark.parametrize("reduced", [1, 3])
def test_a_gap_in_the_source_moves_no_corner(reduced: int) -> None:
    image = np.kron(photographs.camera(), np.ones((reduced, reduced)))  # one that is read reduced has averages of what is known
    size = (image.shape[0], image.shape[1])
    query, view = cut(photographs.camera(), (230.0, 300.0), 12.0)
    hole = gap(size, tuple(reduced * v for v in (200, 250, 260, 320)))
    truth = resize_transform((512, 512), size) @ view
    found = fiducial.locate(query, np.where(hole, np.nan, image), scale=float(reduced))
    assert found.found
    assert corner_error_px(found, truth) / reduced < 0.3


def test_a_place_may_reach_into_a_frame_without_values() -> None:
    image = np.asarray(photographs.camera())
    query, view = cut(image, (230.0, 300.0), 12.0)
    framed = np.where(gap(image.shape, (60, 40, 470, 320)), image, np.nan)  # over a third of the query lies beyond
    found = fiducial.locate(query, framed)
    assert found.found
    assert corner_error_px(found, view) < 0.1


def test_a_gap_is_as_large_on_every_rung() -> None:
    missing = gap((512, 512), (203, 251, 268, 325))
    rungs = build_ladder(from_array(np.where(missing, np.nan, overview())), (40.0, 500.0))
    assert len(rungs) == 4
    assert [np.isnan(rung.image).mean() for rung in rungs] == pytest.approx([missing.mean()] * 4, rel=0.1)


def test_gaps_do_not_find_what_is_not_there() -> None:
    query, _ = cut(np.asarray(photographs.brick()), (230.0, 300.0), 12.0)
    query = np.where(gap(SIZE, (10, 20, 110, 100)), np.nan, query)
    sparse = np.where(np.random.default_rng(0).random((64, 64)) < 0.02, half(half(half(overview()))), np.nan)
    assert not fiducial.locate(query, np.where(gap((512, 512), (100, 0, 400, 200)), np.nan, overview())).found
    assert not fiducial.locate(sparse, half(overview())).found


def record(*, found: bool = True, world: bool = True) -> Places:
    matrices = np.array([shift(30.0, 40.0) @ similarity(0.5, 30.0), shift(10.0, 5.0) @ similarity(0.3, -90.0)])
    n = 2 if found else 0
    corners = np.array([apply_transform(m, corners_yx((20, 30))) for m in matrices])
    return Places(
        corners_yx=corners[:n],
        score=np.array([0.9, 0.1])[:n],
        query_to_source=matrices[:n],
        correlation=np.array([0.8, 0.4])[:n],
        found=found,
        reason="" if found else "not here",
        query="q é.png",
        source="s.tif",
        query_size=(20, 30),
        source_size=(100, 120),
        scales=(0.1, 1.0),
        pixel_size=(2.0, 3.0),
        unit="µm",
        crs="LOCAL" if world else None,
        pixel_to_world=np.array([[10.0, 0, 505], [0, -10, 895], [0, 0, 1]]) if world else None,
        provenance=Provenance("0", "w", "abc", (("most", 5),)),
    )


@pytest.mark.parametrize("found", [True, False])
def test_json_reads_back_what_was_written(tmp_path: Path, *, found: bool) -> None:
    record(found=found).save(tmp_path / "r.json")
    back = places_from_json(tmp_path / "r.json")
    back.save(tmp_path / "again.json")
    assert (tmp_path / "r.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    assert np.array_equal(back.query_to_source, record(found=found).query_to_source)
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(InputError, match="not a record"):
        places_from_json(tmp_path / "r.json")


def test_tables_state_pixels_units_and_map_coordinates() -> None:
    frame = places_to_frame(record())
    assert frame["scale"].tolist() == pytest.approx([0.5, 0.3])
    assert frame["angle_deg"].tolist() == pytest.approx([30, -90])
    assert frame["x_um"].tolist() == pytest.approx((3 * frame["x_px"]).tolist())
    assert frame["map_x"].tolist() == pytest.approx((10 * frame["x_px"] + 505).tolist())
    assert frame["corner2_y_um"].tolist() == pytest.approx((2 * frame["corner2_y_px"]).tolist())
    assert frame["corner3_map_y"].tolist() == pytest.approx((-10 * frame["corner3_y_px"] + 895).tolist())
    first = [apply_transform(m, np.zeros((1, 2)))[0] for m in record().query_to_source]
    np.testing.assert_allclose(frame[["shift_y_px", "shift_x_px"]], first)
    assert list(places_to_frame(record(found=False))) == list(frame)


def test_geojson_closes_rings_and_counts_from_the_corner_without_a_map(tmp_path: Path) -> None:
    record(world=False).save(tmp_path / "r.geojson")
    features = json.loads((tmp_path / "r.geojson").read_text())["features"]
    ring = np.array(features[0]["geometry"]["coordinates"][0])
    assert np.array_equal(ring[0], ring[4])
    assert np.allclose(ring[:4, ::-1] - 0.5, record().corners_yx[0])
    record().save(tmp_path / "m.geojson")
    ring = np.array(json.loads((tmp_path / "m.geojson").read_text())["features"][0]["geometry"]["coordinates"][0])
    assert np.allclose(ring[0], record().corners_yx[0][0][::-1] * [10, -10] + [505, 895])
    assert json.loads((tmp_path / "m.geojson").read_text())["crs"]["properties"]["name"] == "LOCAL"


def test_overlays_fit_the_source_and_hold_the_query(tmp_path: Path) -> None:
    plain = np.asarray(record().plot())
    assert plain.shape == (800, 960, 3)  # enlarged eight times
    source, query = np.full((100, 120), 90, np.uint8), np.tile(np.array([[0, 255]], np.uint8), (20, 15))
    source[::7] = 91
    drawn = np.asarray(record().plot(source, query))
    assert drawn.shape[0] == 800
    assert drawn.shape[1] > 960
    assert np.asarray(record(found=False).plot(source, query)).shape == (800, 960, 3)
    with pytest.raises(InputError, match="expected one of"):
        record().save(tmp_path / "r.xyz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    image = overview()
    (tmp_path / "overviews").mkdir()
    (tmp_path / "views").mkdir()
    cv2.imwrite(str(tmp_path / "overviews" / "gravel.png"), half(image))
    cv2.imwrite(str(tmp_path / "overviews" / "brick.png"), half(np.asarray(photographs.brick())))
    cv2.imwrite(str(tmp_path / "views" / "one.png"), cut(image, (230.0, 300.0), 40.0)[0])
    cv2.imwrite(str(tmp_path / "views" / "two.png"), cut(np.asarray(photographs.grass()), (230.0, 300.0), 0.0)[0])
    return tmp_path


def test_an_overview_that_has_no_room_for_a_query_does_not_show_it(folder: Path) -> None:
    cv2.imwrite(str(folder / "overviews" / "long.png"), np.tile(half(overview())[:40], (1, 3)))
    words = ["--scale", 0.5, "-o", folder / "out"]
    assert run("locate", folder / "views" / "one.png", folder / "overviews", *words)[0] == 0
    table = pd.read_csv(folder / "out" / "all.csv")
    answers = {Path(source).stem: answer for source, answer in zip(table["source"], table["answer"], strict=True)}
    assert answers == {"gravel": "found", "brick": "not here", "long": "not here"}
    status, _, line = run("locate", folder / "views" / "one.png", folder / "overviews" / "long.png", *words)
    assert status == 2
    assert "larger than" in line


def test_each_query_finds_its_image(folder: Path) -> None:
    (folder / "views" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    status, _, _ = run("locate", folder / "views", folder / "overviews", "-o", folder / "out")
    assert status == 1
    table = pd.read_csv(folder / "out" / "summary.csv").set_index("name")
    assert table["answer"].to_dict() == {"broken": "error", "one": "found", "two": "not here"}
    assert Path(table["source"]["one"]).name == "gravel.png"
    assert len(pd.read_csv(folder / "out" / "all.csv")) == 4
    files = {p.name for p in (folder / "out" / "one").iterdir()}
    assert files == {"places.csv", "places.json", "places.geojson", "overlay.png", "query_on_source.tif"}
    resampled = tifffile.imread(folder / "out" / "one" / "query_on_source.tif")
    source = cv2.imread(str(folder / "overviews" / "gravel.png"), cv2.IMREAD_GRAYSCALE).astype(np.float32)
    known = np.isfinite(resampled)
    assert 0.03 < known.mean() < 0.2
    assert np.corrcoef(resampled[known], source[known])[0, 1] > 0.9
    assert not (folder / "out" / "two" / "query_on_source.tif").exists()


def test_a_summary_says_where_on_the_map_as_exactly_as_the_table_of_places(folder: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="extra `geo` is not installed")
    source = half(np.asarray(photographs.gravel()))
    profile = {"driver": "GTiff", "height": source.shape[0], "width": source.shape[1], "count": 1, "dtype": "uint8"}
    with rasterio.open(
        folder / "a.tif", "w", crs="EPSG:4326", transform=rasterio.Affine(1e-5, 0, 11, 0, -1e-5, 48), **profile
    ) as file:
        file.write(source, 1)
    assert run("locate", folder / "views" / "one.png", folder / "a.tif", "-o", folder / "o", "--scale", "0.5")[0] == 0
    place = pd.read_csv(folder / "o" / "one" / "places.csv").iloc[0]
    summary = pd.read_csv(folder / "o" / "summary.csv").iloc[0]
    assert (summary["map_x"], summary["corner2_map_y"]) == (place["map_x"], place["corner2_map_y"])


def test_exit_status_says_found_not_here_and_bad_input(folder: Path) -> None:
    gravel = folder / "overviews" / "gravel.png"
    assert run("locate", folder / "views" / "one.png", gravel, "-o", folder / "o")[0] == 0
    assert run("locate", folder / "views" / "two.png", gravel, "-o", folder / "o")[0] == 3
    status, _, line = run("locate", folder / "nothing.png", gravel, "-o", folder / "o")
    assert status == 2
    assert len(line.strip().splitlines()) == 1
    for bad in (("--weights", "nope"), ("--min-probability", "2"), ("--device", "tpu"), ("--scale", "0.5-0.2")):
        assert run("locate", folder / "views" / "one.png", folder / "overviews", "-o", folder / "o", *bad)[0] == 2
    status, text, _ = run("locate", folder / "views" / "one.png", gravel, "-o", folder / "o", "--json", "--scale", "0.4-0.6")
    assert json.loads(text)[0]["answer"] == "found"
    assert places_from_json(folder / "o" / "one" / "places.json").scales == (0.4, 0.6)


def test_a_place_may_hang_over_the_border() -> None:
    image = overview()
    query, view = cut(image, (230.0, 300.0), 0.0)
    found = fiducial.locate(query, image[:, : 300 + 40])  # the query reaches 75 px to the right of its middle
    assert iou(found, view) > 0.8


def test_a_query_of_the_whole_source_and_a_long_narrow_one_are_found() -> None:
    image = half(overview())
    whole = fiducial.locate(image, image)
    assert iou(whole, np.eye(3), (256, 256)) > 0.95
    strip, view = cut(overview(), (200.0, 250.0), 15.0, (60, 300))
    assert iou(fiducial.locate(strip, overview()), view, (60, 300)) > 0.8


def test_a_real_second_exposure_at_five_times_the_scale_is_found(data: Path) -> None:
    folder = data / "sem" / "nanomfg"
    found = fiducial.locate(folder / "Set_2_Good_image2.jpg", folder / "Set_2_Good_image3.jpg")
    assert found.found
    assert found.scale[0] == pytest.approx(0.2, rel=0.02)
    assert np.allclose(found.corners_yx[0].mean(axis=0), [506, 642], atol=3)  # by normalized correlation over scales
    assert abs(found.angle_deg[0]) < 1
