"""Correlations of two maps."""

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]


def ranks(weights: Weights) -> Weights:
    """Ranks from 1, the smallest first, (cells,); equal weights share the mean of their ranks.

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
    return float(cosine.round(15).clip(-1, 1))  # a map with itself has exactly 1
