"""Finds attention that a model computes itself, softmax(q·kᵀ)·v, operation by operation.

`score_tracker.py` follows every matrix product to a softmax; this tracker follows that to a product
with values, and `output_tracker.py` to the view that puts heads side by side. If something changed
the weights, the tracker reports the attention as unread.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import Trace
from attnviz.recording.axes import Axis, leaves
from attnviz.recording.operation import After, Operation, by_names, node_of
from attnviz.recording.output_nodes import WeightedValues
from attnviz.recording.output_tracker import Outputs
from attnviz.recording.score_graph import (
    Mixing,
    Node,
    NotAttention,
    Product,
    Scores,
    Weights,
    batched,
)
from attnviz.recording.score_tracker import Nodes, ScoreTracker, nothing
from attnviz.recording.to_call import (
    OutputLayout,
    attention_call,
    mixed_scores,
    output_places,
)

Places = Callable[[Tensor, int], Tensor | None]
"""Positions of a tensor's tokens after averaging over one of its dimensions; None: unknown."""


@dataclass(frozen=True)
class CallListener:
    """The callbacks of an `AttentionTracker`.

    Attributes:
        found: receives a call, its output, the output's positions, and the call's trace; returns
            the call's number.
        unread: receives a description of something that looks like attention but cannot be read.
        places: returns the positions of tokens.
        of_channels: returns whether the features of a tensor are the tokens, as in attention over
            channels.
    """

    found: Callable[[AttentionCall, Tensor, Tensor | None, Trace], int]
    unread: Callable[[str], None]
    places: Places
    of_channels: Callable[[Tensor], bool]


class AttentionTracker(ScoreTracker):
    """Finds attention in a stream of operations."""

    def __init__(self, listener: CallListener, outputs: Outputs) -> None:
        super().__init__()
        self._listener, self._outputs = listener, outputs

    def _multiplied_matrices(self, op: Operation, nodes: Nodes) -> After | None:
        """`bmm` or `mm`."""
        left, right = (m if m.ndim == 3 else m[None] for m in op.args[:2])
        nodes = [node if op.name == "bmm" else batched(node) for node in nodes[:2]]
        foreign = next((node for node in nodes if isinstance(node, NotAttention)), None)
        if foreign is not None:
            self._listener.unread(foreign.reason)
            return nothing
        after = None
        if isinstance(nodes[0], Weights):
            after = self._weigh_values(op, nodes[0], right, turned=False)
        elif isinstance(nodes[1], Weights):
            b, m, n = nodes[1].dims
            turned = replace(nodes[1], dims=(b, n, m))
            after = self._weigh_values(op, turned, left.transpose(1, 2), turned=True)
        if after is None and (len(right) == 1 or right.stride(0) == 0):  # one matrix for all
            after = self._mixed(nodes[0], right[0], None)
        if after is None and (len(left) == 1 or left.stride(0) == 0):
            after = self._mixed(_swapped(nodes[1]), left[0].T, None, swapped=True)
        if after is None and any(isinstance(node, Weights) for node in nodes):
            self._listener.unread(
                "a softmax(q·kᵀ) over other tokens than its values are summed over"
            )
        return after or self._product(op, left, right)

    def _shifted_product(self, op: Operation, nodes: Nodes) -> After | None:
        """`baddbmm`, beta·bias + alpha·(q·kᵀ), or `addmm`, the same for matrices."""
        bias, left, right = op.args[:3]
        beta, alpha = op.kwargs.get("beta", 1), op.kwargs.get("alpha", 1)
        if op.name == "addmm":  # perhaps a linear layer over heads
            return self._mixed(nodes[1], right, bias) if beta == alpha == 1 else None
        scores = self._scores(op, left, right).changed("times", float(alpha))
        if beta != 0:
            scores = scores.changed("plus", bias if beta == 1 else bias * beta)
        return lambda result: self._put(result, scores)

    def _product(self, op: Operation, left: Tensor, right: Tensor) -> After:
        """A product that may be q·kᵀ."""
        scores = self._scores(op, left, right)
        if op.name == "mm":
            scores = replace(scores, dims=scores.dims[1:])
        return lambda result: self._put(result, scores)

    def _scores(self, op: Operation, left: Tensor, right: Tensor) -> Scores:
        flat = op.name == "mm"
        places = [self._listener.places(op.args[-2], -1), self._listener.places(op.args[-1], -2)]
        places = [p if p is None or not flat else p[None] for p in places]
        product = Product(
            query=left.detach(),
            key=right.detach().transpose(1, 2),
            batch=() if flat else (Axis(len(left)),),
            queries=(Axis(left.shape[1]),),
            keys=(Axis(right.shape[2]),),
            query_places=places[0],
            key_places=places[1],
            of_channels=self._listener.of_channels(op.args[-2]),
        )
        return Scores(product, product.dims)

    def _weigh_values(
        self, op: Operation, weights: Weights, value: Tensor, *, turned: bool
    ) -> After | None:
        """Weights, (b, n, m), are multiplied with their values, (b, m, Dv)."""
        if leaves(weights.dims[2:]) != leaves([weights.order.keys]):
            return None
        role = weights.scores.product.role
        if any(role(leaf) == "query" for leaf in leaves(weights.dims[:1])):
            self._listener.unread("a softmax(q·kᵀ) with other values for each query")
            return nothing
        if weights.altered is not None:
            self._listener.unread(f"a softmax(q·kᵀ) altered by {weights.altered} before its values")
            return nothing
        trace = Trace(op.name, node_of(op), OutputLayout.of(weights, turned))

        def after(result: Tensor) -> None:
            output = result.detach() if result.ndim == 3 else result.detach()[None]
            values = WeightedValues(
                weights, value.detach(), output.mT if turned else output, turned
            )
            call = attention_call(weights, values.value, values.output)
            places = (
                None
                if weights.scores.product.of_channels
                else output_places(weights, turned, result.ndim)
            )
            number = self._listener.found(call, result, places, trace)
            self._nodes.forget(result)
            self._outputs.by_hand(result, number, values)

        return after

    def _mixed(
        self, node: Node | None, right: Tensor, bias: Tensor | None, *, swapped: bool = False
    ) -> After | None:
        """A linear layer over heads, (heads, new heads), before or after the softmax.

        `swapped` means that the last two dimensions of its result are in the other order.
        """
        turn = _swapped if swapped else _as_it_is
        if not isinstance(node, Scores | Weights):
            return None
        heads = tuple(leaves(node.dims[-1:]))
        product = node.product if isinstance(node, Scores) else node.scores.product
        if not heads or any(product.role(leaf) != "batch" for leaf in heads):
            return None
        weight = right.detach().T
        if isinstance(node, Scores):
            scores = mixed_scores(node, weight, node.dims[:-1])
            if bias is not None:
                scores = scores.changed("plus", bias.detach())
            return lambda result: self._put(result, turn(scores))
        order = node.order.with_heads(heads)
        if node.mixing is not None or set(order.heads) != set(heads):
            return None
        new_heads = (Axis(len(weight)),)
        mixing = Mixing(weight, None if bias is None else bias.detach(), new_heads)
        mixed = replace(node, order=order, mixing=mixing, dims=(*node.dims[:-1], new_heads))
        return lambda result: self._put(result, turn(mixed))


def _swapped(node: Any) -> Any:
    """A node with its last two dimensions in the other order."""
    if not isinstance(node, Scores | Weights) or len(node.dims) < 2:
        return None
    *rest, a, b = node.dims
    return replace(node, dims=(*rest, b, a))


def _as_it_is(node: Any) -> Any:
    return node


AttentionTracker.handlers = ScoreTracker.handlers | by_names(
    {
        "bmm mm": AttentionTracker._multiplied_matrices,  # noqa: SLF001
        "baddbmm addmm": AttentionTracker._shifted_product,  # noqa: SLF001
    }
)
