"""Stores finished evaluations, so that an interrupted run continues where it stopped."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from attnviz.evaluation.summary import SummaryEntry, as_data, from_data
from attnviz.output import encoding, whole_files

NAME = "pictures.jsonl"


class Store:
    """The entries of a folder, by key; without a folder, the entries of this run.

    Each finished picture adds a line to `pictures.jsonl`. `close` rewrites the file in the order of
    this run, with the entries of this run only.

    >>> store = Store(Path("out"))
    >>> store.get("the digest of settings and files") is None         # nothing was done yet
    True
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / NAME
        self._lines: dict[str, str] = {}
        if folder is not None and self._path is not None:
            whole_files.check_folder(folder)
            lines = whole_files.whole_lines(self._path)
            self._lines = {key: line for line in lines if (key := _key(line)) is not None}
            if lines:  # drops an unfinished last line
                self._write(self._lines)

    @property
    def lasting(self) -> bool:
        """Whether the entries are kept in a file."""
        return self._path is not None

    def get(self, key: str) -> SummaryEntry | None:
        """The entry of a key, or None."""
        line = self._lines.get(key)
        return None if line is None else from_data(json.loads(line))

    def add(self, key: str, entry: SummaryEntry) -> None:
        """Add an entry.

        Raises:
            OutputError: the file cannot be written.
        """
        line = encoding.as_json({"key": key, **as_data(entry)})
        self._lines[key] = line
        if self._path is not None:
            whole_files.append(whole_files.make_folder(self._path.parent) / NAME, line)

    def close(self, keys: Sequence[str]) -> list[Path]:
        """Write exactly the entries of these keys, in their order.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._path is None:
            return []
        return [self._write({key: self._lines[key] for key in keys})]

    def _write(self, lines: Mapping[str, str]) -> Path:
        assert self._path is not None
        text = "".join(f"{line}\n" for line in lines.values())
        return whole_files.write_whole(self._path, text.encode())


def _key(line: str) -> str | None:
    """The key of a line; None if the line is incomplete or unusable."""
    try:
        data = json.loads(line)
        from_data(data)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    key = data.get("key")
    return key if isinstance(key, str) else None
