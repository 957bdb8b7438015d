"""Follows the scores of a matrix product through all changes up to its product with values.

Every matrix product may be q·kᵀ. The tracker follows it through views, scaling, biases and masks
to a softmax. It never guesses. If it does not understand a change of the scores, it stores the
difference as their bias.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attnviz.recording.axes import Axis, Dims, leaves, regroup, sizes
from attnviz.recording.explicit_weights import ExplicitWeights
from attnviz.recording.operation import After, Operation, by_names, first, order_of
from attnviz.recording.products import Scores
from attnviz.recording.score_graph import (
    Elementwise,
    Exponentials,
    Node,
    NotAttention,
    Weights,
    altered,
    cloned_if_aliased,
    explicit_weights,
    is_spread,
    varies_along,
)
from attnviz.recording.tensor_registry import TensorRegistry

Nodes = list[Node | None]
_LONGEST = 12
"""If a product has more changes than this, it is not attention."""
_REORDERING = frozenset(
    ["sort", "topk", "flip", "roll", "gather", "index", "index_select", "scatter", "cumsum"]
)
"""Operators after which a weight is no longer at its key's place."""


class ScoreTracker:
    """Follows scores in a stream of operations, up to their softmax."""

    handlers: ClassVar[dict[str, Callable[[Any, Operation, Nodes], After | None]]] = {}
    """Handlers by operator name."""

    def __init__(self) -> None:
        self._nodes: TensorRegistry[Node] = TensorRegistry()

    def before(self, op: Operation) -> After | None:
        """The function to call with the result of an operation that is about to run."""
        for tensor in op.written:  # the output of a fast path overwrites its own queries
            self._nodes.change_all(partial(cloned_if_aliased, written=tensor))
        nodes = [self._nodes.get(argument) for argument in op.args]
        handler = self.handlers.get(op.name)
        after = None if handler is None else handler(self, op, nodes)
        if after is None:
            node = next((node for node in nodes if node is not None), None)
            if node is None and len(op.flat) != len(op.args):  # in lists or keyword arguments
                others = map(self._nodes.get, op.flat)
                node = next((node for node in others if node is not None), None)
            after = None if node is None else self._unfollowed(op, node)
        for tensor in op.written:
            # If the handler knows the new content, it puts the right node after the operation.
            for place, node in self._nodes.of_storage(tensor):
                self._nodes.change(tensor, place, altered(node, op.name))
        return after

    def _unfollowed(self, op: Operation, node: Node) -> After | None:
        """For an operation without a handler: elements may change, but each keeps its place."""
        if isinstance(node, Exponentials) and node.scores is not None and node.summed is None:
            node = explicit_weights(replace(node.scores, dims=node.dims, operator="exp"))
            return partial(self._put_explicit, op, replace(node, kind="exponential"), keep=True)
        if isinstance(node, ExplicitWeights) and not node.tokens:
            return None
        if isinstance(node, Weights | ExplicitWeights):
            node = explicit_weights(node)
            return partial(self._put_explicit, op, node)
        changed = altered(node, op.name)
        if isinstance(node, NotAttention) and op.func.is_view:
            return lambda result: self._put_each(result, node)
        if not op.is_pointwise or not isinstance(changed, Scores):
            return None
        return lambda result: self._put_if(first(result), changed)

    def _put_explicit(
        self, op: Operation, node: ExplicitWeights, result: Any, *, keep: bool = False
    ) -> None:
        """Put the nodes of results that were computed from weights; `keep` their kind."""
        before = next((t.shape for t in op.flat if self._nodes.get(t) is not None), None)
        if op.name == "expand" and before is not None:  # it may add dimensions in front
            new = result.ndim - len(before)
            before, node = (*[1] * new, *before), replace(node, dims=(*[()] * new, *node.dims))
        if op.name in _REORDERING or before is None:
            self._put_each(result, _unreadable(node, f"weights whose keys are moved by {op.name}"))
            return
        for each in result if isinstance(result, tuple | list) else (result,):
            if not isinstance(each, Tensor) or not each.is_floating_point():
                continue
            if each.shape == before and not op.func.is_view:
                self._nodes.put(each, node if keep else node.altered(op.name))
            elif each.ndim == len(node.dims) == len(before):
                self._nodes.put(each, node.moved(before, each.shape, op.name))
            else:
                reason = f"weights that {op.name} altered before their values"
                self._nodes.put(each, _unreadable(node, reason))

    def _put_each(self, result: Any, node: NotAttention) -> None:
        """Put the same node for all results of an operation."""
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor):
                self._nodes.put(each, node)

    def _put(self, result: Any, node: Node) -> None:
        """Put the node of a tensor that is new or whose memory has new content."""
        self._nodes.forget(first(result))
        self._nodes.put(first(result), node)

    def _put_if(self, result: Any, node: Scores) -> None:
        """Put the node of a result if it has the same shape."""
        if isinstance(result, Tensor) and sizes(node.dims) == tuple(result.shape):
            self._nodes.put(result, node)

    # Handlers: each takes the nodes of the arguments, and returns the function that puts the node
    # of the result. None means that the handler does not apply.

    def _viewed(self, op: Operation, nodes: Nodes) -> After | None:
        """A view that keeps the order of the elements."""
        node = nodes[0]
        if node is None:
            return None

        def after(result: Tensor) -> None:
            if isinstance(node, NotAttention):
                self._nodes.put(result, node)
                return
            dims = regroup(node.dims, result.shape)
            if dims is not None:
                self._nodes.put(result, replace(node, dims=dims))
            elif isinstance(node, Weights) or (isinstance(node, ExplicitWeights) and node.tokens):
                self._put_explicit(op, explicit_weights(node), result)

        return after

    def _permuted(self, op: Operation, nodes: Nodes) -> After | None:
        """`permute`, `transpose` or `t`."""
        node = nodes[0]
        if node is None or isinstance(node, NotAttention):
            return self._copied(op, nodes)
        dims = tuple(node.dims[dim] for dim in order_of(op))
        return lambda result: self._nodes.put(result, replace(node, dims=dims))

    def _copied(self, _: Operation, nodes: Nodes) -> After | None:
        """The same elements, perhaps with another dtype."""
        node = nodes[0]
        return None if node is None else lambda result: self._nodes.put(first(result), node)

    def _multiplied(self, op: Operation, nodes: Nodes) -> After | None:
        left, right = op.args[:2]
        if not isinstance(left, Tensor) or not isinstance(right, Tensor):
            return self._scaled(op, nodes)
        for node, tensor, operand in ((nodes[0], left, right), (nodes[1], right, left)):
            if isinstance(node, Scores | Weights | ExplicitWeights):
                if not op.written and is_spread(tensor, operand):
                    return self._spread(node, tensor, operand)
                return self._scaled(op, nodes)
            if isinstance(node, NotAttention) and node.reason:
                return lambda result: self._put_each(result, node)
        pairs = left.ndim == right.ndim > 2 and left.shape != right.shape
        return self._spread(None, left, right) if pairs and not op.written else None

    def _scaled(self, op: Operation, nodes: Nodes) -> After | None:
        """Scores times an operand, or an elementwise product times a number."""
        for node, tensor, operand in zip(nodes, op.args, op.args[::-1], strict=False):
            if isinstance(node, Scores):
                return self._changed(node, tensor, "times", operand)
            if isinstance(node, Elementwise) and not isinstance(operand, Tensor):
                scaled = replace(node, factor=node.factor * float(operand))
                return lambda result: self._put(result, scaled)
        return None

    def _spread(
        self, node: Scores | Weights | ExplicitWeights | None, left: Tensor, right: Tensor
    ) -> After:
        """An elementwise product of two tensors, one of which is repeated along some dimensions."""

        def after(result: Tensor) -> None:
            axes: Dims = tuple((Axis(size),) for size in result.shape)
            missing = result.ndim - left.ndim
            if node is not None:  # where the weights differ, the axes are theirs
                known = node.dims
                axes = tuple(
                    known[dim - missing]
                    if dim >= missing and varies_along(left, dim - missing)
                    else each
                    for dim, each in enumerate(axes)
                )
            self._put(result, Elementwise(axes, axes, left.detach(), right.detach(), node))

        return after

    def _added(self, op: Operation, nodes: Nodes) -> After | None:
        by = op.kwargs.get("alpha", 1)
        by = -by if op.name.startswith("sub") else by
        if isinstance(nodes[0], Scores):
            operand = op.args[1] if by == 1 else op.args[1] * by
            return self._changed(nodes[0], op.args[0], "plus", operand)
        if isinstance(nodes[1], Scores) and by == 1:
            return self._changed(nodes[1], op.args[1], "plus", op.args[0])
        if isinstance(nodes[0], Weights) and by == 1:
            biased = self._mixing_bias(nodes[0], op.args[1])
            if biased is not None:
                return biased
        if isinstance(nodes[0], Weights | ExplicitWeights) and isinstance(
            nodes[1], Weights | ExplicitWeights
        ):
            return partial(self._put_explicit, op, explicit_weights(nodes[0]))
        return None

    def _mixing_bias(self, node: Weights, bias: Any) -> After | None:
        """The bias of a linear layer over heads."""
        mixing = node.mixing
        if mixing is None or mixing.bias is not None or not isinstance(bias, Tensor):
            return None
        if leaves(node.dims[-1:]) != leaves([mixing.heads]) or bias.ndim != 1:
            return None
        biased = replace(node, mixing=replace(mixing, bias=bias.detach()))
        return lambda result: self._put(result, biased)

    def _masked(self, op: Operation, nodes: Nodes) -> After | None:
        """`masked_fill` with −∞."""
        tensor, mask, value = op.args[:3]
        if not isinstance(nodes[0], Scores) or float(value) != -torch.inf:
            return None
        bias = torch.zeros_like(mask, dtype=tensor.dtype).masked_fill_(mask, -torch.inf)
        return self._changed(nodes[0], tensor, "plus", bias)

    def _changed(
        self, node: Scores, tensor: Tensor, kind: Literal["times", "plus"], operand: Any
    ) -> After | None:
        """Scores are multiplied with an operand, or an operand is added to them."""
        if isinstance(operand, Tensor) and operand.ndim == 0:
            operand = float(operand.detach())
        linear = not node.product.batch and tensor.ndim > 2  # a linear layer's output, most likely
        if isinstance(operand, Tensor) and (operand.ndim > tensor.ndim or linear):
            return nothing
        changed = node.changed(kind, operand)
        if len(changed.changes) > _LONGEST:
            return nothing

        def after(result: Tensor) -> None:
            if result.data_ptr() == tensor.data_ptr():
                self._nodes.forget(result)
            self._put_if(result, changed)

        return after


def _unreadable(node: ExplicitWeights, reason: str) -> NotAttention:
    """The node of weights that cannot be followed; those of a linear layer may be of experts."""
    of_tokens = node.product is not None and node.product.batch
    return NotAttention(reason if of_tokens else "")


def nothing(_: Any) -> None:
    """Put no node for the result."""


ScoreTracker.handlers = by_names(
    {
        "view _unsafe_view unsqueeze squeeze expand": ScoreTracker._viewed,  # noqa: SLF001
        "permute transpose t": ScoreTracker._permuted,  # noqa: SLF001
        "clone detach alias _to_copy native_dropout": ScoreTracker._copied,  # noqa: SLF001
        "mul mul_": ScoreTracker._multiplied,  # noqa: SLF001
        "add add_ sub sub_": ScoreTracker._added,  # noqa: SLF001
        "masked_fill masked_fill_": ScoreTracker._masked,  # noqa: SLF001
    }
)
