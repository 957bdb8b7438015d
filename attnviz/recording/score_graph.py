"""Nodes for tensors from a product q·kᵀ to the softmax and its product with values.

`Scores` describe a tensor that holds such a product, scaled and with a bias added. `Weights`
describe its softmax.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from torch import Tensor

from attnviz.recording.axes import Axis, Dims, leaves
from attnviz.recording.tensor_registry import clone_if_aliased

Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class Product:
    """q·kᵀ as the model computed it: q (b, n, D), k (b, m, D), and token positions, (b, n, 1).

    `of_channels` means that the features have different positions, so the features are the tokens.
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

    `unfollowed` counts the operations on it that are not understood. If there are any, the softmax
    step finds the bias by subtracting the product from the scores.
    """

    product: Product
    dims: Dims
    changes: tuple[Change, ...] = ()
    unfollowed: int = 0

    def changed(self, kind: Literal["times", "plus"], operand: float | Tensor) -> "Scores":
        """The scores after a multiplication or an addition."""
        if kind == "times" and isinstance(operand, Tensor) and self._differs_by_key(operand):
            return self.lost()
        return replace(self, changes=(*self.changes, Change(kind, operand, self.dims)))

    def lost(self) -> "Scores":
        """The scores after an operation that is not understood."""
        return replace(self, unfollowed=self.unfollowed + 1)

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
        altered: the name of an operator that changed them and is not understood.
    """

    scores: Scores
    order: Order
    dims: Dims
    mixing: Mixing | None = None
    altered: str | None = None


@dataclass(frozen=True)
class Exponentials:
    """exp of scores, a step of a softmax that the model computes itself; `dims` are its dimensions.

    For the tensor of their sums, `summed` is the dimension that was summed. `mark` is the same
    object for the exponentials and their sums.
    """

    scores: Scores
    dims: Dims
    mark: object
    summed: int | None = None


@dataclass(frozen=True)
class NotAttention:
    """Weights that are not a softmax of q·kᵀ, and the reason."""

    reason: str


Node = Scores | Weights | Exponentials | NotAttention
"""The node of a tensor between q·kᵀ and the output of attention."""
N = TypeVar("N", Scores, Weights, Exponentials, NotAttention, Node)


_UNFOLLOWED = 4
"""If more operations than this change scores and are not understood, it is not attention."""


def altered(node: Node, operator: str) -> Node:
    """The node after an operator that is not understood."""
    if isinstance(node, Scores) and node.product.batch and node.unfollowed < _UNFOLLOWED:
        return node.lost()
    if isinstance(node, Weights):
        return replace(node, altered=operator)
    if isinstance(node, Exponentials):
        return NotAttention("exponentials of scores that are no softmax of them")
    return NotAttention("scores that many operations altered before their softmax")


def batched(node: Node | None) -> Node | None:
    """The node of a matrix as a batch of one."""
    return replace(node, dims=((), *node.dims)) if isinstance(node, Scores | Weights) else node


def cloned_if_aliased(node: N, written: Tensor) -> N:
    """A node, with copies of its tensors that use memory which is about to be overwritten."""
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
