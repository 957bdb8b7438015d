"""Lays pictures into a model's input, band by band."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from attnviz.geometry.placement import Placement


def lay_in(
    pixels: NDArray[np.uint8],
    placement: Placement,
    padding: Sequence[float],
    resample: int = int(Image.Resampling.BICUBIC),
) -> NDArray[np.uint8]:
    """Pixels laid as the placement says.

    Args:
        pixels: (height, width, bands).
        placement: where they come to lie.
        padding: values 0…1 around them, one for each band.
        resample: Pillow's number of the resampling filter.

    Returns:
        (input_height, input_width, bands).
    """
    if pixels.shape[2] != 3:
        parts = [
            _lay_in(
                Image.fromarray(pixels[..., band]), placement, padding[band : band + 1], resample
            )
            for band in range(pixels.shape[2])
        ]
        return np.stack(parts, 2)
    return _lay_in(Image.fromarray(pixels), placement, padding, resample)


def _lay_in(
    image: Image.Image, placement: Placement, padding: Sequence[float], resample: int
) -> NDArray[np.uint8]:
    target, grid = placement.target, placement.grid
    size = (round(target.width), round(target.height))
    part = image.resize(size, Image.Resampling(resample), box=placement.source)
    if size == (grid.input_width, grid.input_height):
        return np.asarray(part)
    colour = tuple(round(255 * value) for value in padding)
    canvas = Image.new(image.mode, (grid.input_width, grid.input_height), colour)
    canvas.paste(part, (round(target.left), round(target.top)))
    return np.asarray(canvas)


def for_channels(numbers: Sequence[float], channels: int) -> Tensor:
    """A number for each channel, of given ones: the first for grey, else their average.

    >>> for_channels((0.2, 0.3, 0.4), 1)
    tensor([0.2000])
    """
    values = torch.tensor(numbers)
    if len(values) == channels:
        return values
    return values[:1] if channels == 1 else values.mean().expand(channels)
