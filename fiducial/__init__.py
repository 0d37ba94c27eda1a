"""Find, count, compare and align structure in images that people measure with."""

from typing import TYPE_CHECKING

from fiducial.version import VERSION as __version__

if TYPE_CHECKING:
    from fiducial.api import detect, inspect, keypoints, locate, register
    from fiducial.records import Blobs, Defects, Image, InputError, Keypoints, Places, Registration

__all__ = [
    "Blobs",
    "Defects",
    "Image",
    "InputError",
    "Keypoints",
    "Places",
    "Registration",
    "__version__",
    "detect",
    "inspect",
    "keypoints",
    "locate",
    "register",
]

_HOMES = {
    "detect": "fiducial.api",
    "inspect": "fiducial.api",
    "keypoints": "fiducial.api",
    "locate": "fiducial.api",
    "register": "fiducial.api",
    "Blobs": "fiducial.records",
    "Defects": "fiducial.records",
    "Image": "fiducial.records",
    "InputError": "fiducial.records",
    "Keypoints": "fiducial.records",
    "Places": "fiducial.records",
    "Registration": "fiducial.records",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that the command line answers before torch is loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fiducial' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_HOMES[name]), name)
