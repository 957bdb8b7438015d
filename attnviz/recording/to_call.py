"""Turns a product q·kᵀ and the operations after it into an `AttentionCall`."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.recording.axes import Axis, Dims, arrange, leaves
from attnviz.recording.explicit_weights import ExplicitWeights
from attnviz.recording.positions.position_math import NOWHERE
from attnviz.recording.products import Axes, Change, Order, Product, Scores
from attnviz.recording.score_graph import Weights


def softmax_of(scores: Scores, tensor: Tensor, dim: int) -> Weights | None:
    """The softmax of a tensor of scores; None if it is not over the keys.

    If it is over the queries, the product is k·qᵀ, and queries and keys swap roles.
    """
    dim %= tensor.ndim
    kind = "softmax"
    if Order.of(scores, dim) is None:
        if scores.product.learned and not scores.product.batch:  # a linear layer: one query for all
            kind = "pooling"
        scores = _swapped(scores)
    order = Order.of(scores, dim)
    if order is None:
        return None
    if scores.unfollowed:
        found = arrange(tensor, scores.dims, _dims(order)).float()
        query, key, scale, _ = _terms(scores, order)  # the subtraction finds every bias
        bias = found - scale * (query.float() @ key.float().transpose(-2, -1))
        bias = torch.where(found.isneginf(), found, bias)
        change = Change("plus", bias, tuple(tuple(dim) for dim in _dims(order)))
        factors = (change for change in scores.changes if change.kind == "times")
        scores = replace(scores, changes=(*factors, change))
    return Weights(scores, order, scores.dims, kind=kind)


def explicit_call_weights(
    node: ExplicitWeights,
    tensor: Tensor,
    dims: Dims,
    heads: Axes,
    places: tuple[Tensor | None, Tensor | None],
) -> Weights:
    """Weights that the model made itself, as they are multiplied with values.

    Args:
        node: how they were made.
        tensor: the weights, (b, n, m).
        dims: their dimensions.
        heads: those of their axes that are heads.
        places: positions of queries, (b, n), and of keys, (b, m).
    """
    tensor = tensor.detach()
    b, n, m = tensor.shape
    batch, queries, keys = (tuple(leaves([dim])) for dim in dims)
    nothing = tensor.new_zeros(1, 1, 1)
    product = Product(
        nothing.expand(b, n, 1), nothing.expand(b, m, 1), batch, queries, keys, *places
    )
    order = Order(batch, (), queries, keys).with_heads(heads)
    off = (tensor.sum(-1, dtype=torch.float32) - 1).abs()
    rounding = 1e-5 if tensor.dtype in (torch.float32, torch.float64) else 1e-2
    empty = (tensor == 0).all(-1)
    whole = bool(((off <= rounding) | empty).all()) and bool((tensor >= 0).all())
    scores = Scores(product, dims)
    return Weights(
        scores,
        order,
        dims,
        kind=node.kind,
        explicit=tensor,
        sums_to_one=whole and not bool(empty.all()),
    )


def _swapped(scores: Scores) -> Scores:
    """The same scores with queries and keys swapped: k·qᵀ instead of q·kᵀ."""
    p = scores.product
    swapped = Product(p.key, p.query, p.batch, p.keys, p.queries, p.key_places, p.query_places)
    simple = tuple(c for c in scores.changes if not isinstance(c.operand, Tensor))
    lost = scores.unfollowed + (len(simple) < len(scores.changes))  # a factor may now differ by key
    return replace(scores, product=swapped, changes=simple, unfollowed=lost)


def _dims(order: Order) -> list[list[Axis]]:
    return [leaves([dim]) for dim in (order.batch, order.heads, order.queries, order.keys)]


def _terms(scores: Scores, order: Order) -> tuple[Tensor, Tensor, float, Tensor | None]:
    """Query and key, (B, H, N, D), scale, and the bias, which broadcasts to (B, H, Nq, Nk)."""
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
    heads are the last dimension of `scores`; `dims` are the other dimensions of the result.
    """
    product, heads = scores.product, tuple(leaves(scores.dims[-1:]))
    rest = tuple(leaf for leaf in leaves([product.batch]) if leaf not in heads)
    order = Order(rest, heads, tuple(leaves([product.queries])), tuple(leaves([product.keys])))
    query, key, scale, bias = _terms(scores, order)
    batch, _, queries, _ = query.shape
    count, axis = len(weight), Axis(len(weight))
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
        batch=(*rest, *axis.leaves()),
        queries=order.queries,
        keys=order.keys,
        query_places=places(product.query_places, order.queries),
        key_places=places(product.key_places, order.keys),
    )
    return Scores(mixed, (*dims, (axis,)), unfollowed=scores.unfollowed + (bias is not None))


def attention_call(
    weights: Weights, value: Tensor, output: Tensor, heads: Axes | None = None
) -> AttentionCall:
    """The call that weights make with their values; the weights' `dims` are (b, n, m).

    Args:
        weights: the weights as they are multiplied with the values.
        value: (b, m, Dv).
        output: (b, n, Dv), their product.
        heads: the axes of the heads, if a later view showed them; else None.
    """
    order = weights.order if heads is None else weights.order.with_heads(heads)
    query, key, scale, bias = _terms(weights.scores, order)
    mixing, explicit = weights.mixing, weights.explicit
    mixed_order = order if mixing is None else replace(order, heads=mixing.heads)
    if explicit is not None:
        query, key = query[..., :0], key[..., :0]
        sizes = (*query.shape[:3], key.shape[2])
        explicit = arrange(explicit, weights.dims, _dims(order)).expand(sizes)
        if weights.sums_to_one:
            bias, explicit = explicit.float().log(), None
    return AttentionCall(
        query=query,
        key=key,
        value=_laid_out(value, (weights.dims[0], weights.dims[2]), mixed_order, mixed_order.keys),
        scale=scale,
        bias=bias,
        output=_laid_out(
            output, (weights.dims[0], weights.dims[1]), mixed_order, mixed_order.queries
        ),
        mixing=None if mixing is None else (mixing.weight, mixing.bias),
        query_positions=_positions(weights, order, "query"),
        key_positions=_positions(weights, order, "key"),
        points=_points(weights, order),
        kind=weights.kind,
        weights=explicit,
    )


def _laid_out(tensor: Tensor, dims: Dims, order: Order, tokens: Axes) -> Tensor:
    """Lay values or outputs, which have `dims` and features, out as (B, H, N, Dv)."""
    features = (Axis(tensor.shape[-1]),)
    groups = [leaves([axes]) for axes in (order.batch, order.heads, tokens, features)]
    return arrange(tensor, (*dims, features), groups)


@dataclass(frozen=True)
class OutputLayout:
    """How the product of weights with their values is laid out as a call's output.

    Attributes:
        dims: the product's dimensions.
        features: those of its axes that are features.
        order: the order of the output's axes.
    """

    dims: Dims
    features: Axes
    order: Order

    @staticmethod
    def of(
        weights: Weights, dims: Dims, features: Axes, heads: Axes | None = None
    ) -> "OutputLayout":
        """The layout that `attention_call` uses for the output."""
        order = weights.order if heads is None else weights.order.with_heads(heads)
        if weights.mixing is not None:
            order = replace(order, heads=weights.mixing.heads)
        return OutputLayout(dims, features, order)

    def __call__(self, product: Tensor) -> Tensor:
        """A tensor with `dims`, perhaps without the first one of size 1 → (B, H, N, Dv)."""
        order = self.order
        groups = [
            leaves([axes]) for axes in (order.batch, order.heads, order.queries, self.features)
        ]
        return arrange(product, self.dims, groups)


def _positions(weights: Weights, order: Order, kind: Literal["query", "key"]) -> Tensor | None:
    """Positions of tokens, (B, N, 2) as x and y."""
    product = weights.scores.product
    found, axes = product.query_places, product.queries
    if kind == "key":
        found, axes = product.key_places, product.keys
    if found is None:
        return None
    laid = arrange(found, (product.batch, axes), [order.batch, order.heads, leaves([axes])])
    places = torch.view_as_real(laid[:, 0].resolve_conj())
    return torch.full_like(places, torch.nan) if _differ_by_head(weights, laid) else places


def _points(weights: Weights, order: Order) -> Tensor | None:
    """Positions of keys that differ by head, (B, H, levels, points, 2); None for others."""
    product, keys = weights.scores.product, leaves([weights.scores.product.keys])
    if product.key_places is None:
        return None
    groups = [order.batch, order.heads, keys]
    laid = arrange(product.key_places, (product.batch, product.keys), groups)
    if not _differ_by_head(weights, laid):
        return None
    levels = keys[0].size if len(keys) > 1 else 1
    return torch.view_as_real(laid.resolve_conj()).reshape(*laid.shape[:2], levels, -1, 2)


def _differ_by_head(weights: Weights, places: Tensor) -> bool:
    """Whether positions of keys, (B, H, Nk), differ by head, as those of sampled points do."""
    if weights.explicit is None or places.shape[1] == 1:
        return False
    first = places[:, :1]
    return bool(((places != first) & ~(places.real.isnan() & first.real.isnan())).any())


def output_places(
    weights: Weights, dims: Dims, features: Axes, device: torch.device
) -> Tensor | None:
    """Positions of the output, which has `dims`: those of the queries; they broadcast to it.

    The output of queries that do not come from the picture, such as objects, lies nowhere.
    """
    product = weights.scores.product
    if product.query_places is None:
        return None if product.key_places is None else torch.full((), NOWHERE, device=device)
    b, n = (leaves([dim]) for dim in weights.dims[:2])
    of_product = (product.batch, product.queries)
    if weights.mixing is None:
        places = arrange(product.query_places, of_product, [b, n])
    else:  # the new heads have the same positions as the heads before
        order = weights.order
        places = arrange(product.query_places, of_product, [order.batch, order.heads, n])[:, :1]
        count = math.prod(leaf.size for leaf in weights.mixing.heads)
        places = places.expand(-1, count, -1).flatten(0, 1)
    of_features = leaves([features])
    groups = [[leaf for leaf in leaves([dim]) if leaf not in of_features] for dim in dims]
    return arrange(places, weights.dims[:2], groups)
