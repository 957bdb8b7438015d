"""The expensive step: run the model once and keep its attention calls."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz import memory
from attnviz.attention import AttentionCall, Block, Recording, record
from attnviz.errors import AttnvizError, RecordingError, UsageError
from attnviz.geometry import Fit, Placement, TokenGrid
from attnviz.images import Picture
from attnviz.models.model import Model
from attnviz.pipeline.layers import Layer, Unplaced, find_layer
from attnviz.pipeline.observation import Observation, Run
from attnviz.selection import choose_layers, parse_layers

GRAPH = 5
"""Times the memory that a run takes where its graph is kept: every step of every block is."""


def observe(
    picture: Picture,
    model: Model,
    *,
    fit: Fit = "keep",
    mask: NDArray[np.bool_] | None = None,
    layers: str = "all",
    gradients: bool = False,
    tokens: bool = False,
) -> Observation:
    """Run a model once on a picture and record its attention.

    Args:
        picture: what `load_image` gave.
        model: what `load_model` gave.
        fit: how the picture is laid into the input: keep, crop, pad or squash.
        mask: (height, width), False where the picture takes no part, as key or as query. A token
            is masked when less than half of it is True; padding counts as False.
        layers: those that will be asked: `-1`, `all`, `0,5-11`.
        gradients: keep the graph of the run, so that methods can ask for the gradient of a score.
        tokens: keep the tokens after each layer's block too.

    Raises:
        UsageError: the mask leaves no token, the model takes none, or has no such layer.
        MemoryLimitError: so many tokens do not fit; nothing was begun.
        RecordingError: the model made no attention call.
    """
    shown = _Shown(picture, model, mask, layers, gradients, tokens)
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
    gradients: bool
    tokens: bool

    def as_placed(self, placement: Placement) -> Observation:
        """Run the model.

        Raises:
            _ShapeError: it does not run on this shape.
        """
        _check_memory(self.model, placement, gradients=self.gradients)
        taking_part = np.ones(placement.grid.tokens, dtype=np.bool_)
        arguments: tuple[torch.Tensor, ...] = ()
        if self.mask is not None:
            taking_part = _unmasked(placement, self.mask, takes_mask=self.model.takes_mask)
            arguments = (torch.from_numpy(taking_part)[None].to(self.model.device),)
        pixels = self.model.pixels(self.picture, placement)
        found = _Found(placement.grid, parse_layers(self.layers))
        inputs = (pixels.requires_grad_(self.gradients), *arguments)
        run = self._run(inputs, found)
        recording = run.recording
        if not recording:
            raise RecordingError(f"{self.model.spec} {found.instead(recording)}")
        kept = choose_layers(found.wanted, len(recording))
        blocks = recording.blocks if self.tokens or self.gradients else {}
        return Observation(
            self.picture,
            self.model,
            placement,
            len(recording),
            {n: _layer(recording, n, blocks, placement.grid) for n in kept},
            taking_part,
            run=run if self.gradients else None,
        )

    def _run(self, inputs: tuple[torch.Tensor, ...], found: "_Found") -> Run:
        """Every layer of one run of the model."""
        pixels = inputs[0]
        watching = record(
            calls=found.wanted,
            where=found,
            picture=None if self.model.plain else pixels,  # where tokens lie is measured
            gradients=self.gradients,
            blocks=self.model.module if self.tokens or self.gradients else None,
        )
        try:
            with torch.set_grad_enabled(self.gradients), watching as made:
                output = self.model.module(*inputs)
        except (AttnvizError, MemoryError):
            raise
        except Exception as error:  # models refuse shapes by any kind of error
            if "allocate" in str(error) or isinstance(error, torch.OutOfMemoryError):
                raise
            size = f"{pixels.shape[3]}x{pixels.shape[2]}"
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            line = f"{self.model.spec} cannot take {size} pixels ({reason})"
            raise _ShapeError(line) from error
        return Run(made, inputs, output)


def _layer(
    recording: Recording, number: int, blocks: Mapping[int, Block], grid: TokenGrid
) -> Layer:
    """A recorded call, with the tokens after its block where these are its queries."""
    layer = find_layer(recording[number], grid)
    block = blocks.get(number)
    if block is None or block.output.shape[:2] != layer.queries.cells.shape:
        return layer
    return replace(layer, tokens=block.output.detach())


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


def _check_memory(model: Model, placement: Placement, *, gradients: bool) -> None:
    tokens = placement.grid.tokens
    needed = tokens * model.token_bytes * (GRAPH if gradients else 1)
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
