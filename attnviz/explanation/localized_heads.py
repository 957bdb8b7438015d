"""Chooses the heads whose maps are most localized, and takes the mean of their maps."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from attnviz.explanation.explanation import Answer
from attnviz.explanation.words_asked import mean_row
from attnviz.geometry.placement import resample
from attnviz.statistics.localization import scores


def choose_localized(answers: Sequence[Answer], count: int) -> list[tuple[list[Answer], float]]:
    """The answers of the `count` heads with the lowest scores, the lowest first, with this score.

    The score is `statistics.localization.scores` of the drawn map; of a clip its mean over the
    views whose map is not flat. Of equal ones the lower layer comes first, then the lower head;
    flat maps come last, with score infinity.

    >>> [(a[0].layer, a[0].head) for a, score in choose_localized(explanation.answers, 2)]
    [(5, 2), (5, 5)]
    """
    values = np.empty(len(answers))
    groups: dict[tuple[int, bytes], list[int]] = {}
    for number, answer in enumerate(answers):
        key = answer.values.shape[1], answer.drawn.tobytes()
        groups.setdefault(key, []).append(number)
    for numbers in groups.values():
        maps = np.stack([answers[n].values for n in numbers]).astype(np.float64)
        values[numbers] = scores(maps, answers[numbers[0]].drawn)
    heads: dict[tuple[int, int], list[int]] = {}
    for number, answer in enumerate(answers):
        heads.setdefault((answer.layer, answer.head or 0), []).append(number)
    found = {
        head: float(np.mean(finite)) if len(finite := values[n][np.isfinite(values[n])]) else np.inf
        for head, n in heads.items()
    }
    order = sorted(heads, key=lambda head: (found[head], head))
    return [([answers[n] for n in heads[head]], found[head]) for head in order[:count]]


def means_of(heads: Sequence[Sequence[Answer]], layer: int) -> list[Answer]:
    """The mean of several heads as answers without a head, one for each view; see `mean_of`.

    A head with fewer views of a clip than others has the view of the same time.
    """
    views = max(map(len, heads))
    return [
        replace(mean_of([each[view * len(each) // views] for each in heads], layer), view=view)
        for view in range(views)
    ]


def mean_of(answers: Sequence[Answer], layer: int) -> Answer:
    """The mean of several maps as one answer without a head, on the finest of their grids.

    Maps of coarser grids are brought to it by area. `layer` is the layer that it is filed under.

    >>> mean = mean_of(explanation.answers, 5)
    >>> bool(np.allclose(mean.values, explanation.maps[0].mean(0))), mean.head
    (True, None)
    """
    finest = max(answers, key=lambda answer: answer.values.size)
    maps = [
        answer.values
        if answer.placement == finest.placement
        else resample(answer.values, answer.drawn, answer.placement, finest.placement)[0]
        * (answer.values.size / finest.values.size)
        for answer in answers
    ]
    mean = np.mean(maps, 0).astype(np.float32)
    values = np.where(finest.drawn, mean, 0)
    return replace(
        finest,
        layer=layer,
        head=None,
        numbers={},
        values=values,
        points=(),
        row=mean_row([answer.row for answer in answers if answer.row is not None]),
    )
