"""Statistics: from a layer's input to a number of each head."""

from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.statistics.heads import entropy_ratio


def concentration(layer: LayerInput, *, sharpness: float) -> Tensor:
    """1 − a row's entropy by its largest possible one, mean over rows, to a power, (heads,)."""
    return (1 - entropy_ratio(layer)) ** sharpness


def tokens_seen(layer: LayerInput, *, share: float) -> Tensor:
    """How many tokens receive more than some uniform shares of the attention, (heads,)."""
    received = layer.sweep().received  # (windows, heads, queries, keys), means over queries
    assert received is not None
    mean = received[:, :, 0]  # (windows, heads, keys)
    return (mean > share / mean.shape[-1]).sum((0, 2))
