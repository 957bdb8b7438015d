"""What a module states about itself in its attributes, its configs and its parts."""

from typing import Any

from torch import nn

from attnviz.errors import ModelError
from attnviz.models.labels import labels_of
from attnviz.models.model import has_class_token
from attnviz.models.preprocessing import shown

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
