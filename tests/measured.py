"""Files of measured values, written by hand: what pictures of more than 8 bits are made of."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by the number of channels
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # fmt: skip # noqa: E501
"""Of Adam7: the first row and column of each pass, and the steps between them."""


def png16(
    path: Path, values: NDArray[Any], *chunks: tuple[bytes, bytes], interlaced: bool = False
) -> Path:
    """A PNG of 16 bits: (height, width, 1 to 4) values, and further chunks before the samples."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOURS[channels], 0, 0, interlaced)
    passes = [values[y::dy, x::dx] for y, x, dy, dx in _PASSES] if interlaced else [values]
    rows = b"".join(_filtered(each) for each in passes if each.size)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in parts
        )
    )
    return path


def _filtered(values: NDArray[Any]) -> bytes:
    """Rows of a PNG: as they are, less the pixel before, less the row above, and so on."""
    lines = values.astype(">u2").reshape(len(values), -1).view(np.uint8)
    step, above, found = 2 * values.shape[2], np.zeros_like(lines[0]), []
    for number, line in enumerate(lines):
        before = np.concatenate([np.zeros(step, np.uint8), line[:-step]])
        less = (np.zeros_like(line), before, above)[number % 3]
        found.append(bytes([number % 3]) + (line - less).tobytes())
        above = line
    return b"".join(found)


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
