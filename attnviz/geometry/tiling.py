"""Cuts a picture into overlapping tiles, and joins the maps of all tiles on the picture."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attnviz.geometry.grid import Array, Box, TokenGrid
from attnviz.geometry.placement import Placement, overlaps

_ROUNDING = 1e-9
"""A share of a cell that is no more than rounding."""


@dataclass(frozen=True)
class TilePlan:
    """Where the tiles of a picture lie.

    Attributes:
        side, overlap: as requested: the side of a tile in picture pixels, and the share of it that
            neighbours share.
        picture_width, picture_height: size of the picture.
        lefts, tops: where columns and rows of tiles begin.
    """

    side: int
    overlap: float
    picture_width: int
    picture_height: int
    lefts: tuple[int, ...]
    tops: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of every tile: the side, or that of a smaller picture."""
        return min(self.side, self.picture_width), min(self.side, self.picture_height)

    @property
    def count(self) -> int:
        """The number of tiles."""
        return len(self.lefts) * len(self.tops)

    def boxes(self) -> Iterator[tuple[int, int, int, int]]:
        """x, y, width and height of every tile, row by row."""
        for top in self.tops:
            for left in self.lefts:
                yield left, top, *self.size


def plan_tiles(
    width: int, height: int, side: int, overlap: float, *, rows: int, columns: int
) -> TilePlan:
    """Tiles of side × side pixels that cover a picture; the last ones are shifted inside.

    Rows and columns are those of a tile's cells: the stride is the multiple of a cell that is
    nearest to side·(1 − overlap), so that cells of tiles coincide. If no such multiple of whole
    pixels is within one cell, it is side·(1 − overlap), rounded.

    >>> plan_tiles(500, 224, 224, 0.25, rows=14, columns=14).lefts
    (0, 160, 276)
    """
    lefts = _starts(width, min(side, width), overlap, columns)
    tops = _starts(height, min(side, height), overlap, rows)
    return TilePlan(side, overlap, width, height, lefts, tops)


def _starts(length: int, tile: int, overlap: float, cells: int) -> tuple[int, ...]:
    wanted = tile * (1 - overlap)
    whole = tile // math.gcd(tile, cells)  # the smallest number of pixels that is whole in cells
    nearest = min(tile, max(1, math.ceil(wanted / whole - 0.5)) * whole)
    stride = nearest if abs(nearest - wanted) <= tile / cells else max(1, round(wanted))
    return (*range(0, length - tile, stride), length - tile)


class JoinedMaps:
    """Maps of one grid of cells, joined on the picture while tiles come one after another.

        joined_t = Σ_k Σ_s ω(s)·|s ∩ t|·m_k(s) / Σ_k Σ_s ω(s)·|s ∩ t|

    The sum is over tiles k and the drawn cells s of their maps m_k; ω is `window`. The cells t have
    the size of the tiles' own.

    Attributes:
        placement: how the picture lies on the cells t.
    """

    def __init__(self, plan: TilePlan, tile: Placement, count: int) -> None:
        """Begin with no tile; `tile` places the first one on its cells, `count` is of maps."""
        self.placement = _joined(plan, tile)
        grid = self.placement.grid
        (left, top), (width, height) = _first_edges(tile), cell_size(tile)
        self._columns: Array = np.arange(grid.columns + 1, dtype=np.float64) * width + left
        self._rows: Array = np.arange(grid.rows + 1, dtype=np.float64) * height + top
        self._area = width * height
        self._sums = np.zeros((count, grid.rows, grid.columns), dtype=np.float32)
        self._weights = np.zeros((grid.rows, grid.columns), dtype=np.float32)

    def add(
        self,
        left: int,
        top: int,
        maps: NDArray[np.generic],
        drawn: NDArray[np.bool_],
        tile: Placement,
    ) -> None:
        """Add the maps (count, rows, columns) of a tile whose corner lies at left, top."""
        columns, rows = tile.seen_edges()
        weights = np.outer(window(rows), window(columns)) * drawn
        across, in_x = _shares(self._columns, columns, left)
        down, in_y = _shares(self._rows, rows, top)
        weighted = np.where(drawn, maps, 0) * weights
        self._sums[:, in_y, in_x] += down @ weighted @ across.T
        self._weights[in_y, in_x] += down @ weights @ across.T

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The joined maps, and the cells that a tile has drawn; call it once, at the end."""
        drawn: NDArray[np.bool_] = self._weights > _ROUNDING * self._area
        np.divide(self._sums, self._weights, out=self._sums, where=drawn)
        self._sums[:, ~drawn] = 0
        return self._sums, drawn


def window(edges: Array) -> Array:
    """The weight of each cell between `edges` along one axis: a tent over the part that was seen.

    It is 1 in the middle and 0 at the ends, taken at the middle of a cell. Two tiles that share at
    most a half fade linearly into each other.

    >>> window(np.array([0.0, 16.0, 32.0, 48.0, 64.0]))
    array([0.25, 0.75, 0.75, 0.25])
    """
    first, last = edges[0], edges[-1]
    middles = (edges[:-1] + edges[1:]) / 2
    tent: Array = np.minimum(middles - first, last - middles) * 2 / (last - first)
    return tent


def cell_size(tile: Placement) -> tuple[float, float]:
    """Width and height of a cell in picture pixels."""
    source, target, grid = tile.source, tile.target, tile.grid
    return (
        grid.cell_width * source.width / target.width,
        grid.cell_height * source.height / target.height,
    )


def _first_edges(tile: Placement) -> tuple[float, float]:
    """Where the cells of the picture's corner begin, as those of the first tile do."""
    (x, y), (width, height) = tile.to_picture(0, 0), cell_size(tile)
    return (
        x - math.ceil(x / width - _ROUNDING) * width,
        y - math.ceil(y / height - _ROUNDING) * height,
    )


def _joined(plan: TilePlan, tile: Placement) -> Placement:
    """How the whole picture lies on cells of the size of a tile's own."""
    (left, top), (width, height) = _first_edges(tile), cell_size(tile)
    across, down = tile.grid.cell_width / width, tile.grid.cell_height / height
    columns = math.ceil((plan.picture_width - left) / width - _ROUNDING)
    rows = math.ceil((plan.picture_height - top) / height - _ROUNDING)
    target = Box(
        (0 - left) * across,
        (0 - top) * down,
        (plan.picture_width - left) * across,
        (plan.picture_height - top) * down,
    )
    return replace(
        tile,
        picture_width=plan.picture_width,
        picture_height=plan.picture_height,
        source=Box(0.0, 0.0, float(plan.picture_width), float(plan.picture_height)),
        target=target,
        grid=TokenGrid(rows, columns, tile.grid.patch, tile.grid.prefix),
    )


def _shares(edges: Array, tile: Array, start: int) -> tuple[Array, slice]:
    """The lengths that cells of the picture share with those of a tile, and which cells."""
    tile = tile + float(start)
    first = max(0, int(np.searchsorted(edges, tile[0], side="right")) - 1)
    last = min(len(edges) - 1, int(np.searchsorted(edges, tile[-1], side="left")))
    return overlaps(edges[first : last + 1], tile), slice(first, last)
