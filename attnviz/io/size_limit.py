"""Refuses pictures that do not fit into memory, and turns large ones into arrays band by band."""

import io
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnviz.errors import ImageError

BYTES, WIDE = 12, 48
"""Memory for each pixel that is decoded and drawn: four times 8-bit RGB; of samples of any type."""
_BAND = 1 << 22  # pixels that become an array at once
_CGROUP = Path("/sys/fs/cgroup")
_lock = threading.Lock()


def check_size(
    pixels: int, path: str, advice: str = "scale it down first", *, each: int = WIDE
) -> None:
    """Check that a picture fits into memory.

    Up to twice Pillow's `MAX_IMAGE_PIXELS`, 178 megapixels, every picture does.

    Raises:
        ImageError: it does not; the line ends with the advice.
    """
    if pixels <= 2 * (Image.MAX_IMAGE_PIXELS or 0):
        return
    needed = each * pixels
    if needed > available():  # how much is free is not told: manifests are the same every time
        raise ImageError(
            f"{path}: {pixels / 1e6:.0f} megapixels would need about {needed / 1e9:.1f} GB of "
            f"memory, and less is free; {advice}"
        )


def available() -> int:
    """Free memory in bytes: of the machine, or of the container if that has less."""
    import psutil  # noqa: PLC0415 — not for `--help`

    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or one without a limit
        return free


def open_image(data: bytes, path: str) -> Image.Image:
    """Pillow's image, not decoded yet; the limit of its size is that of memory.

    Raises:
        ImageError: it does not fit into memory.
    """
    try:
        return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        with _lock:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(io.BytesIO(data))
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        tiff = path.lower().endswith((".tif", ".tiff"))
        more = ", or add --region x,y,w,h" if tiff else ""
        advice = f"scale it down first{more}"
        check_size(image.width * image.height, path, advice, each=BYTES)
        return image


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an 8-bit image; Pillow's own way takes three times their memory."""
    rows = max(1, _BAND // max(1, image.width))
    if image.height <= rows:
        return np.asarray(image)
    found = np.empty((image.height, image.width, len(image.getbands())), dtype=np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        found[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return found
