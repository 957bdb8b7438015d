"""Converts Pillow's images to what a person sees: 8-bit sRGB on white."""

import io

import numpy as np
from PIL import Image, ImageCms

from attnviz.io.values import to_8_bit

_WIDE_MODES = {"I", "F"}  # and every I;16 variant: more than 8 bits a sample


def is_wide(image: Image.Image) -> bool:
    """Whether a sample of the image has more than 8 bits."""
    return image.mode in _WIDE_MODES or image.mode.startswith("I;16")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode of 8 bits to RGB, as a person sees it."""
    profile = image.info.get("icc_profile")
    if image.mode == "La":  # Pillow cannot convert this mode to RGB directly
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "RGBA", "CMYK"):
        image = _to_srgb(image, profile)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def mask_to_rgb(image: Image.Image) -> Image.Image:
    """Convert a mask in any mode to RGB; its samples mean white or black, not measured values.

    White is 65535 for 16-bit samples (also if stored in 32 bits). For floats it is 1, 255 or 65535:
    the first of these that is not below the largest sample.
    """
    if not is_wide(image):
        return to_rgb(image)
    samples = np.nan_to_num(np.asarray(image, dtype=np.float64))
    ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    full = next((limit for limit in ranges if samples.max() <= limit), samples.max())
    return to_rgb(Image.fromarray(to_8_bit(samples, (0.0, full))))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert colours by their embedded ICC profile; an unusable profile is ignored."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        mode = "RGB" if image.mode == "CMYK" else image.mode
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return converted if converted is not None else image
