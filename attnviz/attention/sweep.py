"""`SweepRequest` and `Sweep`: the request and the result of one pass over the rows of A."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

Progress = Callable[[int, int], None]
"""A function that receives the number of query rows done, and their total number."""


@dataclass(frozen=True)
class SweepRequest:
    """The statistics to compute, in addition to the entropy and the largest weight of every row.

    Each tensor may have a batch axis in front, because windows of a picture hold different tokens.

    Attributes:
        query_mask: (Nq,) boolean; results for other queries are 0, and they add nothing to
            `received`.
        prefix: (Nk,) boolean, P; requests `prefix_mass`.
        positions: (Nq, 2) and (Nk, 2), x and y; requests `distance`.
        grid: (Nk,) boolean, G, the keys that `distance` uses; all keys by default.
        weights: (R, Nq); requests `received`.
        squares: requests `sum_of_squares`.
    """

    query_mask: Tensor | None = None
    prefix: Tensor | None = None
    positions: tuple[Tensor, Tensor] | None = None
    grid: Tensor | None = None
    weights: Tensor | None = None
    squares: bool = False

    def batch(self, items: int | slice) -> "SweepRequest":
        """The request for some items of the batch; for a single item, without the batch axis."""

        def of(tensor: Tensor, axes: int) -> Tensor:
            return tensor if tensor.ndim == axes else tensor[items]

        mask, prefix, grid = self.query_mask, self.prefix, self.grid
        places, weights = self.positions, self.weights
        return replace(
            self,
            query_mask=None if mask is None else of(mask, 1),
            prefix=None if prefix is None else of(prefix, 1),
            positions=None if places is None else (of(places[0], 2), of(places[1], 2)),
            grid=None if grid is None else of(grid, 1),
            weights=None if weights is None else of(weights, 2),
        )


@dataclass(frozen=True)
class Sweep:
    """The results of one pass over the rows of A; None for statistics that were not requested.

    All are (batch, heads, queries), except `received`, (batch, heads, R, keys).

    Attributes:
        lse: ln Σ_j exp s_ij.
        entropy: −Σ_j A_ij ln A_ij, in nats.
        confidence: max_j A_ij.
        prefix_mass: Σ_{j∈P} A_ij.
        distance: Σ_{j∈G} Â_ij·d_ij; Â is the row restricted to G and renormalised.
        sum_of_squares: Σ_j A_ij².
        received: Σ_i w_ri A_ij.
    """

    lse: Tensor
    entropy: Tensor
    confidence: Tensor
    prefix_mass: Tensor | None = None
    distance: Tensor | None = None
    sum_of_squares: Tensor | None = None
    received: Tensor | None = None
