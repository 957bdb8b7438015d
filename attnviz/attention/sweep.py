"""One pass over the rows of A: the tensors of a call, the request, and the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

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

    def collected(self, numbers: Sequence[Tensor], received: Tensor | None) -> "Sweep":
        """The result, of the numbers of all rows: what was not requested is left out.

        Args:
            numbers: log-sum-exp, entropy, largest weight, prefix mass, distance, sum of squares,
                each (batch, heads, queries).
            received: (batch, heads, R, keys).
        """
        lse, entropy, confidence, mass, distance, squares = numbers
        return Sweep(
            lse=lse,
            entropy=entropy,
            confidence=confidence,
            prefix_mass=None if self.prefix is None else mass,
            distance=None if self.positions is None else distance,
            sum_of_squares=squares if self.squares else None,
            received=None if self.weights is None else received,
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


@dataclass(frozen=True)
class CallTensors:
    """The tensors of one softmax(q·kᵀ·scale + bias)·v of a model.

    A call whose weights the model made in another way is explicit: it has no features, D = 0. If
    its rows sum to 1, `bias` is the logarithm of the weights; if not, `weights` holds them.

    Attributes:
        query: (B, H, Nq, D).
        key: (B, Hk, Nk, D); Hk divides H (grouped queries).
        value: (B, Hk, Nk, Dv).
        scale: the factor on the scores.
        bias: added to the scores, or boolean with True for "takes part"; broadcasts to
            (B, H, Nq, Nk).
        causal: query i sees keys 0 … i only.
        output: the model's own result, (B, H, Nq, Dv).
        mixing: the mixing of heads after the softmax: a matrix (Hv, H) and a bias (Hv,) or None.
            Value and output then have Hv heads (talking heads, Shazeer et al., 2003.02436). The
            call's weights are those of the softmax, before the mixing.
        query_positions, key_positions: positions of tokens in the input, (B, N, 2) as x and y in
            pixels; NaN for a token that is not part of the picture; None if positions were not
            traced.
        query_pictures, key_pictures: if several pictures were traced, the number of the picture
            that each token lies in, (B, N); −1 for one that lies in none. Of a clip, the number of
            the frame; a token of several frames has the mean, such as 0.5. None if one picture was
            traced.
        points: positions of keys that differ by head, (B, H, levels, points, 2): the points that
            each query of deformable attention samples for itself. levels × points are the keys;
            there is one level if the model does not divide them. NaN outside of the picture. None
            for other calls. `key_positions` is then NaN.
        gradient: the gradient of a score at the output, (B, Hv, Nq, Dv). It gives the gradient at
            the weights, ∇A = gradient·valueᵀ. None if there is no score.
        relevance: the relevance of the output for a score, divided by the output, like `gradient`.
            It gives the relevance of the weights, A⊙(relevance·valueᵀ)/2. None if none was found.
        projection: the output projection of each head, W_O^h, (Hv, Dv, F), times the LayerScale
            after it if there is one, without biases. None if no projection was found.
        kind: how the model made the weights; docs/formulas.md lists the kinds.
        weights: the weights of an explicit call whose rows do not sum to 1, (B, H, Nq, Nk).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    bias: Tensor | None = None
    causal: bool = False
    output: Tensor | None = None
    mixing: tuple[Tensor, Tensor | None] | None = None
    query_positions: Tensor | None = None
    key_positions: Tensor | None = None
    query_pictures: Tensor | None = None
    key_pictures: Tensor | None = None
    points: Tensor | None = None
    gradient: Tensor | None = None
    relevance: Tensor | None = None
    projection: Tensor | None = None
    kind: str = "softmax"
    weights: Tensor | None = None

    @property
    def explicit(self) -> bool:
        """Whether the call holds weights that the model made in another way than from q and k."""
        return self.query.shape[3] == 0

    @property
    def sums_to_one(self) -> bool:
        """Whether the rows are distributions: no weight is negative, and they sum to 1."""
        return self.weights is None

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.query.shape[1]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the weights, (batch, heads, queries, keys)."""
        batch, heads, queries, _ = self.query.shape
        return batch, heads, queries, self.key.shape[2]

    def batch(self, items: slice | Tensor) -> Self:
        """The call for some items of the batch."""
        bias = self.bias
        return replace(
            self,
            query=self.query[items],
            key=self.key[items],
            value=self.value[items],
            bias=bias[items] if bias is not None and bias.ndim == 4 and len(bias) > 1 else bias,
            output=_some(self.output, items),
            gradient=_some(self.gradient, items),
            relevance=_some(self.relevance, items),
            query_positions=_some(self.query_positions, items),
            key_positions=_some(self.key_positions, items),
            query_pictures=_some(self.query_pictures, items),
            key_pictures=_some(self.key_pictures, items),
            points=_some(self.points, items),
            weights=_some(self.weights, items),
        )


def _some(tensor: Tensor | None, items: slice | Tensor) -> Tensor | None:
    """Some items of the batch of a tensor, or None."""
    return None if tensor is None else tensor[items]
