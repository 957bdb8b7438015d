"""Methods that go on behind the language model of a word, to the picture that its encoder reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.attribution.propagation import Biases, modified_gradient
from attnviz.errors import RecordingError, UsageError
from attnviz.explanation.observation import Observation, PictureInput, Run
from attnviz.explanation.passing_back import Merging
from attnviz.explanation.score_gradients import (
    Relevances,
    alone,
    once,
    run_with_inputs,
    score_of,
)
from attnviz.explanation.view_layouts import on_the_picture
from attnviz.geometry.grid import Layout
from attnviz.methods import ENTERING, Method
from attnviz.models.targets import Target


def goes_beyond(observation: Observation, method: Method, start: int) -> bool:
    """Whether a method goes from words through all of the model to the picture.

    `start` is the first layer of the language model; methods that begin behind it end there.
    """
    if observation.text is None:
        return False
    return not ENTERING.isdisjoint(method.needs) or ("encoder" in method.needs and not start)


def reason_against(
    observation: Observation, method: Method, layers: Sequence[int], start: int
) -> str | None:
    """Why a method cannot go beyond the words of these layers; None if it can."""
    last, tensors = observation.calls.drawn[-1], observation.tensors
    if len(tensors) > 1:
        return f"the model has {len(tensors)} encoders of the picture ({', '.join(tensors)})"
    if ENTERING.isdisjoint(method.needs):
        return None
    if start:
        return "with a prompt it begins with the picture; leave --start-layer out"
    if tuple(layers) != (last,):
        return (
            f"with a prompt it goes through all of the model; leave --layers out ({last} is last)"
        )
    return None


def layout_beyond(observation: Observation, method: Method) -> Layout:
    """The cells of the map of a method that goes beyond words."""
    if ENTERING.isdisjoint(method.needs):
        layout: Layout = observation.whole_run().first_layout
        return layout
    assert observation.run is not None  # else there is no score
    return _cells(observation, observation.run)


def maps_beyond(
    observation: Observation,
    method: Method,
    readings: Mapping[int, LayerInput],
    layers: Sequence[int],
    settings: Mapping[str, Any],
) -> list[Tensor]:
    """The maps of each layer on the cells of `layout_beyond`, (R, 1, cells)."""
    found = []
    for layer in layers:
        reading = readings[layer]
        count = reading.weights.shape[1]
        if ENTERING.isdisjoint(method.needs):
            merging = Merging(settings["fusion"], settings["discard"])
            rows = observation.whole_run().rows_of(layer, reading.weights[0].float(), merging)
            found.append(torch.from_numpy(rows.astype(np.float32))[:, None])
        else:
            assert reading.relevance is not None  # it was propagated before
            found.append(reading.relevance[:, None].expand(count, -1, -1))
    return found


def word_relevances(
    observation: Observation, target: Target, method: Method, settings: Mapping[str, Any]
) -> Relevances:
    """Relevance of the picture for a word, by the cells of `layout_beyond`; computed once.

    It goes back from the logits of the word's tokens through language model, projector and encoder,
    to the tokens that enter the encoder's first block, or to the pixels.

    Raises:
        UsageError: the model ran without gradients.
        RecordingError: there is no rule for an operation on the way, or no such tokens.
    """
    by_rules = "propagation" in method.needs
    rule = settings["rule"] if by_rules else None
    gamma = settings.get("gamma")

    def find(observation: Observation, run: Run, target: Target) -> Relevances:
        inputs = None
        if rule is not None and (rule not in ("epsilon", "cp") or gamma):
            run, inputs = run_with_inputs(observation)
        score = score_of(observation, run.output, target)
        seen = _seen(run)
        pixels = settings["at"] == "pixels"
        tensor = run.inputs[0] if pixels else _tokens(seen)
        tokens = seen.tokens if seen.tokens is not None else tensor
        biases = Biases(tokens.shape[:-1]) if rule == "libra" else None
        if rule is None:
            (gradient,) = torch.autograd.grad(score.value, [tensor], retain_graph=True)
        else:
            gradient = modified_gradient(
                score.value, tensor, rule, gamma=gamma, inputs=inputs, biases=biases
            )
        wide = torch.promote_types(tensor.dtype, torch.float32)
        relevance = tensor.detach().to(wide) * gradient.to(wide)
        layout = _cells(observation, run)
        cells = (
            _of_pixels(relevance, seen, layout) if pixels else _of_tokens(relevance.sum(-1), layout)
        )
        if biases is not None and isinstance(biases.total, Tensor):
            cells = cells + _of_tokens(biases.total, layout)
        last = observation.calls.drawn[-1]
        return Relevances(alone(score), {last: cells.to(tensor.device, torch.float32)[None]})

    what = "beyond", rule, gamma, settings["at"]
    found: Relevances = once(observation, target, what, find)
    return found


def _seen(run: Run) -> PictureInput:
    assert run.seen is not None  # a run over words has it
    return run.seen


def _tokens(seen: PictureInput) -> Tensor:
    if seen.tokens is None:
        raise RecordingError(
            "the tokens that enter the picture's encoder are not known: it is no stack of blocks; "
            "take --at pixels"
        )
    return seen.tokens


def _cells(observation: Observation, run: Run) -> Layout:
    """The cells of the tokens that enter the encoder; else those that words look at."""
    layout = _seen(run).layout
    return observation.layers[observation.calls.drawn[-1]].keys if layout is None else layout


def _of_tokens(values: Tensor, layout: Layout) -> Tensor:
    return torch.from_numpy(layout.summed(values.detach().double().cpu().flatten().numpy()))


def _of_pixels(relevance: Tensor, seen: PictureInput, layout: Layout) -> Tensor:
    """The sum over the numbers of the model's input that lie in each cell, (cells,).

    Raises:
        UsageError: the cells are no part of the picture.
    """
    source, values = seen.source, relevance.detach().double().cpu()
    if source.places is not None:
        places = torch.view_as_real(source.places.cpu()).reshape(-1, 2).double().numpy()
        each = values.flatten().numpy()
    else:
        high, wide = source.size
        each = values.reshape(-1, relevance.shape[-3], high, wide).sum(1).flatten().numpy()
        y, x = np.mgrid[0:high, 0:wide] + 0.5
        tiles = np.repeat(np.arange(len(source.tiles), dtype=np.float64), high * wide)
        at = np.tile(np.stack([x.ravel(), y.ravel()], -1), (len(source.tiles), 1))
        places = on_the_picture(at, tiles, source)
    if layout.stride is None:
        raise UsageError("--at pixels: the cells of the encoder are not known; take --at tokens")
    x, y = (places - (layout.left, layout.top)).T / np.array(layout.stride)[::-1, None]
    inside = (x >= 0) & (x < layout.columns) & (y >= 0) & (y < layout.rows)  # false for NaN
    cell = (np.floor(y[inside]) * layout.columns + np.floor(x[inside])).astype(np.int64)
    return torch.from_numpy(np.bincount(cell, each[inside], minlength=layout.size))
