"""One number per head: the formulas of docs/formulas.md, from one sweep.

Each function takes a reading and a layer and returns (batch, heads) float32. Means are over G,
the grid tokens that take part.
"""

import math

from torch import Tensor

from attnviz.attention.reading import Reading


def entropy(reading: Reading, layer: int) -> Tensor:
    """Mean over i∈G of −Σ_j A_ij ln A_ij, in nats (Shannon 1948)."""
    return _mean(reading, reading.sweep(layer).entropy)


def entropy_ratio(reading: Reading, layer: int) -> Tensor:
    """`entropy` / ln(number of keys that take part); NaN for a single key."""
    keys = int(reading.taking_part.sum())
    return entropy(reading, layer) / (math.log(keys) if keys > 1 else math.nan)


def confidence(reading: Reading, layer: int) -> Tensor:
    """Mean over i∈G of max_j A_ij (Voita et al., 1905.09418)."""
    return _mean(reading, reading.sweep(layer).confidence)


def distance_px(reading: Reading, layer: int) -> Tensor:
    """Mean over i∈G of Σ_{j∈G} Â_ij·d_ij in input pixels; Â: the row restricted to G, renormalised.

    Mean attention distance (Dosovitskiy et al., 2010.11929, fig. 7).
    """
    distance = reading.sweep(layer).distance
    assert distance is not None  # every reading has positions
    return _mean(reading, distance)


def prefix_mass(reading: Reading, layer: int) -> Tensor:
    """Mean over i∈G of Σ_{j∈P} A_ij."""
    mass = reading.sweep(layer).prefix_mass
    assert mass is not None  # every reading knows its prefix
    return _mean(reading, mass)


def sink_mass(reading: Reading, layer: int) -> Tensor:
    """max_j of α_j = mean over the queries i that take part of A_ij (Gu et al., 2410.10781)."""
    received = reading.sweep(layer).received
    assert received is not None  # every reading asks for it
    return received[:, :, 0].amax(-1)


def _mean(reading: Reading, values: Tensor) -> Tensor:
    """Mean over G of a number per query, (batch, heads, tokens) → (batch, heads)."""
    return values @ reading.uniform_grid
