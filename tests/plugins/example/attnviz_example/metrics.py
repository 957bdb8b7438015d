"""Metrics: from a map and what it is compared with to a number."""

import numpy as np
from numpy.typing import NDArray

from attnviz.evaluation.perturbation import PerturbationCurves


def outside(weights: NDArray[np.float64], objects: NDArray[np.bool_]) -> float:
    """Share of the weights, (tokens,), of tokens that are no object's, (tokens,) boolean."""
    return float(weights[~objects].sum() / weights.sum())


def gap(curves: PerturbationCurves) -> float:
    """Mean over the curves of the probability with insertion less that with deletion."""
    return float((curves.chance["insertion"] - curves.chance["deletion"]).mean())
