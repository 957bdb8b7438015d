"""Packs arrays into a block of a page: their bytes in sequence, compressed, as text."""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 6
"""Level of gzip; it makes little difference, since weights and keys are mostly noise."""
_ALIGNED = 4  # bytes: a typed array of a script starts at a multiple of this
_LEAST = 1e-30  # smaller weights count as 0: 255 divided by them may overflow float32
_TYPES = {"uint8": "u8", "int16": "i16", "int32": "i32", "float32": "f32"}


@dataclass(frozen=True)
class PackedBlock:
    """Packed arrays.

    Attributes:
        parts: type, shape and offset of each array, by its name.
        text: the bytes of the arrays, little-endian, compressed by gzip and encoded as base64.
    """

    parts: dict[str, dict[str, Any]]
    text: str

    def element(self, name: str) -> str:
        """The block as an element of the page; browsers never execute it."""
        return f'<script type="application/octet-stream" id="{name}">{self.text}</script>\n'


def pack(arrays: Mapping[str, NDArray[Any]]) -> PackedBlock:
    """Pack arrays one after the other; equal arrays give equal text."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)  # gzip without a date
    parts: dict[str, dict[str, Any]] = {}
    packed, offset = [], 0
    for name, array in arrays.items():
        parts[name] = {
            "type": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "offset": offset,
        }
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        data += bytes(-len(data) % _ALIGNED)
        packed.append(packer.compress(data))
        offset += len(data)
    packed.append(packer.flush())
    return PackedBlock(parts, base64.b64encode(b"".join(packed)).decode())


def in_bytes(
    values: NDArray[np.float32], drawn: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Rows of weights as fractions of the row's maximum in bytes (0…255), and the maxima.

    The maximum is over the `drawn` tokens. Larger weights of other tokens are clipped, so that
    they do not reduce the precision of the visible ones.
    """
    maximum = np.where(drawn, values, np.float32(0)).max(-1, initial=0)
    maximum[maximum < _LEAST] = 0
    factor = np.divide(255, maximum, out=np.zeros_like(maximum), where=maximum > 0)
    scaled = np.rint(values * factor[..., None])
    return np.minimum(scaled, 255).astype(np.uint8), maximum
