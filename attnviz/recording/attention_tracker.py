"""Finds attention that a model computes itself, softmax(q·kᵀ)·v, operation by operation.

Every matrix product may be q·kᵀ. The tracker follows it through views, scaling, biases and masks
to a softmax, then to a product with values, and then to the view that puts heads side by side.
It never guesses. If it does not understand a change of the scores, it stores the difference as
their bias. If something changed the weights, it reports the attention as unread.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import Trace
from attnviz.recording.axes import Axis, leaves, regroup
from attnviz.recording.operation import After, Operation, by_names, first, node_of, order_of
from attnviz.recording.output_nodes import WeightedValues
from attnviz.recording.output_tracker import Outputs
from attnviz.recording.score_graph import (
    Exponentials,
    Mixing,
    Node,
    NotAttention,
    Product,
    Scores,
    Weights,
    altered,
    batched,
    cloned_if_aliased,
)
from attnviz.recording.tensor_registry import TensorRegistry
from attnviz.recording.to_call import (
    OutputLayout,
    attention_call,
    mixed_scores,
    output_places,
    softmax_of,
)

Places = Callable[[Tensor, int], Tensor | None]
"""Positions of a tensor's tokens after averaging over one of its dimensions; None: unknown."""
_LONGEST = 12
"""If a product has more changes than this, it is not attention."""


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


class AttentionTracker:
    """Finds attention in a stream of operations."""

    def __init__(self, listener: CallListener, outputs: Outputs) -> None:
        self._listener, self._outputs = listener, outputs
        self._nodes: TensorRegistry[Node] = TensorRegistry()

    def before(self, op: Operation) -> After | None:
        """The function to call with the result of an operation that is about to run."""
        for tensor in op.written:  # the output of a fast path overwrites its own queries
            self._nodes.change_all(partial(cloned_if_aliased, written=tensor))
        nodes = [self._nodes.get(argument) for argument in op.args]
        handler = _HANDLERS.get(op.name)
        after = None if handler is None else handler(self, op, nodes)
        if after is None:
            node = next((node for node in nodes if node is not None), None)
            if node is None and len(op.flat) != len(op.args):  # in lists or keyword arguments
                found = map(self._nodes.get, op.flat)
                node = next((node for node in found if node is not None), None)
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
        if isinstance(result, Tensor) and node.shape == tuple(result.shape):
            self._nodes.put(result, node)

    # Handlers: each takes the nodes of the arguments, and returns the function that puts the node
    # of the result. None means that the handler does not apply.

    def _viewed(self, _: Operation, nodes: "Nodes") -> After | None:
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

    def _permuted(self, op: Operation, nodes: "Nodes") -> After | None:
        """`permute`, `transpose` or `t`."""
        node = nodes[0]
        if node is None or isinstance(node, NotAttention):
            return self._copied(op, nodes)
        dims = tuple(node.dims[dim] for dim in order_of(op))
        return lambda result: self._nodes.put(result, replace(node, dims=dims))

    def _copied(self, _: Operation, nodes: "Nodes") -> After | None:
        """The same elements, perhaps with another dtype."""
        node = nodes[0]
        return None if node is None else lambda result: self._nodes.put(first(result), node)

    def _multiplied(self, op: Operation, nodes: "Nodes") -> After | None:
        for node, tensor, operand in zip(nodes, op.args, op.args[::-1], strict=False):
            if isinstance(node, Scores):
                return self._changed(node, tensor, "times", operand)
        return None

    def _exponentiated(self, _: Operation, nodes: "Nodes") -> After | None:
        """Exp of scores: this may be the start of a softmax that the model computes itself."""
        node = nodes[0]
        if not isinstance(node, Scores):
            return None
        return lambda result: self._put(result, Exponentials(node, node.dims, object()))

    def _summed(self, op: Operation, nodes: "Nodes") -> After | None:
        """The sum of exponentials along one dimension, with keepdim."""
        node, dims = nodes[0], op.get(1, "dim")
        if not isinstance(node, Exponentials) or node.summed is not None:
            return None
        dim = dims[0] if isinstance(dims, list | tuple) and len(dims) == 1 else dims
        if not isinstance(dim, int) or not op.get(2, "keepdim", False):
            return None
        found = replace(node, summed=dim % op.args[0].ndim)
        return lambda result: self._nodes.put(result, found)

    def _normalised(self, op: Operation, nodes: "Nodes") -> After | None:
        """Exponentials divided by their sum: a softmax that the model computes itself."""
        above, below = nodes[:2]
        if not isinstance(above, Exponentials) or above.summed is not None:
            return None
        if not isinstance(below, Exponentials) or below.summed is None:
            return None
        if above.mark is not below.mark:
            return None
        return self._softmax_of(op.args[0].log(), above.scores, below.summed)

    def _divided(self, op: Operation, nodes: "Nodes") -> After | None:
        after = self._normalised(op, nodes)
        if after is not None:
            return after
        if not isinstance(nodes[0], Scores) or op.kwargs.get("rounding_mode"):
            return None
        return self._changed(nodes[0], op.args[0], "times", 1 / op.args[1])

    def _added(self, op: Operation, nodes: "Nodes") -> After | None:
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
        found = replace(node, mixing=replace(mixing, bias=bias.detach()))
        return lambda result: self._put(result, found)

    def _masked(self, op: Operation, nodes: "Nodes") -> After | None:
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
            return _nothing
        changed = node.changed(kind, operand)
        if len(changed.changes) > _LONGEST:
            return _nothing

        def after(result: Tensor) -> None:
            if result.data_ptr() == tensor.data_ptr():
                self._nodes.forget(result)
            self._put_if(result, changed)

        return after

    def _softmax(self, op: Operation, nodes: "Nodes") -> After | None:
        return self._softmax_of(op.args[0], nodes[0], op.args[1])

    def _softmax_of(self, tensor: Tensor, node: Node | None, dim: int) -> After:
        weights = softmax_of(node, tensor, dim) if isinstance(node, Scores) else None
        found = weights or NotAttention("a softmax over something else than products q·kᵀ")
        return lambda result: self._put(result, found)

    def _masked_softmax(self, op: Operation, nodes: "Nodes") -> After | None:
        """The fast paths' masked softmax: True masks out; mask type 1 is a mask of (B, Nk)."""
        node, mask = nodes[0], op.args[1]
        if isinstance(node, Scores):
            if op.get(3, "mask_type") == 1 and mask.ndim == 2:
                mask = mask[:, None, None]
            bias = torch.zeros_like(mask, dtype=torch.float32)
            node = node.changed("plus", bias.masked_fill_(mask.bool(), -torch.inf))
        dim = op.get(2, "dim")
        return self._softmax_of(op.args[0], node, -1 if dim is None else dim)

    def _multiplied_matrices(self, op: Operation, nodes: "Nodes") -> After | None:
        """`bmm` or `mm`."""
        left, right = (m if m.ndim == 3 else m[None] for m in op.args[:2])
        nodes = [node if op.name == "bmm" else batched(node) for node in nodes[:2]]
        foreign = next((node for node in nodes if isinstance(node, NotAttention)), None)
        if foreign is not None:
            self._listener.unread(foreign.reason)
            return _nothing
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

    def _shifted_product(self, op: Operation, nodes: "Nodes") -> After | None:
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
            return _nothing
        if weights.altered is not None:
            self._listener.unread(f"a softmax(q·kᵀ) altered by {weights.altered} before its values")
            return _nothing
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


Nodes = list[Node | None]


def _swapped(node: Any) -> Any:
    """A node with its last two dimensions in the other order."""
    if not isinstance(node, Scores | Weights) or len(node.dims) < 2:
        return None
    *rest, a, b = node.dims
    return replace(node, dims=(*rest, b, a))


def _as_it_is(node: Any) -> Any:
    return node


def _nothing(_: Any) -> None:
    """Put no node for the result."""


_HANDLERS: dict[str, Callable[[AttentionTracker, Operation, Nodes], After | None]] = by_names(
    {
        "view _unsafe_view unsqueeze squeeze expand": AttentionTracker._viewed,  # noqa: SLF001
        "permute transpose t": AttentionTracker._permuted,  # noqa: SLF001
        "clone detach alias _to_copy native_dropout": AttentionTracker._copied,  # noqa: SLF001
        "mul mul_": AttentionTracker._multiplied,  # noqa: SLF001
        "div div_": AttentionTracker._divided,  # noqa: SLF001
        "exp exp_": AttentionTracker._exponentiated,  # noqa: SLF001
        "sum": AttentionTracker._summed,  # noqa: SLF001
        "add add_ sub sub_": AttentionTracker._added,  # noqa: SLF001
        "masked_fill masked_fill_": AttentionTracker._masked,  # noqa: SLF001
        "_softmax _safe_softmax softmax": AttentionTracker._softmax,  # noqa: SLF001
        "_masked_softmax": AttentionTracker._masked_softmax,  # noqa: SLF001
        "bmm mm": AttentionTracker._multiplied_matrices,  # noqa: SLF001
        "baddbmm addmm": AttentionTracker._shifted_product,  # noqa: SLF001
    }
)
"""Handlers by operator name."""
