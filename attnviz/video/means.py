"""Computes the numbers of a clip: the mean of each number over its frames."""

from collections.abc import Iterable
from typing import Any

from attnviz.output.records import Head, MapInfo, Record


class Means:
    """Sums of the numbers of all frames; memory does not grow with their number."""

    def __init__(self) -> None:
        self.count = self.unverified = 0
        self._first: Record | None = None
        self._worst: float | None = 0.0
        self._sums: list[dict[str, _Sum]] = []

    def add(self, record: Record) -> None:
        """Add the record of a frame."""
        if self._first is None:
            self._first = record
            self._sums = [{} for _ in record.heads]
        self.count += 1
        self.unverified += not record.check.verified
        worst = record.check.max_error
        defined = None not in (self._worst, worst)
        self._worst = max(self._worst, worst) if defined else None  # type: ignore[type-var]
        for sums, head in zip(self._sums, record.heads, strict=True):
            for name, value in _numbers(head):
                sums.setdefault(name, _Sum()).add(value)

    def record(self) -> Record:
        """A record like that of a frame, with means; a number that no frame has is null.

        The targets are those of the first frame.
        """
        first = self._first
        assert first is not None  # a clip has a frame
        check = first.check.model_copy(
            update={"verified": not self.unverified, "max_error": self._worst}
        )
        heads = [
            _with(head, {name: each.mean for name, each in sums.items()})
            for head, sums in zip(first.heads, self._sums, strict=True)
        ]
        return first.model_copy(update={"check": check, "heads": heads, "layers": None})


class _Sum:
    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, value: float | None) -> None:
        if value is not None:
            self._sum, self._count = self._sum + value, self._count + 1

    @property
    def mean(self) -> float | None:
        return self._sum / self._count if self._count else None


_OF_MODEL = ("layer", "head", "rank", "rows", "columns", "kind", "sums_to_one", "view", "moment")
"""Fields of a head that are the same in every frame."""


def _numbers(head: Head) -> Iterable[tuple[str, float | None]]:
    """The numbers of a head and of its map; names of the map's numbers begin with `map.`."""
    for name, value in head:
        if name not in _OF_MODEL and (value is None or isinstance(value, (int, float))):
            yield name, value
    for name, value in head.map:
        yield f"map.{name}", value


def _with(head: Head, numbers: dict[str, Any]) -> Head:
    of_frame = {name: value for name, value in numbers.items() if not name.startswith("map.")}
    of_map = {name: numbers[f"map.{name}"] for name in MapInfo.model_fields}
    return head.model_copy(update={**of_frame, "map": head.map.model_copy(update=of_map)})
