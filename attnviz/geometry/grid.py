"""Boxes, grids of cells, and the layout of an attention call's queries or keys on these cells."""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

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


@dataclass(frozen=True)
class TokenGrid:
    """The tokens of one model input: first `prefix` tokens, then rows × columns, row by row.

    >>> TokenGrid(rows=14, columns=14, patch=16, prefix=1).tokens
    197
    """

    rows: int
    columns: int
    patch: int
    prefix: int = 0

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
        return self.columns * self.patch

    @property
    def input_height(self) -> int:
        """Height of the model's input in pixels."""
        return self.rows * self.patch

    def centres(self) -> Array:
        """Centres of the grid tokens in input pixels, (rows·columns, 2) as x, y."""
        y, x = np.mgrid[0 : self.rows, 0 : self.columns]
        return (np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) * self.patch


@dataclass(frozen=True, eq=False)
class Layout:
    """The cells that an attention call's queries, or its keys, stand for; cells tile the input.

    Attributes:
        rows, columns: numbers of rows and columns of cells.
        cells: (windows, tokens), row·columns + column; −1 for a token that is not part of the
            picture: class token, register, padding inside a window.
        stride: side of a cell in input pixels; None if `columns` cells fill the input's width.
        left, top: start of the first cell, in input pixels.

    >>> Layout.whole(TokenGrid(rows=1, columns=2, patch=16, prefix=1)).cells
    array([[-1,  0,  1]])
    """

    rows: int
    columns: int
    cells: NDArray[np.int64]
    stride: float | None = None
    left: float = 0.0
    top: float = 0.0

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
