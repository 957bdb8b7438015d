"""Modules of every kind, made ready to be run and watched: what is wrapped, exported, unloaded."""

import contextlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attnviz.errors import ModelError
from attnviz.models.failures import message
from attnviz.models.input_size import graph_nodes

PIXELS = "pixel_values"
"""What transformers calls the pixels, wherever they stand among the arguments."""


class ByName(nn.Module):
    """A module that takes its pixels by name."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, pixels: Tensor) -> Any:
        """(B, 3, h, w) → what the module gives."""
        return self.model(**{self.name: pixels})


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside of `torch.compile`, DataParallel or a running average of weights.

    It computes the same, in this thread and uncompiled, and says itself what its input is.
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
    """Whether a module's weights are there.

    Raises:
        ModelError: they are on the meta device, or are made when it first runs.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    empty_names = [name for name, tensor in tensors if tensor.is_meta]
    if empty_names:
        raise ModelError(
            f"{spec}: its weights are on the meta device ({_first_of(empty_names)}); give "
            "--weights "
            "FILE, or have the factory load them"
        )
    check_made(spec, model)


def check_made(spec: str, model: nn.Module) -> None:
    """Whether all of a module's parameters have a shape.

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


def allocate(model: nn.Module) -> list[str]:
    """Give what is on the meta device memory, full of NaN until it is loaded.

    Returns the names of buffers that no state dict holds, which nothing would fill.
    """
    state = set(model.state_dict())
    empty_names = [n for n, each in model.named_buffers() if each.is_meta and n not in state]
    for owner in model.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if parameter.is_meta:
                setattr(owner, name, nn.Parameter(_unfilled(parameter), requires_grad=False))
        for name, buffer in list(owner.named_buffers(recurse=False)):
            if buffer.is_meta:
                setattr(owner, name, _unfilled(buffer))
    return empty_names


def _unfilled(tensor: Tensor) -> Tensor:
    value = float("nan") if tensor.is_floating_point() else 0
    return torch.full(tensor.shape, value, dtype=tensor.dtype, device="cpu")


def ready(spec: str, model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A module on a device, for inference, its floats of a type and none to be trained.

    Raises:
        ModelError: it cannot be moved there, or was exported as it is trained.
    """
    if _is_training(model):
        raise ModelError(
            f"{spec}: it was exported as it is trained, with dropout or batch statistics; export "
            "it after model.eval()"
        )
    try:
        _own_tensors(model)
        model.to(device)
        _cast(model, dtype)
    except Exception as error:  # of tensors that live elsewhere, or of methods of their own
        raise ModelError(
            f"{spec}: cannot be moved to {device} in {str(dtype).removeprefix('torch.')} "
            f"({message(error)}); have the factory give it on the CPU in float32"
        ) from error
    with contextlib.suppress(NotImplementedError):  # what was exported is as it was then
        model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _own_tensors(model: nn.Module) -> None:
    """Copies of what was made in inference mode, which no gradient can go through."""
    for owner in model.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if parameter.is_inference():
                setattr(owner, name, nn.Parameter(parameter.clone(), requires_grad=False))
        for name, buffer in list(owner.named_buffers(recurse=False)):
            if buffer.is_inference():
                setattr(owner, name, buffer.clone())


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Floats to a type. Complex numbers stay: cast to real ones they would lose half of them."""
    tensors = [*model.parameters(), *model.buffers()]
    if not any(tensor.is_complex() for tensor in tensors):
        model.to(dtype)
        return
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _is_training(model: nn.Module) -> bool:
    """Whether an exported program drops out at random, or normalises by what it is given."""
    for node in graph_nodes(model):
        arguments = getattr(getattr(node.target, "_schema", None), "arguments", ())
        pairs = zip(arguments, node.args, strict=False)
        if any(each.name in ("train", "training") and value is True for each, value in pairs):
            return True
    return False


def takes_pixels(spec: str, model: nn.Module) -> nn.Module:
    """The module, to be called with pixels alone: by place, or by name where it wants that.

    Raises:
        ModelError: it wants more than pixels, or takes nothing.
    """
    try:
        parameters = inspect.signature(model.forward).parameters
        parameters_needed = _required(parameters)
    except (TypeError, ValueError):  # what was scripted does not say
        return model
    name = PIXELS if PIXELS in parameters else None
    by_place = [p for p in parameters.values() if p.kind in _BY_PLACE]
    if name is None and not by_place:
        name = next((p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY), None)
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if name is None and not anything:
            raise ModelError(
                f"{spec}: its forward takes no argument; give a module whose forward takes pixels"
            )
    first = name or (by_place[0].name if by_place else None)
    others = [each for each in parameters_needed if each != first]
    if others:
        raise ModelError(
            f"{spec}: its forward needs more than pixels ({', '.join(others)}); give a factory "
            "whose module's forward takes pixels alone and gives it the rest"
        )
    return model if name is None or by_place[:1] == [parameters[name]] else ByName(model, name)


_BY_PLACE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


def required(function: Any) -> list[str]:
    """Arguments that a function must be given; none where it does not say."""
    try:
        return _required(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _required(parameters: Any) -> list[str]:
    return [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def _first_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
