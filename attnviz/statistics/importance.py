"""What a head's weights matter to the score that the gradient is of."""

import math

import torch
from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.attention.rowwise import row_blocks
from attnviz.attention.scores import float32_no_grad, weight_gradients


def importance(reading: LayerInput) -> Tensor:
    """|Σ_ij A_ij·∂y/∂A_ij| over the queries that take part and all keys, of one picture, (heads,).

    Equal to |∂y/∂ξ_h| where ξ_h is a factor on all that head h adds (Michel et al., 1905.10650,
    who take the mean of it over examples), and to |Σ_i ⟨∂y/∂O_i, O_i⟩| where heads are not
    mixed. NaN where no score was asked for.
    """
    call = reading.call
    if call.gradient is None:
        return torch.full((call.heads,), math.nan)
    total = torch.zeros(call.heads, dtype=torch.float64)
    with float32_no_grad(call.query):
        for block in row_blocks(call, reading.queries.taking_part):
            terms = torch.linalg.vecdot(block.weights, weight_gradients(block.call, block.queries))
            counted = terms * block.shares[:, None]
            total += counted.cpu().double().sum((0, 2))  # they may cancel
    return total.abs().float()
