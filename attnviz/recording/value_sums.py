"""What a sum of values over tokens consists of, and where its tokens lie."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import Trace
from attnviz.recording.axes import Axis, Dims, arrange, leaves
from attnviz.recording.explicit_weights import ExplicitWeights
from attnviz.recording.products import Axes, Product, Scores
from attnviz.recording.score_graph import (
    Elementwise,
    Exponentials,
    Node,
    Weights,
    altered,
    explicit_weights,
    varies_along,
)

_APART = 0.25
"""Input pixels: what differs by less is one place; resampling rounds."""


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
class WeightedSum:
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

    def heads(self, explicit: ExplicitWeights) -> Axes:
        """The axes of the weights that are heads: the last beside tokens, if queries stay there."""
        tokens = {*leaves(self.dims[1:])}
        lead = [axes for axes in explicit.lead if not {*leaves([axes])} & tokens]
        heads = tuple(leaves(lead[-1:])) if len(lead) > 1 else ()
        return () if self._differ(0, heads) or self._are_windows(heads) else heads

    def _are_windows(self, heads: Axes) -> bool:
        """Whether keys differ by these axes alone, as each pixel of patches that attend apart."""
        keys = self.places[1]
        if keys is None or spread(keys) == "lost":
            return False
        rest = tuple(leaf for leaf in leaves(self.dims[:1]) if leaf not in heads)
        return self._differ(1, heads) and not self._differ(1, rest)

    def _differ(self, side: int, heads: Axes) -> bool:
        """Whether positions of queries, side 0, or of keys, side 1, differ by head."""
        places, tokens = self.places[side], self.dims[side + 1]
        if places is None or not heads:
            return False
        rest = [leaf for leaf in leaves(self.dims[:1]) if leaf not in heads]
        laid = arrange(places, (self.dims[0], tokens), [rest, heads, leaves([tokens])])
        same = (laid == laid[:, :1]) | (laid.real.isnan() & laid[:, :1].real.isnan())
        return not bool(same.all())

    def kind(self, explicit: ExplicitWeights) -> str:
        """The kind of the weights, from how they were made and where their queries lie."""
        if explicit.kind != "softmax":
            return explicit.kind
        if leaves(self.dims[2:]) != leaves(explicit.tokens[:1]):
            return "slots"
        if explicit.product is not None:
            return "softmax"
        queries, keys = self.places
        windows = keys is not None and len(keys) > 1 and not leaves(self.dims[1:2])
        heads = self.heads(explicit)
        if windows and heads and (spread(keys) == "lost" or self._differ(1, heads)):
            return "sampled"
        one = not leaves(self.dims[1:2])
        pools = one if queries is None else bool(queries.real.isnan().all())
        return "pooling" if pools else "softmax"


@dataclass(frozen=True)
class Pairing:
    """An elementwise product that is summed over some axes.

    Attributes:
        node: the product.
        summed: the axes that are summed; both factors vary along them.
        batch: other axes along which both factors vary.
        of_left, of_right: axes along which only one factor varies.
        result: the dimensions of the sum.
    """

    node: Elementwise
    summed: Axes
    batch: Axes
    of_left: Axes
    of_right: Axes
    result: Dims

    @staticmethod
    def of(node: Elementwise, summed: Axes, result: Dims) -> "Pairing | None":
        """The pairing; None if one of the factors is the same along a summed axis."""
        left, right = (varying_axes(each, node.whole) for each in (node.left, node.right))
        if not summed or not {*summed} <= left & right:
            return None
        batch, of_left, of_right = (
            tuple(leaf for leaf in leaves(node.whole) if leaf in some and leaf not in summed)
            for some in (left & right, left - right, right - left)
        )
        return Pairing(node, summed, batch, of_left, of_right, result)

    @property
    def is_plain(self) -> bool:
        """Whether the right factor alone varies along one dimension only: the features."""
        spread_over = [axes for axes in self.node.whole if {*leaves([axes])} & {*self.of_right}]
        return len(spread_over) == 1

    def left(self, tensor: Tensor) -> Tensor:
        """Lay the left factor, or its positions, out as (batch, its own axes, summed)."""
        return self._laid(tensor, self.batch, self.of_left, self.summed)

    def right(self, tensor: Tensor) -> Tensor:
        """Lay the right factor, or its positions, out as (batch, summed, its own axes)."""
        return self._laid(tensor, self.batch, self.summed, self.of_right)

    def _laid(self, tensor: Tensor, *groups: Axes) -> Tensor:
        order = [list(axes) for axes in groups]
        others = [leaf for leaf in leaves(self.node.whole) if leaf not in leaves(order)]
        return arrange(tensor, self.node.whole, [*order, others])[..., 0]


def is_textbook(weights: Weights, dims: Dims) -> bool:
    """Whether a sum over keys, with weights (b, n, m), is softmax(q·kᵀ)·v: n are its queries."""
    role, (b, n, m) = weights.scores.product.role, dims
    if any(role(leaf) == "query" for leaf in leaves([b])) or leaves([m]) != leaves(
        [weights.order.keys]
    ):
        return False
    return all(role(leaf) == "query" for leaf in leaves([n]))


def explicit_of(node: Node) -> ExplicitWeights | None:
    """The node of weights that are no softmax of q·kᵀ over the tokens of their values."""
    if isinstance(node, Exponentials):
        node = altered(node, "exp")
    if isinstance(node, Elementwise) and node.weights is not None:
        weights = explicit_weights(node.weights)
        node = replace(weights, dims=node.dims).altered("mul")
    return explicit_weights(node) if isinstance(node, Weights | ExplicitWeights | Scores) else None


def varying_axes(tensor: Tensor, dims: Dims) -> set[Axis]:
    """The axes along which a tensor, which broadcasts to `dims`, may differ."""
    missing = len(dims) - tensor.ndim
    return {
        leaf
        for dim in range(tensor.ndim)
        if varies_along(tensor, dim)
        for leaf in leaves([dims[dim + missing]])
    }


def query_places(product: Product, dims: Dims) -> Tensor | None:
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
    return "different" if bool((high - low > _APART).any()) else "one"


def is_parameter(tensor: Any) -> bool:
    """Whether a tensor is a parameter, or a view of one."""
    return isinstance(tensor, Tensor) and (
        isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)  # noqa: SLF001
    )
