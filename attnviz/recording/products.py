"""Products q·kᵀ, the scores that a model makes of them, and the order of their axes."""

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from attnviz.recording.axes import Axis, Dims, leaves

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
    `seen` the dimensions before it. If there are any, the softmax step finds the bias by
    subtracting the product from the scores.
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
