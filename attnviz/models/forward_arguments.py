"""Gives a module its pixels as its forward takes them, and settings beside them."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from attnviz.errors import ModelError, UsageError
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
