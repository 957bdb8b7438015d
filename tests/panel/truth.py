"""What is true of a model: where its tokens lie, by hand; and what follows from it.

Tokens are written as arrays (windows, tokens, 3): x and y of their centre in pixels of the model's
input, NaN for what is no part of the picture, and 1 for class tokens.

>>> layer = attends(join(CLS, grid(4, 6)))      # a class token, then 24 patches of 48×32 pixels
>>> layer.rows, layer.columns
(4, 6)
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
WIDTH, HEIGHT, PATCH = 48, 32, 8
CLS: Array = np.array([[[np.nan, np.nan, 1.0]]])
"""A class token."""
ELSE: Array = np.array([[[np.nan, np.nan, 0.0]]])
"""A register, a latent, or another token that is no part of the picture."""
WHOLE: Array = np.array([[[np.nan, np.nan, 2.0]]])
"""What sees all of the picture alike, such as a channel: it lies nowhere, or in the middle."""


def grid(rows: int, columns: int, width: int = WIDTH, height: int = HEIGHT) -> Array:
    """Centres of rows × columns equal cells of the input, row by row, in one window."""
    y, x = np.mgrid[0:rows, 0:columns] + 0.5
    x, y = x * width / columns, y * height / rows
    return np.stack([x, y, 0 * x], -1).reshape(1, -1, 3)


def join(*tokens: Array) -> Array:
    """Tokens of one window behind each other."""
    return np.concatenate(tokens, 1)


def windows(tokens: Array, rows: int, columns: int, size: tuple[int, int]) -> Array:
    """A grid cut into windows of `size` (rows, columns), row by row."""
    h, w = size
    parts = tokens.reshape(rows // h, h, columns // w, w, 3).swapaxes(1, 2)
    return parts.reshape(-1, h * w, 3)


def strided(tokens: Array, rows: int, columns: int, size: tuple[int, int]) -> Array:
    """A grid cut into windows of `size`, each of tokens that lie evenly over all of it."""
    h, w = size
    parts = tokens.reshape(h, rows // h, w, columns // w, 3).transpose(1, 3, 0, 2, 4)
    return parts.reshape(-1, h * w, 3)


def centres(count: int, stride: float, first: float) -> Array:
    """A square of count × count tokens, at `first` and every `stride` pixels along both sides."""
    at = first + stride * np.arange(count)
    y, x = np.meshgrid(at, at, indexing="ij")
    return np.stack([x, y, 0 * x], -1).reshape(1, -1, 3)


def each_with(prefix: Array, of_windows: Array) -> Array:
    """Windows that each have the same tokens in front."""
    repeated = np.broadcast_to(prefix, (len(of_windows), *prefix.shape[1:]))
    return np.concatenate([repeated, of_windows], 1)


@dataclass(frozen=True)
class Layer:
    """An attention call: its tokens, and the lattice that its keys stand on.

    `x` and `y` are the lattice's coordinates; without any the call can't be drawn. `made`, (tokens,
    cells), is 1 at the cells that merged tokens are made of.
    """

    queries: Array
    keys: Array
    x: Array
    y: Array
    made: Array | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Queries and keys of each window."""
        return self.queries.shape[1], self.keys.shape[1]

    @property
    def rows(self) -> int:
        return len(self.y)

    @property
    def columns(self) -> int:
        return len(self.x)

    @property
    def can_be_drawn(self) -> bool:
        return bool(self.x.size)

    @property
    def cells(self) -> NDArray[np.int64]:
        """(windows, keys) row·columns + column, −1 of tokens that are no part of the picture."""
        there = np.isfinite(self.keys[..., 0])
        x, y = self.keys[there][:, 0], self.keys[there][:, 1]
        column = np.abs(x[:, None] - self.x).argmin(1)
        row = np.abs(y[:, None] - self.y).argmin(1)
        cells = np.full(there.shape, -1, dtype=np.int64)
        cells[there] = row * self.columns + column
        return cells


def attends(
    queries: Array,
    keys: Array | None = None,
    *,
    on: Array | None = None,
    drawn: bool = True,
    made: Array | None = None,
) -> Layer:
    """Self-attention, or attention from `queries` to `keys`.

    `on` is the lattice where the keys are not all of it; `drawn=False`: they stand on none; `made`:
    they are merged of its cells.
    """
    keys = queries if keys is None else keys
    lattice = keys if on is None else on
    there = np.isfinite(lattice[..., 0]) & drawn
    x, y = (np.unique(lattice[there][:, i].round(3)) for i in (0, 1))
    return Layer(queries, keys, x, y, made)


def mixed(mixture: Array, tokens: Array) -> Array:
    """Tokens that are means of others, (tokens after, tokens before)."""
    found = np.nan_to_num(tokens[0])
    nowhere = mixture @ np.isnan(tokens[0, :, 0]) > 1e-9
    result = mixture @ found
    result[nowhere, :2] = np.nan
    return np.asarray(result[None])


@dataclass(frozen=True)
class Case:
    """What is expected of a model.

    Attributes:
        layers: its attention calls, in call order; or what makes them of the mixtures of tokens
            that the model noted, where its tokens move by what they hold.
        may_be: what may come out of the command line: `right`, `not drawn` (some layer that could
            be is not, and the record says why), `assumed`, `refused`.
        asks: of each run of the command line: queries, and --layers.
        size: (width, height) of the input.
        patch: what --patch says.
        within: how far a recorded position may lie from its place, in input pixels; None of
            models whose convolutions see less at the border: half the way to the next token.
        library: whether its code is a library's, which takes no notes.
        together: so many calls are one, whose heads they are.
    """

    layers: Sequence[Layer] | Callable[[list[Array]], Sequence[Layer]]
    may_be: frozenset[str]
    asks: Sequence[tuple[tuple[str, ...], str]]
    size: tuple[int, int]
    patch: int
    within: float | None
    library: bool
    together: int


def half_a_cell(places: Array) -> float:
    """Half the least distance of two coordinates of tokens, (windows, tokens, 2)."""
    axes = [np.unique(places[..., i][np.isfinite(places[..., i])].round(3)) for i in (0, 1)]
    return float(min((np.diff(axis).min() for axis in axes if len(axis) > 1), default=np.inf) / 2)


Factory = TypeVar("Factory", bound=Callable[..., Any])


def expects(
    *layers: Layer,
    of: Callable[[list[Array]], Sequence[Layer]] | None = None,
    may_be: str = "right",
    asks: Sequence[tuple[tuple[str, ...], str]] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    patch: int = PATCH,
    within: float | None = 0.05,
    library: bool = False,
    together: int = 1,
) -> Callable[[Factory], Factory]:
    """Write down what is true of a model, beside it; `may_be` has several parted by commas.

    The model says for which input it is made: a table of positions alone does not tell rows from
    columns.
    """
    outcomes = frozenset(each.strip() for each in may_be.split(","))
    assert outcomes <= {"right", "not drawn", "assumed", "refused"}
    if asks is None:
        point = f"{size[0] * 0.3:.0f},{size[1] * 0.6:.0f}"
        with_class = any((layer.queries[..., 2] == 1).any() for layer in layers)
        asks = [(("auto", "mean", point) if with_class else ("auto", point), "all")]

    def mark(factory: Factory) -> Factory:
        made = _declaring(factory, (size[1], size[0]))
        made.case = Case(of or layers, outcomes, asks, size, patch, within, library, together)  # type: ignore[attr-defined]
        return made

    return mark


def _declaring(factory: Factory, shape: tuple[int, int]) -> Factory:
    """A class or function whose modules have `image_size`, (height, width)."""
    if isinstance(factory, type):
        factory.image_size = shape  # type: ignore[attr-defined]
        return factory

    @functools.wraps(factory)
    def build() -> Any:
        model = factory()
        if not hasattr(model, "image_size"):
            model.image_size = shape
        return model

    return build  # type: ignore[return-value]


def query_weights(query: str, layer: Layer) -> Array:
    """Of the tokens that ask, (windows, queries), summing to 1: `auto`, `cls`, `mean` or `x,y`.

    The picture is as large as the input, so that points are input pixels.
    """
    x, y = layer.queries[..., 0], layer.queries[..., 1]
    there, is_class = np.isfinite(x), layer.queries[..., 2] == 1
    if query == "auto":
        query = "cls" if is_class.any() else "mean" if there.any() else "pool"
    if query == "cls":
        chosen = is_class.astype(float)
    elif query == "mean":
        made = layer.made
        chosen = _each_place_alike(x, y, there) if made is None else made.sum(1)[None]
    elif query == "pool":
        chosen = np.ones(x.shape)
    else:
        px, py = (float(number) + 0.5 for number in query.split(","))
        distance = np.where(there, np.hypot(x - px, y - py), np.inf)
        chosen = (distance < distance.min() + 1e-3).astype(float)
    return np.asarray(chosen / chosen.sum())


def _each_place_alike(x: Array, y: Array, there: NDArray[np.bool_]) -> Array:
    """Weight 1 for each place, shared where several tokens stand for it."""
    places = np.stack([x, y], -1).round(3).reshape(-1, 2)
    _, which, counts = np.unique(places, axis=0, return_inverse=True, return_counts=True)
    return np.where(there, 1 / counts[which.reshape(x.shape)], 0.0)


def true_map(query: str, layer: Layer, weights: Array) -> Array:
    """The map of a query, (heads, rows, columns), from weights (windows, heads, queries, keys)."""
    asking = query_weights(query, layer)
    received = np.einsum("wq,whqk->hwk", asking, weights)
    if layer.made is not None:
        shares = layer.made / layer.made.sum(1, keepdims=True)
        spread: Array = received.sum(1) @ shares
        return spread.reshape(-1, layer.rows, layer.columns)
    cells = layer.cells
    found = np.zeros((weights.shape[1], layer.rows * layer.columns))
    for head, values in enumerate(received):
        np.add.at(found[head], cells[cells >= 0], values[cells >= 0])
    return found.reshape(-1, layer.rows, layer.columns)
