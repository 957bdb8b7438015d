"""Applies the chosen bands and the chosen region to a decoded picture."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnviz.errors import ImageError
from attnviz.io.decoding import to_rgb
from attnviz.io.parts import Box, Part, check_region
from attnviz.io.values import Opened, Samples

_GREY = ("1", "L", "LA", "La")


def select(opened: Opened, part: Part, path: str) -> Opened:
    """Draw the chosen bands and the chosen region only.

    Raises:
        ImageError: there is no such band, or the region leaves the picture.
    """
    samples = opened.samples
    if samples is None:
        assert opened.image is not None  # one of the two is there
        if part.channels is None:
            box = None if opened.cut else part.region
            return replace(opened, image=_cropped(opened.image, box, path))
        samples = _of_image(opened.image)
    samples = turned(samples)
    notes = opened.notes
    if part.channels is not None:
        samples = _chosen(samples, part.channels, path)
        notes = tuple(note for note in notes if note.kind != "bands")
    if part.region is not None and not opened.cut:
        height, width = samples.values.shape[:2]
        check_region(part.region, width, height, path)
        samples = cut(samples, part.region)
    return Opened(samples=samples, notes=notes, cut=opened.cut)


def _cropped(image: Image.Image, box: Box | None, path: str) -> Image.Image:
    if box is None:
        return image
    check_region(box, image.width, image.height, path)
    x, y, width, height = box
    return image.crop((x, y, x + width, y + height))


def _of_image(image: Image.Image) -> Samples:
    """Samples of an image of 8 bits: its sRGB colours, or its grey."""
    pixels = np.asarray(to_rgb(image))
    return Samples(pixels[..., :1] if image.mode in _GREY else pixels, "unsigned", 8)


def _chosen(samples: Samples, channels: tuple[int, ...], path: str) -> Samples:
    bands = samples.values if samples.bands is None else samples.bands
    count = bands.shape[2]
    if max(channels) >= count:
        typed = ",".join(str(min(one, count - 1)) for one in channels)
        which = f"its {count} bands are 0 to {count - 1}" if count > 1 else "its one band is 0"
        raise ImageError(
            f"{path}: --channels {','.join(map(str, channels))}: {which}; type --channels {typed}"
        )
    # A profile describes the file's own red, green and blue.
    return replace(samples, values=bands[..., list(channels)], profile=None)


def cut(samples: Samples, box: Box) -> Samples:
    """The samples in a region; x, y, width and height lie in them."""
    x, y, width, height = box
    return _each(samples, lambda values: values[y : y + height, x : x + width])


def turned(samples: Samples) -> Samples:
    """The samples the right way up, by EXIF's orientation number."""
    number = samples.orientation
    if number not in range(2, 9):
        return samples
    return replace(_each(samples, lambda values: _turned(values, number)), orientation=1)


def _turned(values: NDArray[Any], number: int) -> NDArray[Any]:
    if number >= 5:
        values = values.swapaxes(0, 1)
    # Of 1 to 8: mirrored left to right, and top to bottom, after rows and columns are exchanged.
    if number in (2, 3, 6, 7):
        values = values[:, ::-1]
    if number in (3, 4, 7, 8):
        values = values[::-1]
    return values


def _each(samples: Samples, do: Any) -> Samples:
    """Apply a function to all arrays of the samples."""
    return replace(
        samples,
        values=do(samples.values),
        bands=None if samples.bands is None else do(samples.bands),
        alpha=None if samples.alpha is None else np.ascontiguousarray(do(samples.alpha)),
    )
