"""Which inputs a run has: the files that paths, folders and patterns name, and the names of their folders.

Glossary
    input: what one answer is asked for: an image, a sample with its template, a query with its sources.
"""

import glob
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fiducial.datasets import list_images
from fiducial.images import is_omezarr
from fiducial.images.limits import readable
from fiducial.records import InputError

RECORDS = {"blobs.json", "places.json", "defects.json", "registration.json"}  # by one of them a folder of results is known
TAKEN = ("run.json", "summary.csv", "all.csv", "blobs.csv", "index.html")  # files beside the folders

Files = Mapping[str, Path | tuple[Path, ...]]  # by what they are to the verb: image; sample, template; query, sources


@dataclass(frozen=True)
class Input:
    """What one answer is asked for; `name` is that of its folder."""

    name: str
    files: Files

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [path for files in self.files.values() for path in ((files,) if isinstance(files, Path) else files)]


def choose_images(images: Sequence[Path]) -> list[Path]:
    """Return the files that paths, folders and patterns (`scans/*.tif`) name, each once.

    Raises:
        InputError: a pattern or a folder holds no image, or a folder cannot be read.
    """
    return list(dict.fromkeys(found for path in images for found in _images_of(path)))


def _images_of(path: Path) -> list[Path]:
    try:
        if path.is_dir() and not is_omezarr(path):
            return list_images(path)
        if path.exists() or not glob.has_magic(str(path)):
            return [path]
        matching = [match for match in _matching(path) if match.is_file() or is_omezarr(match)]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if not matching:
        raise InputError(f"no file matches {path}")
    return matching


def _matching(pattern: Path) -> list[Path]:
    """Return what matches a pattern, sorted; `**` stands for folders in folders, which links to folders do not prolong."""
    if "**" not in pattern.parts:
        return sorted(Path(match) for match in glob.glob(str(pattern)))
    at = pattern.parts.index("**")
    rest = pattern.parts[at + 1 :] or ("*",)
    found: set[Path] = set()
    for top in glob.glob(str(Path(*pattern.parts[:at]))):
        for folder, below, names in os.walk(top):
            below[:] = [name for name in below if not name.startswith(".") and not is_omezarr(Path(folder, name))]
            if RECORDS & set(names):
                continue  # what a run wrote of an image is no image to run on
            found.update(_matching(Path(glob.escape(folder), *rest)))
    return sorted(found)


def name_inputs(files: Sequence[Files]) -> tuple[Input, ...]:
    """Name inputs by the stems of their first files; those of one stem, and of a name that is taken or none, are numbered.

    Case makes no difference: there are file systems on which it makes none.
    """
    inputs: list[Input] = []
    taken, following = set(TAKEN), Counter[str]()
    for own in files:
        first = next(iter(own.values()))
        path = first if isinstance(first, Path) else first[0]
        stem = readable(path.stem).strip(".") or "image"
        name, folded = stem, stem.casefold()
        while name.casefold() in taken:
            following[folded] += 1
            name = f"{stem}_{following[folded] + 1}"
        taken.add(name.casefold())
        inputs.append(Input(name, own))
    return tuple(inputs)


def check_folders(inputs: Sequence[Input], out: Path) -> None:
    """Refuse a run into OUT that would clear away what it reads, or write where a file is.

    Raises:
        InputError: a file of an input lies in the folder of one, or such a folder is a file.
    """
    folders = {Path(os.path.realpath(out)) / job.name for job in inputs}
    for path in {path for job in inputs for path in job.paths}:
        lies = Path(os.path.realpath(path))  # resolve() would raise at links in a circle, which are told later
        if folder := next((own for own in (lies, *lies.parents) if own in folders), None):
            raise InputError(f"{path} lies in {folder}, where results would go: choose another --out")
    for folder in sorted(folders):
        if os.path.lexists(folder) and not folder.is_dir():
            raise InputError(f"{folder} is a file, where a folder of results would be: choose another --out")
