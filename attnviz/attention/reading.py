"""One layer asked one question: the sweep, made once and shared by maps and statistics."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.sweep import Asked, Progress, Sweep

_FEW, _SMALL = 64, 1024


@dataclass(frozen=True)
class Side:
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

    @cached_property
    def on_picture(self) -> Tensor:
        """Tokens that stand for a cell, (windows, tokens) boolean."""
        return self.cells >= 0

    @cached_property
    def grid(self) -> Tensor:
        """G: tokens that stand for a cell and take part, (windows, tokens) boolean."""
        return self.on_picture & self.taking_part


@dataclass(frozen=True)
class Reading:
    """A layer, what its tokens are, and where we look from.

    The windows of a layer share one picture: a number of a head is one of the whole matrix that
    they make together, in which no window sees another.

    Attributes:
        call: the attention call; its batch are the windows of one picture.
        queries, keys: what its tokens are.
        weights: (windows, queries) of the query, summing to 1 over all windows.
        key_cells: number of cells that the keys' picture is cut into.
        progress: told (query rows done, query rows in all).
    """

    call: AttentionCall
    queries: Side
    keys: Side
    weights: Tensor
    key_cells: int
    progress: Progress | None = None

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
        """Every statistic of the rows; `received` holds uniform weights, then the query's.

        The query's are left out where they are uniform too, and where `received` has only a few
        rows to ask.
        """
        return self._sweep

    def received(self) -> Tensor:
        """Σ_i w_i A_ij of each key cell for the query's weights, (heads, key cells)."""
        if not self._few:
            received = self._sweep.received
            assert received is not None  # asked for in `_sweep`
            return self._on_cells(received[:, :, -1], self.keys.cells)
        windows = self.weights.any(1).nonzero()[:, 0]
        chosen = self.weights.any(0).nonzero()[:, 0]
        call = self.call if len(self.weights) == 1 else self.call.batch(windows)
        rows = call.rows(chosen.tolist())  # (windows, H, few, keys)
        weights = self.weights[windows][:, chosen].float()
        return self._on_cells(torch.einsum("wi,whij->whj", weights, rows), self.keys.cells[windows])

    @cached_property
    def _sweep(self) -> Sweep:
        rows = [self.uniform] if self._few or self._alike else [self.uniform, self.weights]
        asked = Asked(
            query_mask=self.queries.taking_part,
            prefix=~self.keys.on_picture,
            positions=(self.queries.positions, self.keys.positions),
            grid=self.keys.on_picture,
            weights=torch.stack(rows, dim=1).float(),
        )
        return self.call.sweep(asked, progress=self.progress)

    @cached_property
    def _few(self) -> bool:
        """Whether the query's rows are cheaper asked for one by one than as a part of the sweep."""
        return self.weights.numel() > _SMALL and int(self.weights.count_nonzero()) <= _FEW

    @cached_property
    def _alike(self) -> bool:
        """Whether the query looks from everywhere alike, as the statistics do."""
        return bool(torch.allclose(self.weights.float(), self.uniform.float(), rtol=1e-6, atol=0))

    def _on_cells(self, received: Tensor, cells: Tensor) -> Tensor:
        """(windows, heads, keys) as (heads, key cells); what lies on no cell is left out."""
        values = received.transpose(0, 1).flatten(1)
        where = torch.where(cells >= 0, cells, self.key_cells).flatten().expand_as(values)
        result = values.new_zeros(len(values), self.key_cells + 1)
        return result.scatter_add_(1, where, values)[:, :-1]
