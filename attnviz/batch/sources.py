"""Which pictures there are: folders, patterns and lists, as the tree that their files go to."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attnviz.errors import ImageError, UsageError
from attnviz.io.picture_files import SUFFIXES

RESERVED = (
    ".attnviz",
    "manifest.jsonl",
    "stats.jsonl",
    "index.html",
    "aggregate.jsonl",
    "aggregate.csv",
    "aggregate.png",
    "stats.parquet",
)
"""Names in the folder for the files that are no picture's."""


@dataclass(frozen=True)
class Item:
    """A picture: its path as it was found, and the folder for its files below that of all."""

    path: str
    folder: str


@dataclass
class Plan:
    """What is to be done, sorted by path; and how many files were left aside.

    Attributes:
        items: each picture once.
        hidden: files and folders whose names begin with a dot.
        others: files whose names are not those of pictures.
    """

    items: list[Item] = field(default_factory=list)
    hidden: int = 0
    others: int = 0


def find(sources: Sequence[str], out: Path, *, recursive: bool = True) -> Plan:
    """All pictures of some sources.

    A source is a folder, a pattern (`photos/*.jpg`, `photos/**/*.png`), a `.txt` list of paths (one
    a line; or, as `find -print0` writes them, each with a NUL behind it), or a picture. The folder
    `out` is left aside. Where one folder is named, files lie below `out` as they do there; else as
    they do below the folder that holds all of them.

    A sub-folder that cannot be read, or has a picture's name and holds none, counts as a picture
    that fails; the others are done.

    Raises:
        UsageError: standard input.
        ImageError: a source that is not there, or cannot be read; no picture at all.
    """
    finder = _Finder(out, recursive=recursive)
    for source in sources:
        finder.take(source)
    finder.end()
    paths = {os.path.abspath(path): path for path in sorted(finder.found)}  # noqa: PTH100 — as named
    if not paths:
        raise ImageError(
            f"{', '.join(sources)}: no picture found; name a folder with "
            f"{', '.join(SUFFIXES[:4])} …"
        )
    alone = len(sources) == 1 and os.path.isdir(sources[0])  # noqa: PTH112
    if alone:
        root = os.path.abspath(sources[0])  # noqa: PTH100
    else:
        root = os.path.commonpath({os.path.dirname(path) for path in paths})  # noqa: PTH120
    items = [Item(path, os.path.relpath(full, root)) for full, path in paths.items()]
    items.sort(key=lambda item: os.fsencode(item.path))
    return Plan(items, finder.hidden, finder.others)


class _Finder:
    """Collects paths, and counts what it leaves aside."""

    def __init__(self, out: Path, *, recursive: bool) -> None:
        self.found: set[str] = set()
        self.hidden = self.others = 0
        self._recursive = recursive
        self._out = _identity(out)
        self._alike: list[str] = []  # folders that are named as pictures are

    def take(self, source: str) -> None:
        """All pictures of one source."""
        if source == "-":
            raise UsageError("batch reads files; name a folder, a pattern or a list, not -")
        if os.path.isdir(source):  # noqa: PTH112 — any bytes
            self._folder(source, given=True)
        elif os.path.lexists(source):
            if source.lower().endswith(".txt"):
                self._list(source)
            else:
                self.found.add(source)
        elif glob.has_magic(source):
            self._pattern(source)
        else:
            raise ImageError(f"{source}: no such file; name a folder, a pattern or a .txt list")

    def end(self) -> None:
        """When all sources are taken: what stands in a picture's place, and holds none."""
        above: set[str] = set()
        for path in self.found:
            _add_above(path, above)
        for folder in sorted(self._alike, key=len, reverse=True):  # what is below goes first
            if folder not in above:
                self.found.add(folder)
                _add_above(folder, above)

    def _pattern(self, pattern: str) -> None:
        """Files that fit, if they are pictures, and what is in folders that fit."""
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 — any bytes
        if not matches:
            raise ImageError(f"{pattern}: nothing fits the pattern; put it in quotes, and check it")
        for path in matches:
            if not os.path.isdir(path):  # noqa: PTH112
                self._file(path)
            elif "**" not in pattern:  # which has found what is in them
                self._folder(path)

    def _list(self, path: str) -> None:
        """What a list names: pictures as they are, and folders."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
        for name in data.split(b"\0") if b"\0" in data else data.splitlines():
            entry = os.fsdecode(name)
            if os.path.isdir(entry):  # noqa: PTH112
                self._folder(entry)
            elif entry.strip():
                self.found.add(entry)

    def _file(self, path: str) -> None:
        name = os.path.basename(path)  # noqa: PTH119
        if name.startswith("."):
            self.hidden += 1
        elif name.lower().endswith(SUFFIXES):
            self.found.add(path)
        else:
            self.others += 1

    def _folder(self, top: str, *, given: bool = False) -> None:
        """A folder and those below it; links last, and no folder that was seen before.

        A link that leads back into the tree is thus no loop, and what is there twice is named by
        its own path. `given`: as a source, so that it must be readable.
        """
        visited: set[object] = {self._out}
        waiting, links = [top], list[str]()
        while waiting or links:
            folder = waiting.pop() if waiting else links.pop(0)
            key = _identity(folder)
            if key in visited:
                continue
            visited.add(key)
            self._note(folder, given=given and folder == top)
            for entry in self._entries(folder, given=given and folder == top):
                if not _is_folder(entry):
                    self._file(entry.path)
                elif entry.name.startswith("."):
                    self.hidden += 1
                elif self._recursive:
                    (links if entry.is_symlink() else waiting).append(entry.path)

    def _note(self, folder: str, *, given: bool) -> None:
        """A folder that may be meant as a picture; a link leads to what is noted by itself."""
        if not given and folder.lower().endswith(SUFFIXES) and not os.path.islink(folder):  # noqa: PTH114
            self._alike.append(folder)

    def _entries(self, folder: str, *, given: bool) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            if given:
                raise ImageError(f"{folder}: cannot be read ({error.strerror})") from error
            self.found.add(folder)
            return []


def _add_above(path: str, above: set[str]) -> None:
    """Add all folders that a path lies in."""
    folder = os.path.dirname(path)  # noqa: PTH120
    while folder and folder not in above:
        above.add(folder)
        folder = os.path.dirname(folder)  # noqa: PTH120


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(folder: str | Path) -> object:
    """What is the same of a folder by whatever name; of none its path."""
    try:
        found = os.stat(folder)  # noqa: PTH116
    except OSError:
        return os.path.abspath(folder)  # noqa: PTH100
    return found.st_dev, found.st_ino
