"""Logs attention in the middle of a training: a small sheet and the statistics of its heads."""

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from attnviz.drawing.sheet import cells_on, sheet
from attnviz.errors import AttnvizError, UsageError
from attnviz.explanation.explain_observation import explain
from attnviz.explanation.explanation import Explanation
from attnviz.explanation.running import ModelInputs
from attnviz.io.picture import Picture, with_pixels
from attnviz.models.module_kinds import unwrap
from attnviz.models.own import describe_in_training
from attnviz.monitoring.writers import Entry, write
from attnviz.output.write_pictures import Drawing

SIDE = 112
"""Longest side of a picture in the sheet, in pixels."""
MOST = 8
"""The largest number of pictures that one call takes."""


def log(
    model: nn.Module,
    pictures: Tensor,
    *,
    step: int,
    to: Any,
    name: str = "attention",
    layers: str = "-1",
    heads: str = "all",
    query: str = "auto",
    method: str = "attention",
) -> bool:
    """Log where a model looks in a few pictures, in the middle of its training.

    The model runs once more on the pictures, in evaluation mode and without gradients. Its mode,
    gradients, buffers and hooks, and all random number generators, are afterwards as they were. An
    error is a warning, so that the training goes on.

    Args:
        model: the model; compiled and data-parallel ones too.
        pictures: (pictures, channels, height, width), at most 8 inputs as the model takes them.
            For the sheet each is stretched from its smallest to its largest value.
        step: number of the training step.
        to: where to: a `SummaryWriter` of TensorBoard, a run of Weights & Biases or Aim, the module
            `mlflow`, or a folder.
        name: what the entries' names begin with.
        layers: as for `explain`.
        heads: as for `explain`.
        query: as for `explain`.
        method: a method without gradients, as for `explain`.

    Returns:
        Whether something was logged.

    >>> log(model.module, torch.rand(2, 3, 64, 64), step=100, to="attention-log")
    True
    """
    try:
        with undisturbed(model):
            explanations = explained(
                model, pictures, layers=layers, heads=heads, query=query, method=method
            )
            write(to, Entry(name, step, sheets(explanations), numbers(explanations)))
    except Exception as error:  # a training of days must not end by a picture
        line = error if isinstance(error, AttnvizError) else f"{type(error).__name__}: {error}"
        warnings.warn(f"attnviz.log at step {step}: {line}", RuntimeWarning, stacklevel=2)
        return False
    return True


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode without gradients; afterwards everything is as it was.

    >>> before = torch.get_rng_state()
    >>> with undisturbed(model.module):
    ...     _ = torch.rand(3)
    >>> torch.equal(before, torch.get_rng_state())
    True
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    kinds = {tensor.device for tensor in model.parameters()}
    cards = [device for device in kinds if device.type == "cuda"]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 — the user's own generator
    kind = next(iter(kinds), torch.device("cpu")).type
    with torch.random.fork_rng(cards), torch.no_grad(), torch.autocast(kind, enabled=False):
        try:
            for module in modules:
                module.training = False  # not `eval()`, which a model may have overridden
            yield
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def explained(model: nn.Module, pictures: Tensor, **question: Any) -> list[Explanation]:
    """Run a model on inputs (pictures, channels, height, width) and explain each of them.

    >>> [each.maps.shape for each in explained(model.module, torch.rand(2, 3, 64, 64))]
    [(1, 8, 8, 8), (1, 8, 8, 8)]

    Raises:
        UsageError: the pictures are no such tensor, or an option does not fit.
        AttnvizError: the model cannot be recorded.
    """
    if not isinstance(pictures, Tensor) or pictures.ndim != 4 or not 1 <= len(pictures) <= MOST:
        raise UsageError(
            f"pictures is not a tensor of 1 to {MOST} inputs (pictures, channels, height, width); "
            "give a part of a batch, such as batch[:4]"
        )
    shape = pictures.shape[2], pictures.shape[3]
    described = describe_in_training(unwrap(model), shape=shape)
    tensor = pictures.detach().clone().to(described.device, described.dtype)
    shown = [Picture(f"picture{n}", stretched(one)) for n, one in enumerate(pictures)]
    inputs = ModelInputs(
        shown, described, fit="crop", masks=[None] * len(shown), layers="all", gradients=False,
        tokens=False, tensor=tensor,
    )  # fmt: skip
    placements = {n: described.place(picture, fit="crop") for n, picture in enumerate(shown)}
    observations = inputs.at_once(placements)
    return [explain(observations[n], one_object=True, **question) for n in sorted(observations)]


def stretched(picture: Tensor) -> NDArray[np.uint8]:
    """An input (channels, height, width) as a picture (height, width, 3), black to white.

    The first three channels are shown; with one or two channels, the first as grey.
    """
    values = picture.detach().float().cpu()
    values = values[:3] if len(values) >= 3 else values[:1].expand(3, -1, -1)
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low).clamp_min(1e-12) * 255
    return np.ascontiguousarray(scaled.round().to(torch.uint8).permute(1, 2, 0).numpy())


def sheets(explanations: Sequence[Explanation]) -> NDArray[np.uint8]:
    """The small sheets of all pictures below each other, (height, width, 3)."""
    drawing = Drawing()
    style = drawing.style()
    images = []
    for each in explanations:
        cells = cells_on(
            each, with_pixels(each.observation.picture), drawing.ranges(each), style, SIDE
        )
        images.append(sheet(each, cells, style, side=SIDE))
    whole = Image.new(
        "RGB", (max(i.width for i in images), sum(i.height for i in images)), "#ffffff"
    )
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    return np.asarray(whole)


def numbers(explanations: Sequence[Explanation]) -> dict[str, float]:
    """The mean of each statistic over pictures and heads, by `layer05/entropy`.

    >>> names = numbers(explained(model.module, torch.rand(2, 3, 64, 64)))
    >>> sorted(names)[:2]
    ['layer05/confidence', 'layer05/distance_px']
    """
    values: dict[str, list[float]] = {}
    for each in explanations:
        for answer in each.answers:
            for name, value in answer.numbers.items():
                values.setdefault(f"layer{answer.layer:02d}/{name}", []).append(value)
    means = {name: float(np.mean(of_heads)) for name, of_heads in values.items()}
    return {name: mean for name, mean in means.items() if np.isfinite(mean)}
