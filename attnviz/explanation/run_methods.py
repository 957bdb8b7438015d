"""Runs methods and statistics on the layers of an observation, and collects the answers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.attention.sweep import Progress
from attnviz.attention.sweep_together import to_host
from attnviz.errors import RecordingError, UsageError
from attnviz.explanation.beyond_words import (
    goes_beyond,
    layout_beyond,
    maps_beyond,
    word_relevances,
)
from attnviz.explanation.explanation import (
    Answer,
    Explanation,
    LocalizedHead,
    ResolvedQuestion,
    by_head,
)
from attnviz.explanation.localized_heads import choose_localized, means_of
from attnviz.explanation.observation import Observation
from attnviz.explanation.query_weights import read, sampled_points
from attnviz.explanation.score_gradients import (
    Backward,
    Way,
    attributions,
    by_rules,
    gradients,
    relevances,
    with_score,
)
from attnviz.explanation.token_gradients import (
    gradient_times_input,
    gradient_times_pixels,
    integrated,
    integrated_pixels,
    path_gradients,
    pixels_by_rules,
    token_gradients,
)
from attnviz.explanation.words_asked import seen_rows
from attnviz.geometry.grid import Layout
from attnviz.geometry.queries import Query
from attnviz.methods import DEFAULT, ENTERING, METHODS, Method, Need
from attnviz.methods.bases import check_model
from attnviz.models.targets import Target
from attnviz.registry import complete
from attnviz.statistics import MORE, STATISTICS, measure_all, more
from attnviz.statistics.tokens import HighNorm, high_norm

T = TypeVar("T")
Statistics = Literal["basic", "all"]


class _Found(NamedTuple):
    """The results of one layer.

    Attributes:
        maps: (R, heads, views, rows, columns), a map for each of R queries, each head and each
            view of a clip; a picture is one view.
        numbers: the value of each statistic for every head.
        components: the number and the share of each component, if the maps are components.
    """

    maps: NDArray[np.float32]
    numbers: dict[str, list[float]]
    components: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, eq=False)
class LayerQuery:
    """A request that is resolved for the layers of an observation.

    Attributes:
        observation: the observation.
        method: name of the method.
        settings: all options of the method and of statistics.
        layers: for each requested layer, the layers that its map is made of.
        heads: for each requested layer, the head numbers; `(None,)` if heads are merged.
        queries: for each layer, its queries.
        statistics: `basic`, or `all`.
        localized: how many of these heads to choose for each question; None takes all.
        given: the heads of each question, if they were chosen before.
        own_scores: whether each query has one score, its own: that of a word or an object.
    """

    observation: Observation
    method: str
    settings: Mapping[str, Any]
    layers: Mapping[int, tuple[int, ...]]
    heads: Mapping[int, tuple[int | None, ...]]
    queries: Mapping[int, tuple[Query, ...]]
    statistics: Statistics = "basic"
    localized: int | None = None
    given: Sequence[Sequence[LocalizedHead]] | None = None
    own_scores: bool = False

    @property
    def entry(self) -> Method:
        """The method's entry in the table."""
        return METHODS[self.method]

    def prepared(self) -> dict[int, LayerInput]:
        """Layer inputs whose numbers are still to be measured; the observation keeps them."""
        observation = self.observation
        if self.localized is not None or self.entry.merges != "nothing":
            return {}
        readings = self._readings(None)
        observation.inputs.update({(n, self.queries[n]): readings[n] for n in self.layers})
        return {n: readings[n] for n in self.layers if n not in observation.numbers}

    def answered(self, targets: Sequence[Target], progress: Progress | None) -> Explanation:
        """The explanation of every query with every target."""
        readings = self._readings(progress)
        if self.localized is not None:
            return self._answered_localized(readings, self._scores(targets))
        # Numbers first: they sweep layer by layer, and progress is reported in this order.
        self._measure(readings)
        scores = self._scores(targets)
        results = [self._found(readings, score) for score in scores]
        questions: list[ResolvedQuestion] = []
        answers: list[Answer] = []
        for number in range(len(next(iter(self.queries.values())))):
            for score, of_layers in self._of_query(number, zip(scores, results, strict=True)):
                for layer in self.layers:
                    answers += self._answers(layer, number, of_layers[layer], len(questions))
                last = self.queries[max(self.layers)][number]
                questions.append(ResolvedQuestion(last, None if score is None else score.scored))
        return self._explanation(questions, answers, self.layers, readings)

    def _of_query(self, number: int, scored: Iterable[T]) -> list[T]:
        """What is scored for a query: all, or of words and objects the query itself."""
        each = list(scored)
        return each[number : number + 1] if self.own_scores else each

    def _explanation(
        self,
        questions: Sequence[ResolvedQuestion],
        answers: Sequence[Answer],
        layers: Iterable[int],
        readings: Mapping[int, LayerInput],
    ) -> Explanation:
        return Explanation(
            self.observation,
            tuple(questions),
            self.method,
            tuple(answers),
            self.settings,
            {layer: self.observation.more[layer] for layer in layers} if self._all else {},
            _high_norms(readings) if self.entry.components else {},
        )

    def _answered_localized(
        self, readings: Mapping[int, LayerInput], scores: Sequence[Backward | None]
    ) -> Explanation:
        """The explanation of each question by its most localized heads and their mean.

        Maps first: statistics are computed only of the layers that a chosen head lies in. All words
        of a text have the same heads, so that their maps can be compared.
        """
        questions: list[ResolvedQuestion] = []
        answers: list[Answer] = []
        found = list(self._candidates(readings, scores))
        given_heads = self.given
        if self.observation.text is not None and given_heads is None:
            every = [answer for _, _, candidates in found for answer in candidates]
            given_heads = [_named(choose_localized(every, self.localized or 0))] * len(found)
        for score, given, candidates in found:
            chosen = self._chosen(candidates, len(questions), given_heads)
            self._measure(readings, {views[0].layer for views, _ in chosen})
            answers += [self._with_numbers(each, given) for views, _ in chosen for each in views]
            answers += means_of([views for views, _ in chosen], max(self.layers))
            query = candidates[-1].query  # of the last layer
            scored = None if score is None else score.scored
            questions.append(ResolvedQuestion(query, scored, _named(chosen)))
        layers = {head.layer for question in questions for head in question.localized}
        return self._explanation(questions, answers, sorted(layers), readings)

    def _candidates(
        self, readings: Mapping[int, LayerInput], scores: Sequence[Backward | None]
    ) -> Iterator[tuple[Backward | None, Mapping[int, LayerInput], list[Answer]]]:
        """For each question its score, the readings with it, and all maps without numbers."""
        given_scores = [with_score(readings, score) for score in scores]
        maps = [
            {layer: _Found(found, {}) for layer, found in self._maps(given).items()}
            for given in given_scores
        ]
        question = count(0)
        for number in range(len(next(iter(self.queries.values())))):
            all_three = zip(scores, given_scores, maps, strict=True)
            for score, given, of_layers in self._of_query(number, all_three):
                this = next(question)
                yield (
                    score,
                    given,
                    [
                        answer
                        for layer, of_layer in of_layers.items()
                        for answer in self._answers(layer, number, of_layer, this)
                    ],
                )

    def _chosen(
        self,
        candidates: Sequence[Answer],
        question: int,
        heads: Sequence[Sequence[LocalizedHead]] | None,
    ) -> list[tuple[list[Answer], float]]:
        """The most localized heads for one question, each with its score; or the given ones."""
        assert self.localized is not None  # else nothing is chosen
        if heads is None:
            return choose_localized(candidates, self.localized)
        if question >= len(heads):
            raise UsageError(
                f"heads were chosen for {len(heads)} questions, and here are more; give "
                "--target auto alone, or targets by name"
            )
        views = by_head(candidates)
        return [(views[question, each.layer, each.head], each.score) for each in heads[question]]

    def ranked(self, targets: Sequence[Target]) -> list[tuple[LocalizedHead, ...]]:
        """All heads for each question, the most localized first, without any statistics."""
        readings = self._readings(None)
        return [
            _named(choose_localized(candidates, len(candidates)))
            for _, _, candidates in self._candidates(readings, self._scores(targets))
        ]

    def _with_numbers(self, answer: Answer, readings: Mapping[int, LayerInput]) -> Answer:
        numbers = self._numbers(readings[answer.layer], answer.layer)
        of_head = {name: values[answer.head or 0] for name, values in numbers.items()}
        return replace(answer, numbers=of_head)

    @property
    def _beyond(self) -> bool:
        """Whether the method goes from words through all of the model to the picture."""
        return goes_beyond(self.observation, self.entry, self.settings.get("start_layer", 0))

    @property
    def _all(self) -> bool:
        return self.statistics == "all"

    def _readings(self, progress: Progress | None) -> dict[int, LayerInput]:
        """Layer inputs of every needed layer; requested layers have their queries."""
        needed = sorted({number for numbers in self.layers.values() for number in numbers})
        return read(self.observation, needed, self.queries, progress)

    def _measure(
        self, readings: Mapping[int, LayerInput], layers: Iterable[int] | None = None
    ) -> None:
        """Compute the statistics of layers once: they do not depend on queries."""
        observation, asked = self.observation, self.layers if layers is None else sorted(layers)
        if self.entry.merges == "nothing":
            new = [layer for layer in asked if layer not in observation.numbers]
            found = measure_all([readings[layer] for layer in new])
            observation.numbers.update(zip(new, found, strict=True))
        for layer in asked:
            if self._all and layer not in observation.more:
                observation.more[layer] = more(readings[layer])

    def _scores(self, targets: Sequence[Target]) -> list[Backward | None]:
        """The backward pass of each score; targets that resolve to the same score share one."""
        passes = [self._backward(each) for each in targets]
        different = {each.scored.target: each for each in passes}
        return list(different.values()) or [None]

    def _backward(self, target: Target) -> Backward:
        needs, observation = self.entry.needs, self.observation
        if self._beyond and self.entry.scored:
            return word_relevances(observation, target, self.entry, self.settings)
        if "path gradient" in needs:
            return path_gradients(observation, target, tuple(self.layers), self.settings["steps"])
        if "token gradient" in needs:
            return token_gradients(observation, target, chain(*self.layers.values()))
        for need in needs:
            if need in ENTERING:
                way, name = self._way(need)
                return relevances(observation, target, self.layers, way, name=name)
        if "output relevance" in needs:
            return attributions(observation, target)
        return gradients(observation, target, of_blocks="block gradient" in needs)

    def _way(self, need: Need) -> tuple[Way, object]:
        """How relevance goes back to tokens, and the name under which it is kept."""
        at, pixels = self.settings["at"], self.settings["at"] == "pixels"
        if pixels and self.settings["start_layer"]:
            raise UsageError("--at pixels begins with the picture; leave --start-layer out")
        if need == "integrated gradient":
            steps = self.settings["steps"]
            way = partial(integrated_pixels if pixels else integrated, steps=steps)
            return way, (need, at, steps)
        if need == "propagation":
            rule, gamma = self.settings["rule"], self.settings["gamma"]
            by = partial(pixels_by_rules if pixels else by_rules, rule=rule, gamma=gamma)
            return by, (need, at, rule, gamma)
        return gradient_times_pixels if pixels else gradient_times_input, (need, at)

    def _found(
        self, readings: Mapping[int, LayerInput], score: Backward | None
    ) -> dict[int, _Found]:
        """The results of each layer, given the backward pass of one score."""
        readings = with_score(readings, score)
        if self.entry.components:
            return {layer: self._components(readings[layer], layer) for layer in self.layers}
        return {
            layer: _Found(maps, self._numbers(readings[layer], layer))
            for layer, maps in self._maps(readings).items()
        }

    def _components(self, reading: LayerInput, layer: int) -> _Found:
        """The maps of a layer's components; cells that are left out are NaN."""
        options = {option.name: self.settings[option.name] for option in self.entry.options}
        if options.get("basis", "own") != "own":
            check_model(options["basis"], self.observation.model.digests)
        found = self.entry(reading, **options)
        left_out = torch.isnan(found.maps)
        cells = reading.on_cells(found.maps.masked_fill(left_out, 0.0))
        without = reading.on_cells(left_out.float()) > 0
        cells = cells.masked_fill(without, torch.nan)
        keys, maps = self._keys(layer), cells.float().cpu().numpy()
        shape = keys.views, keys.rows, keys.columns
        components = tuple(zip(found.numbers, found.shares, strict=True))
        return _Found(maps.reshape(*maps.shape[:2], *shape), {}, components)

    def _maps(self, readings: Mapping[int, LayerInput]) -> dict[int, NDArray[np.float32]]:
        """Maps of each layer on its cells, (R, heads, views, rows, columns)."""
        entry = self.entry
        options = {option.name: self.settings[option.name] for option in entry.options}
        cells = [] if not self._beyond else maps_beyond(
            self.observation, entry, readings, tuple(self.layers), self.settings
        )  # fmt: skip
        for numbers in () if self._beyond else self.layers.values():
            these = [readings[number] for number in numbers]
            values = entry(
                these if entry.merges == "layers" else these[0], **({} if entry.then else options)
            )
            cells.append(these[0].on_cells(values))  # (R, heads, key cells)
        found = {}
        for layer, each in zip(self.layers, to_host(cells), strict=True):
            _check_finite(self.observation, layer, each)
            keys, maps = self._keys(layer), each.numpy()
            if entry.then:
                drawn = self.observation.drawn_on(keys).ravel()
                maps = entry.run(lambda: entry.load_then()(maps, drawn, **options))  # noqa: B023
            found[layer] = maps.reshape(*maps.shape[:2], keys.views, keys.rows, keys.columns)
        return found

    def _numbers(self, reading: LayerInput, layer: int) -> dict[str, list[float]]:
        """The value of each statistic for every head; empty if heads are merged."""
        if self.entry.merges != "nothing":
            return {}
        numbers, computed = self.observation.numbers[layer], dict(STATISTICS)
        if self._all:
            numbers = numbers | self.observation.more[layer].numbers
            computed |= dict(MORE)
        # The observation keeps numbers for the default options, and without a score.
        numbers = numbers | {
            name: entry.measure(reading, self.settings)
            for name, entry in computed.items()
            if (entry.scored and reading.call.gradient is not None)
            or complete(entry.options, self.settings) != complete(entry.options, {})
        }
        return {name: values.tolist() for name, values in numbers.items()}

    def _keys(self, layer: int) -> Layout:
        """The layout of a layer's map: that of the keys of the first layer in it."""
        if self._beyond:
            return layout_beyond(self.observation, self.entry)
        return self.observation.layers[self.layers[layer][0]].keys

    def _answers(self, layer: int, number: int, results: _Found, question: int) -> list[Answer]:
        """The answers of the chosen heads of one layer to one query."""
        keys = self._keys(layer)
        placement, drawn = self.observation.placed(keys), self.observation.drawn_on(keys)
        query, shown = self.queries[layer][number], self.method == DEFAULT
        region = None if query.found is None else self.observation.region(query.found)
        if results.components:
            return self._component_answers(layer, number, results, question)
        rows = seen_rows(self.observation, layer, query) if shown else []
        return [
            Answer(
                layer=layer,
                head=head,
                query=query,
                values=results.maps[number, head or 0, view],
                numbers={name: values[head or 0] for name, values in results.numbers.items()},
                placement=placement,
                drawn=drawn[view],
                question=question,
                points=() if not shown else sampled_points(self.observation, layer, query, head),
                row=rows[head] if rows and head is not None else None,
                view=view,
                frames=frames,
                region=region,
            )
            for head in self.heads[layer]
            for view, frames in enumerate(self.observation.frames_of(keys))
        ]

    def _component_answers(
        self, layer: int, number: int, results: _Found, question: int
    ) -> list[Answer]:
        """The answers of a layer's components; cells that are left out are not drawn."""
        keys = self._keys(layer)
        placement, drawn = self.observation.placed(keys), self.observation.drawn_on(keys)
        left_out = np.isnan(results.maps)
        maps = np.where(left_out, np.float32(0), results.maps)
        if not (drawn & ~left_out[number, 0]).any():
            raise UsageError(
                f"--foreground {self.settings.get('foreground')}: no token of layer {layer} is "
                "over it; give a lower one"
            )
        return [
            Answer(
                layer=layer,
                head=None,
                query=self.queries[layer][number],
                values=maps[number, place, view],
                numbers={},
                placement=placement,
                drawn=drawn[view] & ~left_out[number, place, view],
                question=question,
                view=view,
                frames=frames,
                component=component,
                share=share,
            )
            for place, (component, share) in enumerate(results.components)
            for view, frames in enumerate(self.observation.frames_of(keys))
        ]


def _named(chosen: Iterable[tuple[Sequence[Answer], float]]) -> tuple[LocalizedHead, ...]:
    return tuple(LocalizedHead(each[0].layer, each[0].head or 0, score) for each, score in chosen)


def _check_finite(observation: Observation, layer: int, maps: Tensor) -> None:
    if torch.isfinite(maps).all():
        return
    kind = observation.layers[layer].call.query.dtype
    advice = "check the model's weights" if kind == torch.float32 else "take --dtype float32"
    raise RecordingError(
        f"{observation.picture.path}: the attention is not finite in {kind}; {advice}"
    )


def _high_norms(readings: Mapping[int, LayerInput]) -> dict[int, HighNorm]:
    """Tokens of high norm of each layer whose tokens are known."""
    found = {number: high_norm(reading) for number, reading in readings.items()}
    return {number: each for number, each in found.items() if each is not None}
