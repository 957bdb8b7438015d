"""Devices and number types by name."""

import torch

from attnviz.errors import DeviceError, UsageError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` takes the first of CUDA, MPS and CPU that is there.

    Raises:
        DeviceError: a device asked for by name is not there; never a silent fallback.
        UsageError: no such name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (
        number and not (kind == "cuda" and number.isdecimal())
    ):
        raise UsageError(f"--device {name!r} is none; give auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"--device {name}: no CUDA device is there; take --device cpu")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0"
        )
    if kind == "mps" and not _has_mps():
        raise DeviceError("--device mps: no Apple GPU is there; take --device cpu")
    return torch.device(name)


def _has_mps() -> bool:
    return bool(torch.backends.mps.is_available())
