"""Files of a line an object, read one line after the other: never a whole file in memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attnviz.errors import OutputError

STATS, MANIFEST = "stats.jsonl", "manifest.jsonl"


def objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, in its order.

    >>> next(objects(Path("OUT/stats.jsonl")))["image"]["path"]
    'sub/cat.jpg'

    Raises:
        OutputError: it cannot be read, or a line of it is no JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield _object(line, path, number)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be read ({error.strerror}); give the folder that attnviz batch wrote"
        ) from error


def _object(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError:  # also bytes that are no UTF-8
        data = None
    if not isinstance(data, dict):
        raise OutputError(f"{path}: line {number} is no record; run attnviz batch again")
    return data
