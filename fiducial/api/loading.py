"""What the verbs share: the images they take, units of length, and weights that are loaded once."""

from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from fiducial.confidence import Calibration
from fiducial.records import Image, InputError
from fiducial.weights import Weights

METERS = {"pm": 1e-12, "Å": 1e-10, "nm": 1e-9, "µm": 1e-6, "mm": 1e-3, "cm": 1e-2, "m": 1.0}

Source = str | Path | Shaped[np.ndarray, "..."] | Image


def check_evidence(loaded: Weights, needed: tuple[str, ...]) -> None:
    """Refuse weights without probabilities, or with those of other evidence; raises InputError."""
    if loaded.calibration is None:
        raise InputError(f"weights {loaded.name} are not calibrated: let the training that makes them finish")
    stated = () if isinstance(loaded.calibration, Calibration) else loaded.calibration.names
    if stated != needed:
        raise InputError(f"weights {loaded.name} weigh the evidence {stated}, needs {needed}")


def version_of(weights: str | Path | None) -> int:
    """Return when a file of weights last changed; 0 for those that ship."""
    return Path(weights).stat().st_mtime_ns if weights is not None and Path(weights).is_file() else 0
