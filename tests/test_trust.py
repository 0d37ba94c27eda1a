"""An answer means the same in all four verbs: its word, its exit status, its probability, its budget of false alarms."""

import inspect as signatures
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import typed
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from skimage import data as photographs
from test_api import board, damaged
from test_detect import crowd_image
from test_locate import cut, half
from test_register import fixed_image, scene, seen, sensor

import fiducial
from fiducial import api, cli, weights
from fiducial.api.loading import NEGATIVES
from fiducial.confidence import EvidenceCalibration
from fiducial.evaluate import keypoints as keypoint_cases
from fiducial.evaluate.keypoints import UNKNOWN, draw_cases, fit_registrations
from fiducial.formats.blobs import blobs_from_json
from fiducial.formats.defects import defects_from_json
from fiducial.formats.places import places_from_json
from fiducial.formats.registration import registration_from_json
from fiducial.landmarks.registrar import ImageRegistrar
from fiducial.records import InputError
from fiducial.scenes import open_scene


@dataclass(frozen=True)
class Verb:
    """A verb with inputs whose answers are known.

    Attributes:
        yes, no: images, and the words for them; `status` is that of `no`, where it is the only input.
        other: the image beside it and the option that names it, if any. words: other options.
        options: checks weights and the two ways to say what is an answer.
        only_yes: file that a negative answer must not have beside it.
    """

    family: str
    yes: Callable[[], np.ndarray]
    no: Callable[[], np.ndarray]
    answers: tuple[str, str]
    status: int
    other: Callable[[], np.ndarray] | None
    named: str
    words: tuple[str, ...]
    check: Callable[..., tuple[weights.Weights, Any, float]]
    only_yes: str


VERBS = {
    "detect": Verb(
        "blobs", lambda: crowd_image(np.random.default_rng(7))[0], lambda: np.full((50, 70), 9, np.uint8),
        ("done", "nothing"), 0, None, "", (), api.check_detection, "",
    ),
    "inspect": Verb(
        "defects", lambda: damaged(board())[0], lambda: board(9), ("bad", "refused"), 3, board, "--template", (),
        api.check_inspection, "mask.tif",
    ),
    "locate": Verb(
        "places", lambda: cut(np.asarray(photographs.gravel()), (230.0, 300.0), 40.0)[0],
        lambda: cut(np.asarray(photographs.grass()), (230.0, 300.0), 0.0)[0], ("found", "not here"), 3,
        lambda: half(np.asarray(photographs.gravel())), "", ("--scale", "0.5"), api.check_location, "query_on_source.tif",
    ),
    "register": Verb(
        "keypoints", lambda: sensor(seen()[0], "gradient"), lambda: scene("gravel", (110, 120)), ("accepted", "refused"), 3,
        fixed_image, "", ("--turn-deg", "0", "--scale", "1"), api.check_registration, "aligned.tif",
    ),
}  # fmt: skip
READERS = {
    "detect": blobs_from_json,
    "inspect": defects_from_json,
    "locate": places_from_json,
    "register": registration_from_json,
}
RECORDS = ("blobs", "defects", "places", "registration")

every_verb = pytest.mark.parametrize("name", list(VERBS))


def run(folder: Path, name: str, image: Path, *more: object) -> tuple[int, str]:
    verb = VERBS[name]
    words = [name, image]
    if verb.other is not None:
        cv2.imwrite(str(folder / "other.png"), verb.other())
        words += [verb.named, folder / "other.png"] if verb.named else [folder / "other.png"]
    if name == "inspect" and image.is_dir():
        words[1:2] = ["--samples", image]
    words += [*verb.words, "-o", folder / "out", *more]
    status, _, error = typed.run(*words)
    return status, error


def said(folder: Path) -> dict[str, str]:
    """Return the answer of each input as run.json has it."""
    return {entry["name"]: entry["answer"] for entry in json.loads((folder / "out" / "run.json").read_text())["inputs"]}


@every_verb
def test_an_answer_has_its_word_and_its_status_and_nothing_of_another_stays_beside_it(tmp_path: Path, name: str) -> None:
    verb, image = VERBS[name], tmp_path / "view.png"
    written = []
    for pixels, word, status in ((verb.yes(), verb.answers[0], 0), (verb.no(), verb.answers[1], verb.status)):
        cv2.imwrite(str(image), pixels)
        assert run(tmp_path, name, image) == (status, "")
        assert said(tmp_path) == {"view": word}
        folder = tmp_path / "out" / "view"
        (record,) = [READERS[name](p) for p in folder.glob("*.json") if p.stem in RECORDS]
        assert record.answer == word
        assert repr(record).startswith(f"{type(record).__name__}(answer={word!r}, ")
        assert len(repr(record)) < 2000
        again = READERS[name](next(str(p) for p in folder.glob("*.json") if p.stem in RECORDS))
        assert (record == again, hash(record) == hash(again)) == (True, True)
        assert record != replace(record, provenance=replace(record.provenance, version="0"))
        with pytest.raises(InputError, match=r"of \(\d+, \d+\) px, or a copy of that shape, got array of \(7, 90\)"):
            record.plot(np.zeros((7, 90), np.uint8))
        tell_the_answer(folder, word, getattr(record, "reason", None))
        assert record.plot(image if verb.other is None or verb.named else tmp_path / "other.png").mode == "RGB"
        written.append({path.name for path in folder.iterdir()})
    assert written[0] - written[1] == ({verb.only_yes} if verb.only_yes else set())
    image.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    status, line = run(tmp_path, name, image)
    assert status == 2
    assert line.startswith("fiducial: ")
    (tmp_path / "many").mkdir()
    image.rename(tmp_path / "many" / "broken.png")
    cv2.imwrite(str(tmp_path / "many" / "no.png"), verb.no())
    assert run(tmp_path, name, tmp_path / "many")[0] == 1
    assert said(tmp_path) == {"broken": "error", "no": verb.answers[1]}


def tell_the_answer(folder: Path, word: str, reason: str | None) -> None:
    """Check that each file that can says the answer, and why it is no other."""
    for path in folder.iterdir():
        if path.name.endswith(".points.csv"):
            assert len(pd.read_csv(path)) > 0 or word == "nothing"
        elif path.suffix == ".csv":
            table = pd.read_csv(path)
            assert set(table.get("answer", [])) == {word} or (path.name == "blobs.csv" and table.empty == (word == "nothing"))
        elif path.suffix in (".json", ".geojson"):
            stated = json.loads(path.read_text())
            told = stated["images"][0] if path.name.endswith(".coco.json") else stated
            assert (told["answer"], told.get("reason")) == (word, reason), path
        elif path.suffix == ".points":
            assert set(pd.read_csv(path)["enable"]) <= {int(word == "accepted")}
        elif path.suffix == ".txt":
            assert f"\nanswer:          {word}" in path.read_text(encoding="utf-8")
        else:
            assert path.suffix in (".png", ".tif", ".zip")


def test_a_refused_inspection_has_no_mask_and_a_table_that_says_so(tmp_path: Path) -> None:
    refused = fiducial.inspect(board(9), board())
    assert (refused.answer, len(refused.to_frame())) == ("refused", 0)
    for name in ("m.tif", "m.tiff", "m.ome.zarr"):
        with pytest.raises(InputError, match="refused inspection has no mask"):
            refused.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    refused.save(tmp_path / "refused.csv")
    good = fiducial.inspect(board(), board())
    good.save(tmp_path / "good.csv")
    good.save(tmp_path / "m.tif")
    tables = {name: pd.read_csv(tmp_path / f"{name}.csv") for name in ("refused", "good")}
    assert list(tables["refused"]) == list(tables["good"]) == [*good.to_frame(), "answer"]
    assert tables["refused"]["answer"].tolist() == ["refused"]
    assert tables["refused"].drop(columns="answer").isna().all(axis=None)
    assert tables["good"].empty


def test_a_record_of_before_there_was_a_word_reads_back(tmp_path: Path) -> None:
    fiducial.detect(np.full((50, 70), 9, np.uint8)).save(tmp_path / "a.json")
    stated = json.loads((tmp_path / "a.json").read_text())
    assert (stated.pop("answer"), stated["count"], stated["blobs"]) == ("nothing", 0, [])
    (tmp_path / "a.json").write_text(json.dumps(stated))
    assert blobs_from_json(tmp_path / "a.json").answer == "nothing"


@every_verb
def test_both_ways_to_say_what_is_an_answer_are_in_every_verb_alike(name: str) -> None:
    for place in (api, cli.verbs):
        stated = signatures.signature(getattr(place, name)).parameters
        assert (stated["min_probability"].default, stated["false_alarms"].default) == (0.5, None)
    check = VERBS[name].check
    assert check(None, "cpu", 0.25, None)[2] == 0.25
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="min_probability must lie between 0 and 1"):
            check(None, "cpu", wrong, None)


@every_verb
def test_a_budget_is_the_probability_that_so_many_negatives_of_the_calibration_exceed(tmp_path: Path, name: str) -> None:
    verb = VERBS[name]
    loaded = weights.load(verb.family)
    known = loaded.calibration
    assert known is not None
    how_many = {"negatives": 4} if isinstance(known, EvidenceCalibration) else {}
    how_many |= {"good_images": 4} if verb.family == "defects" else {"megapixels": 4.0} if verb.family == "blobs" else {}
    told = replace(known, alarms=(0.9, 0.75, 0.5, 0.25), **how_many)
    weights.save(tmp_path / "mine.safetensors", verb.family, loaded.network, {}, told)
    one, many = NEGATIVES[verb.family]
    for budget, threshold in ((0.25, 0.75), (0.5, 0.5), (0.99, 0.25), (1.0, 0.0)):
        least = verb.check(tmp_path / "mine.safetensors", "cpu", 0.5, budget)[2]
        assert max(threshold, 1e-12) < least < threshold + 1e-9
    for budget, line in ((0.2, f"needs at least 5 {many}"), (0.0, f"false alarms per {one} must be above 0")):
        with pytest.raises(InputError, match=line):
            verb.check(tmp_path / "mine.safetensors", "cpu", 0.5, budget)


@every_verb
def test_weights_whose_scores_are_no_probabilities_are_refused(tmp_path: Path, name: str) -> None:
    verb = VERBS[name]
    weights.save(tmp_path / "raw.safetensors", verb.family, weights.load(verb.family).network, {})
    cv2.imwrite(str(tmp_path / "view.png"), verb.yes())
    status, line = run(tmp_path, name, tmp_path / "view.png", "--weights", tmp_path / "raw.safetensors")
    assert status == 2
    assert line.count("\n") == 1
    assert "are not calibrated, their scores are no probabilities" in line
    assert ("--hold-out" if name == "inspect" else f"fiducial train {verb.family}") in line
    assert not (tmp_path / "out").exists()


def with_calibration(path: Path, family: str, **change: object) -> Path:
    """Write the shipped weights of a family with another calibration in the header; a field of None is left out."""
    shipped = weights.FOLDER / weights.SHIPPED[family][0]
    with safe_open(shipped, "pt") as file:
        header = dict(file.metadata())
    stated = json.loads(header["calibration"]) | change
    header["calibration"] = json.dumps({name: value for name, value in stated.items() if value is not None})
    save_file(load_file(shipped), path, header)
    return path


def test_calibrations_of_before_load_and_are_refused_only_where_a_budget_is_asked_for(tmp_path: Path) -> None:
    old = with_calibration(tmp_path / "old.safetensors", "places", alarms=None, negatives=None)
    assert api.check_location(old, "cpu", 0.5, None)[2] == 0.5
    with pytest.raises(InputError, match="calibrated on no absent queries"):
        api.check_location(old, "cpu", 0.5, 0.1)


@pytest.mark.parametrize(
    ("family", "change", "says"),
    [
        ("places", {"mean": [0.0, 1.0]}, "one length"), ("places", {"alarms": [0.5]}, "each of"),
        ("places", {"alarms": None}, "lacks"), ("places", {"weight": None}, "lacks"), ("places", {"odd": 1}, "odd"),
        ("keypoints", {"deviation": [0.0] * 6}, "above 0"), ("blobs", {"names": ["a"]}, "one length"),
        ("blobs", {"alarms": [0.1, 0.2]}, "largest first"), ("defects", {"slope": "5"}, "slope"),
        ("defects", {"alarms": [[0.5]]}, "alarms"), ("defects", {"good_images": 10**400}, "too large"),
    ],
)  # fmt: skip
def test_calibrations_that_do_not_fit_together_are_refused(
    tmp_path: Path, family: str, change: dict[str, object], says: str
) -> None:
    path = with_calibration(tmp_path / "w.safetensors", family, **change)
    with pytest.raises(InputError, match=says) as caught:
        weights.load(family, path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("family", ["blobs", "defects", "keypoints", "places"])
def test_the_shipped_weights_know_their_negatives(family: str) -> None:
    check = {verb.family: verb.check for verb in VERBS.values()}[family]
    strict, lax = (check(None, "cpu", 0.5, budget)[2] for budget in (0.1, 0.9))
    assert lax <= strict < 1


def test_pairs_of_different_scenes_are_the_negatives_of_register(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = replace(UNKNOWN, turn_deg=0.0, scales=(0.9, 1.1))
    monkeypatch.setattr(keypoint_cases, "UNKNOWN", quick)
    registrar = api.load_registrar(None, "cpu")[1]
    assert isinstance(registrar, ImageRegistrar)
    pairs = tuple(
        fiducial.datasets.AlignedPair(name, scene(name, (110, 130)), 220 - scene(name, (110, 130)) // 2)
        for name in ("camera", "gravel")
    )
    fitted = fit_registrations(registrar, pairs, 4)
    assert (fitted.negatives, len(fitted.alarms)) == (1, 1)
    (case,) = [case for case in draw_cases(pairs, 4, seed=7) if case.moving_to_fixed is None]
    judged = registrar.judging_by(fitted)
    scenes = [open_scene(fiducial.images.from_array(image)) for image in (case.moving, case.fixed)]
    best = judged.find(*scenes, quick)
    assert fitted.alarms[0] == pytest.approx(0.0 if best is None else judged.probability(best))
