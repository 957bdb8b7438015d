"""Files of measured values, written by hand: what pictures of more than 8 bits are made of."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by the number of channels


def png16(path: Path, values: NDArray[Any], *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG of 16 bits: (height, width, 1 to 4) values, and further chunks before the samples."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOURS[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in parts
        )
    )
    return path


def tiff(path: Path, values: NDArray[Any], **options: Any) -> Path:
    """A TIFF, as tifffile writes it: grey, or in colours where the last axis has three."""
    colours = values.ndim == 3 and values.shape[-1] == 3
    options.setdefault("photometric", "rgb" if colours else "minisblack")
    tifffile.imwrite(path, values, **options)
    return path


def as_8_bit(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """The oracle: what is black, what is white, and straight between them."""
    share = (values.astype(np.float64) - low) / (high - low)
    bright = np.round(np.minimum(np.maximum(share, 0), 1) * 255)
    return np.where(np.isnan(bright), 0, bright).astype(np.uint8)


def scene(height: int = 48, width: int = 64) -> NDArray[np.float64]:
    """Brightness from 0 to 1: a gradient, a disc and some grain."""
    rows, columns = np.mgrid[:height, :width]
    bright = 0.1 + 0.4 * columns / width
    bright[(rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 4) ** 2] = 0.95
    bright += np.random.default_rng(0).normal(0, 0.02, bright.shape)
    bright -= bright.min()
    return np.asarray(bright / bright.max())
