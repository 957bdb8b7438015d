"""Keeps the ledger of a batch: one line per picture, added as soon as its files are written.

    OUT/.attnviz/journal.jsonl   entries in the order of finishing, each with its record
    OUT/manifest.jsonl           at the end: one line per picture, sorted by path
    OUT/stats.jsonl              at the end: the records, in the same order

A shard has a journal of its own (`shares.py`), begins with what the folder's journal says, and
leaves the other files to `merge_shards.py`.

At the end the journal is rewritten, sorted and without the records, which are then in stats.jsonl
only. The journal finds them there by their digests, so no order of renames can mix them up. Nothing
is flushed to the disk by force: a killed process loses nothing that it wrote, and after a power cut
a picture is processed again if its files are missing or do not have their full size.
"""

import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from attnviz.batch.finalizers import MANIFEST, STATS
from attnviz.batch.jobs import Job, LedgerEntry, Settings, as_line, digest, read_line
from attnviz.batch.shares import DONE, Shard, check_begin
from attnviz.batch.sources import RESERVED, Item
from attnviz.errors import ImageError, OutputError
from attnviz.io.picture_files import fingerprint
from attnviz.output import line_files, whole_files

FOLDER, JOURNAL, LOCK = ".attnviz", "journal.jsonl", "lock"
NOTES = "cluster"
"""A folder beside the journal for messages between a driver and its workers during a run."""


class Ledger:
    """The journal of a folder, and the lock that allows one run at a time.

    Memory holds only the positions of the lines.

    >>> with Ledger(Path("out")) as ledger:
    ...     ledger.add(LedgerEntry("photos/cat.jpg", "failed", settings="…", error="empty"), None)
    ...     [path.name for path in ledger.finish(["photos/cat.jpg"])]
    ['stats.jsonl', 'manifest.jsonl']

    Raises:
        OutputError: the folder cannot be written, or another run uses it.
    """

    def __init__(self, out: Path, shard: Shard | None = None, *, merging: bool = False) -> None:
        """Open the journal of a folder or of a shard; only `merging` takes a folder of shards."""
        self.shard, self._out = shard, out
        self._places: dict[str, tuple[IO[bytes], int]] = {}
        whole_files.check_folder(out)
        if not merging:
            check_begin(out, shard)
        folder = out / FOLDER if shard is None else shard.folder(out)
        self._path = folder / JOURNAL
        whole_files.make_folder(folder)
        with ExitStack() as opened:
            shared = line_files.lock(out / FOLDER / LOCK, out, shared=shard is not None)
            opened.enter_context(shared)
            if shard is None:
                whole_files.remove_parts(out)
                shutil.rmtree(folder / NOTES, ignore_errors=True)  # left by a killed driver
            else:
                opened.enter_context(line_files.lock(folder / LOCK, out))
                (folder / DONE).unlink(missing_ok=True)
                self._read(opened, out / FOLDER / JOURNAL)
            whole_files.remove_parts(folder)
            line_files.end_lines(self._path)
            self._lines = opened.enter_context(closing(line_files.Lines(self._path)))
            self._file, self._end = self._read(opened, self._path)
            self._records = _records(out / STATS)
            self._opened = opened.pop_all()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _read(self, opened: ExitStack, path: Path) -> tuple[IO[bytes], int]:
        """Note the position of the latest line of each picture; skip lines that cannot be read."""
        place = 0
        file: IO[bytes] = path.open("rb") if path.exists() else io.BytesIO()
        opened.enter_context(file)
        for line in file:
            with suppress(ValueError):
                self._places[read_line(line)[0].key] = file, place
            place += len(line)
        return file, place

    def get(self, key: str) -> LedgerEntry | None:
        """The entry of a picture by its key, if its record still exists."""
        found = self._at(key)
        if found is None:
            return None
        entry, record = found
        lost = record is None and not self._records.keys() >= set((entry.record or "").split())
        if lost:
            return None
        return entry

    def _at(self, key: str) -> tuple[LedgerEntry, bytes | None] | None:
        place = self._places.get(key)
        if place is None:
            return None
        return read_line(_line_at(*place))

    def add(self, entry: LedgerEntry, record: bytes | None) -> None:
        """Add a line with the lines of the records; it is in the file when this returns.

        Raises:
            OutputError: the journal cannot be written.
        """
        line = entry.line(record)
        self._lines.add(line)
        self._places[entry.key] = self._file, self._end
        self._end += len(line)

    def entries(self, keys: Sequence[str]) -> Iterator[LedgerEntry]:
        """The entries of these pictures, in their order."""
        for key in keys:
            found = self._at(key)
            if found is not None:
                yield found[0]

    def finish(self, keys: Sequence[str]) -> list[Path]:
        """Write the manifest and the records of exactly these pictures, in their order.

        If it is interrupted, it can be repeated: the journal changes last, in `tidy`.

        Raises:
            OutputError: a file cannot be written.
        """
        stats, manifest = self._out / STATS, self._out / MANIFEST
        line_files.write_lines(stats, self._lines_of_records(keys))
        line_files.write_lines(manifest, (as_line(one.public()) for one in self.entries(keys)))
        return [stats, manifest]

    def tidy(self, keys: Sequence[str]) -> None:
        """Rewrite the journal without the records that `finish` has written: the very last step.

        Raises:
            OutputError: the journal cannot be written.
        """
        line_files.write_lines(self._path, (entry.line() for entry in self.entries(keys)))

    def _lines_of_records(self, keys: Sequence[str]) -> Iterator[bytes]:
        stats = self._out / STATS
        old = stats.open("rb") if stats.exists() else None
        try:
            for key in keys:
                entry, record = self._at(key) or (None, None)
                if record is not None:
                    yield record
                elif entry is not None and entry.record is not None and old is not None:
                    yield from (_line_at(old, self._records[n]) for n in entry.record.split())
        finally:
            if old is not None:
                old.close()


def _line_at(file: IO[bytes], place: int) -> bytes:
    file.seek(place)
    return file.readline()


def _records(stats: Path) -> dict[str, int]:
    """The position of each record in a file of records, by its digest."""
    if not stats.exists():
        return {}
    found, place = {}, 0
    try:
        with stats.open("rb") as file:
            for line in file:
                found[digest(line)] = place
                place += len(line)
    except OSError as error:
        raise OutputError(f"{stats}: cannot be read ({error.strerror})") from error
    return found


@dataclass(frozen=True)
class PendingPart:
    """A picture of the plan, either pending or finished."""

    job: Job | None
    entry: LedgerEntry | None


def remaining(
    items: Sequence[Item], ledger: Ledger, settings: Settings, out: Path, *, force: bool = False
) -> list[bool]:
    """For each picture, whether it is pending."""
    return [force or not is_done(item, ledger, settings, out) for item in items]


def part(item: Item, ledger: Ledger, *, missing: bool) -> PendingPart:
    """The state of a picture when its turn comes."""
    entry = ledger.get(item.key)
    if not missing:
        return PendingPart(None, entry)
    before = () if entry is None or entry.folder != item.folder else tuple(entry.files)
    return PendingPart(Job(item.path, item.folder, before, item.prompt, item.answer), entry)


def is_done(item: Item, ledger: Ledger, settings: Settings, out: Path) -> bool:
    """Whether a picture is finished with these settings, its file unchanged, its output present."""
    entry = ledger.get(item.key)
    if entry is None or entry.status != "done" or entry.settings != settings.digest:
        return False
    if entry.folder not in (None, item.folder) or not entry.is_there(out):
        return False
    return _is_same(entry)


def _is_same(entry: LedgerEntry) -> bool:
    """Whether a file is unchanged: by its size and times, or else by its content."""
    try:
        found = os.stat(entry.path)  # noqa: PTH116 — any bytes
        if entry.state == (found.st_size, found.st_mtime_ns, found.st_ctime_ns):
            return True
        return found.st_size == entry.state[0] and fingerprint(entry.path) == entry.file
    except (OSError, ValueError, ImageError):
        return False


def is_reserved(item: Item) -> bool:
    """Whether the folder of a picture would have the name of a file of the whole batch."""
    return Path(item.folder).parts[0] in RESERVED
