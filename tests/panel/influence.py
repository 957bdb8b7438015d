"""Where a token lies, by what it depends on: the middle of the pixels that change it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PROBES = 1
"""Random directions of a token's features that are asked for their gradient."""
SHARE = 0.15
"""Pixels that matter less than this share of the one that matters most don't count."""


@dataclass(frozen=True)
class Places:
    """Of each token, the middle of what it sees and how wide that is, in pixels.

    Attributes:
        middle: (tokens, 2), NaN where it sees nothing.
        spread: (tokens,), the root mean square distance from the middle.
    """

    middle: Tensor
    spread: Tensor

    @property
    def cell(self) -> float:
        """Distance of tokens that are neighbours, in pixels; infinite if there are none.

        Three of four are no farther from the next: those at a border see less, and lie closer.
        """
        there = self.middle[self.middle.isfinite().all(-1)]
        distances = torch.cdist(there, there)
        distances[distances < 0.1] = torch.inf
        nearest = distances.amin(1) if len(there) else distances.new_full((1,), torch.inf)
        nearest = nearest[nearest.isfinite()]
        return float(nearest.quantile(0.75)) if len(nearest) else float("inf")

    def wrong(self, found: Tensor) -> Tensor:
        """How far positions (tokens, 2) lie outside of what they may be, in pixels; 0 if they do not.

        A token that sees a place lies half a cell from its middle at most, along each side. One that
        sees more than a cell, or parts that lie apart, lies within what it sees.
        """
        away = (found - self.middle).abs().amax(-1)
        may = torch.where(self.spread <= self.cell, self.cell / 2, self.spread)
        return torch.where(away > may, away, 0.0)


def places_of(chain: Callable[[Tensor], Tensor], picture: Tensor) -> Places:
    """Of every token that a chain makes of a picture (1, c, h, w)."""
    x = picture.clone().requires_grad_()
    tokens = chain(x)[0]  # (tokens, features)
    generator = torch.Generator().manual_seed(0)
    influence = torch.zeros(len(tokens), *picture.shape[2:])
    for _ in range(PROBES):
        scores = tokens @ (torch.rand(tokens.shape[1], generator=generator) + 0.5)
        for number, score in enumerate(scores):
            if not score.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(score, x, retain_graph=True, allow_unused=True)
            if gradient is not None:
                influence[number] += gradient[0].abs().sum(0)
    return _summed_up(influence)


def _summed_up(influence: Tensor) -> Places:
    """Middle and spread of (tokens, height, width)."""
    most = influence.flatten(1).amax(1)[:, None, None]
    largest = most.max().clamp(min=1e-30)
    weights = torch.where((influence >= SHARE * most) & (most > 1e-5 * largest), influence, 0.0)
    weights = weights / weights.sum((1, 2), keepdim=True)  # 0 / 0 is NaN, as it should be
    y, x = (torch.arange(size) + 0.5 for size in influence.shape[1:])
    middle = torch.stack([(weights.sum(1) * x).sum(1), (weights.sum(2) * y).sum(1)], -1)
    square = (x - middle[:, :1, None]) ** 2 + (y[:, None] - middle[:, 1:, None]) ** 2
    return Places(middle, (weights * square).sum((1, 2)).sqrt())
