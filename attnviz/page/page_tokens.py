"""Describes the tokens of one side of a layer (its queries or its keys) for the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attnviz.explanation.layers import Layer
from attnviz.explanation.observation import Observation
from attnviz.explanation.query_weights import class_token_of
from attnviz.geometry.detections import DetectedObject, nothing_over
from attnviz.geometry.grid import Layout
from attnviz.output.schema import tidy

Role = Literal["queries", "keys"]


@dataclass(frozen=True, eq=False)
class PageTokens:
    """The queries of a layer, or its keys, in the order of the page.

    With one window, the tokens without a place come first, then the cells row by row.

    Attributes:
        role: queries or keys; the first word of the names of its parts.
        layout: the cells of the tokens, in the layer's own order.
        prefix: names of the tokens without a place; empty if there are several windows.
        part: (windows, tokens), False for masked tokens, in the order of the page.
        drawn: (rows, columns), the cells that are drawn; None if there are no cells.
        edges: borders of the cells in picture pixels, along x and y.
    """

    role: Role
    layout: Layout
    prefix: tuple[str, ...]
    part: NDArray[np.bool_]
    drawn: NDArray[np.bool_] | None
    edges: tuple[list[float], list[float]]

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """The layer's number of each token, in the order of the page, (windows, tokens)."""
        return order_of(self.layout)

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """The cell of each token, in the order of the page."""
        return np.take_along_axis(self.layout.cells, self.order, 1)

    @cached_property
    def drawn_tokens(self) -> NDArray[np.bool_]:
        """Tokens on cells that are drawn, (windows, tokens), in the order of the page."""
        if self.drawn is None:
            return np.zeros(self.cells.shape, dtype=np.bool_)
        return np.append(self.drawn.ravel(), False)[self.cells] & self.part

    @property
    def plain(self) -> bool:
        """Whether the side is the prefix and then each cell once."""
        cells = 0 if self.drawn is None else self.drawn.size
        expected = np.concatenate([np.full(len(self.prefix), -1), np.arange(cells)])
        return self.layout.windows == 1 and np.array_equal(self.cells[0], expected)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of this side; a plain side that is drawn as a whole needs none."""
        found: dict[str, NDArray[Any]] = {}
        if not self.plain:
            found[f"{self.role}_cells"] = self.cells.astype(np.int32)
        if not self.part.all():
            found[f"{self.role}_part"] = self.part.astype(np.uint8)
        if self.drawn is not None and not self.drawn.all():
            found[f"{self.role}_drawn"] = self.drawn.astype(np.uint8)
        cover = self.layout.cover
        if cover is not None:
            numbers = np.empty(self.cells.shape, dtype=np.int32)
            np.put_along_axis(numbers, self.order, np.arange(self.cells.shape[1])[None], 1)
            windows, tokens = np.divmod(cover.tokens, self.cells.shape[1])
            of_page = windows * self.cells.shape[1] + numbers[windows, tokens]
            found[f"{self.role}_cover_tokens"] = of_page.astype(np.int32)
            found[f"{self.role}_cover_cells"] = cover.cells.astype(np.int32)
            found[f"{self.role}_cover_shares"] = cover.shares.astype(np.float32)
            found[f"{self.role}_cover_parts"] = cover.parts.astype(np.float32)
        return found

    def description(self) -> dict[str, Any]:
        """The description of this side for the page's script."""
        named = self.arrays()
        rows, columns = (0, 0) if self.drawn is None else self.drawn.shape

        def part(name: str) -> str | None:
            return f"{self.role}_{name}" if f"{self.role}_{name}" in named else None

        return {
            "rows": rows,
            "columns": columns,
            "edges_x": self.edges[0],
            "edges_y": self.edges[1],
            "windows": self.layout.windows,
            "tokens": self.cells.shape[1],
            "prefix": list(self.prefix),
            "cells": part("cells"),
            "taking_part": part("part"),
            "drawn": part("drawn"),
            **({} if self.layout.cover is None else {"cover": f"{self.role}_cover"}),
        }


def side_of(observation: Observation, layer: Layer, role: Role) -> PageTokens:
    """The queries or the keys of a layer."""
    layout: Layout = getattr(layer, role)
    part = np.take_along_axis(observation.tokens_taking_part(layout), order_of(layout), 1)
    on_picture = bool(layout.on_picture.any())
    class_token = class_token_of(observation, layer)
    asking = role == "queries" or layer.queries.cells.shape == layout.cells.shape
    objects = {
        number: name_of(found)
        for number, found in zip(layer.objects, observation.objects, strict=False)
        if asking
    }
    return PageTokens(
        role=role,
        layout=layout,
        prefix=_names(layout, class_token=class_token, objects=objects),
        part=part,
        drawn=observation.drawn_on(layout)[0] if on_picture else None,
        edges=edges_of(observation, layout) if on_picture else ([], []),
    )


def order_of(layout: Layout) -> NDArray[np.intp]:
    """The order of the page, (windows, tokens): tokens without a place, then the cells in order.

    Several windows keep the layer's order.
    """
    windows, tokens = layout.cells.shape
    if windows > 1:
        return np.broadcast_to(np.arange(tokens), (windows, tokens))
    return np.argsort(layout.cells, axis=1, kind="stable")


def _names(
    layout: Layout, *, class_token: int | None, objects: Mapping[int, str]
) -> tuple[str, ...]:
    """Names of the tokens without a place, in their order; `objects` are those of objects.

    Of several windows there are none, unless each is an object query that samples its own points.
    """
    if layout.windows > 1:
        alone = layout.cells.shape[1] == 1 and len(objects) == layout.windows
        return tuple(objects[number] for number in range(layout.windows)) if alone else ()
    on_picture = layout.on_picture[0]
    outside = [int(number) for number in np.flatnonzero(~on_picture)]
    before = int(on_picture.argmax()) if on_picture.any() else 0
    rest = [number for number in outside if number != class_token]
    kinds = {
        number: "pool" if not on_picture.any() else "register" if number < before else "other"
        for number in rest
    }
    alone = not on_picture.any() and len(rest) == 1
    names: dict[int, str] = {} if class_token is None else {class_token: "class"}
    for kind in ("pool", "register", "other"):
        for i, number in enumerate(n for n in rest if kinds[n] == kind):
            names[number] = kind if alone else f"{kind} {i}"
    return tuple(objects.get(number, names[number]) for number in outside)


def edges_of(observation: Observation, layout: Layout) -> tuple[list[float], list[float]]:
    """Borders of the cells in picture pixels, along x and y."""
    x, y = observation.placed(layout).edges()
    return [round(float(each), 4) for each in x], [round(float(each), 4) for each in y]


def name_of(found: DetectedObject) -> str:
    """The name of an object query on the page."""
    return f"object {found.index}: {found}"


def objects_data(
    observation: Observation, layers: Sequence[int], threshold: float
) -> dict[str, Any] | None:
    """The page's data about objects over a threshold, the best first; None if it has none.

    Boxes are in picture pixels; an object with an empty mask has none.
    """
    if not any(observation.layers[number].objects for number in layers):
        return None
    ranked = sorted(observation.objects, key=lambda found: -found.score)
    over = [found for found in ranked if found.score > threshold]
    boxes = {found.index: observation.region(found).box for found in over}
    return {
        "why": None if over else nothing_over(ranked[0], threshold),
        "found": [
            {
                "name": name_of(found),
                "index": found.index,
                "label": found.label,
                "score": tidy(found.score),
                "box": None if box is None else [round(float(side), 2) for side in box],
            }
            for found in over
            for box in [boxes[found.index]]
        ],
    }
