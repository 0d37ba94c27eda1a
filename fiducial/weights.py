"""Save and load the weights of the families: safetensors with the configuration and the model card in the header.

Loading is strict: an unknown family or field, a missing or surplus tensor is an error that names it. Parameters are stored
in float16, buffers (statistics of normalization) in their own type. The shipped files lie in the package.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fiducial.blobs.network import CADSN
from fiducial.blobs.network import Config as BlobsConfig
from fiducial.confidence import AnyCalibration, Calibration, CrowdCalibration, EvidenceCalibration, read_calibration
from fiducial.defects.network import BGNet
from fiducial.defects.network import Config as DefectsConfig
from fiducial.images import whole_file
from fiducial.landmarks.network import Config as KeypointsConfig
from fiducial.landmarks.network import KeypointNet
from fiducial.places.network import FTFY, TripletNet
from fiducial.places.network import Config as PlacesConfig
from fiducial.records import InputError

_LARGEST = 10_000  # number in a configuration; more layers or channels would take hours to build

FOLDER = Path(__file__).parent / "weights"

# The file that each family loads by default, with the SHA-256 of its bytes.
SHIPPED: Mapping[str, tuple[str, str]] = {
    "blobs": ("blobs_slim.safetensors", "1fb738b2521d5159349e7b90d120fb3c21211c05b9c6c2c943106737cd94b1df"),
    "defects": ("defects_slim.safetensors", "dd03b0fa076e4a3e09c2349ff67f5b86483a9dc06407edf09d96c7fb3d0ae76a"),
    "keypoints": ("keypoints_slim.safetensors", "7da886084820d4cdf668424f80f85ad2da3619b1db0d31c9d69b6a8a43760c44"),
    "places": ("places_slim.safetensors", "0b9372da5420be6dcdf100baec33333c1c6ff1722dd803de018caabce5e673ef"),
    "triplets": ("places_triplet.safetensors", "33b7ebbe4d53a9ee25d5aea641f358cedd49e8b82b30520bf3502394246f6b28"),
}

Network = CADSN | BGNet | KeypointNet | FTFY | TripletNet

# What each file may hold: configuration, network and calibration. Triplets are what places are compared with.
FAMILIES: Mapping[str, tuple[type[Any], type[Any], type[Any]]] = {
    "blobs": (BlobsConfig, CADSN, CrowdCalibration),
    "defects": (DefectsConfig, BGNet, Calibration),
    "keypoints": (KeypointsConfig, KeypointNet, EvidenceCalibration),
    "places": (PlacesConfig, FTFY, EvidenceCalibration),
    "triplets": (PlacesConfig, TripletNet, Calibration),
}

# What calibrations of files held that lack these fields: they are older than the fields.
_BEFORE: Mapping[type[Any], Mapping[str, Any]] = {EvidenceCalibration: {"alarms": [], "negatives": 0}}


@dataclass(frozen=True)
class Weights:
    """A network with what is known of it.

    Attributes:
        name: file name without suffix. sha256: of the file.
        network: in evaluation mode, float32.
        calibration: from raw scores or evidence to probabilities; None in weights fresh from training.
        card: data, license, recipe and scores, as text by title.
    """

    name: str
    sha256: str
    family: str
    network: Network
    calibration: AnyCalibration | None
    card: Mapping[str, str]


def save(
    path: Path,
    family: str,
    network: Network,
    card: Mapping[str, str],
    calibration: AnyCalibration | None = None,
) -> None:
    """Write a network to a file, making its folder; the file appears whole or not at all."""
    parameters = {name for name, _ in network.named_parameters()}
    tensors = {
        name: (tensor.half() if name in parameters else tensor).contiguous() for name, tensor in network.state_dict().items()
    }
    header = {
        "family": family,
        "config": json.dumps(asdict(network.config)),
        "card": json.dumps(dict(card)),
        "calibration": json.dumps(None if calibration is None else asdict(calibration)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata=header)
        temporary.chmod(0o644)  # safetensors writes for the owner alone


def family_of(path: Path) -> str | None:
    """Return the family of the weights in a file; None where there is none, or no weights."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("family")
    except (OSError, SafetensorError):
        return None


def holds(path: Path, family: str, network: Network) -> bool:
    """Say whether a file holds this very network, calibrated or not."""
    if family_of(path) != family:
        return False
    try:
        held = load(family, path).network
    except InputError:
        return False
    own, known = (dict(each.named_parameters()) for each in (network, held))
    return held.config == network.config and all(torch.equal(own[k].detach().cpu().half(), known[k].half()) for k in known)


def load(family: str, source: str | Path | None = None) -> Weights:
    """Load weights of a family: the shipped file (None), a shipped name, or a file of the user's.

    Raises:
        InputError: no such file or name, not weights of this family, or a shipped file that is not the one published.
    """
    path, expected = _locate(family, source)
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()  # in parts: a stranger's file may be of any size
    if expected and digest != expected:
        raise InputError(f"{path.name} must have SHA-256 {expected[:12]}…, got {digest[:12]}…: reinstall fiducial")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a method, not a mapping)
    except SafetensorError as error:
        raise InputError(f"expected a safetensors file, {path} is not one: {error}") from error
    if header.get("family") != family:
        raise InputError(f"expected weights of family {family!r}, {path} holds {header.get('family')!r}")
    try:
        config, stated, card = (json.loads(header[name]) for name in ("config", "calibration", "card"))
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path} has a damaged header: {error!r}") from error
    config_type, network_type, calibration_type = FAMILIES[family]
    made_of = _strict(config_type, config, path)
    network = _network(network_type, config_type, made_of, tensors, path, where="cpu" if expected else "meta")
    calibration = None if stated is None else _calibration(calibration_type, stated, path)
    return Weights(path.stem, digest, family, network.eval(), calibration, card)


def _locate(family: str, source: str | Path | None) -> tuple[Path, str]:
    shipped, digest = SHIPPED[family]
    if source is None or str(source) == Path(shipped).stem:
        return FOLDER / shipped, digest
    if not Path(source).is_file():
        raise InputError(f"weights must be a file or {Path(shipped).stem!r}, got {str(source)!r}")
    return Path(source), ""


def _calibration(kind: type[Any], stated: Mapping[str, Any], path: Path) -> AnyCalibration:
    before = _BEFORE.get(kind, {})
    if isinstance(stated, dict) and not set(before) & set(stated):
        stated = {**before, **stated}
    values = _strict(kind, stated, path)
    try:
        return read_calibration(kind, values)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path}: {kind.__name__} does not fit together: {error}") from error


def _strict(kind: type[Any], stated: Mapping[str, Any], path: Path) -> dict[str, Any]:
    known = {field.name for field in fields(kind)}
    if not isinstance(stated, dict):
        raise InputError(f"{path}: {kind.__name__} must be fields with values, got {str(stated)[:60]!r}")
    if set(stated) != known:
        surplus, missing = sorted(set(stated) - known), sorted(known - set(stated))
        raise InputError(f"{path}: {kind.__name__} has unknown fields {surplus} and lacks {missing}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()}


def _network(
    network_type: type[Any],
    config_type: type[Any],
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    path: Path,
    *,
    where: str,
) -> Network:
    """Return the network of a configuration with these tensors.

    Its size is first compared with theirs, on a device: "meta" takes no memory for it, but most of a second to be loaded.
    """
    if any(abs(number) > _LARGEST for number in _numbers(tuple(config.values()))):
        raise InputError(f"{path}: numbers of a configuration must lie within ±{_LARGEST}, got {str(dict(config))[:200]}")
    try:
        made = config_type(**config)
        with torch.device(where):
            network: Network = network_type(made)
        own = network.state_dict()
        wrong = sorted(set(own) ^ set(tensors)) or sorted(name for name in own if own[name].shape != tensors[name].shape)
        if wrong:
            raise InputError(f"{path}: tensors do not fit the configuration, first {wrong[:3]}")
        network = network if where == "cpu" else network_type(made)
        network.load_state_dict({name: tensors[name].to(own[name].dtype) for name in own})
    except InputError:
        raise
    except Exception as error:  # whatever a configuration that means nothing breaks
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: its configuration makes no network ({reason}): train it again") from error
    return network


def _numbers(values: tuple[Any, ...]) -> list[float]:
    """Return the numbers among values, and among those of tuples and lists in them."""
    found: list[float] = []
    for value in values:
        if isinstance(value, int | float):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _numbers(tuple(value))
    return found
