"""Watching a running model: every attention call it makes, with the model left as it is."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from attnviz.attention.call import AttentionCall


class Recording(Sequence[AttentionCall]):
    """The attention calls of one model run, in call order."""

    def __init__(self, calls: Sequence[AttentionCall] = ()) -> None:
        self._calls = calls

    def __len__(self) -> int:
        return len(self._calls)

    @overload
    def __getitem__(self, index: int) -> AttentionCall: ...

    @overload
    def __getitem__(self, index: slice) -> "Recording": ...

    def __getitem__(self, index: int | slice) -> "AttentionCall | Recording":
        if isinstance(index, slice):
            return Recording(self._calls[index])
        return self._calls[index]

    def __repr__(self) -> str:
        return f"Recording({len(self)} attention calls)"


@contextmanager
def record() -> Iterator[Recording]:
    """Record every call of `F.scaled_dot_product_attention` made in this thread.

    The model is not touched and its fused kernel stays on: what is kept is q, k, v, the bias
    and the output, detached. The recording grows while the model runs.

    >>> with attnviz.record() as recording:
    ...     model(pixels)
    >>> recording[-1].rows([0])              # (batch, heads, 1, keys)
    """
    calls: list[AttentionCall] = []
    with _Watcher(calls):
        yield Recording(calls)


class _Watcher(TorchFunctionMode):
    """Lets every torch function run as it is, and notes the attention calls."""

    def __init__(self, calls: list[AttentionCall]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            self._calls.append(_call(result, *args, **(kwargs or {})))
        return result


def _call(  # noqa: PLR0917 — the signature of F.scaled_dot_product_attention
    output: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001 — shows in the self-check
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001 — shows in the shapes
) -> AttentionCall:
    """What one call of `F.scaled_dot_product_attention` was given, and gave; its signature."""
    bias = None if attn_mask is None else attn_mask.detach()
    if bias is not None and query.ndim == 3 and bias.ndim == 3:
        bias = bias.unsqueeze(1)
    elif bias is not None and query.ndim > 4 and bias.ndim > 3:
        bias = bias.expand(*query.shape[:-3], *bias.shape[-3:]).flatten(0, -4)
    return AttentionCall(
        query=_with_heads(query),
        key=_with_heads(key),
        value=_with_heads(value),
        scale=1 / math.sqrt(query.shape[-1]) if scale is None else scale,
        bias=bias,
        causal=is_causal,
        output=_with_heads(output),
    )


def _with_heads(tensor: Tensor) -> Tensor:
    """(…, N, D) as (B, H, N, D), detached.

    A tensor without a head dimension has one head; of more than four dimensions, all but the last
    three are the batch.
    """
    tensor = tensor.detach()
    if tensor.ndim > 4:
        tensor = tensor.flatten(0, -4)
    while tensor.ndim < 4:
        tensor = tensor.unsqueeze(1 if tensor.ndim == 3 else 0)
    return tensor
