"""Plain values that engines pass on: jobs, their settings, and the outcome of each picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attnviz.batch.ledger_entry import LedgerEntry
from attnviz.errors import UsageError
from attnviz.explanation.explanation import Explanation
from attnviz.explanation.request import Questions
from attnviz.geometry.placement import Fit, Placement
from attnviz.io.picture import Picture, PictureHeader
from attnviz.io.picture_files import Note
from attnviz.io.ranges import FULL
from attnviz.output.records import Record
from attnviz.output.write_pictures import Drawing

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


@dataclass(frozen=True)
class Job:
    """One picture to process.

    Attributes:
        path: path of the picture.
        folder: the folder for its files, relative to the output folder.
        before: names of the files that an earlier run wrote there.
    """

    path: str
    folder: str
    before: tuple[str, ...] = ()


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
        pixels: the model's input, (input_height, input_width, 3).
        thumbnail: the small picture that the sheet is drawn on, if a sheet is requested.
        job: its job; None for a stand-in.
    """

    entry: LedgerEntry
    picture: PictureHeader
    placement: Placement
    pixels: NDArray[np.uint8]
    thumbnail: Picture | None = None
    job: Job | None = None


@dataclass(frozen=True, eq=False)
class Answered:
    """A picture with its explanation by each method; it keeps nothing else of the model's run."""

    prepared: Prepared
    explanations: tuple[Explanation, ...]


class Unanswerable(UsageError):  # noqa: N818 — no fault of a picture, and no other UsageError
    """A question that the model cannot answer after its run, most likely for any picture."""
