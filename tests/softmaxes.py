"""What a model itself calls its attention: every softmax that it takes, as Python sees it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)


class Softmaxes(TorchFunctionMode):
    """Keeps the results of all softmaxes in order; shares nothing with what attnviz does."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in SOFTMAXES:
            self.found.append(result.detach())
        if func is F.scaled_dot_product_attention:  # where a model has no other way
            query, key = (tensor.detach().double() for tensor in args[:2])
            scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
            self.found.append(scores.softmax(-1).float())
        return result


def as_call(weights: Tensor, shape: Sequence[int]) -> Tensor:
    """Weights of a model as (windows, heads, queries, keys).

    Some have windows behind the heads, (H, W, n, m) or (B, H, W, n, m), or all in one dimension.
    """
    swapped = weights.ndim == 4 and tuple(weights.shape[:2]) == (shape[1], shape[0])
    if swapped and shape[0] != shape[1]:
        weights = weights.transpose(0, 1)
    if weights.ndim == 5 and weights.shape[1] == shape[1]:
        weights = weights.transpose(1, 2)
    return weights.reshape(tuple(shape))


@contextmanager
def asked_again(model: nn.Module) -> Iterator[list[Tensor]]:
    """Weights of every nn.MultiheadAttention that runs, asked for them once more."""
    found: list[Tensor] = []

    def ask(module: nn.Module, given: Any, named: Any, _: Any) -> None:
        named = named | {"need_weights": True, "average_attn_weights": False}
        found.append(module.forward(*given, **named)[1])

    parts = [part for part in model.modules() if isinstance(part, nn.MultiheadAttention)]
    hooks = [part.register_forward_hook(ask, with_kwargs=True) for part in parts]
    yield found
    for hook in hooks:
        hook.remove()
