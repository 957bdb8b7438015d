"""One number per head: the formulas of docs/formulas.md, from one sweep.

Each function takes a layer input and returns (heads,) float32: a number of the matrix that
combines all windows of the layer. Means are over G, the query tokens that lie on the picture and
take part. If none lies there (attention pools), they are over all queries that take part.
"""

import math

import torch
from torch import Tensor

from attnviz.attention.head_pairs import row_blocks
from attnviz.attention.layer_input import LayerInput
from attnviz.attention.scores import float32_no_grad, weight_gradients


def entropy(reading: LayerInput) -> Tensor:
    """Mean over i∈G of −Σ_j A_ij ln A_ij, in nats (Shannon 1948)."""
    return _mean(reading.sweep().entropy, reading.uniform_grid)


def entropy_ratio(reading: LayerInput) -> Tensor:
    """Mean over i∈G of the row's entropy / ln(number of keys of its window that take part).

    NaN where a window has a single key.
    """
    most = reading.keys.taking_part.sum(1, keepdim=True).log()  # (windows, 1)
    weights = reading.uniform_grid
    # A row that counts and has one key gives 0/0.
    weights = torch.where(weights > 0, weights / most, 0.0)
    return _mean(reading.sweep().entropy, weights)


def confidence(reading: LayerInput) -> Tensor:
    """Mean over i∈G of max_j A_ij (Voita et al., 1905.09418)."""
    return _mean(reading.sweep().confidence, reading.uniform_grid)


def distance_px(reading: LayerInput) -> Tensor:
    """Mean over i∈G of Σ_{j∈G} Â_ij·d_ij in input pixels; Â: the row restricted to G, renormalised.

    NaN where no query lies on the picture. Mean attention distance (Dosovitskiy et al.,
    2010.11929, fig. 7).
    """
    distance = reading.sweep().distance
    assert distance is not None  # every reading has positions
    nowhere = not bool(reading.queries.on_picture.any())
    return _mean(distance, reading.uniform_grid) + (math.nan if nowhere else 0.0)


def prefix_mass(reading: LayerInput) -> Tensor:
    """Mean over i∈G of Σ_{j∈P} A_ij; P: the keys that lie on no cell of the picture."""
    mass = reading.sweep().prefix_mass
    assert mass is not None  # every reading knows its prefix
    return _mean(mass, reading.uniform_grid)


def sink_mass(reading: LayerInput) -> Tensor:
    """max_j of α_j = mean over the queries i that take part of A_ij (Gu et al., 2410.10781).

    The queries are those of all windows; j is a token of one of them.
    """
    received = reading.sweep().received
    assert received is not None  # every reading asks for it
    return received[:, :, 0].amax((0, 2))


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Σ of a number per query times its weight, (windows, heads, queries) → (heads,)."""
    return (values * weights[:, None]).sum((0, 2))  # a matrix product would be autocast


def importance(reading: LayerInput) -> Tensor:
    """|Σ_ij A_ij·∂y/∂A_ij| over the queries that take part and all keys, of one picture, (heads,).

    Equal to |∂y/∂ξ_h| where ξ_h is a factor on all that head h adds (Michel et al., 1905.10650,
    who take the mean of it over examples), and to |Σ_i ⟨∂y/∂O_i, O_i⟩| where heads are not
    mixed. NaN where no score was asked for.
    """
    call = reading.call
    if call.gradient is None:
        return torch.full((call.heads,), math.nan)
    total = torch.zeros(call.heads, dtype=torch.float64)
    with float32_no_grad(call.query):
        for block in row_blocks(call, reading.queries.taking_part):
            terms = torch.linalg.vecdot(block.weights, weight_gradients(block.call, block.queries))
            counted = terms * block.shares[:, None]
            total += counted.cpu().double().sum((0, 2))  # float64: terms may cancel
    return total.abs().float()
