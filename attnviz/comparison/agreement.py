"""How alike two maps are; arrays over cells and nothing else."""

import numpy as np
from numpy.typing import NDArray

from attnviz.methods.mass import smallest_set
from attnviz.statistics.maps import KEEP

Weights = NDArray[np.float64]


def ranks(weights: Weights) -> Weights:
    """Ranks from 1, the smallest first, (cells,); equal weights share the mean of theirs.

    >>> ranks(np.array([0.3, 0.1, 0.3, 0.2])).tolist()
    [3.5, 1.0, 3.5, 2.0]
    """
    _, number, counts = np.unique(weights, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[number])


def spearman(first: Weights, second: Weights) -> float:
    """Spearman's rank correlation, −1…1: Pearson's correlation of the ranks (Spearman 1904).

    >>> spearman(np.array([0.1, 0.2, 0.9]), np.array([1.0, 4.0, 5.0]))
    1.0

    Args:
        first: (cells,), not constant.
        second: (cells,), not constant.
    """
    return pearson(ranks(first), ranks(second))


def pearson(first: Weights, second: Weights) -> float:
    """Pearson's correlation Σ(a−ā)(b−b̄) / √(Σ(a−ā)²·Σ(b−b̄)²), −1…1 (Pearson 1895).

    Args:
        first: (cells,), not constant.
        second: (cells,), not constant.
    """
    a, b = (weights - weights.mean() for weights in (first, second))
    cosine = (a / np.linalg.norm(a)) @ (b / np.linalg.norm(b))
    return float(cosine.round(15).clip(-1, 1))  # a map with itself has 1, to the last digit


def jaccard60(first: Weights, second: Weights) -> float:
    """|A ∩ B| / |A ∪ B| of the smallest sets of cells with 60 % of the mass, 0…1.

    Heaviest cells first, the first in reading order among equals; a weight below 0 has no mass.
    DINO's masks (Caron et al., 2104.14294), here of two maps. NaN of maps without mass.

    Args:
        first: (cells,).
        second: (cells,).
    """
    everywhere = np.ones(len(first), dtype=np.bool_)
    a, b = (
        smallest_set(weights.clip(0).astype(np.float32), everywhere, keep=KEEP) > 0
        for weights in (first, second)
    )
    return float((a & b).sum() / (a | b).sum()) if a.any() and b.any() else float("nan")
