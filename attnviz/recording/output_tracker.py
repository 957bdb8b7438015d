"""Follows the outputs of calls to their heads, their projection and their LayerScale.

The tracker follows an output through views and copies to the first linear map over its heads and
features, and that map's result to a multiplication by a vector over its features. Outputs that
the model puts side by side, or sums after their projections, are pieces of one attention: their
calls are joined. The tracker stops following at any other operation.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from attnviz.recording import joining
from attnviz.recording.axes import Axis, Dims, leaves, regroup, sizes
from attnviz.recording.operation import After, Operation, by_names, first, order_of
from attnviz.recording.output_nodes import (
    Output,
    OutputListener,
    OutputNode,
    Projected,
    WeightedValues,
    axis_of,
    by_hand,
    is_other_slice,
    is_over_features,
    is_unpacking,
    one_matrix,
    projected,
    secured,
    shown_heads,
    side_by_side,
    slices,
    stacked,
    tiled,
)
from attnviz.recording.tensor_registry import TensorRegistry
from attnviz.recording.to_call import OutputLayout, attention_call

_PATIENCE = 64
"""After this many operations that do not involve outputs, the tracker stops following them.

Between two heads of a loop there are linear layers, norms and rotations.
"""


class Outputs:
    """Follows outputs in a stream of operations."""

    def __init__(self, reader: OutputListener) -> None:
        self._listener = reader
        self._nodes: TensorRegistry[OutputNode] = TensorRegistry()
        self._patience = 0
        self._operations = 0
        self._last_seen: dict[int, int] = {}

    def by_hand(self, tensor: Tensor, number: int, weighted: WeightedValues) -> None:
        """Follow the output of a call that the model computes itself."""
        self._add(tensor, by_hand(number, weighted))

    def fused(self, tensor: Tensor, number: int, heads: int = 1) -> None:
        """Follow the output of a fused kernel: four dimensions; `heads` is the heads' dimension."""
        if tensor.ndim == 4:
            dims = tuple((Axis(size),) for size in tensor.shape)
            self._add(tensor, Output(number, dims, dims[3 - heads], dims[heads], dims[3]))

    def may_be_joined(self, number: int, *, piece: bool) -> bool:
        """Whether the model may still put a call's output side by side with others.

        The recording itself keeps outputs, so the tracker cannot see whether the model does. It
        follows an output until it is projected, for a limited number of operations, or, if the
        output is a likely `piece`, as long as other pieces come. It follows a projection for as
        long as the model keeps it.
        """
        last = self._last_seen.get(number)
        if last is not None:
            return piece or self._operations - last <= _PATIENCE
        return any(n.number == number and isinstance(n, Projected) for n in self._nodes.values())

    def _add(self, tensor: Tensor, output: Output) -> None:
        self._nodes.forget(tensor)
        self._put(tensor, output)

    def _put(self, tensor: Tensor, node: OutputNode) -> None:
        self._nodes.put(tensor, node)
        self._patience = _PATIENCE
        if isinstance(node, Output):
            self._last_seen[node.number] = self._operations
        else:
            self._last_seen.pop(node.number, None)

    def before(self, op: Operation) -> After | None:
        """The function to call with the result of an operation that is about to run."""
        if not self._patience:
            return None
        self._patience -= 1
        self._operations += 1
        if not self._patience:
            self._nodes = TensorRegistry()
            self._last_seen.clear()
            return None
        handler = _HANDLERS.get(op.name)
        after = None if handler is None else handler(self, op)
        for tensor in op.written:
            if op.name != "copy_":
                self._nodes.forget(tensor)
            else:  # nodes of other slices stay
                for place, _ in list(self._nodes.of_storage(tensor)):
                    if not is_other_slice(place, tensor):
                        self._nodes.drop(tensor, place)
            self._nodes.change_all(partial(secured, written=tensor))
        return after

    # Handlers: each returns the function that puts the node of the result. None means that the
    # handler does not apply.

    def _viewed(self, op: Operation) -> After | None:
        node = self.node_of(op.args[0])
        return None if node is None else lambda result: self._view_result(node, result)

    def _selected(self, op: Operation) -> After | None:
        """`select` of the only element along a dimension."""
        return self._viewed(op) if op.args[0].shape[op.args[1]] == 1 else None

    def _view_result(self, node: OutputNode, result: Tensor) -> None:
        """Put the node of a view that keeps the order of the elements."""
        dims = regroup(node.dims, result.shape)
        if dims is None:
            return
        if isinstance(node, Output) and node.weighted is not None:
            node = self._find_heads(node, node.weighted, dims)
        elif isinstance(node, Output) and is_unpacking(node, dims):
            self._listener.unpacked(node.number)
            node = replace(node, heads=node.heads + node.queries, queries=())
        self._put(result, replace(node, dims=dims))

    def _find_heads(self, node: Output, weighted: WeightedValues, dims: Dims) -> Output:
        """Find the heads: the axes that the model first puts side by side with the features."""
        heads = shown_heads(node, weighted, dims)
        if heads is None:
            return node
        if set(heads) != set(leaves([node.heads])):
            weights = weighted.weights
            call = attention_call(weights, weighted.value, weighted.output, heads)
            layout = OutputLayout.of(weights, weighted.dims, weighted.features, heads)
            self._listener.corrected(node.number, call, layout)
        return replace(node, heads=heads, weighted=None if heads else weighted)

    def _permuted(self, op: Operation) -> After | None:
        node = self.node_of(op.args[0])
        if node is None:
            return None
        dims = tuple(node.dims[dim] for dim in order_of(op))
        return lambda result: self._put(result, replace(node, dims=dims))

    def _copied(self, op: Operation) -> After | None:
        node = self.node_of(op.args[0])
        return None if node is None else lambda result: self._put(first(result), node)

    def _multiplied_matrices(self, op: Operation) -> After | None:
        """`mm`, `addmm`, `bmm` or `linear`: a projection, if it is over heads and features."""
        left, right = op.args[1:3] if op.name == "addmm" else op.args[:2]
        node = self.node_of(left)
        if not isinstance(node, Output) or self._nodes.get(right) or op.kwargs.get("alpha", 1) != 1:
            return None
        matrix = right.t() if op.name == "linear" else one_matrix(right)
        projection = None if matrix is None else projected(node, matrix.detach())
        if projection is None:
            return None
        weight, result_node = projection

        def after(result: Tensor) -> None:
            self._listener.projected(node.number, weight)
            self._put(result, result_node)

        return after

    def _added(self, op: Operation) -> After | None:
        """The bias of a projection, or the sum of several heads' projections."""
        nodes = [self._nodes.get(each) for each in op.args[:2]]
        if op.kwargs.get("alpha", 1) == 1:
            if all(isinstance(node, Projected) for node in nodes):
                return self._summed([node for node in nodes if isinstance(node, Projected)])
            number = next((n for n in op.args[:2] if isinstance(n, int | float)), None)
            node = nodes[0] or nodes[1]
            if number == 0 and node is not None:  # Python's sum starts with 0
                return lambda result: self._put(result, node)
        biased = self._over_features(op)
        return None if biased is None else lambda result: self._put(result, biased[0])

    def _summed(self, nodes: "list[Projected]") -> After | None:
        """Join heads that have a projection each."""
        one, other = nodes
        if one.number == other.number or sizes(one.dims) != sizes(other.dims):
            return None
        number = self._join([one.number, other.number], "sum")
        if number is None:
            return None
        return lambda result: self._put(result, replace(one, number=number))

    def _concatenated(self, op: Operation) -> After | None:
        """`cat`: outputs that are put side by side belong to one call."""
        nodes = [node for node in map(self.node_of, op.args[0]) if node is not None]
        if not 1 < len(nodes) == len(op.args[0]):
            return None
        joined = self._joined(nodes, op.get(1, "dim", 0))
        return None if joined is None else lambda result: self._put(result, joined)

    def _stacked(self, op: Operation) -> After | None:
        """`stack`: the new dimension is the heads or the windows."""
        nodes = [node for node in map(self.node_of, op.args[0]) if isinstance(node, Output)]
        if not 1 < len(nodes) == len(op.args[0]):
            return None
        numbers = [node.number for node in nodes]
        if len({sizes(n.dims) for n in nodes}) > 1 or len(set(numbers)) < len(numbers):
            return None
        number = self._join(numbers, "stacked")
        if number is None:
            return None
        node = stacked(nodes[0], op.get(1, "dim", 0), len(nodes), number)
        return lambda result: self._put(result, node)

    def _joined(self, nodes: "Sequence[OutputNode]", dim: int) -> "OutputNode | None":
        """The node of several nodes that are put side by side along a dimension."""
        first = nodes[0]
        if len({(type(node), len(node.dims)) for node in nodes}) > 1:
            return None
        dim %= len(first.dims)
        others = {sizes(node.dims[:dim] + node.dims[dim + 1 :]) for node in nodes}
        axis = axis_of(max(nodes, key=lambda node: sizes(node.dims)[dim]), dim)
        numbers = [node.number for node in nodes]
        if axis is None or len(others) > 1 or len(set(numbers)) < len(numbers):
            return None
        number = self._join(numbers, axis)
        return None if number is None else side_by_side(nodes, dim, axis, number)

    def _join(self, numbers: Sequence[int], axis: joining.Axis) -> int | None:
        """Join calls, and forget the nodes of these pieces."""
        number = self._listener.joined(numbers, axis)
        if number is not None:
            self._nodes.discard(lambda node: node.number in numbers)
        return number

    def node_of(self, tensor: Any) -> "OutputNode | None":
        """The node of a tensor, or of the slices that fill its memory."""
        known = self._nodes.get(tensor)
        if known is not None or not isinstance(tensor, Tensor):
            return known
        pieces = slices(self._nodes.of_storage(tensor), tensor)
        if len(pieces) < 2:
            return None
        dim = tiled(tensor, [place for place, _ in pieces])
        joined = None if dim is None else self._joined([node for _, node in pieces], dim)
        if joined is not None:
            self._put(tensor, joined)
        return joined

    def _filled(self, op: Operation) -> After | None:
        """`copy_`: a slice of a buffer takes the node of its source."""
        node = self._nodes.get(op.args[1]) if len(op.args) > 1 else None
        if node is None or tuple(op.args[0].shape) != sizes(node.dims):
            return None
        return lambda result: self._put(result, node)

    def _multiplied(self, op: Operation) -> After | None:
        """A LayerScale (Touvron et al., 2103.17239)."""
        scaled = self._over_features(op)
        if scaled is not None:
            node, tensor, factors = scaled
            self._listener.scaled(node.number, factors.detach().flatten())
            self._nodes.forget(tensor)
        return None

    def _over_features(self, op: Operation) -> tuple[Projected, Tensor, Tensor] | None:
        """A projection's result and a vector over its features, if these are the two operands."""
        for tensor, operand in (op.args[:2], op.args[1::-1]):
            node = self._nodes.get(tensor)
            if isinstance(node, Projected) and is_over_features(operand, node):
                return node, tensor, operand
        return None


_HANDLERS: dict[str, Callable[[Outputs, Operation], After | None]] = by_names(
    {
        "view _unsafe_view unsqueeze squeeze expand": Outputs._viewed,  # noqa: SLF001
        "select": Outputs._selected,  # noqa: SLF001
        "permute transpose t": Outputs._permuted,  # noqa: SLF001
        "clone detach alias _to_copy native_dropout": Outputs._copied,  # noqa: SLF001
        "mm bmm addmm linear": Outputs._multiplied_matrices,  # noqa: SLF001
        "add add_": Outputs._added,  # noqa: SLF001
        "mul mul_": Outputs._multiplied,  # noqa: SLF001
        "cat": Outputs._concatenated,  # noqa: SLF001
        "stack": Outputs._stacked,  # noqa: SLF001
        "copy_": Outputs._filled,  # noqa: SLF001
    }
)
"""Handlers by operator name."""
