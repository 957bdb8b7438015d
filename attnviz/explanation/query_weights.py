"""Turns a query into weights over the tokens of each layer of an observation."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz.attention.layer_input import LayerInput, LayerTokens
from attnviz.attention.sweep import Progress
from attnviz.errors import UsageError
from attnviz.explanation.explanation import SampledPoint
from attnviz.explanation.layers import Layer
from attnviz.explanation.observation import Observation
from attnviz.explanation.words_asked import in_text
from attnviz.geometry import queries
from attnviz.geometry.detections import DetectedObject, found_objects
from attnviz.geometry.grid import Layout
from attnviz.geometry.placement import Placement
from attnviz.geometry.queries import Query
from attnviz.io.picture import PictureHeader, PictureLike, load_mask
from attnviz.models.targets import Target

ALL = Query("all")
MOST_POINTS = 128
"""More sampled points than these are no longer seen one by one: the map shows where they lie."""


def resolve(observation: Observation, query: Query, layers: Sequence[int]) -> list[Query]:
    """The query resolved for each layer; `auto` is the best object where there are objects.

    Raises:
        UsageError: a layer does not have the query's token, or there is no such place.
    """
    query = located(query, observation.picture)
    if query.kind in queries.OF_TEXT or observation.text is not None:
        return [in_text(observation, query, number) for number in layers]
    found = []
    for number in layers:
        layer = observation.layers[number]
        if query.kind == "object" and not layer.objects:
            raise UsageError(
                f"--query {query}: layer {number} has no object queries; take other --layers, or "
                "--query auto"
            )
        if query.kind == "auto" and layer.objects:
            best = max(observation.objects, key=lambda each: each.score)
            found.append(object_query(best))
            continue
        if query.kind == "pool" and layer.objects:
            found.append(query)
            continue
        prefix = len(layer.prefix)
        has_class_token = observation.model.class_token and prefix > 0
        found.append(
            queries.resolve(
                query,
                has_class_token=has_class_token,
                registers=prefix - has_class_token,
                on_picture=bool(layer.queries.on_picture.any()),
                layer=number,
            )
        )
    return found


def object_query(found: DetectedObject) -> Query:
    """The query that looks from an object."""
    return Query("object", (float(found.index),), found=found)


def objects_asked(
    observation: Observation, query: Query, layers: Sequence[int], threshold: float
) -> list[Query]:
    """A query for each object that a query names; other queries do not change.

    `auto` names the objects over the threshold, or the best one, if all layers have objects.

    Raises:
        UsageError: the model predicts no such objects.
    """
    objects = observation.objects
    if query.kind == "auto" and objects and all(observation.layers[n].objects for n in layers):
        query = Query("objects" if any(o.score > threshold for o in objects) else "auto")
    if query.kind not in ("object", "objects"):
        return [query]
    found = found_objects(
        objects,
        threshold,
        asked=str(query),
        number=int(query.numbers[0]) if query.numbers else None,
        label=query.name,
    )
    return [object_query(each) for each in found]


def layers_with_objects(
    observation: Observation, layers: Sequence[int], asked: Sequence[Query], wanted: str
) -> tuple[int, ...]:
    """Those of all layers, or of the upper half, that have object queries, if these are asked for.

    In the upper half, `auto` asks for them too.
    """
    kinds = {query.kind for query in asked}
    having = tuple(number for number in layers if observation.layers[number].objects)
    asking = kinds & {"object", "objects"} or (kinds == {"auto"} and wanted.strip() == "upper")
    return having if having and asking else tuple(layers)


def read(
    observation: Observation,
    layers: Sequence[int],
    queries: Mapping[int, Sequence[Query]],
    progress: Progress | None = None,
) -> dict[int, LayerInput]:
    """The layer input of each layer: its call, and what is known of its tokens as tensors.

    `queries` maps layers to their queries; other layers look from all tokens.
    """
    shapes = [observation.layers[number].call.shape for number in layers]
    progresses = _shares(progress, [batch * rows for batch, _, rows, _ in shapes])
    masks = {
        query: mask_of(query, observation.picture) for each in queries.values() for query in each
    }
    found, sides = {}, _Sides(observation)
    for number, part in zip(layers, progresses, strict=True):
        of_layer = tuple(queries.get(number, (ALL,)))
        found[number] = observation.inputs.get((number, of_layer)) or _reading(
            sides, number, of_layer, masks, part
        )
    return found


def _reading(
    sides: "_Sides",
    number: int,
    queries: Sequence[Query],
    masks: Mapping[Query, NDArray[np.bool_] | None],
    progress: Progress | None,
) -> LayerInput:
    observation = sides.observation
    layer = observation.layers[number]
    weights = [token_weights(observation, layer, query, masks.get(query)) for query in queries]
    return LayerInput(
        call=layer.call,
        queries=sides.of(layer.queries),
        keys=sides.of(layer.keys),
        weights=torch.from_numpy(np.stack(weights, 1).astype(np.float32)),
        key_cells=layer.keys.size,
        tokens=layer.tokens,
        number=number,
        progress=progress,
    ).to(layer.call.query.device)


def token_weights(
    observation: Observation, layer: Layer, query: Query, mask: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """Weights of a query over the query tokens of a layer, (windows, tokens)."""
    layout = layer.queries
    if layer.objects and query.kind in ("object", "pool"):
        asked = layer.objects if query.kind == "pool" else [layer.objects[int(query.numbers[0])]]
        shares = np.zeros(layout.cells.shape)
        shares.flat[list(asked)] = 1 / len(asked)
        return shares
    return queries.token_weights(
        query,
        layout,
        observation.placed(layout) if layout.on_picture.any() else None,
        observation.tokens_taking_part(layout),
        mask,
        prefix=layer.prefix,
        has_class_token=observation.model.class_token,
        view=observation.view_at(layout, query.time),
    )


def sampled_points(
    observation: Observation, number: int, query: Query, head: int | None
) -> tuple[SampledPoint, ...]:
    """The points that a head samples for a query, the heaviest first; none if there are too many.

    A query at a point of the picture stands for one token of each level of features. Tokens that
    lie unevenly are points, too.
    """
    layer = observation.layers[number]
    if layer.keys.uneven and head is not None:
        return _uneven_tokens(
            layer,
            token_weights(observation, layer, query, mask_of(query, observation.picture)),
            head,
        )
    if layer.call.points is None or head is None or query.path is not None:
        return ()
    shares = token_weights(observation, layer, query, None)[:, 0]  # each query is a window
    queries = torch.from_numpy(shares.nonzero()[0])
    call = layer.call.batch(queries.to(layer.call.query.device))
    assert call.points is not None
    _, heads, levels, count, _ = call.points.shape
    if len(queries) * levels * count > MOST_POINTS:
        return ()
    weights = call.rows([0]).reshape(-1, heads, heads, levels, count)[:, head, head]
    weights = weights.cpu() * torch.from_numpy(shares)[queries, None, None]
    found = [
        SampledPoint(x, y, level, weights[query, level, point].item())
        for query, of_levels in enumerate(call.points[:, head].tolist())
        for level, points in enumerate(of_levels)
        for point, (x, y) in enumerate(points)
        if math.isfinite(x)
    ]
    return tuple(sorted(found, key=lambda point: -point.weight))


def located(query: Query, picture: PictureLike) -> Query:
    """A query with the picture pixels of its place in a sound; see `queries.located`."""
    return queries.located(query, picture.sound, picture.width, picture.name)


def _uneven_tokens(
    layer: Layer, shares: NDArray[np.float64], head: int
) -> tuple[SampledPoint, ...]:
    """Tokens at their own places with their weights, of a query with shares (windows, queries)."""
    places = layer.call.key_positions
    assert places is not None  # of tokens without a place none lies unevenly
    if layer.keys.on_picture.sum() > MOST_POINTS or layer.keys.moments:
        return ()
    weights = torch.from_numpy(shares).to(layer.call.query)
    found = [
        SampledPoint(x, y, 0, weight)
        for window, at in enumerate(places.tolist())
        for (x, y), weight in zip(
            at,
            layer.call.batch(slice(window, window + 1)).received(weights[window])[0, head].tolist(),
            strict=True,
        )
        if math.isfinite(x)
    ]
    return tuple(sorted(found, key=lambda point: -point.weight))


def class_token_of(observation: Observation, layer: Layer) -> int | None:
    """Number of the class token among the tokens of a layer; None if it has none."""
    return layer.prefix[0] if observation.model.class_token and layer.prefix else None


def mask_of(query: Query, picture: PictureLike) -> NDArray[np.bool_] | None:
    """The mask picture that a query names."""
    if query.path is None:
        return None
    mask = load_mask(query.path, width=picture.width, height=picture.height)
    return mask[:, ::-1] if isinstance(picture, PictureHeader) and picture.mirrored else mask


@contextmanager
def relabelled(option: str, other: str) -> Iterator[None]:
    """Inside this context, a usage error names another option."""
    try:
        yield
    except UsageError as error:
        raise UsageError(str(error).replace(option, other, 1)) from error


def place_weights(
    target: Target, placement: Placement, picture: PictureLike
) -> NDArray[np.float64]:
    """The share of a target's region that lies in each cell of a placement, (rows·columns,).

    Raises:
        UsageError: nothing of the region lies in the model's input.
        ImageError: its mask cannot be read.
    """
    query = target.query or Query("box", (0, 0, picture.width, picture.height))
    mask = mask_of(query, picture)
    if mask is not None and not mask.any():
        raise UsageError(
            f"--target {target}: {query.path} covers nothing; paint white what the score is of"
        )
    everything = np.ones(placement.grid.rows * placement.grid.columns, dtype=np.bool_)
    with relabelled(f"--query {query}", f"--target {target}"):
        return queries.weights(query, placement, everything, mask)


class _Sides:
    """The tokens of layouts; layers whose tokens lie alike share them."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self._found: dict[object, LayerTokens] = {}

    def of(self, layout: Layout) -> LayerTokens:
        """The tokens of a layout."""
        cells, lattice = layout.cells, (layout.rows, layout.columns, layout.stride, layout.moments)
        key = *lattice, layout.left, layout.top, cells.shape, cells.tobytes(), id(layout.cover)
        if key not in self._found:
            self._found[key] = _side(self.observation, layout)
        return self._found[key]


def _side(observation: Observation, layout: Layout) -> LayerTokens:
    """The tokens of a layout, and their positions."""
    positions = np.zeros((*layout.cells.shape, 2), dtype=np.float32)
    if layout.on_picture.any():
        centres = np.tile(observation.placed(layout).grid.centres(), (layout.views, 1))
        positions = layout.of_tokens(centres.astype(np.float32), np.float32(0))
    cover = layout.cover
    return LayerTokens(
        cells=torch.from_numpy(layout.cells),
        positions=torch.from_numpy(positions),
        taking_part=torch.from_numpy(observation.tokens_taking_part(layout)),
        cover=None
        if cover is None
        else (
            torch.from_numpy(cover.tokens),
            torch.from_numpy(cover.cells),
            torch.from_numpy(cover.shares),
        ),
        lie=not layout.learned,
    )


def _shares(progress: Progress | None, rows: Sequence[int]) -> list[Progress | None]:
    """For each layer, with its number of query rows, a function that reports overall progress."""
    if progress is None:
        return [None] * len(rows)
    part, total = progress, sum(rows)

    def share(before: int, count: int) -> Progress:
        return lambda done, of: part(before + done * count // of, total)

    return [share(end - count, count) for end, count in zip(accumulate(rows), rows, strict=True)]
