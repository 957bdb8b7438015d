"""`LayerInput`: a layer and its queries, with one sweep that maps and statistics share."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.scores import Pairs, pairs
from attnviz.attention.sweep import Progress, Sweep, SweepRequest

_FEW, _SMALL = 64, 1024


@dataclass(frozen=True)
class LayerTokens:
    """The queries of a call, or its keys, with their places in the picture.

    Attributes:
        cells: (windows, tokens), cell of the picture, −1 for a token that is not part of it.
        positions: (windows, tokens, 2), centres in input pixels, x and y; ignored for tokens that
            are not part of the picture.
        taking_part: (windows, tokens), False for masked tokens.
        cover: of tokens on several grids the numbers of tokens and of cells, and the share of each
            token that lies on the cell, (pairs,) each; None if each token stands for one cell.
        lie: whether tokens lie where their cells do; learned queries read cells from nowhere.
    """

    cells: Tensor
    positions: Tensor
    taking_part: Tensor
    cover: tuple[Tensor, Tensor, Tensor] | None = None
    lie: bool = True

    @classmethod
    def bare(cls, windows: int, tokens: int, device: torch.device) -> "LayerTokens":
        """Tokens without known places: all take part, none stands for a cell."""
        return cls(
            cells=torch.full((windows, tokens), -1, device=device),
            positions=torch.zeros(windows, tokens, 2, device=device),
            taking_part=torch.ones(windows, tokens, dtype=torch.bool, device=device),
        )

    def to(self, device: torch.device) -> "LayerTokens":
        """The same on a device."""
        return LayerTokens(
            cells=self.cells.to(device),
            positions=self.positions.to(device),
            taking_part=self.taking_part.to(device),
            cover=None if self.cover is None else tuple(each.to(device) for each in self.cover),  # type: ignore[arg-type]
            lie=self.lie,
        )

    @cached_property
    def on_picture(self) -> Tensor:
        """Tokens that stand for a cell, (windows, tokens) boolean."""
        return self.cells >= 0

    @cached_property
    def grid(self) -> Tensor:
        """G: tokens that stand for a cell and take part, (windows, tokens) boolean."""
        return self.on_picture & self.taking_part


class TokenGradient(NamedTuple):
    """Tokens and the gradient of a score at them, (1, tokens, features) float32 each."""

    tokens: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class LayerInput:
    """A layer, its tokens, and the queries that we look from.

    The windows of a layer share one picture. A head's statistic is one number for the whole matrix
    of all windows, in which no window sees another.

    Attributes:
        call: the attention call; its batch dimension is the windows of one picture.
        queries, keys: its tokens.
        weights: (windows, R, queries), R weight vectors, each summing to 1 over all windows.
        key_cells: number of cells that the keys' picture is divided into.
        tokens: (windows, queries, features), tokens after the layer's block; None if not kept.
        relevance: (windows, keys), relevance of the tokens that enter the first merged layer, for
            a score of the model that ends with this layer; None if not propagated.
        entering, leaving: tokens before and after the layer's block, with the gradient of a score;
            None if it was not taken.
        path: the call, with its gradient, in runs on parts of the picture, each with its share of
            their mean; empty if they were not made.
        number: the number of the layer in call order; None if it is not known.
        progress: called with (query rows done, query rows in total).
    """

    call: AttentionCall
    queries: LayerTokens
    keys: LayerTokens
    weights: Tensor
    key_cells: int
    tokens: Tensor | None = None
    relevance: Tensor | None = None
    entering: TokenGradient | None = None
    leaving: TokenGradient | None = None
    path: tuple[tuple[float, AttentionCall], ...] = ()
    number: int | None = None
    progress: Progress | None = None

    @classmethod
    def of(cls, call: AttentionCall, weights: Tensor, tokens: Tensor | None = None) -> "LayerInput":
        """The input for a call of any model; `weights` are (R, queries) or (batch, R, queries).

        The places of its tokens are not known, so there are no cells.

        >>> LayerInput.of(recording[-1], torch.eye(197)[:1]).received().shape
        torch.Size([1, 1, 2, 197])
        """
        batch, _, queries, keys = call.shape
        device = call.query.device
        return cls(
            call=call,
            queries=LayerTokens.bare(batch, queries, device),
            keys=LayerTokens.bare(batch, keys, device),
            weights=weights.to(device).expand(batch, -1, -1),
            key_cells=0,
            tokens=tokens,
        )

    @cached_property
    def uniform(self) -> Tensor:
        """Equal weights for all queries that take part, (windows, queries)."""
        return self.queries.taking_part / self.queries.taking_part.sum()

    @cached_property
    def uniform_grid(self) -> Tensor:
        """Equal weights for G; if no query is on the picture, for all queries that take part."""
        grid = self.queries.grid
        # Chosen on the device: nothing waits for it.
        return torch.where(self.queries.on_picture.any(), grid / grid.sum(), self.uniform)

    def sweep(self) -> Sweep:
        """Every statistic of the rows; `received` has uniform weights first, then `weights`.

        `weights` are left out if they are uniform too, or if only a few rows have a weight.
        """
        return self._sweep

    def pairs(self) -> Pairs:
        """The comparison of all pairs of heads over G: a separate pass, computed once."""
        return self._pairs

    def received(self) -> Tensor:
        """Σ_i w_i A_ij of every key for each of R weight vectors, (windows, R, heads, keys)."""
        if not self._few:
            received = self._sweep.received
            assert received is not None  # `_sweep` requests it
            return received[:, :, -self.weights.shape[1] :].transpose(1, 2)
        windows = self.weights.flatten(1).any(1).nonzero()[:, 0]
        chosen = self.weights.flatten(0, 1).any(0).nonzero()[:, 0]
        call = self.call if len(windows) == len(self.weights) else self.call.batch(windows)
        rows = call.rows(chosen.tolist())  # (some windows, H, few, keys)
        weights = self.weights[windows][:, :, chosen].float()
        found = torch.einsum("wri,whij->wrhj", weights, rows)
        if len(windows) == len(self.weights):
            return found
        everywhere = found.new_zeros(len(self.weights), *found.shape[1:])
        return everywhere.index_copy_(0, windows, found)

    def on_cells(self, values: Tensor) -> Tensor:
        """Sum keys' values, (windows, R, heads, keys), by cell: (R, heads, key cells).

        Keys without a cell are left out. A key that covers several cells gives each its share.
        """
        flat = values.permute(1, 2, 0, 3).flatten(2)
        cells = self.keys.cells
        where = torch.where(cells >= 0, cells, self.key_cells).flatten()
        if self.keys.cover is not None:
            tokens, where, shares = self.keys.cover
            flat = flat[..., tokens] * shares.to(flat.dtype)
        where = where.expand_as(flat)
        result = flat.new_zeros(*flat.shape[:2], self.key_cells + 1)
        return result.scatter_add_(2, where, flat)[..., :-1]

    @cached_property
    def _sweep(self) -> Sweep:
        return self.call.sweep(self.request, progress=self.progress)

    @cached_property
    def request(self) -> SweepRequest:
        """What `sweep` asks of the call."""
        weights = self.uniform[:, None].float()
        if not (self._few or self._alike):
            weights = torch.cat([weights, self.weights.float()], dim=1)
        return SweepRequest(
            query_mask=self.queries.taking_part,
            prefix=~self.keys.on_picture,
            positions=(self.queries.positions, self.keys.positions),
            grid=self.keys.on_picture,
            weights=weights,
        )

    @cached_property
    def _pairs(self) -> Pairs:
        return pairs(self.call, self.uniform_grid)

    @cached_property
    def _few(self) -> bool:
        """Whether so few rows have a weight that computing them alone is cheaper than a sweep."""
        rows = self.weights.any(1)  # (windows, queries)
        return rows.numel() > _SMALL and int(rows.sum()) <= _FEW

    @cached_property
    def _alike(self) -> bool:
        """Whether there is one weight vector and it is uniform, like that of the statistics."""
        one = self.weights.shape[1] == 1
        same = torch.allclose(self.weights[:, :1].float(), self.uniform[:, None].float(), 1e-6, 0)
        return one and bool(same)

    def to(self, device: torch.device) -> "LayerInput":
        """The same with its tokens and weights on the device; what they show is found before."""
        if self.weights.device == device:
            return self
        moved = replace(
            self,
            queries=self.queries.to(device),
            keys=self.keys.to(device),
            weights=self.weights.to(device),
        )
        vars(moved).update(_few=self._few, _alike=self._alike)
        return moved
