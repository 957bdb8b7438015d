"""Divides the pictures of a folder: into windows that run together, and into shards of machines.

A hash of its path puts every picture into a window. Pictures of different windows never run
together, and a shard is some of the windows. So a shard computes the numbers of a whole run, and
the shards of a folder, merged, are equal to one run byte for byte (`merge_shards.py`).

    OUT/.attnviz/shards/3-of-4/journal.jsonl   entries and records, while the shard runs
    OUT/.attnviz/shards/3-of-4/shard.json      at the end: what it did, for `merge`
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnviz.batch.sources import JOURNAL_FOLDER, Item
from attnviz.errors import OutputError, UsageError

FEWEST, FULL = 16, 64
"""The smallest number of windows, and how many pictures a window has on average at least if there
are more windows."""
FOLDER, DONE = f"{JOURNAL_FOLDER}/shards", "shard.json"
_NAME = re.compile(r"([1-9]\d*)-of-([1-9]\d*)")
_HASH = 64  # bits


@dataclass(frozen=True, order=True)
class Shard:
    """A share of the pictures: number `number` of `of`, counted from 1."""

    of: int
    number: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def folder(self, out: Path) -> Path:
        """The folder for the shard's own files."""
        return out / FOLDER / f"{self.number}-of-{self.of}"

    def takes(self, window: int, windows: int) -> bool:
        """Whether a window belongs to the shard."""
        return window * self.of // windows == self.number - 1


def parse_shard(text: str) -> Shard:
    """The shard of an option.

    >>> parse_shard("3/4")
    Shard(of=4, number=3)

    Raises:
        UsageError: it is not I/N with 1 ≤ I ≤ N.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    number, of = map(int, found.groups()) if found else (0, 0)
    if not found:
        raise UsageError(f"--shard {text!r} cannot be read; give I/N, 1/4 to 4/4 for four shards")
    if not 1 <= number <= of:
        last = max(of, 1)
        raise UsageError(
            f"--shard {text}: shards are counted from 1 to N; give 1/{last} to {last}/{last}"
        )
    return Shard(of, number)


def windows(items: Sequence[Item], shard: Shard | None = None) -> list[list[Item]]:
    """The pictures by windows, each in the plan's order, without empty ones; or those of a shard.

    >>> folder = [Item(f"photos/{i}.jpg", f"{i}.jpg") for i in range(1000)]
    >>> len(windows(folder)), len(windows(folder, Shard(of=4, number=1)))
    (16, 4)

    Args:
        items: all pictures of the plan, also for a shard.
        shard: the shard, or None for all windows.
    """
    number = max(FEWEST, 1 << max(0, (len(items) // FULL).bit_length() - 1))
    found: list[list[Item]] = [[] for _ in range(number)]
    for item in items:
        found[_hash(item.folder) * number >> _HASH].append(item)
    return [
        each for i, each in enumerate(found) if each and (shard is None or shard.takes(i, number))
    ]


def _hash(path: str) -> int:
    """A number of 64 bits, the same on every machine."""
    data = os.fsencode(path.replace(os.sep, "/"))
    return int.from_bytes(hashlib.blake2b(data, digest_size=_HASH // 8).digest(), "big")


def plan_digest(items: Sequence[Item]) -> str:
    """A digest of all pictures of a plan; shards with another one do not fit together."""
    found = hashlib.blake2b(digest_size=16)
    for item in items:
        found.update(os.fsencode(item.key) + b"\0" + os.fsencode(item.folder) + b"\0")
    return found.hexdigest()


@dataclass(frozen=True)
class FinishedShard:
    """What `merge` must know of a shard whose pictures are all done or failed.

    Attributes:
        settings: the digest of all settings that change the written files.
        plan: the digest of all pictures of the folder.
        pictures: their number.
        finalizers: the names of the requested files about all pictures.
        paths: the pictures of this shard, by their keys (`sources.key_of`).
    """

    settings: str
    plan: str
    pictures: int
    finalizers: tuple[str, ...]
    paths: tuple[str, ...]


def read_finished(folder: Path) -> FinishedShard | None:
    """What a finished shard left in its folder; None if it is not finished.

    Raises:
        OutputError: the file cannot be read.
    """
    path = folder / DONE
    try:
        data: Mapping[str, Any] = json.loads(path.read_bytes())
        lists = {name: tuple(data[name]) for name in ("finalizers", "paths")}
        return FinishedShard(**{**data, **lists})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise OutputError(f"{path}: cannot be read ({reason}); run that shard again") from error


def shards_in(out: Path) -> list[Shard]:
    """The shards that have begun in a folder and are not merged."""
    try:
        names = [path.name for path in (out / FOLDER).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OutputError(f"{out / FOLDER}: cannot be read ({error.strerror})") from error
    matches = filter(None, map(_NAME.fullmatch, names))
    return sorted(Shard(int(found[2]), int(found[1])) for found in matches)


def check_begin(out: Path, shard: Shard | None) -> None:
    """Check that a run may begin in a folder with the shards that are there.

    Raises:
        UsageError: they belong to another division of the pictures, or wait to be merged.
    """
    others = [each for each in shards_in(out) if shard is None or each.of != shard.of]
    if others:
        raise UsageError(
            f"{out}: shard {others[0]} is there and not merged; run the other shards and then "
            f"`attnviz merge`, or choose another --out"
        )
