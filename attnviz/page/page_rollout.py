"""Packs rollout from all tokens as a whole matrix, if the matrix is small enough for the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.attribution.vector_products import whole
from attnviz.explanation.explain_observation import reason_against
from attnviz.explanation.observation import Observation
from attnviz.methods.rollout import fuse, of_itself
from attnviz.page.pack import in_bytes, pack
from attnviz.page.page_layers import Packed
from attnviz.page.page_tokens import PageTokens, side_of

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
