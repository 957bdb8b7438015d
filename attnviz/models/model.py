"""A loaded model with all facts about its input."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from attnviz.geometry.grid import Box, Patch, TokenGrid, patch_of
from attnviz.geometry.placement import Fit, Placement, place
from attnviz.io.parts import WHOLE, Part
from attnviz.io.picture import Picture, PictureLike, decode, load_part, with_pixels
from attnviz.io.picture_files import read
from attnviz.io.ranges import FULL
from attnviz.models.clip_input import ClipInput
from attnviz.models.laying import for_channels, lay_in
from attnviz.models.sound_input import SoundInput
from attnviz.models.weights import digests_of
from attnviz.models.words import WordInput

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey: ITU-R BT.601, as Pillow's mode L."""
LaidPicture = NDArray[np.generic]
"""A picture laid into an input, before it is normalised, or the features of a sound."""


@dataclass(frozen=True)
class Model:
    """A model ready to be observed.

    >>> model.layers, model.heads, model.patch
    (6, 8, 8)
    >>> model.place(picture).grid
    TokenGrid(rows=15, columns=22, patch=8, prefix=5)

    Attributes:
        spec: the spec that it was loaded by.
        weights: `pretrained`, `random`, or the file that they came from.
        module: takes (batch, channels, height, width) pixels and, if `takes_mask`, a mask of 0/1
            over all tokens, (batch, prefix + rows·columns).
        layers, heads, features: sizes of its attention. None if there is no single number, as in a
            pyramid whose stages differ, or if it is not known; a run shows the true numbers.
        tokens: what a grid token stands for: a patch or a pixel.
        patch: the sides of the input are rounded to multiples of this many pixels: the patch side
            of a plain vision transformer, or the height and width of its patches; the total stride
            of a pyramid or windowed model.
        size: input size S; the input covers about S×S pixels.
        prefix: number of tokens before the grid, in the calls that have them.
        class_token: whether the first prefix token is a class token.
        least: with `--fit keep`, the shorter side of the input has at least so many pixels.
        own_shape: (height, width) of the input that crop, pad and squash fill; None for S×S.
        other_shapes: (height, width) of inputs that its parameters may be made for. They are tried
            if the model refuses the others.
        position_shape: (height, width) of the input that its position embedding is for; None if
            that is not known.
        position_table: for a module of `py:`, name and number of tokens of its position embedding.
        size_given: whether the user gave S: then no other shape replaces it.
        fixed: whether the model is known to take its own shape only. Other models may still refuse
            a shape when they run.
        plain: whether the model makes `layers` attention calls, each over the prefix and then the
            grid, so that positions need no tracing.
        channels: number of channels of the input: 3, 1 for grey, or the bands of a picture of
            so many.
        mean, std: of the pixel values 0…1, per channel; see `statistics`.
        resample: Pillow's number of the resampling filter for pictures.
        seed: random seed of the weights; None if nothing is random.
        token_bytes: bytes that a run and its statistics take for each patch² input pixels, beside
            the weights; 0 if the width is not known.
        head: what the module returns: for `class` logits (batch, classes), for `text` embeddings
            (batch, features) of length 1, for `none` tokens or features, for `dense` its whole
            output, with scores of each place or of objects. A model with the head `words` answers
            prompts.
        head_assumed: whether `head` is an assumption until the module has run.
        labels: names of the classes in order; None if there is no class head or no names.
        loaded: share of the parameters needed by maps that a checkpoint filled; None if no
            checkpoint was read.
        notes: short sentences for the user on how the checkpoint was read.
        texts: for the head `text`, a function from n texts to embeddings (n, features) of length 1.
        sound: how it is given sounds; None for a model of pictures. Its pictures are spectrograms.
        clip: how the module takes a clip; None if it takes pictures.
        words: how it is asked and answers in words; None if it was loaded without them.
    """

    spec: str
    weights: str
    module: nn.Module
    layers: int | None
    heads: int | None
    features: int | None
    tokens: Literal["patches", "pixels"]
    patch: Patch
    size: int
    prefix: int = 0
    class_token: bool = False
    least: int = 0
    own_shape: tuple[int, int] | None = None
    other_shapes: tuple[tuple[int, int], ...] = ()
    position_shape: tuple[int, int] | None = None
    position_table: tuple[str, int] | None = None
    size_given: bool = False
    fixed: bool = False
    takes_mask: bool = False
    plain: bool = False
    channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)
    resample: int = int(Image.Resampling.BICUBIC)
    seed: int | None = None
    token_bytes: int = 0
    head: Literal["none", "class", "text", "words", "dense"] = "none"
    head_assumed: bool = False
    labels: tuple[str, ...] | None = None
    loaded: float | None = None
    notes: tuple[str, ...] = ()
    texts: Callable[[Sequence[str]], Tensor] | None = field(default=None, repr=False)
    sound: SoundInput | None = field(default=None, repr=False)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    clip: ClipInput | None = None
    words: WordInput | None = field(default=None, repr=False)

    def load(self, path: str, range: str = FULL, part: Part = WHOLE) -> Picture:  # noqa: A002
        """Read a file as this model takes it: a picture, or a sound as its spectrogram.

        >>> model.load("cat.jpg").width
        480

        Raises:
            UsageError: an option of pictures is given for a sound.
            ImageError: it cannot be read, or it is of the other kind.
            MissingExtraError: an optional part is not installed.
        """
        if self.sound is None:
            return load_part(path, range, part)
        return self.sound.picture(read(path), path, range, part)

    def decode(self, data: bytes, path: str, range: str, part: Part) -> Picture:  # noqa: A002
        """Decode the bytes of a file as `load` does; `path` is its name for messages."""
        decoded = decode if self.sound is None else self.sound.picture
        return decoded(data, path, range, part)

    def place(
        self, picture: PictureLike, *, fit: Fit = "keep", shape: tuple[int, int] | None = None
    ) -> Placement:
        """How this model would see a picture; a model of a fixed shape sees the centre.

        Args:
            picture: the picture.
            fit: how the picture is laid into the input.
            shape: (height, width) of the only input that the model takes, if it refused other
                shapes.
        """
        patch, size = self.patch, self.size
        if self.words is not None:
            return _whole(picture.width, picture.height)
        if self.sound is not None:
            return self.sound.place(picture, patch, self.prefix)
        if fit == "keep":
            long, short = max(picture.width, picture.height), min(picture.width, picture.height)
            size = max(size, math.ceil(self.least * math.sqrt(long / short)))
        if self.fixed or shape is not None:
            fit = "crop" if fit == "keep" else fit
            shape, size = shape or self.own_shape or (self.size, self.size), self.size
        shape = shape or self.own_shape
        if shape is not None and fit != "keep":
            patch = patch_in(patch, shape)
        return place(
            picture.width,
            picture.height,
            size=size,
            patch=patch,
            prefix=self.prefix,
            fit=fit,
            shape=shape,
        )

    def pixels(self, picture: PictureLike, placement: Placement) -> Tensor:
        """The model's input, (1, channels, input_height, input_width), normalised.

        Pillow resizes the picture (antialiased). Padding has the mean colour: 0 to within half
        a level.
        """
        return self.normalised([self.lay(picture, placement)])

    def lay(self, picture: PictureLike, placement: Placement) -> LaidPicture:
        """The picture laid as its placement says, (input_height, input_width, 3 or channels).

        A model of other channels than one or three gets all bands of a picture of so many. A model
        of sounds gets the features of a spectrogram, (input_height, input_width, 1).
        """
        seen = with_pixels(picture)
        if self.sound is not None:
            return self.sound.lay(seen)
        bands = seen.bands
        values = seen.pixels if bands is None or bands.shape[2] != self.channels else bands
        mean, _ = self.statistics(values.shape[2])
        return lay_in(values, placement, mean.tolist(), self.resample)

    @cached_property
    def digests(self) -> frozenset[str]:
        """A digest of each parameter; they tell whether two models have the same weights."""
        return digests_of(self.module)

    def blank_picture(self, placement: Placement) -> LaidPicture:
        """A laid picture without anything on it."""
        shape = placement.grid.input_height, placement.grid.input_width
        if self.sound is not None:
            return np.zeros((*shape, 1), dtype=np.float32)
        return np.zeros((*shape, 3), dtype=np.uint8)

    def normalised(self, laid: Sequence[LaidPicture]) -> Tensor:
        """Laid pictures of one shape as the normalised input, (batch, channels, h, w).

        A model of one channel gets luma (ITU-R BT.601), and the first numbers of mean and std. The
        features of sounds are normalised by their extractor. Clips (frames, h, w, channels) become
        what a model of clips takes.
        """
        if self.sound is not None:
            features = torch.from_numpy(np.stack(laid)).permute(0, 3, 1, 2)
            return features.to(self.device, self.dtype)
        values = torch.from_numpy(np.stack(laid)).float() / 255
        if self.channels == 1:
            values = (values @ torch.tensor(LUMA))[..., None]
        mean, std = self.statistics(values.shape[-1])
        normalised = ((values - mean) / std).movedim(-1, -3)
        arranged = normalised if self.clip is None else self.clip.arranged(normalised)
        return arranged.to(self.device, self.dtype)

    def blank(self, shape: tuple[int, int], channels: int | None = None) -> Tensor:
        """A blank input of this (height, width), or of another number of channels."""
        of_picture = channels or self.channels, *shape
        sizes = of_picture if self.clip is None else (self.clip.frames, *of_picture)
        empty = torch.zeros(1, *sizes, device=self.device, dtype=self.dtype)
        return empty if self.clip is None else self.clip.arranged(empty)

    def statistics(self, channels: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation for each channel of an input, (channels,) each.

        Of three numbers, grey gets the first, and an input of more channels gets their average.
        """
        mean, std = (for_channels(each, channels) for each in (self.mean, self.std))
        return mean, std


def _whole(width: int, height: int) -> Placement:
    """A picture as one cell, as long as it is not known how a processor fits it."""
    box = Box(0.0, 0.0, float(width), float(height))
    return Placement(width, height, box, box, TokenGrid(1, 1, (height, width)))


def patch_in(patch: Patch, shape: tuple[int, int]) -> Patch:
    """The largest patch that divides this one, and an input of this height and width.

    >>> patch_in(32, (64, 48)), patch_in((4, 8), (32, 100))
    (16, 4)
    """
    if isinstance(patch, int):
        return math.gcd(patch, *shape)
    return patch_of(*(math.gcd(a, b) for a, b in zip(patch, shape, strict=True)))


def token_bytes(layers: int, features: int) -> int:
    """Bytes that a run of so many layers takes for each token.

    q, k, v and the output of every layer are kept; about a dozen more tensors are temporary.
    """
    return 4 * features * (4 * layers + 16)
