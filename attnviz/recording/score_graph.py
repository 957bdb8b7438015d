"""Nodes for tensors from a product q·kᵀ to the softmax and its product with values.

`Scores` describe a tensor that holds such a product, scaled and with a bias added. `Weights`
describe its softmax.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from torch import Tensor

from attnviz.recording.axes import Axis, Dims, leaves
from attnviz.recording.tensor_registry import clone_if_aliased

Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class Product:
    """q·kᵀ as the model computed it: q (b, n, D), k (b, m, D), and token positions, (b, n, 1).

    `of_channels` means that the features have different positions, so the features are the tokens.
    `learned` means that one factor is a parameter.
    """

    query: Tensor
    key: Tensor
    batch: Axes
    queries: Axes
    keys: Axes
    query_places: Tensor | None = None
    key_places: Tensor | None = None
    of_channels: bool = False
    learned: bool = False

    def role(self, leaf: Axis) -> Literal["batch", "query", "key"]:
        """The role of a part of an axis in the product."""
        if leaf in leaves([self.queries]):
            return "query"
        return "key" if leaf in leaves([self.keys]) else "batch"

    @property
    def dims(self) -> Dims:
        """Dimensions of the product, (b, n, m)."""
        return (self.batch, self.queries, self.keys)


@dataclass(frozen=True)
class Change:
    """A number or tensor that the model multiplied scores with or added to them."""

    kind: Literal["times", "plus"]
    operand: float | Tensor
    dims: Dims


@dataclass(frozen=True)
class Scores:
    """A tensor of scores; `dims` are its dimensions.

    `unfollowed` counts the operations on it that are not understood; `operator` is the last one,
    `seen` the dimensions before it. If there are any, the softmax step finds the bias by subtracting the product from the scores.
    """

    product: Product
    dims: Dims
    changes: tuple[Change, ...] = ()
    unfollowed: int = 0
    operator: str = ""
    seen: Dims = ()

    def changed(self, kind: Literal["times", "plus"], operand: float | Tensor) -> "Scores":
        """The scores after a multiplication or an addition."""
        if kind == "times" and isinstance(operand, Tensor) and self._differs_by_key(operand):
            return self.lost("mul")
        return replace(self, changes=(*self.changes, Change(kind, operand, self.dims)))

    def lost(self, operator: str) -> "Scores":
        """The scores after an operation that is not understood."""
        name = operator.rstrip("_")
        return replace(self, unfollowed=self.unfollowed + 1, operator=name, seen=self.dims)

    def _differs_by_key(self, factor: Tensor) -> bool:
        """Whether a factor differs by key, so that it cannot be multiplied into the query."""
        shape = (1,) * (len(self.dims) - factor.ndim) + tuple(factor.shape)
        return any(
            size > 1 and any(self.product.role(leaf) == "key" for leaf in leaves([dim]))
            for size, dim in zip(shape, self.dims, strict=True)
        )


@dataclass(frozen=True)
class Order:
    """Axes in the order of an `AttentionCall`: batch, heads, queries, keys."""

    batch: Axes
    heads: Axes
    queries: Axes
    keys: Axes

    @staticmethod
    def of(scores: Scores, softmax: int) -> "Order | None":
        """The order for a softmax over dimension `softmax`; None if this is not the keys.

        The last dimension other than queries and keys is the heads; those before it are the batch.
        """
        role = scores.product.role
        roles = [set(map(role, leaves([dim]))) for dim in scores.dims]
        keys = leaves(scores.dims[softmax : softmax + 1])
        if keys != [leaf for leaf in leaves(scores.dims) if role(leaf) == "key"]:
            return None
        others = [i for i, found in enumerate(roles) if "query" in found]
        if not others and len(roles) > 1:  # a single query, unless the model squeezed it
            beside = len(roles) - (2 if softmax == len(roles) - 1 else 1)
            others = [] if roles[beside] else [beside]
        lead = []
        for i, dim in enumerate(scores.dims):
            part = [leaf for leaf in leaves([dim]) if role(leaf) == "batch"]
            if i != softmax and (part or i not in others):
                lead.append(part)
        heads = lead.pop() if len(lead) > 1 else []
        return Order(
            batch=tuple(leaves(lead)),
            heads=tuple(heads),
            queries=tuple(leaf for leaf in leaves(scores.dims) if role(leaf) == "query"),
            keys=tuple(keys),
        )

    def with_heads(self, heads: Axes) -> "Order":
        """The same with other axes as the heads."""
        lead = leaves([self.batch, self.heads])
        rest = tuple(leaf for leaf in lead if leaf not in heads)
        return replace(self, batch=rest, heads=tuple(leaf for leaf in lead if leaf in heads))


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
        own: the weights themselves, if they are no softmax of the product; the scores then only
            tell the roles of the axes, and positions.
        sums_to_one: whether the rows of `own` are distributions.
    """

    scores: Scores
    order: Order
    dims: Dims
    mixing: Mixing | None = None
    kind: str = "softmax"
    own: Tensor | None = None
    sums_to_one: bool = True


@dataclass(frozen=True)
class OwnWeights:
    """Weights that the model made in another way than as a softmax of q·kᵀ.

    Attributes:
        kind: how the model made them.
        dims: the dimensions of this tensor.
        tokens: axes that values may be summed over; a softmax is over the first of them. Empty for
            gates, which may be weights of any axis.
        lead: the axes of each of the other dimensions when the weights were made; heads are the
            last ones that are not queries.
        product: the product that they come from, if they come from one.
    """

    kind: str
    dims: Dims
    tokens: tuple[Axes, ...]
    lead: tuple[Axes, ...] = ()
    product: Product | None = None

    def are_tokens(self, axes: Dims) -> bool:
        """Whether these dimensions are axes that values may be summed over."""
        return not self.tokens or leaves(axes) in [leaves([each]) for each in self.tokens]

    def altered(self, operator: str) -> "OwnWeights":
        """The weights after an operator that changes them."""
        name = operator.rstrip("_")
        return replace(self, kind=KINDS.get(name, f"altered by {name}"))

    def moved(self, before: Sequence[int], after: Sequence[int], operator: str) -> "OwnWeights":
        """The weights with another size along some dimensions: a part of them, or repeated."""
        node, dims = self, list(self.dims)
        for dim, (old, new) in enumerate(zip(before, after, strict=True)):
            if old == new:
                continue
            if new < old and leaves([dims[dim]]) == leaves(self.tokens[:1]) != []:
                node = replace(node, kind="sink")
            node = node.renamed(dims[dim], axes := (Axis(new),))
            dims[dim] = axes
        node = replace(node, dims=tuple(dims))
        return node if operator in ("slice", "expand", "select") else node.altered(operator)

    def renamed(self, old: Axes, new: Axes) -> "OwnWeights":
        """The same with new axes in the place of others, except in `dims`."""

        def each(groups: tuple[Axes, ...]) -> tuple[Axes, ...]:
            return tuple(new if leaves([axes]) == leaves([old]) else axes for axes in groups)

        return replace(self, tokens=each(self.tokens), lead=each(self.lead))


KINDS = {
    "sub": "difference",
    "rsub": "difference",
    "add": "sum",
    "mul": "gate",
    "where": "gate",
    "masked_fill": "gate",
    "div": "renormalised",
    "convolution": "mixed",
    "bmm": "mixed",
    "mm": "mixed",
    "native_dropout": "dropout",
    "exp": "exponential",
    "pow": "power",
}
"""Kinds of weights by the operator that made them of other weights."""


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
    weights: "Weights | OwnWeights | Scores | None" = None
    factor: float = 1.0


@dataclass(frozen=True)
class Logarithm:
    """The log-softmax, a step of a softmax that the model computes itself."""

    weights: Weights | OwnWeights
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


Node = Scores | Weights | OwnWeights | Exponentials | Elementwise | Logarithm | NotAttention
"""The node of a tensor between q·kᵀ and the output of attention."""
N = TypeVar("N", Weights, Node)


_UNFOLLOWED = 4
"""If more operations than this change scores and are not understood, it is not attention."""


def altered(node: Node, operator: str) -> Node:
    """The node after an operator that is not understood."""
    if isinstance(node, Scores) and node.product.batch and node.unfollowed < _UNFOLLOWED:
        return node.lost(operator)
    if isinstance(node, Weights):
        return own_weights(node).altered(operator)
    if isinstance(node, OwnWeights):
        return node.altered(operator)
    if isinstance(node, Exponentials) and node.scores is not None:
        return own_weights(replace(node.scores, dims=node.dims, operator="exp"))
    if isinstance(node, Scores) and node.product.batch:
        return NotAttention("scores that many operations altered before their softmax")
    return node if isinstance(node, NotAttention) else NotAttention("")


def own_weights(weights: "Weights | OwnWeights | Scores") -> OwnWeights:
    """The node of weights that are about to be altered, or of scores that serve as weights."""
    if isinstance(weights, OwnWeights):
        return weights
    if isinstance(weights, Scores):
        product = weights.product
        lead = tuple(
            axes
            for axes in weights.seen or weights.dims
            if all(product.role(leaf) == "batch" for leaf in leaves([axes]))
        )
        kind = KINDS.get(weights.operator, weights.operator) or "product"
        return OwnWeights(kind, weights.dims, (product.keys,), lead, product)
    order = weights.order
    heads = order.heads if weights.mixing is None else weights.mixing.heads
    return OwnWeights(
        kind=weights.kind,
        dims=weights.dims,
        tokens=(order.keys, order.queries),
        lead=(order.batch, heads),
        product=weights.scores.product,
    )


def varies_along(tensor: Tensor, dim: int) -> bool:
    """Whether a tensor may differ along a dimension: it is not 1 and not repeated."""
    return tensor.shape[dim] > 1 and tensor.stride(dim) != 0


def is_spread(weights: Tensor, values: Tensor) -> bool:
    """Whether weights are the same along a dimension along which the values differ."""
    return any(
        varies_along(values, -dim)
        and (dim > weights.ndim or not varies_along(weights, -dim))
        for dim in range(1, values.ndim + 1)
    )


def batched(node: Node | None) -> Node | None:
    """The node of a matrix as a batch of one."""
    return replace(node, dims=((), *node.dims)) if isinstance(node, Scores | Weights | OwnWeights) else node


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
