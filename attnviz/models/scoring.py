"""Computes the score of a target: the scalar of a model's output that gradients are taken of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz.errors import UsageError
from attnviz.models.model import Model
from attnviz.models.predictions import DenseOutput, Predictions, part
from attnviz.models.read_output import find_logits, finite, logits, predicts_classes, tokens_of
from attnviz.models.resolve_target import named, resolve
from attnviz.models.targets import Target
from attnviz.models.transcript import Transcript


@dataclass(frozen=True, eq=False)
class Scored:
    """The score of a target for one output.

    Attributes:
        target: the resolved target: a class with its number, and its label if it has one; a norm;
            or a text.
        value: the score, a scalar in float32 with its graph; of a target against others, the
            difference.
        probability: for a class, its softmax over all classes; None for other targets.
    """

    target: Target
    value: Tensor
    probability: float | None = None


def score(
    model: Model,
    output: Any,
    target: Target,
    weights: Tensor | NDArray[np.float64] | None = None,
    *,
    class_token: int = 0,
) -> Scored:
    """The score of a target, from a model's output for one picture.

    The score of a class is its logit. That of a text is the cosine of the embeddings of picture
    and text. That of a norm is the L2 norm of one vector: with a query, the output token at the
    query or the weighted mean of tokens; without a query, the class token, else the model's own
    pooled vector, else the mean of the grid; if the model returns a single vector, that vector.
    `auto` is the class of the largest logit if there are logits, else the norm. Of targets
    `against` it, the mean score is subtracted.

    Args:
        model: the model that made the output.
        output: what `model.module` returned: logits (1, classes), features (1, F), tokens
            (1, N, F), a map (1, F, h, w), or an object that has one of these as `logits` or
            `last_hidden_state`.
        target: the target; it is resolved first if `resolve` did not return it.
        weights: (N,) weights of the query over tokens, or over the map's cells row by row; they
            sum to 1.
        class_token: number of the class token among the tokens, if the model has one.

    >>> pixels = model.pixels(picture, model.place(picture))
    >>> score(model, model.module(pixels), Target("norm")).target.kind
    'norm'

    Raises:
        UsageError: the output has no such class or token.
        ModelError: the output has no such score, or the score is not finite.
    """
    target = resolve(model, target)
    found = _score_alone(model, output, target, weights, class_token)
    if not target.against:
        return found
    if target.kind == "text":
        others = [_score_alone(model, output, o, None, 0).value for o in target.against]
        return _less(found, others, target.against)
    return _contrast(model, logits(model, output)[0], found, target.against)


def _contrast(
    model: Model,
    of_classes: Tensor,
    found: Scored,
    against: Sequence[Target],
    index: int | None = None,
) -> Scored:
    """The score of a class, among (classes,), less the mean score of others.

    `index` is the number of the class, if the target has none.

    Raises:
        UsageError: a class is compared with itself, or there is no such class.
    """
    values, index = [], found.target.index if index is None else index
    for other in against:
        if other.kind == "rest":
            values.append((of_classes.sum() - found.value) / (len(of_classes) - 1))
            continue
        if other.index == index:
            raise UsageError(
                f"--against {other}: {other.label or index} is the target itself; give another "
                "class, or rest"
            )
        values.append(_score_class(model, of_classes, other).value)
    return _less(found, values, against)


def _less(found: Scored, others: Sequence[Tensor], against: Sequence[Target]) -> Scored:
    """A score less the mean score of others (Finer-CAM, 2501.11309)."""
    difference = found.value - torch.stack(list(others)).mean()
    return replace(found, target=replace(found.target, against=tuple(against)), value=difference)


def _score_alone(
    model: Model,
    output: Any,
    target: Target,
    weights: Tensor | NDArray[np.float64] | None,
    class_token: int,
) -> Scored:
    """The score of a resolved target, without what it is compared with."""
    if target.kind == "text":
        assert model.texts is not None  # `resolve` checked both
        assert target.text is not None
        value = (tokens_of(model, output)[0].float() * model.texts([target.text])[0]).sum()
        return Scored(replace(target, against=()), finite(model, value))
    classes = find_logits(output) if predicts_classes(model, output) else None
    if target.kind == "class" or (target.kind == "auto" and classes is not None):
        return _score_class(model, logits(model, output)[0], target)
    pooled = part(output, "pooler_output")
    vector = (
        pooled[0].float()
        if target.query is None and isinstance(pooled, Tensor) and not model.class_token
        else _pooled(model, tokens_of(model, output), target, weights, class_token)
    )
    value = torch.linalg.vector_norm(vector)
    return Scored(replace(target, kind="norm"), finite(model, value))


def word_score(model: Model, logits: Tensor, target: Target, text: Transcript) -> Scored:
    """The sum of the logits of a word's tokens, each at the position that predicts it.

    Args:
        model: the model.
        logits: (1, n, vocabulary), of the last n tokens of prompt and answer.
        target: the word.
        text: prompt and answer.

    Raises:
        ModelError: the score is not finite.
    """
    assert target.query is not None  # a word
    rows = list(target.query.tokens)
    ids = [text.ids[row + 1 - text.prompt_tokens] for row in rows]
    left_out = text.tokens - logits.shape[1]
    each = logits[0, [row - left_out for row in rows], ids]
    return Scored(target, finite(model, each.float().sum()))


def object_score(model: Model, predictions: Predictions, target: Target) -> Scored:
    """The logit of an object's label.

    Raises:
        UsageError: the label is compared with itself.
        ModelError: the score is not finite.
    """
    assert target.query is not None  # an object
    assert target.query.found is not None
    found = target.query.found
    label = predictions.labels.index(found.label)
    of_labels = predictions.logits[0, found.index, : len(predictions.labels)].float()
    scored = Scored(replace(target, against=()), finite(model, of_labels[label]), found.score)
    return _contrast(model, of_labels, scored, target.against, label) if target.against else scored


def region_score(model: Model, dense: DenseOutput, target: Target, weights: Tensor) -> Scored:
    """The mean score of a class over a region, Σ_cells w·score; of the winning one without class.

    Args:
        model: the model.
        dense: the scores of each place of one picture.
        target: the region, resolved.
        weights: (h·w,) share of the region that lies in each cell; they sum to 1.

    Raises:
        UsageError: there is no such class, or a depth is asked for classes.
        ModelError: the score is not finite.
    """
    of_classes = finite(model, dense.values[0].flatten(1) @ weights.float())
    if not dense.classes:
        if target.index is not None or target.against:
            where = "auto" if target.query is None else target.query
            raise UsageError(
                f"{'--against' if target.against else f'--target {target}'}: {model.spec} predicts "
                f"a depth, and no classes; give --target pixel:{where} alone"
            )
        return Scored(target, of_classes[0])
    index = int(of_classes.argmax()) if target.index is None else target.index
    found = named(model, replace(target, index=index, against=()), len(of_classes), dense.labels)
    scored = Scored(found, of_classes[index])
    return _contrast(model, of_classes, scored, target.against) if target.against else scored


def _score_class(model: Model, of_classes: Tensor, target: Target) -> Scored:
    """The score of a class: its logit among (classes,)."""
    index = int(of_classes.argmax()) if target.index is None else target.index
    found = named(model, Target("class", index=index), len(of_classes))
    probability = float(of_classes.detach().double().softmax(0)[index])
    return Scored(found, of_classes[index], probability)


def _pooled(
    model: Model,
    state: Tensor,
    target: Target,
    weights: Tensor | NDArray[np.float64] | None,
    class_token: int,
) -> Tensor:
    """The vector whose norm is taken, (F,) in float32."""
    if target.query is None:
        return _own_pooling(model, state, class_token)
    if state.ndim == 2:
        raise UsageError(
            f"--target {target}: {model.spec} gives one vector of a picture, and no tokens; give "
            "--target norm"
        )
    assert weights is not None  # the caller gives the weights of the query over the output
    share = torch.as_tensor(weights, dtype=torch.float32, device=state.device)
    tokens = state[0].float() if state.ndim == 3 else state[0].float().flatten(1).T  # (N, F)
    if len(share) != len(tokens):
        raise UsageError(
            f"--target {target}: {model.spec} gives {len(tokens)} tokens, which do not lie as "
            f"those of its input, which are {len(share)}; give --target norm"
        )
    return share @ tokens


def _own_pooling(model: Model, state: Tensor, class_token: int) -> Tensor:
    """The model's own pooling: the class token, else the mean of the grid, (F,)."""
    values = state[0].float()
    if values.ndim == 1:
        return values
    if values.ndim == 3:  # a map holds grid tokens only
        return values.mean((1, 2))
    if model.class_token:
        return values[class_token]
    grid = values[model.prefix :] if len(values) > model.prefix else values
    return grid.mean(0)
