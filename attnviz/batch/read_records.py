"""Reads the files of a batch with one JSON object per line, without loading a whole file."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from attnviz.errors import OutputError

STATS, MANIFEST = "stats.jsonl", "manifest.jsonl"
_Read = TypeVar("_Read")


def each(path: Path, read: Callable[[dict[str, Any]], _Read]) -> Iterator[_Read]:
    """The results of a function for every object of a JSONL file, in the file's order.

    >>> next(each(Path("OUT/stats.jsonl"), lambda record: record["image"]["path"]))
    'photos/cat.jpg'

    Raises:
        OutputError: the file cannot be read, or the function cannot read one of its lines.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield _parsed(line, read, path, number)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be read ({error.strerror}); give the folder that attnviz batch wrote"
        ) from error


def _parsed(line: bytes, read: Callable[[dict[str, Any]], _Read], path: Path, number: int) -> _Read:
    try:
        return read(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{path}: line {number} is no record; run attnviz batch again") from error
