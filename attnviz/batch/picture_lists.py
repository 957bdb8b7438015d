"""Reads lists of pictures with a prompt each: JSONL and CSV of path, prompt and answer."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnviz.errors import ImageError, UsageError

LISTS = (".jsonl", ".csv")
COLUMNS = ("path", "prompt", "answer")


@dataclass(frozen=True)
class ListRow:
    """A row of a list.

    Attributes:
        path: the picture's path.
        prompt: what it is asked; None if the row says nothing.
        answer: an answer to look at; None if the row says nothing.
        place: the list and the number of the row, for errors.
    """

    path: str
    prompt: str | None
    answer: str | None
    place: str


def read_list(path: str) -> list[ListRow]:
    """The rows of a list of pictures.

    A JSONL list has an object a line, a CSV list a first row with the names of its columns,
    separated by commas, semicolons or tabs. `path` is needed; an empty cell says nothing.

    Raises:
        ImageError: the list cannot be read.
        UsageError: a row or a column is wrong; the error names the row, counted from 1 in the file.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
    rows = _of_csv(text, path) if path.lower().endswith(".csv") else _of_jsonl(text, path)
    return [_row(data, place) for data, place in rows]


def _of_jsonl(text: str, path: str) -> Iterator[tuple[dict[str, Any], str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        place = f"{path}, row {number}"
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{place}: is no JSON ({error}); give an object a line") from error
        if not isinstance(data, dict):
            raise UsageError(f'{place}: is no object; give {{"path": …, "prompt": …}}')
        _check_columns(data, place)
        yield data, place


def _of_csv(text: str, path: str) -> Iterator[tuple[dict[str, Any], str]]:
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] = []
    number = 0
    try:
        for number, cells in enumerate(rows, start=1):
            place = f"{path}, row {number}"
            if number == 1:
                names = [name.strip() for name in cells]
                _check_columns(names, place)
            elif cells:
                if len(cells) > len(names):
                    raise UsageError(
                        f"{place}: has {len(cells)} cells for {len(names)} columns; put texts with "
                        f"{separator!r} in double quotes"
                    )
                yield {n: cell for n, cell in zip(names, cells, strict=False) if cell}, place
    except csv.Error as error:
        raise UsageError(f"{path}, row {number + 1}: cannot be read as CSV ({error})") from error


def _check_columns(names: "list[str] | dict[str, Any]", place: str) -> None:
    """Check that these columns exist, each once, and that `path` is among them."""
    wrong = [name for name in names if name not in COLUMNS]
    if wrong:
        raise UsageError(
            f"{place}: no list has a column {wrong[0]!r}; its columns are {', '.join(COLUMNS)}"
        )
    twice = [name for name in COLUMNS if list(names).count(name) > 1]
    if twice:
        raise UsageError(f"{place}: the column {twice[0]} is there twice; leave one out")
    if "path" not in names:
        raise UsageError(f"{place}: the column path is missing, which names the picture")


def _row(data: dict[str, Any], place: str) -> ListRow:
    """A checked row.

    Raises:
        UsageError: a value is empty, no text, or cannot be written down.
    """
    texts = {name: data.get(name) for name in COLUMNS}
    for name, text in texts.items():
        if text is None and name != "path":
            continue
        if text is not None and not isinstance(text, str):
            raise UsageError(f"{place}: its {name} is {json.dumps(text)}, which is no text")
        if text is None or not text.strip() or "\0" in text:
            advice = (
                "give the path of a picture" if name == "path" else "write one, or leave it out"
            )
            raise UsageError(f"{place}: its {name} is empty; {advice}")
        if name != "path" and not text.isascii() and _is_odd(text):
            raise UsageError(f"{place}: its {name} is not UTF-8; save the list as UTF-8")
    return ListRow(str(texts["path"]), texts["prompt"], texts["answer"], place)


def _is_odd(text: str) -> bool:
    """Whether a text has bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
