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

from attnviz.recording.axes import leaves, regroup, sizes
from attnviz.recording.operation import After, Operation, by_names, first, order_of
from attnviz.recording.score_graph import (
    Exponentials,
    Node,
    NotAttention,
    Scores,
    Weights,
    altered,
    cloned_if_aliased,
)
from attnviz.recording.tensor_registry import TensorRegistry
from attnviz.recording.to_call import softmax_of

Nodes = list[Node | None]
_LONGEST = 12
"""If a product has more changes than this, it is not attention."""


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
        changed = altered(node, op.name)
        if isinstance(node, Weights) and not op.is_pointwise:
            reason = f"a softmax(q·kᵀ) altered by {op.name} before its values"
            return lambda result: self._put_each(result, NotAttention(reason))
        if isinstance(node, NotAttention) and op.func.is_view:
            return lambda result: self._put_each(result, node)
        if not op.is_pointwise or not isinstance(changed, Scores | Weights):
            return None
        return lambda result: self._put_if(first(result), changed)

    def _put_each(self, result: Any, node: NotAttention) -> None:
        """Put the same node for all results of an operation."""
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor):
                self._nodes.put(each, node)

    def _put(self, result: Any, node: Node) -> None:
        """Put the node of a tensor that is new or whose memory has new content."""
        self._nodes.forget(first(result))
        self._nodes.put(first(result), node)

    def _put_if(self, result: Any, node: Scores | Weights) -> None:
        """Put the node of a result if it has the same shape."""
        if isinstance(result, Tensor) and sizes(node.dims) == tuple(result.shape):
            self._nodes.put(result, node)

    # Handlers: each takes the nodes of the arguments, and returns the function that puts the node
    # of the result. None means that the handler does not apply.

    def _viewed(self, _: Operation, nodes: Nodes) -> After | None:
        """A view that keeps the order of the elements."""
        node = nodes[0]
        if node is None:
            return None

        def after(result: Tensor) -> None:
            if isinstance(node, NotAttention):
                self._nodes.put(result, node)
                return
            dims = regroup(node.dims, result.shape)
            if dims is None:
                return
            self._nodes.put(result, replace(node, dims=dims))

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
        for node, tensor, operand in zip(nodes, op.args, op.args[::-1], strict=False):
            if isinstance(node, Scores):
                return self._changed(node, tensor, "times", operand)
        return None

    def _exponentiated(self, _: Operation, nodes: Nodes) -> After | None:
        """Exp of scores: this may be the start of a softmax that the model computes itself."""
        node = nodes[0]
        if not isinstance(node, Scores):
            return None
        return lambda result: self._put(result, Exponentials(node, node.dims, object()))

    def _summed(self, op: Operation, nodes: Nodes) -> After | None:
        """The sum of exponentials along one dimension, with keepdim."""
        node, dims = nodes[0], op.get(1, "dim")
        if not isinstance(node, Exponentials) or node.summed is not None:
            return None
        dim = dims[0] if isinstance(dims, list | tuple) and len(dims) == 1 else dims
        if not isinstance(dim, int) or not op.get(2, "keepdim", False):
            return None
        sums = replace(node, summed=dim % op.args[0].ndim)
        return lambda result: self._nodes.put(result, sums)

    def _normalised(self, op: Operation, nodes: Nodes) -> After | None:
        """Exponentials divided by their sum: a softmax that the model computes itself."""
        above, below = nodes[:2]
        if not isinstance(above, Exponentials) or above.summed is not None:
            return None
        if not isinstance(below, Exponentials) or below.summed is None:
            return None
        if above.mark is not below.mark:
            return None
        return self._softmax_of(op.args[0].log(), above.scores, below.summed)

    def _divided(self, op: Operation, nodes: Nodes) -> After | None:
        after = self._normalised(op, nodes)
        if after is not None:
            return after
        if not isinstance(nodes[0], Scores) or op.kwargs.get("rounding_mode"):
            return None
        return self._changed(nodes[0], op.args[0], "times", 1 / op.args[1])

    def _added(self, op: Operation, nodes: Nodes) -> After | None:
        by = op.kwargs.get("alpha", 1)
        by = -by if op.name.startswith("sub") else by
        if isinstance(nodes[0], Scores):
            operand = op.args[1] if by == 1 else op.args[1] * by
            return self._changed(nodes[0], op.args[0], "plus", operand)
        if isinstance(nodes[1], Scores) and by == 1:
            return self._changed(nodes[1], op.args[1], "plus", op.args[0])
        if isinstance(nodes[0], Weights) and by == 1:
            return self._mixing_bias(nodes[0], op.args[1])
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

    def _softmax(self, op: Operation, nodes: Nodes) -> After | None:
        return self._softmax_of(op.args[0], nodes[0], op.args[1])

    def _softmax_of(self, tensor: Tensor, node: Node | None, dim: int) -> After:
        weights = softmax_of(node, tensor, dim) if isinstance(node, Scores) else None
        result_node = weights or NotAttention("a softmax over something else than products q·kᵀ")
        return lambda result: self._put(result, result_node)

    def _masked_softmax(self, op: Operation, nodes: Nodes) -> After | None:
        """The fast paths' masked softmax: True masks out; mask type 1 is a mask of (B, Nk)."""
        node, mask = nodes[0], op.args[1]
        if isinstance(node, Scores):
            if op.get(3, "mask_type") == 1 and mask.ndim == 2:
                mask = mask[:, None, None]
            bias = torch.zeros_like(mask, dtype=torch.float32)
            node = node.changed("plus", bias.masked_fill_(mask.bool(), -torch.inf))
        dim = op.get(2, "dim")
        return self._softmax_of(op.args[0], node, -1 if dim is None else dim)


def nothing(_: Any) -> None:
    """Put no node for the result."""


ScoreTracker.handlers = by_names(
    {
        "view _unsafe_view unsqueeze squeeze expand": ScoreTracker._viewed,  # noqa: SLF001
        "permute transpose t": ScoreTracker._permuted,  # noqa: SLF001
        "clone detach alias _to_copy native_dropout": ScoreTracker._copied,  # noqa: SLF001
        "mul mul_": ScoreTracker._multiplied,  # noqa: SLF001
        "div div_": ScoreTracker._divided,  # noqa: SLF001
        "exp exp_": ScoreTracker._exponentiated,  # noqa: SLF001
        "sum": ScoreTracker._summed,  # noqa: SLF001
        "add add_ sub sub_": ScoreTracker._added,  # noqa: SLF001
        "masked_fill masked_fill_": ScoreTracker._masked,  # noqa: SLF001
        "_softmax _safe_softmax softmax": ScoreTracker._softmax,  # noqa: SLF001
        "_masked_softmax": ScoreTracker._masked_softmax,  # noqa: SLF001
    }
)
