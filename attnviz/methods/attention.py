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


def received(reading: LayerInput) -> Tensor:
    """Mean over the queries i that take part of A_ij, (windows, 1, heads, keys).

        map = mean(A, queries)                # A: (heads, queries, keys)

    No query plays a role. A sink stands out (Gu et al. 2025, 2410.10781: α_j).
    """
    found = reading.sweep().received
    assert found is not None  # always requested
    # If windows are separate pictures, each has its own mean.
    alone = 1 if reading.key_cells else len(found)
    return found[:, :, :1].transpose(1, 2) * alone
