"""Raw attention weights."""

from torch import Tensor

from attnviz.attention.reading import Reading


def attention(reading: Reading) -> Tensor:
    """Σ_i w_i A_ij of each head, (windows, R, heads, keys).

    w are the weights of the query: one token, or an average (Vaswani et al., 1706.03762, eq. 1).
    """
    return reading.received()
