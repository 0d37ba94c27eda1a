"""`inspect` end to end on drawn boards: finds what was damaged, passes what is good, refuses what it cannot judge."""

import inspect as signatures
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from skimage.data import brick

import fiducial
from fiducial import api, augment, cli, geometry, metrics, synth, weights
from fiducial.coords import apply_transform, corners_yx, image_center_yx, shift, similarity
from fiducial.defects.inspector import DefectInspector
from fiducial.images import from_array
from fiducial.regions import label_regions

SIZE = (398, 517)


def board(seed: int = 3, size: tuple[int, int] = SIZE) -> np.ndarray:
    return 255 - synth.draw_board(np.random.default_rng(seed), size)


def damaged(template: np.ndarray, seed: int = 5, count: int = 14) -> tuple[np.ndarray, np.ndarray]:
    sample, mask = synth.damage_board(255 - template, np.random.default_rng(seed), count)
    return 255 - sample, mask


def photograph(image: np.ndarray, seed: int) -> np.ndarray:
    gray = augment.photograph(0.2 + 0.6 * image.astype(np.float32) / 255, np.random.default_rng(seed), 0.4)
    return np.clip(gray * 255, 0, 255).astype(np.uint8)


def turned(image: np.ndarray, dy: float, dx: float, angle: float) -> np.ndarray:
    size = (image.shape[0], image.shape[1])
    matrix = shift(dy, dx) @ similarity(1.0, angle, image_center_yx(size))
    return geometry.warp(image.astype(np.float32), matrix, size)[0].round().astype(np.uint8)


@pytest.mark.parametrize("how", ["aligned", "displaced", "photographed"])
def test_damage_is_found_where_it_was_drawn(how: str) -> None:
    template = board()
    sample, mask = damaged(template)
    if how != "aligned":
        template = turned(template, 7, -9, 4)
    if how == "photographed":
        sample, template = photograph(sample, 1), photograph(template, 2)
    found = fiducial.inspect(sample, template)
    assert found.verdict == "bad"
    assert found.template_to_sample is not None
    iou = metrics.region_iou(label_regions(found.mask > 0), label_regions(mask > 0))
    counts = metrics.match_counts(iou, 0.33)
    assert counts.f() > 0.8
    assert found.mask.shape == SIZE
    assert np.all(np.diff(found.score) <= 0)


def test_a_good_board_displaced_is_good() -> None:
    template = board()
    found = fiducial.inspect(turned(template, 6, 3, -3), template)
    assert (found.verdict, len(found)) == ("good", 0)
    assert not found.mask.any()


def test_another_board_is_refused_without_verdict_or_transform() -> None:
    found = fiducial.inspect(board(3), board(9))
    assert found.verdict == "refused"
    assert found.template_to_sample is None
    assert "correlation" in found.reason
    assert len(found) == 0


def test_moving_the_sample_moves_the_answer() -> None:
    template = board()
    sample, _ = damaged(template)
    whole = fiducial.inspect(sample, template)
    cropped = fiducial.inspect(sample[32:, 64:], template[32:, 64:])
    inner = np.s_[40:-40, 40:-40]
    agree = (whole.mask[32:, 64:] > 0)[inner] == (cropped.mask > 0)[inner]
    assert agree.mean() > 0.999


def test_bright_copper_is_judged_by_its_negative() -> None:
    template = board()
    sample, _ = damaged(template)
    plain, inverted = fiducial.inspect(sample, template), fiducial.inspect(255 - sample, 255 - template, invert=True)
    np.testing.assert_array_equal(plain.mask, inverted.mask)


def test_color_alpha_sixteen_bit_and_float_agree_with_eight_bit_gray() -> None:
    template = board()
    sample, _ = damaged(template)
    plain = fiducial.inspect(sample, template)
    for change in (
        lambda a: np.repeat(a[..., None], 3, 2),
        lambda a: np.dstack([a, a, a, np.full_like(a, 9)]),
        lambda a: a.astype(np.uint16) * 257,
        lambda a: a / 1000 - 3,
    ):
        np.testing.assert_array_equal(fiducial.inspect(change(sample), change(template)).mask, plain.mask)


def test_nan_areas_are_left_out_and_lower_the_coverage() -> None:
    template = board().astype(np.float32)
    sample = template.copy()
    sample[100:200, 150:300] = np.nan
    found = fiducial.inspect(sample, template)
    assert found.verdict == "good"
    assert found.coverage == pytest.approx(1 - 100 * 150 / template.size, abs=1e-3)


@pytest.mark.parametrize("gap", [np.s_[:250], np.s_[205:], np.s_[:, 300:]], ids=["top", "bottom", "right"])
@pytest.mark.parametrize("missing", ["template", "sample"])
def test_an_area_without_values_leads_no_alignment_astray(gap: slice, missing: str) -> None:
    template = brick().astype(np.float32)
    true = shift(3, -2) @ similarity(1.01, 2, image_center_yx((512, 512)))
    sample = cv2.warpPerspective(template, true, (512, 512), borderMode=cv2.BORDER_REFLECT)
    (template if missing == "template" else sample)[gap] = np.nan
    found = fiducial.inspect(sample, template)
    assert (found.verdict, found.alignment_score > 0.98) == ("good", True)
    assert found.template_to_sample is not None
    corners = corners_yx((512, 512))
    np.testing.assert_allclose(apply_transform(found.template_to_sample, corners), apply_transform(true, corners), atol=1)


@pytest.mark.parametrize(("size", "share"), [((398, 517), 0.15), ((1393, 1810), 0.15)], ids=["as it is", "reduced"])
def test_scattered_pixels_without_values_keep_no_part_from_its_verdict(size: tuple[int, int], share: float) -> None:
    rng, pictures = np.random.default_rng(1), []
    for _ in range(2):
        picture = cv2.resize(board(), size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
        picture[rng.random(size) < share] = np.nan
        pictures.append(picture)
    found = fiducial.inspect(*pictures)
    assert (found.verdict, found.alignment_score > 0.98) == ("good", True)
    np.testing.assert_allclose(found.template_to_sample, np.eye(3), atol=0.1)


def test_a_refusal_says_where_nothing_could_be_compared() -> None:
    sample = board().astype(np.float32)
    sample[np.random.default_rng(1).random(SIZE) < 0.7] = np.nan
    found = fiducial.inspect(sample, board())
    assert (found.verdict, found.template_to_sample) == ("refused", None)
    assert "nothing of template and sample could be compared" in found.reason


def test_a_verdict_needs_a_quarter_of_the_sample() -> None:
    sample = board().astype(np.float32)
    sample[:, 100:] = np.nan
    found = fiducial.inspect(sample, board().astype(np.float32), align=False)
    assert found.verdict == "refused"
    assert "could be compared" in found.reason


def test_a_sample_turned_by_a_right_angle_is_inspected_in_its_own_frame() -> None:
    template = board()
    sample, mask = damaged(template)
    found = fiducial.inspect(np.rot90(sample).copy(), template)
    iou = metrics.region_iou(label_regions(found.mask > 0), label_regions(np.rot90(mask).copy() > 0))
    assert metrics.match_counts(iou, 0.33).f() > 0.8


@pytest.mark.parametrize(
    ("sample", "template", "says"),
    [
        (board(), board()[:300], "one size"),
        (board(), np.repeat(board()[..., None], 3, 2), "both"),
        (np.full(SIZE, 7, np.uint8), board(), "constant"),
        (np.full(SIZE, np.nan), board(), "finite"),
        (board()[:60], board()[:60], "at least 64 px"),
        (np.zeros((*SIZE, 5)) + board()[..., None], np.zeros((*SIZE, 5)) + board()[..., None], "5 channels"),
    ],
)
def test_what_cannot_be_judged_is_one_clear_line(sample: np.ndarray, template: np.ndarray, says: str) -> None:
    with pytest.raises(fiducial.InputError, match=says):
        fiducial.inspect(sample, template)


def test_a_template_of_another_size_is_resized_when_asked() -> None:
    template = board(size=(400, 520))
    larger = np.repeat(np.repeat(template, 2, 0), 2, 1).astype(np.int64)
    found = fiducial.inspect(template, larger, resize=True)
    assert found.verdict == "good"
    half = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])  # of the template as it is, not of its copy
    np.testing.assert_allclose(found.template_to_sample, half, atol=0.2)


def test_a_part_of_which_more_than_half_is_missing_is_judged_by_the_rest() -> None:
    template = board()
    sample = damaged(template)[0].astype(np.float32)
    whole = fiducial.inspect(sample, template)
    sample[:, round(0.38 * SIZE[1]) :] = np.nan
    found = fiducial.inspect(sample, template)
    assert found.alignment_score > 0.9
    assert found.verdict != "refused"
    assert 0.3 < found.coverage < 0.4
    assert whole.verdict == "bad"


def test_a_few_glaring_pixels_are_a_defect_and_no_reason_to_refuse(rng: np.random.Generator) -> None:
    template = 1000 + 1.5 * board() + rng.normal(0, 10, SIZE)
    sample = template + rng.normal(0, 10, SIZE)
    sample[100:112, 150:162], sample[300:308, 400:408] = 65535, 4095
    found = fiducial.inspect(sample, template)
    assert found.alignment_score > 0.95
    assert found.verdict == "bad"


def test_budget_and_probability_out_of_range_are_refused() -> None:
    with pytest.raises(fiducial.InputError, match="between 0 and 1"):
        fiducial.inspect(board(), board(), min_probability=2)
    with pytest.raises(fiducial.InputError, match="good images"):
        fiducial.inspect(board(), board(), false_alarms=1e-6)
    with pytest.raises(fiducial.InputError, match="device"):
        fiducial.inspect(board(), board(), device="tpu")


def test_a_larger_budget_of_false_alarms_never_hides_a_defect() -> None:
    template = board()
    sample, _ = damaged(template)
    few, many = (fiducial.inspect(sample, template, false_alarms=k) for k in (0.05, 5))
    assert len(few) <= len(many)
    assert not ((few.mask > 0) & (many.mask == 0)).any()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    template = board()
    sample, _ = damaged(template)
    for name in ("a.json", "b.json"):
        fiducial.inspect(sample, template).save(tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_half_precision_keeps_the_record() -> None:
    loaded = weights.load("defects")
    template = board()
    sample, _ = damaged(template)
    exact, fast = (
        DefectInspector(loaded.network, None, torch.device("cpu"), bf16=bf16).compare(from_array(sample), from_array(template))
        for bf16 in (False, True)
    )
    assert np.abs(exact.p.dense().astype(float) - fast.p.dense().astype(float)).mean() < 0.002
    assert ((exact.p.dense() >= 0.5) != (fast.p.dense() >= 0.5)).mean() < 0.001


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_agrees_with_the_cpu() -> None:
    template = board()
    sample, _ = damaged(template)
    cpu, gpu = (fiducial.inspect(sample, template, device=device) for device in ("cpu", "cuda"))
    assert ((cpu.mask > 0) != (gpu.mask > 0)).mean() < 0.001


def test_calibration_on_good_boards_keeps_its_budget(tmp_path: Path) -> None:
    good = [(photograph(turned(board(s), 2, 1, 1), s), photograph(board(s), s + 50)) for s in range(4)]
    found = api.calibrate(good, tmp_path / "mine.safetensors")
    assert found.good_images == 4
    alarms = sum(len(fiducial.inspect(*pair, weights=tmp_path / "mine.safetensors", false_alarms=0.5)) for pair in good)
    assert alarms <= 2
    with pytest.raises(fiducial.InputError, match="could be aligned"):
        api.calibrate([(board(3), board(9))], tmp_path / "none.safetensors")


def test_options_are_written_alike_in_every_place() -> None:
    verb = signatures.signature(api.inspect).parameters
    command = signatures.signature(cli.verbs.inspect).parameters
    options = set(verb) - {"sample", "template", "progress"}
    assert options <= set(command)
    for name in options - {"weights"}:
        assert verb[name].default == command[name].default, name


def test_public_names_resolve() -> None:
    assert all(getattr(fiducial, name) is not None for name in fiducial.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        fiducial.nothing  # noqa: B018


def test_real_boards_are_inspected(data: Path) -> None:
    from fiducial.datasets import read_deeppcb  # noqa: PLC0415

    pairs = list(read_deeppcb(data / "deeppcb", ("77000",), every=10))
    total = metrics.Counts(0, 0, 0)
    for pair in pairs:
        found = fiducial.inspect(pair.sample, pair.template)
        total += metrics.match_counts(metrics.region_iou(label_regions(found.mask > 0), label_regions(pair.mask > 0)), 0.33)
    assert total.f() > 0.9


def test_sizes_that_are_no_multiple_of_anything_are_padded_not_cropped() -> None:
    template = board(size=(131, 167))
    sample = template.copy()
    sample[120:131, 150:167] = 255 - sample[120:131, 150:167]
    assert fiducial.inspect(sample, template, align=False).mask[124:, 154:].any()


def test_the_record_says_what_it_was_made_with() -> None:
    made = fiducial.inspect(board(), board()).provenance
    assert made.weights == "defects_slim"
    assert len(made.sha256) == 64
    assert dict(made.parameters)["min_probability"] == 0.5
