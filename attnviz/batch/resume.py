"""What is left to be done: all but what is there already, of the same settings and file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnviz.batch.entry import LedgerEntry
from attnviz.batch.jobs import Job, Settings
from attnviz.batch.journal import Journal
from attnviz.batch.sources import RESERVED, Item
from attnviz.errors import ImageError
from attnviz.io import fingerprint


@dataclass(frozen=True)
class PendingPart:
    """A picture of the plan: to be done, or done."""

    job: Job | None
    entry: LedgerEntry | None


def remaining(
    items: Sequence[Item], journal: Journal, settings: Settings, out: Path, *, force: bool = False
) -> list[bool]:
    """Of each picture, whether it is to be done."""
    return [force or not is_done(item, journal, settings, out) for item in items]


def part(item: Item, journal: Journal, *, missing: bool) -> PendingPart:
    """What is known of a picture when its turn comes."""
    entry = journal.get(item.path)
    if not missing:
        return PendingPart(None, entry)
    before = () if entry is None or entry.folder != item.folder else tuple(entry.files)
    return PendingPart(Job(item.path, item.folder, before), entry)


def is_done(item: Item, journal: Journal, settings: Settings, out: Path) -> bool:
    """Whether a picture was done with these settings, its file is the same, and all is there."""
    entry = journal.get(item.path)
    if entry is None or entry.status != "done" or entry.settings != settings.digest:
        return False
    if entry.folder not in (None, item.folder) or not entry.is_there(out):
        return False
    return _is_same(entry)


def _is_same(entry: LedgerEntry) -> bool:
    """Whether a file is what it was: nothing says that it was touched, or it holds the same."""
    try:
        found = os.stat(entry.path)  # noqa: PTH116 — any bytes
        if entry.state == (found.st_size, found.st_mtime_ns, found.st_ctime_ns):
            return True
        return found.st_size == entry.state[0] and fingerprint(entry.path) == entry.file
    except (OSError, ValueError, ImageError):
        return False


def is_reserved(item: Item) -> bool:
    """Whether the files of a picture would lie where those of all do."""
    return Path(item.folder).parts[0] in RESERVED
