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
    means = mass.sum((1, 2)) / drawn.sum()
    above = (mass > means[:, None, None]) & ~flat(maps, drawn)[:, None, None]
    entropies = np.zeros(len(maps))
    for number, (weights, cells) in enumerate(zip(mass, above, strict=True)):
        if cells.any():
            parts = _part_masses(weights, cells)
            shares = parts / parts.sum()
            entropies[number] = max(0.0, float(-(shares * np.log(shares)).sum()))
    return entropies


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


def _part_masses(mass: Maps, cells: Cells) -> NDArray[np.float64]:
    """The mass of each connected part (8 neighbours) of the cells of one map, (parts,).

    Runs of cells in a row are joined with the runs of the row above that they touch.
    """
    rows, columns = cells.shape
    edges = np.diff(cells.astype(np.int8), axis=1, prepend=0, append=0)  # (rows, columns + 1)
    of_row, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]  # the cell behind a run
    sums = np.zeros((rows, columns + 1))
    np.cumsum(mass, axis=1, out=sums[:, 1:])
    masses = sums[of_row, stops] - sums[of_row, starts]
    runs = list(zip(of_row.tolist(), starts.tolist(), stops.tolist(), strict=True))
    part = list(range(len(runs)))

    def root(run: int) -> int:
        while part[run] != run:
            part[run] = run = part[part[run]]
        return run

    above = 0
    for run, (row, start, stop) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] < start):
            above += 1
        other = above
        while runs[other][0] == row - 1 and runs[other][1] <= stop:
            part[root(other)] = root(run)
            other += 1
    roots = np.array([root(run) for run in range(len(runs))])
    of_parts: NDArray[np.float64] = np.bincount(roots, masses)[np.unique(roots)]
    return of_parts
