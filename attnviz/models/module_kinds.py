"""Prepares modules of every kind for a recorded run: wrapped, exported or not yet loaded ones."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attnviz.errors import ModelError, UsageError
from attnviz.models.failures import message
from attnviz.models.input_size import graph_nodes
from attnviz.models.settings import FIRST, InputForm

PIXELS = "pixel_values"
"""The name of the pixels' argument in transformers."""


class Adapted(nn.Module):
    """A module that takes pixels alone, in front of one that takes them otherwise.

    Args:
        model: the module.
        form: how it takes its pixels; a name only if it needs one.
        others: further arguments by name.
        output: the part of its output that is returned; empty for the whole.
    """

    def __init__(
        self,
        model: nn.Module,
        form: InputForm,
        others: Mapping[str, Any],
        output: Sequence[str | int] = (),
    ) -> None:
        super().__init__()
        self.model, self.form, self.others, self.output = model, form, dict(others), output

    def forward(self, pixels: Tensor) -> Any:
        """(B, channels, h, w) → what the module gives, or the chosen part of it."""
        form = self.form
        given: Any = list(pixels) if form.listed else pixels
        if form.key is not None:
            given = {form.key: given}
        if form.name is None:
            return self._part(self.model(given, **self.others))
        return self._part(self.model(**{form.name: given}, **self.others))

    def _part(self, output: Any) -> Any:
        """The chosen part of an output.

        Raises:
            ModelError: there is no such part.
        """
        for step in self.output:
            try:
                held = isinstance(output, Mapping | tuple | list) and step in _steps(output)
                output = output[step] if held else getattr(output, str(step))
            except AttributeError:
                raise ModelError(_no_part(self.output, step, output)) from None
        return output


def _steps(output: Mapping[Any, Any] | Sequence[Any]) -> list[Any]:
    """The keys of a dict, or the numbers of a tuple or list, from either end."""
    if isinstance(output, Mapping):
        return list(output)
    return list(range(-len(output), len(output)))


def _no_part(steps: Sequence[str | int], step: str | int, output: Any) -> str:
    """The error for an output without the requested part."""
    names = list(output) if isinstance(output, Mapping) else []
    if isinstance(output, tuple | list):
        names = list(range(len(output)))
    has = f"has {', '.join(map(str, names))}" if names else "has no parts"
    whole = ".".join(map(str, steps))
    return f"--output {whole}: no {step!r}: a {type(output).__name__} of the model {has}"


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


def takes_pixels(
    spec: str,
    model: nn.Module,
    others: Mapping[str, Any],
    form: InputForm = FIRST,
    output: Sequence[str | int] = (),
) -> nn.Module:
    """The module, callable with pixels alone; pixels are passed by name if it needs that.

    Args:
        spec: the model's spec, for errors.
        model: the module.
        others: arguments of its forward beside pixels, which it gets at each call.
        form: how it takes its pixels, as far as the user says so.
        output: the part of its output that is wanted.

    Raises:
        ModelError: its forward needs more than pixels and `others`, or takes no argument.
        UsageError: its forward takes no argument of the name of one of `others`, or of the pixels.
    """
    try:
        parameters = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # a scripted module has no signature
        _check_others(spec, others, {})
    else:
        form = replace(form, name=_argument(spec, parameters, others, form.name))
    if form == FIRST and not others and not output:
        return model
    return Adapted(model, form, others, output)


def _argument(
    spec: str,
    parameters: Mapping[str, inspect.Parameter],
    others: Mapping[str, Any],
    named: str | None,
) -> str | None:
    """The name by which the pixels are passed; None if they come first, without a name."""
    if named is not None and not _accepted(parameters, [named]):
        raise UsageError(
            f"--input {named}: the forward of {spec} takes no argument of that name; it takes "
            f"{', '.join(parameters) or 'none'}"
        )
    by_place = [p for p in parameters.values() if p.kind in _BY_PLACE]
    name = named or (PIXELS if PIXELS in parameters else None)
    if name is None and not by_place:
        names = (p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY)
        name = next((each for each in names if each not in others), None)
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        if name is None and not anything:
            raise ModelError(
                f"{spec}: its forward takes no argument; give a module whose forward takes pixels"
            )
    first = name or (by_place[0].name if by_place else None)
    missing = [p for p in _required(parameters) if p != first and p not in others]
    if missing:
        raise ModelError(
            f"{spec}: its forward needs more than pixels ({', '.join(missing)}); say which "
            f"argument takes the pixels by --input NAME, and give numbers by --set "
            f"{missing[0]}=VALUE, or a factory whose module's forward takes pixels alone"
        )
    _check_others(spec, others, {each: p for each, p in parameters.items() if each != first})
    return None if by_place[:1] == [parameters.get(name or "")] else name


def accepted(function: Any, names: Iterable[str]) -> list[str]:
    """Those of some names that a function takes as arguments by name."""
    try:
        return _accepted(inspect.signature(function).parameters, names)
    except (TypeError, ValueError):
        return []


def _accepted(parameters: Mapping[str, inspect.Parameter], names: Iterable[str]) -> list[str]:
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return list(names)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [each for each in names if each in parameters and parameters[each].kind in kinds]


def _check_others(
    spec: str, others: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> None:
    taken = _accepted(parameters, others)
    wrong = next((each for each in others if each not in taken), None)
    if wrong is not None:
        raise UsageError(
            f"--set {wrong}: neither the factory of {spec} nor the forward of its module takes an "
            "argument of that name; check its spelling"
        )


_BY_PLACE = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


def required(function: Any) -> list[str]:
    """Arguments that a function requires; empty if its signature is not known."""
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
