"""The cheap step: ask an observation a question, or several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz import methods, queries, targets
from attnviz.attention.reading import Reading
from attnviz.attention.sweep import Progress
from attnviz.errors import RecordingError, UsageError
from attnviz.geometry import Layout
from attnviz.methods import Method
from attnviz.pipeline.abilities import check_able, find_method, layers_of
from attnviz.pipeline.answers import Answer, Explanation, Question
from attnviz.pipeline.gradients import Gradients, gradients
from attnviz.pipeline.observation import Observation
from attnviz.pipeline.question import ALL, read, resolve
from attnviz.queries import Query
from attnviz.selection import choose_heads, choose_layers, parse_heads, parse_layers
from attnviz.statistics import measure
from attnviz.targets import Target


def explain(
    observation: Observation,
    *,
    query: str | Sequence[str] = "auto",
    method: str = methods.DEFAULT,
    target: str | Sequence[str | Target] = (),
    text: str | Sequence[str] = (),
    layers: str = "-1",
    heads: str = "all",
    start_layer: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Explanation:
    """Ask an observation where it looks from a query: maps and numbers per head.

    Args:
        observation: what `observe` gave.
        query: `auto`, `cls`, `registerN`, `mean`, `pool`, `X,Y`, `X0,Y0,X1,Y1` or a mask picture,
            in picture pixels; or several of them.
        method: a name that `attnviz methods` lists.
        target: of methods that take gradients, the score: `auto`, a class by its number or label,
            `norm`, `norm:QUERY`; or several.
        text: instead of a target, texts that the picture is compared with.
        layers: `-1`, `all`, `0,5-11`; of methods that merge layers, those that they end with.
        heads: `all`, a count `8` (the first of each layer), a list `0,3,5-7`.
        start_layer: where methods that merge layers begin, 0 unless given.
        progress: told (query rows done, query rows in all).
        options: the method's own, such as `fusion` and `discard` of `rollout`; None is the default.

    >>> explain(observation, query="120,80", heads="8").maps.shape      # (1, 8, 14, 21)
    >>> explain(observation, method="rollout", fusion="max", discard=0.9).maps.shape
    (1, 1, 14, 21)

    Raises:
        UsageError: an option that cannot be read, or asks for more than there is, or a method that
            cannot be asked of this model.
        RecordingError: the weights are not finite, or a layer's cells are no squares.
    """
    entry = find_method(method)
    settings = _settings(method, entry, options, start_layer)
    chosen = choose_layers(parse_layers(layers), observation.count)
    observation.require(chosen)
    check_able(observation, method, chosen, settings.get("start_layer", 0))
    asked = _Asked(
        observation,
        entry,
        settings,
        {layer: layers_of(entry, layer, settings.get("start_layer", 0)) for layer in chosen},
        _heads(observation, heads, chosen, entry),
        _whence(observation, method, entry, query, chosen),
    )
    readings = asked.readings(progress)
    # Numbers first: they sweep layer by layer, which is the order that progress is told in.
    numbers = {} if entry.merges != "nothing" else asked.numbers(readings)
    questions, answers = asked.answers(readings, numbers, _targets(method, entry, target, text))
    return Explanation(observation, questions, method, answers, settings)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is asked, as the layers of an observation take it.

    Attributes:
        observation: who is asked.
        entry: of the method.
        settings: its options, all of them.
        layers: for each that is asked, those that its map is made of.
        heads: numbers of the heads that are asked for, of each; `(None,)` where they are merged.
        queries: for each layer, where from.
    """

    observation: Observation
    entry: Method
    settings: Mapping[str, Any]
    layers: Mapping[int, tuple[int, ...]]
    heads: Mapping[int, tuple[int | None, ...]]
    queries: Mapping[int, tuple[Query, ...]]

    def readings(self, progress: Progress | None) -> dict[int, Reading]:
        """Every layer that is needed, the asked ones with their questions."""
        needed = sorted({number for numbers in self.layers.values() for number in numbers})
        return read(self.observation, needed, self.queries, progress)

    def numbers(self, readings: Mapping[int, Reading]) -> dict[int, dict[str, Tensor]]:
        """The statistics of each layer, which are the same whatever is asked."""
        known = self.observation.numbers
        for number in self.layers:
            if number not in known:
                known[number] = measure(readings[number])
        return known

    def answers(
        self,
        readings: Mapping[int, Reading],
        numbers: Mapping[int, dict[str, Tensor]],
        targets: Sequence[Target],
    ) -> tuple[tuple[Question, ...], tuple[Answer, ...]]:
        """Every query with every target."""
        found = self._scored(targets)
        maps = [self._maps(readings, gradient) for gradient in found]
        questions: list[Question] = []
        answers: list[Answer] = []
        for k in range(len(next(iter(self.queries.values())))):
            for gradient, of_layers in zip(found, maps, strict=True):
                for layer in self.layers:
                    answers += self._answers(
                        layer, k, of_layers[layer][k], numbers.get(layer, {}), len(questions)
                    )
                last = self.queries[max(self.layers)][k]
                questions.append(Question(last, None if gradient is None else gradient.scored))
        return tuple(questions), tuple(answers)

    def _scored(self, targets: Sequence[Target]) -> list[Gradients | None]:
        """The gradients of each score, those that turn out to be the same once."""
        if not self.entry.scored:
            return [None]
        of_blocks = "block gradient" in self.entry.needs
        found = [gradients(self.observation, t, of_blocks=of_blocks) for t in targets]
        return list({each.scored.target: each for each in found}.values())

    def _maps(
        self, readings: Mapping[int, Reading], gradient: Gradients | None
    ) -> dict[int, NDArray[np.float32]]:
        """Of each layer that is asked, (R, heads, rows, columns) on the cells of its map."""
        if gradient is not None:
            readings = {
                number: replace(reading, call=gradient.given_to(number, reading.call))
                for number, reading in readings.items()
            }
        return {layer: self._map(layer, readings) for layer in self.layers}

    def _map(self, layer: int, readings: Mapping[int, Reading]) -> NDArray[np.float32]:
        these = [readings[number] for number in self.layers[layer]]
        names = self.entry.options if not self.entry.then else ()
        options = {name: self.settings[name] for name in names}
        ask = self.entry.load()
        merged = self.entry.merges == "layers"
        values = ask(these, **options) if merged else ask(these[0], **options)
        cells = these[0].on_cells(values)  # (R, heads, key cells)
        _check_finite(self.observation, layer, cells)
        maps: NDArray[np.float32] = cells.float().cpu().numpy()
        keys = self._keys(layer)
        if self.entry.then:
            drawn = self.observation.drawn_on(keys).ravel()
            options = {name: self.settings[name] for name in self.entry.options}
            maps = self.entry.load_then()(maps, drawn, **options)
        return maps.reshape(*maps.shape[:2], keys.rows, keys.columns)

    def _keys(self, layer: int) -> Layout:
        """Where the map of a layer lies: on the keys of the first that it is made of."""
        return self.observation.layers[self.layers[layer][0]].keys

    def _answers(
        self,
        layer: int,
        number: int,
        maps: NDArray[np.float32],
        numbers: Mapping[str, Tensor],
        question: int,
    ) -> list[Answer]:
        """What the chosen heads of one layer answer; `maps` is (heads, rows, columns)."""
        keys = self._keys(layer)
        columns = {name: found.tolist() for name, found in numbers.items()}
        placement, drawn = self.observation.placed(keys), self.observation.drawn_on(keys)
        return [
            Answer(
                layer=layer,
                head=head,
                query=self.queries[layer][number],
                values=maps[head or 0],
                numbers={name: column[head or 0] for name, column in columns.items()},
                placement=placement,
                drawn=drawn,
                question=question,
            )
            for head in self.heads[layer]
        ]


def _settings(
    name: str, entry: Method, options: Mapping[str, Any], start_layer: int | None
) -> dict[str, Any]:
    """A method's options, with its own values where none were given.

    Raises:
        UsageError: an option that the method does not take.
    """
    given = {key: value for key, value in options.items() if value is not None}
    for key in [*given, *(["start_layer"] if start_layer is not None else [])]:
        if key not in entry.settings:
            takers = [other for other, method in methods.METHODS.items() if key in method.settings]
            option = f"--{key.replace('_', '-')}"
            advice = f"it is for {', '.join(takers)}" if takers else "leave it out"
            raise UsageError(f"{option} is no option of {name}; {advice}")
    found = entry.defaults() | given
    if entry.merges == "layers":
        found["start_layer"] = start_layer or 0
    return found


def _targets(
    name: str, entry: Method, target: str | Sequence[str | Target], text: str | Sequence[str]
) -> list[Target]:
    """The scores that are asked for: `auto` unless one is named.

    Raises:
        UsageError: one that cannot be read, or of a method that takes no gradient.
    """
    asked = [target] if isinstance(target, str) else target
    found = [targets.parse(each) if isinstance(each, str) else each for each in asked]
    found += [targets.of_text(each) for each in ([text] if isinstance(text, str) else text)]
    if found and not entry.scored:
        able = ", ".join(other for other, method in methods.METHODS.items() if method.scored)
        option = "--text" if found[0].kind == "text" else "--target"
        raise UsageError(f"{option}: {name} takes no gradient of a score; take one of {able}")
    return found or [Target("auto")]


def _whence(
    observation: Observation,
    name: str,
    entry: Method,
    query: str | Sequence[str],
    layers: Sequence[int],
) -> dict[int, tuple[Query, ...]]:
    """The queries as each layer is asked them, each once."""
    asked = [queries.parse(each) for each in ([query] if isinstance(query, str) else query)]
    if not asked:
        raise UsageError("no query was given; give auto, or leave it out")
    if not entry.asks:
        if any(each.kind != "auto" for each in asked):
            raise UsageError(f"--query: {name} looks from all tokens alike; leave it out")
        return dict.fromkeys(layers, (ALL,))
    of_queries = dict.fromkeys(tuple(resolve(observation, each, layers)) for each in asked)
    of_layers = zip(*of_queries, strict=True)
    return dict(zip(layers, of_layers, strict=True))


def _heads(
    observation: Observation, text: str, layers: Sequence[int], entry: Method
) -> dict[int, tuple[int | None, ...]]:
    """Head numbers of each layer; a layer that has too few is named where layers differ."""
    wanted = parse_heads(text)
    counts = {number: layer.call.heads for number, layer in observation.layers.items()}
    differ = len(set(counts.values())) > 1
    found: dict[int, tuple[int | None, ...]] = {
        number: choose_heads(wanted, counts[number], layer=number if differ else None)
        for number in layers
    }
    return found if entry.merges == "nothing" else dict.fromkeys(layers, (None,))


def _check_finite(observation: Observation, layer: int, maps: Tensor) -> None:
    if torch.isfinite(maps).all():
        return
    kind = observation.layers[layer].call.query.dtype
    advice = "check the model's weights" if kind == torch.float32 else "take --dtype float32"
    raise RecordingError(
        f"{observation.picture.path}: the attention is not finite in {kind}; {advice}"
    )
