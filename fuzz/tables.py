"""Fuzz the readers of tables and records; the first byte says which. See driver.py."""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import driver

with driver.watched("fiducial.formats", "fiducial.datasets", "fiducial.inspections", "roifile"):
    from hostile_tables import KINDS, good

    from fiducial.records import InputError

FOLDER = TemporaryDirectory()
NAMES = tuple(KINDS)


def check(data: bytes) -> None:
    """Read a table of these bytes."""
    kind = KINDS[NAMES[data[0] % len(NAMES) if data else 0]]
    path = Path(FOLDER.name) / kind.name
    path.write_bytes(data[1:])
    try:
        kind.read(path)
    except InputError:
        return


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    driver.main(check, {name: bytes([number]) + good(name) for number, name in enumerate(NAMES)})
