"""Reads PNG and PPM of 16 bits with all their bits.

Pillow keeps only the high byte of every 16-bit colour sample, which makes 12-bit pictures nearly
black; https://pillow.readthedocs.io/en/stable/handbook/concepts.html#modes. A "raw mode" selects
the byte that its decoder reads. So a second pass reads the low bytes, and no other library is
needed.
"""

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from attnviz.io.opened import Opened
from attnviz.io.values import Samples

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
    alpha = values[..., colours:]
    samples = Samples(
        values[..., :colours],
        "unsigned",
        16,
        alpha=_of_16(alpha[..., 0]) if alpha.size else _transparent(image, values),
        profile=image.info.get("icc_profile"),
        orientation=image.getexif().get(0x0112, 1),
    )
    return Opened(samples=samples)


def in_raw_mode(data: bytes, mode: str) -> Image.Image:
    """Decode a whole picture, with samples unpacked by this raw mode."""
    image = Image.open(io.BytesIO(data))
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


def _of_16(alpha: NDArray[Any]) -> NDArray[np.uint8]:
    return np.rint(alpha / 257).astype(np.uint8)


def _transparent(image: Image.Image, values: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Alpha of a picture in which one colour is transparent; None if there is no such colour."""
    key = image.info.get("transparency")
    if key is None:
        return None
    return np.where((values == np.array(key)).all(axis=2), 0, 255).astype(np.uint8)


def read_ppm(_: Image.Image, data: bytes, __: str) -> Opened | None:
    """Read a PGM or PPM of more than 8 bits per sample; None for others."""
    found = _HEADER.match(data)
    if found is None:
        return None
    kind, width, height, largest = map(int, found.groups())
    if largest < 256:
        return None
    colours = 3 if kind in (3, 6) else 1
    count = width * height * colours
    if kind in (2, 3):
        values = np.array(data[found.end() :].split()[:count], dtype=np.uint16)
    else:
        values = np.frombuffer(data, ">u2", count, found.end())
    samples = Samples(values.reshape(height, width, colours), "unsigned", 16, largest=largest)
    return Opened(samples=samples)
