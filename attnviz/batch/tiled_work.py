"""The stages of `batch.work` for pictures that are read tile by tile."""

import os
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np

from attnviz.batch.jobs import Job, LedgerEntry, Prepared, Settings
from attnviz.drawing.sheet import small
from attnviz.errors import ImageError
from attnviz.explanation.explain_tiles import explain_tiles
from attnviz.explanation.explanation import Explanation
from attnviz.explanation.tile_request import Tiling
from attnviz.geometry.placement import Placement
from attnviz.io.picture import Picture, PictureHeader
from attnviz.io.picture_files import file_digest
from attnviz.io.picture_tiles import TiledPicture, open_tiled
from attnviz.models.model import Model

_PREVIEW = 1024
"""The longest side, in pixels, of the picture that is reduced to its size in a sheet."""


def prepare(entry: LedgerEntry, job: Job, model: Model, settings: Settings) -> Prepared:
    """Open a picture; of its pixels only a small picture for the sheet is kept.

    Raises:
        ImageError, MissingExtraError, UsageError: as of `open_tiled`.
    """
    digest, found = file_digest(job.path)
    with _open(job.path, settings) as picture:
        header = picture.header
        shown = small(picture.reduced(_PREVIEW)) if settings.pictures == "sheet" else None
    size = header.width, header.height
    placed = place(header, model, settings)
    entry = replace(entry, file=digest, state=_state(found), size=size)
    return Prepared(entry, header, placed, np.zeros((0, 0, 3), dtype=np.uint8), shown, job)


def place(picture: PictureHeader, model: Model, settings: Settings) -> Placement:
    """How a tile of a picture lies in the model's input."""
    side = _tiling(settings).side
    tile = replace(
        picture, width=min(side, picture.width), height=min(side, picture.height), notes=()
    )
    return model.place(tile, fit=settings.fit)


def explain(prepared: Prepared, model: Model, settings: Settings) -> list[Explanation]:
    """The explanation by each method, joined from all tiles.

    Raises:
        AttnvizError: as of `explain_tiles`.
        ImageError: the file has changed.
    """
    with _open_again(prepared, settings) as picture:
        return explain_tiles(picture, model, settings.questions, fit=settings.fit)


def reduced(prepared: Prepared, settings: Settings) -> Picture:
    """The picture that joined maps are drawn on.

    Raises:
        ImageError: the file has changed.
    """
    with _open_again(prepared, settings) as picture:
        return picture.reduced()


def _open_again(prepared: Prepared, settings: Settings) -> AbstractContextManager[TiledPicture]:
    path = prepared.entry.path
    try:
        state = _state(os.stat(path))  # noqa: PTH116 — names of any bytes
    except OSError:
        state = (0, 0, 0)
    if state != prepared.entry.state:
        raise ImageError(f"{path}: was changed while it was looked at; run again")
    return _open(path, settings)


def _open(path: str, settings: Settings) -> AbstractContextManager[TiledPicture]:
    tiling = _tiling(settings)
    return open_tiled(path, settings.range, settings.part, tiling.side, tiling.overlap)


def _state(found: os.stat_result) -> tuple[int, int, int]:
    """What tells that a file has changed; see `LedgerEntry`."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _tiling(settings: Settings) -> Tiling:
    assert settings.tiling is not None  # callers checked it
    return settings.tiling
