"""Fuzz the readers of PNG, JPEG and TIFF; see driver.py."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import driver

with driver.watched("fiducial.images", "tifffile", "PIL"):
    from fiducial.images import open_image
    from fiducial.records import InputError

import hostile

BUDGET = 2**22
FOLDER = TemporaryDirectory()


def check(data: bytes) -> None:
    """Read an image of these bytes, whole and by a window."""
    path = Path(FOLDER.name) / "a"
    path.write_bytes(data)
    try:
        image = open_image(path, BUDGET)
        h, w = image.size
        image.read((h // 2, w // 2, min(h, h // 2 + 50), min(w, w // 2 + 50)))
        pixels = image.read()
    except InputError:
        return
    assert pixels.shape[:2] == image.size
    assert pixels.dtype == image.dtype


def seeds() -> dict[str, bytes]:
    """Return the small files of the hostile set."""
    found = {}
    with TemporaryDirectory() as folder:
        for number, entry in enumerate(hostile.ENTRIES):
            if entry in hostile.CUT or entry in hostile.OTHERS:
                continue
            (Path(folder) / str(number)).mkdir()
            whole = entry.make(Path(folder) / str(number)).read_bytes()
            if len(whole) <= 20_000:
                found[entry.name] = whole
    return found


if __name__ == "__main__":
    logging.disable()  # tifffile notes what it finds odd
    driver.main(check, seeds())
