"""Choose where a network runs, and in which precision."""

import torch

from fiducial.records import InputError


def choose_device(device: str) -> torch.device:
    """Return the device of that name; "auto" is CUDA if present.

    Raises:
        InputError: no such device, or CUDA is asked for and absent.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda was asked for, but torch finds none: use --device cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """Say whether bfloat16 is fast there: CUDA, or a CPU with instructions for it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10
        return False
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
