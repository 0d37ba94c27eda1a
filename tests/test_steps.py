"""Work that lasts tells steadily how far it has come."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

import fiducial
from fiducial import runs, weights
from fiducial.inputs import name_inputs
from fiducial.records import Image, Progress, Registration
from fiducial.registrations import run_registrations
from fiducial.steps import Steps
from fiducial.synth import draw_board, stain


def texture(size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(8)
    image, _ = stain(draw_board(rng, size).astype(np.float32) / 255, rng, 6)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def locate(progress: Progress) -> None:
    source = texture((430, 520))
    fiducial.locate(source[150:300, 200:400], source, scale=(0.9, 1.0), progress=progress)


def register(progress: Progress) -> None:
    image = texture((700, 820))
    fiducial.register(image[10:600, 20:720], image, turn_deg=0, scale=1.0, progress=progress)


def detect(progress: Progress) -> None:
    fiducial.detect(texture((1100, 700)), progress=progress)


def inspect(progress: Progress) -> None:
    image = texture((600, 700))
    fiducial.inspect(image, image, progress=progress)


@pytest.mark.parametrize(("verb", "least"), [(locate, 3), (register, 10), (detect, 4), (inspect, 4)])
def test_each_verb_tells_its_progress_in_parts_up_to_the_whole(verb: object, least: int) -> None:
    told: list[tuple[int, int]] = []
    verb(lambda done, total: told.append((done, total)))  # type: ignore[operator]
    shares = [done / total for done, total in told]
    assert len(shares) >= least
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len({total for _, total in told}) == 1


def test_steps_never_go_back_nor_beyond_the_whole() -> None:
    told: list[int] = []
    steps = Steps(lambda done, total: told.append(done), 5)
    steps.add()
    steps.reach(4)
    steps.reach(2)
    for _ in range(9):
        steps.add()
    assert told == [1, 4, 5]


def test_writing_the_aligned_image_is_told_after_the_search(tmp_path: Path) -> None:
    image = texture((530, 620))
    for name, pixels in {"fixed": image, "moving": image[10:500, 20:600]}.items():
        PillowImage.fromarray(pixels).save(tmp_path / f"{name}.png")
    jobs = name_inputs([{"moving": tmp_path / "moving.png", "fixed": tmp_path / "fixed.png"}])
    run = runs.plan("register", jobs, tmp_path / "out", {}, weights.load("keypoints"), [])
    told: list[float] = []

    def lay(moving: Image, fixed: Image, progress: Progress) -> Registration:
        return fiducial.register(moving, fixed, turn_deg=0, scale=1.0, progress=progress)

    (outcome,) = run_registrations(run, (), lay, lambda done, total: told.append(done / total))
    assert outcome.answer == "accepted"
    assert told == sorted(told)
    assert 0.5 in told  # the search is done
    assert [share for share in told if share > 0.5] == pytest.approx([4 / 6, 5 / 6, 1])  # rows of blocks of 256 px
