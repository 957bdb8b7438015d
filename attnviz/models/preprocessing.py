"""How pictures are prepared, as configs and modules state it, with the usual defaults."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from attnviz.errors import ModelError
from attnviz.models.class_token_names import has_class_token
from attnviz.models.targets import labels_of

IMAGENET: tuple[tuple[float, ...], tuple[float, ...]] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": IMAGENET,
    "clip": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
}
"""Mean and standard deviation of pixel values 0…1, per channel."""


def per_channel(
    values: Any, default: float, name: str = "mean", *, channels: int = 3
) -> tuple[float, ...]:
    """One number for each channel, from what a config states: so many, one for all, or none.

    Three numbers are taken for any model; see `Model.statistics`.

    Args:
        values: a number, a list, an array or a tensor of any shape, or None.
        default: value for None.
        name: name of the numbers in an error.
        channels: channels of the model's input.

    >>> per_channel(None, 0.5)
    (0.5, 0.5, 0.5)
    >>> per_channel([[[0.1]], [[0.2]], [[0.3]]], 0.5)
    (0.1, 0.2, 0.3)
    >>> per_channel([0.25], 0.5)
    (0.25, 0.25, 0.25)

    Raises:
        ModelError: something is not a number or not finite, or their number is another.
    """
    if values is None:
        return default, default, default
    numbers = flatten(values, float)
    if numbers is None or not all(map(math.isfinite, numbers)):
        raise ModelError(
            f"its {name} is {shown(values)}; make it one number, or three, of pixel values 0 to 1"
        )
    if len(numbers) not in (1, 3, channels):
        each = "three: of red, green and blue" if channels == 3 else f"{channels}: of each channel"
        raise ModelError(f"its {name} has {len(numbers)} numbers; give one, or {each}")
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)


def scaled_statistics(
    spec: str, processing: Mapping[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of values 0…1, from a preprocessor's config.

    A preprocessor may scale values to 0…2, and with `offset` to −1…1, before it normalises them.

    >>> scaled_statistics("", {"image_mean": 0.5, "rescale_factor": 1 / 127.5, "offset": True})[0]
    (0.75, 0.75, 0.75)

    Raises:
        ModelError: its numbers are no mean, or no deviation.
    """
    scale = 255 * float(processing.get("rescale_factor") or 1 / 255)
    offset = 1.0 if processing.get("offset") else 0.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if processing.get("do_normalize", True):
        try:
            mean = per_channel(processing.get("image_mean"), 0.5, "mean")
            std = per_channel(processing.get("image_std"), 0.5, "std")
        except ModelError as error:
            raise ModelError(f"{spec}: preprocessor_config.json: {error}") from error
    return tuple((each + offset) / scale for each in mean), tuple(each / scale for each in std)


def normalisation(
    mean: Any, std: Any, default: float = 0.5, *, channels: int = 3
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixel values 0…1, from what a module states.

    Numbers over 1 must refer to pixel values 0…255 and are divided by 255.

    >>> normalisation([127.5], 255)
    ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))

    Raises:
        ModelError: they are not such numbers, or a deviation is not over 0.
    """
    means = per_channel(mean, default, "mean", channels=channels)
    deviations = per_channel(std, default, "std", channels=channels)
    if min(deviations) <= 0:
        raise ModelError(f"its std is {shown(std)}; give numbers over 0")
    if max(*means, *deviations) <= 1:
        return means, deviations
    if mean is None or std is None or 0 < max(means) <= 1:
        raise ModelError(
            f"its mean is {shown(mean)} and its std {shown(std)}: one of them is of pixel values 0 "
            "to 255, and the other is not; give both of values 0 to 1"
        )
    return tuple(value / 255 for value in means), tuple(value / 255 for value in deviations)


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


NAMES = (
    "mean", "std", "image_mean", "image_std", "input_size", "image_size", "img_size", "patch_size",
    "interpolation", "num_prefix_tokens",
)  # fmt: skip
"""Attributes by which a module may state what its input is."""
_CONFIGS = ("config", "default_cfg", "pretrained_cfg")
_SIZES = {"input_size", "image_size", "img_size"}


def stated(model: nn.Module) -> dict[str, Any]:
    """What a module states about its input: own attributes first, then configs, then parts."""
    statements: dict[str, Any] = {}
    for source in _CONFIGS:
        value = _attribute(model, source)
        statements |= value if isinstance(value, dict) else getattr(value, "__dict__", {})
    statements |= {name: value for name in NAMES if _is_data(value := _attribute(model, name))}
    statements = {name: statements[name] for name in NAMES if _is_data(statements.get(name))}
    embedding = getattr(model, "patch_embed", None)
    for name, same in (("patch_size", {"patch_size"}), ("img_size", _SIZES)):
        value = _attribute(embedding, name)
        if value is not None and not statements.keys() & same:
            statements[name] = value
    return statements


def first(statements: dict[str, Any], *names: str) -> Any:
    """The value of the first of some names that has one."""
    return next((statements[name] for name in names if name in statements), None)


def prefix_count(model: nn.Module, statements: dict[str, Any]) -> int:
    """Tokens before the grid.

    Raises:
        ModelError: the module states something that is not a number of tokens.
    """
    count = statements.get("num_prefix_tokens", int(has_class_token(model)))
    if not isinstance(count, int) or count < 0:
        raise ModelError(f"its num_prefix_tokens is {shown(count)}; make it a number of tokens")
    return count


def may_classify(model: nn.Module) -> bool:
    """Whether the module may return logits: nothing states otherwise; only a run shows it."""
    without_head = isinstance(getattr(model, "head", None), nn.Identity)
    return not without_head and getattr(model, "num_classes", None) != 0


def labels(model: nn.Module) -> tuple[str, ...] | None:
    """Names of the module's classes, from its own `labels` or its config's `id2label`."""
    config = getattr(model, "config", None)
    return labels_of(getattr(model, "labels", None)) or labels_of(getattr(config, "id2label", None))


def _attribute(owner: Any, name: str) -> Any:
    """An attribute; None if there is none."""
    try:
        return getattr(owner, name, None)
    except Exception:  # a property may raise anything
        return None


def _is_data(value: Any) -> bool:
    """Whether a value states something: a method called `mean` does not."""
    return value is not None and not callable(value)
