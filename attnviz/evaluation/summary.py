"""Summarises the scores of pictures as rows of means and bootstrap intervals."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.evaluation import GAUSSIAN, SALIENCY
from attnviz.evaluation.map_scorer import Score
from attnviz.output.schema import EvaluationRow, Interval, tidy

Place = tuple[str | None, str | None, int | None, int | str | None]
"""Baseline, method, layer and head."""
_PLACE = ("baseline", "method", "layer", "head")


@dataclass(frozen=True)
class SummaryEntry:
    """The scores of one picture with one model.

    Attributes:
        image, mask: paths of the picture and of its mask.
        model, weights: spec and weights of the model.
        scores: the scores of all maps and baselines.
    """

    image: str
    mask: str | None
    model: str
    weights: str
    scores: tuple[Score, ...]


def summarise(
    entries: Sequence[SummaryEntry], metrics: Sequence[str], *, seed: int = 0
) -> list[EvaluationRow]:
    """A row for every map of every model: means over its pictures.

    Args:
        entries: the entries of all models and pictures.
        metrics: names of the metrics, in the order of the columns.
        seed: seed of the bootstrap.
    """
    rows: list[EvaluationRow] = []
    for model in dict.fromkeys(entry.model for entry in entries):
        own = [entry for entry in entries if entry.model == model]
        rows += _of_model(own, metrics, seed)
    return rows


def _of_model(
    entries: Sequence[SummaryEntry], metrics: Sequence[str], seed: int
) -> list[EvaluationRow]:
    table = _merged(_table(entries, metrics))
    values = np.stack(list(table.values()), axis=1)  # (pictures, maps, metrics)
    flat = values.reshape(len(values), -1)
    ends = intervals(flat, seed=seed).reshape(2, *values.shape[1:])
    return [
        EvaluationRow.model_validate(
            {
                "model": entries[0].model,
                "weights": entries[0].weights,
                **dict(zip(_PLACE, place, strict=True)),
                "pictures": int((~np.isnan(values[:, i]).all(1)).sum()),
                "metrics": {
                    name: _interval(values[:, i, k], ends[:, i, k])
                    for k, name in enumerate(metrics)
                },
            }
        )
        for i, place in enumerate(table)
    ]


def _table(
    entries: Sequence[SummaryEntry], metrics: Sequence[str]
) -> dict[Place, NDArray[np.float64]]:
    """The numbers of each map, (pictures, metrics), NaN where there is none."""
    found: dict[Place, NDArray[np.float64]] = {}
    for i, entry in enumerate(entries):
        for score in entry.scores:
            place = score.baseline, score.method, score.layer, score.head
            empty = np.full((len(entries), len(metrics)), np.nan)
            numbers = [score.numbers.get(name, math.nan) for name in metrics]
            found.setdefault(place, empty)[i] = numbers
    return found


def _merged(table: dict[Place, NDArray[np.float64]]) -> dict[Place, NDArray[np.float64]]:
    """The table with each baseline that is equal for all layers as a single map."""
    rest = {
        place: values for place, values in table.items() if place[0] not in (GAUSSIAN, SALIENCY)
    }
    for name in (GAUSSIAN, SALIENCY):
        of_layers = {place: values for place, values in table.items() if place[0] == name}
        first, *others = of_layers.values()
        if all(np.array_equal(first, other, equal_nan=True) for other in others):
            rest[name, None, None, None] = first
        else:
            rest |= of_layers
    return rest


def _interval(values: NDArray[np.float64], ends: NDArray[np.float64]) -> Interval | None:
    """The mean of the defined values with the ends of its interval; None if there are no values."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    mean = float(known.mean().clip(known.min(), known.max()))
    return Interval(mean=mean, low=float(ends[0]), high=float(ends[1]))


def as_data(entry: SummaryEntry) -> dict[str, Any]:
    """An entry as plain data, its numbers to eight significant digits."""
    scores = [
        {
            **{name: getattr(score, name) for name in _PLACE},
            **{name: tidy(value) for name, value in score.numbers.items()},
        }
        for score in entry.scores
    ]
    return {**vars(entry), "scores": scores}


def from_data(data: dict[str, Any]) -> SummaryEntry:
    """An entry from plain data: the inverse of `as_data`."""
    return SummaryEntry(
        **{name: data[name] for name in ("image", "mask", "model", "weights")},
        scores=tuple(_score(dict(score)) for score in data["scores"]),
    )


def _score(data: dict[str, Any]) -> Score:
    place = {name: data.pop(name) for name in _PLACE}
    numbers = {name: math.nan if value is None else float(value) for name, value in data.items()}
    return Score(**place, numbers=numbers)


RESAMPLES, LEVEL = 2000, 0.95
_AT_ONCE = 4_000_000  # number of counts in memory at a time, 32 MB


def intervals(
    values: NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Percentile bootstrap intervals of 95 % of means, (2, columns): lower ends, then upper ones.

    Each of `resamples` samples draws as many pictures as there are, with replacement. The ends are
    the 0.025 and 0.975 quantiles of the means (Efron 1979). All columns use the
    same draws. Means ignore NaN.

    Args:
        values: (pictures, columns), the numbers of each picture.
        seed: seed of the draws; it gives the same draws on every machine.
        resamples: number of samples.

    >>> intervals(np.full((10, 1), 0.3)).ravel()
    array([0.3, 0.3])
    """
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    low, high = ((1 + sign * LEVEL) / 2 for sign in (-1, 1))
    result = np.full((2, values.shape[1]), np.nan)
    some = known.any(0)
    if not some.any():
        return result
    with np.errstate(invalid="ignore"):  # 0/0: draws without defined values
        means = np.concatenate([
            (draws @ filled[:, some]) / (draws @ known[:, some])
            for draws in _draws(len(values), resamples, seed)
        ])  # fmt: skip
    ends = np.nanquantile(means, [low, high], axis=0)
    # A mean lies between its smallest and largest value, despite rounding.
    lowest = np.where(known, values, np.inf)[:, some].min(0)
    highest = np.where(known, values, -np.inf)[:, some].max(0)
    result[:, some] = ends.clip(lowest, highest)
    return result


def _draws(pictures: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each picture is drawn, (resamples, pictures) in parts."""
    stream = np.random.RandomState(seed)  # a frozen stream: NEP 19
    part = max(1, _AT_ONCE // pictures)
    share = np.full(pictures, 1 / pictures)
    for done in range(0, resamples, part):
        size = min(part, resamples - done)
        yield stream.multinomial(pictures, share, size=size).astype(np.float64)
