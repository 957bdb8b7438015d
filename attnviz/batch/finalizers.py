"""What is made of all pictures together when the last is done.

A closer is a function of the folder, its `stats.jsonl` and its `manifest.jsonl` that returns the
files that it wrote. It sees the pictures of the run, sorted by path, whatever was done when; it is
called again by every run, and equal lines are to give equal files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from attnviz.batch.read_records import MANIFEST, STATS
from attnviz.registry import TableEntry


class Closer(Protocol):
    """Writes files of all pictures."""

    def __call__(self, out: Path, stats: Path, manifest: Path) -> list[Path]: ...


FINALIZERS: dict[str, TableEntry] = {
    "gallery": TableEntry(
        "attnviz.batch.gallery:write_gallery",
        "index.html, a page of all pictures that asks nothing of the network, and thumbnails",
        "docs/batch.md",
    ),
    "aggregate": TableEntry(
        "attnviz.batch.aggregate:write_aggregate",
        "aggregate.jsonl, .csv and .png: mean, deviation and quantiles by layer and head",
        "docs/batch.md",
    ),
    "parquet": TableEntry(
        "attnviz.batch.columns:write_columns",
        "stats.parquet, all numbers as columns",
        "docs/batch.md",
    ),
}
ALWAYS = ("gallery",)
"""By name: `Entry("attnviz.batch.gallery:write_gallery", …)` and its like."""


def close(out: Path, names: Sequence[str] = ()) -> list[Path]:
    """Call the closers that always are, and those of `names`; returns the files, as written.

    Raises:
        OutputError: a file cannot be written.
    """
    written: list[Path] = []
    for name in (*ALWAYS, *names):
        closer: Closer = FINALIZERS[name].load()
        written += closer(out, out / STATS, out / MANIFEST)
    return written
