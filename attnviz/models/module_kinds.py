"""Prepares modules of every kind for a recorded run: wrapped, exported or not yet loaded ones."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attnviz.errors import ModelError
from attnviz.models.failures import message
from attnviz.models.input_size import graph_nodes


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside of `torch.compile`, DataParallel or a running average of weights.

    The inner module computes the same, in this thread and uncompiled, and states its own input.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)  # torch.compile
        if isinstance(model, nn.DataParallel | DistributedDataParallel) or (
            type(model).__name__ == "AveragedModel"
        ):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def check_filled(spec: str, model: nn.Module) -> None:
    """Check that a module's weights have values.

    Raises:
        ModelError: they are on the meta device, or are made when it first runs.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    empty_names = [name for name, tensor in tensors if tensor.is_meta]
    if empty_names:
        raise ModelError(
            f"{spec}: its weights are on the meta device ({_first_of(empty_names)}); give "
            "--weights FILE, or have the factory load them"
        )
    check_made(spec, model)


def check_made(spec: str, model: nn.Module) -> None:
    """Check that all parameters of a module have a shape.

    Raises:
        ModelError: some are made when it first runs.
    """
    parameters = model.named_parameters()
    lazy = [name for name, each in parameters if nn.parameter.is_lazy(each)]
    if lazy:
        raise ModelError(
            f"{spec}: some layers are lazy ({_first_of(lazy)}); have the factory run it once, "
            "model(torch.zeros(1, 3, 224, 224)), or give layers their sizes"
        )


def as_module(value: Any) -> nn.Module | None:
    """The value if it is a module, the module of a program of `torch.export`, or None."""
    if type(value).__name__ == "ExportedProgram" and hasattr(value, "graph_signature"):
        value = value.module()
    return value if isinstance(value, nn.Module) else None


def allocate(spec: str, model: nn.Module) -> None:
    """Give tensors on the meta device memory, filled with NaN until weights are loaded.

    Raises:
        ModelError: a buffer is in no state dict, so that loading cannot fill it.
    """
    state = set(model.state_dict())
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name not in state:
            raise ModelError(
                f"{spec}: its buffer {name} is on the meta device and in no state dict; "
                "have the factory make it elsewhere"
            )
    _replace_tensors(model, lambda tensor: tensor.is_meta, _unfilled)


def _replace_tensors(
    model: nn.Module, applies: Callable[[Tensor], bool], make: Callable[[Tensor], Tensor]
) -> None:
    """Replace all parameters and buffers for which `applies` is True."""
    for owner in model.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if applies(parameter):
                setattr(owner, name, nn.Parameter(make(parameter), requires_grad=False))
        for name, buffer in list(owner.named_buffers(recurse=False)):
            if applies(buffer):
                setattr(owner, name, make(buffer))


def _unfilled(tensor: Tensor) -> Tensor:
    value = float("nan") if tensor.is_floating_point() else 0
    return torch.full(tensor.shape, value, dtype=tensor.dtype, device="cpu")


def ready(spec: str, model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A module on a device, ready for inference: floats of one type, no parameter to be trained.

    Raises:
        ModelError: it cannot be moved there, or was exported in training mode.
    """
    if _is_training(model):
        raise ModelError(
            f"{spec}: it was exported as it is trained, with dropout or batch statistics; export "
            "it after model.eval()"
        )
    try:
        # No gradient can go through tensors that were made in inference mode.
        _replace_tensors(model, Tensor.is_inference, Tensor.clone)
        model.to(device)
        _cast(model, dtype)
    except Exception as error:  # tensors may live elsewhere or have own methods
        raise ModelError(
            f"{spec}: cannot be moved to {device} in {str(dtype).removeprefix('torch.')} "
            f"({message(error)}); have the factory give it on the CPU in float32"
        ) from error
    with contextlib.suppress(NotImplementedError):  # an exported program keeps its mode
        model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast floats to a type. Complex numbers stay: a cast to real numbers would lose half."""
    tensors = [*model.parameters(), *model.buffers()]
    if not any(tensor.is_complex() for tensor in tensors):
        model.to(dtype)
        return
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _is_training(model: nn.Module) -> bool:
    """Whether an exported program uses dropout or batch statistics."""
    for node in graph_nodes(model):
        arguments = getattr(getattr(node.target, "_schema", None), "arguments", ())
        pairs = zip(arguments, node.args, strict=False)
        if any(each.name in ("train", "training") and value is True for each, value in pairs):
            return True
    return False


def _first_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
