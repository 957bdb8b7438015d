"""Boxes, grids of cells, and the layout of an attention call's queries or keys on these cells."""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)


class Box(NamedTuple):
    """An axis-aligned rectangle; left and top are included, right and bottom are not."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Extent along x."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Extent along y."""
        return self.bottom - self.top


Patch = int | tuple[int, int]
"""Side of a square patch in input pixels, or its height and width."""


@overload
def sides(patch: Patch) -> tuple[int, int]: ...
@overload
def sides(patch: float | tuple[float, float]) -> tuple[float, float]: ...
def sides(patch: float | tuple[float, float]) -> tuple[float, float]:
    """Height and width of a patch, or of a cell.

    >>> sides(16), sides((4, 8))
    ((16, 16), (4, 8))
    """
    return patch if isinstance(patch, tuple) else (patch, patch)


def patch_of(height: int, width: int) -> Patch:
    """A patch of this height and width: one number if it is square.

    >>> patch_of(16, 16), patch_of(4, 8)
    (16, (4, 8))
    """
    return height if height == width else (height, width)


@dataclass(frozen=True)
class TokenGrid:
    """The tokens of one model input: first `prefix` tokens, then rows × columns, row by row.

    `patch` is the side of a square cell in input pixels, or its height and width.

    >>> TokenGrid(rows=14, columns=14, patch=16, prefix=1).tokens
    197
    >>> grid = TokenGrid(rows=8, columns=16, patch=(4, 8))
    >>> grid.cell_width, grid.cell_height, grid.input_width
    (8, 4, 128)
    """

    rows: int
    columns: int
    patch: float | tuple[float, float]
    prefix: int = 0

    @property
    def cell_width(self) -> float:
        """Width of a cell in input pixels."""
        return sides(self.patch)[1]

    @property
    def cell_height(self) -> float:
        """Height of a cell in input pixels."""
        return sides(self.patch)[0]

    @property
    def grid_tokens(self) -> int:
        """Number of tokens that lie on the picture's grid."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """Length of the attended sequence, in tokens."""
        return self.prefix + self.grid_tokens

    @property
    def input_width(self) -> int:
        """Width of the model's input in pixels."""
        return round(self.columns * self.cell_width)

    @property
    def input_height(self) -> int:
        """Height of the model's input in pixels."""
        return round(self.rows * self.cell_height)

    def centres(self) -> Array:
        """Centres of the grid tokens in input pixels, (rows·columns, 2) as x, y."""
        y, x = np.mgrid[0 : self.rows, 0 : self.columns]
        middles: Array = np.stack([x.ravel(), y.ravel()], axis=1) + 0.5
        middles *= self.cell_width, self.cell_height
        return middles


@dataclass(frozen=True, eq=False)
class Layout:
    """The cells that an attention call's queries, or its keys, stand for; cells tile the input.

    Attributes:
        rows, columns: numbers of rows and columns of cells.
        cells: (windows, tokens), row·columns + column; −1 for a token that is not part of the
            picture: class token, register, padding inside a window.
        stride: height and width of a cell in input pixels; None if the cells fill the input.
        left, top: start of the first cell, in input pixels.
        points: whether tokens are points, so that a cell without a token has the weight 0.

    >>> Layout.whole(TokenGrid(rows=1, columns=2, patch=16, prefix=1)).cells
    array([[-1,  0,  1]])
    """

    rows: int
    columns: int
    cells: NDArray[np.int64]
    stride: tuple[float, float] | None = None
    left: float = 0.0
    top: float = 0.0
    points: bool = False

    @classmethod
    def whole(cls, grid: TokenGrid) -> "Layout":
        """One window: the prefix first, then the whole grid."""
        cells = np.arange(-grid.prefix, grid.grid_tokens, dtype=np.int64)
        return cls(grid.rows, grid.columns, np.maximum(cells, -1)[None])

    @property
    def windows(self) -> int:
        """Number of windows of the picture."""
        return len(self.cells)

    @property
    def on_picture(self) -> NDArray[np.bool_]:
        """Tokens that stand for a cell, (windows, tokens)."""
        return self.cells >= 0

    @property
    def outside(self) -> int:
        """Number of tokens that are not part of the picture, over all windows."""
        return int((self.cells < 0).sum())

    def of_tokens(self, values: NDArray[Scalar], elsewhere: Scalar) -> NDArray[Scalar]:
        """Each token's value from its cell: (rows·columns, …) → (windows, tokens, …)."""
        filled = np.full_like(values, elsewhere, shape=(1, *values.shape[1:]))
        return np.concatenate([values, filled])[self.cells]

    def count(self, tokens: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Count the selected tokens, (windows, tokens), of each cell, (rows·columns,)."""
        chosen = self.cells[tokens & self.on_picture]
        return np.bincount(chosen, minlength=self.rows * self.columns)
