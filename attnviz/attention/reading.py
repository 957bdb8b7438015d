"""One recording asked one question: the sweeps, made once and shared by maps and statistics."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.recording import Recording
from attnviz.attention.sweep import Asked, Progress, Sweep

_FEW, _SMALL = 64, 1024


@dataclass(frozen=True)
class Reading:
    """A recording, what its tokens are, and where we look from.

    Attributes:
        recording: the attention calls.
        layers: the numbers of those that are asked.
        prefix: (tokens,) True for tokens before the grid.
        taking_part: (tokens,) False for masked tokens.
        positions: (tokens, 2) centres in input pixels, x and y; of prefix tokens nothing is used.
        weights: (tokens,) of the query, summing to 1.
        progress: told (rows done, rows in all), over all layers.
    """

    recording: Recording
    layers: tuple[int, ...]
    prefix: Tensor
    taking_part: Tensor
    positions: Tensor
    weights: Tensor
    progress: Progress | None = None
    _sweeps: dict[int, Sweep] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def grid(self) -> Tensor:
        """G: grid tokens that take part, (tokens,) boolean."""
        return self.taking_part & ~self.prefix

    @cached_property
    def uniform(self) -> Tensor:
        """Weights of all queries that take part alike, (tokens,)."""
        return self.taking_part / self.taking_part.sum()

    @cached_property
    def uniform_grid(self) -> Tensor:
        """Weights of all of G alike, (tokens,)."""
        return self.grid / self.grid.sum()

    @cached_property
    def _few(self) -> bool:
        """Whether the query's rows are cheaper asked for one by one than as a part of the sweep."""
        return len(self.weights) > _SMALL and int(self.weights.count_nonzero()) <= _FEW

    @cached_property
    def _alike(self) -> bool:
        """Whether the query looks from everywhere alike, as the statistics do."""
        return bool(torch.allclose(self.weights.float(), self.uniform.float(), rtol=1e-6, atol=0))

    def call(self, layer: int) -> AttentionCall:
        """The attention call of a layer."""
        return self.recording[layer]

    def sweep(self, layer: int) -> Sweep:
        """Every statistic of a layer's rows; `received` holds uniform weights, then the query's.

        The query's are left out where they are uniform too, and where `received` has only a few
        rows to ask.
        """
        if layer not in self._sweeps:
            alone = self._few or self._alike
            rows = [self.uniform] if alone else [self.uniform, self.weights]
            asked = Asked(
                query_mask=self.taking_part,
                prefix=self.prefix,
                positions=(self.positions, self.positions),
                grid=~self.prefix,
                weights=torch.stack(rows).float(),
            )
            self._sweeps[layer] = self.call(layer).sweep(asked, progress=self._progress())
        return self._sweeps[layer]

    def received(self, layer: int) -> Tensor:
        """Σ_i w_i A_ij for the query's weights, (batch, heads, tokens)."""
        if self._few:
            chosen = self.weights.nonzero()[:, 0]
            rows = self.call(layer).rows(chosen.tolist())  # (B, H, few, N)
            return torch.einsum("i,bhij->bhj", self.weights[chosen].float(), rows)
        received = self.sweep(layer).received
        assert received is not None  # asked for in `sweep`
        return received[:, :, -1]

    def _progress(self) -> Progress | None:
        """Progress of the next sweep as a part of all."""
        if self.progress is None:
            return None
        tell, before = self.progress, len(self._sweeps)
        return lambda done, of: tell(before * of + done, len(self.layers) * of)
