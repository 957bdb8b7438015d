"""`CallTensors`: the tensors of one attention call, from which everything else is computed."""

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor


@dataclass(frozen=True)
class CallTensors:
    """The tensors of one softmax(q·kᵀ·scale + bias)·v of a model.

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
        gradient: the gradient of a score at the output, (B, Hv, Nq, Dv). It gives the gradient at
            the weights, ∇A = gradient·valueᵀ. None if there is no score.
        projection: the output projection of each head, W_O^h, (Hv, Dv, F), times the LayerScale
            after it if there is one, without biases. None if no projection was found.
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
            query_positions=_some(self.query_positions, items),
            key_positions=_some(self.key_positions, items),
        )


def _some(tensor: Tensor | None, items: slice | Tensor) -> Tensor | None:
    """Some items of the batch of a tensor, or None."""
    return None if tensor is None else tensor[items]
