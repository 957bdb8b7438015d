"""Follows weights to the sum of values over tokens, by a matrix product or elementwise.

Weights that are a softmax of q·kᵀ give an exact call. Others (additive scores, sigmoids, parts and
differences of softmaxes, pooling by a small network) give an explicit one: the weights themselves,
as the model multiplies them with its values.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from attnviz.attention.call import MATRIX_LIMIT, AttentionCall
from attnviz.attribution.call_gradients import Trace
from attnviz.recording.axes import Axis, Dims, arrange, leaves
from attnviz.recording.operation import After, Operation, by_names, node_of
from attnviz.recording.output_nodes import WeightedValues
from attnviz.recording.output_tracker import Outputs
from attnviz.recording.score_graph import (
    Axes,
    Elementwise,
    Exponentials,
    Node,
    OwnWeights,
    Product,
    Scores,
    Weights,
    altered,
    own_weights,
    varies_along,
)
from attnviz.recording.score_tracker import Nodes, ScoreTracker, nothing
from attnviz.recording.to_call import (
    OutputLayout,
    attention_call,
    output_places,
    own_call_weights,
)

MEMORY = "weights over a memory that is no part of the picture"


class Places(Protocol):
    """Positions of tokens; see `PositionRegistry.tokens`. None: unknown."""

    def __call__(
        self,
        tensor: Tensor,
        over: int,
        *,
        lay: Callable[[Tensor], Tensor] | None = None,
        weights: bool = False,
    ) -> Tensor | None:
        """The positions of a tensor's tokens after averaging over one of its dimensions."""


@dataclass(frozen=True)
class CallListener:
    """The callbacks of a `ValuesTracker`.

    Attributes:
        found: receives a call, its output, the output's positions, and the call's trace; returns
            the call's number.
        dropped: receives the number of a call that proved not to be attention.
        unread: receives a description of something that looks like attention but cannot be read.
        places: returns the positions of tokens.
        of_channels: returns whether the features of a tensor are the tokens, as in attention over
            channels.
        traced: whether there is a picture, so that tensors without positions do not depend on it.
    """

    found: Callable[[AttentionCall, Tensor, Tensor | None, Trace], int]
    dropped: Callable[[int], None]
    unread: Callable[[str], None]
    places: Places
    of_channels: Callable[[Tensor], bool]
    traced: bool


@dataclass(frozen=True)
class _Sum:
    """Weights, (b, n, m), that are multiplied with values, (b, m, Dv), and how.

    Attributes:
        weights, value: the tensors, laid out.
        dims: dimensions of the weights, (b, n, m).
        result: the dimensions of the sum as the model computes it.
        features: those of its axes that are features.
        places: positions of queries, (b, n), and of keys, (b, m).
    """

    weights: Tensor
    value: Tensor
    dims: Dims
    result: Dims
    features: Axes
    places: tuple[Tensor | None, Tensor | None]


class ValuesTracker(ScoreTracker):
    """Finds the sums of values over tokens."""

    def __init__(self, listener: CallListener, outputs: Outputs) -> None:
        super().__init__()
        self._listener, self._outputs = listener, outputs

    def _weigh(
        self, op: Operation, node: Node | None, weights: Tensor, value: Tensor, *, turned: bool
    ) -> After | None:
        """A matrix product of weights, (b, n, m), and values, (b, m, Dv), if it is one."""
        if not isinstance(node, Weights | OwnWeights | Scores | Elementwise | Exponentials):
            return None
        features: Axes = (Axis(value.shape[2]),)
        b, n, m = node.dims
        result = (b, features, n) if turned else (b, n, features)
        result = result[1:] if op.name == "mm" else result
        if isinstance(node, Weights):
            role = node.scores.product.role
            alike = not any(role(leaf) == "query" for leaf in leaves([b]))
            if alike and leaves([m]) == leaves([node.order.keys]):
                return self._found(op, node, value, result, features)
            if leaves([m]) not in (leaves([node.order.keys]), leaves([node.order.queries])):
                return None
        own = _own(node)
        if own is None:
            return None
        of_weights, of_value = (op.args[1], op.args[0]) if turned else op.args[:2]
        flat = op.name == "mm"
        places = (
            self._listener.places(of_weights, -2 if turned else -1, weights=True),
            self._listener.places(of_value, -2 if turned else -1),
        )
        places = tuple(p[None] if flat and p is not None else p for p in places)
        found = _Sum(weights, value, node.dims, result, features, places)
        return self._found_own(op, node, own, found, learned=is_parameter(of_value))

    def _found(
        self, op: Operation, weights: Weights, value: Tensor, dims: Dims, features: Axes
    ) -> After:
        """Report a call whose output is the result of an operation, with `dims`."""
        trace = Trace(op.name, node_of(op), OutputLayout.of(weights, dims, features))
        b, n = weights.dims[:2]

        def after(result: Tensor) -> None:
            output = arrange(result.detach(), dims, [leaves([each]) for each in (b, n, features)])
            values = WeightedValues(weights, value.detach(), output, dims, features)
            call = attention_call(weights, values.value, values.output)
            product = weights.scores.product
            places = None if product.of_channels else output_places(weights, dims, features)
            number = self._listener.found(call, result, places, trace)
            self._nodes.forget(result)
            self._outputs.by_hand(result, number, values)

        return after

    def _found_own(
        self, op: Operation, node: Node, own: OwnWeights, found: _Sum, *, learned: bool
    ) -> After | None:
        """Report a call of weights that are no softmax of q·kᵀ, unless they are not over tokens."""
        if not own.are_tokens(found.dims[2:]):
            return None
        places, of_values = found.places, spread(found.places[1])
        if isinstance(node, Scores):
            fixed = not node.product.batch or node.product.learned or learned
            over_tokens = of_values in ("different", "lost")
            if fixed or not (over_tokens if self._listener.traced else node.unfollowed):
                return None
        elif not own.tokens and of_values != "different":
            return None
        elif learned or (self._listener.traced and of_values is None):
            self._listener.unread(MEMORY)
            return nothing
        elif of_values == "one":
            return None
        size = found.weights.element_size() * found.weights.numel()
        if size > MATRIX_LIMIT:
            self._listener.unread(f"weights that take {size / 1e9:.1f} GB ({own.kind})")
            return nothing
        if own.kind == "softmax" and own.product is None:
            one = not leaves(found.dims[1:2])
            pools = one if places[0] is None else bool(places[0].real.isnan().all())
            own = replace(own, kind="pooling" if pools else own.kind)
        elif own.kind == "softmax" and leaves(found.dims[2:]) != leaves(own.tokens[:1]):
            own = replace(own, kind="slots")
        if own.product is not None:
            queries = _places_of(own.product, found.dims)
            places = (places[0] if queries is None else queries, places[1])
        weights = own_call_weights(own, found.weights, found.dims, places)
        return self._found(op, weights, found.value, found.result, found.features)

    def _summed(self, op: Operation, nodes: Nodes) -> After | None:
        """A sum of exponentials, or of an elementwise product: q·kᵀ, or weights times values."""
        node, over = nodes[0], op.get(1, "dim")
        if not isinstance(node, Elementwise) or not over:
            return super()._summed(op, nodes)
        dims = {dim % len(node.dims) for dim in ([over] if isinstance(over, int) else over)}
        summed = tuple(leaves([node.dims[dim] for dim in sorted(dims)]))
        kept = op.get(2, "keepdim", False)
        result = tuple(
            () if dim in dims else axes
            for dim, axes in enumerate(node.dims)
            if kept or dim not in dims
        )
        left, right = (_varying(each, node.whole) for each in (node.left, node.right))
        if not summed or not {*summed} <= left & right:
            return None
        every = leaves(node.whole)
        batch, of_left, of_right = (
            tuple(leaf for leaf in every if leaf in some and leaf not in summed)
            for some in (left & right, left - right, right - left)
        )

        def laid(groups: list[Axes], others: Axes) -> Callable[[Tensor], Tensor]:
            rest = [leaf for leaf in every if leaf not in leaves([*groups])]
            assert {*others} <= {*rest}
            order = [*map(list, groups), rest]
            return lambda tensor: arrange(tensor, node.whole, order)[..., 0]

        lay = laid([batch, of_left, summed], of_right), laid([batch, summed, of_right], of_left)
        if node.weights is None:
            scores = self._product_of(node, lay, (batch, of_left, of_right), result)
            return None if scores is None else lambda found: self._put(found, scores)
        spread = [axes for axes in node.whole if {*leaves([axes])} & {*of_right}]
        if not of_right or (not self._listener.traced and len(spread) > 1):
            return None
        return self._sum_of(op, node, lay, (batch, of_left, summed), result, of_right)

    def _product_of(
        self,
        node: Elementwise,
        lay: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
        axes: tuple[Axes, Axes, Axes],
        dims: Dims,
    ) -> Scores | None:
        """The sum over features of an elementwise product of queries and keys."""
        batch, queries, keys = axes
        if not queries and not keys:
            return None
        product = Product(
            query=lay[0](node.left) * node.factor,
            key=lay[1](node.right).mT,
            batch=batch,
            queries=queries,
            keys=keys,
            query_places=self._listener.places(node.left, -1, lay=lay[0]),
            key_places=self._listener.places(node.right, -2, lay=lay[1]),
        )
        return Scores(product, dims)

    def _sum_of(
        self,
        op: Operation,
        node: Elementwise,
        lay: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]],
        dims: Dims,
        result: Dims,
        features: Axes,
    ) -> After | None:
        """The sum over keys of an elementwise product of weights and values."""
        weights, value = node.weights, lay[1](node.right)
        if isinstance(weights, Weights):
            role = weights.scores.product.role
            alike = not any(role(leaf) == "query" for leaf in leaves(dims[:1]))
            exact = alike and node.factor == 1
            if exact and leaves(dims[2:]) == leaves([weights.order.keys]):
                return self._found(op, replace(weights, dims=dims), value, result, features)
        own = None if weights is None else _own(weights)
        if weights is None or own is None or node.factor != 1:
            return None
        places = (
            self._listener.places(node.left, -1, lay=lay[0], weights=True),
            self._listener.places(node.right, -1, lay=lay[1]),
        )
        found = _Sum(lay[0](node.left), value, dims, result, features, places)
        return self._found_own(op, weights, own, found, learned=False)


def _own(node: Node) -> OwnWeights | None:
    """The node of weights that are no softmax of q·kᵀ over the tokens of their values."""
    if isinstance(node, Exponentials):
        node = altered(node, "exp")
    if isinstance(node, Elementwise) and node.weights is not None:
        weights = own_weights(node.weights)
        node = replace(weights, dims=node.dims).altered("mul")
    return own_weights(node) if isinstance(node, Weights | OwnWeights | Scores) else None


def _varying(tensor: Tensor, dims: Dims) -> set[Axis]:
    """The axes along which a tensor, which broadcasts to `dims`, may differ."""
    missing = len(dims) - tensor.ndim
    return {
        leaf
        for dim in range(tensor.ndim)
        if varies_along(tensor, dim)
        for leaf in leaves([dims[dim + missing]])
    }


def _places_of(product: Product, dims: Dims) -> Tensor | None:
    """Positions of the queries of weights with these dimensions, (b, n), from their product."""
    b, n, _ = (leaves([each]) for each in dims)
    for places, axes in (
        (product.query_places, product.queries),
        (product.key_places, product.keys),
    ):
        known = {*leaves([product.batch, axes])}
        if places is not None and known == {*b, *n} and {*leaves([axes])} & {*n}:
            return arrange(places, (product.batch, axes), [b, n])
    return None


def spread(places: Tensor | None) -> str | None:
    """Where tokens (b, m) lie: at `different` places, all at `one`, `nowhere`, or `lost`."""
    if places is None:
        return None
    if bool(places.real.isinf().any()):
        return "lost"
    if bool(places.real.isnan().all()):
        return "nowhere"
    parts = torch.view_as_real(places.resolve_conj())
    low = torch.where(parts.isfinite(), parts, torch.inf).amin(1)
    high = torch.where(parts.isfinite(), parts, -torch.inf).amax(1)
    return "different" if bool((high - low > 0).any()) else "one"


def is_parameter(tensor: Any) -> bool:
    """Whether a tensor is a parameter, or a view of one."""
    return isinstance(tensor, Tensor) and (
        isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)  # noqa: SLF001
    )


ValuesTracker.handlers = ScoreTracker.handlers | by_names(
    {"sum": ValuesTracker._summed}  # noqa: SLF001
)
