"""Opens files whose regions can be read without the rest: TIFFs, and slides."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from attnviz.io import slides, tiff, tiff_regions
from attnviz.io.parts import Box, Part, check_region
from attnviz.io.picture_files import STDIN
from attnviz.io.values import Opened


class RegionReader(Protocol):
    """An open file; `width` and `height` are the size of the picture in it."""

    width: int
    height: int

    def read(self, box: Box, factor: int = 1) -> Opened:
        """Read a region; it may be reduced already, by at most `factor`."""


@contextmanager
def open_regions(path: str, part: Part) -> Iterator[RegionReader | None]:
    """Open a file to read its regions; None if it can only be read whole.

    Raises:
        ImageError, MissingExtraError: as of `load_image`.
    """
    slide = slides.open_slide(path, part)
    if slide is not None:
        with slide:
            yield slide
        return
    if not _is_tiff(path):
        yield None
        return
    with tiff_regions.open_tiff(path, path, part) as reader:
        if reader is not None:
            yield reader
            return
    other = slides.open_slide(path, part, tiff_too=True)
    if other is None:
        yield None
        return
    with other:
        yield other


def read(path: str, part: Part) -> Opened | None:
    """Read the chosen region of a file, or a whole slide; None if the file must be read whole.

    Raises:
        ImageError: the region leaves the picture, or the slide is too large.
        MissingExtraError: as of `load_image`.
    """
    if part.region is None:
        slide = slides.open_slide(path, part)
        if slide is None:
            return None
        with slide:
            return slides.read_whole(slide, path)
    with open_regions(path, part) as reader:
        if reader is None:
            return None
        check_region(part.region, reader.width, reader.height, path)
        return reader.read(part.region)


def _is_tiff(path: str) -> bool:
    if path == STDIN or not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        return tiff.is_tiff(file.read(4))
