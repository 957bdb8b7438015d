"""Lays tokens of one or more views of a picture, such as tiles and a thumbnail, onto its cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention import AttentionCall
from attnviz.explanation.lattices import Unplaced, merged
from attnviz.geometry.grid import Box, Layout
from attnviz.models.processor_places import PictureTensor

Array = NDArray[np.float64]
_ALIKE = 0.05
"""Tiles whose sides differ by a smaller share belong to one view."""
_SAME = 0.1
"""Views are the same if their sides lie no farther apart, as a share of a cell."""
_ASTRAY = 0.3
"""The farthest that a token may lie from the middle of its cell, as a share of the cell."""


@dataclass(frozen=True, eq=False)
class View:
    """Tokens that lie on one lattice of the picture.

    Attributes:
        tokens: (tokens,) boolean, which tokens they are.
        layout: their cells, in picture pixels.
        tiles: number of tiles that the lattice is put together from.
    """

    tokens: NDArray[np.bool_]
    layout: Layout
    tiles: int = 1

    @property
    def box(self) -> Box:
        """The part of the picture that its cells cover; it may reach beyond the picture."""
        layout = self.layout
        assert layout.stride is not None  # a lattice has one
        height, width = layout.stride
        right, bottom = layout.left + layout.columns * width, layout.top + layout.rows * height
        return Box(layout.left, layout.top, right, bottom)

    def is_like(self, other: "View") -> bool:
        """Whether the other one has the same cells in the same part of the picture."""
        mine, its = self.layout, other.layout
        if (mine.rows, mine.columns, self.tiles) != (its.rows, its.columns, other.tiles):
            return False
        assert mine.stride is not None  # a lattice has one
        apart = np.abs(np.subtract(self.box, other.box))
        return bool((apart <= _SAME * min(mine.stride)).all())


def places_of(call: AttentionCall, side: str, picture: PictureTensor) -> tuple[Array, Array]:
    """Places of a call's queries or keys in picture pixels, (tokens, 2), and their tiles.

    Tokens that lie nowhere, or in a tile that shows nothing of the picture, are NaN.
    """
    count = call.shape[2] if side == "query" else call.shape[3]
    positions: Tensor | None = getattr(call, f"{side}_positions")
    if positions is None:
        return np.full((count, 2), np.nan), np.zeros(count)
    at = positions[0].double().cpu().numpy()
    at = np.where(np.isfinite(at).all(-1, keepdims=True), at, np.nan)
    numbers: Tensor | None = getattr(call, f"{side}_pictures")
    tile = np.zeros(count) if numbers is None else numbers[0].double().cpu().numpy()
    return on_the_picture(at, tile, picture), tile


def on_the_picture(places: Array, tiles: Array, picture: PictureTensor) -> Array:
    """Places (tokens, 2) in picture pixels, of places in tiles; NaN for nowhere."""
    if picture.places is not None:
        return places
    found = np.full_like(places, np.nan)
    for number, box in enumerate(picture.tiles):
        if box is not None:
            these = np.rint(tiles) == number
            scale = box.width / picture.size[1], box.height / picture.size[0]
            found[these] = places[these] * scale + (box.left, box.top)
    return found


def views_of(places: Array, tiles: Array, picture: PictureTensor, whole: Box) -> list[View]:
    """The views of tokens at these places of the picture; empty if none lies on it.

    Args:
        places: (tokens, 2) in picture pixels, NaN for nowhere.
        tiles: (tokens,), the tile of each.
        picture: where tiles lie in the picture.
        whole: the picture.

    Raises:
        Unplaced: tokens lie on no lattice.
    """
    there: NDArray[np.bool_] = np.asarray(np.isfinite(places).all(-1))
    if not there.any():
        return []
    views = []
    for numbers in _groups(tiles[there], picture):
        these: NDArray[np.bool_] = there
        if numbers:
            these = np.asarray(there & np.isin(np.rint(tiles), numbers))
        boxes = [box for n in numbers if (box := picture.tiles[n]) is not None]
        extent = _around(boxes) if boxes else whole
        views.append(View(these, _layout(places, these, extent), max(1, len(numbers))))
    return views


def numbered_views(
    layers: Mapping[int, Sequence[View]],
) -> tuple[tuple[View, ...], dict[int, dict[int, View]]]:
    """The different views of all layers, and those of each layer by their numbers among them."""
    found: list[View] = []
    of_layers: dict[int, dict[int, View]] = {}
    for layer, views in layers.items():
        of_layers[layer] = {}
        for view in views:
            mine = of_layers[layer]
            like = [n for n, each in enumerate(found) if n not in mine and view.is_like(each)]
            if not like:
                like = [len(found)]
                found.append(view)
            mine[like[0]] = view
    return tuple(found), of_layers


def layout_of(views: Sequence[View], tokens: int) -> Layout:
    """One layout of all tokens: cells of the finest view, which the others cover by area."""
    if not views:
        return Layout(1, 1, np.full((1, tokens), -1, dtype=np.int64))
    if len(views) == 1:
        return views[0].layout
    return merged([view.tokens[None] for view in views], [view.layout for view in views])


def _groups(tiles: Array, picture: PictureTensor) -> list[tuple[int, ...]]:
    """Numbers of the tiles of each view: tiles of one size; one empty group for patches."""
    if not picture.tiles:
        return [()]
    groups: list[list[int]] = []
    for number in sorted({int(each) for each in np.rint(tiles)}):
        box = picture.tiles[number]
        assert box is not None  # no token lies in such a tile
        for group in groups:
            first: Any = picture.tiles[group[0]]
            sides = (box.width, first.width), (box.height, first.height)
            if all(abs(one - other) <= _ALIKE * max(one, other) for one, other in sides):
                group.append(number)
                break
        else:
            groups.append([number])
    return [tuple(group) for group in groups]


def _around(boxes: Sequence[Box]) -> Box:
    left, top = (min(box[side] for box in boxes) for side in (0, 1))
    right, bottom = (max(box[side] for box in boxes) for side in (2, 3))
    return Box(left, top, right, bottom)


def _layout(places: Array, these: NDArray[np.bool_], extent: Box) -> Layout:
    """The lattice of some of the tokens.

    Raises:
        Unplaced: there is none.
    """
    (column, columns, width, left), (row, rows, height, top) = (
        _line(places[these, axis], side, start)
        for axis, side, start in ((0, extent.width, extent.left), (1, extent.height, extent.top))
    )
    cells = np.full((1, len(places)), -1, dtype=np.int64)
    cells[0, these] = row * columns + column
    return Layout(rows, columns, cells, (height, width), left, top)


def _line(values: Array, side: float, start: float) -> tuple[NDArray[np.int64], int, float, float]:
    """Number of each value among even steps; how many steps; their length and their start.

    If the cells fill the side, the first begins at its start, wherever the centres lie: a
    convolution with padding sees a little more on one side of its cell.

    Raises:
        Unplaced: the steps are not even.
    """
    ordered = np.sort(values)
    gaps = np.diff(ordered)
    wide = gaps[gaps > 0.2 * gaps.max()] if len(gaps) and gaps.max() > 0.01 * side else gaps[:0]
    if not len(wide):
        return np.zeros(len(values), dtype=np.int64), 1, side, start
    step = float(np.median(wide))
    for _ in range(3):  # the first estimate may be off by more than a cell at the far end
        number = np.rint((values - ordered[0]) / step)
        apart = number - number.mean()
        step = float((apart * (values - values.mean())).sum() / (apart**2).sum())
    first = float(values.mean() - number.mean() * step)
    if np.abs(values - first - number * step).max() > _ASTRAY * step:
        raise Unplaced("tokens that lie on no lattice of the picture")
    count = int(number.max()) + 1
    if (count - 1) * step < 0.999 * side <= count * step * 1.001:
        return number.astype(np.int64), count, step, start
    return number.astype(np.int64), count, step, first - step / 2
