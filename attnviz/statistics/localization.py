"""Computes how localized maps are: spatial entropy and border mass, for many maps at once."""

import numpy as np
from numpy.typing import NDArray

FLAT = 1e-6
"""A map whose weights differ by less than this share of the largest is flat."""
BORDER_WEIGHT = 2.0
"""The weight of the border mass in `scores`."""

Maps = NDArray[np.float64]
Cells = NDArray[np.bool_]


def spatial_entropies(maps: Maps, drawn: Cells | None = None) -> NDArray[np.float64]:
    """The spatial entropy −Σ p ln p of each map, in nats (Batra et al. 2021; 2503.06287).

    p are the shares of mass of the connected parts, by 8 neighbours, of the cells that are above
    the mean of the drawn cells. A flat map has no part, and entropy 0.

    >>> one = np.zeros((1, 4, 4))
    >>> one[0, 0, 0] = one[0, 3, 3] = 0.5                        # two equal parts: ln 2
    >>> spatial_entropies(one).round(6).tolist()
    [0.693147]

    Args:
        maps: (maps, rows, columns); weights below 0 count as 0.
        drawn: (rows, columns), the cells that count; by default all.
    """
    mass, drawn = _mass(maps, drawn)
    mean = mass.sum((1, 2)) / drawn.sum()
    above = (mass > mean[:, None, None]) & ~flat(maps, drawn)[:, None, None]
    mass = np.where(above, mass, 0)
    labels = _components(above)
    entropy = np.zeros(len(maps))
    for number, (of_cells, weights) in enumerate(zip(labels, mass, strict=True)):
        if not above[number].any():
            continue
        parts = np.bincount(of_cells[above[number]], weights[above[number]])
        shares = parts[parts > 0] / parts.sum()
        entropy[number] = max(0.0, float(-(shares * np.log(shares)).sum()))
    return entropy


def border_masses(maps: Maps, drawn: Cells | None = None) -> NDArray[np.float64]:
    """The share of each map's mass on the outermost ring of its grid; 0 for a map without mass.

    On a grid of one or two rows or columns all cells are on the ring.

    >>> border_masses(np.ones((1, 14, 14))).round(6).tolist()
    [0.265306]
    """
    mass, drawn = _mass(maps, drawn)
    total = mass.sum((1, 2))
    inside = mass[:, 1:-1, 1:-1].sum((1, 2))
    shares = np.divide(inside, total, out=np.ones_like(total), where=total > 0)
    result: NDArray[np.float64] = np.clip(1 - shares, 0.0, 1.0)
    return result


def uniform_border(drawn: Cells) -> float:
    """The share of the drawn cells that are on the outermost ring."""
    return float(border_masses(drawn[None].astype(np.float64))[0])


def flat(maps: Maps, drawn: Cells) -> Cells:
    """Whether each map has no structure: its drawn weights are equal but for rounding."""
    values = maps[:, drawn]
    high, low = values.max(1), values.min(1)
    result: Cells = high - low <= FLAT * np.abs(high)
    return result


def scores(maps: Maps, drawn: Cells | None = None) -> NDArray[np.float64]:
    """The spatial entropy plus twice the border mass; the lower, the more localized (2503.06287).

    Flat maps have an infinite score.
    """
    _, drawn = _mass(maps, drawn)
    score = spatial_entropies(maps, drawn) + BORDER_WEIGHT * border_masses(maps, drawn)
    return np.where(flat(maps, drawn), np.inf, score)


def _mass(maps: Maps, drawn: Cells | None) -> tuple[Maps, Cells]:
    drawn = np.ones(maps.shape[1:], dtype=np.bool_) if drawn is None else drawn
    return np.where(drawn, np.asarray(maps, dtype=np.float64).clip(0), 0), drawn


def _components(cells: Cells) -> NDArray[np.int64]:
    """Numbers of the connected parts (8 neighbours) of each of several grids of cells.

    Each cell begins with its own number and takes the least among its neighbours; between these
    steps numbers jump to the number of the cell that they name, so that few steps suffice.
    """
    count, rows, columns = cells.shape
    size = rows * columns
    labels = np.where(cells, np.arange(size).reshape(rows, columns), size)
    while True:
        padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)), constant_values=size)
        least = labels
        for down in range(3):
            for across in range(3):
                near = padded[:, down : down + rows, across : across + columns]
                least = np.minimum(least, near)
        least = np.where(cells, least, size)
        table = np.concatenate([least.reshape(count, size), np.full((count, 1), size)], 1)
        jumped = np.take_along_axis(table, least.reshape(count, size), 1).reshape(cells.shape)
        if np.array_equal(jumped, labels):
            return labels
        labels = jumped
