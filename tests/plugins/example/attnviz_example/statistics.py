"""Statistics: from a layer's input to a number of each head."""

from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.statistics.heads import entropy_ratio


def concentration(layer: LayerInput) -> Tensor:
    """1 − the entropy of a row by its largest possible one, mean over rows, (heads,)."""
    return 1 - entropy_ratio(layer)


def tokens_seen(layer: LayerInput) -> Tensor:
    """How many tokens receive more than a uniform share of the attention, (heads,)."""
    received = layer.sweep().received  # (windows, heads, queries, keys), means over queries
    assert received is not None
    mean = received[:, :, 0]  # (windows, heads, keys)
    return (mean > 1 / mean.shape[-1]).sum((0, 2))
