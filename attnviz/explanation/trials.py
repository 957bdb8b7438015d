"""Runs a model on blank pictures and clips, without recording, to see what it takes."""

import copy
import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.errors import ModelError
from attnviz.geometry.grid import sides
from attnviz.models import memory
from attnviz.models.clip_input import find_clip_input, stated_frames
from attnviz.models.input_size import Shape
from attnviz.models.model import Model
from attnviz.recording.dispatching import uncompiled

_TAKES_MORE: weakref.WeakKeyDictionary[nn.Module, dict[Shape, bool]] = weakref.WeakKeyDictionary()
"""For each model and shape, whether the model takes more tokens than the shape has."""


def takes_more(model: Model, shape: Shape) -> bool:
    """Whether a model runs on twice the height of a shape; each shape is tried once.

    If memory does not suffice for the trial, the answer is True.
    """
    results = _TAKES_MORE.setdefault(model.module, {})
    if shape not in results:
        error = trial(model, (2 * shape[0], shape[1]))
        if error is not None and model.channels != 3:  # a module may only seem to take others
            error = trial(model, (2 * shape[0], shape[1]), channels=3)
        results[shape] = error is None or memory.is_exhausted(error)
    return results[shape]


def trial(
    model: Model, shape: Shape, *, channels: int | None = None, gradients: bool = False
) -> BaseException | None:
    """Run a model on a blank picture and return its exception, if any."""
    return run_blank(model, model.blank(shape, channels), gradients=gradients)


def run_blank(model: Model, pixels: Any, *, gradients: bool) -> BaseException | None:
    """Run a model without recording and return its exception, if any."""
    try:
        if isinstance(pixels, Tensor):
            pixels.requires_grad_(gradients)
        with torch.set_grad_enabled(gradients), uncompiled():
            copied(model.module)(pixels)
    except (Exception, SystemExit) as error:
        return error
    return None


def copied(module: nn.Module) -> nn.Module:
    """A copy with the same parameters, so that a trial does not change the module's state."""
    try:
        return copy.deepcopy(module, {id(each): each for each in module.parameters()})
    except Exception:  # a lock, file or handle in it cannot be copied
        return module


def with_clips(model: Model, count: int | None) -> Model:
    """The model, as one of clips if it takes no picture, or as one of another number of frames.

    Args:
        model: the model.
        count: the number of frames of a clip; None leaves it to the model.

    Raises:
        ModelError: it takes no clip of so many frames.
    """
    known = model.clip
    if known is None and not model.head_assumed:  # a checkpoint says what it takes
        return model
    if known is not None and count in (None, known.frames):
        return model
    stated = stated_frames(model.module, getattr(model.module, "model", None))
    counts = [each for each in (count or stated,) if each]
    found = find_clip_input(model.module, _shape(model), counts, model.channels)
    if found is None and known is not None:
        raise ModelError(
            f"--frames: {model.spec} takes no clip of {count} frames; give ::{known.frames}"
        )
    return model if found is None else replace(model, clip=found)


def _shape(model: Model) -> tuple[int, int]:
    """(height, width) of the model's own input, whole patches."""
    height, width = model.own_shape or (model.size, model.size)
    down, across = sides(model.patch)
    return max(1, round(height / down)) * down, max(1, round(width / across)) * across
