"""Formats: from a picture to the bytes of a file."""

import io

from PIL import Image


def as_bmp(image: Image.Image) -> bytes:
    """A picture as BMP."""
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue()
