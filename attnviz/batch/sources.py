"""Finds the pictures in folders, patterns and lists, and the output folder of each picture."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attnviz.batch.picture_lists import LISTS, ListRow, read_list
from attnviz.errors import ImageError, UsageError
from attnviz.io.picture_files import OF_SCIENCES, SOUNDS, SUFFIXES
from attnviz.output import whole_files

JOURNAL_FOLDER = ".attnviz"
RESERVED = (
    JOURNAL_FOLDER,
    "manifest.jsonl",
    "stats.jsonl",
    "index.html",
    "aggregate.jsonl",
    "aggregate.csv",
    "aggregate.png",
    "stats.parquet",
)
"""Names in the output folder of files that belong to the whole batch."""


@dataclass(frozen=True)
class Item:
    """A picture, and what a list says that it is asked.

    Attributes:
        path: its path as found.
        folder: the folder for its files, relative to the output folder.
        prompt, answer: of a list with prompts, those of its row; None if the row has none.
        place: where the list names it, for errors.
    """

    path: str
    folder: str
    prompt: str | None = None
    answer: str | None = None
    place: str = ""

    @property
    def key(self) -> str:
        """What tells it from all others of a batch."""
        return key_of(self.path, self.prompt, self.answer)


def key_of(path: str, prompt: str | None, answer: str | None) -> str:
    r"""What tells a picture from all others: its path, and what a list says that it is asked.

    >>> key_of("cat.jpg", None, None), key_of("cat.jpg", "What is it?", None)
    ('cat.jpg', 'cat.jpg\x00What is it?\x00')
    """
    if prompt is None and answer is None:
        return path
    return "\0".join((path, prompt or "", answer or ""))


def order(item: Item) -> bytes:
    """The key by which pictures are sorted: the bytes of the path, then those of the prompt."""
    return os.fsencode(item.key)


@dataclass
class Plan:
    """The pictures to process, sorted by path, and how many files were skipped.

    Attributes:
        items: each picture once; with prompts of a list, each question about it.
        hidden: skipped files and folders whose names begin with a dot.
        others: skipped files that do not have the name of a picture.
        ours: skipped pictures that attnviz wrote, and folders of earlier batches.
    """

    items: list[Item] = field(default_factory=list)
    hidden: int = 0
    others: int = 0
    ours: int = 0

    @property
    def asks(self) -> bool:
        """Whether a list says what a picture is asked."""
        return any(item.prompt is not None or item.answer is not None for item in self.items)


def find(sources: Sequence[str], out: Path, *, recursive: bool = True) -> Plan:
    """All pictures of some sources.

    A source is a folder, a pattern (`photos/*.jpg`, `photos/**/*.png`), a `.txt` list of paths (one
    per line; or each with a NUL after it, as `find -print0` writes them), a `.jsonl` or `.csv` list
    with a prompt for each picture (`read_list`), or a picture. The folder `out` is skipped, and so
    are files that attnviz wrote into sub-folders. If the only source is a folder, the tree of `out`
    is the tree of that folder; otherwise it is the tree of the folder that holds all pictures.
    Sounds are taken where folders and patterns have no picture.

    A picture that lists name with several prompts is there once for each. Its first folder has its
    name, further ones have numbers, in the order of the lists.

    A sub-folder counts as a failed picture if it cannot be read, or if it has the name of a picture
    and holds none; the other pictures are processed.

    Raises:
        UsageError: a source is standard input, or a row of a list is wrong.
        ImageError: a source does not exist or cannot be read, or there is no picture at all.
    """
    finder = _Finder(out, recursive=recursive)
    for source in sources:
        finder.take(source)
    finder.end()
    rows = [ListRow(path, None, None, "") for path in sorted(finder.found)] + finder.rows
    paths: dict[str, dict[tuple[str | None, str | None], ListRow]] = {}
    for row in rows:
        named = paths.setdefault(os.path.abspath(row.path), {})  # noqa: PTH100 — as named
        named.setdefault((row.prompt, row.answer), row)
    if not paths:
        ours = f" but {finder.ours} that attnviz wrote" if finder.ours else ""
        raise ImageError(
            f"{', '.join(sources)}: no picture found{ours}; name a folder with "
            f"{', '.join(SUFFIXES[:4])} …"
        )
    alone = len(sources) == 1 and os.path.isdir(sources[0])  # noqa: PTH112
    if alone:
        root = os.path.abspath(sources[0])  # noqa: PTH100
    else:
        root = os.path.commonpath({os.path.dirname(path) for path in paths})  # noqa: PTH120
    folders = {full: os.path.relpath(full, root) for full in paths}
    taken, items = set(folders.values()), list[Item]()
    for full, named in paths.items():
        path = next(iter(named.values())).path
        for number, row in enumerate(named.values(), start=1):
            folder = folders[full] if number == 1 else _numbered(folders[full], number, taken)
            items.append(Item(path, folder, row.prompt, row.answer, row.place))
    items.sort(key=order)
    return Plan(items, finder.hidden, finder.others, finder.ours)


def _numbered(folder: str, number: int, taken: set[str]) -> str:
    """The folder of a further question about a picture: a name that nothing else has."""
    while f"{folder}-{number}" in taken:
        number += 1
    taken.add(f"{folder}-{number}")
    return f"{folder}-{number}"


class _Finder:
    """Collects paths, and counts the files that it skips."""

    def __init__(self, out: Path, *, recursive: bool) -> None:
        self.found: set[str] = set()
        self.rows: list[ListRow] = []
        self._sounds: set[str] = set()
        self.hidden = self.others = self.ours = 0
        self._recursive = recursive
        self._out = _identity(out)
        self._alike: list[str] = []  # folders with the name of a picture
        self._written: set[str] = set()  # folders that attnviz wrote into, and those above them

    def take(self, source: str) -> None:
        """All pictures of one source."""
        if source == "-":
            raise UsageError("batch reads files; name a folder, a pattern or a list, not -")
        if os.path.isdir(source):  # noqa: PTH112 — any bytes
            self._folder(source, given=True)
        elif os.path.lexists(source):
            if source.lower().endswith(".txt"):
                self._list(source)
            elif source.lower().endswith(LISTS):
                self.rows += read_list(source)
            else:
                self.found.add(source)
        elif glob.has_magic(source):
            self._pattern(source)
        else:
            raise ImageError(f"{source}: no such file; name a folder, a pattern or a list")

    def end(self) -> None:
        """After the last source: add sounds, and folders that have a picture's name and hold none.

        Sounds are added if there is no picture.
        """
        if self.found:
            self.others += len(self._sounds - self.found)
        else:
            self.found |= self._sounds
        above: set[str] = set()
        for path in self.found:
            _add_above(path, above)
        for folder in sorted(self._alike, key=len, reverse=True):  # sub-folders first
            if folder not in above and folder not in self._written:
                self.found.add(folder)
                _add_above(folder, above)

    def _pattern(self, pattern: str) -> None:
        """Matching files that are pictures, and the pictures in matching folders."""
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 — any bytes
        if not matches:
            raise ImageError(f"{pattern}: nothing fits the pattern; put it in quotes, and check it")
        for path in matches:
            if not os.path.isdir(path):  # noqa: PTH112
                self._file(path)
            elif "**" not in pattern:  # `**` has found their files already
                self._folder(path)

    def _list(self, path: str) -> None:
        """The pictures of a list, and the pictures in its folders."""
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
        elif name.lower().endswith((*SUFFIXES, *OF_SCIENCES)):
            self.found.add(path)
        elif name.lower().endswith(SOUNDS):
            self._sounds.add(path)
        else:
            self.others += 1

    def _folder(self, top: str, *, given: bool = False) -> None:
        """The pictures in a folder and its sub-folders; links come last, each folder counts once.

        So a link back into the tree makes no loop, and a folder that can be reached twice keeps its
        real path. `given` is True for a source, which must be readable.
        """
        visited: set[object] = {self._out}
        waiting, links = [top], list[str]()
        while waiting or links:
            folder = waiting.pop() if waiting else links.pop(0)
            key = _identity(folder)
            if key in visited:
                continue
            visited.add(key)
            entries = self._entries(folder, given=given and folder == top)
            names = {entry.name for entry in entries}
            if JOURNAL_FOLDER in names and folder != top:  # an earlier batch wrote this folder
                self.ours += 1
                continue
            self._note(folder, given=given and folder == top)
            written = whole_files.written_files(Path(folder), names)
            if written:
                self._written.add(folder)
                _add_above(folder, self._written)
            for entry in entries:
                if entry.name in written and entry.name.lower().endswith(SUFFIXES):
                    self.ours += 1
                elif not _is_folder(entry):
                    self._file(entry.path)
                elif entry.name.startswith("."):
                    self.hidden += 1
                elif self._recursive:
                    (links if entry.is_symlink() else waiting).append(entry.path)

    def _note(self, folder: str, *, given: bool) -> None:
        """Note a folder with a picture's name; a link is skipped, its target is noted by itself."""
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
    """Add all folders above a path."""
    folder = os.path.dirname(path)  # noqa: PTH120
    while folder and folder not in above:
        above.add(folder)
        folder = os.path.dirname(folder)  # noqa: PTH120


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: str | Path) -> object:
    """The identity of a folder, equal for all its names; its path if it does not exist."""
    try:
        found = os.stat(folder)  # noqa: PTH116
    except OSError:
        return os.path.abspath(folder)  # noqa: PTH100
    return found.st_dev, found.st_ino
