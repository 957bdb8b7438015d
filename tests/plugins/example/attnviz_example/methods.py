"""Methods: from a layer's input to maps."""

from torch import Tensor

from attnviz.attention.layer_input import LayerInput


def sharpened(layer: LayerInput, *, power: float = 2.0) -> Tensor:
    """The query's weights to a power, (windows, queries, heads, keys); each row sums to 1."""
    weights = layer.received() ** power
    return weights / weights.sum(-1, keepdim=True)
