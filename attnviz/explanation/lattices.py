"""Finds the cells of tokens by their positions: one lattice, a part of it, or several of them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnviz.geometry.grid import Cover, Layout, TokenGrid
from attnviz.geometry.placement import overlaps

_TOLERANCE = 0.25
"""Tolerance in input pixels: positions are means of many float32 numbers."""
_FAR = 1e9


class Unplaced(Exception):  # noqa: N818 — not a failure: such a call is not drawn
    """The reason why the tokens of a call are not places of the picture."""


class Uneven(Unplaced):
    """The tokens lie on no lattice that fills the input: they may be merged ones.

    `part` says whether they lie on a lattice over a part of the input.
    """

    def __init__(self, reason: str, *, part: bool = False) -> None:
        super().__init__(reason)
        self.part = part


@lru_cache(maxsize=16)
def layout_of(positions: bytes, windows: int, tokens: int, grid: TokenGrid, size: str) -> Layout:
    """Cells of tokens, cached by the bytes of their positions, which most layers share."""
    places = np.frombuffer(positions, np.float32).reshape(windows, tokens, 2).astype(np.float64)
    places = _without_class_tokens(places)
    on_picture: NDArray[np.bool_] = np.asarray(np.isfinite(places).all(-1))
    if not on_picture.any():
        return Layout(1, 1, np.full(on_picture.shape, -1, dtype=np.int64))
    try:
        return _all_cells(places, on_picture, grid, size)
    except Unplaced as reason:
        other = _some_cells(places, on_picture, grid) or _several_grids(places, on_picture, grid)
        if other is not None:
            return other
        if not isinstance(reason, Uneven) or reason.part or grid.grid_tokens == 1:
            raise
        size_of = np.array([grid.cell_width, grid.cell_height])
        return replace(cells_at(places / size_of, grid.rows, grid.columns), uneven=True)


def cells_at(places: NDArray[np.float64], rows: int, columns: int) -> Layout:
    """The cells of positions (windows, tokens, 2) in units of a cell; −1 for nowhere."""
    on_picture: NDArray[np.bool_] = np.asarray(np.isfinite(places).all(-1))
    x, y = np.where(on_picture[..., None], places, 0).transpose(2, 0, 1)
    column = np.floor(x).astype(np.int64).clip(0, columns - 1)
    row = np.floor(y).astype(np.int64).clip(0, rows - 1)
    return Layout(rows, columns, np.where(on_picture, row * columns + column, -1))


def _without_class_tokens(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places without those of tokens that stand for their whole window, at either end of it.

    Such a token (the class token of a region, HIPT's) lies in the middle of all others.
    """
    if len(places) == 1 or places.shape[1] == 1:
        return places
    low, high = (found(places, axis=1) for found in (np.fmin.reduce, np.fmax.reduce))
    if not (np.nan_to_num(high - low).max(-1) > _TOLERANCE).all():  # tokens of one place
        return places
    places = places.copy()
    middle = (low + high) / 2
    for numbers in (range(places.shape[1]), range(places.shape[1])[::-1]):
        for number in numbers:
            off = np.abs(places[:, number] - middle)
            if not np.isnan(off).all() and not (off <= _TOLERANCE).all():
                break
            places[:, number] = np.nan
    return places


def _all_cells(
    places: NDArray[np.float64], on_picture: NDArray[np.bool_], grid: TokenGrid, size: str
) -> Layout:
    """The layout of tokens that fill the input with a lattice.

    Raises:
        Unplaced: they do not.
    """
    cells = np.full(on_picture.shape, -1, dtype=np.int64)
    (x, column), (y, row) = (
        _lattice(places[on_picture][:, axis], length)
        for axis, length in enumerate((grid.input_width, grid.input_height))
    )
    cells[on_picture] = row * x.size + column
    alone = on_picture.sum() == 1 and on_picture.size > 1 and grid.grid_tokens > 1
    if alone:
        raise Unplaced(f"{size} tokens of which one lies on the picture")
    found = len(np.unique(cells[on_picture]))
    if found == 1 and on_picture.sum() > 1:
        raise Unplaced(f"{size} channels, not tokens: attention over features (XCiT's)")
    if found < x.size * y.size:
        raise Uneven(f"{size} tokens that do not fill a lattice over the picture")
    return Layout(y.size, x.size, cells, (y.stride, x.stride), left=x.start, top=y.start)


def _some_cells(
    places: NDArray[np.float64], on_picture: NDArray[np.bool_], grid: TokenGrid
) -> Layout | None:
    """The layout of a grid of which some tokens were dropped; None if it is something else.

    Each token lies in the middle of its own cell, and the tokens are not a complete part of the
    picture, such as one window of several.
    """
    size = np.array([grid.cell_width, grid.cell_height])
    middle = places[on_picture] / size - 0.5  # (tokens, 2), columns and rows
    cell = np.rint(middle).astype(np.int64)
    off = (np.abs(middle - cell) * size).max()
    inside = (cell >= 0).all() and (cell < (grid.columns, grid.rows)).all()
    if off > _TOLERANCE or not inside or len(places) > 1:
        return None
    numbers = cell[:, 1] * grid.columns + cell[:, 0]
    box = np.prod(np.ptp(cell, axis=0) + 1)
    if len(np.unique(numbers)) < len(numbers) or len(numbers) in (1, box):
        return None
    cells = np.full(on_picture.shape, -1, dtype=np.int64)
    cells[on_picture] = numbers
    return Layout(grid.rows, grid.columns, cells)


def _several_grids(
    places: NDArray[np.float64], on_picture: NDArray[np.bool_], grid: TokenGrid
) -> Layout | None:
    """The layout of tokens on several grids, each over the whole input.

    Levels of a pyramid that share a call lie so, and tiles with a thumbnail, whether they are one
    sequence or windows. Cells are those of the finest grid; None if the tokens are something else.
    """
    numbers = _grid_numbers(places, on_picture)
    if numbers.max() == 0:
        return None
    parts = [numbers == number for number in range(numbers.max() + 1)]
    try:
        layouts = [_all_cells(places, part, grid, "some") for part in parts]
    except Unplaced:
        return None
    return merged(parts, layouts)


def merged(parts: Sequence[NDArray[np.bool_]], layouts: Sequence[Layout]) -> Layout:
    """One layout of tokens on several lattices: its cells are those of the finest.

    Args:
        parts: for each lattice which tokens lie on it, (windows, tokens).
        layouts: the lattices, whose `cells` are those of their own tokens, in the tokens' order.
    """
    finest = max(layouts, key=lambda layout: layout.rows * layout.columns)
    cells = np.full(parts[0].shape, -1, dtype=np.int64)
    pairs = []
    for part, layout in zip(parts, layouts, strict=True):
        cell, on_cell, share, of_cell = _covered(layout, finest)
        order = np.lexsort((share, cell))  # the last pair of each cell has the largest share
        counts = np.bincount(cell, minlength=layout.rows * layout.columns)
        of_each = np.split(order, np.cumsum(counts)[:-1])
        chosen = [of_each[each] for each in layout.cells[part]]
        cells[part] = [on_cell[each[-1]] if len(each) else -1 for each in chosen]
        token = np.repeat(np.flatnonzero(part), [len(each) for each in chosen])
        pairs.append((token, *(each[np.concatenate(chosen)] for each in (on_cell, share, of_cell))))
    grids = tuple((layout.rows, layout.columns) for layout in layouts)
    cover = Cover(grids, *(np.concatenate(each) for each in zip(*pairs, strict=True)))
    return Layout(
        finest.rows, finest.columns, cells, finest.stride, finest.left, finest.top, cover=cover
    )


def _grid_numbers(places: NDArray[np.float64], on_picture: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of the grid of each token, in the order of the tokens; −1 beside the picture.

    Tokens of one grid have the same distance to the nearer of their neighbours in the sequence.
    """
    steps = np.full(on_picture.shape, -1.0)
    for window, at, inside in zip(steps, places, on_picture, strict=True):
        apart = np.linalg.norm(np.diff(at[inside], axis=0), axis=1)
        window[inside] = np.minimum(np.append(apart, _FAR), np.insert(apart, 0, _FAR))
    different = np.unique(steps[on_picture])
    kind = np.cumsum(np.diff(different, prepend=different[0]) > 2 * _TOLERANCE)
    of_token = kind[np.searchsorted(different, steps[on_picture])]
    _, first = np.unique(of_token, return_index=True)
    numbers = np.full(on_picture.shape, -1, dtype=np.int64)
    numbers[on_picture] = np.argsort(np.argsort(first))[of_token]
    return numbers


def _covered(
    layout: Layout, finest: Layout
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Cells of a lattice, those of the finest that they cover, shares and parts: (pairs,) each.

    As in `Cover`, shares are of the area of the first, parts of the area of the second.
    """
    down, across = (
        overlaps(_edges(layout, axis), _edges(finest, axis)) for axis in (0, 1)
    )  # (rows, rows of the finest), (columns, columns of the finest)
    (row, on_row), (column, on_column) = np.nonzero(down), np.nonzero(across)
    shared = np.outer(down[row, on_row], across[column, on_column])
    share = shared / np.outer(down.sum(1)[row], across.sum(1)[column])
    assert finest.stride is not None  # a lattice has one
    of_cell = shared / (finest.stride[0] * finest.stride[1])
    cell = np.add.outer(row * layout.columns, column)
    on_cell = np.add.outer(on_row * finest.columns, on_column)
    return cell.ravel(), on_cell.ravel(), share.ravel(), of_cell.ravel()


def _edges(layout: Layout, axis: int) -> NDArray[np.float64]:
    """Borders of the cells of a lattice in input pixels, along y (0) or x (1)."""
    assert layout.stride is not None  # a lattice has one
    first, count = ((layout.top, layout.rows), (layout.left, layout.columns))[axis]
    return np.asarray(first + layout.stride[axis] * np.arange(count + 1), dtype=np.float64)


class Lattice(NamedTuple):
    """Cells along one side of the input: their number, width, and where the first begins."""

    size: int
    stride: float
    start: float


def _lattice(values: NDArray[np.float64], length: int) -> tuple[Lattice, NDArray[np.int64]]:
    """The different coordinates as cells, and the number of each value among them.

    If the cells fill `length`, the first begins at 0, whatever the centres of the tokens are. The
    last may reach beyond the side: a convolution with padding does so if its stride does not divide
    the side. If the cells do not fill it (overlapping patches without padding), or there is one
    more than fill it (half a cell beyond both sides), they lie around their centres.

    Raises:
        Unplaced: they are not evenly spaced over the input.
    """
    different = np.unique(np.round(values / _TOLERANCE)) * _TOLERANCE
    different = different[np.diff(different, prepend=-np.inf) > 2 * _TOLERANCE]
    count, steps = len(different), np.diff(different)
    stride = float(np.ptp(values)) / (count - 1) if count > 1 else float(length)
    stride = float(round(stride)) if abs(stride - round(stride)) < 1e-3 else stride
    if count > 1 and np.abs(steps - stride).max() > 2 * _TOLERANCE:
        raise Uneven("tokens that lie unevenly over the picture")
    aside = count == 1 and abs(float(different[0]) - length / 2) > length / 4
    least, most = (count - 1) * stride - _TOLERANCE, (count + 1) * stride + _TOLERANCE
    before, behind = float(different[0]), length - float(different[-1])
    # Wide patches without padding: half a patch at either end, and what holds no further one.
    unpadded = before < 1.5 * stride and -_TOLERANCE <= behind - before < stride + _TOLERANCE
    if aside or not (least < length < most or (count > 1 and unpadded)):
        raise Uneven("tokens that cover a part of the picture only", part=True)
    filled = (count - 1) * stride < length - _TOLERANCE < count * stride
    start = 0.0 if filled else float(different[0] - stride / 2)
    nearest = np.searchsorted(different, values - 2 * _TOLERANCE)
    return Lattice(count, stride, start), np.minimum(nearest, count - 1).astype(np.int64)
