"""Goes back from a score to tokens: once, or in several runs of the model along a path."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from attnviz.attention.call import AttentionCall
from attnviz.attention.layer_input import LayerInput, TokenGradient
from attnviz.attribution.backward_rules import RuleName
from attnviz.attribution.propagation import Biases, modified_gradient
from attnviz.errors import RecordingError, UsageError
from attnviz.explanation.observation import Observation, Run
from attnviz.explanation.score_gradients import (
    alone,
    once,
    score_of,
    score_up_to,
    score_with_inputs,
)
from attnviz.models.scoring import Scored
from attnviz.models.targets import Target
from attnviz.models.weights import seeded
from attnviz.recording import record, run_from

AT_ONCE = 5
"""Steps of an integral that run together; each takes as much memory as the observed run."""


@dataclass(frozen=True, eq=False)
class TokenGradients:
    """A score, and its gradient at the tokens before and after each layer's block."""

    scored: Scored
    of_layers: Mapping[int, tuple[TokenGradient, TokenGradient]]

    def given_to(self, number: int, reading: LayerInput) -> LayerInput:
        """The layer input with its tokens' gradients."""
        entering, leaving = self.of_layers.get(number, (None, None))
        return replace(reading, entering=entering, leaving=leaving)


@dataclass(frozen=True, eq=False)
class PathGradients:
    """A score, and each layer's call with its gradient in runs on parts of the picture."""

    scored: Scored
    of_layers: Mapping[int, tuple[tuple[float, AttentionCall], ...]]

    def given_to(self, number: int, reading: LayerInput) -> LayerInput:
        """The layer input with the calls of these runs."""
        return replace(reading, path=self.of_layers.get(number, ()))


def token_gradients(
    observation: Observation, target: Target, layers: Iterable[int]
) -> TokenGradients:
    """The gradient of a score at the tokens of those of some layers that are blocks of a stack.

    Only the asked layers are gone back to: of the last one that is a small part of the way.

    Raises:
        UsageError: the model ran without gradients, or has no such score.
        RecordingError: the score does not depend on these tokens.
    """
    asked = frozenset(layers)

    def find(observation: Observation, run: Run, target: Target) -> TokenGradients:
        scored = score_of(observation, run.output, target)
        blocks = run.recording.blocks
        numbers = sorted(blocks.keys() & observation.layers.keys() & asked)
        tensors = [each for n in numbers for each in (blocks[n].input, blocks[n].output)]
        slopes = torch.autograd.grad(scored.value, tensors, retain_graph=True, allow_unused=True)
        if all(slope is None for slope in slopes):
            raise RecordingError("the score does not depend on the tokens of any block")
        each = iter([_with_gradient(*pair) for pair in zip(tensors, slopes, strict=True)])
        return TokenGradients(alone(scored), {n: (next(each), next(each)) for n in numbers})

    found: TokenGradients = once(observation, target, ("tokens", asked), find)
    return found


def _with_gradient(tokens: Tensor, gradient: Tensor | None) -> TokenGradient:
    found = torch.zeros_like(tokens) if gradient is None else gradient
    return TokenGradient(tokens.detach().float(), found.float())


def path_gradients(
    observation: Observation, target: Target, layers: Sequence[int], steps: int
) -> PathGradients:
    """Calls of layers with their gradients, in runs of the model on α times its input.

    Args:
        observation: observation of a run with `gradients`.
        target: the target that defines the score; its class is that of the whole picture.
        layers: numbers of layers.
        steps: number of runs.

    Raises:
        UsageError: the model ran without gradients, or has no such score.
        RecordingError: the score does not depend on a layer.
    """

    def find(observation: Observation, run: Run, target: Target) -> PathGradients:
        scored = score_of(observation, run.output, target)
        runs = [
            (share, _run_on(observation, run, scored.target, alpha, layers))
            for alpha, share in _points(steps)
        ]
        paths = {n: tuple((share, calls[n]) for share, calls in runs) for n in layers}
        return PathGradients(alone(scored), paths)

    found: PathGradients = once(observation, target, ("path", tuple(layers), steps), find)
    return found


def _run_on(
    observation: Observation, run: Run, target: Target, alpha: float, layers: Sequence[int]
) -> dict[int, AttentionCall]:
    """The calls of layers, with the gradient of a score, for α times the picture."""
    model, (pixels, *rest) = observation.model, run.inputs
    scaled = (alpha * pixels.detach()).requires_grad_()
    with (
        seeded(model.seed or 0),
        record(
            calls=layers,
            picture=None if model.plain else scaled,  # as in the run that was observed
            time=None if model.clip is None else model.clip.dim,
            gradients=True,
        ) as recording,
    ):
        output = model.module(scaled, *rest)
    gradients = recording.gradients(score_of(observation, output, target).value, calls=layers)
    missing = next((number for number in layers if number not in gradients), None)
    if missing is not None:
        raise UsageError(
            f"--target {target}: the score does not depend on layer {missing}; take other "
            "--layers, or another --target"
        )
    return {n: replace(recording[n], gradient=gradients[n].detach()) for n in layers}


def integrated(
    observation: Observation, run: Run, whole: Scored, first: int, last: int, *, steps: int
) -> Tensor:
    """((x − x⁰)·∫g), (1, tokens), of the tokens that enter layer `first`, of the model to `last`.

    x⁰ are the tokens there if every pixel is 0.
    """
    blocks, module = run.recording.blocks, observation.model.module
    tokens = blocks[first].input.detach()
    start = _tokens_of_zeros(observation, run, first)
    if start.shape != tokens.shape:
        raise RecordingError(
            "an empty picture has other tokens than this one, so there is no way between them; "
            "take --method input-gradient"
        )
    points = list(_points(steps))
    total = torch.zeros_like(tokens, dtype=torch.float32)
    for i in range(0, steps, AT_ONCE):
        alphas, shares = (
            tokens.new_tensor(each) for each in zip(*points[i : i + AT_ONCE], strict=True)
        )
        between = (start + alphas[:, None, None] * (tokens - start)).requires_grad_()
        inputs = tuple(each.detach().expand(len(alphas), *each.shape[1:]) for each in run.inputs)
        with seeded(observation.model.seed or 0):
            output = run_from(module, inputs, blocks, first, between, last=last)
        scores = [
            score_of(observation, part, whole.target).value for part in _parts(output, len(alphas))
        ]
        (gradient,) = torch.autograd.grad(torch.stack(scores).sum(), [between])
        total += torch.einsum("s,snf->nf", shares.float(), gradient.float())
    return ((tokens - start).float() * total).sum(-1)


def _parts(output: Any, count: int) -> Iterator[Any]:
    """The output of each picture, from that of several."""
    leaves, spec = tree_flatten(output)
    for i in range(count):
        part = [
            leaf[i : i + 1] if isinstance(leaf, Tensor) and leaf.shape[:1] == (count,) else leaf
            for leaf in leaves
        ]
        yield tree_unflatten(part, spec)


def integrated_pixels(
    observation: Observation, run: Run, whole: Scored, first: int, last: int, *, steps: int
) -> Tensor:
    """(x·∫g) of the pixels of each token, (1, tokens), from a picture of zeros."""
    pixels, *rest = run.inputs
    blocks, module = run.recording.blocks, observation.model.module
    total = torch.zeros_like(pixels)
    for alpha, share in _points(steps):
        scaled = (alpha * pixels.detach()).requires_grad_()
        with seeded(observation.model.seed or 0):
            output = run_from(module, (scaled, *rest), blocks, min(blocks), None, last=last)
        score = score_of(observation, output, whole.target).value
        total += share * torch.autograd.grad(score, [scaled])[0]
    return _on_tokens(observation, first, pixels.detach() * total)


def gradient_times_pixels(
    observation: Observation, run: Run, whole: Scored, first: int, last: int
) -> Tensor:
    """(x·g) of the pixels of each token, (1, tokens)."""
    pixels, score = run.inputs[0], score_up_to(observation, run, whole, last)
    (gradient,) = torch.autograd.grad(score, [pixels], retain_graph=True)
    return _on_tokens(observation, first, pixels.detach() * gradient)


def pixels_by_rules(
    observation: Observation,
    run: Run,
    whole: Scored,
    first: int,
    last: int,
    *,
    rule: RuleName = "epsilon",
    gamma: float | None = None,
) -> Tensor:
    """Relevance of the pixels of each token, (1, tokens), by the rules of AttnLRP or a relative."""
    score, run, inputs = score_with_inputs(observation, run, whole, last, rule=rule, gamma=gamma)
    pixels, shape = run.inputs[0], run.recording.blocks[first].input.shape[:-1]
    biases = Biases(shape) if rule == "libra" else None
    gradient = modified_gradient(score, pixels, rule, gamma=gamma, inputs=inputs, biases=biases)
    relevance = _on_tokens(observation, first, pixels.detach() * gradient)
    return relevance if biases is None else relevance + biases.total


def _on_tokens(observation: Observation, number: int, relevance: Tensor) -> Tensor:
    """Sums over the pixels of each token's cell, (1, tokens), of (1, channels, height, width).

    Raises:
        RecordingError: the cells of the layer are no blocks of pixels.
    """
    layout = observation.layers[number].keys
    grid, shape = observation.placed(layout).grid, (layout.rows, layout.columns)
    cell = grid.cell_height, grid.cell_width
    sides = tuple(count * side for count, side in zip(shape, cell, strict=True))
    if relevance.ndim != 4 or relevance.shape[-2:] != sides or layout.left or layout.top:
        raise RecordingError(
            f"the cells of layer {number} are no blocks of the input's pixels; take --at tokens"
        )
    height, width = (int(side) for side in cell)
    blocks = relevance.float().sum((0, 1)).reshape(shape[0], height, shape[1], width)
    sums = torch.cat([blocks.sum((1, 3)).flatten(), relevance.new_zeros(1)])  # −1: no cell
    return sums[torch.from_numpy(layout.cells).to(sums.device)]


def gradient_times_input(
    observation: Observation, run: Run, whole: Scored, first: int, last: int
) -> Tensor:
    """(x·g), (1, tokens), of the tokens that enter layer `first`, of the model up to `last`."""
    tokens = run.recording.blocks[first].input
    score = score_up_to(observation, run, whole, last)
    (gradient,) = torch.autograd.grad(score, [tokens], retain_graph=True)
    return (tokens.detach().float() * gradient.float()).sum(-1)


def _tokens_of_zeros(observation: Observation, run: Run, number: int) -> Tensor:
    """The tokens that enter a block if every pixel is 0."""
    model, (pixels, *rest) = observation.model, run.inputs
    zeros = torch.zeros_like(pixels)
    with (
        seeded(model.seed or 0),
        torch.no_grad(),
        record(calls=[number], picture=None if model.plain else zeros, blocks=model.module) as seen,
    ):
        model.module(zeros, *rest)
    return seen.blocks[number].input


def _points(steps: int) -> Iterator[tuple[float, float]]:
    """Points between 0 and 1 and their weights, which sum to 1: those of Gauss and Legendre."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    yield from zip(((places + 1) / 2).tolist(), (weights / 2).tolist(), strict=True)
