"""`register` end to end on photographs that scikit-image brings, seen as by another sensor: laid right, or refused."""

import inspect as signatures
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.spatial import cKDTree
from skimage import data as photographs
from typed import run

import fiducial
from fiducial import api, augment, cli, registrations
from fiducial.coords import Matrix, apply_transform, image_center_yx, shift, similarity
from fiducial.estimation import transform_distance
from fiducial.landmarks import registrar, views
from fiducial.landmarks.views import SPACING_PX
from fiducial.records import InputError, Registration

SIZE = (230, 290)  # of fixed images
QUICK = {"turn_deg": 0.0, "scale": 1.0}  # where the search is not what is tested
WRITTEN = {*registrations.FILES, "overlay.png", "checkerboard.png", "aligned.tif"}


def scene(name: str = "camera", size: tuple[int, int] = (290, 330)) -> np.ndarray:
    image = np.asarray(getattr(photographs, name)())
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    return cv2.resize(gray, size[::-1], interpolation=cv2.INTER_AREA)


def fixed_image(name: str = "camera") -> np.ndarray:
    return scene(name)[20 : 20 + SIZE[0], 30 : 30 + SIZE[1]].copy()


def seen(
    angle: float = 0.0, scale: float = 1.0, name: str = "camera", size: tuple[int, int] = (250, 280), tilt: float = 0.0
) -> tuple[np.ndarray, Matrix]:
    """A view of the scene, a fixed pixel of `scale` view pixels, and how it lies on the fixed image."""
    y, x = image_center_yx((290, 330))
    v, u = image_center_yx(size)
    tilted = np.array([[1, 0, 0], [0, 1, 0], [tilt, 0.5 * tilt, 1.0]])
    view = shift(v + 6, u - 11) @ tilted @ similarity(scale, angle) @ shift(-y, -x)
    return cv2.warpPerspective(scene(name), view, size[::-1]), shift(-20, -30) @ np.linalg.inv(view)


def sensor(image: np.ndarray, look: str) -> np.ndarray:
    """The image as another kind of sensor might see it."""
    unit, rng = image.astype(np.float32) / 255, np.random.default_rng(5)
    if look == "gradient":
        unit = augment.gradient_look(unit, 1.0)
    elif look == "negative, dim":
        unit = 0.6 - 0.4 * unit
    elif look == "speckle":
        unit = augment.add_speckle(np.clip(unit, 0.02, None), rng, 6.0)
    elif look == "tones":
        unit = np.abs(np.sin(2.2 * unit)) ** 1.5  # not monotone: bright is as dark as middling
    return np.clip(unit * 255, 0, 255).astype(np.uint8)


def off_px(found: Registration, true: Matrix) -> float:
    assert found.moving_to_fixed is not None
    return transform_distance(true, found.moving_to_fixed, found.moving_size, found.fixed_size)


@pytest.mark.parametrize(
    ("look", "angle", "scale", "name"),
    [
        ("same", 0.0, 1.0, "camera"),
        ("negative, dim", 170.0, 1.0, "camera"),
        ("tones", -170.0, 1.0, "astronaut"),
        ("gradient", 20.0, 0.7, "brick"),
        ("speckle", -75.0, 1.5, "astronaut"),
    ],
)
def test_an_image_is_laid_on_another_sensors_view(look: str, angle: float, scale: float, name: str) -> None:
    moving, true = seen(angle, scale, name, (330, 400) if scale > 1 else (250, 280))
    found = fiducial.register(sensor(moving, look), fixed_image(name))
    assert found.accepted, found.reason
    assert off_px(found, true) < 2
    assert found.error_px < 2
    assert found.start == "searched"
    assert found.correction is None
    assert len(found) > 100
    np.testing.assert_allclose(found.residual_px.max(), 0, atol=4)
    assert (found.fixed_yx > -1).all()
    assert (found.fixed_yx < np.array(SIZE)).all()


def test_an_image_lies_on_itself() -> None:
    found = fiducial.register(fixed_image(), fixed_image())
    assert found.accepted
    assert off_px(found, np.eye(3)) < 0.2
    assert np.median(found.residual_px) < 1


def test_the_aligned_image_of_python_is_that_of_the_command_line(tmp_path: Path) -> None:
    moving = sensor(seen()[0], "gradient")
    cv2.imwrite(str(tmp_path / "moving.png"), moving)
    cv2.imwrite(str(tmp_path / "fixed.png"), fixed_image())
    found = fiducial.register(tmp_path / "moving.png", fixed_image(), turn_deg=0, scale=1)
    assert (
        run("register", tmp_path / "moving.png", tmp_path / "fixed.png", "--turn-deg", 0, "--scale", 1, "-o", tmp_path)[0] == 0
    )
    row = pd.read_csv(tmp_path / "summary.csv").iloc[0]
    center = apply_transform(found.moving_to_fixed, np.array([image_center_yx(found.moving_size)]))[0] - image_center_yx(
        found.moving_size
    )
    np.testing.assert_allclose([row.shift_y_px, row.shift_x_px, row.within_px], [*center, found.within_px], atol=1e-3)
    np.testing.assert_allclose([row.scale, row.angle_deg], [1, 0], atol=0.4)
    found.save_aligned(tmp_path / "a.tif", tmp_path / "moving.png", fixed_image())
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), tifffile.imread(tmp_path / "moving" / "aligned.tif"))
    with pytest.raises(InputError, match="expected the moving image that was registered"):
        found.save_aligned(tmp_path / "b.tif", fixed_image(), moving)
    with pytest.raises(InputError, match="was refused: "):
        replace(found, accepted=False, reason="why").save_aligned(tmp_path / "b.tif", moving, fixed_image())
    assert not (tmp_path / "b.tif").exists()


def test_unrelated_images_are_refused() -> None:
    found = fiducial.register(scene("camera"), fixed_image("astronaut"))
    assert not found.accepted
    assert found.score < 0.3
    assert "under 5 px with probability" in found.reason
    assert "\n" not in found.reason


def test_parts_that_do_not_overlap_are_refused() -> None:
    found = fiducial.register(scene()[:, :150], scene()[:, 160:], **QUICK)
    assert not found.accepted


@pytest.mark.parametrize("model", ["shift", "similarity", "affine", "homography"])
def test_the_transform_is_of_the_model_asked_for(model: str) -> None:
    moving, true = seen(angle=0.0 if model == "shift" else 6.0, tilt=4e-4 if model == "homography" else 0.0)
    found = fiducial.register(moving, fixed_image(), model=model, turn_deg=0.0)
    assert found.accepted, found.reason
    assert found.model == model
    assert found.moving_to_fixed is not None
    assert off_px(found, true) < (1.5 if model == "homography" else 0.7)
    linear = found.moving_to_fixed[:2, :2]
    if model == "shift":
        np.testing.assert_array_equal(linear, np.eye(2))
    if model == "similarity":
        np.testing.assert_allclose(linear.T @ linear, np.linalg.det(linear) * np.eye(2), atol=1e-9)
    assert (np.abs(found.moving_to_fixed[2, :2]).max() > 1e-5) == (model == "homography")


def test_a_scene_larger_than_the_frame_is_refined_at_its_own_scale() -> None:
    names = (("camera", "gravel"), ("brick", "astronaut"))
    large = np.vstack([np.hstack([scene(name, (410, 520)) for name in row]) for row in names])
    y, x = image_center_yx((790, 1000))
    view = shift(y + 4.3, x - 6.7) @ similarity(1.02, 2.0) @ shift(-409.5, -519.5)
    moving = cv2.warpPerspective(large, view, (1000, 790))
    found = fiducial.register(sensor(moving, "negative, dim"), large, **QUICK)
    assert found.accepted
    assert off_px(found, np.linalg.inv(view)) < 0.4
    spread = found.fixed_yx.max(axis=0) - found.fixed_yx.min(axis=0)
    assert (spread > [600, 800]).all()


def test_pixel_sizes_say_the_scale(tmp_path: Path) -> None:
    moving, true = seen(0.0, 0.4, size=(130, 150))
    for name, pixels, size in (("m.ome.tif", moving, 2.5), ("f.ome.tif", fixed_image(), 1.0)):
        tifffile.imwrite(tmp_path / name, pixels, metadata={"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size})
    found = fiducial.register(tmp_path / "m.ome.tif", tmp_path / "f.ome.tif", turn_deg=0.0)
    assert found.accepted, found.reason
    assert off_px(found, true) < 2
    stated = dict(found.provenance.parameters)
    assert stated["model"] == "affine"
    assert found.pixel_size == (1.0, 1.0)
    with pytest.raises(InputError, match=r"a shift cannot lay m\.ome\.tif on f\.ome\.tif"):
        fiducial.register(tmp_path / "m.ome.tif", tmp_path / "f.ome.tif", model="shift")


def test_a_stated_scale_bounds_the_search() -> None:
    moving, true = seen(0.0, 0.4, size=(130, 150))
    for scale in (2.5, (2.0, 3.0)):
        found = fiducial.register(moving, fixed_image(), scale=scale, turn_deg=0.0)
        assert found.accepted, found.reason
        assert off_px(found, true) < 2


def test_deep_gray_color_alpha_speckle_and_holes_are_read_alike() -> None:
    moving, true = seen()
    rng = np.random.default_rng(3)
    color = np.dstack([moving, moving, moving, rng.integers(0, 255, moving.shape, dtype=np.uint8)])
    heavy = np.minimum(60.0 * np.exp(moving / 40.0) * rng.lognormal(0, 0.5, moving.shape), 65535).astype(np.uint16)
    holes = moving.astype(np.float64)
    holes[:70, :90] = np.nan
    half = moving.copy()
    half[:, 150:] = 0
    for other in (color, heavy, holes, half, moving.astype(np.float32) * 1e-9, moving // 32):
        found = fiducial.register(other, fixed_image(), **QUICK)
        assert found.accepted, found.reason
        assert off_px(found, true) < 2
    ground = fixed_image().astype(np.float32)
    ground[140:] = np.nan
    half = moving.copy()
    half[:90] = 0
    found = fiducial.register(half, ground, **QUICK)  # about sixty rows in common
    assert not found.accepted or off_px(found, true) < 5


@pytest.mark.parametrize("flat", ["moving", "fixed", "both"])
def test_where_nothing_is_shown_nothing_is_found(flat: str, tmp_path: Path) -> None:
    images = [np.full((100, 120), 7.0) if flat in (role, "both") else fixed_image() for role in ("moving", "fixed")]
    found = fiducial.register(*images, **QUICK)
    assert not found.accepted
    assert found.moving_to_fixed is None
    assert (len(found), found.score) == (0, 0.0)
    assert np.isnan([found.error_px, found.held_out_px, found.return_px]).all()
    assert "nothing was found" in found.reason
    found.save(tmp_path / "r.json")
    assert len(fiducial.keypoints(np.full((100, 120), 7.0))) == 0


@pytest.mark.parametrize("size", [(48, 61), (49, 900), (66, 52)])
def test_small_and_narrow_images_get_an_answer(size: tuple[int, int]) -> None:
    small = cv2.resize(scene("astronaut"), size[::-1], interpolation=cv2.INTER_AREA)
    found = fiducial.register(small, small.copy(), **QUICK)
    assert not found.accepted or off_px(found, np.eye(3)) < 1
    assert not fiducial.register(small, fixed_image(), **QUICK).accepted


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((1, 1)), "at least 48 px"),
        (np.zeros((47, 300)), "at least 48 px"),
        (np.full((64, 80), np.nan), "finite"),
        (np.zeros((64, 80, 5)), "channels"),
        (np.zeros((64, 80), complex), "integers, floats"),
    ],
)
def test_bad_input_gets_one_clear_line(image: np.ndarray, message: str) -> None:
    for call in (
        lambda: fiducial.register(image, fixed_image()),
        lambda: fiducial.register(fixed_image(), image),
        lambda: fiducial.keypoints(image),
    ):
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "rigid"}, {"scale": -1.0}, {"scale": (2.0, 1.0)}, {"scale": float("nan")}, {"turn_deg": 181.0},
        {"turn_deg": float("nan")}, {"min_probability": 1.5}, {"device": "tpu"}, {"weights": "none"},
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="must") as caught:
        fiducial.register(fixed_image(), fixed_image(), **options)
    assert "\n" not in str(caught.value)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    moving, _ = seen(4.0)
    for name in ("a.json", "b.json"):
        fiducial.register(sensor(moving, "gradient"), fixed_image(), **QUICK).save(tmp_path / name)
        fiducial.keypoints(moving, most=50).save(tmp_path / f"k{name}")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "ka.json").read_bytes() == (tmp_path / "kb.json").read_bytes()


def test_the_record_says_what_it_was_made_with() -> None:
    made = fiducial.register(fixed_image(), fixed_image(), **QUICK, min_probability=0.25).provenance
    assert made.weights == "keypoints_slim"
    assert len(made.sha256) == 64
    stated = dict(made.parameters)
    assert (stated["min_probability"], stated["turn_deg"], stated["model"]) == (0.25, 0.0, "affine")
    twice = dict(
        fiducial.register(fixed_image(), fixed_image()[::2, ::2].copy(), scale=0.5, turn_deg=0.0).provenance.parameters
    )
    assert (twice["least_scale"], twice["largest_scale"]) == pytest.approx((0.5 / 1.12, 0.5 * 1.12))


@pytest.mark.parametrize(
    ("most", "turns"),
    [
        (0, []),
        (12, []),
        (20, [-20, 20]),
        (30, [-30, 30]),
        (50, [-30, 30, -50, 50]),
        (180, [-180, *(sign * turn for turn in range(30, 180, 30) for sign in (-1, 1))]),
    ],
)
def test_angles_up_to_the_one_asked_for_are_searched(most: float, turns: list[float]) -> None:
    assert registrar._turns(most) == turns


def test_keypoints_follow_the_image_and_are_the_best_of_it() -> None:
    image = scene("astronaut")
    found = fiducial.keypoints(image, most=200)
    assert len(found) == 200
    assert np.all(np.diff(found.score) <= 0)
    assert ((found.score >= 0) & (found.score < 1)).all()
    np.testing.assert_allclose(np.linalg.norm(found.descriptor, axis=1), 1, atol=1e-4)
    assert cKDTree(found.yx).query(found.yx, 2)[0][:, 1].min() > SPACING_PX - 1
    fewer = fiducial.keypoints(image, most=50)
    np.testing.assert_array_equal(fewer.yx, found.yx[:50])
    moved = fiducial.keypoints(image[16:, 32:], most=200)  # a part of it: other tones, and another border
    apart = np.linalg.norm(found.yx[:, None] - (moved.yx + np.array([16, 32]))[None], axis=-1).min(axis=1)
    inner = (found.yx > [40, 56]).all(axis=1) & (found.yx < np.array(image.shape) - 24).all(axis=1)
    assert (apart[inner] < 2).mean() > 0.7
    spread = fiducial.keypoints(image, most=200, spacing=12)
    assert cKDTree(spread.yx).query(spread.yx, 2)[0][:, 1].min() > 11
    assert spread.score[0] == found.score[0]  # the best point stays, those around it give way to others
    assert np.ptp(spread.yx, axis=0).prod() > np.ptp(found.yx, axis=0).prod()
    with pytest.raises(InputError, match="most must be"):
        fiducial.keypoints(image, most=0)
    with pytest.raises(InputError, match="spacing must be a whole number, from 1 to 64"):
        fiducial.keypoints(image, spacing=65)


def test_keypoints_of_tiles_do_not_crowd_at_the_seams() -> None:
    large = np.hstack([scene(name, (60, 420)) for name in ("camera", "astronaut", "gravel")])
    found = fiducial.keypoints(large, most=20_000)
    assert cKDTree(found.yx).query(found.yx, 2)[0][:, 1].min() > SPACING_PX - 1
    per_strip = np.histogram(found.yx[:, 1], bins=np.arange(0, 1261, 30))[0]
    assert per_strip.min() > 0.4 * np.median(per_strip)


def test_keypoints_of_a_long_image_take_no_more_memory_than_those_asked_for() -> None:
    held: list[int] = []
    tracemalloc.start()
    fiducial.keypoints(
        np.tile(scene(size=(60, 420)), 12), most=300, progress=lambda *_: held.append(tracemalloc.get_traced_memory()[0])
    )
    tracemalloc.stop()
    assert len(held) > 10
    assert held[-1] - held[0] < 40_000  # bytes; 300 places and scores of each tile would be 7200 more a tile


def test_large_views_are_described_a_few_at_once_with_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    (moving, true), network = seen(170.0), api.load_registrar(None, "cpu")[1].observer.network
    shapes: list[tuple[int, ...]] = []
    watch = network.cnn[0].register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape)))
    monkeypatch.setattr(views, "_AT_ONCE_PX", 4_000_000)
    together = fiducial.register(moving, fixed_image(), device="cpu", scale=1.0)
    assert max(shape[0] for shape in shapes) > 2
    shapes.clear()
    monkeypatch.setattr(views, "_AT_ONCE_PX", 150_000)
    apart = fiducial.register(moving, fixed_image(), device="cpu", scale=1.0)
    watch.remove()
    assert max(np.prod(shape) for shape in shapes if shape[0] > 1) <= 150_000
    assert together.accepted
    assert off_px(apart, true) < 1
    np.testing.assert_allclose(apart.moving_to_fixed, together.moving_to_fixed, atol=0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "fixed.png"), fixed_image())
    cv2.imwrite(str(tmp_path / "in" / "good.png"), sensor(seen()[0], "gradient"))
    cv2.imwrite(str(tmp_path / "in" / "other.png"), scene("gravel", (110, 120)))
    return tmp_path


def test_a_folder_is_laid_on_one_image_past_bad_files(folder: Path) -> None:
    (folder / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    words = ["--turn-deg", 0, "--scale", 1, "-o", folder / "out"]
    assert run("register", folder / "in", folder / "fixed.png", *words)[0] == 1
    table = pd.read_csv(folder / "out" / "summary.csv").set_index("name")
    assert table["answer"].to_dict() == {"broken": "error", "good": "accepted", "other": "refused"}
    assert "damaged" in table["why"]["broken"]
    assert table["error_px"]["good"] < 2
    files = {name: {p.name for p in (folder / "out" / name).iterdir()} for name in ("good", "other")}
    assert files == {"good": WRITTEN, "other": WRITTEN - {"aligned.tif"}}
    assert not (folder / "out" / "broken").exists()
    aligned = tifffile.imread(folder / "out" / "good" / "aligned.tif").astype(np.float32)
    assert aligned.shape == SIZE
    expected = sensor(fixed_image(), "gradient").astype(np.float32)
    shown = cv2.erode((aligned > 0).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert shown.mean() > 0.3
    assert np.corrcoef(aligned[shown], expected[shown])[0, 1] > 0.8


def test_exit_status_says_accepted_refused_and_bad_input(folder: Path) -> None:
    words = ["--turn-deg", 0, "--scale", 1, "-o", folder / "o"]
    status, text, _ = run("register", folder / "in" / "good.png", folder / "fixed.png", *words, "--json")
    assert status == 0
    (row,) = json.loads(text)
    assert (row["name"], row["answer"]) == ("good", "accepted")
    assert (folder / "o" / "good" / "aligned.tif").exists()
    cv2.imwrite(str(folder / "in" / "good.png"), scene("gravel", (110, 120)))
    assert run("register", folder / "in" / "good.png", folder / "fixed.png", *words)[0] == 3
    assert not (folder / "o" / "good" / "aligned.tif").exists()  # that of the run before would mislead


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing.png", "fixed.png"], "cannot read"),
        (["in/good.png", "nothing.png"], "cannot read"),
        (["in/*.tif", "fixed.png"], "no file matches"),
        (["in/good.png", "fixed.png", "--model", "rigid"], "model must be"),
        (["in/good.png", "fixed.png", "--scale", "0"], "scale must be"),
        (["in/good.png", "fixed.png", "--turn-deg", "270"], "turn_deg must"),
        (["in/good.png", "fixed.png", "--min-probability", "2"], "between 0 and 1"),
        (["in/good.png", "fixed.png", "--weights", "none"], "weights must be"),
        (["in/good.png", "fixed.png", "--device", "tpu"], "device must be"),
        (["in/good.png", "fixed.png", "--max-bytes", "100"], "over the budget"),
    ],
)
def test_bad_requests_are_one_line_and_status_two(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    monkeypatch.chdir(folder)
    status, _, error = run("register", *words, "-o", "out")
    assert status == 2
    assert says in error
    assert error.startswith("fiducial: ")
    assert error.count("\n") == 1
    assert not (folder / "out").exists()


def test_keypoints_are_written_as_the_suffix_says(folder: Path) -> None:
    for name in ("k.csv", "k.json", "k.geojson", "k.png"):
        status, text, _ = run("keypoints", folder / "fixed.png", "--most", 40, "-o", folder / name)
        assert status == 0
        assert "40 points" in text
        assert (folder / name).stat().st_size > 0
    drawn, fixed = (cv2.imread(str(folder / name)) for name in ("k.png", "fixed.png"))
    assert (cv2.resize(drawn, fixed.shape[1::-1]) == fixed).all(-1).mean() > 0.3  # over the image, not over black
    table = pd.read_csv(folder / "k.csv")
    np.testing.assert_allclose(table[["y_px", "x_px"]], fiducial.keypoints(folder / "fixed.png", most=40).yx, atol=1e-3)
    for words in (["--most", 0], ["-o", folder / "k.xyz"], ["--device", "tpu"]):
        assert run("keypoints", folder / "fixed.png", *words)[0] == 2


@pytest.mark.parametrize(("verb", "given"), [("register", {"moving", "fixed"}), ("keypoints", {"image"})])
def test_options_are_written_alike_in_every_place(verb: str, given: set[str]) -> None:
    stated = signatures.signature(getattr(api, verb)).parameters
    command = signatures.signature(getattr(cli.verbs, verb)).parameters
    options = set(stated) - given - {"progress"}
    assert set(command) - given - {"out", "as_json", "again"} == options
    for name in options:
        assert stated[name].default == command[name].default, name
