"""Makes the parts of the page, its layers and its rollouts, and estimates their size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.attribution.vector_products import whole
from attnviz.errors import OutputError, RecordingError
from attnviz.explanation.observation import Observation
from attnviz.explanation.query_weights import ALL
from attnviz.explanation.requirements import reason_against
from attnviz.geometry.queries import Query
from attnviz.methods.rollout import fuse, of_itself
from attnviz.output.schema import tidy
from attnviz.page.page_tokens import PageTokens, side_of
from attnviz.page.page_weights import (
    PackedBlock,
    byte_count,
    encode,
    encode_rows,
    in_bytes,
    pack,
)
from attnviz.page.page_words import PageWord, mean_of_answer, word_rows
from attnviz.statistics import measure

MEAN = Query("mean")


@dataclass(frozen=True)
class Packed:
    """A part of the page.

    Attributes:
        name: name of its block.
        block: its arrays.
        description: the description of the arrays for the page's script.
    """

    name: str
    block: PackedBlock
    description: dict[str, Any]


def questions(observation: Observation, number: int) -> tuple[Query, ...]:
    """The averages of a layer beside its rows: over all queries, and over those on the picture.

    Of a model that answers in words, the page computes them of the words.
    """
    if observation.text is not None:
        return (ALL,)
    on_picture = observation.layers[number].queries.on_picture.any()
    return (ALL, MEAN) if on_picture else (ALL,)


def pack_layer(
    observation: Observation,
    number: int,
    reading: LayerInput,
    heads: tuple[int, ...],
    words: Sequence[PageWord] = (),
) -> Packed:
    """A layer of the page, from a reading that answered its `questions`.

    Of a model that answers in words, the queries are its words.

    Raises:
        RecordingError: the attention is not finite.
    """
    layer = observation.layers[number]
    if words:
        queries, keys, rows = word_rows(observation, number, heads, words)
        averages = {"received": mean_of_answer(rows, words)}
    else:
        queries, keys = side_of(observation, layer, "queries"), side_of(observation, layer, "keys")
        averages = _averages(reading, keys, heads)
    if not all(np.isfinite(each).all() for each in averages.values()):
        raise RecordingError(
            f"{observation.picture.path}: the attention of layer {number} is not finite in "
            f"{layer.call.query.dtype}; check the model's weights, or take --dtype float32"
        )
    if words:
        chosen, arrays = "weights8", encode_rows(rows, keys)
    else:
        chosen, arrays = encode(layer.call, heads, queries, keys)
    block = pack({**arrays, **averages, **queries.arrays(), **keys.arrays()})
    error = observation.errors[number]
    description = {
        "layer": number,
        "heads": list(heads),
        "of": layer.call.heads,
        "max_error": tidy(error),
        "verified": number not in observation.unexplained,
        "queries": queries.description(),
        "keys": keys.description(),
        "block": f"layer{number}",
        "encoding": chosen,
        **({"features": layer.call.query.shape[3]} if chosen == "keys16" else {}),
        "parts": block.parts,
        "numbers": _numbers(observation, number, reading, heads),
    }
    return Packed(f"layer{number}", block, description)


def _averages(
    reading: LayerInput, keys: PageTokens, heads: tuple[int, ...]
) -> dict[str, NDArray[np.float32]]:
    """The exact weights that keys receive for each question, (windows, heads, keys)."""
    received = reading.received()[:, :, list(heads)].cpu().numpy()  # (windows, R, heads, keys)
    ordered = np.take_along_axis(received, keys.order[:, None, None], 3)
    names = ("received", "mean")
    return {name: ordered[:, i] for i, name in zip(range(ordered.shape[1]), names, strict=False)}


def _numbers(
    observation: Observation, number: int, reading: LayerInput, heads: tuple[int, ...]
) -> list[list[float | None]]:
    """All statistics of each head."""
    if number not in observation.numbers:
        observation.numbers[number] = measure(reading)
    found = observation.numbers[number]
    return [[tidy(float(values[head])) for values in found.values()] for head in heads]


_FEW = 3 << 20
"""If all matrices together have at most this many bytes, each layer of the page gets one."""
_MOST = 8 << 20
"""The largest size of one matrix in bytes: larger ones would take too much of the file."""


def ends(observation: Observation, layers: Sequence[int]) -> tuple[list[int], str | None]:
    """The layers of the page that have a rollout, and the reason why the others have none."""
    reasons = {n: reason_against(observation, "rollout", n) for n in layers}
    able = [number for number in layers if reasons[number] is None]
    why = next((f"layer {n}: {reasons[n]}" for n in layers if reasons[n] is not None), None)
    if not able:
        return [], why
    sizes = {n: observation.layers[n].queries.cells.size * _keys(observation) for n in able}
    if sum(sizes.values()) <= _FEW:
        return able, why
    if sizes[able[-1]] <= _MOST:
        return able[-1:], why or "of so many tokens only the last layer has one"
    return [], f"a rollout from every one of {_keys(observation)} tokens would be too large"


def _keys(observation: Observation) -> int:
    """The number of tokens that enter the first layer."""
    return int(observation.layers[0].keys.cells.size)


def pack_rollouts(
    observation: Observation, readings: Mapping[int, LayerInput], chosen: Sequence[int]
) -> list[Packed]:
    """Rollouts from every query of the chosen layers, through all layers before them."""
    found: list[Packed] = []
    matrix: Tensor | None = None
    for number in range(max(chosen) + 1) if chosen else ():
        step = _step(readings[number])
        matrix = step if matrix is None else step @ matrix
        if number in chosen:
            found.append(_pack(observation, number, matrix))
    return found


def _step(reading: LayerInput) -> Tensor:
    """The factor of one layer, (queries, keys): rownorm(M + I), or M for an attention pool."""
    matrix = whole(fuse(reading, "mean"))[0]
    if of_itself(reading):
        matrix.diagonal().add_(1)
        matrix /= matrix.sum(-1, keepdim=True)
    return matrix


def _pack(observation: Observation, number: int, matrix: Tensor) -> Packed:
    layer, first = observation.layers[number], observation.layers[0]
    queries, keys = side_of(observation, layer, "queries"), side_of(observation, first, "keys")
    rows = matrix[torch.from_numpy(queries.order[0].copy())].cpu().numpy()
    block = pack({**_arrays(rows[:, keys.order[0]], queries, keys), **queries.arrays(),
                  **keys.arrays()})  # fmt: skip
    description: dict[str, Any] = {
        "layer": number,
        "block": f"rollout{number}",
        "parts": block.parts,
        "queries": queries.description(),
        "keys": keys.description(),
    }
    return Packed(f"rollout{number}", block, description)


def _arrays(rows: Any, queries: PageTokens, keys: PageTokens) -> dict[str, Any]:
    """The weights that a query gives to others, as bytes; its own, much larger weight is exact."""
    outside = len(keys.prefix)
    found = {"prefix": rows[:, :outside].copy()} if outside else {}
    if np.array_equal(queries.cells, keys.cells):
        found["own"] = rows.diagonal().copy()
        np.fill_diagonal(rows, 0)
    weights, maximum = in_bytes(rows[:, outside:], keys.drawn_tokens[:, outside:])
    return {"weights": weights, "maximum": maximum, **found}


_REST = 1_000_000
"""Bytes for everything outside the blocks: photograph, script, descriptions."""


@dataclass(frozen=True)
class Size:
    """The size of a page of some heads of some layers.

    Attributes:
        observation: the observation that the page shows.
        heads: the heads of the page, by layer.
        limit: the largest size of a page in bytes.
        words: number of the words that the page looks from; 0 if it looks from tokens.
    """

    observation: Observation
    heads: Mapping[int, tuple[int, ...]]
    limit: int
    words: int = 0

    def check(self, packed: Sequence[Packed] = ()) -> None:
        """Check that the page can stay within its limit, given the parts that are packed already.

        The other layers count with half of their size before compression, so that no page is
        refused that would fit. Packed layers count with their real size.

        Raises:
            OutputError: the page would be too large.
        """
        size_so_far = sum(len(each.block.text) for each in packed)
        layers = list(self.heads)[len(packed) :]
        rest = sum(self._expected(number) for number in layers)
        if size_so_far + rest / 2 + (0 if layers else _REST) > self.limit:
            raise OutputError(self._advice(size_so_far + rest))

    def check_whole(self, size: int) -> None:
        """Check that the finished page is small enough.

        Raises:
            OutputError: the page is too large.
        """
        if size > self.limit:
            raise OutputError(self._advice(size))

    def _expected(self, number: int) -> float:
        """The size of a layer in base64 without compression, in bytes."""
        layer, heads = self.observation.layers[number], len(self.heads[number])
        if self.words:
            return heads * self.words * int(layer.keys.on_picture.sum()) * 4 / 3
        return byte_count(layer.call, heads) * 4 / 3

    def _advice(self, total: float) -> str:
        """An error line that names the estimated size, and options with which the page fits."""
        share = (self.limit - _REST) / total
        chosen, most = list(self.heads), max(len(each) for each in self.heads.values())
        layers, heads = math.floor(len(chosen) * share), math.floor(most * share)
        size = math.floor(self.observation.model.size * math.sqrt(share))
        words = max(1, math.floor(self.words * share))
        advice = [f"--max-words {words}" if self.words else f"--size {size} or smaller"]
        if heads:
            advice.insert(0, f"--heads {heads}")
        if layers:
            few = f"{chosen[-layers]}-{chosen[-1]}" if layers > 1 else f"{chosen[-1]}"
            advice.insert(0, f"--layers {few}")
        *others, last = advice
        take = f"{', '.join(others)} or {last}" if others else last
        return (
            f"the page would have about {total / 1e6:.0f} MB, over the limit of "
            f"{self.limit / 1e6:.0f} MB; take {take}"
        )
