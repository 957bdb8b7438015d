"""Gradients of a score at the attention of an observation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnviz.attention import AttentionCall, run_tail
from attnviz.errors import UsageError
from attnviz.models import scoring
from attnviz.models.scoring import Scored
from attnviz.pipeline.observation import Observation, Run
from attnviz.pipeline.question import mask_of, resolve, token_weights
from attnviz.targets import Target


@dataclass(frozen=True, eq=False)
class Gradients:
    """A score, and its gradient at the output of each layer, (B, H, Nq, Dv)."""

    scored: Scored
    of_layers: Mapping[int, Tensor]

    def given_to(self, number: int, call: AttentionCall) -> AttentionCall:
        """A layer's call with its gradient.

        Raises:
            UsageError: the score does not depend on it.
        """
        if number not in self.of_layers:
            raise UsageError(
                f"--target {self.scored.target}: the score does not depend on layer {number}; take "
                "other --layers, or another --target"
            )
        return replace(call, gradient=self.of_layers[number])


def gradients(observation: Observation, target: Target, *, of_blocks: bool = False) -> Gradients:
    """Gradients of a score; taken once, however often they are asked.

    Args:
        observation: of a model that ran with `gradients`.
        target: what the score is.
        of_blocks: of the score that the model's head gives the tokens after each block, at this
            block's attention (LeGrad, 2404.03214, eq. 6), instead of the model's own score.

    Raises:
        UsageError: the model ran without gradients, or has no such score.
        ModelError: the score is not finite.
        RecordingError: the gradient cannot be had.
    """
    known = observation.gradients
    if (target, of_blocks) not in known:
        run = observation.run
        if run is None:
            raise UsageError(
                "the model ran without gradients; observe it with gradients=True, or ask a method "
                "without a score"
            )
        find = _of_blocks if of_blocks else _of_model
        with torch.enable_grad():
            definite = scoring.resolve(observation.model, target)
            known[target, of_blocks] = find(observation, run, definite)
    found: Gradients = known[target, of_blocks]
    return found


def _of_model(observation: Observation, run: Run, target: Target) -> Gradients:
    scored = _score(observation, run.output, target)
    return Gradients(_alone(scored), run.recording.gradients(scored.value))


def _of_blocks(observation: Observation, run: Run, target: Target) -> Gradients:
    """Each block's score goes back through that block alone."""
    whole = _score(observation, run.output, target)
    blocks = run.recording.blocks
    found: dict[int, Tensor] = {}
    for number in sorted(blocks.keys() & observation.layers.keys()):
        output = run_tail(observation.model.module, run.inputs, blocks, number)
        score = _score(observation, output, whole.target).value
        found |= run.recording.gradients(score, calls=[number])
    return Gradients(_alone(whole), found)


def _alone(scored: Scored) -> Scored:
    """A score that holds no graph."""
    return replace(scored, value=scored.value.detach())


def _score(observation: Observation, output: object, target: Target) -> Scored:
    weights = None
    if target.query is not None:
        number = max(observation.layers)
        layer = observation.layers[number]
        query = resolve(observation, target.query, [number])[0]
        mask = mask_of(query, observation.picture)
        found = token_weights(observation, layer.queries, query, mask)
        weights = torch.from_numpy(found[0]).to(observation.model.device)
    return scoring.score(observation.model, output, target, weights)
