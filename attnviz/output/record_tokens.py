"""The parts of a record about single tokens: sinks, tokens of high norm, visual sinks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnviz.explanation.layers import Layer
from attnviz.explanation.observation import Observation
from attnviz.explanation.query_weights import class_token_of
from attnviz.geometry.grid import Layout
from attnviz.output import records
from attnviz.statistics import More
from attnviz.statistics.tokens import HighNorm, Token


def layer_info(observation: Observation, number: int, more: More) -> records.LayerInfo:
    """Numbers that compare the heads or the tokens of one layer."""
    layer, norms = observation.layers[number], more.high_norm
    high: dict[str, Any] = {}
    if norms is not None:
        found = high_norm_info(observation, layer, norms)
        high = {"high_norm": found, "norm_median": norms.median, "norm_limit": norms.limit}
    return records.LayerInfo(
        layer=number,
        cosine=more.cosine.tolist(),
        jensen_shannon=more.jensen_shannon.tolist(),
        sinks=[
            records.Sink(
                head=token.head,
                received=token.value,
                **_token(observation, layer, layer.keys, token),
            )
            for token in more.sinks
            if token.head is not None
        ],
        **high,
    )


def high_norm_info(
    observation: Observation, layer: Layer, norms: HighNorm
) -> list[records.HighNormToken]:
    """The tokens of high norm of one layer."""
    return [
        records.HighNormToken(norm=token.value, **_token(observation, layer, layer.queries, token))
        for token in norms.tokens
    ]


def _token(observation: Observation, layer: Layer, layout: Layout, token: Token) -> dict[str, Any]:
    """The kind and number of a token, and the middle of its cell if that lies on the picture."""
    info: dict[str, Any] = {
        "token": token.token,
        "kind": token.kind(class_token=class_token_of(observation, layer)),
        "window": token.window if layout.windows > 1 else None,
    }
    if token.cell >= 0:
        view, cell = divmod(token.cell, layout.rows * layout.columns)
        row, column = divmod(cell, layout.columns)
        if observation.drawn_on(layout)[view, row, column]:
            info["x"], info["y"] = observation.placed(layout).visible_centre(row, column)
    return info


def visual_sinks(observation: Observation, layers: Sequence[int]) -> list[records.LayerVisualSinks]:
    """The visual sinks of these layers; layers without any are left out."""
    found = []
    for number in layers:
        layer, massive = observation.layers[number], observation.massive.get(number)
        if massive is None:
            continue
        cells = layer.keys.cells[0]
        sinks = np.flatnonzero(massive.tokens & (cells >= 0)).tolist()
        tokens = [
            records.TokenInfo(**_token(observation, layer, layer.keys, Token(0, n, cells[n], 0.0)))
            for n in sinks
        ]
        if tokens:
            dimensions = list(massive.dimensions)
            found.append(
                records.LayerVisualSinks(layer=number, dimensions=dimensions, tokens=tokens)
            )
    return found
