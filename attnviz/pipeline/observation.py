"""The expensive step: run the model once and keep its attention calls."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz import memory
from attnviz.attention import AttentionCall, Recording, record
from attnviz.errors import AttnvizError, RecordingError, UsageError
from attnviz.geometry import Box, Fit, Layout, Placement, TokenGrid
from attnviz.images import Picture
from attnviz.models.model import Model
from attnviz.pipeline.layers import Layer, Unplaced, find_layer
from attnviz.selection import choose_layers, parse_layers


@dataclass(frozen=True)
class Observation:
    """A picture as a model saw it, with every attention call; ask it as often as you like.

    Attributes:
        picture, model: what was run.
        placement: how the picture lies in the input, on the model's own grid.
        count: of the model's layers: attention calls whose keys are places of the picture.
        layers: those that were kept, by their number in call order.
        taking_part: (prefix + rows·columns,) boolean, False for masked tokens.
        unread: what else the model did that looks like attention, in words.
    """

    picture: Picture
    model: Model
    placement: Placement
    count: int
    layers: Mapping[int, Layer]
    taking_part: NDArray[np.bool_]
    unread: tuple[str, ...] = ()

    def require(self, numbers: Sequence[int]) -> None:
        """Layers that are about to be asked.

        Raises:
            UsageError: one was not kept.
        """
        missing = [str(number) for number in numbers if number not in self.layers]
        if missing:
            raise UsageError(
                f"layer {', '.join(missing)} was not kept when the model ran; observe it with "
                "layers='all'"
            )

    @cached_property
    def recording(self) -> Recording:
        """The attention calls alone."""
        return Recording([layer.call for layer in self.layers.values()])

    def placed(self, layout: Layout) -> Placement:
        """How the picture lies on the cells of a layout.

        Raises:
            RecordingError: the cells do not cut the input into squares.
        """
        grid, target = self.placement.grid, self.placement.target
        stride = layout.stride or grid.input_width / layout.columns
        square = layout.stride or stride == grid.input_height / layout.rows
        if not square or stride != int(stride):
            raise RecordingError(
                f"{self.model.spec} has a layer of {layout.columns}x{layout.rows} cells, which do "
                f"not cut {grid.input_width}x{grid.input_height} pixels into squares of whole "
                "pixels; take other --layers"
            )
        cells = TokenGrid(layout.rows, layout.columns, int(stride), layout.outside)
        x, y = layout.left, layout.top
        shifted = Box(target.left - x, target.top - y, target.right - x, target.bottom - y)
        return replace(self.placement, grid=cells, target=shifted)

    def tokens_taking_part(self, layout: Layout) -> NDArray[np.bool_]:
        """Tokens of a layout that are not masked, (windows, tokens): a cell is as its middle is."""
        grid = self.placement.grid
        rows = (2 * np.arange(layout.rows) + 1) * grid.rows // (2 * layout.rows)
        columns = (2 * np.arange(layout.columns) + 1) * grid.columns // (2 * layout.columns)
        part = self.taking_part[grid.prefix :].reshape(grid.rows, grid.columns)
        return layout.of_tokens(part[np.ix_(rows, columns)].ravel(), np.True_)

    def drawn_on(self, layout: Layout) -> NDArray[np.bool_]:
        """Cells with a token that takes part that touch the picture, (rows, columns)."""
        placement = self.placed(layout)
        size = placement.picture_width, placement.picture_height
        part = layout.count(self.tokens_taking_part(layout)) > 0
        drawn: NDArray[np.bool_] = placement.coverage(0, 0, *size) > 0
        return drawn & part.reshape(drawn.shape)

    @cached_property
    def drawn(self) -> NDArray[np.bool_]:
        """Tokens of the model's own grid that take part and touch the picture, (rows, columns)."""
        return self.drawn_on(Layout.whole(self.placement.grid))

    @property
    def masked(self) -> int:
        """Number of masked tokens."""
        return int((~self.taking_part).sum())

    @cached_property
    def errors(self) -> dict[int, float]:
        """Error of the self-check of each layer that was kept; see `AttentionCall.check`."""
        found = {number: layer.call.check() for number, layer in self.layers.items()}
        return {n: math.inf if e is None or math.isnan(e) else e for n, e in found.items()}

    @property
    def unexplained(self) -> tuple[int, ...]:
        """Layers whose recorded weights do not explain the model's output.

        The limit is 1e-3 for a call in float32, in half precision 1e-2.
        """
        return tuple(number for number, error in self.errors.items() if error > self._limit(number))

    def _limit(self, number: int) -> float:
        return 1e-3 if self.layers[number].call.query.dtype == torch.float32 else 1e-2


def observe(
    picture: Picture,
    model: Model,
    *,
    fit: Fit = "keep",
    mask: NDArray[np.bool_] | None = None,
    layers: str = "all",
) -> Observation:
    """Run a model once on a picture and record its attention.

    Args:
        picture: what `load_image` gave.
        model: what `load_model` gave.
        fit: how the picture is laid into the input: keep, crop, pad or squash.
        mask: (height, width), False where the picture takes no part, as key or as query. A token
            is masked when less than half of it is True; padding counts as False.
        layers: those that will be asked: `-1`, `all`, `0,5-11`.

    Raises:
        UsageError: the mask leaves no token, the model takes none, or has no such layer.
        MemoryLimitError: so many tokens do not fit; nothing was begun.
        RecordingError: the model made no attention call.
    """
    shown = _Shown(picture, model, mask, layers)
    placement = model.place(picture, fit=fit)
    try:
        return shown.as_placed(placement)
    except _ShapeError as error:
        own = model.place(picture, fit="crop")
        if fit != "keep" or own.grid == placement.grid:
            raise RecordingError(f"{error}; take its own --size, and no --fit") from error
        try:
            return shown.as_placed(own)
        except _ShapeError as again:
            raise RecordingError(f"{again}; take the model's own --size") from again


class _ShapeError(Exception):
    """The model does not run on an input of this shape."""


@dataclass(frozen=True)
class _Shown:
    """A picture that is shown to a model, in this placement or that."""

    picture: Picture
    model: Model
    mask: NDArray[np.bool_] | None
    layers: str

    def as_placed(self, placement: Placement) -> Observation:
        """Run the model.

        Raises:
            _ShapeError: it does not run on this shape.
        """
        _check_memory(self.model, placement)
        taking_part = np.ones(placement.grid.tokens, dtype=np.bool_)
        arguments: tuple[torch.Tensor, ...] = ()
        if self.mask is not None:
            taking_part = _unmasked(placement, self.mask, takes_mask=self.model.takes_mask)
            arguments = (torch.from_numpy(taking_part)[None].to(self.model.device),)
        pixels = self.model.pixels(self.picture, placement)
        found = _Found(placement.grid, parse_layers(self.layers))
        recording = self._run(pixels, arguments, found)
        if not recording:
            raise RecordingError(f"{self.model.spec} {found.instead(recording)}")
        kept = choose_layers(found.wanted, len(recording))
        layers = {number: find_layer(recording[number], placement.grid) for number in kept}
        return Observation(self.picture, self.model, placement, len(recording), layers, taking_part)

    def _run(
        self, pixels: torch.Tensor, arguments: tuple[torch.Tensor, ...], found: "_Found"
    ) -> Recording:
        """Every layer of one run of the model."""
        try:
            traced = None if self.model.plain else pixels  # where tokens lie is measured
            with torch.no_grad(), record(calls=found.wanted, where=found, picture=traced) as made:
                self.model.module(pixels, *arguments)
        except (AttnvizError, MemoryError):
            raise
        except Exception as error:  # models refuse shapes by any kind of error
            if "allocate" in str(error) or isinstance(error, torch.OutOfMemoryError):
                raise
            size = f"{pixels.shape[3]}x{pixels.shape[2]}"
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            line = f"{self.model.spec} cannot take {size} pixels ({reason})"
            raise _ShapeError(line) from error
        return made


@dataclass
class _Found:
    """Tells the calls that are layers from those that are not, while the model runs."""

    grid: TokenGrid
    wanted: tuple[int, ...] | None

    def __post_init__(self) -> None:
        self._others: list[str] = []

    def __call__(self, call: AttentionCall) -> bool:
        """Whether a call is a layer."""
        try:
            find_layer(call, self.grid)
        except Unplaced as reason:
            if str(reason) not in self._others:
                self._others.append(str(reason))
            return False
        return True

    def unread(self, recording: Recording) -> tuple[str, ...]:
        """What looked like attention and is none over the picture, the first few."""
        return tuple([*self._others, *recording.unread][:3])

    def instead(self, recording: Recording) -> str:
        """What a model did that made no attention over the picture."""
        said = self.unread(recording)
        if not said:
            return "made no attention call: it is convolutional, or its attention has no softmax"
        return f"made no attention call over the picture, but {'; '.join(said)}"


def _check_memory(model: Model, placement: Placement) -> None:
    tokens = placement.grid.tokens
    needed = tokens * model.token_bytes
    fits = math.floor(model.size * math.sqrt(memory.available(str(model.device)) / max(needed, 1)))
    advice = f"take --size {fits} or smaller"
    memory.require(needed, f"{tokens} tokens", advice, device=str(model.device))


def _unmasked(
    placement: Placement, mask: NDArray[np.bool_], *, takes_mask: bool
) -> NDArray[np.bool_]:
    if not takes_mask:
        raise UsageError("--mask: this model cannot leave tokens out; leave the option out")
    part = placement.average(mask).ravel() >= 0.5
    if not part.any():
        raise UsageError("--mask leaves no token; paint white what is to take part")
    return np.concatenate([np.ones(placement.grid.prefix, dtype=np.bool_), part])
