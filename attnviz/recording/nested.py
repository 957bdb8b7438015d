"""Reads attention over nested tensors: a batch of sequences of several lengths.

On a CPU, `F.scaled_dot_product_attention` of nested tensors (strided or jagged) is a product, a
softmax and a product, each over nested tensors. Its call is that of a kernel over packed sequences:
a batch whose ends are masked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.recording.kernels import KernelCall, Packing, masked
from attnviz.recording.operation import Operation
from attnviz.recording.tensor_registry import TensorRegistry


@dataclass(frozen=True)
class _Product:
    """q·kᵀ of nested tensors, or its softmax; each item of `query` is (H, N, D)."""

    query: Tensor
    key: Tensor
    kind: Literal["scores", "weights"]


@dataclass(frozen=True)
class NestedCall:
    """A call over nested tensors: its queries and keys as the model has them, and packed."""

    query: Tensor
    key: Tensor
    found: KernelCall


class NestedAttention:
    """Finds attention in the operations on nested tensors.

    `unread` receives a description of what cannot be read.
    """

    def __init__(self, unread: Callable[[str], None]) -> None:
        self._known: TensorRegistry[_Product] = TensorRegistry()
        self._unread = unread

    def follow(self, op: Operation, result: Any) -> "NestedCall | None":
        """The call whose output is the result of an operation, if it is one."""
        nested = [each for each in op.flat if isinstance(each, Tensor) and each.is_nested]
        for tensor in op.written:
            if tensor.is_nested and len(tensor.unbind()):
                self._known.forget(tensor.unbind()[0])
        products = [self._of(tensor) for tensor in nested]
        if op.name in ("matmul", "bmm") and len(nested) == 2:
            return self._multiplied(nested, products, result)
        if "softmax" in op.name:
            self._softmax(op, products, result)
        else:
            of_weights = any(each is not None and each.kind == "weights" for each in products)
            if of_weights and _is_nested(result) and self._of(result) is None:  # not itself
                self._unread(f"weights of nested tensors, changed by {op.name}")
        return None

    def _of(self, tensor: Any) -> _Product | None:
        items = tensor.unbind() if _is_nested(tensor) else ()
        return self._known.get(items[0]) if items else None

    def _softmax(self, op: Operation, products: list[_Product | None], result: Tensor) -> None:
        product, dim = (products or [None])[0], op.get(1, "dim")
        if product is None or product.kind != "scores" or dim not in (-1, result.dim() - 1):
            self._unread(f"{op.name} of nested tensors")
            return
        weights = _Product(product.query, product.key, "weights")
        self._known.put(result.unbind()[0], weights)

    def _multiplied(
        self, factors: list[Tensor], products: list[_Product | None], result: Tensor
    ) -> "NestedCall | None":
        product = products[0]
        if product is not None and product.kind == "weights":
            return NestedCall(product.query, product.key, _call(product, factors[1], result))
        if all(tensor.dim() in (3, 4) for tensor in factors) and len(result.unbind()):
            scores = _Product(factors[0], factors[1].transpose(-1, -2), "scores")
            self._known.put(result.unbind()[0], scores)
        return None


def _is_nested(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_nested


def packed(nested: Tensor) -> tuple[Tensor, Packing]:
    """The items (H, N, D), or (N, D), of a nested tensor one after the other, (T, H, D)."""
    items = [item if item.ndim == 3 else item[None] for item in nested.detach().unbind()]
    lengths = torch.tensor([0, *(item.shape[1] for item in items)], device=items[0].device)
    return torch.cat([item.transpose(0, 1) for item in items]), Packing(lengths.cumsum(0))


def _call(product: _Product, value: Tensor, output: Tensor) -> KernelCall:
    (query, of_queries), (key, of_keys) = packed(product.query), packed(product.key)
    call = AttentionCall(
        query=of_queries(query),
        key=of_keys(key),
        value=of_keys(packed(value)[0]),
        scale=1.0,
        output=of_queries(packed(output)[0]),
    )
    packings = of_queries, of_keys
    return KernelCall(masked(call, packings, last=False), query, key, _laid, packings)


def _laid(nested: Tensor) -> Tensor:
    """A nested tensor as a batch, (items, H, N, D)."""
    found, packing = packed(nested)
    return packing(found)
