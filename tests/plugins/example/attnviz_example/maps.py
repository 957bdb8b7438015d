"""Numbers of a drawn map."""

from attnviz.statistics.maps import DrawnMap


def contrast(drawn: DrawnMap) -> float:
    """(largest − smallest) / (largest + smallest) of the weights."""
    low, high = drawn.weights.min(), drawn.weights.max()
    return float((high - low) / (high + low))
