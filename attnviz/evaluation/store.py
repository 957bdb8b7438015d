"""What was evaluated already, so that a run that was broken off goes on where it was."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from attnviz.evaluation.summary import SummaryEntry, as_data, from_data
from attnviz.output import encoding, whole_files

NAME = "pictures.jsonl"


class Store:
    """The entries of a folder, by keys; of no folder, those of this run.

    A line is added to `pictures.jsonl` when a picture is done. `close` writes the whole file anew,
    in the order of this run and without what it did not ask for.

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
            if lines:  # without what was broken off, so that the next line is one of its own
                self._write(self._lines)

    @property
    def lasting(self) -> bool:
        """Whether entries outlive this run."""
        return self._path is not None

    def get(self, key: str) -> SummaryEntry | None:
        """What was found under a key."""
        line = self._lines.get(key)
        return None if line is None else from_data(json.loads(line))

    def add(self, key: str, entry: SummaryEntry) -> None:
        """Keep an entry.

        Raises:
            OutputError: it cannot be written.
        """
        line = encoding.as_json({"key": key, **as_data(entry)})
        self._lines[key] = line
        if self._path is not None:
            whole_files.append(whole_files.make_folder(self._path.parent) / NAME, line)

    def close(self, keys: Sequence[str]) -> list[Path]:
        """Write the entries of these keys, in their order, and no others.

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
    """The key of a line that is whole and can be used."""
    try:
        data = json.loads(line)
        from_data(data)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    key = data.get("key")
    return key if isinstance(key, str) else None
