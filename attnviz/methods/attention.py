"""Raw attention weights."""

from collections.abc import Sequence

from torch import Tensor

from attnviz.attention.reading import Reading


def attention(readings: Sequence[Reading]) -> list[Tensor]:
    """Σ_i w_i A_ij of each layer, (heads, key cells).

    w are the weights of the query: one token, or an average (Vaswani et al., 1706.03762, eq. 1).
    """
    return [reading.received() for reading in readings]
