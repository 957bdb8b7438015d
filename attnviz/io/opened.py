"""The result of decoding a picture file, and notes about it."""

from dataclasses import dataclass

from PIL import Image, ImageOps

from attnviz.io.picture_notes import Note
from attnviz.io.values import Samples


@dataclass(frozen=True, eq=False)
class Opened:
    """A decoded picture: either an image of 8 bits per sample, or samples of any type.

    Attributes:
        image: Pillow image, the right way up.
        samples: samples with the values of the file.
        notes: notes on what was left out.
    """

    image: Image.Image | None = None
    samples: Samples | None = None
    notes: tuple[Note, ...] = ()


def of_bands(count: int, drawn: int) -> tuple[Note, ...]:
    """A note for a picture of `count` bands of which only the first `drawn` are drawn."""
    if count <= drawn:
        return ()
    which = {1: "the first is drawn, in grey", 3: "the first three are drawn"}.get(
        drawn, f"the first {drawn} are drawn"
    )
    return (Note("bands", f"{count} bands: {which}"),)


def upright(image: Image.Image, orientation: int | None = None) -> Image.Image:
    """An image turned by its own EXIF orientation, or by the given one."""
    if orientation is not None:
        image.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(image)
