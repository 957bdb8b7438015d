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
    def max_error(self) -> float:
        """Largest error of the self-check over all recorded calls; see `AttentionCall.check`."""
        errors = [call.check() for call in self.recording]
        return max(error for error in errors if error is not None)

    @property
    def verified(self) -> bool:
        """Whether the recorded weights explain the model's output: error ≤ 1e-3, halves 1e-2."""
        limit = 1e-3 if self.model.dtype == torch.float32 else 1e-2
        return self.max_error <= limit


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
    with torch.no_grad(), record() as recording:
        model.module(pixels, *arguments)
    if not recording:
        raise RecordingError(f"model {model.spec} made no attention call; see `attnviz models`")
    return Observation(picture, model, placement, recording, taking_part)


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
