"""Decodes bytes to an 8-bit sRGB image, or to samples of more bits."""

import contextlib
import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from attnviz.errors import AttnvizError, ImageError, MissingExtraError
from attnviz.io import arrays, sixteen_bits, tiff, volumes
from attnviz.io.parts import WHOLE, Part
from attnviz.io.picture_files import STDIN, Note
from attnviz.io.size_limit import open_image
from attnviz.io.values import Opened, Samples, to_8_bit, upright
from attnviz.io.waveforms import is_sound

T = TypeVar("T")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_JPEG = b"\xff\xd8"
_CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
_MOVING = {"GIF", "PNG", "WEBP", "AVIF"}
"""Formats whose further images are frames; in an MPO they are previews and depth maps."""
_READERS: dict[str | None, Callable[[Image.Image, bytes, str], Opened | None]] = {
    "PNG": sixteen_bits.read_png,
    "PPM": sixteen_bits.read_ppm,
    "TIFF": tiff.read,
    "JPEG2000": sixteen_bits.read,
}
"""Readers for formats that Pillow may read in part; a reader returns None if Pillow reads all."""


def open_picture(data: bytes, path: str, part: Part = WHOLE) -> Opened:
    """Decode a whole file, or the chosen slice of it; `io.selecting` chooses bands and regions.

    Raises:
        ImageError: truncated, not a picture, or too large.
        MissingExtraError: it needs an optional part.
    """
    return _in_words(lambda: _decode(data, path, part), data, path)


Factor = Callable[[int, int], float]
"""By how much a picture of this width and height, as seen, may be reduced."""


def open_reduced(
    data: bytes, path: str, factor: Factor
) -> tuple[Image.Image, tuple[int, int], int] | None:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size, by leaving out its finest waves.

    Returns:
        The image, the right way up, the width and height of the picture itself, and by how much the
        image is reduced; None for a file of another format, and for a picture that may not be
        reduced so much.

    Raises:
        ImageError: truncated, or too large.
    """
    return _in_words(lambda: _reduced(data, path, factor), data, path)


def _reduced(
    data: bytes, path: str, factor: Factor
) -> tuple[Image.Image, tuple[int, int], int] | None:
    if not data.startswith(_JPEG):
        return None
    image = open_image(data, path)
    if image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return None
    turn = image.getexif().get(0x0112, 1)
    width, height = image.size[::-1] if turn in range(5, 9) else image.size
    # The last pixel of a reduced picture may lie beyond its edge; turned, it would be the first.
    even = 8 if turn == 1 else math.gcd(width, height)
    allowed = factor(width, height)
    scale = next((number for number in (8, 4, 2) if number <= allowed and even % number == 0), 1)
    if scale == 1:
        return None
    image.draft(image.mode, (image.width // scale, image.height // scale))
    return upright(image), (width, height), scale


def as_pillow_sees_it(data: bytes, path: str) -> Image.Image:
    """Decode a whole file in the mode that Pillow chooses, the right way up.

    Raises:
        ImageError: truncated, not a picture, or too large.
        MissingExtraError: it needs an optional part.
    """
    return _in_words(lambda: upright(open_image(data, path)), data, path)


def _decode(data: bytes, path: str, part: Part) -> Opened:
    if arrays.is_array(data, path):
        return arrays.read(data, path, part)
    if volumes.is_dicom(data):
        return volumes.read_dicom(data, path, part)
    if volumes.is_nifti(data, path):
        return volumes.read_nifti(data, path, part)
    if tiff.is_tiff(data) and (part.slice is not None or part.channels is not None):
        opened = tiff.read_page(data, path, part.slice)
        if opened is not None:
            return opened
    if part.slice is not None:
        raise ImageError(f"{path}: --slice {part.slice}: one picture, no volume; leave out --slice")
    return _by_format(data, path)


def _by_format(data: bytes, path: str) -> Opened:
    try:
        image = open_image(data, path)
    except UnidentifiedImageError:
        opened = None
        if tiff.is_tiff(data):
            opened = tiff.read(None, data, path)
        elif sixteen_bits.is_jpeg2000(data):
            opened = sixteen_bits.read(None, data, path)
        if opened is None:
            raise
        return opened
    reader = _READERS.get(image.format)
    notes = _frames(data, path) if image.format in _MOVING else ()
    opened = None if reader is None else reader(image, data, path)
    if opened is not None:
        return Opened(opened.image, opened.samples, (*opened.notes, *notes))
    notes = (*notes, *_halved(image))
    if reader is not None:  # a reader may change the image
        image = open_image(data, path)
    image = upright(image)
    if is_wide(image):
        return Opened(samples=_samples(image), notes=notes)
    return Opened(image, notes=notes)


def _samples(image: Image.Image) -> Samples:
    """Samples of an image in one of Pillow's wide modes."""
    values = np.asarray(image)[..., None]
    if image.mode == "F":
        return Samples(values, "float", 32)
    if image.mode == "I":
        return Samples(values, "signed", 32)
    return Samples(values, "unsigned", 16)


def _halved(image: Image.Image) -> tuple[Note, ...]:
    """A note for other formats of 16 bits: Pillow keeps 8 bits."""
    decoders = str([(tile.codec_name, tile.args) for tile in getattr(image, "tile", ())])
    if is_wide(image) or not ("SGI16" in decoders or ";16" in decoders):
        return ()
    return (Note("bits", "8 of 16 bits are read; save it as PNG or TIFF to have all"),)


def _frames(data: bytes, path: str) -> tuple[Note, ...]:
    """A note for a picture with several frames."""
    count = 1
    with contextlib.suppress(Exception):  # only the first must be readable
        count = int(getattr(open_image(data, path), "n_frames", 1))
    if count == 1:
        return ()
    more = "" if path == STDIN else f"; `attnviz video {path}` draws all"
    return (Note("frames", f"{count} frames: the first is drawn{more}"),)


def _in_words(decode: Callable[[], T], data: bytes, path: str) -> T:
    """Decode, with further readers if Pillow has none; exceptions become one line."""
    try:
        return _quietly(decode)
    except AttnvizError:
        raise
    except UnidentifiedImageError as error:
        if Path(path).suffix.lower() in _CLIPS:
            raise ImageError(f"{path}: a clip, no picture; try `attnviz video {path}`") from error
        if is_sound(path):
            raise ImageError(
                f"{path}: a sound, no picture; give a model of sounds, such as the folder of an "
                "Audio Spectrogram Transformer: -m FOLDER"
            ) from error
        if not (data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS):
            raise ImageError(
                f"{path}: not a picture that can be read; give a JPEG, PNG, WebP, TIFF, GIF …"
            ) from error
        _learn_heif(path)
    except Exception as error:
        raise _damaged(error, path) from error
    try:
        return _quietly(decode)
    except Exception as error:
        raise _damaged(error, path) from error


def _quietly(decode: Callable[[], T]) -> T:
    with warnings.catch_warnings():
        # Pillow warns at half the size that it refuses, and about harmless metadata.
        warnings.simplefilter("ignore")
        return decode()


def _damaged(error: Exception, path: str) -> ImageError:
    """The error for a failed decoding; formats raise different exceptions."""
    if isinstance(error, Image.DecompressionBombError):  # a decoder that looks at sizes itself
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        return ImageError(f"{path}: more than {limit} megapixels; save it as JPEG, PNG or TIFF")
    reason = " ".join(str(error).split())  # libheif's message has line breaks
    return ImageError(f"{path}: truncated or damaged ({reason}); save it again")


def _learn_heif(path: str) -> None:
    try:
        import pi_heif  # noqa: PLC0415 — the optional part attnviz[heic]
    except ImportError as error:
        raise MissingExtraError(f"{path}: HEIC", "heic") from error
    pi_heif.register_heif_opener()


_WIDE_MODES = {"I", "F"}  # and every I;16 variant: more than 8 bits a sample


def is_wide(image: Image.Image) -> bool:
    """Whether a sample of the image has more than 8 bits."""
    return image.mode in _WIDE_MODES or image.mode.startswith("I;16")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode of 8 bits to RGB, as a person sees it; the given image may be returned."""
    profile = image.info.get("icc_profile")
    if image.mode == "La":  # Pillow cannot convert this mode to RGB directly
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        image = _to_srgb(image, profile)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def mask_to_rgb(image: Image.Image) -> Image.Image:
    """Convert a mask in any mode to RGB; its samples mean white or black, not measured values.

    White is 65535 for 16-bit samples (also if stored in 32 bits). For floats it is 1, 255 or 65535:
    the first of these that is not below the largest sample.
    """
    if not is_wide(image):
        return to_rgb(image)
    samples = np.nan_to_num(np.asarray(image, dtype=np.float64))
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    full = next((limit for limit in ranges if samples.max() <= limit), samples.max())
    return to_rgb(Image.fromarray(to_8_bit(samples, (0.0, full))))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert colours by their embedded ICC profile; an unusable profile is ignored."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        mode = "RGB" if image.mode == "CMYK" else image.mode
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return converted if converted is not None else image
