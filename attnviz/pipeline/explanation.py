"""The cheap step: ask an observation a question."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz import methods, queries, statistics
from attnviz.attention.sweep import Progress
from attnviz.errors import RecordingError, UsageError
from attnviz.geometry import Placement
from attnviz.pipeline.observation import Observation
from attnviz.pipeline.question import read, resolve
from attnviz.queries import Query
from attnviz.selection import choose_heads, choose_layers, parse_heads, parse_layers


@dataclass(frozen=True, eq=False)
class Answer:
    """One map: what a head attends to, and its numbers.

    Attributes:
        layer, head: whose map it is.
        query: the question as this layer was asked it.
        values: (rows, columns) float32 weights of the layer's own cells; masked ones are 0.
        numbers: of each statistic; NaN where it is not defined.
        placement: where the cells lie on the picture.
        drawn: (rows, columns) False for cells that are masked or lie in padding.
    """

    layer: int
    head: int
    query: Query
    values: NDArray[np.float32]
    numbers: dict[str, float]
    placement: Placement
    drawn: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps that answer one query, and the numbers of their heads.

    Attributes:
        observation: what was asked.
        query: the question, definite, as the last layer was asked it.
        method: its name.
        answers: one for each layer and head, layer by layer.
    """

    observation: Observation
    query: Query
    method: str
    answers: tuple[Answer, ...]

    @cached_property
    def by_layer(self) -> dict[int, tuple[Answer, ...]]:
        """The answers of each layer."""
        found: dict[int, tuple[Answer, ...]] = {}
        for answer in self.answers:
            found[answer.layer] = (*found.get(answer.layer, ()), answer)
        return found

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers that were asked."""
        return tuple(self.by_layer)

    @property
    def heads(self) -> tuple[int, ...]:
        """Numbers of the heads, of all layers that were asked."""
        return tuple(dict.fromkeys(answer.head for answer in self.answers))

    @property
    def alike(self) -> bool:
        """Whether all layers have the same heads, and cells laid out alike."""
        return len(self.answers) == len(self.layers) * len(self.heads) and all(
            np.array_equal(answer.drawn, self.answers[0].drawn) for answer in self.answers
        )

    @cached_property
    def maps(self) -> NDArray[np.float32]:
        """All maps, (layers, heads, rows, columns).

        Raises:
            UsageError: grids or heads differ from layer to layer.
        """
        if not self.alike:
            raise UsageError(
                "layers differ in their grids or heads; take the maps from `answers`, or --layers "
                "one at a time"
            )
        maps = np.stack([answer.values for answer in self.answers])
        return maps.reshape(len(self.layers), len(self.heads), *maps.shape[1:])

    @cached_property
    def numbers(self) -> dict[str, NDArray[np.float32]]:
        """Each statistic, (layers, heads).

        Raises:
            UsageError: heads differ from layer to layer.
        """
        shape = len(self.layers), len(self.heads)
        if len(self.answers) != shape[0] * shape[1]:
            raise UsageError("layers differ in their heads; take the numbers from `answers`")
        return {
            name: np.array([answer.numbers[name] for answer in self.answers], dtype=np.float32)
            .reshape(shape)
            for name in statistics.STATISTICS
        }  # fmt: skip


def explain(
    observation: Observation,
    *,
    query: str = "auto",
    method: str = methods.DEFAULT,
    layers: str = "-1",
    heads: str = "all",
    progress: Progress | None = None,
) -> Explanation:
    """Ask an observation where it looks from a query: maps and numbers per head.

    Args:
        observation: what `observe` gave.
        query: `auto`, `cls`, `mean`, `pool`, `X,Y`, `X0,Y0,X1,Y1` or a mask picture, in picture
            pixels.
        method: a name that `attnviz methods` lists.
        layers: `-1`, `all`, `0,5-11`.
        heads: `all`, a count `8` (the first of each layer), a list `0,3,5-7`.
        progress: told (query rows done, query rows in all).

    >>> explain(observation, query="120,80", heads="8").maps.shape      # (1, 8, 14, 21)

    Raises:
        UsageError: an option that cannot be read, or asks for more than there is.
        RecordingError: the weights are not finite, or a layer's cells are no squares.
    """
    chosen = choose_layers(parse_layers(layers), observation.count)
    observation.require(chosen)
    chosen_heads = _heads(observation, heads, chosen)
    if method not in methods.METHODS:
        raise UsageError(f"--method {method!r} is none; take {', '.join(methods.METHODS)}")
    asked = resolve(observation, queries.parse(query), chosen)
    readings = read(observation, chosen, asked, progress)
    # Numbers first: they sweep layer by layer, which is the order that progress is told in.
    numbers = [statistics.measure(reading) for reading in readings]
    ask = methods.METHODS[method].load()
    maps = [reading.on_cells(ask(reading))[0] for reading in readings]  # (H, key cells)
    answers: list[Answer] = []
    for i, layer in enumerate(chosen):
        answers += _answers(
            observation, layer, chosen_heads[i], query=asked[i], maps=maps[i], numbers=numbers[i]
        )
    return Explanation(observation, asked[-1], method, tuple(answers))


def _heads(observation: Observation, text: str, layers: Sequence[int]) -> list[tuple[int, ...]]:
    """Head numbers of each layer; a layer that has too few is named where layers differ."""
    wanted = parse_heads(text)
    counts = {number: layer.call.heads for number, layer in observation.layers.items()}
    differ = len(set(counts.values())) > 1
    return [
        choose_heads(wanted, counts[number], layer=number if differ else None) for number in layers
    ]


def _answers(
    observation: Observation,
    layer: int,
    heads: Sequence[int],
    *,
    query: Query,
    maps: Tensor,
    numbers: dict[str, Tensor],
) -> list[Answer]:
    """What the chosen heads of one layer answer; `maps` is (heads, key cells)."""
    keys = observation.layers[layer].keys
    _check_finite(observation, layer, maps)
    values: NDArray[np.float32] = maps.float().cpu().numpy().reshape(-1, keys.rows, keys.columns)
    columns = {name: found.tolist() for name, found in numbers.items()}
    placement, drawn = observation.placed(keys), observation.drawn_on(keys)
    return [
        Answer(
            layer=layer,
            head=head,
            query=query,
            values=values[head],
            numbers={name: column[head] for name, column in columns.items()},
            placement=placement,
            drawn=drawn,
        )
        for head in heads
    ]


def _check_finite(observation: Observation, layer: int, maps: Tensor) -> None:
    if torch.isfinite(maps).all():
        return
    kind = observation.layers[layer].call.query.dtype
    advice = "check the model's weights" if kind == torch.float32 else "take --dtype float32"
    raise RecordingError(
        f"{observation.picture.path}: the attention is not finite in {kind}; {advice}"
    )
