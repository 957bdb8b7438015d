"""Reads state dicts from files without running code in them, and loads them into modules."""

import contextlib
import math
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from attnviz.errors import DeviceError, ModelError, UsageError
from attnviz.models import state_dict_names

SHOWN = 8
"""At most so many faults of a file are named in an error."""
SAVE = "save the state dict alone: torch.save(model.state_dict(), ...)"
_FIT = "give the state dict of this very model"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Number types that weights may have in a file."""


def read_state(path: str) -> dict[str, Tensor]:
    """Read a `.safetensors` or `.pt` state dict.

    `.pt` is read with `weights_only=True`, which refuses a pickle that carries code.

    Raises:
        ModelError: the file is missing, of another kind or damaged, or holds more than tensors.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        raise ModelError(f"{path}: weights must be a .safetensors or .pt state dict")
    if not os.path.isfile(path):  # noqa: PTH113 — pathlib raises for a name that is too long
        raise ModelError(f"{path}: no such file; check --weights")
    try:
        if suffix == ".safetensors":
            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors and is not loaded, since pickled code could run; "
            f"{SAVE}"
        ) from error
    except Exception as error:  # safetensors and torch raise their own kinds for damaged files
        raise ModelError(f"{path}: damaged, or not a state dict; save it again") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path}: not a state dict of tensors{_holds(state)}; {SAVE}")
    return state


def load_weights(module: nn.Module, path: str) -> tuple[str, ...]:
    """Load the weights of a file into a module, all of them and no others; return notes.

    Raises:
        ModelError: the file cannot be read, or does not fit.
    """
    state, notes = fit_names(module, read_state(path), path)
    check_state(module, state, path)
    module.load_state_dict(state)
    return notes


def fit_names(
    module: nn.Module, state: dict[str, Tensor], path: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A state dict with the names of a module, and a note if a prefix was removed.

    Names change only if a common prefix is the only difference.
    """
    renamed = state_dict_names.fitting(state, module.state_dict())
    if not renamed:
        return state, ()
    own, given = next((own, given) for own, given in renamed.items() if own != given)
    note = f"the names in {Path(path).name} are read without a prefix: {given} as {own}"
    return {own: state[given] for own, given in renamed.items()}, (note,)


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
        drawn = np.full(parameter.shape, float(name.endswith("norm.weight")))
        if parameter.ndim > 1:
            limit = math.sqrt(3 / math.prod(parameter.shape[1:]))
            drawn = stream.uniform(-limit, limit, size=tuple(parameter.shape))
        state[name] = torch.from_numpy(drawn.astype(np.float32))
    return state


def check_state(module: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Check that no key is missing or extra, and that all shapes and numbers are usable.

    Raises:
        ModelError: there is such a key; the line names them.
    """
    expected = module.state_dict()
    faults = [f"{key} is missing" for key in expected if key not in state]
    faults += [f"{key} is not of this layer" for key in state if key not in expected]
    for key in expected.keys() & state.keys():
        if not _usable(state[key], expected[key]):
            faults.append(f"{key} is {state[key].dtype}, where dense floats are needed")
        elif state[key].shape != expected[key].shape:
            faults.append(f"{key} is {_size(state[key])} where {_size(expected[key])} is needed")
        elif not torch.isfinite(state[key].float()).all():
            faults.append(f"{key} holds NaN, infinity, or more than float32 can")
    if faults:
        list_of_faults = few(sorted(faults), SHOWN, "; ")
        whose, advice = state_dict_names.foreign(state.keys() - expected.keys(), path) or ("", _FIT)
        has = f"has {whose}: " if whose else ""
        raise ModelError(f"{path} does not fit the model: {has}{list_of_faults}; {advice}")


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


def _holds(state: object) -> str:
    """What a file that is not a state dict holds, as an addition to an error."""
    names = [str(key) for key in state] if isinstance(state, dict) else []
    return f" (it holds {few(names)})" if names else ""


def _usable(tensor: Tensor, expected: Tensor) -> bool:
    """Whether a tensor is dense, of a usual float type or of the integer type that is expected."""
    kinds: tuple[torch.dtype, ...] = FLOATS
    if not expected.is_floating_point():
        kinds = (expected.dtype,)
    return not tensor.is_meta and tensor.layout == torch.strided and tensor.dtype in kinds


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


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
