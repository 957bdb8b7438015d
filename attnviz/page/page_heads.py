"""Chooses the heads of a page, and the most localized of them, which the page marks."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from attnviz.errors import AttnvizError
from attnviz.explanation.explain_observation import rank_heads
from attnviz.explanation.explanation import LocalizedHead
from attnviz.explanation.observation import Observation
from attnviz.explanation.selection import Heads, Localized, choose_heads, parse_heads

OfLayers = dict[int, tuple[int, ...]]


def choose(
    observation: Observation,
    numbers: Sequence[int],
    *,
    layers: str,
    heads: str,
    query: str,
    count: int,
    check: Callable[[OfLayers], object],
) -> tuple[OfLayers, list[LocalizedHead]]:
    """The heads of each layer of a page, and the marked ones, the most localized first.

    They are chosen from the given layers; if these are `all`, from the upper half.

    Args:
        observation: what the page shows.
        numbers: the layers of the page in ascending order.
        layers: the option that they were requested by.
        heads: the option `heads`.
        query: the first query of the page.
        count: how many heads are marked, if localized heads were not requested.
        check: is called with the heads as soon as they are known.

    Raises:
        UsageError: there are fewer heads, or localized ones are requested and there is no such
            query.
    """
    wanted, among = parse_heads(heads), "upper" if layers.strip() == "all" else layers
    if not isinstance(wanted, Localized):
        of_layers = {number: _heads(observation, wanted, number) for number in numbers}
        check(of_layers)
        return of_layers, _marked(observation, among, query, count, of_layers)
    ranked = _ranked(observation, query=query, layers=among, heads=heads)
    marked = list(ranked[: wanted.count])
    places = sorted((each.layer, each.head) for each in marked)
    of_layers = {n: tuple(head for layer, head in places if layer == n) for n, _ in places}
    check(of_layers)
    return of_layers, marked


def _heads(observation: Observation, wanted: Heads, number: int) -> tuple[int, ...]:
    """Numbers of the heads of a layer; an error names the layer if layers differ."""
    counts = {n: layer.call.heads for n, layer in observation.layers.items()}
    differ = len(set(counts.values())) > 1
    return choose_heads(wanted, counts[number], layer=number if differ else None)


def _marked(
    observation: Observation,
    among: str,
    query: str,
    count: int,
    heads: Mapping[int, tuple[int, ...]],
) -> list[LocalizedHead]:
    """The most localized heads of the page; none if there is no choice, or a layer has no map."""
    if not count or len(observation.calls.drawn) < 2:
        return []
    try:
        ranked = _ranked(observation, query=query, layers=among)
    except AttnvizError:  # such as a query that an upper layer does not have
        return []
    on_page = [e for e in ranked if e.head in heads[e.layer] and math.isfinite(e.score)]
    return on_page[:count] if len(on_page) > count else []


def _ranked(observation: Observation, **question: str) -> list[LocalizedHead]:
    """The heads for the first query; for all words of an answer, by the mean of their scores."""
    of_each = rank_heads(observation, **question)
    if len(of_each) == 1:
        return list(of_each[0])
    scores: dict[tuple[int, int], list[float]] = {}
    for each in (each for ranked in of_each for each in ranked):
        scores.setdefault((each.layer, each.head), []).append(each.score)
    means = {
        place: float(np.mean(finite)) if len(finite := np.array(of)[np.isfinite(of)]) else math.inf
        for place, of in scores.items()
    }
    order = sorted(means, key=lambda place: (means[place], place))
    return [LocalizedHead(layer, head, means[layer, head]) for layer, head in order]
