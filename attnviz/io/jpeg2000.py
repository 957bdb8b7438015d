"""Reads JPEG 2000 with more than 8 bits, or with bands that Pillow misreads.

Pillow spreads grey samples over 16 bits; this file undoes that. Of colour samples it keeps 8 bits,
rounded so that white turns black; imagecodecs (`attnviz[codecs]`) reads these instead. Marker SIZ
and boxes colr and cdef: ISO/IEC 15444-1, A.5.1, I.5.3.3 and I.5.3.6.
"""

import struct
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnviz.errors import ImageError, MissingExtraError
from attnviz.io.opened import Opened, of_bands, upright
from attnviz.io.values import Samples

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
        signed: whether a sample may be below 0.
        alpha: whether the last band is alpha.
        space: number of the colour space; None if there is a profile instead, or nothing.
    """

    bands: int
    bits: int
    signed: bool
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
    if header.signed:
        values -= 1 << (bits - 1)
    kind = "signed" if header.signed else "unsigned"
    return Samples(values[..., None], kind, bits)  # type: ignore[arg-type]  # one of the two


def _exactly(values: NDArray[Any], header: _Header) -> Opened:
    """The first bands with all their bits."""
    bands = values.reshape(*values.shape[:2], -1)
    alpha = None
    if header.alpha:
        largest = float((1 << header.bits) - 1)
        alpha = np.rint(bands[..., -1] / largest * 255).astype(np.uint8)
        bands = bands[..., :-1]
    colours = 3 if bands.shape[2] >= 3 else 1
    kind = "signed" if header.signed else "unsigned"
    samples = Samples(bands[..., :colours], kind, header.bits, alpha=alpha)  # type: ignore[arg-type]
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
        signed=bool(depth & 0x80),
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
