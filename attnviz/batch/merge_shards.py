"""Merges the finished shards of a folder: one journal, manifest and gallery, as of one run."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from attnviz.batch.jobs import read_line
from attnviz.batch.ledger import JOURNAL, LOCK, Ledger
from attnviz.batch.run import Count, close_all
from attnviz.batch.shares import FOLDER, FinishedShard, Shard, read_finished, shards_in
from attnviz.errors import OutputError, UsageError
from attnviz.output import line_files


@dataclass(frozen=True)
class Merged:
    """What became of the pictures of all shards.

    Attributes:
        count: how many pictures are done and failed.
        paths: the written files.
        finalizers: the files about all pictures that were asked for, by name.
    """

    count: Count
    paths: list[Path]
    finalizers: tuple[str, ...]


def merge(out: Path, finalizers: tuple[str, ...] = ()) -> Merged:
    """Merge the shards in a folder; the result is that of one run, byte for byte.

    If it is interrupted, it can be repeated: the shards' own files are removed last.

    Args:
        out: the folder that `attnviz batch --shard` wrote.
        finalizers: names of `FINALIZERS`, beside those that the shards were asked for.

    Raises:
        UsageError: there is no shard, one is missing or not finished, or they do not fit together.
        OutputError: a file cannot be read or written, or a run is writing there.
    """
    _finished(out)  # before a folder is made
    with Ledger(out, merging=True) as ledger:
        shards = _finished(out)
        for shard, done in shards.items():
            _take(ledger, shard.folder(out) / JOURNAL, set(done.paths))
        paths = sorted((path for done in shards.values() for path in done.paths), key=os.fsencode)
        wanted = {name for done in shards.values() for name in done.finalizers}
        names = tuple(sorted(wanted.union(finalizers)))
        written = close_all(ledger, out, paths, names)
        states = [entry.status for entry in ledger.entries(paths)]
        shutil.rmtree(out / FOLDER, ignore_errors=True)
    return Merged(Count(len(paths), states.count("done"), states.count("failed")), written, names)


def _take(ledger: Ledger, journal: Path, keys: set[str]) -> None:
    """Add the lines of a shard's journal to that of the folder."""
    with journal.open("rb") as file:
        for line in file:
            try:
                entry, record = read_line(line)
            except ValueError:  # a killed process left half a line
                continue
            if entry.key in keys:
                ledger.add(entry, record)


def _finished(out: Path) -> dict[Shard, FinishedShard]:
    """All shards of a folder, after a check that none is missing, and that they fit together."""
    there = shards_in(out)
    if not there:
        raise UsageError(
            f"{out}: there is no shard to merge; run `attnviz batch FOLDER -o {out} --shard 1/4` "
            "and the other shards first"
        )
    if len({each.of for each in there}) > 1:
        raise UsageError(
            f"{out}: shards {there[0]} and {there[-1]} divide the pictures differently; remove the "
            f"folders of one kind from {out / FOLDER}"
        )
    missing = [Shard(there[0].of, n + 1) for n in range(there[0].of)]
    missing = [each for each in missing if each not in there]
    if missing:
        raise UsageError(f"{out}: {_missing(missing, 'missing')}")
    found = {each: read_finished(each.folder(out)) for each in there}
    for each in (each for each, done in found.items() if done is None):
        if _is_running(out, each):
            raise OutputError(f"{out}: shard {each} is still running; wait until it is done")
    open_ = [each for each, done in found.items() if done is None]
    if open_:
        raise UsageError(f"{out}: {_missing(open_, 'not finished')}")
    finished = {each: done for each, done in found.items() if done is not None}
    _check_alike(out, finished)
    return finished


def _missing(shards: list[Shard], what: str) -> str:
    """Which shards are not there, and what to type."""
    named = ", ".join(map(str, shards[:8])) + (" …" if len(shards) > 8 else "")
    are = f"shard {named} is" if len(shards) == 1 else f"shards {named} are"
    return f"{are} {what}; run the command of the others with --shard {shards[0]}"


def _check_alike(out: Path, shards: dict[Shard, FinishedShard]) -> None:
    """Check that all shards had the same options and the same pictures."""
    first, of_first = next(iter(shards.items()))
    for shard, done in shards.items():
        if done.settings != of_first.settings:
            raise UsageError(
                f"{out}: shards {first} and {shard} were made with different options, or another "
                f"attnviz; run one of them again with those of the others"
            )
        if done.plan != of_first.plan:
            numbers = f"{of_first.pictures} and {done.pictures} pictures"
            raise UsageError(
                f"{out}: shards {first} and {shard} found different files ({numbers}); run all "
                "shards again with the same SOURCE: what is done is not done again"
            )


def _is_running(out: Path, shard: Shard) -> bool:
    try:
        line_files.lock(shard.folder(out) / LOCK, out).close()
    except OutputError:
        return True
    return False
