"""Goes back from a score through an observation: gradients at attention calls, or relevance."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.attribution import propagate
from attnviz.attribution.backward_rules import RuleName
from attnviz.attribution.linear_maps import divided
from attnviz.attribution.operator_inputs import OperatorInputs
from attnviz.attribution.propagation import relevance_at
from attnviz.errors import RecordingError, UsageError
from attnviz.explanation.observation import Observation, Run
from attnviz.explanation.query_weights import (
    class_token_of,
    mask_of,
    object_query,
    place_weights,
    relabelled,
    resolve,
    token_weights,
)
from attnviz.geometry.detections import found_objects
from attnviz.geometry.grid import Layout, TokenGrid
from attnviz.models import resolve_target, scoring
from attnviz.models.predictions import find_dense, find_predictions
from attnviz.models.scoring import Scored
from attnviz.models.targets import Target
from attnviz.models.vision import inside
from attnviz.recording import run_tail


class Backward(Protocol):
    """The result of going back from a score."""

    @property
    def scored(self) -> Scored:
        """The score."""

    def given_to(self, number: int, reading: LayerInput) -> LayerInput:
        """The input of a layer, with the gradient or relevance that reaches this layer."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """A score, and its gradient at the output of each layer, (B, H, Nq, Dv).

    `relevances`, if they were asked for, are those of the outputs divided by the outputs.
    """

    scored: Scored
    of_layers: Mapping[int, Tensor]
    relevances: Mapping[int, Tensor] = field(default_factory=dict)

    def given_to(self, number: int, reading: LayerInput) -> LayerInput:
        """The layer input with the gradient of its call.

        Raises:
            UsageError: the score does not depend on the layer.
        """
        if number not in self.of_layers:
            raise UsageError(
                f"--target {self.scored.target}: the score does not depend on layer {number}; take "
                "other --layers, or another --target"
            )
        gradient, relevance = self.of_layers[number], self.relevances.get(number)
        call = replace(reading.call, gradient=gradient, relevance=relevance)
        return replace(reading, call=call)


@dataclass(frozen=True, eq=False)
class Relevances:
    """A score, and tokens' relevance for it, (1, tokens), by the layer that the model ends with."""

    scored: Scored
    of_layers: Mapping[int, Tensor]

    def given_to(self, number: int, reading: LayerInput) -> LayerInput:
        """The layer input with the relevance for the score of the model that ends here."""
        return replace(reading, relevance=self.of_layers.get(number))


def gradients(observation: Observation, target: Target, *, of_blocks: bool = False) -> Gradients:
    """Gradients of a score; they are computed once and cached.

    Args:
        observation: observation of a run with `gradients`.
        target: the target that defines the score.
        of_blocks: for each block, take the gradient at its attention of the score that the model's
            head gives the tokens after this block (LeGrad, 2404.03214, eq. 6), instead of the
            gradient of the model's own score.

    Raises:
        UsageError: the model ran without gradients, or has no such score.
        ModelError: the score is not finite.
        RecordingError: the gradient cannot be computed.
    """
    find = _of_blocks if of_blocks else _of_model
    found: Gradients = once(observation, target, of_blocks, find)
    return found


Way = Callable[[Observation, Run, Scored, int, int], Tensor]
"""Gives (1, tokens), the relevance of what enters the first layer, of the model up to the last."""


def relevances(
    observation: Observation,
    target: Target,
    layers: Mapping[int, Sequence[int]],
    way: Way,
    *,
    name: object,
) -> Relevances:
    """Relevance of the tokens that enter the first of some layers; each is computed once.

    The score is that of the model as if its stack of blocks ended with the last of these layers
    (AttnLRP, 2402.05602).

    Args:
        observation: of a model that ran with `gradients`.
        target: what the score is.
        layers: for each layer that the model is to end with, all layers from the first to this one.
        way: how relevance goes back.
        name: a name of this way.

    Raises:
        UsageError: the model ran without gradients, or has no such score.
        ModelError: the score is not finite.
        RecordingError: relevance cannot go back through an operation of the model.
    """

    def find(observation: Observation, run: Run, target: Target) -> Relevances:
        whole = score_of(observation, run.output, target)
        found = {
            last: _checked(observation, way(observation, run, whole, numbers[0], last), numbers[0])
            for last, numbers in layers.items()
        }
        return Relevances(alone(whole), found)

    key = name, *((last, numbers[0]) for last, numbers in layers.items())
    found: Relevances = once(observation, target, key, find)
    return found


def once(
    observation: Observation,
    target: Target,
    what: object,
    find: Callable[[Observation, Run, Target], Backward],
) -> Any:
    """The result of `find`, cached in the observation.

    Raises:
        UsageError: the model ran without gradients.
    """
    gradients = observation.gradients
    if (target, what) not in gradients:
        run = observation.run
        if run is None:
            raise UsageError(
                "the model ran without gradients; observe it with gradients=True, or ask a method "
                "without a score"
            )
        with torch.enable_grad():
            definite = resolve_target.resolve(observation.model, target)
            gradients[target, what] = find(observation, run, definite)
    return gradients[target, what]


def _of_model(observation: Observation, run: Run, target: Target) -> Gradients:
    scored = score_of(observation, run.output, target)
    drawn = sorted(observation.layers)  # others may not depend on the picture
    return Gradients(alone(scored), run.recording.gradients(scored.value, calls=drawn))


def attributions(observation: Observation, target: Target) -> Gradients:
    """Gradients of a score, and the relevance of attention's outputs for it; computed once.

    Relevance goes back by the rules of Chefer et al. 2021 (2012.09838), in a run of its own that
    keeps what operators were given.

    Raises:
        UsageError: the model ran without gradients, or has no such score.
        ModelError: the score is not finite.
        RecordingError: there is no rule for an operation between a layer and the score.
    """
    found: Gradients = once(observation, target, "attribution", _attributions)
    return found


def _attributions(observation: Observation, _: Run, target: Target) -> Gradients:
    run, inputs = run_with_inputs(observation)
    again = replace(observation, run=run)
    with inputs:
        scored = score_of(again, run.output, target)
    drawn = sorted(observation.layers)

    def gradients(score: Tensor) -> Mapping[int, Tensor]:
        return run.recording.gradients(score, calls=drawn)

    relevances = {}
    for number, relevance in relevance_at(scored.value, inputs, gradients).items():
        output = run.recording[number].output
        assert output is not None  # else it has no gradient
        wide = torch.promote_types(output.dtype, torch.float32)
        relevances[number] = divided(relevance.to(wide), output.detach().to(wide))
    return Gradients(alone(scored), gradients(scored.value), relevances)


def run_with_inputs(observation: Observation) -> tuple[Run, OperatorInputs]:
    """A second run of an observed model that keeps what operators were given; made once."""
    found: tuple[Run, OperatorInputs] | None = observation.gradients.get("inputs")
    if found is None:
        assert observation.run is not None
        if observation.run.again is None:
            raise RecordingError("the model cannot be run again; take --method relevance")
        inputs = OperatorInputs()
        with torch.enable_grad(), inputs:
            found = observation.run.again(), inputs
        observation.gradients["inputs"] = found
    return found


def _of_blocks(observation: Observation, run: Run, target: Target) -> Gradients:
    """Gradients of each block's own score, which goes back through that block only."""
    whole = score_of(observation, run.output, target)
    blocks = run.recording.blocks
    found: dict[int, Tensor] = {}
    for number in sorted(blocks.keys() & observation.layers.keys()):
        output = run_tail(observation.model.module, run.inputs, blocks, number)
        score = score_of(observation, output, whole.target).value
        found |= run.recording.gradients(score, calls=[number])
    return Gradients(alone(whole), found)


def by_rules(
    observation: Observation,
    run: Run,
    whole: Scored,
    first: int,
    last: int,
    *,
    rule: RuleName = "epsilon",
    gamma: float | None = None,
) -> Tensor:
    """Relevance by the rules of AttnLRP, or of a relative."""
    score, run, inputs = score_with_inputs(observation, run, whole, last, rule=rule, gamma=gamma)
    tokens = run.recording.blocks[first].input
    return propagate(score, tokens, rule=rule, gamma=gamma, inputs=inputs)


def score_with_inputs(
    observation: Observation,
    run: Run,
    whole: Scored,
    last: int,
    *,
    rule: RuleName,
    gamma: float | None,
) -> tuple[Tensor, Run, OperatorInputs | None]:
    """The score up to a layer, its run, and what operators were given if the rule needs it."""
    if rule in ("epsilon", "cp") and not gamma:
        return score_up_to(observation, run, whole, last), run, None
    run, inputs = run_with_inputs(observation)
    with inputs:
        return score_up_to(replace(observation, run=run), run, whole, last), run, inputs


def score_up_to(observation: Observation, run: Run, whole: Scored, last: int) -> Tensor:
    """The score of the model as if its stack of blocks ended with a layer."""
    blocks = run.recording.blocks
    if last < max(blocks):
        output = run_tail(observation.model.module, run.inputs, blocks, last)
    else:
        output = run.output
    return score_of(observation, output, whole.target).value


def _checked(observation: Observation, relevance: Tensor, first: int) -> Tensor:
    if relevance.shape != observation.layers[first].keys.cells.shape:
        raise RecordingError(
            f"the tokens that enter the block of layer {first} are not its keys; ask another method"
        )
    return relevance


def alone(scored: Scored) -> Scored:
    """A score without its graph."""
    return replace(scored, value=scored.value.detach())


def score_of(observation: Observation, output: object, target: Target) -> Scored:
    """The score of a target in an output of the observed model, with its graph.

    Args:
        observation: what the score is of; a word and an object are those that it knows.
        output: what the model returned.
        target: the resolved target.

    Raises:
        UsageError: the output has no such score.
        ModelError: the score is not finite.
    """
    if target.kind == "word":
        assert observation.text is not None
        assert isinstance(output, Tensor)
        return scoring.word_score(observation.model, output, target, observation.text)
    if target.kind == "object":
        return _object_score(observation, output, target)
    if target.kind == "region":
        return _region_score(observation, output, target)
    weights = None
    number = max(observation.layers)
    layer = observation.layers[number]
    if target.query is not None:
        query = resolve(observation, target.query, [number])[0]
        mask = mask_of(query, observation.picture)
        found = token_weights(observation, layer, query, mask)
        weights = torch.from_numpy(found[0]).to(observation.model.device)
    class_token = class_token_of(observation, layer) or 0
    return scoring.score(observation.model, output, target, weights, class_token=class_token)


def _object_score(observation: Observation, output: object, target: Target) -> Scored:
    """The score of an object, in this output if it is the model's whole output."""
    assert target.query is not None
    assert observation.run is not None
    predictions = find_predictions(output, inside(observation.model.module))
    predictions = observation.run.predictions if predictions is None else predictions
    query = target.query
    if query.found is None:  # as it was typed: of a label the best one
        with relabelled("--query", f"--target {query}".removesuffix(str(query)).strip()):
            named = int(query.numbers[0]) if query.numbers else None
            each = found_objects(
                observation.objects, -1.0, asked=str(query), number=named, label=query.name
            )
        target = replace(target, query=object_query(each[0]))
    assert predictions is not None  # else it has no objects
    return scoring.object_score(observation.model, predictions, target)


def _region_score(observation: Observation, output: object, target: Target) -> Scored:
    """The score of a region.

    Raises:
        UsageError: the model has no score of each place, or none lies in the region.
    """
    model = observation.model
    dense = find_dense(output, inside(model.module))
    if dense is None:
        boxes = observation.objects and observation.object_masks is None
        why = "its objects have boxes and no masks; give --target object:N" if boxes else (
            "its output has none; give --target norm, or a segmenter or a depth model that was "
            "saved with its head"
        )  # fmt: skip
        raise UsageError(f"--target {target}: {model.spec} gives no score of each place: {why}")
    rows, columns = dense.values.shape[-2:]
    placement = observation.placed(Layout.whole(TokenGrid(rows, columns, 1)))
    weights = place_weights(target, placement, observation.picture)
    share = torch.from_numpy(weights).to(dense.values.device)
    return scoring.region_score(model, dense, target, share)


def with_score(
    readings: Mapping[int, LayerInput], score: Backward | None
) -> Mapping[int, LayerInput]:
    """Layer inputs with the gradients of a score, if there is one."""
    if score is None:
        return readings
    return {number: score.given_to(number, reading) for number, reading in readings.items()}
