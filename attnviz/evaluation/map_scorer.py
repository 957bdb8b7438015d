"""Scores the maps of one picture, and of the baselines without a model, with all metrics."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import UsageError
from attnviz.evaluation import (
    BEST,
    GAUSSIAN,
    LOCALIZED,
    MASKS,
    MEAN,
    METRICS,
    ORACLE,
    PERTURBATION,
    RANDOM,
    RANDOMISATION,
    SALIENCY,
    SENSITIVITY,
    Metric,
    robustness,
    settings_of,
)
from attnviz.evaluation import perturbation as perturbing
from attnviz.evaluation.baselines import gaussian, saliency
from attnviz.evaluation.objects import Objects, load_objects, on_tokens
from attnviz.evaluation.robustness import Rows
from attnviz.explanation.explanation import Answer, Explanation
from attnviz.explanation.localized_heads import choose_localized, mean_of
from attnviz.explanation.observation import Observation
from attnviz.io.picture import Picture, with_pixels

Values = NDArray[np.float64]
Drawn = NDArray[np.bool_]
Grid = tuple[str, bytes]
Among = Literal["upper", "all"]
KEPT_HEADS = 3
"""How many of the most localized heads have a row of their mean."""


@dataclass(frozen=True)
class Score:
    """The metrics of one map of one picture.

    >>> scores = attnviz.evaluate(explanation, mask="masks/cat.png")
    >>> 0.5 < scores[0].numbers["auc"] <= 1
    True

    Attributes:
        baseline: the baseline that made the map; None for the model's own map.
        method: the method that made the map; None if no model made it.
        layer: the layer whose grid the map has; None if its heads lie in several layers.
        head: the number of the head, `mean` for the mean of the heads, `best` for the best head of
            each object, `localized` for the mean of the most localized heads, `oracle` for the best
            head by each metric; None if no model made the map, or if the method merges heads.
        numbers: the values by the names of `METRICS`; NaN if a metric is not defined.
    """

    baseline: str | None
    method: str | None
    layer: int | None
    head: int | str | None
    numbers: dict[str, float] = field(default_factory=dict)


def evaluate(
    explanation: Explanation,
    *,
    mask: str | Path | None = None,
    perturbation: bool = False,
    control: Explanation | None = None,
    sensitivity: bool = False,
    randomisation: bool = False,
    seed: int = 0,
    **options: Any,
) -> list[Score]:
    """Measure how good the maps of one picture are, beside baselines.

    Args:
        explanation: what `explain` returned.
        mask: a picture of the objects in it; see `attnviz evaluate`.
        perturbation: also remove the pixels with the largest weights in the mean map of each layer,
            and measure the model's predictions; load the model with `load_model(…, head="class")`.
        control: an explanation of the same model with random weights, as a baseline.
        sensitivity: also run the model on noisy pictures, and measure how the mean map of each
            layer changes.
        randomisation: also redraw the model's weights from its head down, and measure how alike
            the mean maps stay; afterwards the weights are what they were.
        seed: seed of all noise, and of the weights.
        options: `draws` and `radius` of sensitivity, `cascade_steps` of randomisation.

    >>> maps = attnviz.explain(attnviz.observe(picture, model), layers="all")
    >>> attnviz.evaluate(maps, mask="masks/cat.png")[0].numbers["auc"] > 0.5
    True

    Raises:
        ImageError: the mask cannot be read, or has no object where the model looked.
        ModelError: the model has no class head.
    """
    observation = explanation.observation
    width, height = observation.picture.width, observation.picture.height
    wanted = {MASKS: mask is not None, PERTURBATION: perturbation, SENSITIVITY: sensitivity,
              RANDOMISATION: randomisation}  # fmt: skip
    groups = tuple(name for name, each in wanted.items() if each)
    scorer = MapScorer(
        observation,
        None if mask is None else load_objects(str(mask), width=width, height=height),
        groups=groups,
        settings=settings_of(groups, options),
        seed=seed,
    )
    found = scorer.maps(explanation)
    if control is not None:
        found += scorer.maps(control, RANDOM)
    return found + scorer.trivial(explanation)


@dataclass(frozen=True, eq=False)
class MapScorer:
    """Scores maps of one picture against its objects and against the model's predictions.

    Attributes:
        seen: the picture as the predicting model saw it.
        objects: the objects of its mask; None if no metric of `masks` is requested.
        groups: the groups of metrics that are requested.
        settings: options of metrics.
        seed: seed of noise and of redrawn weights.
        localized: how many of the most localized heads have a row of their mean; then there are no
            rows of single heads. None takes 3 of the heads of several layers.
        among: the layers that these are chosen from: `upper`, the upper half of those that have
            maps, or `all`.
    """

    observation: Observation
    objects: Objects | None
    groups: tuple[str, ...] = (MASKS,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    localized: int | None = None
    among: Among = "upper"
    _truths: dict[Grid, Drawn] = field(default_factory=dict)

    def maps(self, explanation: Explanation, baseline: str | None = None) -> list[Score]:
        """Scores of every head, of the mean of the heads, and of the best head, layer by layer.

        Of several layers also of heads of all of them: the most localized, the mean of those that
        these are chosen from, and the oracle. Localized heads that `explain` chose have a score
        each, and one of their mean.

        Raises:
            UsageError: there are fewer heads than localized ones were requested; or the chosen
                heads of `explain` are to be measured for robustness, which is of layers.
        """
        if explanation.localized and {SENSITIVITY, RANDOMISATION} & set(self.groups):
            raise UsageError(
                "sensitivity and randomisation are of the mean map of each layer, not of localized "
                "heads; explain with heads='all'"
            )
        scores = self._maps(explanation, baseline)
        of_layers: Rows = {}
        if SENSITIVITY in self.groups:
            of_layers = self._robust(explanation, robustness.sensitivity, ("draws", "radius"))
        if RANDOMISATION in self.groups and baseline is None:
            found = self._robust(explanation, robustness.randomisation, ("cascade_steps",))
            of_layers = {layer: of_layers.get(layer, {}) | each for layer, each in found.items()}
        return [
            replace(each, numbers=each.numbers | of_layers.get(each.layer or 0, {}))
            if each.head in (MEAN, None) and each.layer is not None
            else each
            for each in scores
        ]

    def _robust(
        self, explanation: Explanation, measure: Callable[..., Rows], names: Sequence[str]
    ) -> Rows:
        """What a measure of robustness finds for the mean map of each layer."""
        options = {name: self.settings[name] for name in names}
        return measure(explanation, **options, seed=self.seed)

    def _maps(self, explanation: Explanation, baseline: str | None) -> list[Score]:
        """The scores of `maps` that need no further runs for new maps."""
        explanation.require_one_component()
        if explanation.localized:
            return [
                self._of_chosen(explanation, answer, baseline) for answer in explanation.answers
            ]
        scores = [
            Score(baseline, explanation.method, layer, head, numbers)
            for layer, answers in explanation.by_layer.items()
            for head, numbers in self._layer(answers)
        ]
        merged = explanation.answers[0].head is None
        if merged or (self.localized is None and len(explanation.layers) == 1):
            return scores
        scores += [
            Score(baseline, explanation.method, None, head, numbers)
            for head, numbers in self._of_several(explanation, scores)
        ]
        if self.localized is None:
            return scores
        return [each for each in scores if each.head in (MEAN, LOCALIZED, ORACLE)]

    def _of_chosen(self, explanation: Explanation, answer: Answer, baseline: str | None) -> Score:
        """The score of a localized head, or of the mean of all of them."""
        values, method = answer.values.astype(np.float64), explanation.method
        if answer.head is None:
            return Score(baseline, method, None, LOCALIZED, self._numbers(values, answer))
        return Score(baseline, method, answer.layer, answer.head, self._of_masks(values, answer))

    def _of_several(
        self, explanation: Explanation, scores: Sequence[Score]
    ) -> Iterable[tuple[str, dict[str, float]]]:
        """Scores of heads of several layers together: localized ones, the mean, and the oracle."""
        layers, count = explanation.layers, self.localized or KEPT_HEADS
        among = layers[len(layers) // 2 :] if self.among == "upper" else layers
        candidates = [answer for answer in explanation.answers if answer.layer in among]
        if count > len(candidates):
            if self.localized is None:
                return
            raise UsageError(
                f"--heads localized:{count}: layers {', '.join(map(str, among))} have "
                f"{len(candidates)} heads; give at most localized:{len(candidates)}"
            )
        chosen = [views[0] for views, _ in choose_localized(candidates, count)]
        for head, answers in ((MEAN, candidates), (LOCALIZED, chosen)):
            mean = mean_of(answers, layers[-1])
            yield head, self._numbers(mean.values.astype(np.float64), mean)
        single = [each.numbers for each in scores if isinstance(each.head, int)]
        if single:
            yield ORACLE, {name: _best(name, [each[name] for each in single]) for name in single[0]}

    def trivial(self, explanation: Explanation) -> list[Score]:
        """Scores of the baselines without a model, on the grid of each layer."""
        picture = with_pixels(self.observation.picture)
        scores_by_grid: dict[Grid, dict[str, dict[str, float]]] = {}
        found = []
        for layer, (answer, *_) in explanation.by_layer.items():
            if _grid(answer) not in scores_by_grid:
                scores_by_grid[_grid(answer)] = {
                    name: self._numbers(values, answer)
                    for name, values in _trivial(picture, answer).items()
                }
            of_grid = scores_by_grid[_grid(answer)]
            found += [Score(name, None, layer, None, numbers) for name, numbers in of_grid.items()]
        return found

    def _layer(
        self, answers: Sequence[Answer]
    ) -> Iterable[tuple[int | str | None, dict[str, float]]]:
        if answers[0].head is None:  # the method merges heads
            return [(None, self._numbers(answers[0].values.astype(np.float64), answers[0]))]
        mean = np.mean([answer.values.astype(np.float64) for answer in answers], axis=0)
        if self.objects is None:
            return [(MEAN, self._numbers(mean, answers[0]))]
        objects = self._truth(answers[0])
        weights = [answer.values[answer.drawn].astype(np.float64) for answer in answers]
        found = [_against(each, objects) for each in weights]
        best = {
            name: float(np.stack([each[name] for each in found]).max(0).mean())
            if METRICS[name].higher
            else float(np.stack([each[name] for each in found]).min(0).mean())
            for name in found[0]
            if METRICS[name].per_object
        }
        return [
            *((answer.head, _means(each)) for answer, each in zip(answers, found, strict=True)),
            (MEAN, self._numbers(mean, answers[0])),
            (BEST, best),
        ]

    def _numbers(self, values: Values, answer: Answer) -> dict[str, float]:
        """All requested metrics of a map on the grid of an answer."""
        found = self._of_masks(values, answer)
        if PERTURBATION in self.groups:
            found |= perturbing.perturb(
                self._shown,
                self._predict,
                perturbing.upsample(values, answer.placement),
                label=self._label,
                seed=self.seed,
            )
        return found

    def _of_masks(self, values: Values, answer: Answer) -> dict[str, float]:
        """The metrics of a map that need a mask; empty without one."""
        if self.objects is None:
            return {}
        return _means(_against(values[answer.drawn], self._truth(answer)))

    def _truth(self, answer: Answer) -> Drawn:
        """Which drawn tokens belong to each object; computed once per grid."""
        assert self.objects is not None
        grid = _grid(answer)
        if grid not in self._truths:
            self._truths[grid] = on_tokens(self.objects, answer.placement, answer.drawn)
        return self._truths[grid]

    @cached_property
    def _shown(self) -> perturbing.PerturbationInput:
        observation = self.observation
        pixels = observation.model.pixels(observation.picture, observation.placement)
        return perturbing.shown(observation.model, pixels, observation.placement)

    @cached_property
    def _predict(self) -> perturbing.Predict:
        return perturbing.remembered(perturbing.predictor(self.observation.model))

    @cached_property
    def _label(self) -> int:
        """The class that the model predicts for the whole picture."""
        return int(self._predict(self._shown.input[None])[0].argmax())


def _best(name: str, values: Sequence[float]) -> float:
    """The best value of a metric; NaN if none is defined."""
    best = np.fmax if METRICS[name].higher else np.fmin
    return float(best.reduce(np.array(values)))


def _grid(answer: Answer) -> Grid:
    """A key that is equal for layers whose tokens lie in the same places."""
    return str(answer.placement), answer.drawn.tobytes()


def _trivial(picture: Picture, answer: Answer) -> dict[str, Values]:
    return {
        GAUSSIAN: gaussian(answer.placement),
        SALIENCY: saliency(picture, answer.placement, answer.drawn),
    }


def _against(weights: Values, objects: Drawn) -> dict[str, Values]:
    """Metrics of a map, (tokens,), for objects, (objects, tokens): one per object, or one alone."""
    truth: Drawn = objects.any(axis=0)  # type: ignore[assignment]  # no scalar: one for each token
    return {
        name: _number(entry, weights, objects if entry.per_object else truth, len(objects))
        for name, entry in METRICS.items()
        if entry.group == MASKS
    }


def _number(entry: Metric, weights: Values, truth: Drawn, objects: int) -> Values:
    """One metric: (objects,) if it has a number for each object, else (1,)."""
    count = objects if entry.per_object else 1

    def measured() -> Values:
        found = np.atleast_1d(np.asarray(entry(weights, truth), dtype=np.float64))
        if found.shape != (count,):
            raise ValueError(f"it returns {found.shape}, not ({count},)")
        return found

    return entry.run_or(np.full(count, np.nan), measured)


def _means(numbers: dict[str, Values]) -> dict[str, float]:
    """The mean of each metric over the objects."""
    return {name: float(values.mean()) for name, values in numbers.items()}
