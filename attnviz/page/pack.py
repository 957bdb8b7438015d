"""Arrays as a block of a page: bytes after bytes, compressed, as text."""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 6
"""Of gzip: it hardly matters, weights and keys are noise but where heads attend sharply."""
_ALIGNED = 4  # bytes: where a typed array of a script may begin
_LEAST = 1e-30  # weights below are nothing: 255 divided by them may leave float32
_TYPES = {"uint8": "u8", "int16": "i16", "int32": "i32", "float32": "f32"}


@dataclass(frozen=True)
class PackedBlock:
    """Arrays, packed.

    Attributes:
        parts: type, shape and offset of each array, by its name.
        text: base64 of gzip of the bytes, little-endian.
    """

    parts: dict[str, dict[str, Any]]
    text: str

    def element(self, name: str) -> str:
        """As an element of the page, which is never executed."""
        return f'<script type="application/octet-stream" id="{name}">{self.text}</script>\n'


def pack(arrays: Mapping[str, NDArray[Any]]) -> PackedBlock:
    """Arrays one after the other; equal arrays give equal text."""
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


def size_of(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Bytes before compression."""
    return sum(array.nbytes for array in arrays.values())


def in_bytes(
    values: NDArray[np.float32], drawn: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Rows of weights as bytes of each row's maximum over what is `drawn`, and these maxima.

    What is larger and not drawn is cut off, so that it takes nothing from what is seen.
    """
    maximum = np.where(drawn, values, np.float32(0)).max(-1, initial=0)
    maximum[maximum < _LEAST] = 0
    factor = np.divide(255, maximum, out=np.zeros_like(maximum), where=maximum > 0)
    scaled = np.rint(values * factor[..., None])
    return np.minimum(scaled, 255).astype(np.uint8), maximum
