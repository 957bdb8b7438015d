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

from attnviz.recording.axes import Axis, leaves, regroup, sizes
from attnviz.recording.operation import After, Operation, by_names, first, order_of
from attnviz.recording.score_graph import (
    Elementwise,
    Exponentials,
    Logarithm,
    Node,
    NotAttention,
    OwnWeights,
    Scores,
    Weights,
    altered,
    cloned_if_aliased,
    is_spread,
    own_weights,
    varies_along,
)
from attnviz.recording.tensor_registry import TensorRegistry
from attnviz.recording.to_call import softmax_of

Nodes = list[Node | None]
_LONGEST = 12
"""If a product has more changes than this, it is not attention."""
_REORDERING = frozenset("sort topk flip roll gather index index_select scatter cumsum".split())
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
            node = own_weights(replace(node.scores, dims=node.dims, operator="exp"))
            return partial(self._put_own, op, replace(node, kind="exponential"), keep=True)
        if isinstance(node, OwnWeights) and not node.tokens:
            return None
        if isinstance(node, Weights | OwnWeights):
            node = own_weights(node)
            return partial(self._put_own, op, node)
        changed = altered(node, op.name)
        if isinstance(node, NotAttention) and op.func.is_view:
            return lambda result: self._put_each(result, node)
        if not op.is_pointwise or not isinstance(changed, Scores):
            return None
        return lambda result: self._put_if(first(result), changed)

    def _put_own(
        self, op: Operation, node: OwnWeights, result: Any, *, keep: bool = False
    ) -> None:
        """Put the nodes of results that were computed from weights; `keep` their kind."""
        before = next((t.shape for t in op.flat if self._nodes.get(t) is not None), None)
        if op.name in _REORDERING or before is None:
            self._put_each(result, NotAttention(f"weights whose keys are moved by {op.name}"))
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
                self._nodes.put(each, NotAttention(reason))

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
            elif isinstance(node, Weights) or (isinstance(node, OwnWeights) and node.tokens):
                self._put_own(op, own_weights(node), result)

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
            node = next((node for node in nodes if node is not None), None)
            tensor, operand = (left, right) if node is nodes[0] else (right, left)
            if isinstance(node, Elementwise) and isinstance(tensor, Tensor):
                scaled = replace(node, factor=node.factor * float(operand))
                return lambda result: self._put(result, scaled)
            return self._changed(node, tensor, "times", operand) if isinstance(node, Scores) else None
        for node, tensor, operand in ((nodes[0], left, right), (nodes[1], right, left)):
            if isinstance(node, Scores | Weights | OwnWeights) and is_spread(tensor, operand):
                return self._spread(node, tensor, operand)
            if isinstance(node, Scores):
                return self._changed(node, tensor, "times", operand)
        if left.ndim == right.ndim > 2 and nodes == [None, None] and left.shape != right.shape:
            return self._spread(None, left, right)
        return None

    def _spread(
        self, node: Scores | Weights | OwnWeights | None, left: Tensor, right: Tensor
    ) -> After:
        """An elementwise product of two tensors, one of which is repeated along some dimensions."""

        def after(result: Tensor) -> None:
            axes = tuple((Axis(size),) for size in result.shape)
            missing = result.ndim - left.ndim
            if node is not None:  # where the weights differ, the axes are theirs
                own = node.dims
                axes = tuple(
                    own[dim - missing]
                    if dim >= missing and varies_along(left, dim - missing)
                    else each
                    for dim, each in enumerate(axes)
                )
            self._put(result, Elementwise(axes, axes, left.detach(), right.detach(), node))

        return after

    def _squashed(self, op: Operation, nodes: Nodes) -> After | None:
        """A sigmoid of anything but scores: it may be a gate, or weights."""
        if nodes[0] is not None:
            return None
        dims = tuple((Axis(size),) for size in op.args[0].shape)
        return lambda result: self._put(result, OwnWeights("sigmoid", dims, (), dims))

    def _exponentiated(self, op: Operation, nodes: Nodes) -> After | None:
        """Exp of scores: this may be the start of a softmax that the model computes itself."""
        node = nodes[0]
        if isinstance(node, Logarithm):
            return lambda result: self._put(result, replace(node.weights, dims=node.dims))
        if node is not None and not isinstance(node, Scores):
            return None
        dims = tuple((Axis(size),) for size in op.args[0].shape) if node is None else node.dims
        return lambda result: self._put(result, Exponentials(node, dims, object()))

    def _summed(self, op: Operation, nodes: Nodes) -> After | None:
        """The sum of exponentials along one dimension."""
        node, dims = nodes[0], op.get(1, "dim")
        if not isinstance(node, Exponentials) or node.summed is not None:
            return None
        dim = dims[0] if isinstance(dims, list | tuple) and len(dims) == 1 else dims
        if not isinstance(dim, int):
            return None
        dim %= op.args[0].ndim
        kept = ((),) if op.get(2, "keepdim", False) else ()
        left = (*node.dims[:dim], *kept, *node.dims[dim + 1 :])
        sums = replace(node, dims=left, summed=tuple(leaves([node.dims[dim]])))
        return lambda result: self._nodes.put(result, sums)

    def _normalised(self, op: Operation, nodes: Nodes) -> After | None:
        """Exponentials divided by their sum: a softmax that the model computes itself."""
        above, below = nodes[:2]
        if not isinstance(above, Exponentials) or above.summed is not None:
            return None
        if not isinstance(below, Exponentials) or below.summed is None:
            return None
        pairs = list(zip(above.dims, below.dims, strict=False))
        where = [n for n, (a, b) in enumerate(pairs) if leaves([a]) != leaves([b])]
        if above.mark is not below.mark or len(above.dims) != len(below.dims) or len(where) != 1:
            return None
        if tuple(leaves([above.dims[where[0]]])) != below.summed:
            return None
        node = above.scores
        node = None if node is None else replace(node, dims=above.dims)
        return self._softmax_of(op.args[0].log(), node, where[0])

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
            biased = self._mixing_bias(nodes[0], op.args[1])
            if biased is not None:
                return biased
        if isinstance(nodes[0], Weights | OwnWeights) and isinstance(
            nodes[1], Weights | OwnWeights
        ):
            return partial(self._put_own, op, own_weights(nodes[0]))
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
        weights = softmax_node(node, tensor, dim)
        return lambda result: self._put(result, weights)

    def _log_softmax(self, op: Operation, nodes: Nodes) -> After | None:
        weights = softmax_node(nodes[0], op.args[0], op.args[1])
        return lambda result: self._put(result, Logarithm(weights, weights.dims))

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


def softmax_node(node: Node | None, tensor: Tensor, dim: int) -> Weights | OwnWeights:
    """The node of the softmax of a tensor, of scores or of anything else."""
    found = softmax_of(node, tensor, dim) if isinstance(node, Scores) else None
    if found is not None:
        return found
    dim %= max(tensor.ndim, 1)
    if isinstance(node, Scores | OwnWeights | Weights):
        dims = node.dims
    else:
        dims = tuple((Axis(size),) for size in tensor.shape)
    lead = (*dims[:dim], *dims[dim + 1 :])
    return OwnWeights("softmax", dims, dims[dim : dim + 1], lead)


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
        "sigmoid": ScoreTracker._squashed,  # noqa: SLF001
        "sum": ScoreTracker._summed,  # noqa: SLF001
        "add add_ sub sub_": ScoreTracker._added,  # noqa: SLF001
        "_log_softmax": ScoreTracker._log_softmax,  # noqa: SLF001
        "masked_fill masked_fill_": ScoreTracker._masked,  # noqa: SLF001
        "_softmax _safe_softmax softmax": ScoreTracker._softmax,  # noqa: SLF001
        "_masked_softmax": ScoreTracker._masked_softmax,  # noqa: SLF001
    }
)
