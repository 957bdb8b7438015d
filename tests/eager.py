"""What autograd says of attention that a model writes out: an oracle for gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from softmaxes import SOFTMAXES
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

PRODUCTS = (torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm)


class Eager(TorchFunctionMode):
    """Keeps every softmax and its product with values, with their graph.

    The product is known by its memory: dropout that is off, and a type that is the same already,
    leave the weights where they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in SOFTMAXES:
            self.weights.append(result)
        if func in PRODUCTS and args[0].data_ptr() in {
            weights.data_ptr() for weights in self.weights
        }:
            self.outputs.append(result)
        return result


def attend(layer: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What `nn.MultiheadAttention` does with (B, N, F), written out."""
    weight, bias = layer.in_proj_weight, layer.in_proj_bias
    parts = zip((q, k, v), weight.chunk(3), bias.chunk(3), strict=True)
    shape = (len(q), -1, layer.num_heads, layer.head_dim)
    q, k, v = ((x @ w.T + b).view(shape).transpose(1, 2) for x, w, b in parts)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    result: Tensor = layer.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return result
