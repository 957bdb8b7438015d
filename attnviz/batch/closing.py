"""What is made of all pictures together when the last is done.

A closer is a function of the folder, its `stats.jsonl` and its `manifest.jsonl` that returns the
files that it wrote. It sees the pictures of the run, sorted by path, whatever was done when; it is
called again by every run, and equal lines are to give equal files.
"""

from pathlib import Path
from typing import Protocol

from attnviz.batch.journal import MANIFEST, STATS
from attnviz.catalog import Entry


class Closer(Protocol):
    """Writes files of all pictures."""

    def __call__(self, out: Path, stats: Path, manifest: Path) -> list[Path]: ...


CLOSERS: dict[str, Entry] = {
    "gallery": Entry(
        "attnviz.batch.gallery:write_gallery",
        "index.html, a page of all pictures that asks nothing of the network, and thumbnails",
        "docs/batch.md",
    ),
}
"""By name: `Entry("attnviz.batch.gallery:write_gallery", …)` and its like."""


def close(out: Path) -> list[Path]:
    """Call every closer of the table; returns all files, in the order of writing.

    Raises:
        OutputError: a file cannot be written.
    """
    written: list[Path] = []
    for entry in CLOSERS.values():
        closer: Closer = entry.load()
        written += closer(out, out / STATS, out / MANIFEST)
    return written
