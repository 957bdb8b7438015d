"""Which tokens of a layer have a high norm."""

import torch
from torch import Tensor

DEVIATIONS = 10.0
"""A token stands out if it is more than so many MADs above the median.

In a normal distribution this is 6.7 standard deviations, a chance of 1e-11 per token. Received
attention is spread wider: in some heads of `tiny` more than a tenth of all tokens pass. So each
kind has a second limit, which also holds if all tokens are alike and the MAD is 0.
"""
LARGE = 2.0
"""A high norm is more than so many times the median."""


def norm_limit(norms: Tensor) -> tuple[Tensor, Tensor]:
    """The median of norms, (tokens,), and the norm above which a token stands out.

    The limit is the larger of the median plus `DEVIATIONS` MADs, and `LARGE` times the median.
    """
    middle = median(norms)
    return middle, torch.maximum(middle + DEVIATIONS * deviation(norms), LARGE * middle)


def median(values: Tensor) -> Tensor:
    """Median over the last axis; for an even number, the mean of the two in the middle."""
    ordered, count = values.sort(-1).values, values.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2


def deviation(values: Tensor) -> Tensor:
    """Median absolute deviation from the median, over the last axis."""
    return median((values - median(values)[..., None]).abs())
