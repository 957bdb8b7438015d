"""The expensive step: run the model once and keep its attention calls."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz import memory
from attnviz.attention import AttentionCall, Recording, record
from attnviz.errors import RecordingError, UsageError
from attnviz.geometry import Fit, Layout, Placement, TokenGrid
from attnviz.images import Picture
from attnviz.models.model import Model
from attnviz.selection import choose_layers, parse_layers


@dataclass(frozen=True)
class Layer:
    """An attention call, and what its tokens stand for.

    Attributes:
        call: its batch are the windows that tile one picture.
        queries, keys: the cell of every token, (windows, tokens).
    """

    call: AttentionCall
    queries: Layout
    keys: Layout


@dataclass(frozen=True)
class Observation:
    """A picture as a model saw it, with every attention call; ask it as often as you like.

    Attributes:
        picture, model: what was run.
        placement: how the picture lies in the input, on the model's own grid.
        layers: the attention calls, in call order.
        taking_part: (prefix + rows·columns,) boolean, False for masked tokens.
    """

    picture: Picture
    model: Model
    placement: Placement
    layers: tuple[Layer, ...]
    taking_part: NDArray[np.bool_]

    @cached_property
    def recording(self) -> Recording:
        """The attention calls alone."""
        return Recording([layer.call for layer in self.layers])

    def placed(self, layout: Layout) -> Placement:
        """How the picture lies on the cells of a layout.

        Raises:
            RecordingError: the cells do not cut the input into squares.
        """
        grid = self.placement.grid
        width, height = grid.input_width, grid.input_height
        patch = width // layout.columns
        if (patch * layout.columns, patch * layout.rows) != (width, height):
            raise RecordingError(
                f"{self.model.spec} has a layer of {layout.columns}x{layout.rows} cells, which do "
                f"not cut {width}x{height} pixels into squares of whole pixels; take other --layers"
            )
        cells = TokenGrid(layout.rows, layout.columns, patch, layout.outside)
        return replace(self.placement, grid=cells)

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
    def errors(self) -> tuple[float, ...]:
        """Error of the self-check of each layer; see `AttentionCall.check`."""
        found = [layer.call.check() for layer in self.layers]
        return tuple(math.inf if error is None or math.isnan(error) else error for error in found)

    @property
    def unexplained(self) -> tuple[int, ...]:
        """Layers whose recorded weights do not explain the model's output.

        The limit is 1e-3 for a call in float32, in half precision 1e-2.
        """
        return tuple(
            number
            for number, (layer, error) in enumerate(zip(self.layers, self.errors, strict=True))
            if error > (1e-3 if layer.call.query.dtype == torch.float32 else 1e-2)
        )


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
    placement = model.place(picture, fit=fit)
    _check_memory(model, placement)
    taking_part = np.ones(placement.grid.tokens, dtype=np.bool_)
    if mask is not None:
        taking_part = _unmasked(placement, mask, takes_mask=model.takes_mask)
    pixels = model.pixels(picture, placement)
    arguments = () if mask is None else (torch.from_numpy(taking_part)[None].to(model.device),)
    found = _layers(model, placement, _run(model, pixels, arguments))
    choose_layers(parse_layers(layers), len(found))
    return Observation(picture, model, placement, found, taking_part)


def _run(model: Model, pixels: torch.Tensor, arguments: tuple[torch.Tensor, ...]) -> Recording:
    """Every attention call of one run of the model."""
    try:
        with torch.no_grad(), record() as recording:
            model.module(pixels, *arguments)
    except (RuntimeError, ValueError, TypeError) as error:
        size = f"{pixels.shape[3]}x{pixels.shape[2]}"
        reason = " ".join(str(error).split())[:200]
        raise RecordingError(
            f"{model.spec} cannot take {size} pixels ({reason}); take --fit squash, and its own "
            f"size {model.size}"
        ) from error
    return recording


def _layers(model: Model, placement: Placement, recording: Recording) -> tuple[Layer, ...]:
    """The calls in which all tokens attend to all tokens of the grid: the layers."""
    tokens = placement.grid.tokens
    whole = Layout.whole(placement.grid)
    layers = [call for call in recording if call.shape == (1, call.heads, tokens, tokens)]
    if not layers:
        shapes = sorted({f"{call.shape[2]}x{call.shape[3]}" for call in recording})
        seen = f"calls of {', '.join(shapes[:4])} tokens" if shapes else "no attention call"
        raise RecordingError(
            f"{model.spec} made {seen}, where its grid has {tokens}; this kind of model is not "
            "read yet (see `attnviz models`)"
        )
    return tuple(Layer(call, whole, whole) for call in layers)


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
