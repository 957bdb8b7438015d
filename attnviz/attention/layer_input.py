"""One layer asked some questions: the sweep, made once and shared by maps and statistics."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.head_pairs import Pairs, pairs
from attnviz.attention.sweep import Progress, Sweep, SweepRequest

_FEW, _SMALL = 64, 1024


@dataclass(frozen=True)
class LayerTokens:
    """The queries of a call, or its keys: what each of them stands for.

    Attributes:
        cells: (windows, tokens) cell of the picture, −1 for a token that is no part of it.
        positions: (windows, tokens, 2) centres in input pixels, x and y; of tokens that are no
            part of the picture nothing is used.
        taking_part: (windows, tokens) False for masked tokens.
    """

    cells: Tensor
    positions: Tensor
    taking_part: Tensor

    @classmethod
    def bare(cls, windows: int, tokens: int, device: torch.device) -> "LayerTokens":
        """Tokens of which nothing is known: all take part, none is a place."""
        return cls(
            cells=torch.full((windows, tokens), -1, device=device),
            positions=torch.zeros(windows, tokens, 2, device=device),
            taking_part=torch.ones(windows, tokens, dtype=torch.bool, device=device),
        )

    @cached_property
    def on_picture(self) -> Tensor:
        """Tokens that stand for a cell, (windows, tokens) boolean."""
        return self.cells >= 0

    @cached_property
    def grid(self) -> Tensor:
        """G: tokens that stand for a cell and take part, (windows, tokens) boolean."""
        return self.on_picture & self.taking_part


@dataclass(frozen=True)
class LayerInput:
    """A layer, what its tokens are, and where we look from.

    The windows of a layer share one picture: a number of a head is one of the whole matrix that
    they make together, in which no window sees another.

    Attributes:
        call: the attention call; its batch are the windows of one picture.
        queries, keys: what its tokens are.
        weights: (windows, R, queries) of each of R questions, summing to 1 over all windows.
        key_cells: number of cells that the keys' picture is cut into.
        tokens: (windows, queries, features) after the layer's block, where they were kept.
        relevance: (windows, keys) of the tokens that enter the first layer merged, for a score of
            the model that ends with this layer; where it was propagated.
        progress: told (query rows done, query rows in all).
    """

    call: AttentionCall
    queries: LayerTokens
    keys: LayerTokens
    weights: Tensor
    key_cells: int
    tokens: Tensor | None = None
    relevance: Tensor | None = None
    progress: Progress | None = None

    @classmethod
    def of(cls, call: AttentionCall, weights: Tensor, tokens: Tensor | None = None) -> "LayerInput":
        """A call that is asked from `weights`, (R, queries) or (batch, R, queries), of any model.

        What its tokens stand for is not known, so there are no cells.

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
        """Weights of all queries that take part alike, (windows, queries)."""
        return self.queries.taking_part / self.queries.taking_part.sum()

    @cached_property
    def uniform_grid(self) -> Tensor:
        """Weights of all of G alike; where no query is on the picture, of all that take part."""
        grid = self.queries.grid
        return grid / grid.sum() if bool(self.queries.on_picture.any()) else self.uniform

    def sweep(self) -> Sweep:
        """Every statistic of the rows; `received` holds uniform weights, then the questions'.

        Those are left out where they are uniform too, and where `received` has only a few rows to
        ask.
        """
        return self._sweep

    def pairs(self) -> Pairs:
        """Every head beside every other over G: a pass of its own, made once."""
        return self._pairs

    def received(self) -> Tensor:
        """Σ_i w_i A_ij of every key for each question's weights, (windows, R, heads, keys)."""
        if not self._few:
            received = self._sweep.received
            assert received is not None  # asked for in `_sweep`
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
        """What keys have, (windows, R, heads, keys), as (R, heads, key cells); the rest is left."""
        flat = values.permute(1, 2, 0, 3).flatten(2)
        cells = self.keys.cells
        where = torch.where(cells >= 0, cells, self.key_cells).flatten().expand_as(flat)
        result = flat.new_zeros(*flat.shape[:2], self.key_cells + 1)
        return result.scatter_add_(2, where, flat)[..., :-1]

    @cached_property
    def _sweep(self) -> Sweep:
        weights = self.uniform[:, None].float()
        if not (self._few or self._alike):
            weights = torch.cat([weights, self.weights.float()], dim=1)
        request = SweepRequest(
            query_mask=self.queries.taking_part,
            prefix=~self.keys.on_picture,
            positions=(self.queries.positions, self.keys.positions),
            grid=self.keys.on_picture,
            weights=weights,
        )
        return self.call.sweep(request, progress=self.progress)

    @cached_property
    def _pairs(self) -> Pairs:
        return pairs(self.call, self.uniform_grid)

    @cached_property
    def _few(self) -> bool:
        """Whether the questions' rows are cheaper asked one by one than as a part of the sweep."""
        rows = self.weights.any(1)  # (windows, queries)
        return rows.numel() > _SMALL and int(rows.sum()) <= _FEW

    @cached_property
    def _alike(self) -> bool:
        """Whether the one question looks from everywhere alike, as the statistics do."""
        one = self.weights.shape[1] == 1
        same = torch.allclose(self.weights[:, :1].float(), self.uniform[:, None].float(), 1e-6, 0)
        return one and bool(same)
