"""Prepares JPEGs at a part of their size, where the model sees far less than they have."""

from dataclasses import replace

from attnviz.batch.jobs import Job, LedgerEntry, Prepared, Settings
from attnviz.drawing.panels import CELL
from attnviz.drawing.sheet import small
from attnviz.io.picture import PictureHeader, decode_reduced
from attnviz.io.ranges import FULL
from attnviz.models.model import Model

ENOUGH = 1.9
"""A reduced picture still has so many times the pixels that the model sees, across and down."""


def prepare(
    entry: LedgerEntry, data: bytes, job: Job, model: Model, settings: Settings
) -> Prepared | None:
    """A picture decoded at 1/2, 1/4 or 1/8 and placed where it would be; None if it may not be.

    Raises:
        ImageError: truncated, or too large.
    """
    plain = settings.part.whole and settings.range == FULL
    if not (settings.draft and plain) or model.sound is not None or model.words is not None:
        return None

    def factor(width: int, height: int) -> float:
        placement = model.place(PictureHeader(job.path, width, height), fit=settings.fit)
        source, target = placement.source, placement.target
        fits = min(source.width / target.width, source.height / target.height) / ENOUGH
        return min(fits, max(width, height) / CELL) if settings.pictures == "sheet" else fits

    reduced = decode_reduced(data, job.path, factor)
    if reduced is None:
        return None
    header, picture = reduced.header, reduced.picture
    placement = model.place(header, fit=settings.fit)
    return Prepared(
        replace(entry, size=(header.width, header.height)),
        header,
        placement,
        model.lay(picture, placement.reduced(picture.width, picture.height, reduced.scale)),
        small(picture) if settings.pictures == "sheet" else None,
        job,
    )
