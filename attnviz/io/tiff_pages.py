"""Opens TIFFs with tifffile, and finds their pages: overviews and masks are none."""

import contextlib
import logging
from typing import TYPE_CHECKING, Any, BinaryIO

from attnviz.io.parts import check_slice
from attnviz.io.picture_files import Note

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_REDUCED, _MASK = 1, 4  # bits of NewSubfileType: pages that belong to another page
_ORIENTATION = 274
_SILENT = logging.NullHandler()


def open_file(source: "str | BinaryIO") -> "TiffFile | None":
    """A file, by its path or its bytes, as tifffile reads it; None if it cannot."""
    import tifffile  # noqa: PLC0415 — plain pictures do not need it

    # attnviz reports what matters as errors.
    logging.getLogger("tifffile").addHandler(_SILENT)
    try:
        return tifffile.TiffFile(source)
    except tifffile.TiffFileError:
        return None


def page_of(file: "TiffFile", number: int, path: str) -> "TiffPage":
    """A page by its number among those that are no overviews or masks.

    Raises:
        ImageError: there is no such page.
    """
    pages = [
        index
        for index, page in enumerate(file.pages)
        if not index or not int(getattr(page, "subfiletype", 0)) & (_REDUCED | _MASK)
    ]
    place = pages[check_slice(number, len(pages), path)]
    page: Any = file.pages.first if place == 0 else file.pages.get(place, aspage=True)
    return page  # type: ignore[no-any-return]  # with `aspage` it is a page


def further_pages(file: "TiffFile") -> tuple[Note, ...]:
    """Notes on further pages; overviews and masks of the first page do not count."""
    count = 0
    with contextlib.suppress(Exception):  # only the first must be readable
        for page in file.pages:
            count += not int(getattr(page, "subfiletype", 0)) & (_REDUCED | _MASK)
    return (Note("frames", f"{count} pages: the first is drawn"),) if count > 1 else ()


def orientation(page: "TiffPage") -> int:
    """EXIF's orientation number."""
    return int(tag(page, _ORIENTATION, 1))


def tag(page: "TiffPage", code: int, default: Any = None) -> Any:
    """The value of a tag by its number."""
    found = page.tags.get(code)
    return default if found is None else found.value
