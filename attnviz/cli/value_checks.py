"""Checks typed values before Typer reads them.

Typer reads values with pydantic, whose import takes longer than the rest of a usage error. Values
that pass these checks are read and checked again by Typer and by the groups of options.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attnviz import methods, models
from attnviz.drawing.scale import parse_scale
from attnviz.errors import UsageError, did_you_mean
from attnviz.explanation.selection import parse_heads, parse_layers
from attnviz.geometry import queries
from attnviz.io.ranges import parse_range

CHECKS: dict[str, Callable[[str], object]] = {
    "method": methods.find_method,
    "model": models.find_source,
    "heads": parse_heads,
    "layers": parse_layers,
    "query": queries.parse,
    "scale": parse_scale,
    "range": parse_range,
}
"""For each option name, the function that checks its values."""


def check_values(params: Iterable[Any], given: Mapping[str, Any]) -> None:
    """Refuse impossible values: unknown words, bad numbers, and names that no table has.

    Args:
        params: the options of a command, as Typer has them.
        given: the typed values by option name.

    Raises:
        UsageError: a value is an unknown word or name, not a number, or out of bounds.
    """
    for param in params:
        if param.param_type_name != "option" or param.is_flag:
            continue
        value = given.get(param.name)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                _check(param, text)


def _check(param: Any, text: str) -> None:
    flag, kind = param.opts[0], param.type_descriptor.annotation
    choices = param.type_descriptor.choices
    if choices is not None and text not in choices:
        hint = did_you_mean(text, choices) or f"; choose from {', '.join(choices)}"
        raise UsageError(f"{flag}: unknown value {text!r}{hint}")
    if kind in (int, float):
        _check_number(flag, kind, text, param.min, param.max)
    if param.name in CHECKS:
        CHECKS[param.name](text)


def _check_number(
    flag: str, kind: Callable[[str], float], text: str, low: float | None, high: float | None
) -> None:
    bounds = [f"from {low}" * (low is not None), f"to {high}" * (high is not None)]
    wanted = " ".join(["a whole number" if kind is int else "a number", *filter(None, bounds)])
    try:
        value = kind(text)
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no number; give {wanted}") from None
    if not ((low is None or value >= low) and (high is None or value <= high)):
        raise UsageError(f"{flag} {text}: give {wanted}")
