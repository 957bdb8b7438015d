"""Plain values that engines pass on: jobs, settings, outcomes, and entries of the ledger."""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from attnviz.batch.sources import key_of
from attnviz.errors import UsageError
from attnviz.explanation.explanation import Explanation
from attnviz.explanation.request import Questions
from attnviz.explanation.tile_request import Tiling
from attnviz.geometry.placement import Fit, Placement
from attnviz.io.parts import WHOLE, Part
from attnviz.io.picture import Picture, PictureHeader
from attnviz.io.picture_files import Note
from attnviz.io.ranges import FULL
from attnviz.models.model import LaidPicture
from attnviz.output import encoding
from attnviz.output.records import Record
from attnviz.output.write_pictures import Drawing

_ENTRY, _RECORD, _END = '{"entry": ', ', "record": ', "}\n"
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class LedgerEntry:
    """The result of one picture.

    Attributes:
        path: the path, as it was found.
        status: `done` or `failed`.
        settings: the digest of all settings that change the written files.
        error: the error of a failed picture.
        folder: the folder of its files, relative to the output folder; None if it has none.
        file: SHA-256 of the picture's file; None if the file could not be read.
        state: size, modification time and attribute change time (st_size, st_mtime_ns,
            st_ctime_ns) of that file.
        size: width and height of the picture as seen; they decide which pictures run together.
        files: sizes of the written files, by name.
        record: digest of its record; with several methods, their digests separated by spaces; None
            if the picture failed.
        prompt, answer: what a list says that it is asked; None for other pictures.
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
    prompt: str | None = None
    answer: str | None = None

    @property
    def key(self) -> str:
        """What tells it from all others of a batch."""
        return key_of(self.path, self.prompt, self.answer)

    def line(self, record: bytes | None = None) -> bytes:
        """A line of the journal, with the lines of the records if no other file has them."""
        entry = as_line(asdict(self)).decode().removesuffix("\n")
        lines = [] if record is None else record.decode().removesuffix("\n").split("\n")
        return f"{_ENTRY}{entry}{''.join(_RECORD + line for line in lines)}{_END}".encode()

    def public(self) -> dict[str, Any]:
        """A line of the manifest."""
        names = ("path", "status", "error", "folder", "settings", "file")
        asked = {"prompt": self.prompt, "answer": self.answer}
        found = {name: getattr(self, name) for name in names}
        return found | {name: text for name, text in asked.items() if text is not None}

    def is_there(self, out: Path) -> bool:
        """Whether all written files exist and still have their sizes."""
        folder = out if self.folder is None else out / self.folder
        try:
            return all(_size(folder, name) == size for name, size in self.files.items())
        except OSError:
            return False

    def failed_as(self, error: str) -> "LedgerEntry":
        """The entry as that of a failed picture; the error becomes one line."""
        message = " ".join(error.split())
        return replace(self, status="failed", error=message, folder=None, files={}, record=None)


def _size(folder: Path, name: str) -> int:
    return os.stat(folder / name).st_size  # noqa: PTH116 — three times as fast


def read_line(line: bytes) -> tuple[LedgerEntry, bytes | None]:
    """The entry of a line of the journal, and the lines of its records if it has them.

    The records, most of the line, are not parsed: their digests identify them. The separator
    cannot occur inside a record, since JSON escapes every quote in a text.

    Raises:
        ValueError: it is not a line of the journal.
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
    lines = rest.removesuffix(_END).split(_RECORD)[1:]
    record = "".join(f"{line}\n" for line in lines).encode()
    if digests(record) != entry.record:
        raise ValueError("no line of the journal")
    return entry, record


def digest(record: bytes) -> str:
    """The digest of a record's line; it identifies the record."""
    return hashlib.blake2b(record, digest_size=16).hexdigest()


def digests(records: bytes) -> str:
    """The digests of several lines of records, separated by spaces."""
    return " ".join(digest(line) for line in records.splitlines(keepends=True))


def as_line(data: dict[str, Any]) -> bytes:
    """JSON as one line of UTF-8; invalid bytes of names are escaped as surrogates."""
    text = re.sub("[\ud800-\udfff]", lambda odd: f"\\u{ord(odd[0]):04x}", encoding.as_json(data))
    return f"{text}\n".encode()


Pictures = Literal["sheet", "heads", "none"]


@dataclass(frozen=True)
class Settings:
    """What is done with every picture: the fields take the values of the options of the same names.

    `digest` changes with every setting that changes the written files.
    """

    questions: Questions
    drawing: Drawing
    digest: str
    fit: Fit = "keep"
    mask: str | None = None
    pictures: Pictures = "sheet"
    npz: bool = False
    range: str = FULL
    part: Part = WHOLE
    tiling: Tiling | None = None
    draft: bool = True


@dataclass(frozen=True)
class Job:
    """One picture to process.

    Attributes:
        path: path of the picture.
        folder: the folder for its files, relative to the output folder.
        before: names of the files that an earlier run wrote there.
        prompt, answer: what a list says that it is asked; None takes those of the questions.
    """

    path: str
    folder: str
    before: tuple[str, ...] = ()
    prompt: str | None = None
    answer: str | None = None

    @property
    def key(self) -> str:
        """What tells it from all others of a batch."""
        return key_of(self.path, self.prompt, self.answer)

    def questions(self, common: Questions) -> Questions:
        """The questions about this picture: those of all, with its own prompt and answer."""
        asked = common.prompting
        if asked is None:
            return common
        prompt = asked.prompt if self.prompt is None else self.prompt
        answer = asked.answer if self.answer is None else self.answer
        return replace(common, prompting=replace(asked, prompt=prompt, answer=answer))


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one picture; a failed picture has a cause and no record.

    Attributes:
        entry: the picture's line of the ledger.
        records: one record for each method.
        paths: the written files.
        cause: the error, if the picture failed.
        line: the records as lines of a file of records.
        notes: notes about how the picture was read.
    """

    entry: LedgerEntry
    records: tuple[Record, ...] = ()
    paths: tuple[Path, ...] = ()
    cause: Exception | None = None
    line: bytes | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture that is ready for the model.

    Attributes:
        entry: the ledger entry, as far as it is known.
        picture: its name, size and notes, without its pixels.
        placement: how the picture lies in the model's input.
        pixels: the model's input, (input_height, input_width, 3); empty if it is read by tiles.
        thumbnail: the small picture that the sheet is drawn on, if a sheet is requested.
        job: its job; None for a stand-in.
        spectrogram: of a sound, the picture itself, which only its model can make again.
    """

    entry: LedgerEntry
    picture: PictureHeader
    placement: Placement
    pixels: LaidPicture
    thumbnail: Picture | None = None
    job: Job | None = None
    spectrogram: Picture | None = None


@dataclass(frozen=True, eq=False)
class Answered:
    """A picture with its explanation by each method; it keeps nothing else of the model's run."""

    prepared: Prepared
    explanations: tuple[Explanation, ...]


class Unanswerable(UsageError):  # noqa: N818 — no fault of a picture, and no other UsageError
    """A question that the model cannot answer after its run, most likely for any picture."""
