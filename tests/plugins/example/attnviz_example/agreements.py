"""Agreements: from two maps on the same cells to a number."""

import numpy as np
from numpy.typing import NDArray


def difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Half the sum of |a − b| of the weights, (cells,), each divided by its sum: 0 to 1."""
    return float(np.abs(first / first.sum() - second / second.sum()).sum() / 2)
