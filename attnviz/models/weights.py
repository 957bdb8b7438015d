"""Weights in memory: number types, devices, and parameters drawn from a seed."""

import contextlib
import hashlib
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from attnviz.errors import DeviceError, UsageError

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Number types that weights may have in a file."""


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator inside this context; its state outside does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def initial_state(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """Parameters drawn from `seed`, the same on every machine.

    Weights are uniform with variance 1 / fan-in, so that the scores of different tokens differ
    by about 1 and heads can be told apart; biases are 0, the scales of norms 1. NumPy's
    RandomState is used because its stream is frozen (NEP 19).
    """
    stream = np.random.RandomState(seed)
    state = {}
    for name, parameter in module.state_dict().items():
        drawn = np.full(parameter.shape, float(bool(_SCALE.search(name))))
        if parameter.ndim > 1:
            limit = math.sqrt(3 / math.prod(parameter.shape[1:]))
            drawn = stream.uniform(-limit, limit, size=tuple(parameter.shape))
        state[name] = torch.from_numpy(drawn.astype(np.float32))
    return state


def few(names: Sequence[str], count: int = 3, separator: str = ", ") -> str:
    """The first names of a list, with the number of the others.

    >>> few(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return separator.join(names[:count]) + more


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of a tensor is NaN or infinite; a finite sum proves it quickly."""
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def digests_of(module: nn.Module) -> frozenset[str]:
    """A digest of each parameter: of its shape and up to some 4096 of its numbers, as bfloat16.

    So they are the same for the number types float32 and bfloat16, and on every device.
    """
    found = set()
    for parameter in module.state_dict().values():
        if isinstance(parameter, Tensor) and parameter.is_floating_point():
            flat = parameter.detach().flatten()
            some = flat[:: -(-len(flat) // 4096) or 1].to("cpu", torch.bfloat16)
            text = str(tuple(parameter.shape)).encode() + some.view(torch.int16).numpy().tobytes()
            found.add(hashlib.sha256(text).hexdigest()[:16])
    return frozenset(found)


_SCALE = re.compile(r"(norm\w*\.weight|\.gamma)$")
"""Names of the scales of norms, and of those of whole layers."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first of CUDA, MPS and CPU that is available.

    Raises:
        DeviceError: the named device is not available; there is no silent fallback.
        UsageError: the name is unknown.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (
        number and not (kind == "cuda" and number.isdecimal())
    ):
        raise UsageError(
            f"--device: unknown device {name!r}; choose from auto, cpu, cuda, cuda:N, mps"
        )
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
