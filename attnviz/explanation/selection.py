"""Parses and checks choices of heads and layers: `all`, a count, a list.

This file has no heavy imports, so that a usage error shows at once.
"""

import re
from dataclasses import dataclass

from attnviz.errors import UsageError

_ITEM = re.compile(r"(-?\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True)
class Localized:
    """The most localized heads of all requested layers, `count` of them."""

    count: int = 3


Heads = int | tuple[int, ...] | Localized | None


def parse_heads(text: str) -> Heads:
    """`all` → None, a count `8` → 8, a list `0,3,5-7` or `3,` → its head numbers.

    `localized` and `localized:5` → `Localized`.

    >>> parse_heads("0,3,5-7")
    (0, 3, 5, 6, 7)
    >>> parse_heads("localized:5")
    Localized(count=5)

    Raises:
        UsageError: anything else.
    """
    text = text.strip()
    name, colon, count = text.partition(":")
    if name == "localized":
        if not colon:
            return Localized()
        if not (count.isdecimal() and 0 < int(count[:9]) < 1000):
            raise UsageError(f"--heads {text!r} cannot be read; give localized, or localized:3")
        return Localized(int(count))
    if text == "all":
        return None
    if text.isdecimal() and len(text) < 10:
        if int(text) == 0:
            raise UsageError("--heads 0 leaves nothing to show; head number 0 alone is --heads 0,")
        return int(text)
    return _numbers("--heads", text, "all, a count like 8, a list like 0,3,5-7, or localized")


def requested_layers(layers: str, heads: str) -> str:
    """The layers that `auto` stands for: `upper` with localized heads, else `-1`.

    >>> requested_layers("auto", "all"), requested_layers("auto", "localized:5")
    ('-1', 'upper')
    """
    if layers.strip() != "auto":
        return layers
    return "upper" if isinstance(parse_heads(heads), Localized) else "-1"


def parse_layers(text: str) -> tuple[int, ...] | None:
    """`all` → None, a list `-1` or `0,5-11` → its layer numbers, negative from the end.

    `upper`, the upper half, is None too: which layers it is depends on how many are drawn. `auto`
    is −1, unless `requested_layers` replaces it.

    >>> parse_layers("0,5-7,-1")
    (0, 5, 6, 7, -1)

    Raises:
        UsageError: anything else.
    """
    if text.strip() in ("all", "upper"):
        return None
    if text.strip() == "auto":
        return (-1,)
    return _numbers("--layers", text, "all, upper, -1 for the last, or a list like 0,5-11")


def choose_heads(
    chosen: Heads,
    available: int,
    *,
    layer: int | None = None,
    model: str = "the model",
) -> tuple[int, ...]:
    """Head numbers out of `available`; a count takes the first ones, `Localized` all of them.

    The error names `model`, and `layer` if layers differ in their number of heads.

    Raises:
        UsageError: more than the model, or that layer, has.
    """
    if chosen is None or isinstance(chosen, Localized):
        return tuple(range(available))
    where = model if layer is None else f"layer {layer}"
    if isinstance(chosen, int):
        if chosen > available:
            raise UsageError(
                f"--heads: {where} has {_count(available, 'heads')}, numbered 0 to "
                f"{available - 1}; give at most {available}"
            )
        return tuple(range(chosen))
    return _within("--heads", chosen, available, "heads", where)


def choose_layers(chosen: tuple[int, ...] | None, available: int) -> tuple[int, ...]:
    """Layer numbers out of `available`; negative ones count from the end.

    Raises:
        UsageError: a layer that the model does not have.
    """
    if chosen is None:
        return tuple(range(available))
    return _within("--layers", chosen, available, "layers")


def _numbers(option: str, text: str, expected: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for item in text.strip().removesuffix(",").split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None:
            raise UsageError(f"{option} {text!r} cannot be read; give {expected}")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first or last - first > 10_000:
            raise UsageError(f"{option} {text!r}: {item.strip()} is no range; give {expected}")
        numbers.extend(range(first, last + 1))
    return tuple(dict.fromkeys(numbers))


def _within(
    option: str, numbers: tuple[int, ...], available: int, what: str, where: str = "the model"
) -> tuple[int, ...]:
    lowest = -available if option == "--layers" else 0
    for number in numbers:
        if not lowest <= number < available:
            raise UsageError(
                f"{option}: {where} has {_count(available, what)}, numbered 0 to "
                f"{available - 1}; there is no number {number}"
            )
    return tuple(dict.fromkeys(number % available for number in numbers))


def _count(number: int, what: str) -> str:
    return f"{number} {what.removesuffix('s') if number == 1 else what}"
