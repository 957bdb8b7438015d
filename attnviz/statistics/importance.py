"""What a head's weights matter to the score that the gradient is of."""

import math

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall
from attnviz.attention.reading import Reading
from attnviz.attention.rowwise import row_blocks
from attnviz.attention.scores import exactly


def importance(reading: Reading) -> Tensor:
    """|Σ_ij A_ij·∂y/∂A_ij| over the queries that take part and all keys, of one picture, (heads,).

    Equal to |∂y/∂ξ_h| where ξ_h is a factor on all that head h adds (Michel et al., 1905.10650,
    who take the mean of it over examples), and to |Σ_i ⟨∂y/∂O_i, O_i⟩| where heads are not
    mixed. NaN where no score was asked for.
    """
    call = reading.call
    if call.gradient is None:
        return torch.full((call.heads,), math.nan)
    total = torch.zeros(call.heads, dtype=torch.float64)
    with exactly(call.query):
        for block in row_blocks(call, reading.queries.taking_part):
            terms = torch.linalg.vecdot(block.weights, _gradient(block.call, block.queries))
            counted = terms * block.shares[:, None]
            total += counted.cpu().double().sum((0, 2))  # they may cancel
    return total.abs().float()


def _gradient(call: AttentionCall, queries: Tensor) -> Tensor:
    """∂y/∂A of some rows, dO·Vᵀ, through the mixing of heads: (B, H, n, Nk)."""
    assert call.gradient is not None  # the caller has looked
    rows = call.gradient[:, :, queries].float()
    value = call.value.float().repeat_interleave(rows.shape[1] // call.value.shape[1], dim=1)
    found: Tensor = rows @ value.mT
    if call.mixing is None:
        return found
    return torch.einsum("gh,bgij->bhij", call.mixing[0].float(), found)
