"""Nodes for tensors that are computed from a call's output, and functions on these nodes."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import Lay
from attnviz.recording import joining
from attnviz.recording.axes import Axis, Dims, leaves, sizes
from attnviz.recording.products import Axes
from attnviz.recording.score_graph import Weights, cloned_if_aliased
from attnviz.recording.tensor_registry import clone_if_aliased


@dataclass(frozen=True)
class WeightedValues:
    """Weights, the values they are multiplied with, (b, m, Dv), and the product, (b, n, Dv).

    `dims` are the dimensions of the product as the model computed it; `features` are those of its
    axes that are features.
    """

    weights: Weights
    value: Tensor
    output: Tensor
    dims: Dims
    features: Axes


@dataclass(frozen=True)
class Output:
    """A view of the output of call `number` of the recording.

    `weighted` is set as long as the `heads` are not certain. They are certain after a view has
    shown them beside the `features`.
    """

    number: int
    dims: Dims
    queries: Axes
    heads: Axes
    features: Axes
    weighted: WeightedValues | None = None


@dataclass(frozen=True)
class Projected:
    """A view of a linear map's result on the output of call `number`; `features` are the map's."""

    number: int
    dims: Dims
    queries: Axes
    features: Axis


OutputNode = Output | Projected
"""The node of a tensor that is computed from a call's output."""


@dataclass(frozen=True)
class OutputListener:
    """The callbacks of `Outputs`.

    Attributes:
        corrected: receives a call's number, the corrected call, and its output's layout.
        projected: receives a call's number and its projection, (Hv, Dv, F).
        scaled: receives a call's number and the factors of the projection's features.
        unpacked: receives the number of a call whose queries proved to be heads.
        joined: receives the numbers of calls that are pieces of one, in the order of their outputs,
            and the axis along which these are put side by side; returns the joined call's number,
            or None.
    """

    corrected: Callable[[int, AttentionCall, Lay], None]
    projected: Callable[[int, Tensor], None]
    scaled: Callable[[int, Tensor], None]
    unpacked: Callable[[int], None]
    joined: Callable[[Sequence[int], joining.Axis], int | None]


def by_hand(number: int, weighted: WeightedValues) -> Output:
    """The node of an output that the model computes itself."""
    order, mixing = weighted.weights.order, weighted.weights.mixing
    heads = order.heads if mixing is None else mixing.heads
    kept = weighted if mixing is None else None
    return Output(number, weighted.dims, order.queries, heads, weighted.features, kept)


def axis_of(node: OutputNode, dim: int) -> joining.Axis | None:
    """The role of a dimension of a call's output; None if it is unclear."""
    in_dim = node.dims[dim]
    of_heads = node.heads if isinstance(node, Output) else ()
    for axes, name in ((node.queries, "queries"), (of_heads, "heads")):
        if in_dim and all(axis in axes for axis in in_dim):  # also where its size is 1
            return name  # type: ignore[return-value]
    of_dim, queries, heads = leaves([in_dim]), leaves([node.queries]), leaves([of_heads])
    if not of_dim:  # one item, or one query
        return "items" if dim == 0 else None if queries else "queries"
    features = leaves([node.features] if isinstance(node, Output) else [(node.features,)])
    parts_of: dict[joining.Axis, list[list[Axis]]] = {
        "queries": [queries],
        "heads": [heads, heads + features] if isinstance(node, Output) else [],
    }
    role = next((name for name, parts in parts_of.items() if of_dim in parts), None)
    beside = set(of_dim) & {*queries, *heads, *features}
    return role or (None if beside else "items")


def shown_heads(node: Output, weighted: WeightedValues, dims: Dims) -> Axes | None:
    """The axes that a view puts side by side with the features; None if it puts none there."""
    features, role = set(leaves([node.features])), weighted.weights.scores.product.role
    for dim in (leaves([each]) for each in dims):
        others = [leaf for leaf in dim if leaf not in features]
        heads = tuple(leaf for leaf in others if role(leaf) == "batch")
        if len(others) < len(dim) and (heads or len(dims) <= 3):
            return heads
    return None


def is_unpacking(node: Output, dims: Dims) -> bool:
    """Whether a view makes heads of a call's queries: (…, heads, queries, Dv) → (…, H, 1, Dv).

    With grouped keys and one query, a model may pack the heads of a group as queries.
    """
    heads, queries = leaves([node.heads]), leaves([node.queries])
    if not queries or len(dims) < 3 or leaves(dims[-2:-1]):
        return False
    return leaves(dims[-3:-2]) == heads + queries and leaves(dims[-1:]) == leaves([node.features])


def side_by_side(
    nodes: Sequence[OutputNode], dim: int, axis: joining.Axis, number: int
) -> OutputNode:
    """The node of outputs that were put side by side."""
    first, axis_made = nodes[0], Axis(sum(sizes((node.dims[dim],))[0] for node in nodes))
    axes: Axes = (axis_made,)
    changes: dict[str, Any] = {"number": number}
    if axis == "queries":
        changes["queries"] = axes
    elif axis == "heads" and isinstance(first, Output):
        features = math.prod(leaf.size for leaf in leaves([first.features]))
        beside = leaves([first.dims[dim]]) != leaves([first.heads])
        axis_made = Axis(axis_made.size // features if beside else axis_made.size)
        changes["heads"] = (axis_made,)
        axes = (axis_made, *first.features) if beside else (axis_made,)
    if isinstance(first, Output):
        changes["weighted"] = None
    return replace(first, dims=(*first.dims[:dim], axes, *first.dims[dim + 1 :]), **changes)


def stacked(first: Output, dim: int, count: int, number: int) -> Output:
    """The node of `count` outputs that were stacked along a new dimension."""
    dim %= len(first.dims) + 1
    axes = (Axis(count),)
    dims = (*first.dims[:dim], axes, *first.dims[dim:])
    return replace(first, number=number, dims=dims, heads=axes + first.heads, weighted=None)


def projected(node: Output, matrix: Tensor) -> tuple[Tensor, Projected] | None:
    """The projection of each head, (Hv, Dv, F), and the result's node; None if it is no projection.

    A projection is a linear map over heads and features.
    """
    heads = leaves([node.heads])
    if leaves(node.dims[-1:]) != heads + leaves([node.features]):
        return None
    count, axes = math.prod(head.size for head in heads), Axis(matrix.shape[1])
    result = Projected(node.number, (*node.dims[:-1], (axes,)), node.queries, axes)
    return matrix.view(count, -1, axes.size), result


def is_other_slice(place: Any, written: Tensor) -> bool:
    """Whether a place in memory is a slice beside a slice that is written."""
    offset, shape, stride, _ = place
    differing = sum(a != b for a, b in zip(written.shape, shape, strict=False))
    return (
        stride == tuple(written.stride())
        and len(shape) == written.ndim
        and differing <= 1
        and offset != written.storage_offset()
    )


def slices(
    entries: Iterable[tuple[Any, OutputNode]], tensor: Tensor
) -> list[tuple[Any, OutputNode]]:
    """Places in a tensor's memory that are slices of it, with their nodes, in memory order."""
    found = [
        (place, node)
        for place, node in entries
        if place[1] != tuple(tensor.shape) and len(place[1]) == tensor.ndim
    ]
    return sorted(found, key=lambda piece: piece[0][0])


def tiled(tensor: Tensor, places: Sequence[Any]) -> int | None:
    """The dimension along which slices, in memory order, fill a tensor; None if there is none."""
    for dim in range(tensor.ndim):
        at, size = tensor.storage_offset(), 0
        for offset, shape, stride, _ in places:
            others = [d for d in range(tensor.ndim) if d != dim]
            same = all(shape[d] == tensor.shape[d] for d in others)
            steps = all(stride[d] == tensor.stride(d) for d in range(tensor.ndim) if shape[d] > 1)
            if not same or not steps or offset != at:
                break
            at, size = at + shape[dim] * tensor.stride(dim), size + shape[dim]
        else:
            if size == tensor.shape[dim]:
                return dim
    return None


def secured(node: OutputNode, written: Tensor) -> OutputNode:
    """A node, with copies of its tensors that use memory which is about to be overwritten."""
    if isinstance(node, Projected) or node.weighted is None:
        return node
    weighted = node.weighted
    value, output = (
        clone_if_aliased(weighted.value, written),
        clone_if_aliased(weighted.output, written),
    )
    weights = cloned_if_aliased(weighted.weights, written)
    return replace(node, weighted=replace(weighted, weights=weights, value=value, output=output))


def one_matrix(right: Tensor) -> Tensor | None:
    """The matrix that a product uses for the whole batch; None if there are several."""
    if right.ndim == 2:
        return right
    if len(right) > 1:
        return right[0] if right.stride(0) == 0 else None
    base = right._base  # noqa: SLF001 — what a view is of: of a batch of one it may be keys
    return right[0] if isinstance(base, nn.Parameter) else None


def is_over_features(operand: Any, node: Projected) -> bool:
    """Whether an operand is a vector over the features of a projection."""
    if not isinstance(operand, Tensor) or operand.numel() != node.features.size:
        return False
    shape = (1,) * (len(node.dims) - operand.ndim) + tuple(operand.shape)
    features = leaves([(node.features,)])
    return len(shape) == len(node.dims) and all(
        size == 1 or leaves([dim]) == features for size, dim in zip(shape, node.dims, strict=True)
    )
