"""Reads mean and standard deviation from configs, with the usual defaults."""

import math
from collections.abc import Callable
from typing import Any

from attnviz.errors import ModelError

Triple = tuple[float, float, float]
IMAGENET: tuple[Triple, Triple] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATISTICS: dict[str, tuple[Triple, Triple]] = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": IMAGENET,
    "clip": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
}
"""Mean and standard deviation of pixel values 0…1, per channel."""
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""Pillow's numbers."""


def triple(values: Any, default: float, name: str = "mean") -> Triple:
    """Three numbers, one per channel, from what a config states: three, one for all, or none.

    Args:
        values: a number, a list, an array or a tensor of any shape, or None.
        default: value for None.
        name: name of the numbers in an error.

    >>> triple(None, 0.5)
    (0.5, 0.5, 0.5)
    >>> triple([[[0.1]], [[0.2]], [[0.3]]], 0.5)
    (0.1, 0.2, 0.3)
    >>> triple([0.25], 0.5)
    (0.25, 0.25, 0.25)

    Raises:
        ModelError: something is not a number or not finite, or there are not one or three numbers.
    """
    if values is None:
        return default, default, default
    numbers = flatten(values, float)
    if numbers is None or not all(map(math.isfinite, numbers)):
        raise ModelError(
            f"its {name} is {shown(values)}; make it one number, or three, of pixel values 0 to 1"
        )
    if len(numbers) not in (1, 3):
        raise ModelError(
            f"its {name} has {len(numbers)} numbers; give one, or three: of red, green and blue"
        )
    red, green, blue = numbers * (3 // len(numbers))
    return red, green, blue


def normalisation(mean: Any, std: Any, default: float = 0.5) -> tuple[Triple, Triple]:
    """Mean and standard deviation of pixel values 0…1, from what a module states.

    Numbers over 1 must refer to pixel values 0…255 and are divided by 255.

    >>> normalisation([127.5], 255)
    ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))

    Raises:
        ModelError: they are not such numbers, or a deviation is not over 0.
    """
    means, deviations = triple(mean, default, "mean"), triple(std, default, "std")
    if min(deviations) <= 0:
        raise ModelError(f"its std is {shown(std)}; give numbers over 0")
    if max(*means, *deviations) <= 1:
        return means, deviations
    if mean is None or std is None or 0 < max(means) <= 1:
        raise ModelError(
            f"its mean is {shown(mean)} and its std {shown(std)}: one of them is of pixel values 0 "
            "to 255, and the other is not; give both of values 0 to 1"
        )
    scaled = [tuple(value / 255 for value in values) for values in (means, deviations)]
    return triple(scaled[0], default), triple(scaled[1], default)


def flatten(values: Any, kind: Callable[[Any], Any]) -> list[Any] | None:
    """All numbers of nested lists, an array or a tensor; None if anything is not a number."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, list | tuple):
        parts = [flatten(value, kind) for value in values]
        if any(part is None for part in parts):
            return None
        return [number for part in parts if part is not None for number in part]
    try:
        return None if isinstance(values, bool) else [kind(values)]
    except (TypeError, ValueError, OverflowError):
        return None


def shown(value: Any) -> str:
    """A wrong value as short text for an error."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"a {type(value).__name__}"
