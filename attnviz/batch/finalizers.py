"""What is made of all pictures together when the last is done: `FINALIZERS` is the table.

A finalizer is a function of the folder, its `stats.jsonl` and its `manifest.jsonl` that returns the
files that it wrote. It sees the pictures of the run, sorted by path, whatever was done when; it is
called again by every run, and equal lines are to give equal files. Free of heavy imports: the
options of `attnviz batch` come from this table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attnviz.batch.read_records import MANIFEST, STATS
from attnviz.registry import Option, Table, TableEntry, load


class FinalizerFunction(Protocol):
    """Writes files of all pictures."""

    def __call__(self, out: Path, stats: Path, manifest: Path) -> list[Path]: ...


@dataclass(frozen=True)
class Finalizer(TableEntry):
    """Files of all pictures of a batch: a function as `FinalizerFunction` has it.

    Attributes:
        help: what its option of `attnviz batch` says, a sentence.
        always: whether it is made without being asked for; else `--NAME` asks for it.
        require: `package.module:name` of a function that is called before the first picture, and
            raises where something is missing.
    """

    help: str = ""
    always: bool = False
    require: str = ""

    def check(self) -> None:
        """See that all is there that it needs.

        Raises:
            MissingExtraError: an optional part is not installed.
        """
        if self.require:
            self.run(lambda: load(self.require))
            self.run(load(self.require))


_FINALIZERS: dict[str, Finalizer] = {
    "gallery": Finalizer(
        "attnviz.batch.gallery:write_gallery",
        "index.html, a page of all pictures that asks nothing of the network, and thumbnails",
        "docs/batch.md",
        always=True,
    ),
    "aggregate": Finalizer(
        "attnviz.batch.aggregate:write_aggregate",
        "aggregate.jsonl, .csv and .png: mean, deviation and quantiles by layer and head",
        "docs/batch.md",
        help="Also sum all pictures up: aggregate.jsonl, .csv and .png.",
    ),
    "parquet": Finalizer(
        "attnviz.batch.columns:write_columns",
        "stats.parquet, all numbers as columns",
        "docs/batch.md",
        help="Also write all numbers as columns: stats.parquet.",
        require="attnviz.batch.columns:require_pyarrow",
    ),
}
FINALIZERS = Table("attnviz.finalizers", Finalizer, _FINALIZERS, identifiers=True)
"""By name; other packages add to it by entry points of the group `attnviz.finalizers`."""


def options() -> Mapping[str, Option]:
    """An option of `attnviz batch` for each finalizer that is not always called."""
    return {
        name: Option(
            name, bool, False, entry.help or f"Also write {entry.summary}.", package=entry.package
        )
        for name, entry in FINALIZERS.items()
        if not entry.always
    }


def close(out: Path, names: Sequence[str] = ()) -> list[Path]:
    """Call the finalizers that always are, and those of `names`; returns the files, as written.

    One of another package that fails is a warning: the pictures are done.

    Raises:
        OutputError: a file cannot be written.
    """
    written: list[Path] = []
    for name, entry in FINALIZERS.items():
        if entry.always or name in names:
            written += _files(entry, out, out / STATS, out / MANIFEST)
    return written


def _files(entry: Finalizer, out: Path, stats: Path, manifest: Path) -> list[Path]:
    return entry.run_or([], lambda: list(entry(out, stats, manifest)))
