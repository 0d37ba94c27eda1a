"""Fuzz the header of weights; see driver.py."""

import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import driver

with driver.watched("fiducial.weights", "fiducial.confidence"):
    from hostile_tables import good_weights, load_weights

    from fiducial.records import InputError

FOLDER = TemporaryDirectory()
WHOLE = good_weights()
LENGTH = struct.unpack("<Q", WHOLE[:8])[0]


def check(data: bytes) -> None:
    """Load weights with these bytes for a header: as long as it is, and as it was."""
    path = Path(FOLDER.name) / "w.safetensors"
    for length in (len(data), LENGTH):
        path.write_bytes(struct.pack("<Q", length) + data + WHOLE[8 + LENGTH :])
        try:
            load_weights(path)
        except InputError:
            continue


if __name__ == "__main__":
    driver.main(check, {"good": WHOLE[8 : 8 + LENGTH]})
