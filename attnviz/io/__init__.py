"""Pictures in: the only room that opens them.

Whatever the file holds, what comes out is what a person sees: 8-bit sRGB, turned the right way
up, transparency laid on white. What was left aside, or stretched, is in the picture's notes.
"""

from typing import TYPE_CHECKING

from attnviz.lazy import lazy_names

if TYPE_CHECKING:
    from attnviz.io.picture import (
        Picture,
        decode,
        load_image,
        load_mask,
        load_mask_colours,
    )
    from attnviz.io.picture_files import (
        STDIN,
        SUFFIXES,
        fingerprint,
        pictures_in,
        read_file,
    )
    from attnviz.io.picture_notes import KINDS, Note
    from attnviz.io.values import NARROW

__all__ = [
    "KINDS",
    "NARROW",
    "STDIN",
    "SUFFIXES",
    "Note",
    "Picture",
    "decode",
    "fingerprint",
    "load_image",
    "load_mask",
    "load_mask_colours",
    "pictures_in",
    "read_file",
]

__getattr__ = lazy_names(
    __name__,
    {
        "KINDS": "attnviz.io.picture_notes",
        "NARROW": "attnviz.io.values",
        "Note": "attnviz.io.picture_notes",
        "Picture": "attnviz.io.picture",
        "STDIN": "attnviz.io.picture_files",
        "SUFFIXES": "attnviz.io.picture_files",
        "decode": "attnviz.io.picture",
        "fingerprint": "attnviz.io.picture_files",
        "load_image": "attnviz.io.picture",
        "load_mask": "attnviz.io.picture",
        "load_mask_colours": "attnviz.io.picture",
        "pictures_in": "attnviz.io.picture_files",
        "read_file": "attnviz.io.picture_files",
    },
)
