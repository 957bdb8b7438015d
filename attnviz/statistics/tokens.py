"""Finds tokens that stand out in their layer: sinks, tokens of high norm, massive activations."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention.layer_input import LayerInput, LayerTokens
from attnviz.attention.token_norms import DEVIATIONS, deviation, median, norm_limit

SHARE = 10.0
"""A sink receives more than so many times the mean of all keys."""
MASSIVE = 20.0
"""A massive activation is at least so many times the root mean square of its token."""

Kind = Literal["cls", "prefix", "cell", "other"]


@dataclass(frozen=True)
class Token:
    """A token that stands out.

    Attributes:
        window, token: numbers of its window and of the token; global attention has one window.
        cell: its cell, row·columns + column; −1 for a token that is no part of the picture.
        value: received attention, or norm.
        head: the head in which it stands out; None if it does so for all heads.
        before: whether it is no part of the picture and comes before all tokens that are, in a
            layer of one window: class token, register or distillation token.
    """

    window: int
    token: int
    cell: int
    value: float
    head: int | None = None
    before: bool = False

    def kind(self, *, class_token: int | None) -> Kind:
        """The kind of the token, in a layer whose class token has this number.

        `other` comes after the picture's tokens (detection tokens) or pads a window.
        """
        if self.cell >= 0:
            return "cell"
        if self.token == class_token:
            return "cls"
        return "prefix" if self.before else "other"


@dataclass(frozen=True)
class HighNorm:
    """Tokens of high norm, the highest first, and the reference for their norms."""

    tokens: tuple[Token, ...]
    median: float
    limit: float


@dataclass(frozen=True, eq=False)
class MassiveTokens:
    """Tokens with massive activations in the dimensions where the first token has them.

    Attributes:
        dimensions: the features where the first token has a massive activation.
        tokens: (tokens,) boolean, which tokens have one there, too.
    """

    dimensions: tuple[int, ...]
    tokens: NDArray[np.bool_]


def massive_tokens(hidden: Tensor) -> MassiveTokens:
    """Tokens that act as sinks, by the tokens (tokens, features) that enter a layer.

    The sink dimensions are those where the first token has |x_d| ≥ `MASSIVE`·rms(x); a token is a
    sink if it has so in one of them (Kang et al. 2025, 2503.03321: φ ≥ τ = 20).

    >>> massive_tokens(torch.eye(1, 900).repeat(3, 1) + 0.001).dimensions
    (0,)
    """
    with torch.no_grad():
        first = hidden[0].float()
        where = (first.abs() >= MASSIVE * first.square().mean().sqrt()).nonzero()[:, 0]
        found = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
        if len(where):
            size = hidden.float().square().mean(-1).sqrt()
            found = hidden[:, where].float().abs().amax(-1) >= MASSIVE * size
        return MassiveTokens(tuple(where.tolist()), found.cpu().numpy())


def sinks(reading: LayerInput) -> tuple[Token, ...]:
    """Keys that receive far more than others, head by head, the strongest first.

    α_j, the mean over the queries i that take part of A_ij, exceeds both the median plus
    `DEVIATIONS` MADs and `SHARE` times the mean over the keys that take part, in all windows
    (by a threshold on α: Gu et al., 2410.10781, whose threshold is one for all lengths). None of
    them is a sink if rows do not sum to 1, or if they are points that one query alone samples.
    """
    if not _may_have_sinks(reading):
        return ()
    received, found = _received(reading)
    tokens: list[Token] = []
    for head, values in enumerate(received):
        chosen = _above(values, found[head])
        tokens += _tokens(reading.keys, chosen, values[chosen], head=head)
    return tuple(tokens)


def sink_count(reading: LayerInput) -> Tensor:
    """Number of `sinks` of each head, (heads,); NaN if there can be none."""
    received, limits = _received(reading)
    found = (received > limits[:, None]).sum(1).float()
    return found + (0.0 if _may_have_sinks(reading) else math.nan)


def _may_have_sinks(reading: LayerInput) -> bool:
    """Whether rows are distributions over keys that several queries may see."""
    return reading.call.sums_to_one and reading.call.points is None


def high_norm(reading: LayerInput) -> HighNorm | None:
    """Tokens after the layer's block whose L2 norm exceeds both limits; None if not kept.

    The limits are the median plus `DEVIATIONS` MADs, and `LARGE` times the median, over the tokens
    of all windows that take part (Darcet et al., 2309.16588, who cut at 150 in DINOv2-g).
    """
    if reading.tokens is None:
        return None
    norms = reading.tokens.detach().float().norm(dim=-1).cpu()
    norms = norms[reading.queries.taking_part.cpu()]
    middle, limit = norm_limit(norms)
    chosen = _above(norms, limit)
    return HighNorm(
        tokens=_tokens(reading.queries, chosen, norms[chosen]),
        median=float(middle),
        limit=float(limit),
    )


def _received(reading: LayerInput) -> tuple[Tensor, Tensor]:
    """α of the keys that take part, (heads, keys of all windows), and the limit of each head."""
    received = reading.sweep().received
    assert received is not None  # always requested
    part = reading.keys.taking_part
    alpha = received[:, :, 0].transpose(0, 1)[:, part].cpu()
    robust = median(alpha) + DEVIATIONS * deviation(alpha)
    return alpha, torch.maximum(robust, SHARE * alpha.mean(-1))


def _above(values: Tensor, limit: Tensor) -> Tensor:
    """Indexes of the values that exceed a limit, the highest value first."""
    chosen = (values > limit).nonzero()[:, 0]
    return chosen[values[chosen].argsort(descending=True, stable=True)]


def _tokens(
    side: LayerTokens, chosen: Tensor, values: Tensor, *, head: int | None = None
) -> tuple[Token, ...]:
    """Tokens by their index among the queries or keys that take part."""
    places = side.taking_part.nonzero().cpu()[chosen]
    cells = side.cells.cpu()
    inside = (cells[0] >= 0).nonzero()
    first = int(inside[0]) if len(cells) == 1 and len(inside) else 0
    return tuple(
        Token(window, token, int(cells[window, token]), value, head, before=token < first)
        for (window, token), value in zip(places.tolist(), values.tolist(), strict=True)
    )
