"""Blobs that were drawn are found where they were drawn, whatever the file, the tile or the scale; nonsense is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from PIL import Image as PillowImage
from scipy.spatial import cKDTree
from skimage import data as photographs
from typer.testing import CliRunner

import fiducial
from fiducial import api, metrics
from fiducial.blobs.detector import Candidates, decode, has_small, join, peaks, spread_views
from fiducial.blobs.network import NOMINAL_RADIUS_PX, Output
from fiducial.cli import app
from fiducial.crowds import Crowd, Style, disks, heat_map, render_crowd, scatter
from fiducial.images import as_image, from_array, write_image
from fiducial.records import InputError

SIZE = (230, 310)
PLAIN = Style("disk", over=True, contrast=(0.7, 0.9), softness=0.15, texture=0.0, ragged=0.0, stretch=0.0)


def crowd_image(
    rng: np.random.Generator, size: tuple[int, int] = SIZE, radius: tuple[float, float] = (6, 10)
) -> tuple[np.ndarray, Crowd]:
    """Return an 8-bit image of bright disks, most of them touching, and its truth."""
    crowd = scatter(rng, size, radius, (0.95, 1.4), 0.3)
    crowd = crowd.only(((crowd.yx > radius[1]) & (crowd.yx < np.array(size) - radius[1])).all(axis=1))
    image = render_crowd(crowd, size, PLAIN, rng) + rng.normal(0, 0.02, size)
    return np.clip(30 + 200 * image, 0, 255).astype(np.uint8), crowd


def f1(found_yx: np.ndarray, crowd: Crowd) -> float:
    partner = metrics.match_points(found_yx, crowd.yx, metrics.blob_reach(crowd.radius))
    hits = int((partner >= 0).sum())
    return metrics.Counts(hits, len(found_yx) - hits, len(crowd) - hits).f()


def agree(a_yx: np.ndarray, b_yx: np.ndarray, px: float = 0.5) -> float:
    """Return the share of points of two sets that have a partner in the other."""
    partner = metrics.match_points(a_yx, b_yx, np.full(len(b_yx), px))
    return 2 * float((partner >= 0).sum()) / max(1, len(a_yx) + len(b_yx))


def test_drawn_blobs_are_found_with_their_radius_and_count(rng: np.random.Generator) -> None:
    image, crowd = crowd_image(rng)
    found = fiducial.detect(image)
    assert f1(found.yx, crowd) > 0.95
    partner = metrics.match_points(found.yx, crowd.yx, metrics.blob_reach(crowd.radius))
    hit = partner >= 0
    assert np.median(np.linalg.norm(found.yx[partner[hit]] - crowd.yx[hit], axis=1)) < 0.6
    assert np.median(np.abs(found.radius[partner[hit]] / crowd.radius[hit] - 1)) < 0.12
    assert found.count_interval[0] <= len(crowd) <= found.count_interval[1]
    assert (np.diff(found.score) <= 0).all()
    assert found.count == len(found) == len(found.to_frame())


@pytest.mark.parametrize("radius", [(2.5, 3.5), (11, 18), (34, 50)], ids=str)
def test_sizes_need_not_be_known(radius: tuple[float, float], rng: np.random.Generator) -> None:
    size = (160, 210) if radius[0] < 5 else (400, 520)
    image, crowd = crowd_image(rng, size, radius)
    assert f1(fiducial.detect(image).yx, crowd) > 0.85


@pytest.mark.parametrize(
    ("radius", "p", "size", "enlarged"),
    [
        ([5] * 50 + [12] * 50, 0.9, (600, 800), True),
        ([5] * 30 + [12] * 70, 0.9, (600, 800), False),
        ([5] * 50 + [12] * 50, 0.4, (600, 800), False),  # none that is sure
        ([6.8] * 20 + [12] * 80, 0.4, (256, 256), True),  # little: fewer, less small, less sure ones do
        ([8] * 100, 0.9, (256, 256), False),
        ([], 0.9, (256, 256), False),
    ],
)
def test_crowds_of_small_blobs_are_enlarged(radius: list[float], p: float, size: tuple[int, int], *, enlarged: bool) -> None:
    n = len(radius)
    found = Candidates(np.zeros((n, 2)), np.array(radius, float), np.full(n, p), np.ones(n), np.zeros((n, 0), np.float32))
    assert has_small(found, size) == enlarged


def test_dark_blobs_and_other_light_are_found_alike(rng: np.random.Generator) -> None:
    image, crowd = crowd_image(rng)
    assert f1(fiducial.detect(255 - image).yx, crowd) > 0.9
    assert f1(fiducial.detect((image.astype(np.float64) / 255) ** 1.6 * 3e4).yx, crowd) > 0.9


def test_a_shifted_image_shifts_the_answer(rng: np.random.Generator) -> None:
    image, _ = crowd_image(rng)
    rows, columns = 12, 31
    whole, part = fiducial.detect(image), fiducial.detect(image[rows:, columns:])
    inner = (whole.yx > np.array([rows + 20, columns + 20])).all(axis=1)
    kept = (part.yx > 20).all(axis=1)
    assert agree(part.yx[kept] + (rows, columns), whole.yx[inner], px=1.0) > 0.93


def test_a_turned_image_turns_the_answer(rng: np.random.Generator) -> None:
    """To parts of a pixel, where an image is small enough to be seen both ways and has whole cells."""
    image, _ = crowd_image(rng, (256, 256))
    found, turned = fiducial.detect(image), fiducial.detect(np.ascontiguousarray(image[::-1, ::-1]))
    assert agree(found.yx, 255 - turned.yx, 0.02) > 0.98  # two tops of one blob may be all but equally high
    np.testing.assert_allclose(found.score, turned.score, atol=0.002)


@pytest.mark.parametrize("radius", [6, 12, 20])
def test_centers_are_not_off_to_one_side(radius: int, rng: np.random.Generator) -> None:
    """Disks at places between pixels; a network alone puts them up to a third of a pixel off, all to one side."""
    grid, step = np.mgrid[:320, :352], 4 * radius
    true = np.stack(np.meshgrid(*(np.arange(step, n - step // 2, step) for n in (320, 352)), indexing="ij"), -1).reshape(-1, 2)
    true = true + rng.uniform(-0.5, 0.5, true.shape)
    distance = np.min([np.hypot(grid[0] - y, grid[1] - x) for y, x in true], axis=0)
    image = 255 * (0.2 + 0.6 * np.clip(radius + 0.5 - distance, 0, 1) + rng.normal(0, 0.02, distance.shape))
    found = fiducial.detect(image.clip(0, 255).astype(np.uint8))
    apart, nearest = cKDTree(true).query(found.yx)
    off = (found.yx - true[nearest])[apart < 2]
    assert len(off) > 0.9 * len(true)
    assert np.abs(off.mean(axis=0)).max() < 0.15


@pytest.mark.parametrize("size", [(620, 730), (300, 521)], ids=["large", "also seen turned"])
def test_tiles_and_the_whole_agree(size: tuple[int, int], rng: np.random.Generator) -> None:
    image, _ = crowd_image(rng, size)
    _, detector, least = api.check_detection(None, "cpu", 0.5, None)
    answers = []
    for tile_px in (2048, 300):
        found, evidence = detector.candidates(from_array(image), tile_px=tile_px)
        answers.append(found.yx[detector.probability(evidence) >= least])
    assert len(answers[0]) > 60
    assert agree(*answers) >= 0.995


@pytest.mark.parametrize("size", [(512, 512), (513, 512), (4, 70_000), (300, 1000), (20_000, 5_000)])
def test_views_stand_for_all_of_a_copy(size: tuple[int, int]) -> None:
    views = spread_views(size)
    y0, x0, y1, x1 = np.array(views).T
    assert (y0.min(), x0.min(), y1.max(), x1.max()) == (0, 0, *size)
    assert len({(b - t, r - left) for t, left, b, r in views}) == 1
    assert len(views) <= 144


@pytest.mark.parametrize("convert", [
    lambda a: a.astype(np.uint16) * 257,
    lambda a: a.astype(np.float64) / 7 - 3,
    lambda a: np.repeat(a[..., None], 3, axis=2),
    lambda a: np.concatenate([np.repeat(a[..., None], 3, axis=2), np.full((*a.shape, 1), 255, np.uint8)], axis=2),
], ids=["uint16", "float", "rgb", "rgba"])  # fmt: skip
def test_types_and_channels_do_not_change_the_answer(convert: object, rng: np.random.Generator) -> None:
    image, _ = crowd_image(rng)
    a, b = fiducial.detect(image), fiducial.detect(convert(image))  # type: ignore[operator]
    assert agree(a.yx, b.yx) > 0.97


def test_files_give_the_answer_of_their_arrays_with_physical_units(tmp_path: Path, rng: np.random.Generator) -> None:
    image, _ = crowd_image(rng)
    write_image(tmp_path / "a.tif", image, (0.5, 0.5), "µm")
    found = fiducial.detect(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.yx, fiducial.detect(image).yx)
    row = found.to_frame().iloc[0]
    np.testing.assert_allclose([row["y_um"], row["radius_um"]], [0.5 * row["y_px"], 0.5 * row["radius_px"]])


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, rng: np.random.Generator) -> None:
    image, _ = crowd_image(rng)
    for name in ("a.json", "b.json"):
        fiducial.detect(image).save(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("image", [
    np.full((40, 60), 7, np.uint8),
    np.zeros((300, 4), np.uint16),
    np.random.default_rng(0).normal(100, 5, (120, 150)).astype(np.float32),
], ids=["constant", "narrow", "noise"])  # fmt: skip
def test_nothing_is_an_answer(image: np.ndarray) -> None:
    found = fiducial.detect(image)
    assert len(found) <= (0 if np.ptp(image) == 0 else 2)
    assert found.count_interval[0] == 0
    assert found.yx.shape == (len(found), 2)


@pytest.mark.parametrize(("image", "line"), [
    (np.zeros((1, 1), np.uint8), "at least 4 px"),
    (np.full((30, 40), np.nan), "finite"),
    (np.zeros((0, 5)), "none of them 0"),
    (np.zeros((20, 20, 7)), "gray or RGB"),
    (np.zeros((20, 20), complex), "integers, floats"),
], ids=["1 px", "NaN", "empty", "7 channels", "complex"])  # fmt: skip
def test_nonsense_is_refused_in_one_line(image: np.ndarray, line: str) -> None:
    with pytest.raises(InputError, match=line):
        fiducial.detect(image)


def test_holes_in_the_data_do_not_become_blobs(rng: np.random.Generator) -> None:
    image, crowd = crowd_image(rng)
    torn = image.astype(np.float32)
    torn[40:60, 50:80] = np.nan
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    torn[np.hypot(rows - 150, columns - 90) < 11] = np.nan  # as round as a blob
    far = ~((crowd.yx > (20, 30)) & (crowd.yx < (80, 100))).all(axis=1) & (np.hypot(*(crowd.yx - (150, 90)).T) > 30)
    found = fiducial.detect(torn)
    assert np.hypot(*(found.yx - (150, 90)).T).min() > 8
    assert not ((found.yx > (42, 52)) & (found.yx < (57, 77))).all(axis=1).any()
    kept = ~((found.yx > (20, 30)) & (found.yx < (80, 100))).all(axis=1) & (np.hypot(*(found.yx - (150, 90)).T) > 30)
    assert f1(found.yx[kept], crowd.only(far)) > 0.9


def test_a_diameter_may_be_stated_in_pixels_or_in_units(rng: np.random.Generator) -> None:
    image, crowd = crowd_image(rng)
    assert f1(fiducial.detect(image, diameter=16).yx, crowd) > 0.9
    sized = as_image(image)
    sized = type(sized)(**{**sized.__dict__, "pixel_size": (0.25, 0.25), "unit": "µm"})
    assert api.diameter_px(sized, "4 um") == pytest.approx(16)
    assert api.diameter_px(sized, "4000nm") == pytest.approx(16)
    assert api.diameter_px(sized, "1.5748e-4in") == pytest.approx(16, rel=1e-3)
    assert api.diameter_px(sized, "4e-9 km") == pytest.approx(16)
    assert api.diameter_px(sized, 12) == 12
    for wrong, line in (
        ("4 um", "states its pixel size"),
        ("-3", "above 0"),
        ("abc", "above 0"),
        (1e6, "2000 px"),
        ("3 kg", "above 0"),
    ):
        with pytest.raises(InputError, match=line):
            api.diameter_px(as_image(image), wrong)


def test_fewer_false_alarms_list_fewer_blobs(rng: np.random.Generator) -> None:
    image, _ = crowd_image(rng)
    counts = [len(fiducial.detect(image, false_alarms=k)) for k in (1.0, 10.0, 70.0)]
    assert counts == sorted(counts)
    with pytest.raises(InputError, match="above 0"):
        fiducial.detect(image, false_alarms=0)
    for beyond in (1e-6, 1e9):
        with pytest.raises(InputError, match="megapixel"):
            fiducial.detect(image, false_alarms=beyond)


def test_embeddings_know_a_blob_again_in_other_light(rng: np.random.Generator) -> None:
    image, _ = crowd_image(rng)
    first = fiducial.detect(image, embeddings=True)
    second = fiducial.detect(np.clip(40 + 0.6 * image, 0, 255).astype(np.uint8), embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(first.embedding, axis=1), 1, rtol=1e-4)
    partner = metrics.match_points(second.yx, first.yx, np.full(len(first), 1.0))
    hit = np.flatnonzero(partner >= 0)
    likeness = first.embedding[hit] @ second.embedding[partner[hit]].T
    assert (likeness.argmax(axis=1) == np.arange(len(hit))).mean() > 0.8
    assert fiducial.detect(image).embedding.shape[1] == 0


def test_coins_are_counted_on_a_real_photograph() -> None:
    found = fiducial.detect(photographs.coins())
    assert 22 <= found.count <= 26
    assert found.count_interval[0] <= 24 <= found.count_interval[1]


def test_peaks_give_centers_between_pixels_and_radii() -> None:
    crowd = disks(np.array([[20.3, 31.8], [44.6, 70.2]]), np.array([6.0, 9.0]))
    heat, _ = heat_map(crowd, (64, 96), 0.42, 1.0)
    p = torch.from_numpy(heat)[None, None].clamp(1e-6, 1 - 1e-6)
    size = torch.zeros_like(p) + float(np.log2(6 / NOMINAL_RADIUS_PX))
    y, x, radius, height = peaks(Output(torch.logit(p), size, torch.zeros(1, 1, 16, 24)))
    np.testing.assert_allclose(np.sort(y), [20.3, 44.6], atol=0.1)
    np.testing.assert_allclose(np.sort(x), [31.8, 70.2], atol=0.1)
    np.testing.assert_allclose(radius, 6.0, rtol=1e-4)
    assert (height > 0.9).all()


def candidates(*rows: tuple[float, float, float, float, float]) -> Candidates:
    y, x, radius, p, scale = np.array(rows).T
    return Candidates(np.stack([y, x], axis=1), radius, p, scale, np.zeros((len(rows), 0), np.float32))


@pytest.mark.parametrize(
    ("radius", "apart", "count"), [(5, 1, 1), (5, 2, 2), (8, 3, 1), (8, 4, 2), (14, 6, 1), (14, 7, 2), (30, 12, 1)]
)
def test_of_peaks_that_are_nearer_than_their_radius_allows_the_highest_counts(radius: float, apart: int, count: int) -> None:
    p = torch.full((1, 1, 40, 61), 0.01)
    p[0, 0, 20, 30], p[0, 0, 20 + apart // 2, 30 + apart] = 0.9, 0.8
    log_radius = torch.full_like(p, float(np.log2(radius / NOMINAL_RADIUS_PX)))
    height = peaks(Output(p.logit(), log_radius, torch.zeros(1, 1, 1, 1)))[3]
    np.testing.assert_allclose(np.sort(height)[::-1], [0.9, 0.8][:count], rtol=1e-5)


def test_of_two_scales_that_see_one_blob_the_stronger_speaks_and_the_other_is_evidence() -> None:
    found, evidence = decode([candidates((50, 50, 12, 0.6, 1.0)), candidates((50.4, 49.8, 12.5, 0.9, 0.5))])
    assert len(found) == 1
    assert found.scale.tolist() == [0.5]
    assert evidence[0, 1] == pytest.approx(0.6)


def test_touching_blobs_are_both_kept_and_the_weaker_of_two_in_one_place_is_not() -> None:
    touching = candidates((50, 50, 10, 0.9, 1.0), (50, 62, 10, 0.4, 1.0))
    assert len(decode([touching])[0]) == 2
    same = candidates((50, 50, 10, 0.4, 1.0), (50, 55, 10, 0.9, 1.0))
    assert decode([same])[0].yx.tolist() == [[50, 55]]


def test_what_lies_within_a_blob_is_no_blob_and_what_lies_over_several_is_none_either() -> None:
    within = candidates((50, 50, 30, 0.9, 0.25), (55, 60, 5, 0.5, 1.0))
    assert decode([within])[0].radius.tolist() == [30]
    over = candidates((50, 50, 30, 0.3, 0.25), (40, 40, 8, 0.9, 1.0), (60, 62, 8, 0.8, 1.0))
    assert sorted(decode([over])[0].radius.tolist()) == [8, 8]


def test_no_candidates_are_a_record_of_length_zero() -> None:
    found, evidence = decode([], 128)
    assert (len(found), found.embedding.shape, evidence.shape) == (0, (0, 128), (0, 4))
    assert len(join([], 0)) == 0


def test_the_command_line_writes_one_table_for_a_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "in").mkdir()
    image, crowd = crowd_image(rng)
    PillowImage.fromarray(image).save(tmp_path / "in" / "full.png")
    tifffile.imwrite(tmp_path / "in" / "empty.tif", np.full((50, 70), 9, np.uint8))
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    done = CliRunner().invoke(app, ["detect", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 1
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["empty"]["count"] == 0
    assert "damaged" in rows["broken"]["why"]
    assert rows["full"]["count_low"] <= len(crowd) <= rows["full"]["count_high"]
    table = pd.read_csv(tmp_path / "out" / "blobs.csv")
    assert (table["image"] == "full").sum() == len(table) == rows["full"]["count"]
    written = {path.name for path in (tmp_path / "out" / "full").iterdir()}
    assert written == {
        "blobs.csv",
        "blobs.json",
        "blobs.coco.json",
        "blobs.geojson",
        "blobs.roi.zip",
        "blobs.points.csv",
        "overlay.png",
    }
    assert not list(tmp_path.rglob("*.part"))


def test_patterns_and_bad_input_have_their_status(tmp_path: Path, rng: np.random.Generator) -> None:
    image, _ = crowd_image(rng, (90, 100))
    for name in ("a1.png", "a2.png", "b.png"):
        PillowImage.fromarray(image).save(tmp_path / name)
    run = CliRunner()
    done = run.invoke(app, ["detect", str(tmp_path / "a*.png"), "-o", str(tmp_path / "out"), "--json"])
    assert (done.exit_code, len(json.loads(done.stdout))) == (0, 2)
    for words in (["nothing*.png"], ["absent.png"], ["b.png", "--diameter", "3 kg"], ["b.png", "--min-probability", "2"]):
        done = run.invoke(app, ["detect", str(tmp_path / words[0]), *words[1:], "-o", str(tmp_path / "out")])
        assert done.exit_code == 2, words
        assert len(done.stderr.strip().splitlines()) == 1


def test_few_bright_pixels_of_a_large_image_are_seen() -> None:
    image = np.zeros((2500, 2600), np.uint8)
    places = np.stack(np.meshgrid(np.arange(301, 2300, 400), np.arange(303, 2400, 400), indexing="ij"), -1).reshape(-1, 2)
    y, x = np.mgrid[-9:10, -9:10]
    for r, c in places.tolist():
        image[r - 9 : r + 10, c - 9 : c + 10] = 230 * (y * y + x * x <= 64)
    assert agree(fiducial.detect(image, diameter=16).yx, places.astype(np.float64)) > 0.95


def test_what_is_cut_by_the_border_is_found_inside(rng: np.random.Generator) -> None:
    image, _ = crowd_image(rng)
    cut = image[7:, 9:]
    found = fiducial.detect(cut, min_probability=0.1)
    assert (found.yx >= -0.5).all()
    assert (found.yx <= np.array(cut.shape) - 0.5).all()


@pytest.mark.parametrize("beyond", [0.0, 4.0])
def test_of_blobs_across_the_border_the_part_that_is_shown_is_found(beyond: float, rng: np.random.Generator) -> None:
    """Half of each, or less than a third, at the upper and the right border."""
    along = np.arange(20.0, 240, 25)
    above, right = np.full_like(along, -0.5 - beyond), np.full_like(along, 255.5 + beyond)
    border = np.concatenate([np.stack([above, along], axis=1), np.stack([along, right], axis=1)])
    crowd = disks(border, np.full(len(border), 9.0))
    image = render_crowd(crowd, (256, 256), PLAIN, rng) + rng.normal(0, 0.02, (256, 256))
    found = fiducial.detect(np.clip(30 + 200 * image, 0, 255).astype(np.uint8))
    seen = crowd.shown((256, 256))
    partner = metrics.match_points(found.yx, seen.yx, np.full(len(seen), 1.5))
    assert (partner >= 0).mean() > 0.8


def test_a_large_blob_cut_in_half_is_found_inside_an_image_that_no_scale_divides() -> None:
    y, x = np.mgrid[:161, :165]
    found = fiducial.detect(np.where(np.hypot(y - 162, x - 80) < 46, 200, 40).astype(np.uint8))
    assert len(found) == 1
    shown = np.array([162 - 4 * 46 / (3 * np.pi), 80])  # the centroid of what is shown
    assert np.linalg.norm(found.yx[0] - shown) < 0.6 * 46 / np.sqrt(2)
    assert found.yx[0, 0] <= 160.5  # the last row of the copy at a quarter of the scale reaches to 163.5


def test_a_bad_option_is_told_once_and_a_strange_name_stays_in_its_folder(tmp_path: Path, rng: np.random.Generator) -> None:
    image, _ = crowd_image(rng, (90, 100))
    (tmp_path / "in").mkdir()
    for name in ("...png", "summary.csv.png"):
        PillowImage.fromarray(image).save(tmp_path / "in" / name, format="PNG")
    run = CliRunner()
    assert run.invoke(app, ["detect", str(tmp_path / "in"), "--diameter", "foo", "-o", str(tmp_path / "no")]).exit_code == 2
    done = run.invoke(app, ["detect", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert (tmp_path / "out" / "summary.csv").is_file()


def test_overlays_of_color_are_in_color(tmp_path: Path, rng: np.random.Generator) -> None:
    image, _ = crowd_image(rng, (90, 100))
    tinted = np.stack([image, image // 3, image // 5], axis=2)
    PillowImage.fromarray(tinted).save(tmp_path / "a.png")
    CliRunner().invoke(app, ["detect", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--min-probability", "1"])
    shown = np.asarray(PillowImage.open(tmp_path / "out" / "a" / "overlay.png")).astype(int)
    assert (shown[..., 0] - shown[..., 2]).max() > 60


def test_progress_never_steps_back_at_several_scales() -> None:
    y, x = np.mgrid[:200, :230]
    image = np.full((200, 230), 30.0)
    for cy, cx in np.random.default_rng(4).uniform(5, 195, (90, 2)):
        image += 150 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 5)
    told: list[float] = []
    fiducial.detect(image.clip(0, 255).astype(np.uint8), device="cpu", progress=lambda d, t: told.append(d / t))
    assert len(told) == 4  # one was added
    assert told == sorted(told)
    assert told[-1] == 1


def test_progress_is_told_to_its_end_where_an_image_is_too_small_for_some_scales() -> None:
    told: list[float] = []
    fiducial.detect(np.arange(54, dtype=np.uint8).reshape(6, 9), device="cpu", progress=lambda d, t: told.append(d / t))
    assert told == sorted(told)
    assert told[-1] == 1
