"""What becomes of the outputs of calls: heads beside features, a projection, a LayerScale.

An output, of a fused kernel or by hand, is followed through views and copies to the first linear
map over its heads and features, and that map's result to a multiplication by a vector over its
features. Anything else ends the following.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from attnviz.attention.call import AttentionCall
from attnviz.attention.recording.axes import Axis, Dims, leaves, regroup
from attnviz.attention.recording.gradients import Lay
from attnviz.attention.recording.known import Known, own
from attnviz.attention.recording.operation import After, Operation, first, order_of
from attnviz.attention.recording.products import Axes, Weights, secured
from attnviz.attention.recording.terms import Layout, attention_call

_PATIENCE = 16
"""So many operations that have nothing to do with outputs, and they are not followed any more."""


@dataclass(frozen=True)
class Met:
    """Weights and the values that they met, (b, m, Dv), with their product, (b, n, Dv).

    `turned` if the product itself was (b, Dv, n).
    """

    weights: Weights
    value: Tensor
    output: Tensor
    turned: bool


@dataclass(frozen=True)
class Output:
    """A view of the output of call `number` of the recording.

    What `met` is known as long as `heads` may turn out to be other ones: they are settled once a
    view has shown them beside the `features`.
    """

    number: int
    dims: Dims
    heads: Axes
    features: Axes
    met: Met | None = None


@dataclass(frozen=True)
class Projected:
    """A view of what a linear map made of the output of call `number`; `features` are its own."""

    number: int
    dims: Dims
    features: Axis


@dataclass(frozen=True)
class Reader:
    """Who is told what becomes of outputs.

    Attributes:
        corrected: told of a call's number and how it, and its output's layout, are after all.
        projected: told of a call's number and its projection, (Hv, Dv, F).
        scaled: told of a call's number and what the projection's features are multiplied with.
    """

    corrected: Callable[[int, AttentionCall, Lay], None]
    projected: Callable[[int, Tensor], None]
    scaled: Callable[[int, Tensor], None]


class Outputs:
    """Follows outputs in a stream of operations."""

    def __init__(self, reader: Reader) -> None:
        self._tell = reader
        self._known: Known[Output | Projected] = Known()
        self._patience = 0

    def by_hand(self, tensor: Tensor, number: int, met: Met) -> None:
        """A call by hand has given its output, (b, n, Dv) or turned, or without a batch."""
        b, n = met.weights.dims[:2]
        features, mixing = (Axis(met.value.shape[2]),), met.weights.mixing
        dims = ((b, features, n) if met.turned else (b, n, features))[-tensor.ndim :]
        heads = met.weights.order.heads if mixing is None else mixing.heads
        self._add(tensor, Output(number, dims, heads, features, met if mixing is None else None))

    def fused(self, tensor: Tensor, number: int, heads: int = 1) -> None:
        """A fused call has given its output, of four dimensions, one of them its heads."""
        if tensor.ndim != 4:
            return
        dims = tuple((Axis(size),) for size in tensor.shape)
        self._add(tensor, Output(number, dims, dims[heads], dims[3]))

    def _add(self, tensor: Tensor, output: Output) -> None:
        self._known.forget(tensor)
        self._put(tensor, output)

    def _put(self, tensor: Tensor, node: Output | Projected) -> None:
        self._known.put(tensor, node)
        self._patience = _PATIENCE

    def before(self, op: Operation) -> After | None:
        """What is to be done after an operation that is about to run."""
        if not self._patience:
            return None
        self._patience -= 1
        if not self._patience:
            self._known = Known()
            return None
        handler = _HANDLERS.get(op.name)
        after = None if handler is None else handler(self, op)
        for tensor in op.written:
            self._known.forget(tensor)
            self._known.change_all(partial(_secured, written=tensor))
        return after

    # What operations do to what is known of their arguments; None: nothing is known.

    def _viewed(self, op: Operation) -> After | None:
        node = self._known.get(op.args[0])
        return None if node is None else lambda result: self._seen(node, result)

    def _seen(self, node: Output | Projected, result: Tensor) -> None:
        """A view that keeps the order of the elements."""
        dims = regroup(node.dims, result.shape)
        if dims is None:
            return
        if isinstance(node, Output) and node.met is not None:
            node = self._find_heads(node, node.met, dims)
        self._put(result, replace(node, dims=dims))

    def _find_heads(self, node: Output, met: Met, dims: Dims) -> Output:
        """Heads are what the model puts side by side with the features, the first time it does."""
        weights = met.weights
        for dim in map(leaves, ([dim] for dim in dims)):
            features = set(leaves([node.features]))
            rest = [leaf for leaf in dim if leaf not in features]
            heads = tuple(leaf for leaf in rest if weights.scores.product.role(leaf) == "batch")
            if len(rest) == len(dim) or (not heads and len(dims) > 3):
                continue
            if set(heads) != set(leaves([node.heads])):
                call = attention_call(weights, met.value, met.output, heads)
                self._tell.corrected(node.number, call, Layout.of(weights, met.turned, heads))
            return replace(node, heads=heads, met=None if heads else met)
        return node

    def _permuted(self, op: Operation) -> After | None:
        node = self._known.get(op.args[0])
        if node is None:
            return None
        dims = tuple(node.dims[dim] for dim in order_of(op))
        return lambda result: self._put(result, replace(node, dims=dims))

    def _copied(self, op: Operation) -> After | None:
        node = self._known.get(op.args[0])
        return None if node is None else lambda result: self._put(first(result), node)

    def _multiplied_matrices(self, op: Operation) -> After | None:
        """`mm`, `addmm`, `bmm` or `linear`: a projection, if it is over heads and features."""
        left, right = op.args[1:3] if op.name == "addmm" else op.args[:2]
        node = self._known.get(left)
        if not isinstance(node, Output) or self._known.get(right) is not None:
            return None
        if op.kwargs.get("alpha", 1) != 1:
            return None
        heads = leaves([node.heads])
        if leaves(node.dims[-1:]) != heads + leaves([node.features]):
            return None
        matrix = right.t() if op.name == "linear" else _one(right)
        if matrix is None:
            return None
        count, made = math.prod(head.size for head in heads), Axis(matrix.shape[1])
        weight = matrix.detach().view(count, -1, made.size)
        found = Projected(node.number, (*node.dims[:-1], (made,)), made)

        def after(result: Tensor) -> None:
            self._tell.projected(node.number, weight)
            self._put(result, found)

        return after

    def _added(self, op: Operation) -> After | None:
        """The bias of a projection."""
        found = self._over_features(op)
        return None if found is None else lambda result: self._put(result, found[0])

    def _multiplied(self, op: Operation) -> After | None:
        """A LayerScale (Touvron et al., 2103.17239)."""
        found = self._over_features(op)
        if found is not None:
            node, tensor, factors = found
            self._tell.scaled(node.number, factors.detach().flatten())
            self._known.forget(tensor)
        return None

    def _over_features(self, op: Operation) -> tuple[Projected, Tensor, Tensor] | None:
        """What a projection made, and a vector over its features beside it, in any order."""
        for tensor, operand in (op.args[:2], op.args[1::-1]):
            node = self._known.get(tensor)
            if isinstance(node, Projected) and _is_over(operand, node):
                return node, tensor, operand
        return None


def _secured(node: Output | Projected, written: Tensor) -> Output | Projected:
    """A node, with copies of what it knows in memory that is about to be overwritten."""
    if isinstance(node, Projected) or node.met is None:
        return node
    met = node.met
    value, output = own(met.value, written), own(met.output, written)
    weights = secured(met.weights, written)
    return replace(node, met=replace(met, weights=weights, value=value, output=output))


def _one(right: Tensor) -> Tensor | None:
    """The one matrix that a product takes for the whole batch."""
    if right.ndim == 2:
        return right
    if len(right) > 1:
        return right[0] if right.stride(0) == 0 else None
    base = right._base  # noqa: SLF001 — what a view is of: of a batch of one it may be keys
    return right[0] if isinstance(base, nn.Parameter) else None


def _is_over(operand: Any, node: Projected) -> bool:
    """Whether an operand is a vector over the features of a projection."""
    if not isinstance(operand, Tensor) or operand.numel() != node.features.size:
        return False
    shape = (1,) * (len(node.dims) - operand.ndim) + tuple(operand.shape)
    features = leaves([(node.features,)])
    return len(shape) == len(node.dims) and all(
        size == 1 or leaves([dim]) == features for size, dim in zip(shape, node.dims, strict=True)
    )


_HANDLERS: dict[str, Callable[[Outputs, Operation], After | None]] = {
    name: handler
    for names, handler in {
        "view _unsafe_view unsqueeze squeeze expand": Outputs._viewed,  # noqa: SLF001
        "permute transpose t": Outputs._permuted,  # noqa: SLF001
        "clone detach alias _to_copy native_dropout": Outputs._copied,  # noqa: SLF001
        "mm bmm addmm linear": Outputs._multiplied_matrices,  # noqa: SLF001
        "add add_": Outputs._added,  # noqa: SLF001
        "mul mul_": Outputs._multiplied,  # noqa: SLF001
    }.items()
    for name in names.split()
}
"""By the name of the operator."""
