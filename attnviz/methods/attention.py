"""Raw attention weights."""

import torch
from torch import Tensor

from attnviz.attention.reading import Reading


def attention(reading: Reading) -> Tensor:
    """Σ_i w_i A_ij of each layer and head, (layers, batch, heads, tokens).

    w are the weights of the query: one token, or an average (Vaswani et al., 1706.03762, eq. 1).
    """
    return torch.stack([reading.received(layer) for layer in reading.layers])
