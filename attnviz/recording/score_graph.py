"""Nodes for tensors from a product q·kᵀ to the softmax and its product with values.

`Scores` describe a tensor that holds such a product, scaled and with a bias added. `Weights`
describe its softmax, `ExplicitWeights` weights that are none.
"""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from attnviz.recording.axes import Dims, leaves
from attnviz.recording.explicit_weights import KINDS, ExplicitWeights
from attnviz.recording.products import Axes, Order, Scores
from attnviz.recording.tensor_registry import clone_if_aliased


@dataclass(frozen=True)
class Mixing:
    """A mixing of weights over heads after the softmax: Σ_h weight[g, h]·A_h + bias[g]."""

    weight: Tensor
    bias: Tensor | None
    heads: Axes


@dataclass(frozen=True)
class Weights:
    """The softmax of scores, or a view of it.

    Attributes:
        scores: the input of the softmax.
        order: its axes.
        dims: the dimensions of this tensor.
        mixing: the mixing of heads after the softmax.
        kind: how the model made them.
        explicit: the weights themselves, if they are no softmax of the product; the scores then
            only tell the roles of the axes, and positions.
        sums_to_one: whether the rows of `explicit` are distributions.
    """

    scores: Scores
    order: Order
    dims: Dims
    mixing: Mixing | None = None
    kind: str = "softmax"
    explicit: Tensor | None = None
    sums_to_one: bool = True


@dataclass(frozen=True)
class Elementwise:
    """An elementwise product whose sum is q·kᵀ, or weights times values.

    Attributes:
        dims: the dimensions of this tensor.
        whole: those of the product, before any view.
        left, right: the factors, which broadcast to `whole`.
        weights: the node of `left` if these are weights.
        factor: what the product was multiplied with.
    """

    dims: Dims
    whole: Dims
    left: Tensor
    right: Tensor
    weights: "Weights | ExplicitWeights | Scores | None" = None
    factor: float = 1.0


@dataclass(frozen=True)
class Logarithm:
    """The log-softmax, a step of a softmax that the model computes itself."""

    weights: Weights | ExplicitWeights
    dims: Dims


@dataclass(frozen=True)
class Exponentials:
    """exp of scores, a step of a softmax that the model computes itself; `dims` are its dimensions.

    For the tensor of their sums, `summed` are the axes that were summed. `mark` is the same object
    for the exponentials and their sums. `scores` is None if the scores are no product.
    """

    scores: Scores | None
    dims: Dims
    mark: object
    summed: Axes | None = None


@dataclass(frozen=True)
class NotAttention:
    """Weights that cannot be read, and the reason; empty for what is not known to be weights."""

    reason: str


Node = Scores | Weights | ExplicitWeights | Exponentials | Elementwise | Logarithm | NotAttention
"""The node of a tensor between q·kᵀ and the output of attention."""
N = TypeVar("N", Weights, Node)


_UNFOLLOWED = 4
"""If more operations than this change scores and are not understood, it is not attention."""


def altered(node: Node, operator: str) -> Node:
    """The node after an operator that is not understood."""
    if isinstance(node, Scores) and node.product.batch and node.unfollowed < _UNFOLLOWED:
        return node.lost(operator)
    if isinstance(node, Weights):
        return explicit_weights(node).altered(operator)
    if isinstance(node, ExplicitWeights):
        return node.altered(operator)
    if isinstance(node, Exponentials) and node.scores is not None:
        return explicit_weights(replace(node.scores, dims=node.dims, operator="exp"))
    if isinstance(node, Scores) and node.product.batch:
        return NotAttention("scores that many operations altered before their softmax")
    return node if isinstance(node, NotAttention) else NotAttention("")


def explicit_weights(weights: "Weights | ExplicitWeights | Scores") -> ExplicitWeights:
    """The node of weights that are about to be altered, or of scores that serve as weights."""
    if isinstance(weights, ExplicitWeights):
        return weights
    if isinstance(weights, Scores):
        product = weights.product
        lead = tuple(
            axes
            for axes in weights.seen or weights.dims
            if all(product.role(leaf) == "batch" for leaf in leaves([axes]))
        )
        kind = KINDS.get(weights.operator, weights.operator) or "product"
        return ExplicitWeights(kind, weights.dims, (product.keys,), lead, product)
    order, product = weights.order, weights.scores.product
    heads = order.heads if weights.mixing is None else weights.mixing.heads
    queries: tuple[Axes, ...] = (order.queries,)
    if not product.batch:  # a linear layer: its rows may be a batch of tokens
        queries = tuple(
            axes for axes in weights.dims if {*leaves([axes])} & {*leaves([product.queries])}
        )
    return ExplicitWeights(
        kind=weights.kind,
        dims=weights.dims,
        tokens=(order.keys, *queries),
        lead=(order.batch, heads),
        product=product,
    )


def varies_along(tensor: Tensor, dim: int) -> bool:
    """Whether a tensor may differ along a dimension: it is not 1 and not repeated."""
    return tensor.shape[dim] > 1 and tensor.stride(dim) != 0


def is_spread(weights: Tensor, values: Tensor) -> bool:
    """Whether weights are the same along a dimension along which the values differ."""
    return any(
        varies_along(values, -dim) and (dim > weights.ndim or not varies_along(weights, -dim))
        for dim in range(1, values.ndim + 1)
    )


def batched(node: Node | None) -> Node | None:
    """The node of a matrix as a batch of one."""
    return (
        replace(node, dims=((), *node.dims))
        if isinstance(node, Scores | Weights | ExplicitWeights)
        else node
    )


def cloned_if_aliased(node: N, written: Tensor) -> N:
    """A node, with copies of its tensors that use memory which is about to be overwritten."""
    found: N = _secured(node, written)
    return found


def _secured(part: Any, written: Tensor) -> Any:
    if isinstance(part, Tensor):
        return clone_if_aliased(part, written)
    if isinstance(part, tuple):
        return tuple(_secured(each, written) for each in part)
    if is_dataclass(part) and not isinstance(part, type):
        parts = {field.name: getattr(part, field.name) for field in fields(part)}
        return replace(part, **{name: _secured(each, written) for name, each in parts.items()})
    return part
