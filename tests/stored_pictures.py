"""How cameras store pictures, and colour profiles, by hand."""

import numpy as np
from numpy.typing import NDArray
from PIL import ImageCms

Pixels = NDArray[np.uint8]


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exchanged_profile() -> bytes:
    """SRGB with the primaries of red and blue exchanged: right colours are pixels in BGR."""
    profile = srgb_profile().replace(b"rXYZ", b"____").replace(b"bXYZ", b"rXYZ")
    profile = profile.replace(b"____", b"bXYZ")
    return profile.replace("sRGB".encode("utf-16-be"), "BRGs".encode("utf-16-be"))


def as_stored(upright: Pixels, orientation: int) -> Pixels:
    """How a camera stores a picture, after the table of the EXIF tag 0x0112.

    Orientations 1 to 4 keep rows as rows; of 5 to 8 the stored rows are the columns as seen.
    """
    row0 = {1: "top", 2: "top", 3: "bottom", 4: "bottom", 5: "left", 6: "right", 7: "right"}
    column0 = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom"}
    stored = upright if orientation <= 4 else upright.transpose(1, 0, 2)
    if row0.get(orientation, "left") in ("bottom", "right"):
        stored = stored[::-1]
    if column0.get(orientation, "bottom") in ("bottom", "right"):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)
