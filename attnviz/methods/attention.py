"""Raw attention weights."""

from torch import Tensor

from attnviz.attention.layer_input import LayerInput


def attention(reading: LayerInput) -> Tensor:
    """Σ_i w_i A_ij of each head, (windows, R, heads, keys).

        A = softmax(q @ k.T * scale + bias)   # (heads, queries, keys)
        map = w @ A

    w are the weights of the query: one token, or an average.

    Vaswani et al. 2017, 1706.03762, eq. 1.
    """
    return reading.received()
