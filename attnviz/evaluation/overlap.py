"""Measures how well the weights of a map lie on objects, from arrays over tokens only."""

import numpy as np
from numpy.typing import NDArray

from attnviz.statistics.maps import KEEP, smallest_count

Weights = NDArray[np.float64]
Truth = NDArray[np.bool_]


def pointing(weights: Weights, truth: Truth) -> float:
    """Pointing game: 1 if the heaviest token belongs to an object, else 0.

    If several tokens are the heaviest, the result is the share of them on objects, the chance of a
    hit. There is no tolerance of 15 pixels, since tokens are coarse (Zhang et al., 1608.00507,
    §4.1).

    Args:
        weights: (tokens,) of the map.
        truth: (tokens,) True for a token of any object.

    >>> pointing(np.array([0.1, 0.7, 0.2]), np.array([False, True, False]))
    1.0
    """
    return float(truth[weights == weights.max()].mean())


def heaviest(weights: Weights, count: int) -> Truth:
    """The `count` heaviest tokens, (tokens,); equal weights count in reading order."""
    result = np.zeros(len(weights), dtype=np.bool_)
    result[np.argsort(-weights, kind="stable")[:count]] = True
    return result


def mass_mask(weights: Weights, share: float = KEEP) -> Truth:
    """The smallest set of heaviest tokens with `share` of the mass, (tokens,).

    A weight below 0 has no mass (Caron et al., 2104.14294, appendix).

    >>> mass_mask(np.full(196, 1 / 196)).sum()
    np.int64(118)
    """
    mass = weights.clip(0)
    return heaviest(mass, smallest_count(mass, share))


def jaccard(first: Truth, second: Truth) -> float:
    """|A ∩ B| / |A ∪ B| of two sets of tokens, (tokens,) each; at least one is not empty.

    >>> jaccard(np.array([True, True, False]), np.array([False, True, True]))
    0.3333333333333333
    """
    return float((first & second).sum() / (first | second).sum())


def jaccard60(weights: Weights, objects: Truth) -> Weights:
    """Jaccard index of the 60 % mask with each object, (objects,).

    This is DINO's protocol: only grid tokens count, so the weights are renormalised without the
    prefix; the best head for each object, the mean over objects, then over pictures (Caron et al.,
    2104.14294).

    Args:
        weights: (tokens,) of one map.
        objects: (objects, tokens), none of them empty.

    >>> jaccard60(np.array([0.7, 0.2, 0.1]), np.array([[True, False, False]]))
    array([1.])
    """
    mask = mass_mask(weights)
    return np.array([jaccard(mask, each) for each in objects])


def jaccard_area(weights: Weights, truth: Truth) -> float:
    """Jaccard index of all objects, k tokens, with the k heaviest tokens.

    >>> jaccard_area(np.array([0.5, 0.3, 0.2]), np.array([True, False, True]))
    0.3333333333333333
    """
    return jaccard(heaviest(weights, int(truth.sum())), truth)


def auc(weights: Weights, truth: Truth) -> float:
    """Area under the ROC curve of the weights as a detector of object tokens.

    The area is U / (n₁·n₀), for n₁ object tokens and n₀ others. U is the number of pairs of an
    object token and another token where the first has the larger weight; equal weights count one
    half (Mann & Whitney 1947). The result is NaN if all tokens, or none, belong to objects.

    >>> auc(np.array([0.5, 0.3, 0.2]), np.array([True, False, False]))
    1.0
    """
    inside = int(truth.sum())
    outside = len(truth) - inside
    if not inside or not outside:
        return float("nan")
    _, place, count = np.unique(weights, return_inverse=True, return_counts=True)
    ranks = count.cumsum() - (count - 1) / 2  # of each weight, the mean over equal ones, from 1
    return float((ranks[place][truth].sum() - inside * (inside + 1) / 2) / (inside * outside))
