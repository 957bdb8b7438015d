"""Finds attention that a model computes itself, softmax(q·kᵀ)·v, operation by operation.

`score_tracker.py` follows every matrix product to a softmax, `values_tracker.py` follows that to a
product with values, and `output_tracker.py` to the view that puts heads side by side. This tracker
tells what a matrix product is: q·kᵀ, weights times values, or a mixing of heads.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from attnviz.recording.axes import Axis, leaves
from attnviz.recording.explicit_weights import ExplicitWeights
from attnviz.recording.operation import After, Operation, by_names
from attnviz.recording.output_nodes import Output
from attnviz.recording.products import Axes, Product, Scores
from attnviz.recording.score_graph import (
    Elementwise,
    Exponentials,
    Mixing,
    Node,
    NotAttention,
    Weights,
    batched,
)
from attnviz.recording.score_tracker import Nodes, nothing
from attnviz.recording.to_call import mixed_scores
from attnviz.recording.value_sums import is_parameter, spread
from attnviz.recording.values_tracker import MEMORY, ValuesTracker

LINEAR = "linear attention, q·(kᵀ·v), which has no weights over tokens"


class AttentionTracker(ValuesTracker):
    """Finds attention in a stream of operations."""

    def _multiplied_matrices(self, op: Operation, nodes: Nodes) -> After | None:
        """`bmm` or `mm`."""
        left, right = (m if m.ndim == 3 else m[None] for m in op.args[:2])
        nodes = [node if op.name == "bmm" else batched(node) for node in nodes[:2]]
        foreign = next((node for node in nodes if isinstance(node, NotAttention)), None)
        if foreign is not None and foreign.reason:
            self._listener.unread(foreign.reason)
            return nothing
        if self._is_linear(op, nodes):
            self._listener.unread(LINEAR)
            return nothing
        after = self._weigh(op, nodes[0], left, right, turned=False)
        if after is None:
            turned = _swapped(nodes[1])
            after = self._weigh(op, turned, right.mT, left.mT, turned=True)
        if after is None and (len(right) == 1 or right.stride(0) == 0):  # one matrix for all
            after = self._mixed(nodes[0], op.args[1], None)
        if after is None and (len(left) == 1 or left.stride(0) == 0):
            after = self._mixed(_swapped(nodes[1]), op.args[0], None, swapped=True)
        if after is None and any(_is_of_tokens(node) for node in nodes):
            self._listener.unread(
                "a softmax(q·kᵀ) over other tokens than its values are summed over"
            )
        return after or self._product(op, left, right)

    def _is_linear(self, op: Operation, nodes: Nodes) -> bool:
        """Whether this is φ(q)·(φ(k)ᵀ·v): a product with one that was summed over tokens."""
        left, right = nodes[:2]
        if isinstance(left, Scores | Weights):
            return False
        if isinstance(right, Scores):
            return self._sums_over_tokens(op, right)
        output = self._outputs.node_of(op.args[1])
        if not isinstance(output, Output) or output.weighted is None or not output.queries:
            return False
        explicit = output.weighted.weights.explicit is not None
        if not explicit or leaves(output.dims[-2:-1]) != leaves([output.queries]):
            return False
        self._listener.dropped(output.number)
        return True

    def _sums_over_tokens(self, op: Operation, right: Scores) -> bool:
        """Whether a product, φ(k)ᵀ·v, meets the rows of queries at tokens."""
        product = right.product
        over_queries = leaves(right.dims[1:2]) == leaves([product.queries]) != []
        if not over_queries or not product.batch or product.learned:
            return False
        if not self._listener.traced:
            return True
        of_tokens = spread(self._listener.places(op.args[0], -1)) in ("different", "lost")
        return of_tokens and spread(product.query_places) != "different"

    def _shifted_product(self, op: Operation, nodes: Nodes) -> After | None:
        """`baddbmm`, beta·bias + alpha·(q·kᵀ), or `addmm`, the same for matrices."""
        bias, left, right = op.args[:3]
        beta, alpha = op.kwargs.get("beta", 1), op.kwargs.get("alpha", 1)
        if any(isinstance(node, Weights) for node in nodes[1:3]) and op.name == "baddbmm":
            self._listener.unread("a softmax(q·kᵀ) whose product with values is added to a tensor")
            return nothing
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
            learned=is_parameter(op.args[-1]) or is_parameter(op.args[-2]),
        )
        return Scores(product, product.dims)

    def _mixed(
        self, node: Node | None, factor: Tensor, bias: Tensor | None, *, swapped: bool = False
    ) -> After | None:
        """A linear layer over heads, (heads, new heads), before or after the softmax.

        `swapped` means that the last two dimensions of its result are in the other order, and that
        the factor is (new heads, heads).
        """
        turn = _swapped if swapped else _as_it_is
        right = factor[0] if factor.ndim == 3 else factor
        right = right.T if swapped else right
        if isinstance(node, ExplicitWeights):
            return self._mixed_explicit(node, factor, right.shape[1], turn)
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

    def _mixed_explicit(
        self, node: ExplicitWeights, factor: Tensor, count: int, turn: Any
    ) -> After | None:
        """The same of weights that are no softmax of q·kᵀ; `count` is the number of new heads."""
        heads: Axes = (Axis(count),)
        if not node.tokens or leaves(node.dims[-1:]) not in map(_leaves, node.lead):
            return None
        if node.product is None and len(node.lead) < 3:  # no heads, but perhaps rows of a memory
            if self._listener.places(factor, -1) is not None:
                return None
            self._listener.unread(MEMORY)
            return nothing
        mixed = replace(node.renamed(node.dims[-1], heads), dims=(*node.dims[:-1], heads))
        return lambda result: self._put(result, turn(mixed.altered("bmm")))


def _swapped(node: Any) -> Any:
    """A node with its last two dimensions in the other order."""
    if not isinstance(node, Scores | Weights | ExplicitWeights | Elementwise | Exponentials):
        return node
    if len(node.dims) < 2:
        return None
    *rest, a, b = node.dims
    return replace(node, dims=(*rest, b, a))


def _is_of_tokens(node: Node | None) -> bool:
    """Whether these are weights over tokens; a linear layer's softmax may be over experts."""
    return isinstance(node, Weights) and bool(node.scores.product.batch)


def _leaves(axes: Axes) -> list[Axis]:
    return leaves([axes])


def _as_it_is(node: Any) -> Any:
    return node


AttentionTracker.handlers = ValuesTracker.handlers | by_names(
    {
        "bmm mm": AttentionTracker._multiplied_matrices,  # noqa: SLF001
        "baddbmm addmm": AttentionTracker._shifted_product,  # noqa: SLF001
    }
)
