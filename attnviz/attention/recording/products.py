"""A product q·kᵀ, what a model does with it up to the softmax, and what comes out.

`Scores` are tensors that hold such a product, scaled and with a bias added; `Weights` their
softmax. `attention_call` puts both into the terms of an `AttentionCall`.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.recording.axes import Axis, Dims, arrange, leaves
from attnviz.attention.recording.known import own

Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class Product:
    """q·kᵀ as it was computed: (b, n, D) and (b, m, D), and where their tokens lie, (b, n, 1)."""

    query: Tensor
    key: Tensor
    batch: Axes
    queries: Axes
    keys: Axes
    query_places: Tensor | None = None
    key_places: Tensor | None = None

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
class Output:
    """A view of the product of weights and values, call `number` of the recording.

    `value` is (b, m, Dv) and `output` (b, n, Dv), as the weights' dimensions then were. The
    `heads` are `settled` once a view has shown them beside the `features`.
    """

    number: int
    weights: Weights
    value: Tensor
    output: Tensor
    dims: Dims
    features: Axes
    heads: Axes
    settled: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return _shape(self.dims)


@dataclass(frozen=True)
class Foreign:
    """Weights that are no softmax of q·kᵀ, and why."""

    reason: str


Node = Scores | Weights | Output | Foreign
"""What is known of a tensor on its way from q·kᵀ to the output of attention."""


def secured(node: Node, written: Tensor) -> Node:
    """A node, with copies of what it knows in memory that is about to be overwritten."""
    found: Node = _secured(node, written)
    return found


def _secured(part: Any, written: Tensor) -> Any:
    if isinstance(part, Tensor):
        return own(part, written)
    if isinstance(part, tuple):
        return tuple(_secured(each, written) for each in part)
    if isinstance(part, Scores | Weights | Output | Product | Change | Mixing):
        parts = {field.name: getattr(part, field.name) for field in fields(part)}
        return replace(part, **{name: _secured(each, written) for name, each in parts.items()})
    return part


def _shape(dims: Dims) -> tuple[int, ...]:
    return tuple(math.prod(leaf.size for leaf in leaves([dim])) for dim in dims)


def softmax_of(scores: Scores, tensor: Tensor, dim: int) -> Weights | None:
    """The softmax of a tensor of scores; None where it is not over the keys.

    If it is over the queries, the product is k·qᵀ, and they change places.
    """
    dim %= tensor.ndim
    if Order.of(scores, dim) is None:
        scores = _swapped(scores)
    order = Order.of(scores, dim)
    if order is None:
        return None
    bias = None
    if scores.unfollowed:
        found = arrange(tensor, scores.dims, _dims(order)).float()
        query, key, scale, _ = _terms(scores, order)  # whatever was added is found again
        bias = found - scale * (query.float() @ key.float().transpose(-2, -1))
        bias = torch.where(found.isneginf(), found, bias)
        change = Change("plus", bias, tuple(tuple(dim) for dim in _dims(order)))
        scores = replace(scores, changes=(*_factors(scores.changes), change))
    return Weights(scores, order, scores.dims)


def _factors(changes: tuple[Change, ...]) -> tuple[Change, ...]:
    return tuple(change for change in changes if change.kind == "times")


def _swapped(scores: Scores) -> Scores:
    """The same scores, of k·qᵀ where they were of q·kᵀ."""
    p = scores.product
    swapped = Product(p.key, p.query, p.batch, p.keys, p.queries, p.key_places, p.query_places)
    simple = tuple(c for c in scores.changes if not isinstance(c.operand, Tensor))
    lost = scores.unfollowed + (len(simple) < len(scores.changes))  # a factor may differ by key now
    return replace(scores, product=swapped, changes=simple, unfollowed=lost)


def _dims(order: Order) -> list[list[Axis]]:
    return [leaves([dim]) for dim in (order.batch, order.heads, order.queries, order.keys)]


def _terms(scores: Scores, order: Order) -> tuple[Tensor, Tensor, float, Tensor | None]:
    """Query and key, (B, H, N, D), scale, and what is added, broadcasting to (B, H, Nq, Nk)."""
    product = scores.product
    batch, heads, queries, keys = _dims(order)
    feature = Axis(product.query.shape[-1])
    features = feature.leaves()
    query = arrange(
        product.query,
        (product.batch, product.queries, (feature,)),
        [batch, heads, queries, features],
    )
    key = arrange(
        product.key, (product.batch, product.keys, (feature,)), [batch, heads, keys, features]
    )
    scale, bias = 1.0, None
    for change in scores.changes:
        operand = change.operand
        if isinstance(operand, Tensor):
            operand = arrange(operand, change.dims, [batch, heads, queries, keys])
        if change.kind == "plus":
            bias = operand if bias is None else bias + operand
            continue
        bias = None if bias is None else bias * operand
        if isinstance(operand, Tensor):
            query = query * operand  # (…, 1): the same for all keys
        else:
            scale *= operand
    if not isinstance(bias, Tensor):
        bias = None  # a number added to all scores changes no softmax
    return query, key, scale, bias


def mixed_scores(scores: Scores, weight: Tensor, dims: Dims) -> Scores:
    """Scores mixed over heads before the softmax: S_g = Σ_h weight[g, h]·S_h (Shazeer, 2003.02436).

    They are a product again: all heads' weighted queries side by side, times all heads' keys. The
    heads are the last dimension of `scores`; `dims` are the others of the result.
    """
    product, heads = scores.product, tuple(leaves(scores.dims[-1:]))
    rest = tuple(leaf for leaf in leaves([product.batch]) if leaf not in heads)
    order = Order(rest, heads, tuple(leaves([product.queries])), tuple(leaves([product.keys])))
    query, key, scale, bias = _terms(scores, order)
    batch, _, queries, _ = query.shape
    count, made = len(weight), Axis(len(weight))
    query = torch.einsum("gh,bhnd->bgnhd", weight.to(query.dtype), scale * query)
    key = key.transpose(1, 2).reshape(batch, 1, key.shape[2], -1)  # (B, 1, m, H·D)

    def places(found: Tensor | None, axes: Axes) -> Tensor | None:
        if found is None:
            return None
        found = arrange(found, (product.batch, axes), [rest, heads, axes])[:, :1]
        return found.expand(-1, count, -1).flatten(0, 1)

    mixed = Product(
        query=query.reshape(batch * count, queries, -1),
        key=key.expand(-1, count, -1, -1).flatten(0, 1),
        batch=(*rest, *made.leaves()),
        queries=order.queries,
        keys=order.keys,
        query_places=places(product.query_places, order.queries),
        key_places=places(product.key_places, order.keys),
    )
    return Scores(mixed, (*dims, (made,)), unfollowed=scores.unfollowed + (bias is not None))


def attention_call(
    weights: Weights, value: Tensor, output: Tensor, heads: Axes | None = None
) -> AttentionCall:
    """The call that weights, (b, n, m) as their `dims` say, make with their values.

    Args:
        weights: as they meet the values.
        value: (b, m, Dv).
        output: (b, n, Dv), their product.
        heads: axes that turned out to be the heads'; None where nothing is known.
    """
    order = weights.order if heads is None else weights.order.with_heads(heads)
    query, key, scale, bias = _terms(weights.scores, order)
    mixing = weights.mixing
    after = order if mixing is None else replace(order, heads=mixing.heads)
    batch, heads_axes, queries, keys = _dims(after)
    feature = Axis(value.shape[-1])

    def laid(tensor: Tensor, axes: list[Axis], dims: Dims) -> Tensor:
        order = [batch, heads_axes, axes, feature.leaves()]
        return arrange(tensor, (*dims, (feature,)), order)

    return AttentionCall(
        query=query,
        key=key,
        value=laid(value, keys, (weights.dims[0], weights.dims[2])),
        scale=scale,
        bias=bias,
        output=laid(output, queries, (weights.dims[0], weights.dims[1])),
        mixing=None if mixing is None else (mixing.weight, mixing.bias),
        query_positions=_positions(weights, order, "query"),
        key_positions=_positions(weights, order, "key"),
    )


def _positions(weights: Weights, order: Order, kind: Literal["query", "key"]) -> Tensor | None:
    """Where tokens lie, (B, N, 2) as x and y."""
    product = weights.scores.product
    found, axes = product.query_places, product.queries
    if kind == "key":
        found, axes = product.key_places, product.keys
    if found is None:
        return None
    laid = arrange(found, (product.batch, axes), [order.batch, order.heads, leaves([axes])])
    return torch.view_as_real(laid[:, 0].resolve_conj())
