"""Everything that attnviz writes: records, encoders, whole files, and the table `FORMATS`.

A picture format is a function from a `PIL.Image.Image` to the bytes of a file. The name of the
format is the ending of the file's name.
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
"""Formats by name; other packages add theirs with entry points of the group `attnviz.formats`."""
