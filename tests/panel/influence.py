"""Where a token lies, by what it depends on: the middle of the pixels that change it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PROBES = 1
"""Random directions of a token's features that are asked for their gradient."""
WIDE = 5.0
"""Spread, in pixels, from where on a token sees the picture rather than a place."""
SHARE = 0.3
"""Pixels that matter less than this share of the one that matters most don't count."""


@dataclass(frozen=True)
class Places:
    """Of each token, the middle of what it sees and how wide that is, in pixels.

    Attributes:
        middle: (tokens, 2), NaN where it sees nothing.
        doubt: (tokens,), how far what hardly counts would move the middle.
        spread: (tokens,), the root mean square distance from the middle.
        area: (tokens,), number of pixels that count.
    """

    middle: Tensor
    doubt: Tensor
    spread: Tensor
    area: Tensor

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
        """How far positions (tokens, 2) are away where that is too far, in pixels; else 0.

        A token that sees a place lies half a cell from its middle at most, along each side. One
        that sees more than a cell, or parts that lie apart, lies within what it sees. Both may be
        as far away again as the middle is in doubt.
        """
        away = (found - self.middle).abs().amax(-1)
        compact = self.spread <= min(self.cell, 1.3 * float(self.spread.nanmedian()))
        may = torch.where(compact, self.cell / 2, self.spread.clamp(min=self.cell / 2)) + self.doubt
        return torch.where(away > may, away, 0.0)

    @property
    def somewhere(self) -> Tensor:
        """Which tokens may not be said to lie nowhere.

        They see a part of the picture, not all of it, and are not padding for the most part.
        """
        narrow = self.middle[:, 0].isfinite() & (self.spread < WIDE)
        return narrow & (self.area > torch.where(narrow, self.area, 0).max() / 2)


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
    influence = torch.where(most > 1e-5 * most.max().clamp(min=1e-30), influence, 0.0)
    counting = torch.where(influence >= SHARE * most, influence, 0.0)
    middle = _middle(counting)
    weights = counting / counting.sum((1, 2), keepdim=True)
    y, x = _pixels(influence)
    square = (x - middle[:, :1, None]) ** 2 + (y[:, None] - middle[:, 1:, None]) ** 2
    return Places(
        middle=middle,
        doubt=(_middle(influence) - middle).abs().amax(-1),
        spread=(weights * square).sum((1, 2)).sqrt(),
        area=(weights > 0).sum((1, 2)),
    )


def _middle(influence: Tensor) -> Tensor:
    """Centre of mass, (tokens, 2); NaN where there is none."""
    y, x = _pixels(influence)
    sums = torch.stack([(influence.sum(1) * x).sum(1), (influence.sum(2) * y).sum(1)], -1)
    return sums / influence.sum((1, 2))[:, None]


def _pixels(influence: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of rows and of columns."""
    height, width = influence.shape[1:]
    return torch.arange(height) + 0.5, torch.arange(width) + 0.5
