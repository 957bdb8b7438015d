"""Observes several pictures in one run of the model, faster and with the same results."""

import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attnviz.explanation.forward_errors import ForwardError
from attnviz.explanation.observation import Observation
from attnviz.explanation.running import ModelInputs
from attnviz.explanation.shapes_to_try import first_placement
from attnviz.geometry.grid import TokenGrid
from attnviz.geometry.placement import Fit, Placement
from attnviz.io.picture import PictureLike
from attnviz.models import memory
from attnviz.models.model import LaidPicture, Model

_ONE_BY_ONE: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Models that take one picture at a time only, as a run has shown."""


def observe_many(
    pictures: Sequence[PictureLike],
    model: Model,
    *,
    fit: Fit = "keep",
    masks: Sequence[NDArray[np.bool_] | None] | None = None,
    layers: str = "all",
    gradients: bool = False,
    tokens: bool = False,
    lay: Callable[[int, Placement], LaidPicture] | None = None,
) -> list[Observation]:
    """Observe several pictures; those with the same input shape share one run.

    A run that does not fit into memory is split into halves. With gradients, or with a model that
    takes one picture at a time, each picture has its own run.

    Args:
        pictures: results of `load_image`.
        model: result of `load_model`.
        fit: as for `observe`.
        masks: for each picture a mask as for `observe`.
        layers: as for `observe`.
        gradients: as for `observe`.
        tokens: as for `observe`.
        lay: a function from a picture's number and a placement to the input, (input_height,
            input_width, 3), if it was made before; see `Model.lay`.

    >>> several = observe_many([picture, picture], model)
    >>> [attnviz.explain(each).maps.shape for each in several]
    [(1, 8, 15, 22), (1, 8, 15, 22)]

    Raises:
        UsageError, MemoryLimitError, ModelError, RecordingError: as `observe` does, for any of the
            pictures.
    """
    masks = masks or [None] * len(pictures)
    inputs = ModelInputs(
        pictures, model, fit=fit, masks=masks, layers=layers, gradients=gradients, tokens=tokens,
        lay=lay,
    )  # fmt: skip
    found: dict[int, Observation] = {}
    for placements in _groups(inputs):
        if gradients or model.module in _ONE_BY_ONE:
            found |= {number: inputs.alone(number) for number in placements}
        else:
            found |= _together(inputs, placements)
    return [found[number] for number in range(len(pictures))]


def _groups(inputs: ModelInputs) -> list[dict[int, Placement]]:
    """Placements by picture number, in groups of the same input shape."""
    groups: dict[tuple[TokenGrid, bool], dict[int, Placement]] = {}
    for number in range(len(inputs.pictures)):
        placement = first_placement(inputs.model, inputs.pictures[number], inputs.fit)
        # A mask may change how a model computes, even if it is all True.
        key = placement.grid, inputs.masks[number] is not None
        groups.setdefault(key, {})[number] = placement
    return list(groups.values())


def _together(inputs: ModelInputs, placements: dict[int, Placement]) -> dict[int, Observation]:
    """Observe pictures of one shape in one run, or in halves, or one by one."""
    first, *rest = placements
    if not rest:
        return {first: inputs.alone(first)}
    try:
        return inputs.at_once(placements)
    except ForwardError:
        halves = None
    except Exception as error:
        if not memory.is_exhausted(error):
            raise
        halves = _halves(placements)
    # After the handlers: the error in them holds the tensors of the failed run.
    if halves is not None:
        if inputs.model.device.type == "cuda":
            torch.cuda.empty_cache()
        return {**_together(inputs, halves[0]), **_together(inputs, halves[1])}
    return _after_all(inputs, placements)


def _after_all(inputs: ModelInputs, placements: dict[int, Placement]) -> dict[int, Observation]:
    """Observe pictures that failed in one run; the first alone shows if the shape is the cause."""
    first, *rest = placements
    observation = inputs.alone(first)
    if observation.placement.grid == placements[first].grid:
        _ONE_BY_ONE.add(inputs.model.module)
        return {first: observation, **{number: inputs.alone(number) for number in rest}}
    grid = observation.placement.grid
    shape = grid.input_height, grid.input_width
    alike = {n: inputs.model.place(inputs.pictures[n], fit=inputs.fit, shape=shape) for n in rest}
    try:
        return {first: observation, **inputs.at_once(alike)}
    except ForwardError:
        pass
    except Exception as error:
        if not memory.is_exhausted(error):
            raise
    return {first: observation, **{number: inputs.alone(number) for number in rest}}


def _halves(placements: dict[int, Placement]) -> list[dict[int, Placement]]:
    numbers = list(placements)
    middle = len(numbers) // 2
    return [{n: placements[n] for n in part} for part in (numbers[:middle], numbers[middle:])]
