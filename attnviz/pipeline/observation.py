"""The expensive step: run the model once and keep its attention calls."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz import memory
from attnviz.attention import Recording, record
from attnviz.errors import RecordingError, UsageError
from attnviz.geometry import Fit, Placement
from attnviz.images import Picture
from attnviz.models.model import Model


@dataclass(frozen=True)
class Observation:
    """A picture as a model saw it, with every attention call; ask it as often as you like.

    `taking_part` is (prefix + rows·columns,) boolean, False for masked tokens.
    """

    picture: Picture
    model: Model
    placement: Placement
    recording: Recording
    taking_part: NDArray[np.bool_]

    @cached_property
    def drawn(self) -> NDArray[np.bool_]:
        """Grid tokens that take part and touch the picture, (rows, columns)."""
        grid = self.placement.grid
        on_picture = self.placement.coverage(
            0, 0, self.placement.picture_width, self.placement.picture_height
        )
        part = self.taking_part[grid.prefix :].reshape(grid.rows, grid.columns)
        return part & (on_picture > 0)

    @property
    def masked(self) -> int:
        """Number of masked tokens."""
        return int((~self.taking_part).sum())

    @cached_property
    def errors(self) -> tuple[float, ...]:
        """Error of the self-check of each layer; see `AttentionCall.check`."""
        found = [call.check() for call in self.recording]
        return tuple(math.inf if error is None or math.isnan(error) else error for error in found)

    @property
    def unexplained(self) -> tuple[int, ...]:
        """Layers whose recorded weights do not explain the model's output.

        The limit is 1e-3, in half precision 1e-2.
        """
        limit = 1e-3 if self.model.dtype == torch.float32 else 1e-2
        return tuple(layer for layer, error in enumerate(self.errors) if error > limit)


def observe(
    picture: Picture,
    model: Model,
    *,
    fit: Fit = "keep",
    mask: NDArray[np.bool_] | None = None,
) -> Observation:
    """Run a model once on a picture and record its attention.

    Args:
        picture: what `load_image` gave.
        model: what `load_model` gave.
        fit: how the picture is laid into the input: keep, crop, pad or squash.
        mask: (height, width), False where the picture takes no part, as key or as query. A token
            is masked when less than half of it is True; padding counts as False.

    Raises:
        UsageError: the mask leaves no token, or the model takes none.
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
    recording = _on_grid(model, placement, _run(model, pixels, arguments))
    return Observation(picture, model, placement, recording, taking_part)


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


def _on_grid(model: Model, placement: Placement, recording: Recording) -> Recording:
    """The calls in which all tokens attend to all tokens of the grid: the layers."""
    tokens = placement.grid.tokens
    layers = [call for call in recording if call.shape[2:] == (tokens, tokens)]
    if not layers:
        shapes = sorted({f"{call.shape[2]}x{call.shape[3]}" for call in recording})
        seen = f"calls of {', '.join(shapes[:4])} tokens" if shapes else "no attention call"
        raise RecordingError(
            f"{model.spec} made {seen}, where its grid has {tokens}; this kind of model is not "
            "read yet (see `attnviz models`)"
        )
    return Recording(layers)


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
