"""The numbers that an entry of a record's `heads` has, by the names of their columns."""

import math
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from attnviz.records import MapInfo
from attnviz.statistics import MORE, STATISTICS

_OF_MAPS = {
    "minimum": "smallest weight that is drawn",
    "maximum": "largest weight that is drawn",
    "entropy": "how spread the map is, in nats",
    "peak_x": "where its heaviest token lies, in pixels from the left",
    "peak_y": "where its heaviest token lies, in pixels from the top",
    "area60": "share of the tokens that hold 60 % of its mass",
}
OF_HEADS = (*STATISTICS, *MORE)
OF_MAPS = tuple(f"map_{name}" for name in MapInfo.model_fields)
NUMBERS = (*OF_HEADS, *OF_MAPS)
MEANINGS = {name: entry.summary for name, entry in {**STATISTICS, **MORE}.items()} | {
    f"map_{name}": summary for name, summary in _OF_MAPS.items()
}
"""What each is, in a line."""


def numbers(head: Mapping[str, Any]) -> "array[float]":
    """Of one entry those of `NUMBERS`, NaN where they are null or not there.

    Raises:
        TypeError: one is no number.
    """
    of_map = head["map"]
    found = [*map(head.get, OF_HEADS), *map(of_map.get, MapInfo.model_fields)]
    return array("d", [math.nan if value is None else value for value in found])


def asked(heads: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Entries, each with the number of its question: how often its head was there before."""
    seen: dict[tuple[int, int | None], int] = {}
    for head in heads:
        place = head["layer"], head["head"]
        seen[place] = seen.get(place, -1) + 1
        yield seen[place], head
