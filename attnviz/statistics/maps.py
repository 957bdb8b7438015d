"""Computes numbers of one drawn map: the functions of the table `MAP_NUMBERS`."""

from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from attnviz.geometry.grid import Box
from attnviz.geometry.placement import Placement
from attnviz.statistics import MAP_NUMBERS, OBJECT_NUMBERS, MapNumber
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


def of_object(
    values: NDArray[np.float32],
    drawn: NDArray[np.bool_],
    placement: Placement,
    box: Box | None,
    mask: NDArray[np.bool_] | None,
) -> dict[str, float]:
    """Numbers of a map that looks from an object: how far, and how much, it looks at that object.

    `object_mass` is the share of the map's mass within the object's mask, or its box if there is no
    mask; `object_distance` the distance from the map's centre of mass to the middle of the box, and
    `object_peak_distance` that from its peak, in picture pixels. NaN if one is not defined.

    Args:
        values: (rows, columns) weights, as drawn.
        drawn: (rows, columns), the cells that count.
        placement: where the cells lie on the picture.
        box: the object's box in picture pixels; None if its mask is empty.
        mask: (height, width) boolean over the whole picture, in any size.
    """
    found = DrawnMap(values, drawn, placement)
    total = float(found.mass.sum())
    if box is None or total <= 0:
        return dict.fromkeys(OBJECT_NUMBERS, float("nan"))
    within = placement.coverage(*box) if mask is None else _share(placement, mask)
    centres = np.array([placement.visible_centre(*cell) for cell in np.argwhere(drawn).tolist()])
    middle = np.array([(box.left + box.right) / 2, (box.top + box.bottom) / 2])
    centre = found.mass @ centres / total
    distances = (float(np.linalg.norm(place - middle)) for place in (centre, np.array(found.peak)))
    share = float(found.mass @ within[drawn]) / total
    return dict(zip(OBJECT_NUMBERS, (share, *distances), strict=True))


def _share(placement: Placement, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of each cell that a mask covers, (rows, columns)."""
    return placement.of_size(mask.shape[1], mask.shape[0]).average(mask)


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
