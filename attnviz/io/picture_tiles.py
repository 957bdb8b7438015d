"""Reads a picture tile by tile, so that it need not fit into memory."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from attnviz.errors import ImageError
from attnviz.io.parts import Box, Part, check_region
from attnviz.io.picture import Picture, PictureHeader, developed, load_part
from attnviz.io.picture_files import Note
from attnviz.io.ranges import parse_range
from attnviz.io.regions import RegionReader, open_regions
from attnviz.io.selecting import select
from attnviz.io.values import take

REDUCED = 4096
"""The longest side, in pixels, of the picture that joined maps are drawn on."""
_BAND = 1 << 24
"""At most this many pixels are read at once to reduce a picture."""
_ALIKE = ("bands", "frames", "bits")
"""Kinds of notes that hold for all tiles."""
_SAMPLED = ("missing", "narrow")
"""Kinds of notes on values, which a sample tells."""
_PERCENTILE = re.compile("( or|; add) --range percentile$")
"""Advice that tiles do not follow: each would have percentiles of its own."""
_SAMPLE = 256
"""The side of each part of the sample."""


@dataclass(frozen=True, eq=False)
class TiledPicture:
    """An open picture that is read tile by tile.

    Attributes:
        header: the whole picture, or its chosen region, without pixels.
        side, overlap: the side of a tile in pixels, and the share of it that neighbours share.
    """

    header: PictureHeader
    side: int
    overlap: float
    _read: Callable[[Box, int], Picture]

    @property
    def path(self) -> str:
        """Path as the user gave it."""
        return self.header.path

    @property
    def notes(self) -> tuple[Note, ...]:
        """Notes on what of the file is not shown."""
        return self.header.notes

    def read(self, box: Box) -> Picture:
        """A part of the picture: x, y, width and height.

        Raises:
            ImageError: it is damaged, or its values would be drawn by another range.
        """
        return self._alike(self._read(box, 1))

    def reduced(self, side: int = REDUCED) -> Picture:
        """The picture with a longest side of at most `side` pixels, each the mean of a block.

        Raises:
            ImageError, as of `read`.
        """
        width, height = self.header.width, self.header.height
        factor = math.ceil(max(width, height) / side)
        if factor <= 1:
            return replace(self.read((0, 0, width, height)), part=self.header.part)
        size = math.ceil(width / factor), math.ceil(height / factor)
        pixels = np.empty((size[1], size[0], 3), dtype=np.uint8)
        rows = max(1, _BAND // (width * factor))  # of the reduced picture
        for row in range(0, size[1], rows):
            top = row * factor
            box = (0, top, width, min(rows * factor, height - top))
            band = self._alike(self._read(box, factor)).image()
            high = math.ceil(box[3] / factor)
            if band.size == box[2:]:
                small = band.reduce(factor)
            else:  # a slide has coarser levels
                small = band.resize((size[0], high), Image.Resampling.BOX)
            pixels[row : row + high] = np.asarray(small)
        return Picture(self.header.path, pixels, self.header.range, part=self.header.part)

    def _alike(self, picture: Picture) -> Picture:
        """The part of the picture, if it is drawn by the range of the others."""
        if picture.range == self.header.range:
            return picture
        raise ImageError(
            f"{self.header.path}: its tiles have values of different ranges, and would be drawn "
            "differently; add --range LO:HI"
        )


@contextmanager
def open_tiled(
    path: str | Path,
    range: str,  # noqa: A002 — the option's name
    part: Part,
    side: int,
    overlap: float,
) -> Iterator[TiledPicture]:
    """Open a picture to read it tile by tile: TIFFs and slides region by region.

    Other files are decoded whole, once.

    Raises:
        ImageError, MissingExtraError, UsageError: as of `load_image`.
    """
    path = str(path)
    with open_regions(path, part) as reader:
        if reader is None:
            whole = load_part(path, range, part)
            yield TiledPicture(whole.header(), side, overlap, lambda box, _: _cropped(whole, box))
            return
        area = part.region or (0, 0, reader.width, reader.height)
        check_region(area, reader.width, reader.height, path)
        width, height = area[2:]
        read = _reading(reader, path, range, part)
        corner = read((0, 0, min(width, side), min(height, side)), 1)
        notes = corner.notes
        if max(width, height) > side:
            notes = tuple(note for note in notes if note.kind in _ALIKE)
            if corner.range is not None:  # else 8 bits, drawn as they are
                notes += _of_values(reader, path, range, replace(part, region=area))
        header = PictureHeader(path, width, height, corner.range, notes, part)
        yield TiledPicture(header, side, overlap, read)


def _reading(
    reader: RegionReader,
    path: str,
    values: str,
    part: Part,
) -> Callable[[Box, int], Picture]:
    """A function that reads a part of the picture, whose corner is that of the chosen region."""
    x, y, *_ = part.region or (0, 0)
    value_range = parse_range(values)

    def read(box: Box, factor: int) -> Picture:
        of_file = (box[0] + x, box[1] + y, box[2], box[3])
        opened = reader.read(of_file, factor)
        return developed(opened, path, value_range, replace(part, region=of_file))

    return read


def _of_values(reader: RegionReader, path: str, values: str, part: Part) -> tuple[Note, ...]:
    """Notes on the values of a region, judged by a sample of nine parts from all over it."""
    assert part.region is not None  # callers fill it
    x, y, width, height = part.region
    wide, high = min(width, _SAMPLE), min(height, _SAMPLE)
    boxes = {
        (x + (width - wide) * i // 2, y + (height - high) * j // 2, wide, high)
        for i in range(3)
        for j in range(3)
    }
    opened = (select(reader.read(box), replace(part, region=box), path) for box in boxes)
    parts = [each.samples for each in opened if each.samples is not None]
    joined = replace(parts[0], values=np.concatenate([samples.values for samples in parts]))
    _, notes = take(joined, parse_range(values))
    return tuple(
        Note(note.kind, f"in a sample, {_PERCENTILE.sub('', note.text)}")
        for note in notes
        if note.kind in _SAMPLED
    )


def _cropped(picture: Picture, box: Box) -> Picture:
    x, y, width, height = box
    pixels = picture.pixels[y : y + height, x : x + width]
    bands = None if picture.bands is None else picture.bands[y : y + height, x : x + width]
    return replace(picture, pixels=pixels, bands=bands)
