"""Runs a model on blank pictures, without recording, to see what it takes."""

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.models import memory
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
