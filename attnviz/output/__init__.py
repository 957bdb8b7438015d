"""Records, encoders and whole files: all that attnviz writes. `FORMATS` is the table of pictures.

A format is a function from a `PIL.Image.Image` to the bytes of a file. Files end with its name.
"""

from attnviz.registry import Table, TableEntry

_FORMATS: dict[str, TableEntry] = {
    "png": TableEntry(
        "attnviz.output.encoding:as_png",
        "pixels as they are",
        "W3C 2003, Portable Network Graphics",
    ),
    "jpg": TableEntry(
        "attnviz.output.encoding:as_jpg",
        "smaller, for photographs; quality 92",
        "ITU-T 1992, T.81",
    ),
    "webp": TableEntry(
        "attnviz.output.encoding:as_webp",
        "smaller still; quality 90, sides of at most 16383 pixels",
        "RFC 9649",
    ),
}
FORMATS = Table("attnviz.formats", TableEntry, _FORMATS)
"""By name; other packages add to it by entry points of the group `attnviz.formats`."""
