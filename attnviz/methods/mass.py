"""The method `mass`: the smallest set of cells that holds most of the attention."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.errors import UsageError


def mass(reading: LayerInput, *, keep: float = 0.6) -> Tensor:
    """Σ_i w_i A_ij of each head, (windows, R, heads, keys); `smallest_set` then selects its cells.

    Raises:
        UsageError: a share that cannot be meant.
    """
    _check(keep)
    return reading.received()


def smallest_set(
    values: NDArray[np.float32], drawn: NDArray[np.bool_], *, keep: float = 0.6
) -> NDArray[np.float32]:
    """1 for the smallest set of drawn cells, heaviest first, that holds `keep` of the mass, else 0.

        order = argsort(-map)                 # over drawn cells, reading order among equals
        held = cumsum(map[order]) / sum(map)
        set = order up to the first with held >= keep

    Of 196 equal weights 0.6 keeps 118. A map without mass has an empty set.

    Caron et al. 2021, 2104.14294: the masks of its figures and of its Jaccard index.

    Args:
        values: (…, cells) weights, none negative where they are drawn.
        drawn: (cells,) boolean, the cells that count.
        keep: share of the mass, above 0, up to 1.

    Raises:
        UsageError: a share that cannot be meant.
    """
    _check(keep)
    weights = values[..., drawn].astype(np.float64)
    order = np.argsort(-weights, axis=-1, kind="stable")
    held = np.take_along_axis(weights, order, axis=-1).cumsum(-1)
    # Weights come from float32: 0.6 of ten equal ones is six, whatever the last digit says.
    before = np.concatenate([np.zeros_like(held[..., :1]), held[..., :-1]], axis=-1)
    inside = before < held[..., -1:] * (keep - 1e-6)
    chosen = np.zeros(weights.shape, dtype=np.float32)
    np.put_along_axis(chosen, order, inside.astype(np.float32), axis=-1)
    result = np.zeros(values.shape, dtype=np.float32)
    result[..., drawn] = chosen
    return result


def _check(keep: float) -> None:
    if not 0 < keep <= 1:
        raise UsageError(f"keep {keep} is not a share; choose a number above 0, up to 1")
