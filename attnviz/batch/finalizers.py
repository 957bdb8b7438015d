"""The table `FINALIZERS`: functions that write files about all pictures at the end of a batch.

A finalizer takes the folder, its `stats.jsonl` and its `manifest.jsonl`, and returns the files that
it wrote. It gets the pictures of the run sorted by path, whichever run processed them. Every run
calls it again; equal lines must give equal files. This module has no heavy imports, since the
options of `attnviz batch` come from the table.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from attnviz.errors import OutputError
from attnviz.registry import Option, Table, TableEntry, load


class FinalizerFunction(Protocol):
    """A function that writes files about all pictures."""

    def __call__(self, out: Path, stats: Path, manifest: Path) -> list[Path]: ...


@dataclass(frozen=True)
class Finalizer(TableEntry):
    """An entry of the table: a `FinalizerFunction` and when to call it.

    Attributes:
        help: the help of its option of `attnviz batch`, one sentence.
        always: True if every batch calls it; otherwise the option `--NAME` requests it.
        require: `package.module:name` of a function that is called before the first picture and
            raises an error if something is missing.
    """

    help: str = ""
    always: bool = False
    require: str = ""

    def check(self) -> None:
        """Check that everything it needs is installed.

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
"""Finalizers by name; other packages add theirs with entry points `attnviz.finalizers`."""


def options() -> Mapping[str, Option]:
    """An option of `attnviz batch` for each finalizer that only runs on request."""
    return {
        name: Option(
            name, bool, False, entry.help or f"Also write {entry.summary}.", package=entry.package
        )
        for name, entry in FINALIZERS.items()
        if not entry.always
    }


def close(out: Path, names: Sequence[str] = ()) -> list[Path]:
    """Call the finalizers that always run, and those of `names`; returns the written files.

    If a finalizer of another package fails, it is a warning: the pictures are finished.

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


STATS, MANIFEST = "stats.jsonl", "manifest.jsonl"
_Read = TypeVar("_Read")


def each(path: Path, read: Callable[[dict[str, Any]], _Read]) -> Iterator[_Read]:
    """The results of a function for every object of a JSONL file, in the file's order.

    >>> next(each(Path("OUT/stats.jsonl"), lambda record: record["image"]["path"]))
    'photos/cat.jpg'

    Raises:
        OutputError: the file cannot be read, or the function cannot read one of its lines.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield _parsed(line, read, path, number)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be read ({error.strerror}); give the folder that attnviz batch wrote"
        ) from error


def _parsed(line: bytes, read: Callable[[dict[str, Any]], _Read], path: Path, number: int) -> _Read:
    try:
        return read(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{path}: line {number} is no record; run attnviz batch again") from error
