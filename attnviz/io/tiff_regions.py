"""Reads regions of a TIFF: only the tiles or strips that they touch are decoded."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import ImageError, MissingExtraError
from attnviz.io import tiff, tiff_pages
from attnviz.io.parts import Box, Part
from attnviz.io.picture_files import Note
from attnviz.io.size_limit import check_size
from attnviz.io.values import Opened

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_COLOURS = (0, 1, 2, 3, 6)
"""Photometric interpretations that are read: grey, RGB, palette, and YCbCr as JPEG stores it."""
_JPEG = (6, 7, 33007, 34892)
_YCBCR = 6


class TiffRegions:
    """An open TIFF, to read regions of one page.

    Attributes:
        width, height: size of the page in pixels.
    """

    def __init__(
        self, file: "TiffFile", page: "TiffPage", path: str, notes: tuple[Note, ...] = ()
    ) -> None:
        """Open regions of a page; `notes` are on further pages."""
        self._file, self._page, self._path, self._notes = file, page, path, notes
        self.width, self.height = int(page.imagewidth), int(page.imagelength)

    def read(self, box: Box, factor: int = 1) -> Opened:  # noqa: ARG002 — there is one level
        """Read a region that lies on the page.

        Raises:
            ImageError: the region is too large, or the file is damaged.
            MissingExtraError: its compression needs imagecodecs.
        """
        path = self._path
        check_size(box[2] * box[3], path, "give a smaller --region")
        try:
            bands = _region(self._file, self._page, box)
        except (ValueError, KeyError, ImportError, RuntimeError) as error:
            if "imagecodecs" in str(error) or isinstance(error, ImportError):
                compression = getattr(self._page.compression, "name", self._page.compression)
                raise MissingExtraError(
                    f"{path}: a TIFF compressed by {compression}", "codecs"
                ) from error
            reason = " ".join(str(error).split())[:100]
            raise ImageError(f"{path}: truncated or damaged ({reason}); save it again") from error
        opened = tiff.as_opened(self._page, bands)
        return replace(opened, notes=(*opened.notes, *self._notes), cut=True)


@contextmanager
def open_tiff(source: "str | BinaryIO", path: str, part: Part) -> Iterator[TiffRegions | None]:
    """Open a TIFF to read regions; None if another reader must read the whole picture.

    `source` is the file's path or its bytes; `path` is its name for messages.

    Raises:
        ImageError: there is no such page, or it is of a kind that cannot be drawn.
    """
    file = tiff_pages.open_file(source)
    if file is None:
        yield None
        return
    with file:
        page = tiff_pages.page_of(file, part.slice or 0, path)
        as_stored = page.photometric != _YCBCR or int(page.compression) in _JPEG
        if page.photometric not in _COLOURS or not as_stored or tiff_pages.orientation(page) != 1:
            yield None
            return
        tiff.check_numbers(page, path)
        further = tiff_pages.further_pages(file) if part.slice is None else ()
        yield TiffRegions(file, page, path, further)


def _region(file: "TiffFile", page: "TiffPage", box: Box) -> NDArray[Any]:
    """The bands of a region, (height, width, bands)."""
    x, y, width, height = box
    bands = np.zeros((height, width, page.samplesperpixel), dtype=page.dtype)
    for number in segments(page, box):
        offset, size = page.dataoffsets[number], page.databytecounts[number]
        if not size:
            continue  # an empty tile is of zeros
        file.filehandle.seek(offset)
        data = file.filehandle.read(size)
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        values, (plane, _, top, left, _), shape = page.decode(data, number, **tables)
        if values is None:
            continue
        values = np.asarray(values).reshape(shape)[0]
        high, wide = min(y + height, top + shape[1]), min(x + width, left + shape[2])
        low, near = max(y, top), max(x, left)
        if high <= low or wide <= near:
            continue
        part = values[low - top : high - top, near - left : wide - left]
        first = plane if page.planarconfig == 2 else 0
        target = bands[low - y : high - y, near - x : wide - x, first : first + part.shape[2]]
        target[...] = part
    return bands


def segments(page: "TiffPage", box: Box) -> list[int]:
    """The numbers of the tiles or strips that a region touches."""
    x, y, width, height = box
    tall = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    wide = page.tilewidth if page.is_tiled else page.imagewidth
    across, down = -(-page.imagewidth // wide), -(-page.imagelength // tall)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    return [
        (plane * down + row) * across + column
        for plane in range(planes)
        for row in range(y // tall, (y + height - 1) // tall + 1)
        for column in range(x // wide, (x + width - 1) // wide + 1)
    ]
