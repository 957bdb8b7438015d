"""Pictures in: the only room that opens them.

Whatever the file holds, what comes out is what a person sees: 8-bit sRGB, turned the right way
up, transparency laid on white. What was left aside, or stretched, is in the picture's notes.
"""

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
