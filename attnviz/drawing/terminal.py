"""Draws a picture in the terminal, two pixels per character."""

from PIL import Image
from rich.console import RenderableType
from rich_pixels import Pixels


def for_terminal(image: Image.Image, *, columns: int, lines: int) -> RenderableType:
    """A picture as half blocks, as large as fits into `columns` × `lines` characters.

    Every character shows two pixels, one above the other. A terminal's character is about twice as
    high as wide, so these pixels are square.
    """
    factor = min(1.0, columns / image.width, 2 * lines / image.height)
    width = max(1, round(image.width * factor))
    height = max(2, 2 * round(image.height * factor / 2))
    pixels: RenderableType = Pixels.from_image(
        image.resize((width, height), Image.Resampling.LANCZOS)
    )
    return pixels
