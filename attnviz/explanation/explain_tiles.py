"""Explains a picture tile by tile, and joins the maps of all tiles; memory holds few tiles."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz.attention.sweep import Progress
from attnviz.errors import UsageError
from attnviz.explanation.explanation import Answer, Explanation, ResolvedQuestion
from attnviz.explanation.observation import Observation
from attnviz.explanation.request import Questions, answer, check, look_many
from attnviz.explanation.shapes_to_try import first_placement
from attnviz.explanation.tile_request import NO_OBJECTS, check_tiled
from attnviz.geometry.placement import Fit, Placement
from attnviz.geometry.tiling import JoinedMaps, TilePlan, plan_tiles
from attnviz.io.parts import Box
from attnviz.io.picture import PictureHeader
from attnviz.io.picture_tiles import TiledPicture
from attnviz.models import memory
from attnviz.models.model import LaidPicture, Model

T = TypeVar("T")
AT_ONCE = 8
"""Number of tiles that the model runs on at once."""


def explain_tiles(
    picture: TiledPicture,
    model: Model,
    questions: Questions,
    *,
    fit: Fit = "keep",
    progress: Progress | None = None,
) -> list[Explanation]:
    """The explanation by each method, joined from all tiles of a picture.

    Its maps are joined by `geometry.tiling.JoinedMaps`. Each number of a head is the mean over the
    tiles where it is defined, and so is the value of a score.

    Args:
        picture: an open picture.
        model: the model.
        questions: the questions.
        fit: how a tile is laid into the input.
        progress: a function that is called with (tiles done, tiles in all).

    Raises:
        UsageError: a question has no meaning for all tiles, or the model cannot answer it.
        ImageError: a tile cannot be read.
        MemoryLimitError: the joined maps do not fit into memory.
        ModelError, RecordingError: as of `observe`.
    """
    check_tiled(
        questions.methods,
        questions.queries,
        questions.targets,
        heads=questions.heads,
        statistics=questions.statistics,
    )
    questions = replace(questions, suggest=False)
    plan = _plan(picture, model, questions, fit)
    joined = {method: _JoinedExplanation(plan, picture.header) for method in questions.methods}
    done = 0
    for boxes in _groups(plan.boxes(), AT_ONCE):
        for box, observation in zip(
            boxes, _observed(picture, boxes, model, questions, fit), strict=True
        ):
            for method, whole in joined.items():
                part = answer(observation, questions, method)
                if any(question.query.found is not None for question in part.questions):
                    raise UsageError(f"--tile: {NO_OBJECTS}")
                whole.add(box[:2], part)
        done += len(boxes)
        if progress is not None:
            progress(done, plan.count)
    return [whole.result() for whole in joined.values()]


def _plan(picture: TiledPicture, model: Model, questions: Questions, fit: Fit) -> TilePlan:
    header, side = picture.header, picture.side
    tile = PictureHeader(header.path, min(side, header.width), min(side, header.height))
    check(tile, model, questions, fit=fit)
    grid = first_placement(model, tile, fit).grid
    return plan_tiles(
        header.width, header.height, side, picture.overlap, rows=grid.rows, columns=grid.columns
    )


def _observed(
    picture: TiledPicture, boxes: Sequence[Box], model: Model, questions: Questions, fit: Fit
) -> list[Observation]:
    """Run the model on some tiles at once; each is read when it is laid into the input."""

    def lay(number: int, placement: Placement) -> LaidPicture:
        return model.lay(picture.read(boxes[number]), placement)

    headers = [PictureHeader(picture.path, width, height) for _, _, width, height in boxes]
    return look_many(headers, model, questions, fit=fit, lay=lay)


def _groups(values: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(values)
    while group := list(islice(rest, size)):
        yield group


@dataclass(eq=False)
class _Totals:
    """Sums over tiles, and the number of tiles where each was defined."""

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]

    def add(self, values: NDArray[np.float64]) -> None:
        defined = np.isfinite(values)
        self.sums += np.where(defined, values, 0)
        self.counts += defined

    def means(self) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return self.sums / self.counts  # 0/0 is NaN


class _JoinedExplanation:
    """The explanation by one method, while tiles come one after another."""

    def __init__(self, plan: TilePlan, picture: PictureHeader) -> None:
        self._plan, self._picture = plan, picture
        self._first: Explanation | None = None
        self._maps: dict[int, JoinedMaps] = {}
        self._numbers = self._scores = _Totals(np.zeros(0), np.zeros(0, dtype=np.int64))
        self._errors: dict[int, float] = {}

    def add(self, corner: tuple[int, int], tile: Explanation) -> None:
        """Add the explanation of the tile with its corner at x, y."""
        if self._first is None:
            self._begin(tile)
        for layer, answers in tile.by_layer.items():
            maps = np.stack([each.values for each in answers])
            self._maps[layer].add(*corner, maps, answers[0].drawn, answers[0].placement)
        self._numbers.add(_numbers(tile.answers))
        self._scores.add(_scores(tile.questions))
        for layer, error in tile.observation.errors.items():
            self._errors[layer] = max(error, self._errors.get(layer, 0.0))

    def _begin(self, tile: Explanation) -> None:
        _check_memory(self._plan, tile)
        self._maps = {
            layer: JoinedMaps(self._plan, answers[0].placement, len(answers))
            for layer, answers in tile.by_layer.items()
        }
        numbers, scores = _numbers(tile.answers), _scores(tile.questions)
        self._numbers, self._scores = (
            _Totals(np.zeros(each.shape), np.zeros(each.shape, dtype=np.int64))
            for each in (numbers, scores)
        )
        observation = tile.observation.without_run()
        answers = tuple(replace(each, values=each.values[:0]) for each in tile.answers)
        self._first = replace(tile, observation=observation, answers=answers)

    def result(self) -> Explanation:
        """The joined explanation."""
        assert self._first is not None  # a picture has a tile
        maps = {layer: (*one.result(), one.placement) for layer, one in self._maps.items()}
        places = dict.fromkeys(maps, 0)
        answers: list[Answer] = []
        for given, numbers in zip(self._first.answers, self._numbers.means(), strict=True):
            values, drawn, placement = maps[given.layer]
            place = places[given.layer]
            places[given.layer] += 1
            answers.append(
                replace(
                    given,
                    values=values[place],
                    drawn=drawn,
                    placement=placement,
                    numbers=dict(zip(given.numbers, numbers.tolist(), strict=False)),
                )
            )
        return replace(
            self._first,
            observation=self._observation(self._first.observation),
            questions=self._questions(self._first.questions),
            answers=tuple(answers),
            tiles=self._plan,
        )

    def _observation(self, first: Observation) -> Observation:
        return replace(first, picture=self._picture, checked=dict(self._errors))

    def _questions(self, first: Sequence[ResolvedQuestion]) -> tuple[ResolvedQuestion, ...]:
        found = []
        for question, (value, probability) in zip(first, self._scores.means(), strict=True):
            scored = question.target
            if scored is not None:
                sure = None if scored.probability is None else float(probability)
                scored = replace(scored, value=torch.tensor(float(value)), probability=sure)
            found.append(replace(question, target=scored))
        return tuple(found)


def _numbers(answers: Sequence[Answer]) -> NDArray[np.float64]:
    """The numbers of the heads, (answers, numbers)."""
    return np.array([list(each.numbers.values()) for each in answers], dtype=np.float64)


def _scores(questions: Sequence[ResolvedQuestion]) -> NDArray[np.float64]:
    """Value and probability of each question's score, (questions, 2); NaN without one."""
    rows = []
    for question in questions:
        scored = question.target
        sure = None if scored is None else scored.probability
        value = math.nan if scored is None else float(scored.value)
        rows.append((value, math.nan if sure is None else sure))
    return np.array(rows, dtype=np.float64)


def _check_memory(plan: TilePlan, tile: Explanation) -> None:
    """Check that sums, weights and what is drawn of them fit into memory."""
    area = plan.picture_width * plan.picture_height / math.prod(plan.size)
    cells = sum(answer.values.size for answer in tile.answers) * area
    memory.require(
        cells * 4 + 64 * max(answer.values.size for answer in tile.answers) * area,
        f"joined maps of {plan.count} tiles",
        "take a larger --tile, fewer --heads or --layers, or a --region",
    )
