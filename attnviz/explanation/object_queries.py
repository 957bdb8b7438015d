"""Finds which queries of a layer are object queries, and what the model predicts for each of them.

Nothing here depends on an architecture. The model's output has a row for each object query. Calls
with as many queries, which do not cover the picture, have them in the same order. Where object
queries are tokens among others (YOLOS, EoMT), their numbers are measured: the logits of an object
have their largest gradient at its own token.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attnviz.explanation.layers import Layer
from attnviz.geometry.detections import DetectedObject
from attnviz.geometry.grid import Box, TokenGrid
from attnviz.models import memory
from attnviz.models.model import Model
from attnviz.models.predictions import Predictions, find_predictions
from attnviz.models.vision import Vision
from attnviz.models.weights import seeded
from attnviz.recording import record
from attnviz.recording.outside import HOOKS

_RANKS: weakref.WeakKeyDictionary[nn.Module, dict[int, int]] = weakref.WeakKeyDictionary()
"""For each model and call, the place of its first object query among the tokens that lie outside of
the grid, whose number does not depend on the picture; found once. −1 for none."""
_CLEAR = 2.0
"""An object's own token has a gradient of so many times that of any other token, or more."""


@contextmanager
def inner_outputs(module: nn.Module) -> Iterator[list[Any]]:
    """Inside this context, each run appends the output of the model of transformers in a module.

    `Vision` returns a part of it. Of other modules there is nothing to append.
    """
    outputs: list[Any] = []
    if not isinstance(module, Vision) or not module.detects:
        yield outputs
        return
    model = module.model
    hooks = HOOKS.registered(
        lambda: model.register_forward_hook(lambda _model, _inputs, out: outputs.append(out))
    )
    try:
        yield outputs
    finally:
        HOOKS.remove(hooks)


def predicted(module: nn.Module, output: Any, inner: Sequence[Any]) -> Predictions | None:
    """What a model predicts for its object queries; None if it predicts none.

    Args:
        module: the module that ran.
        output: what it returned.
        inner: what `inner_outputs` has found.
    """
    if not isinstance(module, Vision):
        return find_predictions(output, module)
    return find_predictions(inner[-1], module.model) if inner else None


def objects_of(
    predictions: Predictions, picture: int, grid: TokenGrid
) -> tuple[DetectedObject, ...]:
    """What a model predicts for each object query of one picture, by its number."""
    scores, classes = predictions.scores[picture].max(-1)
    boxes = _boxes(predictions, picture, grid)
    return tuple(
        DetectedObject(number, predictions.labels[label], score, box)
        for number, (label, score, box) in enumerate(
            zip(classes.tolist(), scores.tolist(), boxes, strict=True)
        )
    )


def _boxes(predictions: Predictions, picture: int, grid: TokenGrid) -> list[Box | None]:
    """The box of each object, or of its mask, in pixels of the input."""
    width, height = grid.input_width, grid.input_height
    if predictions.boxes is not None:
        x, y, w, h = predictions.boxes[picture].double().unbind(-1)
        sides = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
        sides *= torch.tensor([width, height] * 2)
        return [Box(*each) for each in sides.tolist()]
    assert predictions.masks is not None  # one of both is there
    found: list[Box | None] = []
    for mask in predictions.masks[picture] > 0:
        rows, columns = (mask.any(side).nonzero()[:, 0].tolist() for side in (1, 0))
        x, y = width / mask.shape[1], height / mask.shape[0]
        box = Box(columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y) if rows \
            else None  # fmt: skip
        found.append(box)
    return found


def with_objects(layer: Layer, count: int, first: int | None) -> Layer:
    """The layer with the numbers of its object queries among all of its queries, if it has any.

    If all of its queries are objects they lie nowhere, also if the model has picked them among the
    tokens of its encoder.

    Args:
        layer: the layer.
        count: number of objects that the model predicts.
        first: the number of the first one, if they are tokens among others.
    """
    if _is_of_objects(layer, count):
        nowhere = np.full_like(layer.queries.cells, -1)
        queries = replace(layer.queries, cells=nowhere, cover=None, uneven=False)
        return replace(layer, queries=queries, objects=tuple(range(count)))
    if first is None or first + count > layer.queries.cells.shape[1]:
        return layer
    return replace(layer, objects=tuple(range(first, first + count)))


def _is_of_objects(layer: Layer, count: int) -> bool:
    """Whether a layer has as many queries as there are objects, not all over the picture."""
    windows, tokens = layer.queries.cells.shape
    return windows * tokens == count and 1 in (windows, tokens) and not _covers(layer)


def _covers(layer: Layer) -> bool:
    """Whether the queries lie in every cell of the picture, as those of an encoder do."""
    on_picture = layer.queries.cells[layer.queries.on_picture]
    return len(set(on_picture.tolist())) == layer.queries.size


def first_objects(
    model: Model, inputs: tuple[Tensor, ...], layers: dict[int, Layer], count: int
) -> dict[int, int]:
    """For each layer in which object queries are tokens among others, the number of the first one.

    The model runs once more, with its graph, if there may be such layers; its result is kept.
    """
    beside = {
        number: tuple(np.flatnonzero(~layer.queries.on_picture[0]).tolist())
        for number, layer in layers.items()
        if layer.queries.windows == 1 and not _is_of_objects(layer, count)
    }
    beside = {number: tokens for number, tokens in beside.items() if len(tokens) >= count}
    if not beside or model.clip is not None:
        return {}
    ranks = _RANKS.setdefault(model.module, {})
    if beside.keys() - ranks.keys():
        ranks |= dict.fromkeys(beside, -1) | _measured(model, inputs, beside, count)
    return {n: beside[n][rank] for n in beside if 0 <= (rank := ranks[n]) < len(beside[n])}


def _measured(
    model: Model, inputs: tuple[Tensor, ...], beside: dict[int, tuple[int, ...]], count: int
) -> dict[int, int]:
    """The place of the first object query of calls among `beside`, where it can be measured.

    The logits of three objects are each led back to all calls.
    """
    pixels = inputs[0][:1].detach().requires_grad_()
    needed = pixels[0, 0].numel() // 256 * model.token_bytes * memory.GRAPH
    if needed > memory.available(str(model.device)):
        return {}
    try:
        with (
            seeded(model.seed or 0),
            torch.enable_grad(),
            inner_outputs(model.module) as inner,
            record(gradients=True, calls=list(beside)) as recording,
        ):
            output = model.module(pixels, *(each[:1] for each in inputs[1:]))
        predictions = predicted(model.module, output, inner)
        if predictions is None or predictions.count != count:
            return {}
        places: dict[int, set[int]] = {number: set() for number in beside}
        for index in sorted({0, count // 2, count - 1}):
            score = predictions.logits[0, index].float().square().sum()
            for number, gradient in recording.gradients(score, calls=list(beside)).items():
                own = _largest(gradient, beside[number])
                places[number].add(-1 if own is None else own - index)  # negative: none
    except Exception:  # whatever keeps a model from running with its graph
        return {}
    return {number: found.pop() for number, found in places.items() if len(found) == 1}


def _largest(gradient: Tensor, tokens: Sequence[int]) -> int | None:
    """The place, among these, of the token with by far the largest gradient; None if none has it.

    The gradient is (1, heads, queries, values).
    """
    of_tokens = gradient[0].float().square().sum((0, 2)).sqrt().cpu()[list(tokens)]
    largest = of_tokens.topk(min(2, len(tokens))).values.tolist()
    if not largest[0] > _CLEAR * (largest[1] if len(largest) > 1 else 0.0):
        return None
    return int(of_tokens.argmax())
