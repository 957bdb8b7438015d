"""Computes numbers of one drawn map: the functions of the table `MAP_NUMBERS`."""

from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from attnviz.geometry.placement import Placement
from attnviz.statistics import MAP_NUMBERS, MapNumber
from attnviz.statistics.localization import border_masses, spatial_entropies, uniform_border

KEEP = 0.6


@dataclass(frozen=True, eq=False)
class DrawnMap:
    """A map, and which of its cells are drawn.

    Attributes:
        values: (rows, columns) float32 weights.
        drawn: (rows, columns) boolean, False for cells that are masked or lie in padding.
        placement: where the cells lie on the picture.
    """

    values: NDArray[np.float32]
    drawn: NDArray[np.bool_]
    placement: Placement

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Weights of the drawn cells, in reading order, (cells,)."""
        return self.values[self.drawn].astype(np.float64)

    @cached_property
    def mass(self) -> NDArray[np.float64]:
        """Weights of the drawn cells, with negative ones set to 0, (cells,)."""
        return self.weights.clip(0)

    @cached_property
    def peak(self) -> tuple[float, float]:
        """Centre of the heaviest cell's part on the picture, in picture pixels.

        Among equal cells it is the first in reading order.
        """
        row, column = np.argwhere(self.drawn)[int(self.weights.argmax())]
        return self.placement.visible_centre(int(row), int(column))


def describe(
    values: NDArray[np.float32], drawn: NDArray[np.bool_], placement: Placement
) -> SimpleNamespace:
    """Numbers of one map, by the names of `MAP_NUMBERS`; NaN if one is not defined.

    >>> first = explanation.answers[0]
    >>> 0 < describe(first.values, first.drawn, first.placement).area60 <= 1
    True

    Args:
        values: (rows, columns) weights, as drawn.
        drawn: (rows, columns), the cells that count.
        placement: where the cells lie on the picture.
    """
    found = DrawnMap(values, drawn, placement)
    numbers = {name: _number(entry, found) for name, entry in MAP_NUMBERS.items()}
    return SimpleNamespace(**numbers)


def _number(entry: MapNumber, drawn: DrawnMap) -> float:
    return entry.run_or(float("nan"), lambda: float(entry(drawn)))


def minimum(drawn: DrawnMap) -> float:
    """The smallest drawn weight, not renormalised."""
    return float(drawn.weights.min())


def maximum(drawn: DrawnMap) -> float:
    """The largest drawn weight, not renormalised."""
    return float(drawn.weights.max())


def entropy(drawn: DrawnMap) -> float:
    """Entropy of the weights divided by their sum, in nats; 0 for a map without mass."""
    total = float(drawn.mass.sum())
    if total <= 0:
        return 0.0
    p = drawn.mass[drawn.mass > 0] / total
    return max(0.0, float(-(p * np.log(p)).sum()))


def peak_x(drawn: DrawnMap) -> float:
    """Position of the heaviest token, in picture pixels from the left."""
    return drawn.peak[0]


def peak_y(drawn: DrawnMap) -> float:
    """Position of the heaviest token, in picture pixels from the top."""
    return drawn.peak[1]


def area60(drawn: DrawnMap) -> float:
    """`smallest_count(…, 0.6)` as a share of the drawn tokens (Caron et al., 2104.14294)."""
    return smallest_count(drawn.mass, KEEP) / len(drawn.weights)


def spatial_entropy(drawn: DrawnMap) -> float:
    """Spatial entropy of the map, in nats; see `localization.spatial_entropies`."""
    return float(spatial_entropies(drawn.values[None].astype(np.float64), drawn.drawn)[0])


def border_mass(drawn: DrawnMap) -> float:
    """Share of the mass on the outermost ring of cells; all cells where there is no inside."""
    return float(border_masses(drawn.values[None].astype(np.float64), drawn.drawn)[0])


def border_ratio(drawn: DrawnMap) -> float:
    """`border_mass` over that of a uniform map; NaN if no drawn cell is on the ring."""
    uniform = uniform_border(drawn.drawn)
    return border_mass(drawn) / uniform if uniform > 0 else float("nan")


def smallest_count(weights: NDArray[np.float64], share: float) -> int:
    """Size of the smallest set of weights that holds `share` of their sum.

    >>> smallest_count(np.full(196, 1 / 196), 0.6)
    118
    """
    descending = np.sort(weights)[::-1].cumsum()
    # Weights come from float32: 0.6 of ten equal ones is six, whatever the last digit says.
    enough = descending >= descending[-1] * (share - 1e-6)
    return int(enough.argmax()) + 1
