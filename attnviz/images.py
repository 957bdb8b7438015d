"""Pictures in: the only module that opens them.

Whatever the file holds, what comes out is what a person sees: 8-bit sRGB, turned the right way
up, transparency laid on white.
"""

import hashlib
import io
import os
import stat
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from attnviz.errors import ImageError, MissingExtraError

STDIN = "-"
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic", ".heif",
    ".jp2", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
"""Of the files in a folder that are taken for pictures, and of masks the first that is there."""
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
_WIDE_MODES = {"I", "F"}  # and every I;16 variant: more than 8 bits a sample


@dataclass(frozen=True)
class Picture:
    """A picture as a person sees it.

    `pixels` is (height, width, 3) uint8 sRGB, 0 to 255; `path` is how it was named, `-` for
    standard input.
    """

    path: str
    pixels: NDArray[np.uint8]

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
        return "stdin" if self.path == STDIN else Path(self.path).name

    def image(self) -> Image.Image:
        """The picture as a Pillow image in mode RGB."""
        return Image.fromarray(self.pixels)


def load_image(path: str | Path) -> Picture:
    """Read a picture in any format that Pillow opens (and HEIC with `attnviz[heic]`).

    EXIF orientation is applied, transparency is laid on white, of several frames the first is
    taken. `-` reads standard input.

    >>> load_image("cat.jpg").pixels.shape          # (height, width, 3)

    Raises:
        ImageError: missing, a folder, empty, truncated, not a picture, or too large.
        MissingExtraError: a HEIC file without `attnviz[heic]`.
    """
    path = str(path)
    return decode(_read(path), path)


def decode(data: bytes, path: str) -> Picture:
    """What a file holds, as `load_image` reads it; `path` is how it was named.

    Raises:
        ImageError: truncated, not a picture, or too large.
        MissingExtraError: a HEIC file without `attnviz[heic]`.
    """
    return Picture(path, np.asarray(_to_rgb(_open(data, path))))


def read_file(path: str) -> tuple[bytes, os.stat_result]:
    """What a file holds, and what was known of it before it was read.

    Raises:
        ImageError: missing, empty, unreadable, or no file: a pipe, a socket, a device.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 — any bytes
    except (OSError, ValueError):
        return _read(path), os.stat_result([0] * 10)  # which says what is wrong
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{path}: a pipe, a socket or a device; name a file")
    return _read(path), found


def load_mask(path: str | Path, *, width: int, height: int) -> NDArray[np.bool_]:
    """Read a mask picture: True where it is white, False where it is black, (height, width).

    Raises:
        ImageError: unreadable, or not of the size of the picture as seen.
    """
    mask = load_mask_colours(path, width=width, height=height)
    return np.asarray(mask.image().convert("L")) >= 128


def load_mask_colours(path: str | Path, *, width: int, height: int) -> Picture:
    """Read a mask picture as it is, (height, width, 3).

    Raises:
        ImageError: unreadable, or not of the size of the picture as seen.
    """
    picture = load_image(path)
    if (picture.width, picture.height) != (width, height):
        raise ImageError(
            f"{path}: the mask is {picture.width}x{picture.height}, the picture {width}x{height}; "
            "make the mask the size of the picture as seen (after EXIF rotation)"
        )
    return picture


def pictures_in(folder: str | Path) -> list[str]:
    """Paths of the pictures in a folder, not of those in its subfolders, sorted by name.

    Raises:
        ImageError: there is none, or the folder cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 — names as they are, also odd bytes
    except OSError as error:
        raise ImageError(f"{folder}: cannot be read ({error.strerror})") from error
    paths = [Path(folder) / name for name in names if not name.startswith(".")]
    found = [str(path) for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise ImageError(
            f"{folder}: no picture in it; name a folder with {', '.join(SUFFIXES[:4])} …"
        )
    return found


def fingerprint(path: str | Path) -> str:
    """SHA-256 of what a file holds: whether it is the same picture as before.

    Raises:
        ImageError: it cannot be read.
    """
    return hashlib.sha256(_read(str(path))).hexdigest()


def _read(path: str) -> bytes:
    if path == STDIN:
        data = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    else:
        try:
            with open(path, "rb", opener=_without_waiting) as file:
                data = b"" if _endless(file.fileno()) else file.read()
        except FileNotFoundError as error:
            raise ImageError(f"{path}: no such file; check the path") from error
        except IsADirectoryError as error:
            raise ImageError(f"{path}: a folder; name the pictures in it: {path}/*.jpg") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"{path}: cannot be read ({reason})") from error
    if not data:
        where = "standard input" if path == STDIN else path
        raise ImageError(f"{where}: empty; give a JPEG, PNG, WebP or another picture")
    return data


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a named pipe that nobody writes to is empty, and not waited for."""
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(number, True)
    return number


def _endless(number: int) -> bool:
    """Whether a file is a device, such as /dev/zero: neither a file, nor a pipe."""
    mode = os.fstat(number).st_mode
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _open(data: bytes, path: str) -> Image.Image:
    """Decode all of a file, the right way up."""
    try:
        return _decode(data)
    except UnidentifiedImageError as error:
        if Path(path).suffix.lower() in _CLIPS:
            raise ImageError(f"{path}: a clip, no picture; try `attnviz video {path}`") from error
        if not (data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS):
            raise ImageError(
                f"{path}: not a picture that can be read; give a JPEG, PNG, WebP, TIFF, GIF …"
            ) from error
        _learn_heif(path)
    except Exception as error:
        raise _damaged(error, path) from error
    try:
        return _decode(data)
    except Exception as error:
        raise _damaged(error, path) from error


def _decode(data: bytes) -> Image.Image:
    """All of a file as Pillow sees it, the right way up."""
    with warnings.catch_warnings():
        # Pillow warns at half of the size that it refuses, and about odd but harmless metadata.
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data))
        image.load()
        return ImageOps.exif_transpose(image)


def _damaged(error: Exception, path: str) -> ImageError:
    """What to say of an error in decoding, whose kinds differ from format to format."""
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        return ImageError(f"{path}: more than {limit} megapixels; scale it down first")
    reason = " ".join(str(error).split())  # libheif's own has line ends
    return ImageError(f"{path}: truncated or damaged ({reason}); save it again")


def _learn_heif(path: str) -> None:
    try:
        import pillow_heif  # noqa: PLC0415 — the optional part attnviz[heic]
    except ImportError as error:
        raise MissingExtraError(f"{path}: HEIC", "heic") from error
    pillow_heif.register_heif_opener()


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB, as a person would see it."""
    if image.mode in _WIDE_MODES or image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    profile = image.info.get("icc_profile")
    if image.mode == "La":  # which Pillow converts to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        image = _to_srgb(image, profile)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Samples of more than 8 bits to 8, by the range that the sample type stands for.

    16-bit samples (also when they come in 32) run to 65535, floats to 1, 255 or 65535, whichever
    is the first that holds the picture's maximum.
    """
    samples = np.nan_to_num(np.asarray(image, dtype=np.float64))
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    full = next((limit for limit in ranges if samples.max() <= limit), samples.max())
    scaled = np.clip(np.rint(samples / full * 255), 0, 255)
    return Image.fromarray(scaled.astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Colours by their embedded ICC profile; a profile that cannot be used is left aside."""
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
