"""A question in words, put to the layers of an observation."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz import queries
from attnviz.attention.reading import Reading, Side
from attnviz.attention.sweep import Progress
from attnviz.geometry import Fit, Layout
from attnviz.images import Picture, load_mask
from attnviz.models.model import Model
from attnviz.pipeline.layers import Layer
from attnviz.pipeline.observation import Observation
from attnviz.queries import Query
from attnviz.selection import choose_heads, choose_layers, parse_heads, parse_layers


def check_question(
    picture: Picture,
    model: Model,
    *,
    fit: Fit = "keep",
    query: str = "auto",
    layers: str = "-1",
    heads: str = "all",
) -> None:
    """Whether a question can be asked of a model and a picture, as far as is known before the run.

    Raises:
        UsageError: a query beside the picture, or heads or layers that the model does not have.
        ImageError: a mask picture that cannot be read.
    """
    chosen_layers, chosen_heads = parse_layers(layers), parse_heads(heads)
    if model.plain and model.layers is not None:  # others may have a pool beside their layers
        choose_layers(chosen_layers, model.layers)
    if model.heads is not None:
        choose_heads(chosen_heads, model.heads)
    asked = queries.parse(query)
    if asked.kind not in ("auto", "pool"):
        queries.resolve(asked, has_class_token=model.class_token)
    if asked.kind in ("point", "box", "mask"):
        placement = model.place(picture, fit=fit)
        everything = np.ones(placement.grid.grid_tokens, dtype=np.bool_)
        queries.weights(asked, placement, everything, _mask(asked, picture))


def resolve(observation: Observation, query: Query, layers: Sequence[int]) -> list[Query]:
    """The question as each layer is asked it.

    Raises:
        UsageError: a layer has no such query.
    """
    found = []
    for number in layers:
        layer = observation.layers[number]
        found.append(
            queries.resolve(
                query,
                has_class_token=observation.model.class_token and _begins_outside(layer),
                on_picture=bool(layer.queries.on_picture.any()),
                layer=number,
            )
        )
    return found


def _begins_outside(layer: Layer) -> bool:
    """Whether token 0 lies outside the picture, as query and as key: where a class token is."""
    sides = (layer.queries, layer.keys)
    return all(side.windows == 1 and not side.on_picture[0, 0] for side in sides)


def read(
    observation: Observation,
    layers: Sequence[int],
    asked: Sequence[Query],
    progress: Progress | None = None,
) -> list[Reading]:
    """What the core needs to know of the tokens of each layer, as tensors beside its call."""
    mask = _mask(asked[0], observation.picture)
    shapes = [observation.layers[number].call.shape for number in layers]
    tellers = _shares(progress, [batch * queries for batch, _, queries, _ in shapes])
    return [
        _reading(observation, number, query, mask, tell)
        for number, query, tell in zip(layers, asked, tellers, strict=True)
    ]


def _reading(
    observation: Observation,
    number: int,
    query: Query,
    mask: NDArray[np.bool_] | None,
    progress: Progress | None,
) -> Reading:
    layer = observation.layers[number]
    layout, device = layer.queries, layer.call.query.device
    weights = queries.token_weights(
        query,
        layout,
        observation.placed(layout) if layout.on_picture.any() else None,
        observation.tokens_taking_part(layout),
        mask,
    )
    return Reading(
        call=layer.call,
        queries=_side(observation, layer.queries, device),
        keys=_side(observation, layer.keys, device),
        weights=torch.from_numpy(weights.astype(np.float32))[:, None].to(device),
        key_cells=layer.keys.rows * layer.keys.columns,
        progress=progress,
    )


def _side(observation: Observation, layout: Layout, device: torch.device) -> Side:
    """The tokens of a layout, and where they lie."""
    positions = np.zeros((*layout.cells.shape, 2), dtype=np.float32)
    if layout.on_picture.any():
        centres = observation.placed(layout).grid.centres().astype(np.float32)
        positions = layout.of_tokens(centres, np.float32(0))
    return Side(
        cells=torch.from_numpy(layout.cells).to(device),
        positions=torch.from_numpy(positions).to(device),
        taking_part=torch.from_numpy(observation.tokens_taking_part(layout)).to(device),
    )


def _shares(progress: Progress | None, rows: Sequence[int]) -> list[Progress | None]:
    """For each layer, of so many query rows, what tells its progress as a part of all."""
    if progress is None:
        return [None] * len(rows)
    tell, total = progress, sum(rows)

    def share(before: int, own: int) -> Progress:
        return lambda done, of: tell(before + done * own // of, total)

    return [share(end - own, own) for end, own in zip(accumulate(rows), rows, strict=True)]


def _mask(query: Query, picture: Picture) -> NDArray[np.bool_] | None:
    """The mask picture that a query names."""
    if query.path is None:
        return None
    return load_mask(query.path, width=picture.width, height=picture.height)
