"""What comes of decoding."""

from dataclasses import dataclass

from PIL import Image, ImageOps

from attnviz.io.picture_notes import Note
from attnviz.io.values import Samples


@dataclass(frozen=True, eq=False)
class Opened:
    """An image of 8 bits a sample, or samples of any type: one of the two is there.

    Attributes:
        image: the right way up, in a mode of Pillow's.
        samples: as they are in the file.
        notes: what was left aside.
    """

    image: Image.Image | None = None
    samples: Samples | None = None
    notes: tuple[Note, ...] = ()


def of_bands(count: int, drawn: int) -> tuple[Note, ...]:
    """What to say of a picture of `count` bands of which the first so many are drawn."""
    if count <= drawn:
        return ()
    which = {1: "the first is drawn, in grey", 3: "the first three are drawn"}.get(
        drawn, f"the first {drawn} are drawn"
    )
    return (Note("bands", f"{count} bands: {which}"),)


def upright(image: Image.Image, orientation: int | None = None) -> Image.Image:
    """An image turned as EXIF says: its own, or this orientation."""
    if orientation is not None:
        image.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(image)
