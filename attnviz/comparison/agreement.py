"""Computes how alike two maps are, from arrays over cells only."""

import numpy as np
from numpy.typing import NDArray

from attnviz.geometry.placement import Placement, overlaps
from attnviz.methods.attention import smallest_set
from attnviz.statistics.maps import KEEP

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


def jaccard60(first: Weights, second: Weights) -> float:
    """|A ∩ B| / |A ∪ B| of the smallest sets of cells with 60 % of the mass, 0…1.

    A and B take the heaviest cells first, and among equal ones the first in reading order. A weight
    below 0 has no mass. These are DINO's masks (Caron et al., 2104.14294), here of two maps. The
    result is NaN if a map has no mass.

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


Array = NDArray[np.float64]


def resample(
    values: NDArray[np.generic], drawn: NDArray[np.bool_], origin: Placement, cells: Placement
) -> tuple[Array, Array]:
    """A map of one grid as means over the cells of another grid of the same picture.

        mean_t = Σ_s |s ∩ t|·values_s / Σ_s |s ∩ t|

    The sum is over the `drawn` cells s of the map's own grid; |s ∩ t| is the area of the picture
    that s shares with cell t and that both models saw. A map is constant on each of its cells, so
    this is its exact mean over t; on its own grid the map does not change.

    Args:
        values: (rows, columns) on `origin`.
        drawn: (rows, columns), False for cells that are ignored.
        origin: the grid of the map on the picture.
        cells: the grid of the result on the picture.

    Returns:
        The means, 0 where no drawn cell overlaps; and for each cell the share, 0…1, of its seen
        part that was drawn. Both are (rows, columns) of `cells`.
    """
    columns, rows = origin.seen_edges()
    to_columns, to_rows = cells.seen_edges()
    across, down = overlaps(to_columns, columns), overlaps(to_rows, rows)
    area = down @ drawn.astype(np.float64) @ across.T
    total = down @ np.where(drawn, values, 0).astype(np.float64) @ across.T
    whole = np.outer(np.diff(to_rows), np.diff(to_columns))
    shared = area > 0
    mean = np.divide(total, area, out=np.zeros_like(area), where=shared)
    share = np.divide(area, whole, out=np.zeros_like(area), where=shared)
    return mean, share.clip(0, 1)
