"""Reads what a model returned: its logits, or the tensor of its tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from attnviz.errors import ModelError
from attnviz.models.model import Model
from attnviz.models.model_request import no_class_head
from attnviz.models.predictions import part


def logits(model: Model, output: Any) -> Tensor:
    """Logits in an output, (B, classes) float32.

    They are the output itself, its `logits`, or the first (B, classes) tensor in a dict or tuple.

    Raises:
        ModelError: there are no logits, or they are not finite.
    """
    found = find_logits(output)
    if found is None:
        named = part(output, "logits")
        what = output if named is None else named
        shape = getattr(what, "shape", None)
        got = type(what).__name__ if shape is None else "x".join(map(str, shape))
        raise no_class_head(model.spec, f"its output is {got}, not pictures x classes")
    return finite(model, found.float())


def find_logits(output: Any) -> Tensor | None:
    """A tensor in an output that looks like logits: (B, classes), at least two classes; or None.

    An output is a tensor, or holds `logits`. Of another dict, tuple or list it is the first such
    tensor, unless the output names its tokens `last_hidden_state`: others are features then.

    >>> find_logits({"tokens": torch.zeros(1, 9, 4), "scores": torch.zeros(1, 5)}).shape
    torch.Size([1, 5])
    """
    named = part(output, "logits")
    candidates = [output if named is None else named]
    if named is None and part(output, "last_hidden_state") is None:
        if isinstance(output, Mapping):
            candidates = list(output.values())
        elif isinstance(output, tuple | list):
            candidates = list(output)
    return next((each for each in candidates if _are_logits(each)), None)


def _are_logits(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2 and value.shape[1] >= 2


def predicts_classes(model: Model, output: Any) -> bool:
    """Whether a model has a class head, or its output names logits."""
    return model.head == "class" or part(output, "logits") is not None


def tokens_of(model: Model, output: Any) -> Tensor:
    """The tensor of an output, (1, …), whose norm is taken."""
    for name in ("last_hidden_state", "logits"):
        if isinstance(state := part(output, name), Tensor):
            return state
    parts = list(output.values()) if isinstance(output, Mapping) else output
    first = parts[0] if isinstance(parts, tuple | list) and parts else output
    if not isinstance(first, Tensor) or first.ndim not in (2, 3, 4):
        raise ModelError(
            f"{model.spec}: its output is a {type(first).__name__}, and no tensor of 2 to 4 "
            "dimensions; have the module return one, or what has `logits` or `last_hidden_state`"
        )
    return first


def finite(model: Model, values: Tensor) -> Tensor:
    """The values, which must be finite.

    Raises:
        ModelError: some are not.
    """
    if not torch.isfinite(values).all():
        raise ModelError(
            f"{model.spec}: its predictions are not finite; check its weights, or take "
            "--dtype float32"
        )
    return values
