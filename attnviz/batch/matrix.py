"""Numbers of pictures, a column a statistic, layer and head, as fine as a page can hold."""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.statistics import MAP_NUMBERS, MORE, STATISTICS

MOST = 2_000_000
"""Numbers that a page holds, about 14 MB."""
Place = tuple[int | None, int | None]
"""Layer and head, None for the mean over them."""
Key = tuple[int, int | None, int | None]
"""Which of the numbers of `numbers`, and its place."""


class Matrix:
    """Numbers by picture, NaN where there is none.

    Of a folder whose heads would be more than `MOST` numbers there are means over the heads of each
    layer; of one that is larger still, means over all layers. The first picture decides.

    Args:
        pictures: how many rows there are.
    """

    def __init__(self, pictures: int) -> None:
        self._pictures = pictures
        self._columns: dict[Key, array[float]] = {}
        self.level = -1

    def add(self, row: int, heads: Sequence[Mapping[str, Any]]) -> None:
        """Take the entries of one picture's `heads`."""
        if not heads:
            return
        values = np.array([numbers(head) for head in heads])  # (entries, NUMBERS)
        if self.level < 0:
            known = int((~np.isnan(values)).any(0).sum())
            sizes = [len(_places(heads, level)) * known * self._pictures for level in (0, 1, 2)]
            self.level = max((level for level in (1, 2) if sizes[level] <= MOST), default=0)
        for place, entries in _places(heads, self.level).items():
            for i, mean in enumerate(_means(values[entries])):
                if not math.isnan(mean):
                    self._column((i, *place))[row] = mean

    def columns(self) -> Iterator[tuple[Key, "array[float]"]]:
        """All columns, by statistic, layer and head, means before what they are of."""
        for key in sorted(self._columns, key=lambda key: [-1 if n is None else n for n in key]):
            yield key, self._columns[key]

    def _column(self, key: Key) -> "array[float]":
        if key not in self._columns:
            self._columns[key] = array("d", [math.nan]) * self._pictures
        return self._columns[key]


def _places(heads: Sequence[Mapping[str, Any]], level: int) -> dict[Place, list[int]]:
    """The entries that each mean is of: of all, of each layer (level 1), of each head (level 2).

    A mean of a single layer or head is there once, as that of what is coarser.
    """
    layers: dict[int, dict[int | None, list[int]]] = {}
    for i, head in enumerate(heads):
        layers.setdefault(head["layer"], {}).setdefault(head["head"], []).append(i)
    found: dict[Place, list[int]] = {}
    if level == 0 or len(layers) > 1:
        found[None, None] = list(range(len(heads)))
    for layer, of_heads in layers.items() if level else ():
        found[layer, None] = [i for entries in of_heads.values() for i in entries]
        if level == 2 and len(of_heads) > 1:
            found |= {(layer, head): entries for head, entries in of_heads.items()}
    return found


def _means(values: NDArray[np.float64]) -> list[float]:
    """Over entries, of what is known of each column; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(0)
    total = np.where(known, values, 0.0).sum(0)
    return list(np.where(count, total / np.maximum(count, 1), np.nan).tolist())


OF_HEADS = (*STATISTICS, *MORE)
OF_MAPS = tuple(f"map_{name}" for name in MAP_NUMBERS)
NUMBERS = (*OF_HEADS, *OF_MAPS)
MEANINGS = {name: entry.summary for name, entry in {**STATISTICS, **MORE}.items()} | {
    f"map_{name}": entry.summary for name, entry in MAP_NUMBERS.items()
}
"""What each is, in a line."""


def numbers(head: Mapping[str, Any]) -> "array[float]":
    """Of one entry those of `NUMBERS`, NaN where they are null or not there.

    Raises:
        TypeError: one is no number.
    """
    of_map = head["map"]
    found = [*map(head.get, OF_HEADS), *map(of_map.get, MAP_NUMBERS)]
    return array("d", [math.nan if value is None else value for value in found])


def by_question(heads: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Entries, each with the number of its question: how often its head was there before."""
    seen: dict[tuple[int, int | None], int] = {}
    for head in heads:
        place = head["layer"], head["head"]
        seen[place] = seen.get(place, -1) + 1
        yield seen[place], head
