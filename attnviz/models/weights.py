"""State dicts from files, read without running anything that they hold."""

import os
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from attnviz.errors import ModelError


def read_state(path: str) -> dict[str, Tensor]:
    """Read a `.safetensors` or `.pt` state dict.

    `.pt` is read with `weights_only=True`: a pickle that carries code is refused.

    Raises:
        ModelError: missing, of another kind, damaged, or with anything but tensors in it.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".safetensors", ".pt", ".pth"):
        raise ModelError(f"{path}: weights must be a .safetensors or .pt state dict")
    if not os.path.isfile(path):  # noqa: PTH113 — pathlib's raises for a name that is too long
        raise ModelError(f"{path}: no such file; check --weights")
    try:
        state = _read_safetensors(path) if suffix == ".safetensors" else _read_pickle(path)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors and is not loaded, since pickled code could run; "
            "save the state dict alone: torch.save(layer.state_dict(), ...)"
        ) from error
    except Exception as error:  # safetensors and torch raise their own kinds for damaged files
        raise ModelError(f"{path}: damaged, or not a state dict; save it again") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path}: not a state dict of tensors; save layer.state_dict()")
    return state


def check_state(module: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Name every key that is missing, extra, misshapen or not finite.

    Raises:
        ModelError: there is one.
    """
    expected = module.state_dict()
    faults = [f"{key} is missing" for key in expected if key not in state]
    faults += [f"{key} is not of this layer" for key in state if key not in expected]
    for key in expected.keys() & state.keys():
        if not _usable(state[key]):
            faults.append(f"{key} is {state[key].dtype}, where dense floats are needed")
        elif state[key].shape != expected[key].shape:
            faults.append(f"{key} is {_size(state[key])} where {_size(expected[key])} is needed")
        elif not torch.isfinite(state[key].float()).all():
            faults.append(f"{key} holds NaN, infinity, or more than float32 can")
    if faults:
        raise ModelError(f"{path} does not fit the layer: {'; '.join(sorted(faults))}")


def _usable(tensor: Tensor) -> bool:
    """Whether a tensor is there, dense, and of a usual floating type."""
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    return not tensor.is_meta and tensor.layout == torch.strided and tensor.dtype in kinds


def _read_safetensors(path: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file  # noqa: PLC0415 — only where such a file is given

    return load_file(path)


def _read_pickle(path: str) -> object:
    state: object = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"
