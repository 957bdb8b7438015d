"""Makes one layer of the page: the block of its arrays, and their description."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.attention.layer_input import LayerInput
from attnviz.errors import RecordingError
from attnviz.explanation.observation import Observation
from attnviz.explanation.query_weights import ALL
from attnviz.geometry.queries import Query
from attnviz.page.pack import PackedBlock, pack
from attnviz.page.page_tokens import PageTokens, side_of
from attnviz.page.page_weights import encode
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
    """The averages of a layer beside its rows: over all queries, and over those on the picture."""
    on_picture = observation.layers[number].queries.on_picture.any()
    return (ALL, MEAN) if on_picture else (ALL,)


def pack_layer(
    observation: Observation,
    number: int,
    reading: LayerInput,
    heads: tuple[int, ...],
) -> Packed:
    """A layer of the page, from a reading that answered its `questions`.

    Raises:
        RecordingError: the attention is not finite, or the cells are not squares.
    """
    layer = observation.layers[number]
    queries, keys = side_of(observation, layer, "queries"), side_of(observation, layer, "keys")
    averages = _averages(reading, keys, heads)
    if not all(np.isfinite(each).all() for each in averages.values()):
        raise RecordingError(
            f"{observation.picture.path}: the attention of layer {number} is not finite in "
            f"{layer.call.query.dtype}; check the model's weights, or take --dtype float32"
        )
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


def tidy(value: float) -> float | None:
    """A number to eight significant digits, as in the record; NaN and ±∞ become null."""
    return float(f"{value:.8g}") if np.isfinite(value) else None
