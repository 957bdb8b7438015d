"""Reads PNG, PPM and JPEG 2000 of more than 8 bits with all their bits.

Pillow keeps only the high byte of every 16-bit colour sample, which makes 12-bit pictures nearly
black; https://pillow.readthedocs.io/en/stable/handbook/concepts.html#modes. A "raw mode" selects
the byte that its decoder reads. So for PNG a second pass reads the low bytes, and no other library
is needed.

Of JPEG 2000, Pillow spreads grey samples over 16 bits; this file undoes that. Of colour samples
Pillow keeps 8 bits, rounded so that white turns black; imagecodecs (`attnviz[codecs]`) reads these
instead. Marker SIZ and boxes colr and cdef: ISO/IEC 15444-1, A.5.1, I.5.3.3 and I.5.3.6.
"""

import re
import struct
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from attnviz.errors import ImageError, MissingExtraError
from attnviz.io.size_limit import open_image
from attnviz.io.values import Opened, Samples, of_bands, upright

_HEADER = re.compile(rb"P([2356])" + rb"(?:\s|#[^\r\n]*[\r\n])+(\d+)" * 3 + rb"\s")
"""Header of a PGM or PPM, text or binary: kind, width, height and largest value."""
_LOW = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
"""Raw modes that read the other byte of each sample as the high one."""


def read_png(image: Image.Image, data: bytes, _: str) -> Opened | None:
    """Read a PNG of 16 bits per sample; None for other PNGs."""
    assert isinstance(image, ImageFile.ImageFile)
    mode = image.tile[0].args if image.tile else None
    if mode == "I;16B":
        values = np.asarray(image)[..., None]
    elif mode == "LA;16B":
        values = np.asarray(in_raw_mode(data, "RGBA")).view(">u2")  # all four bytes of a pixel
    elif mode in _LOW:
        values = both_bytes(image, in_raw_mode(data, _LOW[mode]))
    else:
        return None
    colours = 3 if values.shape[2] > 2 else 1
    alpha = np.rint(values[..., colours:] / 257).astype(np.uint8)
    samples = Samples(
        values[..., :colours],
        "unsigned",
        16,
        alpha=alpha[..., 0] if alpha.size else _transparent(image, values),
        profile=image.info.get("icc_profile"),
        orientation=image.getexif().get(0x0112, 1),
    )
    return Opened(samples=samples)


def in_raw_mode(data: bytes, mode: str) -> Image.Image:
    """Decode a whole picture, with samples unpacked by this raw mode."""
    image = open_image(data, "")
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [tile._replace(args=_with(tile.args, mode)) for tile in image.tile]
    image.load()
    return image


def _with(args: Any, mode: str) -> Any:
    """A decoder's arguments with another raw mode: it is the only argument, or the first."""
    return (mode, *args[1:]) if isinstance(args, tuple) else mode


def both_bytes(high: Image.Image, low: Image.Image) -> NDArray[np.uint16]:
    """Join the high and low bytes of samples to 16 bits."""
    result: NDArray[np.uint16] = np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)
    return result


def _transparent(image: Image.Image, values: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Alpha of a picture in which one colour is transparent; None if there is no such colour."""
    key = image.info.get("transparency")
    if key is None:
        return None
    return np.where((values == np.array(key)).all(axis=2), 0, 255).astype(np.uint8)


def read_ppm(_: Image.Image, data: bytes, __: str) -> Opened | None:
    """Read a PGM or PPM of more than 8 bits per sample; None for others."""
    match = _HEADER.match(data)
    if match is None:
        return None
    kind, width, height, largest = map(int, match.groups())
    if largest < 256:
        return None
    colours = 3 if kind in (3, 6) else 1
    count = width * height * colours
    if kind in (2, 3):
        values = np.array(data[match.end() :].split()[:count], dtype=np.uint16)
    else:
        values = np.frombuffer(data, ">u2", count, match.end())
    samples = Samples(values.reshape(height, width, colours), "unsigned", 16, largest=largest)
    return Opened(samples=samples)


_SIZ = b"\xff\x4f\xff\x51"
_BANDS = 40  # offset of the number of bands in the codestream
_FAMILIAR = (None, 0, 16, 17)
"""Colour spaces whose samples need no conversion: unnamed, sRGB, grey."""


@dataclass(frozen=True)
class _Header:
    """Facts from a codestream and the boxes around it.

    Attributes:
        bands: number of bands.
        bits: bits per sample of the first band.
        kind: `signed` if a sample may be below 0.
        alpha: whether the last band is alpha.
        space: number of the colour space; None if there is a profile instead, or nothing.
    """

    bands: int
    bits: int
    kind: Literal["signed", "unsigned"]
    alpha: bool
    space: int | None


def is_jpeg2000(data: bytes) -> bool:
    """Whether these bytes begin like JPEG 2000, with or without boxes."""
    return data.startswith((_SIZ, b"\0\0\0\x0cjP  \r\n\x87\n"))


def read(image: Image.Image | None, data: bytes, path: str) -> Opened | None:
    """Read a file that Pillow reads only in part; None if Pillow reads all of it.

    Raises:
        ImageError: the file has more than 8 bits in an unsupported colour space.
        MissingExtraError: imagecodecs is needed but not installed.
    """
    header = _header(data)
    if image is not None and header.bits > 8 and image.mode == "I;16":
        return Opened(samples=_grey(image, header))
    if image is not None and header.bits <= 8:
        dropped = not header.alpha and image.mode in ("LA", "RGBA")
        return _without_alpha(image, header) if dropped else None
    if header.space not in _FAMILIAR:
        raise ImageError(
            f"{path}: JPEG 2000 of {header.bits} bits in colour space {header.space}; save it as "
            "TIFF, in RGB"
        )
    codecs = _imagecodecs()
    if codecs is None:
        what = f"{path}: JPEG 2000 of {header.bands} bands of {header.bits} bits"
        raise MissingExtraError(what, "codecs")
    return _exactly(codecs.jpeg2k_decode(data), header)


def _grey(image: Image.Image, header: _Header) -> Samples:
    """Grey samples with the values of the file."""
    values = np.asarray(image).astype(np.int32) >> max(0, 16 - header.bits)
    bits = min(header.bits, 16)
    if header.kind == "signed":
        values -= 1 << (bits - 1)
    return Samples(values[..., None], header.kind, bits)


def _exactly(values: NDArray[Any], header: _Header) -> Opened:
    """The first bands with all their bits."""
    bands = values.reshape(*values.shape[:2], -1)
    alpha = None
    if header.alpha:
        largest = float((1 << header.bits) - 1)
        alpha = np.rint(bands[..., -1] / largest * 255).astype(np.uint8)
        bands = bands[..., :-1]
    colours = 3 if bands.shape[2] >= 3 else 1
    samples = Samples(bands[..., :colours], header.kind, header.bits, alpha=alpha)
    return Opened(samples=samples, notes=of_bands(bands.shape[2], colours))


def _without_alpha(image: Image.Image, header: _Header) -> Opened:
    """The first bands of a picture whose last band is not transparency."""
    colours = header.bands - 1
    return Opened(upright(image).convert(image.mode[:-1]), notes=of_bands(header.bands, colours))


def _imagecodecs() -> ModuleType | None:
    try:
        import imagecodecs  # noqa: PLC0415 — the optional part attnviz[codecs]
    except ImportError:
        return None
    return imagecodecs if hasattr(imagecodecs, "jpeg2k_decode") else None


def _header(data: bytes) -> _Header:
    start = max(0, data.find(_SIZ))
    bands, depth = struct.unpack_from(">HB", data, start + _BANDS)
    colour = data.find(b"colr", 0, start)
    by_number = colour >= 0 and data[colour + 4] == 1
    return _Header(
        bands,
        bits=(depth & 0x7F) + 1,
        kind="signed" if depth & 0x80 else "unsigned",
        alpha=_has_alpha(data[:start], bands),
        space=struct.unpack_from(">I", data, colour + 7)[0] if by_number else None,
    )


def _has_alpha(boxes: bytes, bands: int) -> bool:
    """Whether the boxes, (channel, type, association) each, say that the last band is opacity."""
    start = boxes.find(b"cdef")
    if start < 0:
        return False
    count = struct.unpack_from(">H", boxes, start + 4)[0]
    channels = [struct.unpack_from(">3H", boxes, start + 6 + 6 * n) for n in range(count)]
    return any(number == bands - 1 and kind in (1, 2) for number, kind, _ in channels)
