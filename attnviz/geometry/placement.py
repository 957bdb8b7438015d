"""Converts positions between picture, model input and token grid, with exact inverses.

There are three coordinate systems, all with x to the right, y down and the origin at the top left:

- picture: pixels of the picture as a person sees it, after EXIF rotation;
- input: pixels of the model's input;
- grid: rows and columns of tokens; a token is a cell of `cell_width` × `cell_height` input pixels.

A coordinate is a position, not an index: pixel i covers [i, i + 1) and its centre is i + ½.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attnviz.geometry.grid import Array, Box, Patch, TokenGrid, sides

Fit = Literal["keep", "crop", "pad", "squash"]


@dataclass(frozen=True)
class Placement:
    """How a picture lies in a model's input: `source` of the picture fills `target` of the input.

    `source` is in picture pixels, `target` in input pixels. The model does not see anything outside
    `source`; everything outside `target` is padding.
    """

    picture_width: int
    picture_height: int
    source: Box
    target: Box
    grid: TokenGrid
    fit: Fit = "keep"

    def of_size(self, width: int, height: int) -> "Placement":
        """The same placement for the picture scaled to another size."""
        x, y = width / self.picture_width, height / self.picture_height
        left, top, right, bottom = self.source
        source = Box(left * x, top * y, right * x, bottom * y)
        return replace(self, picture_width=width, picture_height=height, source=source)

    def reduced(self, width: int, height: int, scale: int) -> "Placement":
        """The same placement for a picture whose pixel x lies at pixels scale·x of this one."""
        source = Box(*(side / scale for side in self.source))
        return replace(self, picture_width=width, picture_height=height, source=source)

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """Convert a position in the picture to the input."""
        return (
            self.target.left + (x - self.source.left) * self.target.width / self.source.width,
            self.target.top + (y - self.source.top) * self.target.height / self.source.height,
        )

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        """Convert a position in the input to the picture; the inverse of `to_input`."""
        return (
            self.source.left + (x - self.target.left) * self.source.width / self.target.width,
            self.source.top + (y - self.target.top) * self.source.height / self.target.height,
        )

    def to_grid(self, x: float, y: float) -> tuple[float, float]:
        """Convert a position in the picture to the grid, as (column, row)."""
        x, y = self.to_input(x, y)
        return x / self.grid.cell_width, y / self.grid.cell_height

    def token_at(self, x: float, y: float) -> tuple[int, int] | None:
        """Row and column of the token at a picture position; None outside the grid."""
        column, row = (math.floor(value) for value in self.to_grid(x, y))
        inside = 0 <= row < self.grid.rows and 0 <= column < self.grid.columns
        return (row, column) if inside else None

    def token_box(self, row: int, column: int) -> Box:
        """A token's area in picture pixels; it may extend outside the picture (padding)."""
        width, height = self.grid.cell_width, self.grid.cell_height
        left, top = self.to_picture(column * width, row * height)
        right, bottom = self.to_picture((column + 1) * width, (row + 1) * height)
        return Box(left, top, right, bottom)

    def visible_centre(self, row: int, column: int) -> tuple[float, float]:
        """Centre of the part of a token that lies on the picture, in picture pixels."""
        box = self.token_box(row, column)
        left, right = np.clip([box.left, box.right], 0, self.picture_width)
        top, bottom = np.clip([box.top, box.bottom], 0, self.picture_height)
        return float(left + right) / 2, float(top + bottom) / 2

    def coverage(self, left: float, top: float, right: float, bottom: float) -> Array:
        """Share of each token's area that a box of the picture covers, (rows, columns) in 0…1.

        The box is in picture pixels; its parts outside the picture do not count.
        """
        x = np.clip(np.array([left, right], dtype=np.float64), 0, self.picture_width)
        y = np.clip(np.array([top, bottom], dtype=np.float64), 0, self.picture_height)
        columns, rows = self.edges()
        across = overlaps(columns, x)[:, 0]
        down = overlaps(rows, y)[:, 0]
        return np.outer(down / np.diff(rows), across / np.diff(columns))

    def average(self, values: NDArray[np.generic]) -> Array:
        """Mean of a picture-sized array (height, width) over each token's area, (rows, columns).

        Outside the picture the values count as 0.
        """
        columns, rows = self.edges()
        across = overlaps(columns, np.arange(self.picture_width + 1.0))
        down = overlaps(rows, np.arange(self.picture_height + 1.0))
        total = down @ values.astype(np.float64) @ across.T
        return total / np.outer(np.diff(rows), np.diff(columns))

    def seen_edges(self) -> tuple[Array, Array]:
        """Borders of each token's visible part, in picture pixels; padding is not visible.

        Two arrays: (columns + 1,) along x and (rows + 1,) along y.
        """
        x, y = self.edges()
        source = self.source
        return x.clip(source.left, source.right), y.clip(source.top, source.bottom)

    def edges(self) -> tuple[Array, Array]:
        """Token borders in picture pixels: (columns + 1,) along x and (rows + 1,) along y."""
        grid, width, height = self.grid, self.grid.cell_width, self.grid.cell_height
        x = np.array([self.to_picture(i * width, 0)[0] for i in range(grid.columns + 1)])
        y = np.array([self.to_picture(0, i * height)[1] for i in range(grid.rows + 1)])
        return x, y

    def middles(self) -> tuple[Array, Array]:
        """Middles of tokens in picture pixels: (columns,) along x and (rows,) along y."""
        grid, width, height = self.grid, self.grid.cell_width, self.grid.cell_height
        x = np.array([self.to_picture((i + 0.5) * width, 0)[0] for i in range(grid.columns)])
        y = np.array([self.to_picture(0, (i + 0.5) * height)[1] for i in range(grid.rows)])
        return x, y


def overlaps(a: Array, b: Array) -> Array:
    """Overlap lengths of the intervals between neighbours in `a` with those in `b`.

    >>> overlaps(np.array([0.0, 2.0, 4.0]), np.array([1.0, 3.0]))
    array([[1.],
           [1.]])
    """
    left = np.maximum(a[:-1, None], b[None, :-1])
    right = np.minimum(a[1:, None], b[None, 1:])
    return np.asarray(np.maximum(right - left, 0.0))


def resample(
    values: NDArray[np.generic], drawn: NDArray[np.bool_], origin: Placement, cells: Placement
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A map of one grid as means over the cells of another grid of the same picture.

        mean_t = Σ_s |s ∩ t|·values_s / Σ_s |s ∩ t|

    The sum is over the `drawn` cells s of the map's own grid; |s ∩ t| is the area of the picture
    that s shares with cell t and that both models saw. A map is constant on each of its cells, so
    this is its exact mean over t; on its own grid the map does not change.

    Args:
        values: (rows, columns) on `origin`.
        drawn: (rows, columns), False for cells that are ignored.
        origin: the grid of the map on the picture.
        cells: the grid of the result on the picture.

    Returns:
        The means, 0 where no drawn cell overlaps; and for each cell the share, 0…1, of its seen
        part that was drawn. Both are (rows, columns) of `cells`.
    """
    columns, rows = origin.seen_edges()
    to_columns, to_rows = cells.seen_edges()
    across, down = overlaps(to_columns, columns), overlaps(to_rows, rows)
    area = down @ drawn.astype(np.float64) @ across.T
    total = down @ np.where(drawn, values, 0).astype(np.float64) @ across.T
    whole = np.outer(np.diff(to_rows), np.diff(to_columns))
    shared = area > 0
    mean = np.divide(total, area, out=np.zeros_like(area), where=shared)
    share = np.divide(area, whole, out=np.zeros_like(area), where=shared)
    return mean, share.clip(0, 1)


def place(
    width: int,
    height: int,
    *,
    size: int,
    patch: Patch,
    prefix: int = 0,
    fit: Fit = "keep",
    shape: tuple[int, int] | None = None,
) -> Placement:
    """Lay a picture of `width` × `height` pixels into an input of about `size` × `size` pixels.

    - keep: the whole picture in its own aspect ratio on about `size`² pixels, each side rounded
      to whole patches, at least one; so the number of tokens does not depend on the shape;
    - crop: the largest centred part with the input's aspect ratio, a square by default;
    - pad: the whole picture in its own aspect ratio, centred in the input;
    - squash: the whole picture stretched to the input.

    `shape` is the input's height and width in pixels, multiples of `patch`; keep ignores it.

    >>> place(451, 300, size=137, patch=8).grid
    TokenGrid(rows=14, columns=21, patch=8, prefix=0)
    >>> place(451, 300, size=181, patch=16, fit="crop", shape=(256, 128)).source
    Box(left=150.0, top=0.0, right=300.0, bottom=300.0)
    """
    whole = Box(0.0, 0.0, float(width), float(height))
    square = tuple(max(1, _round(size / side)) * side for side in sides(patch))
    input_height, input_width = shape or square
    rows, columns = (a // b for a, b in zip((input_height, input_width), sides(patch), strict=True))
    if fit == "keep":
        rows, columns = keep_aspect(width, height, size=size, patch=patch)
    grid = TokenGrid(rows, columns, patch, prefix)
    source, target = whole, Box(0.0, 0.0, float(grid.input_width), float(grid.input_height))
    if fit == "crop":
        source = _centred(input_width, input_height, inside=(width, height))
    elif fit == "pad":
        target = _centred(width, height, inside=(input_width, input_height))
    return Placement(width, height, source, target, grid, fit)


def keep_aspect(width: int, height: int, *, size: int, patch: Patch) -> tuple[int, int]:
    """Rows and columns of tokens on about size² pixels with the aspect ratio width : height.

    A picture that is too thin for even one row (or column) gets one row (or column) of all tokens.

    >>> keep_aspect(300, 200, size=224, patch=16), keep_aspect(300, 200, size=224, patch=(8, 16))
    ((11, 17), (23, 17))
    """
    tall, wide = sides(patch)
    budget, shape = (size / tall) * (size / wide), wide / tall
    rows = math.sqrt(budget * height / width * shape)
    columns = math.sqrt(budget * width / height / shape)
    if rows < 1:
        rows, columns = 1, max(1, budget)
    elif columns < 1:
        rows, columns = max(1, budget), 1
    return max(1, _round(rows)), max(1, _round(columns))


def _round(value: float) -> int:
    """The nearest whole number; halves round up (Python's `round` rounds halves to even)."""
    return math.floor(value + 0.5)


def _centred(width: int, height: int, *, inside: tuple[int, int]) -> Box:
    """The largest box with the aspect ratio width : height in the middle of a rectangle.

    Its sides and its place are whole pixels, so resizing blurs nothing.
    """
    room_width, room_height = inside
    scale = min(room_width / width, room_height / height)
    w = min(room_width, max(1, _round(width * scale)))
    h = min(room_height, max(1, _round(height * scale)))
    left, top = (room_width - w) // 2, (room_height - h) // 2
    return Box(float(left), float(top), float(left + w), float(top + h))
