"""JPEG 2000 of more than 8 bits, or of other bands than Pillow takes them for.

Pillow spreads grey samples over 16 bits, which is undone here, and keeps 8 bits of coloured ones;
the rest takes imagecodecs (`attnviz[codecs]`). Marker SIZ and box cdef: ISO/IEC 15444-1, A.5.1 and
I.5.3.6.
"""

import struct
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnviz.errors import MissingExtraError
from attnviz.images.notes import Note
from attnviz.images.opened import Opened, of_bands, upright
from attnviz.images.values import Samples

_SIZ = b"\xff\x4f\xff\x51"
_BANDS = 40  # where in the codestream the number of bands stands
_FAMILIAR = (16, 17)
"""Colour spaces whose samples are colours as they are: sRGB and grey, by `enumcs`."""


@dataclass(frozen=True)
class _Header:
    """What a codestream and the boxes around it say.

    Attributes:
        bands: how many.
        bits: of a sample of the first.
        signed: whether it may be below 0.
        alpha: whether the last band is one.
        familiar: whether samples are grey, or red, green and blue.
    """

    bands: int
    bits: int
    signed: bool
    alpha: bool
    familiar: bool


def is_jpeg2000(data: bytes) -> bool:
    """Whether these bytes begin as JPEG 2000 does, in boxes or without."""
    return data.startswith((_SIZ, b"\0\0\0\x0cjP  \r\n\x87\n"))


def read(image: Image.Image | None, data: bytes, path: str) -> Opened | None:
    """A file of which Pillow reads less than there is, else None.

    Raises:
        MissingExtraError: Pillow does not read it, and imagecodecs is not installed.
    """
    header = _header(data)
    if image is not None and header.bits > 8 and image.mode == "I;16":
        return Opened(samples=_grey(image, header))
    plain = header.bits <= 8 and header.bands - header.alpha in (1, 3)
    if header.bands == 4 and image is not None and image.mode == "CMYK":
        plain = header.bits <= 8
    if image is not None and plain:
        return None
    codecs = _imagecodecs() if header.familiar or image is None else None
    if codecs is not None:
        return _exactly(codecs.jpeg2k_decode(data), header)
    if image is None:
        raise MissingExtraError(f"{path}: JPEG 2000 of {header.bands} bands", "codecs")
    return _nearly(image, header)


def _grey(image: Image.Image, header: _Header) -> Samples:
    """Grey samples as they are in the file."""
    values = np.asarray(image).astype(np.int32) >> max(0, 16 - header.bits)
    bits = min(header.bits, 16)
    if header.signed:
        values -= 1 << (bits - 1)
    kind = "signed" if header.signed else "unsigned"
    return Samples(values[..., None], kind, bits)  # type: ignore[arg-type]  # one of the two


def _exactly(values: NDArray[Any], header: _Header) -> Opened:
    """All bits, and the first bands."""
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


def _nearly(image: Image.Image, header: _Header) -> Opened:
    """The high bits, as Pillow reads them; a band that is no transparency is none."""
    image = upright(image)
    notes: tuple[Note, ...] = ()
    if not header.alpha and image.mode in ("LA", "RGBA"):
        image = image.convert(image.mode[:-1])
        notes = of_bands(header.bands, header.bands - 1)
    if header.bits > 8:
        text = f"8 of {header.bits} bits are read; pip install 'attnviz[codecs]' reads all"
        notes = (*notes, Note("bits", text))
    return Opened(image, notes=notes)


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
    space = struct.unpack_from(">I", data, colour + 7)[0] if colour >= 0 else _FAMILIAR[0]
    return _Header(
        bands,
        bits=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        alpha=_has_alpha(data[:start], bands),
        familiar=space in _FAMILIAR,
    )


def _has_alpha(boxes: bytes, bands: int) -> bool:
    """Whether the boxes say that the last band is opacity: (channel, type, association) each."""
    start = boxes.find(b"cdef")
    if start < 0:
        return False
    count = struct.unpack_from(">H", boxes, start + 4)[0]
    channels = [struct.unpack_from(">3H", boxes, start + 6 + 6 * n) for n in range(count)]
    return any(number == bands - 1 and kind in (1, 2) for number, kind, _ in channels)
