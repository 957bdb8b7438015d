"""Checks that the files of a batch are whole while the batch writes them: used by `endurance.py`.

A file is whole if a reader of its kind can read it to its end. Only a file with a temporary name,
and the last line of a journal, may be incomplete.
"""

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

JOURNAL = ".attnviz/journal.jsonl"
TEMPORARY = re.compile(r"\..+\.\d+\.part", re.DOTALL)
Stamp = tuple[int, int, int]
"""Of a file: which it is, when it was written, and its size."""


def files(folder: Path) -> list[str]:
    """Paths of all files in a folder."""
    found = []
    for top, _, names in os.walk(folder):
        found += [os.path.relpath(f"{top}/{name}", folder) for name in names]
    return found


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path in a folder."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files(folder)
    }


def apart(one: Path, other: Path) -> list[str]:
    """Files that are not the same in two folders, or in one alone."""
    first, second = digests(one), digests(other)
    return sorted(name for name in first | second if first.get(name) != second.get(name))


def halves(folder: Path) -> list[str]:
    """Files of a folder at rest that are not whole, and those under a temporary name."""
    told = {name: fault(folder / name) for name in files(folder)}
    parts = [name for name in told if TEMPORARY.fullmatch(Path(name).name)]
    return parts + [f"{name}: {what}" for name, what in told.items() if what is not None]


def fault(path: Path, *, ended: bool = True) -> str | None:
    """Why a file is not whole; None of one that is. `ended`: also its last line must be."""
    try:
        if path.suffix == ".jsonl":
            _lines(path, ended=ended)
        else:
            read = _READERS.get(path.suffix)
            if read is not None:
                read(path)
    except FileNotFoundError:  # it was replaced or removed just now
        return None
    except Exception as error:  # each reader has its own
        return f"{type(error).__name__}: {error}"
    return None


def _picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _lines(path: Path, *, ended: bool) -> None:
    *lines, rest = path.read_bytes().split(b"\n")
    for line in lines:
        json.loads(line)
    if ended and rest:
        raise ValueError("its last line has no end")


def _page(path: Path) -> None:
    if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("its end is missing")


def _arrays(path: Path) -> None:
    with np.load(path) as arrays:
        for name in arrays:
            arrays[name].sum()


def _rows(path: Path) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        if len({len(row) for row in csv.reader(file)}) != 1:
            raise ValueError("rows of different lengths")


def _columns(path: Path) -> None:
    from pyarrow import parquet  # noqa: PLC0415 — an optional part

    parquet.read_table(path)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".png": _picture,
    ".jpg": _picture,
    ".webp": _picture,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".html": _page,
    ".npz": _arrays,
    ".csv": _rows,
    ".parquet": _columns,
}


class Watch:
    """Looks at a folder again and again; what it sees for the first time it reads to its end.

    Attributes:
        halves: files that were half written, and what was wrong with each.
        again: files that were written once more although the journal had them.
        temporary: files under a temporary name at some moment.
        looks: how often it looked.
    """

    def __init__(self, out: Path) -> None:
        self.halves: list[str] = []
        self.again: set[str] = set()
        self.temporary: set[str] = set()
        self.looks = 0
        self._out = out
        self._before = {name: _stamp(out / name) for name in files(out)}
        self._stamps: dict[str, set[Stamp]] = {}
        self._settled: dict[str, Stamp] = {}

    def look(self) -> int:
        """Look at everything once; how many files are new, or others than in the beginning."""
        self.looks += 1
        new = 0
        for name in files(self._out):
            stamp = _stamp(self._out / name)
            if stamp is None:
                continue
            if TEMPORARY.fullmatch(Path(name).name):
                self.temporary.add(name)
                continue
            new += stamp != self._before.get(name)
            self._seen(name, stamp)
        return new

    def _seen(self, name: str, stamp: Stamp) -> None:
        if stamp == self._before.get(name) or stamp in self._stamps.get(name, ()):
            return
        told = fault(self._out / name, ended=name != JOURNAL)
        if told is not None and _stamp(self._out / name) == stamp:
            self.halves.append(f"{name}: {told}")
        self._stamps.setdefault(name, set()).add(stamp)
        if self._settled.get(name, stamp) != stamp:
            self.again.add(name)

    def settle(self, settings: str | None = None) -> int:
        """What the journal says is done is not to be done again; of how many pictures it does.

        Those of other `settings` are to be.
        """
        done = [one for one in entries(self._out) if settings in (None, one["settings"])]
        for entry in done:
            for name in entry["files"]:
                path = f"{entry['folder']}/{name}"
                stamp = _stamp(self._out / path)
                if stamp is not None:
                    self._settled[path] = stamp
        return len({entry["path"] for entry in done})

    def times(self) -> Counter[int]:
        """How many pictures were written once, how many twice, and so on."""
        most: Counter[str] = Counter()
        for name, stamps in self._stamps.items():
            folder = str(Path(name).parent)
            if folder != "." and not folder.startswith(".attnviz"):
                most[folder] = max(most[folder], len(stamps))
        return Counter(most.values())


def entries(out: Path) -> Iterator[dict[str, Any]]:
    """What the journal of a folder says of pictures that are done; a line that is cut is none."""
    try:
        lines = (out / JOURNAL).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    for line in lines:
        entry = json.loads(line)["entry"]
        if entry["status"] == "done":
            yield entry


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
