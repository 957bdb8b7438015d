"""The cheap step: computes maps and numbers from an observation, for one query or several."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from attnviz.attention.layer_input import LayerInput
from attnviz.attention.sweep import Progress
from attnviz.errors import AttnvizError, UsageError
from attnviz.explanation.beyond_words import goes_beyond
from attnviz.explanation.explanation import Explanation, LocalizedHead
from attnviz.explanation.observation import Observation
from attnviz.explanation.query_weights import (
    ALL,
    layers_with_objects,
    objects_asked,
    resolve,
)
from attnviz.explanation.requirements import check_able, layers_of
from attnviz.explanation.run_methods import LayerQuery, Statistics
from attnviz.explanation.selection import (
    Localized,
    choose_heads,
    parse_heads,
    parse_layers,
    requested_layers,
)
from attnviz.explanation.smoothing import parse_smoothing
from attnviz.explanation.words_asked import each_word, relative, word_targets
from attnviz.geometry import queries
from attnviz.geometry.detections import THRESHOLD, check_threshold
from attnviz.geometry.queries import Query
from attnviz.methods import DEFAULT, METHODS, check_request, complete_settings
from attnviz.models import targets
from attnviz.models.targets import Target
from attnviz.registry import complete, load
from attnviz.statistics import check_options, measure_all, options_of


def explain(
    observation: Observation,
    *,
    query: str | Sequence[str] = "auto",
    method: str = DEFAULT,
    target: str | Sequence[str | Target] = (),
    text: str | Sequence[str] = (),
    against: str | Sequence[str] = (),
    layers: str = "auto",
    heads: str = "all",
    threshold: float = THRESHOLD,
    one_object: bool = False,
    start_layer: int | None = None,
    statistics: Statistics = "basic",
    chosen: Sequence[Sequence[LocalizedHead]] | None = None,
    smooth: str | None = None,
    sigma: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Explanation:
    """Compute where the model looks from a query: maps, and numbers of each head.

    Args:
        observation: the result of `observe`.
        query: `auto`, `cls`, `registerN`, `mean`, `pool`, `X,Y`, `X0,Y0,X1,Y1` (in picture pixels),
            `1.2s,800Hz` in a sound, or a mask picture; with a prompt `words`, `word:NAME`,
            `prompt:NAME` or `token:N`; of a detector or segmenter `objects`, `object:3` (an object
            query) or `object:cat` (a label); or several of them.
        method: a name that `attnviz methods` lists.
        target: the score, for methods that take gradients: `auto`, a class by its number or label,
            `norm`, `norm:QUERY`; of a model with `head="dense"` `class:NAME@PLACE`, `pixel:PLACE`
            or `object:N`; or several.
        text: one or more texts that the picture is compared with, instead of a target.
        against: one or more classes (or texts) whose mean score is subtracted from each target's;
            `rest` for all others.
        layers: `-1`, `all`, `upper` (the upper half), `0,5-11`; methods that merge layers end with
            each of these. `auto` is `upper` with localized heads, else `-1`.
        heads: `all`, a count `8` (the first of each layer), a list `0,3,5-7`, or `localized:3`, the
            3 most localized heads of all these layers for each question, and their mean.
        threshold: objects with a higher score are taken, unless their number is given.
        one_object: a query that names several objects takes the one with the highest score.
        start_layer: the first layer of methods that merge layers, 0 unless given.
        statistics: `basic`, or `all`, which adds similarities of heads, sinks, tokens of high norm
            and, if a target is given, the importance of heads.
        chosen: for each question the localized heads to draw instead of choosing some, such as
            `localized` of the questions of another picture.
        smooth: `flips`, the mean with the map of the mirrored picture, or `noise:8`, the mean over
            8 noisy pictures; the model runs as often again.
        sigma: standard deviation of this noise for pixel values of 0 to 1, 0.15 unless given.
        seed: random seed of this noise.
        progress: a function that is called with (query rows done, query rows in all).
        options: options of the method, such as `fusion` and `discard` of `rollout`, and of
            statistics; None gives the default.

    >>> explain(observation, query="120,80", heads="8").maps.shape
    (1, 8, 15, 22)
    >>> explain(observation, method="rollout", fusion="max", discard=0.9).maps.shape
    (1, 1, 15, 22)

    Raises:
        UsageError: an option cannot be read or requests more than there is, or this model does not
            support the method.
        RecordingError: the weights are not finite.
    """
    smoothing = parse_smoothing(smooth, sigma, seed)
    request, goals = _request(
        observation,
        query=query,
        method=method,
        target=target,
        text=text,
        against=against,
        layers=layers,
        heads=heads,
        threshold=threshold,
        one_object=one_object,
        start_layer=start_layer,
        statistics=statistics,
        **options,
    )
    found = replace(request, given=chosen).answered(goals, progress)
    if smoothing is not None:
        smoothed: Explanation = load("attnviz.explanation.again:smoothed")(found, smoothing)
        return smoothed  # it asks this function again
    if observation.baseline is None:
        return found
    request, _ = _request(
        observation.baseline, query=query, method=method, layers=layers, heads=heads,
        start_layer=start_layer, **options,
    )  # fmt: skip
    heads_of = [question.localized for question in found.questions] if found.localized else None
    return relative(found, replace(request, given=heads_of).answered([], None))


def measure_together(observations: Sequence[Observation], **question: Any) -> None:
    """Measure the heads of several pictures in one go; `explain` then finds the numbers.

    It takes the options of `explain`. A picture that the question does not suit is left out:
    `explain` says why.
    """
    found: list[tuple[Observation, int, LayerInput]] = []
    for each in observations:
        try:
            layers = _request(each, **question)[0].prepared()
        except AttnvizError:
            continue
        found += [(each, number, layer) for number, layer in layers.items()]
    numbers = measure_all([layer for _, _, layer in found])
    for (observation, number, _), values in zip(found, numbers, strict=True):
        observation.numbers[number] = values


def rank_heads(observation: Observation, **question: Any) -> list[tuple[LocalizedHead, ...]]:
    """All heads for each question, the most localized first; it takes the options of `explain`.

    >>> [(each.layer, each.head) for each in rank_heads(observation, heads="localized")[0][:2]]
    [(5, 2), (4, 2)]

    Raises:
        UsageError: an option cannot be read, or this model does not support the method.
        RecordingError: the weights are not finite.
    """
    request, goals = _request(observation, **question)
    return request.ranked(goals)


def _request(
    observation: Observation,
    *,
    query: str | Sequence[str] = "auto",
    method: str = DEFAULT,
    target: str | Sequence[str | Target] = (),
    text: str | Sequence[str] = (),
    against: str | Sequence[str] = (),
    layers: str = "auto",
    heads: str = "all",
    threshold: float = THRESHOLD,
    one_object: bool = False,
    start_layer: int | None = None,
    statistics: Statistics = "basic",
    **options: Any,
) -> tuple[LayerQuery, list[Target]]:
    """The resolved request of `explain`, and its targets."""
    goals, asked = _targets(target, text, against), [query] if isinstance(query, str) else query
    given = {**options, "start_layer": start_layer}
    check_request(
        (method,),
        given,
        query=observation.text is None and any(each != "auto" for each in asked),
        targets=[goal.option for goal in goals],
        importance=statistics == "all",
        others=check_options(given, statistics),
    )
    entry, settings = METHODS[method], complete_settings(method, given)
    if entry.merges == "nothing":
        settings = complete(options_of(statistics).values(), given) | settings
    start = settings.get("start_layer", 0)
    asked_queries = [queries.parse(each) for each in asked]
    check_threshold(threshold, "threshold")
    most = 1 if one_object else None
    wanted = requested_layers(layers, heads)
    chosen = observation.calls.choose(wanted)
    observation.require(chosen)
    if parse_layers(wanted) is None:
        chosen = layers_with_objects(observation, chosen, asked_queries, wanted)
    if start > min(chosen):
        raise UsageError(
            f"--start-layer {start} is behind layer {min(chosen)}, with which {method} is to end; "
            "take other --layers"
        )
    check_able(observation, method, chosen, start, settings.get("of", "tokens"))
    layers_of_objects = all(observation.layers[number].objects for number in chosen)
    of_objects = _ask_objects(method, goals, asked) if layers_of_objects else []
    asked_queries = of_objects or asked_queries
    request = LayerQuery(
        observation=observation,
        method=method,
        settings=settings,
        layers={
            layer: (layer,)
            if goes_beyond(observation, entry, start)
            else layers_of(entry, layer, start)
            for layer in chosen
        },
        heads=_heads(observation, heads, chosen, method),
        queries=_resolve_queries(
            observation, asked_queries, chosen, method, threshold=threshold, most=most
        ),
        statistics=statistics,
        localized=_localized(observation, heads, chosen),
    )
    if of_objects:
        return replace(request, own_scores=True), goals
    of_last = request.queries[max(chosen)]
    if observation.text is not None and entry.scored:
        return replace(request, own_scores=True), word_targets(of_last, goals)
    if "gradient" in entry.needs and not goals and all(query.found for query in of_last):
        return replace(request, own_scores=True), [Target("object", query=q) for q in of_last]
    if entry.scored and not goals:
        goals = [Target("auto")]
    return request, goals


def _targets(
    target: str | Sequence[str | Target], text: str | Sequence[str], against: str | Sequence[str]
) -> list[Target]:
    """The targets of the requested gradients.

    Raises:
        UsageError: a target cannot be read.
    """
    given = [target] if isinstance(target, str) else target
    found = [targets.parse(each) if isinstance(each, str) else each for each in given]
    found += [targets.of_text(each) for each in ([text] if isinstance(text, str) else text)]
    return list(targets.contrasts(found, [against] if isinstance(against, str) else against))


def _ask_objects(method: str, goals: Sequence[Target], asked: Sequence[str]) -> list[Query]:
    """The objects that are targets, if the method looks from them, and no other query is given."""
    found = [goal.query for goal in goals if goal.kind == "object" and goal.query is not None]
    able = METHODS[method].asks and METHODS[method].scored and len(set(found)) == len(goals)
    return found if able and list(asked) == ["auto"] else []


def _resolve_queries(
    observation: Observation,
    asked: Sequence[Query],
    layers: Sequence[int],
    name: str,
    *,
    threshold: float = THRESHOLD,
    most: int | None = None,
) -> dict[int, tuple[Query, ...]]:
    """The queries resolved for each layer, without duplicates; `most` is of objects of one."""
    asked = each_word(observation, asked)
    if not asked:
        raise UsageError("no query was given; give auto, or leave it out")
    if not METHODS[name].asks and not _named(observation, name):
        return dict.fromkeys(layers, (ALL,))
    each = [
        one
        for query in asked
        for one in objects_asked(observation, query, layers, threshold)[:most]
    ]
    of_queries = dict.fromkeys(tuple(resolve(observation, query, layers)) for query in each)
    of_layers = zip(*of_queries, strict=True)
    return dict(zip(layers, of_layers, strict=True))


def _named(observation: Observation, name: str) -> bool:
    """Whether queries name the score alone: words do, of methods that look from all tokens."""
    return observation.text is not None and METHODS[name].scored


def suggest_heads(
    observation: Observation, query: str = "auto", *, count: int = 3
) -> tuple[LocalizedHead, ...]:
    """The most localized heads of the upper half of the layers; empty if there is no choice.

    There is none with fewer than two drawn layers or four heads in them, or if all maps are flat.

    >>> [(each.layer, each.head) for each in suggest_heads(observation)]
    [(5, 2), (4, 2), (5, 5)]

    Args:
        observation: the result of `observe`, which has kept these layers.
        query: as for `explain`.
        count: how many.

    Raises:
        UsageError: the query cannot be read, or a layer was not kept.
        RecordingError: the weights are not finite.
    """
    layers, asked = observation.calls.choose("upper"), [queries.parse(query)]
    observation.require(layers)
    layers = layers_with_objects(observation, layers, asked, "upper")
    heads = {n: tuple(range(observation.layers[n].call.heads)) for n in layers}
    if len(observation.calls.drawn) < 2 or sum(map(len, heads.values())) < max(4, count):
        return ()
    request = LayerQuery(
        observation=observation,
        method=DEFAULT,
        settings=complete_settings(DEFAULT, {}),
        layers={layer: (layer,) for layer in layers},
        heads=heads,
        queries=_resolve_queries(observation, asked, layers, DEFAULT),
    )
    chosen = request.ranked([])[0][:count]
    return () if any(math.isinf(head.score) for head in chosen) else chosen


def _localized(observation: Observation, text: str, layers: Sequence[int]) -> int | None:
    """How many localized heads were requested; None if heads were requested otherwise.

    Raises:
        UsageError: more than these layers have.
    """
    wanted = parse_heads(text)
    if not isinstance(wanted, Localized):
        return None
    available = sum(observation.layers[number].call.heads for number in layers)
    if wanted.count > available:
        raise UsageError(
            f"--heads {text}: layers {', '.join(map(str, layers))} have {available} heads; give at "
            f"most localized:{available}"
        )
    return wanted.count


def _heads(
    observation: Observation, text: str, layers: Sequence[int], name: str
) -> dict[int, tuple[int | None, ...]]:
    """Head numbers of each layer; if layers differ, an error names a layer with too few heads."""
    wanted = parse_heads(text)
    counts = {number: layer.call.heads for number, layer in observation.layers.items()}
    differ = len(set(counts.values())) > 1
    found: dict[int, tuple[int | None, ...]] = {
        number: choose_heads(wanted, counts[number], layer=number if differ else None)
        for number in layers
    }
    if METHODS[name].merges == "nothing":
        return found
    if isinstance(wanted, Localized) or any(
        len(found[number]) < counts[number] for number in layers
    ):
        raise UsageError(f"--heads {text}: {name} merges all heads; leave it out")
    return dict.fromkeys(layers, (None,))
