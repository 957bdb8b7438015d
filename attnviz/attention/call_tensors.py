"""The tensors of one attention call: a value, of which everything else is computed."""

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class CallTensors:
    """What one softmax(q·kᵀ·scale + bias)·v of a model was computed from.

    Attributes:
        query: (B, H, Nq, D).
        key: (B, Hk, Nk, D); Hk divides H (grouped queries).
        value: (B, Hk, Nk, Dv).
        scale: the factor on the scores.
        bias: added to the scores, or boolean with True for "takes part"; broadcasts to
            (B, H, Nq, Nk).
        causal: query i sees keys 0 … i only.
        output: what the model itself computed, (B, H, Nq, Dv).
        mixing: of heads after the softmax, (Hv, H) and what is added, (Hv,) or None: value and
            output then have Hv heads (talking heads, Shazeer et al., 2003.02436). The weights are
            those of the softmax.
        query_positions, key_positions: where tokens lie in the input, (B, N, 2) as x and y in
            pixels, NaN where a token is no part of it; None where that was not traced.
        gradient: of a score at the output, (B, Hv, Nq, Dv): from it follows the gradient at the
            weights, ∇A = gradient·valueᵀ. None where no score was asked for.
        projection: what the model makes of each head's output, W_O^h, (Hv, Dv, F): its output
            projection, and the LayerScale after it where there is one; biases are left out. None
            where that was not seen.
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
    gradient: Tensor | None = None
    projection: Tensor | None = None

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
        """The call of some items of the batch."""
        bias = self.bias
        return replace(
            self,
            query=self.query[items],
            key=self.key[items],
            value=self.value[items],
            bias=bias[items] if bias is not None and bias.ndim == 4 and len(bias) > 1 else bias,
            output=_some(self.output, items),
            gradient=_some(self.gradient, items),
            query_positions=_some(self.query_positions, items),
            key_positions=_some(self.key_positions, items),
        )


def _some(tensor: Tensor | None, items: slice | Tensor) -> Tensor | None:
    """Some items of the batch of what may not be there."""
    return None if tensor is None else tensor[items]
