"""Compares maps of one picture on the cells of the first map, and measures how alike they are."""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from attnviz.comparison import AGREEMENTS, Agreement, check_count
from attnviz.comparison.sides import ComparisonSide, sides_of, span
from attnviz.errors import UsageError
from attnviz.explanation.explanation import Explanation
from attnviz.geometry.placement import resample
from attnviz.io.picture import Picture, with_pixels
from attnviz.methods.attention import smallest_set
from attnviz.statistics.maps import KEEP

_HALF = 0.5 - 1e-9
Weights = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two or more sides, compared in pairs; differences are drawn against the first side.

    >>> rollout = attnviz.explain(observation, method="rollout")
    >>> attnviz.compare(explanation, rollout).maps.shape       # sides, rows, columns
    (2, 15, 22)

    All numbers are over cells of the first side's grid. So the choice of the first side matters if
    the grids differ.

    Attributes:
        picture: the picture of all sides.
        sides: the maps, each on its own grid.
    """

    picture: Picture
    sides: tuple[ComparisonSide, ...]

    def __post_init__(self) -> None:
        check_count(len(self.sides), most=None)
        own = self.picture.width, self.picture.height
        for side in self.sides:
            size = side.placement.picture_width, side.placement.picture_height
            if size != own:
                raise UsageError(
                    f"{self.picture.path}: the pictures are {own[0]}x{own[1]} and "
                    f"{size[0]}x{size[1]}; compare maps of one picture"
                )

    @cached_property
    def maps(self) -> NDArray[np.float32]:
        """All maps on the cells of the first, (sides, rows, columns); 0 where not drawn.

        The values are means over cells, rounded to float32 like the weights, so that equal weights
        stay equal.
        """
        return np.where(self.drawn, self._resampled[0], 0).astype(np.float32)

    @cached_property
    def drawn(self) -> NDArray[np.bool_]:
        """For each side, the cells of which it saw at least half, (sides, rows, columns).

        The cells are those of the first side; only the part that the first side saw counts.
        """
        seen: NDArray[np.bool_] = (self._resampled[1] >= _HALF) & self.sides[0].drawn
        return seen

    @cached_property
    def _resampled(self) -> NDArray[np.float64]:
        """Means and shares, (2, sides, rows, columns)."""
        cells = self.sides[0].placement
        found = [resample(side.values, side.drawn, side.placement, cells) for side in self.sides]
        return np.stack(found, axis=1)

    def common(self, first: int, second: int) -> NDArray[np.bool_]:
        """Cells that both sides saw, (rows, columns)."""
        return np.asarray(self.drawn[first] & self.drawn[second])

    @cached_property
    def pairs(self) -> dict[tuple[int, int], dict[str, float]]:
        """How alike each two sides are, by the names of `AGREEMENTS`; NaN if one side is flat."""
        return {
            (first, second): self._agreement(first, second)
            for first, second in combinations(range(len(self.sides)), 2)
        }

    def _agreement(self, first: int, second: int) -> dict[str, float]:
        common = self.common(first, second)
        weights = [self.maps[number][common] for number in (first, second)]
        if any(span(each).flat for each in weights):
            return dict.fromkeys(AGREEMENTS, float("nan"))
        a, b = (each.astype(np.float64) for each in weights)
        return {name: _number(entry, a, b) for name, entry in AGREEMENTS.items()}

    def matrix(self, name: str = "spearman") -> NDArray[np.float64]:
        """One agreement of all pairs of sides, (sides, sides); 1 on the diagonal."""
        result = np.eye(len(self.sides))
        for (first, second), numbers in self.pairs.items():
            result[first, second] = result[second, first] = numbers[name]
        return result

    def difference(self, number: int) -> NDArray[np.float64]:
        """A side minus the first side, each scaled to 0…1: (rows, columns) in −1…1.

        Each side is scaled by its smallest and largest weight over the cells that both saw; a flat
        side becomes ½. On all other cells the difference is 0.
        """
        common = self.common(0, number)
        other, first = (span(self.maps[i][common]).position(self.maps[i]) for i in (number, 0))
        return np.where(common, other - first, 0.0)


def _number(entry: Agreement, first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return entry.run_or(float("nan"), lambda: float(entry(first, second)))


def compare(first: Explanation, *others: Explanation) -> Comparison:
    """Compare the maps of several explanations of one picture.

    Each layer and each question of an explanation is a side: the mean of its heads. Maps on other
    grids are resampled to the cells of the first.

    >>> control = attnviz.load_model(random_weights=True)
    >>> both = attnviz.compare(explanation, attnviz.explain(attnviz.observe(picture, control)))
    >>> both.difference(1).shape                              # (rows, columns)
    (15, 22)
    >>> -1 <= both.pairs[0, 1]["spearman"] <= 1
    True

    Raises:
        UsageError: there is only one side, or the explanations have different pictures.
    """
    sides = [side for each in (first, *others) for side in sides_of(each)]
    return Comparison(with_pixels(first.observation.picture), tuple(sides))


def jaccard60(first: Weights, second: Weights) -> float:
    """|A ∩ B| / |A ∪ B| of the smallest sets of cells with 60 % of the mass, 0…1.

    A and B take the heaviest cells first, and among equal ones the first in reading order. A weight
    below 0 has no mass. These are DINO's masks (Caron et al., 2104.14294), here of two maps. The
    result is NaN if a map has no mass.

    Args:
        first: (cells,).
        second: (cells,).
    """
    everywhere = np.ones(len(first), dtype=np.bool_)
    a, b = (
        smallest_set(weights.clip(0).astype(np.float32), everywhere, keep=KEEP) > 0
        for weights in (first, second)
    )
    return float((a & b).sum() / (a | b).sum()) if a.any() and b.any() else float("nan")
