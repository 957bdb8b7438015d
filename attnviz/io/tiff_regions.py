"""Reads a region of a TIFF: only the tiles or strips that it touches are decoded."""

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnviz.errors import ImageError, MissingExtraError
from attnviz.io import tiff
from attnviz.io.parts import Box, Part, check_region
from attnviz.io.values import Opened

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_COLOURS = (0, 1, 2, 3, 6)
"""Photometric interpretations that are read: grey, RGB, palette, and YCbCr as JPEG stores it."""
_JPEG = (6, 7, 33007, 34892)
_YCBCR = 6


def read(source: "str | BinaryIO", path: str, part: Part) -> Opened | None:
    """Read the region of a TIFF file; None if another reader must read the whole picture.

    `source` is the file's path or its bytes; `path` is its name for messages.

    Raises:
        ImageError: the region leaves the picture, is too large, or the file is damaged.
        MissingExtraError: its compression needs imagecodecs.
    """
    import tifffile  # noqa: PLC0415 — other pictures do not need it

    tiff.hush()
    try:
        with tifffile.TiffFile(source) as file:
            page = tiff.page_of(file, part.slice or 0, path)
            return _read(file, page, path, part)
    except tifffile.TiffFileError:
        return None


def _read(file: "TiffFile", page: "TiffPage", path: str, part: Part) -> Opened | None:
    assert part.region is not None  # callers check it
    as_stored = page.photometric != _YCBCR or int(page.compression) in _JPEG
    if page.photometric not in _COLOURS or not as_stored or tiff.orientation(page) != 1:
        return None
    check_region(part.region, page.imagewidth, page.imagelength, path)
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    if limit and part.region[2] * part.region[3] > limit:
        raise ImageError(
            f"{path}: a region of more than {limit // 1_000_000} megapixels; give a smaller one"
        )
    tiff.check_numbers(page, path)
    try:
        bands = _region(file, page, part.region)
    except (ValueError, KeyError, ImportError, RuntimeError) as error:
        if "imagecodecs" in str(error) or isinstance(error, ImportError):
            compression = getattr(page.compression, "name", page.compression)
            raise MissingExtraError(
                f"{path}: a TIFF compressed by {compression}", "codecs"
            ) from error
        reason = " ".join(str(error).split())[:100]
        raise ImageError(f"{path}: truncated or damaged ({reason}); save it again") from error
    opened = tiff.as_opened(page, bands)
    return Opened(opened.image, opened.samples, opened.notes, cut=True)


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
