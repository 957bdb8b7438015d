"""Measures how a map answers to small noise, and to weights that are redrawn block by block."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnviz.evaluation import METRICS, RANDOMISATION, SENSITIVITY
from attnviz.explanation.again import again, input_of, noises
from attnviz.explanation.explanation import Explanation
from attnviz.models.weights import seeded
from attnviz.recording import record
from attnviz.statistics.correlation import spearman

Map = NDArray[np.float64]
Rows = dict[int, dict[str, float]]
WINDOW = 7
"""The side of a window of SSIM, in cells; smaller where the grid is."""
_STEADY = 0.01**2, 0.03**2  # K1², K2² of SSIM for values of 0 to 1


def sensitivity(explanation: Explanation, *, draws: int, radius: float, seed: int = 0) -> Rows:
    """The metrics of the group `sensitivity` for the mean map of each layer.

    Args:
        explanation: the maps of one question.
        draws: number of noisy pictures.
        radius: bound of the noise, of pixel values of 0 to 1.
        seed: random seed of the noise.
    """
    observation = explanation.observation
    pixels = input_of(observation)
    found = [
        mean_maps(again(explanation, pixels + noise))
        for noise in noises(observation, draws, radius, seed, uniform=True)
    ]
    return _numbers(explanation, found, SENSITIVITY)


def randomisation(
    explanation: Explanation, *, cascade_steps: int | None = None, seed: int = 0
) -> Rows:
    """The metrics of the group `randomisation` for the mean map of each layer.

    Args:
        explanation: the maps of one question.
        cascade_steps: how many parts of the model are redrawn, from the top; all unless given.
        seed: random seed of the weights.
    """
    observation = explanation.observation
    pixels, module = input_of(observation), observation.model.module
    with restored(module):
        found = [
            mean_maps(again(explanation, pixels))
            for _ in redrawn(parts_of(module, pixels)[:cascade_steps], seed)
        ]
    return _numbers(explanation, found, RANDOMISATION)


def mean_maps(explanation: Explanation) -> dict[int, Map]:
    """The mean map of the heads of each layer, or its only map."""
    return {
        layer: np.mean([answer.values.astype(np.float64) for answer in answers], axis=0)
        for layer, answers in explanation.by_layer.items()
    }


def _numbers(explanation: Explanation, found: Sequence[Mapping[int, Map]], group: str) -> Rows:
    entries = {name: entry for name, entry in METRICS.items() if entry.group == group}
    own, rows = mean_maps(explanation), {}
    for layer, values in own.items():
        drawn = explanation.by_layer[layer][0].drawn
        others = np.stack([each[layer] for each in found])

        def number(
            entry: Any, values: Any = values, others: Any = others, on: Any = drawn
        ) -> float:
            return float(entry.run_or(math.nan, lambda: float(entry(values, others, on))))

        rows[layer] = {name: number(entry) for name, entry in entries.items()}
    return rows


def sensitivity_max(values: Map, others: Map, drawn: NDArray[np.bool_]) -> float:
    """The largest ‖other − map‖₂ / ‖map‖₂ over noisy pictures (Yeh et al. 2019, 1901.09392)."""
    return float(_changes(values, others, drawn).max())


def sensitivity_avg(values: Map, others: Map, drawn: NDArray[np.bool_]) -> float:
    """The mean of ‖other − map‖₂ / ‖map‖₂ over noisy pictures."""
    return float(_changes(values, others, drawn).mean())


def _changes(values: Map, others: Map, drawn: NDArray[np.bool_]) -> Map:
    whole = float(np.linalg.norm(values[drawn]))
    changes = np.linalg.norm(others[:, drawn] - values[drawn], axis=1)
    return np.asarray(changes / whole) if whole > 0 else np.full(len(others), np.nan)


def cascade_rank(values: Map, others: Map, drawn: NDArray[np.bool_]) -> float:
    """Mean rank correlation of the map with those of the redrawn models; flat ones count as 0."""
    own = values[drawn]
    each = [
        0.0 if np.ptp(own) == 0 or np.ptp(other[drawn]) == 0 else spearman(own, other[drawn])
        for other in others
    ]
    return float(np.mean(each))


def cascade_ssim(values: Map, others: Map, drawn: NDArray[np.bool_]) -> float:
    """Mean structural similarity of the map with those of the redrawn models."""
    return float(np.mean([ssim(_spanned(values, drawn), _spanned(o, drawn)) for o in others]))


def _spanned(values: Map, drawn: NDArray[np.bool_]) -> Map:
    """A map scaled to 0…1 over its drawn cells; 0 elsewhere, and where it is flat."""
    low, high = values[drawn].min(), values[drawn].max()
    scaled = np.zeros_like(values) if high == low else (values - low) / (high - low)
    return np.where(drawn, scaled, 0.0)


def ssim(first: Map, second: Map) -> float:
    """Structural similarity of two maps of values 0…1: the mean over all windows inside them.

        (2·μ_a·μ_b + K₁²)(2·σ_ab + K₂²) / ((μ_a² + μ_b² + K₁²)(σ_a² + σ_b² + K₂²))

    Windows are 7×7 cells, or as large as the grid; variances are those of samples (Wang et al.
    2004), as in scikit-image.

    >>> round(ssim(np.eye(8), np.eye(8)), 9)
    1.0
    """
    rows, columns = (min(WINDOW, side) for side in first.shape)
    a, b = (
        np.lib.stride_tricks.sliding_window_view(each, (rows, columns)) for each in (first, second)
    )
    mean_a, mean_b = a.mean((-2, -1)), b.mean((-2, -1))
    scale = rows * columns / max(1, rows * columns - 1)
    variance_a, variance_b = a.var((-2, -1)) * scale, b.var((-2, -1)) * scale
    both = ((a * b).mean((-2, -1)) - mean_a * mean_b) * scale
    one, two = _STEADY
    above = (2 * mean_a * mean_b + one) * (2 * both + two)
    below = (mean_a**2 + mean_b**2 + one) * (variance_a + variance_b + two)
    return float((above / below).mean())


def parts_of(module: nn.Module, pixels: Tensor) -> list[list[nn.Module]]:
    """The parts of a model that hold parameters, the last one first.

    These are what runs after the last block, each block, and what runs before or beside them. A
    module belongs to the block that it lies in; without blocks each module is a part.
    """
    order: dict[nn.Module, int] = {}

    def note(part: nn.Module, _: Any) -> None:
        order.setdefault(part, len(order))

    handles = [each.register_forward_pre_hook(note) for each in module.modules()]
    try:
        with torch.no_grad(), record(blocks=module) as recording:
            module(pixels)
    finally:
        for handle in handles:
            handle.remove()
    blocks = list(dict.fromkeys(block.module for _, block in sorted(recording.blocks.items())))
    owner = {part: block for block in blocks for part in block.modules()}
    holding = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    if not blocks:
        return [[m] for m in sorted(holding, key=lambda m: order.get(m, -1), reverse=True)]
    end = order[blocks[-1]]
    outside = [m for m in holding if m not in owner]
    after = [m for m in outside if order.get(m, -1) > end]
    parts = [
        after,
        *([m for m in holding if owner.get(m) is block] for block in reversed(blocks)),
        [m for m in outside if m not in after],
    ]
    return [part for part in parts if part]


def redrawn(parts: Sequence[Sequence[nn.Module]], seed: int) -> Iterator[int]:
    """Redraw the weights of one part after another; yields the number of redrawn parts each time.

    A module draws them as when it is made (`reset_parameters`). Other parameters are drawn from a
    normal distribution of their own mean and standard deviation.
    """
    for number, part in enumerate(parts, start=1):
        with seeded(seed + number), torch.no_grad():
            for each in part:
                if callable(reset := getattr(each, "reset_parameters", None)):
                    reset()
                    continue
                for parameter in each.parameters(recurse=False):
                    drawn = torch.randn(parameter.shape) * parameter.std(correction=0).cpu()
                    parameter.copy_(drawn + parameter.mean().cpu())
        yield number


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """After this context the parameters and buffers of a module are what they were before.

    To reset a normalisation resets its running mean too.
    """
    kept = chain(module.parameters(), module.buffers())
    before = [(tensor, tensor.detach().clone()) for tensor in kept]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in before:
                tensor.copy_(values)
