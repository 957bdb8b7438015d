"""The numbers of all pictures: one column per statistic, layer and head, coarser if too many."""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.statistics import MAP_NUMBERS, MORE, OBJECT_NUMBERS, STATISTICS

MOST = 2_000_000
"""How many numbers a page can hold; about 14 MB."""
Place = tuple[int | None, int | None]
"""Layer and head; None is the mean over all. Localized heads have `LOCALIZED` and their rank."""
LOCALIZED = -1
"""In place of a layer: localized heads of several layers, which differ from picture to picture."""
Key = tuple[int, int | None, int | None]
"""The index of a number in `NUMBERS`, and its place."""


class Matrix:
    """Numbers by picture, NaN where there is none.

    If the numbers of all heads would be more than `MOST`, the matrix has means over the heads of
    each layer; if these are still too many, means over all layers. The first picture decides.

    Args:
        pictures: the number of rows.
    """

    def __init__(self, pictures: int) -> None:
        self._pictures = pictures
        self._columns: dict[Key, array[float]] = {}
        self.level = -1

    def add(self, row: int, heads: Sequence[Mapping[str, Any]]) -> None:
        """Add the entries of one picture's `heads`."""
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
        """All columns, by statistic, layer and head; a mean comes before its parts."""
        for key in sorted(self._columns, key=lambda key: [-1 if n is None else n for n in key]):
            yield key, self._columns[key]

    def _column(self, key: Key) -> "array[float]":
        if key not in self._columns:
            self._columns[key] = array("d", [math.nan]) * self._pictures
        return self._columns[key]


def _places(heads: Sequence[Mapping[str, Any]], level: int) -> dict[Place, list[int]]:
    """The entries that each mean covers: all, each layer (level 1), each head (level 2).

    If there is a single layer, or a single head, its mean appears only once, as the coarser one.
    """
    layers: dict[int, dict[int | None, list[int]]] = {}
    for i, head in enumerate(heads):
        layer, number = place_of(head)
        layers.setdefault(layer, {}).setdefault(number, []).append(i)
    found: dict[Place, list[int]] = {}
    if level == 0 or len(layers) > 1:
        found[None, None] = list(range(len(heads)))
    for layer, of_heads in layers.items() if level else ():
        rest = [n for n in of_heads if (layer, n) != (LOCALIZED, 0) or len(of_heads) == 1]
        found[layer, None] = [i for n in rest for i in of_heads[n]]  # without the mean map
        if level == 2 and len(of_heads) > 1:
            found |= {(layer, head): entries for head, entries in of_heads.items()}
    return found


def _means(values: NDArray[np.float64]) -> list[float]:
    """The mean of each column over its values that are not NaN; NaN if there are none."""
    known = ~np.isnan(values)
    count = known.sum(0)
    total = np.where(known, values, 0.0).sum(0)
    return list(np.where(count, total / np.maximum(count, 1), np.nan).tolist())


OF_HEADS = (*STATISTICS, *MORE)
OF_MAPS = tuple(f"map_{name}" for name in (*MAP_NUMBERS, *OBJECT_NUMBERS))
NUMBERS = (*OF_HEADS, *OF_MAPS)
MEANINGS = {name: entry.summary for name, entry in {**STATISTICS, **MORE}.items()} | {
    f"map_{name}": entry.summary for name, entry in MAP_NUMBERS.items()
}
MEANINGS |= {f"map_{name}": line for name, line in OBJECT_NUMBERS.items()}
"""The description of each number, in one line."""


def numbers(head: Mapping[str, Any]) -> "array[float]":
    """The numbers `NUMBERS` of one entry, NaN where they are null or missing.

    Raises:
        TypeError: a value is not a number.
    """
    of_map = head["map"]
    found = [*map(head.get, OF_HEADS), *map(of_map.get, (*MAP_NUMBERS, *OBJECT_NUMBERS))]
    return array("d", [math.nan if value is None else value for value in found])


def place_of(head: Mapping[str, Any]) -> tuple[int, int | None]:
    """The layer and the head of an entry; of localized heads `LOCALIZED` and the rank."""
    rank = head.get("rank")
    return (head["layer"], head["head"]) if rank is None else (LOCALIZED, rank)


def by_question(heads: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Entries with the number of their question: how often the same head came before."""
    seen: dict[tuple[int, int | None], int] = {}
    for head in heads:
        place = place_of(head)
        seen[place] = seen.get(place, -1) + 1
        yield seen[place], head
