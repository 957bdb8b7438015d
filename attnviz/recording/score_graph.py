"""What is known of a tensor on its way from a product q·kᵀ to the softmax and its values.

`Scores` are tensors that hold such a product, scaled and with a bias added; `Weights` their
softmax.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from torch import Tensor

from attnviz.recording.axes import Axis, Dims, leaves
from attnviz.recording.tensor_registry import clone_if_aliased

Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class Product:
    """q·kᵀ as it was computed: (b, n, D) and (b, m, D), and where their tokens lie, (b, n, 1).

    `of_channels` says that the features lie at different places, so that they are the tokens.
    """

    query: Tensor
    key: Tensor
    batch: Axes
    queries: Axes
    keys: Axes
    query_places: Tensor | None = None
    key_places: Tensor | None = None
    of_channels: bool = False

    def role(self, leaf: Axis) -> Literal["batch", "query", "key"]:
        """What a part of an axis is to the product."""
        if leaf in leaves([self.queries]):
            return "query"
        return "key" if leaf in leaves([self.keys]) else "batch"

    @property
    def dims(self) -> Dims:
        """Of the product, (b, n, m)."""
        return (self.batch, self.queries, self.keys)


@dataclass(frozen=True)
class Change:
    """A number or tensor that scores were multiplied with, or that was added to them."""

    kind: Literal["times", "plus"]
    operand: float | Tensor
    dims: Dims


@dataclass(frozen=True)
class Scores:
    """A tensor of scores; `dims` are its dimensions.

    Where something `unfollowed` was done to them, so many times, what was added to the product is
    found by subtraction when the softmax comes.
    """

    product: Product
    dims: Dims
    changes: tuple[Change, ...] = ()
    unfollowed: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return _shape(self.dims)

    def changed(self, kind: Literal["times", "plus"], operand: float | Tensor) -> "Scores":
        """After a multiplication or an addition."""
        if kind == "times" and isinstance(operand, Tensor) and self._differs_by_key(operand):
            return self.lost()
        return replace(self, changes=(*self.changes, Change(kind, operand, self.dims)))

    def lost(self) -> "Scores":
        """After something that is not followed."""
        return replace(self, unfollowed=self.unfollowed + 1)

    def _differs_by_key(self, factor: Tensor) -> bool:
        """Whether a factor is another one for each key, so that the query cannot take it."""
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
        """As the softmax over the dimension of that number finds them; None if it is not the keys.

        Of the dimensions before queries and keys the last is the heads', the others the batch.
        """
        role = scores.product.role
        roles = [set(map(role, leaves([dim]))) for dim in scores.dims]
        keys = leaves(scores.dims[softmax : softmax + 1])
        if keys != [leaf for leaf in leaves(scores.dims) if role(leaf) == "key"]:
            return None
        others = [i for i, found in enumerate(roles) if "query" in found]
        if not others and len(roles) > 1:  # a single query, unless it was squeezed away
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
    """Weights that are mixed over heads after the softmax: Σ_h weight[g, h]·A_h + bias[g]."""

    weight: Tensor
    bias: Tensor | None
    heads: Axes


@dataclass(frozen=True)
class Weights:
    """The softmax of scores, or a view of it.

    Attributes:
        scores: what the softmax was of.
        order: its axes.
        dims: the dimensions of this tensor.
        mixing: of heads after the softmax.
        altered: what else was done to them and is not followed.
    """

    scores: Scores
    order: Order
    dims: Dims
    mixing: Mixing | None = None
    altered: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return _shape(self.dims)


@dataclass(frozen=True)
class Exponentials:
    """exp of scores, on the way to a softmax that is written out; `dims` are its dimensions.

    `summed` is the dimension that was summed, of the tensor of the sums; `mark` is the same object
    for both.
    """

    scores: Scores
    dims: Dims
    mark: object
    summed: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return _shape(self.dims)


@dataclass(frozen=True)
class NotAttention:
    """Weights that are no softmax of q·kᵀ, and why."""

    reason: str


Node = Scores | Weights | Exponentials | NotAttention
"""What is known of a tensor on its way from q·kᵀ to the output of attention."""
N = TypeVar("N", Scores, Weights, Exponentials, NotAttention, Node)


_UNFOLLOWED = 4
"""So many operations that are not followed may change scores: then it is no attention."""


def altered(node: Node, operator: str) -> Node:
    """What a node is after an operator that is not followed."""
    if isinstance(node, Scores) and node.product.batch and node.unfollowed < _UNFOLLOWED:
        return node.lost()
    if isinstance(node, Weights):
        return replace(node, altered=operator)
    if isinstance(node, Exponentials):
        return NotAttention("exponentials of scores that are no softmax of them")
    return NotAttention("scores that many operations altered before their softmax")


def batched(node: Node | None) -> Node | None:
    """What is known of a matrix, as of a batch of one."""
    return replace(node, dims=((), *node.dims)) if isinstance(node, Scores | Weights) else node


def cloned_if_aliased(node: N, written: Tensor) -> N:
    """A node, with copies of what it knows in memory that is about to be overwritten."""
    found: N = _secured(node, written)
    return found


def _secured(part: Any, written: Tensor) -> Any:
    if isinstance(part, Tensor):
        return clone_if_aliased(part, written)
    if isinstance(part, tuple):
        return tuple(_secured(each, written) for each in part)
    if isinstance(part, Scores | Weights | Exponentials | Product | Change | Mixing):
        parts = {field.name: getattr(part, field.name) for field in fields(part)}
        return replace(part, **{name: _secured(each, written) for name, each in parts.items()})
    return part


def _shape(dims: Dims) -> tuple[int, ...]:
    return tuple(math.prod(leaf.size for leaf in leaves([dim])) for dim in dims)
