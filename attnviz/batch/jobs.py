"""What is to be done with pictures, and what became of each: plain values that engines pass on."""

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
from attnviz.io.picture_notes import Note
from attnviz.io.ranges import FULL
from attnviz.output.records import Record
from attnviz.output.write_pictures import Drawing

Pictures = Literal["sheet", "heads", "none"]


@dataclass(frozen=True)
class Settings:
    """What is done with every picture; the values that the options of the same names take.

    `digest` changes with all that changes what is written.
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
    """One picture that is to be done.

    Attributes:
        path: of the picture.
        folder: for its files, below that of all.
        before: names of the files that an earlier run wrote there.
    """

    path: str
    folder: str
    before: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one picture; of one that failed there is no record, but a cause.

    Attributes:
        entry: its line of the ledger.
        records: one for each method.
        paths: the files written.
        cause: why it failed.
        line: the records as they stand in a file of records, a line each.
        notes: how the picture was read.
    """

    entry: LedgerEntry
    records: tuple[Record, ...] = ()
    paths: tuple[Path, ...] = ()
    cause: Exception | None = None
    line: bytes | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as the model is to be shown it.

    Attributes:
        entry: what is known of it so far.
        picture: its name, size and notes; its pixels are not kept.
        placement: how the picture lies in the input.
        pixels: the input, (input_height, input_width, 3).
        thumbnail: the small picture that the sheet is drawn on, if there is to be one.
        job: None of a stand-in.
    """

    entry: LedgerEntry
    picture: PictureHeader
    placement: Placement
    pixels: NDArray[np.uint8]
    thumbnail: Picture | None = None
    job: Job | None = None


@dataclass(frozen=True, eq=False)
class Answered:
    """A picture that was explained by each method; nothing else of the model's run is left."""

    prepared: Prepared
    explanations: tuple[Explanation, ...]


class Unanswerable(UsageError):  # noqa: N818 — no fault of a picture, and no other UsageError
    """A question that a model that has run cannot be asked: most likely of no picture."""
