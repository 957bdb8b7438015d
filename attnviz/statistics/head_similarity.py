"""Statistics of how alike the heads of a layer are: every pair, and each with all others.

Each function takes a layer input and returns (heads, heads) or (heads,), float32 on the CPU. The
matrices A combine all windows of the layer, over the queries of G (all that take part, if none
lies on the picture) and all keys.
"""

import torch
from torch import Tensor

from attnviz.attention.layer_input import LayerInput


def cosine(reading: LayerInput) -> Tensor:
    """⟨A^h, A^g⟩ / (‖A^h‖·‖A^g‖), A flattened: 1 for heads that are the same, 0 for disjoint ones.

    NaN where a head has no weight at all.
    """
    products = reading.pairs().products
    norms = products.diagonal().sqrt()
    return (products / (norms[:, None] * norms)).clamp_(max=1.0)


def jensen_shannon(reading: LayerInput) -> Tensor:
    """Mean over i∈G of JS(A^h_i ‖ A^g_i) in nats: 0 for the same, ln 2 for disjoint rows.

    A divergence, as Clark et al. (1906.04341) compare heads; its square root is a distance
    (Lin 1991; Endres & Schindelin 2003).
    """
    return reading.pairs().divergence


def head_cosine(reading: LayerInput) -> Tensor:
    """Mean `cosine` with the other heads; NaN where there is no other."""
    return _with_others(cosine(reading))


def head_jensen_shannon(reading: LayerInput) -> Tensor:
    """Mean `jensen_shannon` with the other heads; NaN where there is no other."""
    return _with_others(jensen_shannon(reading))


def _with_others(each: Tensor) -> Tensor:
    """Mean of every row of (heads, heads) without its diagonal."""
    others = len(each) - 1
    off = each.masked_fill(torch.eye(len(each), dtype=torch.bool), 0.0)
    return off.sum(1) / others  # 0/0 is NaN
