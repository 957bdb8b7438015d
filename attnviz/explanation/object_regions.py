"""Lays boxes and masks of objects onto the picture: crop, padding and scale are undone."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from attnviz.geometry.detections import DetectedObject
from attnviz.geometry.grid import Box
from attnviz.geometry.placement import Placement

_LONGEST = 1024
"""Masks of larger pictures are reduced to this length."""


@dataclass(frozen=True, eq=False)
class ObjectRegion:
    """Where an object lies on the picture.

    Attributes:
        found: the object.
        size: (width, height) of the picture.
        box: in picture pixels; it may reach over the border. None if its mask is empty.
        mask: (rows, columns) boolean over the whole picture, perhaps reduced; None for a detector.
    """

    found: DetectedObject
    size: tuple[int, int]
    box: Box | None
    mask: NDArray[np.bool_] | None = None


def region_of(found: DetectedObject, placement: Placement, masks: Tensor | None) -> ObjectRegion:
    """Where an object lies on a picture.

    Args:
        found: the object.
        placement: how the picture lies in the input.
        masks: (objects, h, w) logits of masks that span the input, if the model has masks.
    """
    size, sides = (placement.picture_width, placement.picture_height), found.on_picture(placement)
    mask = None if masks is None else _on_picture(masks[found.index], placement)
    return ObjectRegion(found, size, None if sides is None else Box(*sides), mask)


def _on_picture(logits: Tensor, placement: Placement) -> NDArray[np.bool_]:
    """A mask (h, w) over the input at the pixels of the picture, by bilinear interpolation."""
    width, height = placement.picture_width, placement.picture_height
    factor = min(1.0, _LONGEST / max(width, height))
    of_size = placement.of_size(max(1, round(width * factor)), max(1, round(height * factor)))
    width, height, grid = of_size.picture_width, of_size.picture_height, placement.grid
    x = torch.tensor([of_size.to_input(n + 0.5, 0)[0] / grid.input_width for n in range(width)])
    y = torch.tensor([of_size.to_input(0, n + 0.5)[1] / grid.input_height for n in range(height)])
    # (-1, -1) and (1, 1) are the corners of the input.
    at = torch.stack(torch.meshgrid(2 * x - 1, 2 * y - 1, indexing="xy"), -1)
    values = F.grid_sample(
        logits[None, None].float(), at[None], padding_mode="border", align_corners=False
    )[0, 0]
    seen = (at.abs() <= 1).all(-1)
    return ((values > 0) & seen).numpy()
