"""Boxes, grids of cells, and the layout of an attention call's queries or keys on these cells."""

from dataclasses import dataclass, replace
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
class Cover:
    """The cells that the tokens of several grids cover, as pairs of a token and a cell.

    Attributes:
        grids: rows and columns of each grid, in the order of the tokens.
        tokens, cells: (pairs,), numbers of the token, counted through all windows, and of the cell.
        shares: (pairs,), the share of the token's area that lies on the cell.
        parts: (pairs,), the part of the cell's area that the token covers.
    """

    grids: tuple[tuple[int, int], ...]
    tokens: NDArray[np.int64]
    cells: NDArray[np.int64]
    shares: Array
    parts: Array


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
        uneven: whether tokens lie on no lattice, and each counts for the cell that holds its place.
        cover: the cells that each token covers, if the tokens lie on several grids or are merged;
            the cells are those of the finest grid, and `cells` has the one at the token's centre.
        moments: of a clip the middle of each view, in frames from 0: 0.5 for frames 0 and 1. A view
            has rows × columns cells, and the cells of the second follow those of the first.
        learned: how many tokens are learned queries that read the cells; they lie nowhere.

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
    uneven: bool = False
    cover: Cover | None = None
    moments: tuple[float, ...] = ()
    learned: int = 0

    @classmethod
    def whole(cls, grid: TokenGrid) -> "Layout":
        """One window: the prefix first, then the whole grid."""
        cells = np.arange(-grid.prefix, grid.grid_tokens, dtype=np.int64)
        return cls(grid.rows, grid.columns, np.maximum(cells, -1)[None])

    @property
    def views(self) -> int:
        """Number of views of a clip; 1 for a picture."""
        return max(1, len(self.moments))

    @property
    def size(self) -> int:
        """Number of cells, of all views."""
        return self.views * self.rows * self.columns

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
        """Each token's value from its cell: (cells, …) → (windows, tokens, …).

        A token that covers several cells has the mean of their values, by its shares.
        """
        if self.cover is not None:
            return self._means(values, elsewhere, self.cover)
        filled = np.full_like(values, elsewhere, shape=(1, *values.shape[1:]))
        return np.concatenate([values, filled])[self.cells]

    def _means(self, values: NDArray[Scalar], elsewhere: Scalar, cover: Cover) -> NDArray[Scalar]:
        rest = (1,) * (values.ndim - 1)
        sums = np.zeros((self.cells.size, *values.shape[1:]))
        parts = values[cover.cells].astype(np.float64) * cover.shares.reshape(-1, *rest)
        np.add.at(sums, cover.tokens, parts)
        means = (sums > 0.5 if values.dtype == np.bool_ else sums).reshape(
            *self.cells.shape, *values.shape[1:]
        )
        inside = self.on_picture.reshape(*self.cells.shape, *rest)
        found: NDArray[Scalar] = np.where(inside, means, elsewhere).astype(values.dtype)
        return found

    def shared_out(self, of_cells: Array, taking_part: NDArray[np.bool_]) -> Array:
        """Weights of cells, (cells,), shared out among their tokens: (windows, tokens).

        The tokens of a cell have equal parts; of tokens that cover a part of it, by their parts.
        """
        if self.cover is None:
            counts = self.count(taking_part).clip(1)
            return self.of_tokens(of_cells / counts, np.float64(0)) * taking_part
        cover = self.cover
        parts = cover.parts * taking_part.ravel()[cover.tokens]
        total = np.bincount(cover.cells, parts, minlength=of_cells.size)
        given = of_cells[cover.cells] * parts / np.where(total, total, 1)[cover.cells]
        found = np.bincount(cover.tokens, given, minlength=self.cells.size)
        return np.asarray(found.reshape(self.cells.shape), dtype=np.float64)

    def summed(self, values: Array) -> Array:
        """Values of the tokens of one window, (…, tokens), summed by cell: (…, cells).

        A token that covers several cells gives each its share.
        """
        flat = values.reshape(-1, values.shape[-1])
        tokens = np.flatnonzero(self.cells[0] >= 0)
        cells, given = self.cells[0, tokens], flat[:, tokens]
        if self.cover is not None:
            cells, given = self.cover.cells, flat[:, self.cover.tokens] * self.cover.shares
        found = np.zeros((len(flat), self.size))
        np.add.at(found.T, cells, given.T)
        return found.reshape(*values.shape[:-1], self.size)

    def read_by(self, shares: Array, tokens: NDArray[np.int64], count: int) -> "Layout":
        """The layout of `count` other tokens, of which some read these cells.

        Args:
            shares: the share of each cell in what each of these reads, (readers, cells).
            tokens: the numbers of the readers.
            count: the number of all tokens.
        """
        reader, cell = np.nonzero(shares)
        share = shares[reader, cell]
        cover = Cover(((self.rows, self.columns),), tokens[reader], cell, share, share)
        cells = np.full((1, count), -1, dtype=np.int64)
        cells[0, tokens] = np.where(shares.any(-1), shares.argmax(-1), -1)
        return replace(self, cells=cells, cover=cover, learned=len(tokens))

    def count(self, tokens: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Count the selected tokens, (windows, tokens), of each cell, (cells,)."""
        if self.cover is not None:
            chosen = self.cover.cells[tokens.ravel()[self.cover.tokens]]
        else:
            chosen = self.cells[tokens & self.on_picture]
        return np.bincount(chosen, minlength=self.size)
