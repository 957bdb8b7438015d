"""What is remembered of a picture."""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from attnviz.output import encoding

_ENTRY, _RECORD, _END = '{"entry": ', ', "record": ', "}\n"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class LedgerEntry:
    """How one picture went.

    Attributes:
        path: as it was found.
        status: `done`, or `failed`.
        settings: the digest of all that changes what is written.
        error: of one that failed.
        folder: with its files, below that of all; None where it has none.
        file: SHA-256 of what the picture's file held; None where it could not be read.
        state: size, time of change, and of change of its attributes, of that file.
        size: width and height of the picture as seen; from them follows with which others it ran.
        files: sizes of the files that were written, by name.
        record: digest of its record; None of one that failed.
    """

    path: str
    status: Literal["done", "failed"]
    settings: str
    error: str | None = None
    folder: str | None = None
    file: str | None = None
    state: tuple[int, int, int] = (0, 0, 0)
    size: tuple[int, int] = (0, 0)
    files: dict[str, int] = field(default_factory=dict)
    record: str | None = None

    def line(self, record: bytes | None = None) -> bytes:
        """A line of the journal, with the line of the record where that stands nowhere else."""
        entry = as_line(asdict(self)).decode().removesuffix("\n")
        tail = "" if record is None else _RECORD + record.decode().removesuffix("\n")
        return f"{_ENTRY}{entry}{tail}{_END}".encode()

    def public(self) -> dict[str, Any]:
        """A line of the manifest."""
        names = ("path", "status", "error", "folder", "settings", "file")
        return {name: getattr(self, name) for name in names}

    def is_there(self, out: Path) -> bool:
        """Whether all files that were written are there, of the sizes that they had."""
        folder = out if self.folder is None else out / self.folder
        try:
            return all(_size(folder, name) == size for name, size in self.files.items())
        except OSError:
            return False

    def failed_as(self, error: str) -> "LedgerEntry":
        """The same of a picture that failed after all; in one line."""
        message = " ".join(error.split())
        return replace(self, status="failed", error=message, folder=None, files={}, record=None)


def _size(folder: Path, name: str) -> int:
    return os.stat(folder / name).st_size  # noqa: PTH116 — a third of the time


def read_line(line: bytes) -> tuple[LedgerEntry, bytes | None]:
    """The entry of a line of the journal, and the line of its record if it has that.

    Of the record, which is most of the line, nothing is read: it is known by its digest.

    Raises:
        ValueError: it is none.
    """
    try:
        text = line.decode().removeprefix(_ENTRY)
        data, end = _DECODER.raw_decode(text)
        entry = LedgerEntry(**{**data, "state": tuple(data["state"]), "size": tuple(data["size"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no line of the journal") from error
    rest = text[end:]
    if rest == _END:
        return entry, None
    record = f"{rest.removeprefix(_RECORD).removesuffix(_END)}\n".encode()
    if digest(record) != entry.record:
        raise ValueError("no line of the journal")
    return entry, record


def digest(record: bytes) -> str:
    """What a record is found by, of its line."""
    return hashlib.blake2b(record, digest_size=16).hexdigest()


def as_line(data: dict[str, Any]) -> bytes:
    """JSON in a line of UTF-8; odd bytes, of names that are no text, are escaped as surrogates."""
    text = re.sub("[\ud800-\udfff]", lambda odd: f"\\u{ord(odd[0]):04x}", encoding.as_json(data))
    return f"{text}\n".encode()
