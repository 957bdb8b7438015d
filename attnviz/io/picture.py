"""Reads a picture from a file, from bytes, or as a mask."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnviz.errors import ImageError
from attnviz.geometry.sound_axes import SoundAxes
from attnviz.io import regions, tiff, tiff_regions
from attnviz.io.decoding import (
    Factor,
    as_pillow_sees_it,
    mask_to_rgb,
    open_picture,
    open_reduced,
    to_rgb,
)
from attnviz.io.parts import WHOLE, Part, check_region, parse_part, split_path
from attnviz.io.picture_files import STDIN, Note, read
from attnviz.io.ranges import FULL, ValueRange, parse_range
from attnviz.io.selecting import select, turned
from attnviz.io.size_limit import as_array
from attnviz.io.values import Opened, Samples, Span, take, to_8_bit, upright


@dataclass(frozen=True)
class Picture:
    """A picture as a person sees it.

    >>> picture = Picture("grey.png", np.full((2, 3, 3), 128, dtype=np.uint8))
    >>> picture.width, picture.height
    (3, 2)

    Attributes:
        path: path as the user gave it; `-` for standard input.
        pixels: (height, width, 3) uint8 sRGB, 0 to 255.
        range: the file's values that become 0 and 255; None for an ordinary picture of 8 bits.
        notes: notes on what of the file is not shown, or is stretched.
        bands: (height, width, N) uint8, all bands of a file that has others than the drawn ones,
            scaled as those are; for models of N channels. None if the drawn ones are all.
        part: the part of the file that this is.
        sound: of a spectrogram, its seconds and hertz; None for a picture.
        features: of a spectrogram, (rows, columns) float32: all that the model is given, highest
            frequency first. The picture is its first columns; what follows is padding.
    """

    path: str
    pixels: NDArray[np.uint8]
    range: tuple[float, float] | None = None
    notes: tuple[Note, ...] = ()
    bands: NDArray[np.uint8] | None = field(default=None, repr=False)
    part: Part = field(default=WHOLE, repr=False)
    sound: SoundAxes | None = field(default=None, repr=False)
    features: NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    @property
    def name(self) -> str:
        """The file name, `stdin` for standard input."""
        return _name(self.path)

    def header(self) -> "PictureHeader":
        """The picture without its pixels."""
        return PictureHeader(
            self.path, self.width, self.height, self.range, self.notes, self.part, self.sound
        )

    def image(self) -> Image.Image:
        """The picture as a Pillow image in mode RGB."""
        return Image.fromarray(self.pixels)


@dataclass(frozen=True)
class PictureHeader:
    """A picture without its pixels: enough to place it, to check queries and to write its record.

    >>> load_image("cat.jpg").header()
    PictureHeader(path='cat.jpg', width=480, height=320, range=None, notes=())

    Attributes:
        path, width, height, range, notes, part, sound: those of the `Picture`.
        mirrored: whether it is the mirror image of the file, so that masks of it are mirrored.
        reduced: 2 if the file was decoded at half of its size for the model, and so on; 1 if whole.
    """

    path: str
    width: int
    height: int
    range: tuple[float, float] | None = None
    notes: tuple[Note, ...] = ()
    part: Part = field(default=WHOLE, repr=False)
    sound: SoundAxes | None = field(default=None, repr=False)
    mirrored: bool = field(default=False, repr=False)
    reduced: int = field(default=1, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The file name, `stdin` for standard input."""
        return _name(self.path)


PictureLike = Picture | PictureHeader
"""A picture, with its pixels or without."""


def with_pixels(picture: PictureLike) -> Picture:
    """The picture, if its pixels are there.

    >>> with_pixels(picture).pixels.shape
    (320, 480, 3)

    Raises:
        ImageError: the pixels were let go.
    """
    if isinstance(picture, PictureHeader):
        raise ImageError(f"{picture.path}: its pixels were let go; read the picture again")
    return picture


def _name(path: str) -> str:
    return "stdin" if path == STDIN else Path(path).name


def load_image(
    path: str | Path,
    range: str = FULL,  # noqa: A002 — the option's name
    *,
    channels: str | None = None,
    slice: int | None = None,  # noqa: A002
    region: str | None = None,
) -> Picture:
    """Read a picture in any format that Pillow opens, TIFF of any type, or an array of NumPy.

    HEIC needs `attnviz[heic]`, DICOM `attnviz[dicom]`, NIfTI `attnviz[nifti]`, slides need
    `attnviz[slide]`. EXIF orientation is applied and transparency is laid on white. Of several
    frames the first is read, of a volume the middle slice. `-` reads standard input.

    >>> load_image("cat.jpg").pixels.shape                       # (height, width, 3)
    (320, 480, 3)
    >>> load_image("cat.jpg", range="20:200").range              # black and white
    (20.0, 200.0)

    Args:
        path: path of the file.
        range: the values that become black and white: `full` (the range of the file's type),
            `percentile` (0.5 to 99.5), or `LO:HI`. Values beyond are clipped; NaN is black.
        channels: the bands to draw, from 0: three such as `3,2,1`, or one in grey.
        slice: the slice of a volume, or the page of a TIFF, from 0.
        region: `x,y,w,h`, the part of the picture to read; of a TIFF or slide, no more is decoded.

    Raises:
        ImageError: the file is missing, a folder, empty, truncated, not a picture, or too large;
            or it has no such band, slice or region.
        MissingExtraError: the format or its compression needs an extra.
        UsageError: an option is not valid.
    """
    return load_part(path, range, parse_part(channels, slice, region))


def load_part(path: str | Path, range: str, part: Part) -> Picture:  # noqa: A002
    """Read a part of a picture file as `load_image` does.

    >>> load_part("cat.jpg", "full", Part(region=(0, 0, 100, 50))).pixels.shape
    (50, 100, 3)

    Raises:
        ImageError, MissingExtraError, UsageError: as of `load_image`.
    """
    path, value_range = str(path), parse_range(range)
    found = regions.read(path, part)
    if found is not None:
        return developed(found, path, value_range, part)
    return decode(read(split_path(path).file), path, range, part)


def decode(data: bytes, path: str, range: str = FULL, part: Part = WHOLE) -> Picture:  # noqa: A002
    """Decode the bytes of a file as `load_image` does; `path` is its name for messages.

    Raises:
        ImageError: truncated, not a picture, or too large.
        MissingExtraError: a HEIC file without `attnviz[heic]`, or a codec of `attnviz[codecs]`.
        UsageError: no such range.
    """
    opened = None
    if part.region is not None and tiff.is_tiff(data):
        with tiff_regions.open_tiff(io.BytesIO(data), path, part) as reader:
            if reader is not None:
                check_region(part.region, reader.width, reader.height, path)
                opened = reader.read(part.region)
    if opened is None:
        opened = open_picture(data, path, part)
    return developed(opened, path, parse_range(range), part)


@dataclass(frozen=True)
class ReducedPicture:
    """A picture that was decoded at a part of its size.

    Attributes:
        header: the picture itself.
        picture: the reduced picture.
    """

    header: PictureHeader
    picture: Picture

    @property
    def scale(self) -> int:
        """How much it is reduced: pixel x of it lies at pixel scale·x of the picture."""
        return self.header.reduced


def decode_reduced(data: bytes, path: str, factor: Factor) -> ReducedPicture | None:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size, if `factor` of its size allows it.

    >>> decode_reduced(Path("cat.jpg").read_bytes(), "cat.jpg", lambda *size: 3.9).scale
    2

    Returns:
        None for a file of another format, and if the factor is below 2.

    Raises:
        ImageError: truncated, or too large.
    """
    found = open_reduced(data, path, factor)
    if found is None:
        return None
    image, size, scale = found
    picture = Picture(path, as_array(to_rgb(image)))
    return ReducedPicture(PictureHeader(path, *size, reduced=scale), picture)


def developed(opened: Opened, path: str, value_range: ValueRange, part: Part) -> Picture:
    """A decoded file, or region, as the picture that its part and the range of values make of it.

    Raises:
        ImageError: there is no such band, or the region leaves the picture.
    """
    if not part.whole:
        opened = select(opened, part, path)
    samples = opened.samples
    if samples is None:
        assert opened.image is not None  # one of the two is there
        pixels = as_array(to_rgb(opened.image))
        samples = Samples(pixels, "unsigned", 8)
        if value_range.kind == FULL:
            return Picture(path, pixels, notes=opened.notes, part=part)
    span, notes = take(samples, value_range)
    pixels = _colours(samples, span)
    plain = samples.ordinary and value_range.kind == FULL
    return Picture(
        path,
        pixels,
        None if plain else span,
        (*opened.notes, *notes),
        _all_bands(samples, span),
        part,
    )


def _all_bands(samples: Samples, span: Span) -> NDArray[np.uint8] | None:
    """All bands in 8 bits, the right way up; None if all of them are drawn."""
    if samples.bands is None or samples.bands.shape[2] in (1, 3):
        return None
    bands = turned(samples).bands
    assert bands is not None
    return to_8_bit(bands, span, white_is_zero=samples.white_is_zero)


def _colours(samples: Samples, span: Span) -> NDArray[np.uint8]:
    """Samples as sRGB colours, the right way up."""
    pixels = to_8_bit(samples.values, span, white_is_zero=samples.white_is_zero)
    special = samples.alpha is not None or samples.profile is not None or samples.orientation != 1
    if pixels.shape[2] == 3 and not special:
        return pixels
    return np.asarray(to_rgb(_with_alpha(samples, pixels)))


def _with_alpha(samples: Samples, pixels: NDArray[np.uint8]) -> Image.Image:
    """Colours as an image, the right way up, with transparency and profile kept."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if samples.alpha is not None:
        image.putalpha(Image.fromarray(samples.alpha))
    image = upright(image, samples.orientation)
    if samples.profile is not None:
        image.info["icc_profile"] = samples.profile
    return image


def load_mask(path: str | Path, *, width: int, height: int) -> NDArray[np.bool_]:
    """Read a mask picture: True where it is white, False where it is black, (height, width).

    >>> load_mask("masks/cat.png", width=480, height=320).shape
    (320, 480)

    Raises:
        ImageError: unreadable, or not of the size of the picture as seen.
    """
    mask = load_mask_colours(path, width=width, height=height)
    return np.asarray(mask.image().convert("L")) >= 128


def load_mask_colours(path: str | Path, *, width: int, height: int) -> Picture:
    """Read a mask picture without stretching its range, (height, width, 3).

    Raises:
        ImageError: unreadable, or not of the size of the picture as seen.
    """
    path = str(path)
    image = as_pillow_sees_it(read(path), path)
    picture = Picture(path, np.asarray(mask_to_rgb(image)))
    if (picture.width, picture.height) != (width, height):
        raise ImageError(
            f"{path}: the mask is {picture.width}x{picture.height}, the picture {width}x{height}; "
            "make the mask the size of the picture as seen (after EXIF rotation)"
        )
    return picture
