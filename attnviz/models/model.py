"""A loaded model: the module, and what must be known to lay a picture into it."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from attnviz.geometry import Fit, Placement, place
from attnviz.images import Picture


@dataclass(frozen=True)
class Model:
    """A model ready to be observed.

    Attributes:
        spec: how it was named.
        weights: `pretrained`, `random`, or the file they came from.
        module: takes (batch, 3, height, width) pixels and, if `takes_mask`, a mask of 0/1 over
            all tokens, (batch, prefix + rows·columns).
        layers, heads, features: of its attention; None where only a run tells.
        tokens: what a grid token is.
        patch: its side in input pixels.
        size: input size S; the input covers about S×S pixels.
        prefix: tokens before the grid.
        class_token: whether token 0 is one.
        mean, std: of the pixel values 0…1, per channel.
        resample: Pillow's number of the filter that pictures are resized with.
        seed: of the random initialisation, None where nothing is random.
        token_bytes: what a run and its statistics take for each token, beside the weights.
    """

    spec: str
    weights: str
    module: nn.Module
    layers: int | None
    heads: int | None
    features: int | None
    tokens: Literal["patches", "pixels"]
    patch: int
    size: int
    prefix: int = 0
    class_token: bool = False
    takes_mask: bool = False
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    resample: int = int(Image.Resampling.BICUBIC)
    seed: int | None = None
    token_bytes: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32

    def place(self, picture: Picture, *, fit: Fit = "keep") -> Placement:
        """How this model would see a picture."""
        return place(
            picture.width,
            picture.height,
            size=self.size,
            patch=self.patch,
            prefix=self.prefix,
            fit=fit,
        )

    def pixels(self, picture: Picture, placement: Placement) -> Tensor:
        """The model's input, (1, 3, input_height, input_width), normalised.

        Resized by Pillow (antialiased); padding is the mean colour, 0 to within half a
        level.
        """
        values = (
            torch.tensor(lay_in(picture, placement, self.mean, self.resample), dtype=torch.float32)
            / 255
        )
        normalised = (values - torch.tensor(self.mean)) / torch.tensor(self.std)
        return normalised.permute(2, 0, 1)[None].to(self.device, self.dtype)


def lay_in(
    picture: Picture,
    placement: Placement,
    padding: tuple[float, float, float],
    resample: int = int(Image.Resampling.BICUBIC),
) -> NDArray[np.uint8]:
    """The picture as its placement says, (input_height, input_width, 3) uint8."""
    target, grid = placement.target, placement.grid
    size = (round(target.width), round(target.height))
    part = picture.image().resize(size, Image.Resampling(resample), box=placement.source)
    if size == (grid.input_width, grid.input_height):
        return np.asarray(part)
    colour = tuple(round(255 * value) for value in padding)
    canvas = Image.new("RGB", (grid.input_width, grid.input_height), colour)
    canvas.paste(part, (round(target.left), round(target.top)))
    return np.asarray(canvas)
