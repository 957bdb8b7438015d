"""A map on the cells of another grid."""

import numpy as np
from numpy.typing import NDArray

from attnviz.geometry import Placement, overlaps

Array = NDArray[np.float64]


def resample(
    values: NDArray[np.generic], drawn: NDArray[np.bool_], origin: Placement, cells: Placement
) -> tuple[Array, Array]:
    """A map of one grid as means over the cells of another one of the same picture.

        mean_t = Σ_s |s ∩ t|·values_s / Σ_s |s ∩ t|

    over the `drawn` cells s of its own grid; |s ∩ t| is the area of the picture that they share
    with cell t and that both models saw. A map is constant on each of its cells, so this is its
    mean over t exactly; on its own cells it is itself.

    Args:
        values: (rows, columns) on `origin`.
        drawn: (rows, columns), False for cells that count nowhere.
        origin: where the map lies.
        cells: where it goes.

    Returns:
        Means, 0 where there is nothing to take them of; and the share, 0…1, that was drawn of what
        is seen of each cell. Both are (rows, columns) of `cells`.
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
