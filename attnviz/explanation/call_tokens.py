"""Tells which tokens of the calls of a run are the same, by their measured places."""

import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention import AttentionCall
from attnviz.errors import RecordingError

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
LEARNED = -7.0
"""The tile of learned queries of the picture; their place is their number. Copies have −8, −9 …"""
_SAME, _SHIFTED = 0.2, 0.6
"""Of a step: tokens that lie less apart are one; tokens between are those of a shifted lattice."""
_ALIKE = 0.1
"""Steps that differ by a smaller share are one."""
_NOISE = 0.05
"""Of a step: how far places may be off, as they are measured."""


class CallTokens(NamedTuple):
    """Numbers of the tokens of a call's queries and keys, (windows, tokens) each."""

    queries: Numbers
    keys: Numbers


@dataclass(eq=False)
class PlacedTokens:
    """Tokens at places of one step.

    Attributes:
        step: the distance of neighbours along x and y.
        places: (tokens, 3), the tile, x and y of each.
        numbers: (tokens,), their numbers.
        first: number of the first call that has such tokens.
    """

    step: tuple[float, float]
    places: Array
    numbers: Numbers
    first: int

    @property
    def learned(self) -> bool:
        """Whether these are learned queries, whose places are no places of the picture."""
        return bool(self.places[0, 0] <= LEARNED)


@dataclass(eq=False)
class TokenTable:
    """Numbers tokens of calls: one number for tokens of several calls that are the same.

    Two placed tokens are the same if they lie at the same place of lattices with the same step.
    Tokens that lie nowhere are the same if they have the same number among the same places.

    Attributes:
        lattices: all lattices of placed tokens.
        count: how many tokens there are.
    """

    lattices: list[PlacedTokens] = field(default_factory=list)
    count: int = 0
    _known: dict[bytes, Numbers] = field(default_factory=dict)

    def numbered(
        self, call: AttentionCall, number: int, learned: AttentionCall | None
    ) -> CallTokens:
        """The tokens of a call; `learned` is the same call with the places of learned queries."""
        return CallTokens(
            *(self._side(_places(call, learned, side), number) for side in ("query", "key"))
        )

    def lattice_of(self, tokens: Numbers, *, learned: bool = False) -> PlacedTokens | None:
        """The lattice that tokens of a call lie on; None if all lie nowhere."""
        for lattice in self.lattices:
            if lattice.learned == learned and np.isin(lattice.numbers, tokens).any():
                return lattice
        return None

    def _side(self, places: Array, number: int) -> Numbers:
        """Numbers of tokens at these places, (windows, tokens, 3)."""
        key = np.floor(places * 7.31 + 0.123).tobytes() + str(places.shape).encode()
        if key in self._known:
            return self._known[key]
        found = np.full(places.shape[:2], -1, dtype=np.int64)
        there = np.isfinite(places).all(-1)
        for learned in (True, False):
            part = there & ((places[..., 0] <= LEARNED) == learned)
            if part.any():  # channels, say, lie at one place
                different, which = np.unique(places[part], axis=0, return_inverse=True)
                step = (1.0, 1.0) if learned else None
                found[part] = self._placed(different, step, number)[which.ravel()]
        found[~there] = self._new((~there).sum())
        self._known[key] = found
        return found

    def _placed(self, places: Array, step: tuple[float, float] | None, number: int) -> Numbers:
        step = step or self._step(places)
        learned = bool(places[0, 0] <= LEARNED)
        for lattice in self.lattices:
            alike = zip(step, lattice.step, strict=True)
            if lattice.learned != learned or any(abs(a - b) > _ALIKE * b for a, b in alike):
                continue
            nearest, apart = _nearest(places, lattice.places, lattice.step)
            if bool(((apart > _SAME) & (apart < _SHIFTED)).any()):
                continue
            new = apart >= _SHIFTED
            found = lattice.numbers[nearest]
            found[new] = self._new(int(new.sum()))
            lattice.places = np.concatenate([lattice.places, places[new]])
            lattice.numbers = np.concatenate([lattice.numbers, found[new]])
            return found
        found = self._new(len(places))
        self.lattices.append(PlacedTokens(step, places, found, number))
        return found

    def _step(self, places: Array) -> tuple[float, float]:
        """The step of places; where a side has one place alone, that of the lattice before."""
        found: list[float] = []
        for axis in (1, 2):
            gaps = np.concatenate([
                np.diff(np.unique(places[places[:, 0] == tile, axis]))
                for tile in np.unique(places[:, 0])
            ])  # fmt: skip
            wide = gaps[gaps > 0.2 * gaps.max()] if len(gaps) else gaps
            before = [lattice.step[axis - 1] for lattice in self.lattices if not lattice.learned]
            found.append(float(np.median(wide)) if len(wide) else (before or [1.0])[-1])
        return found[0], found[1]

    def _new(self, count: int) -> Numbers:
        found = np.arange(self.count, self.count + count, dtype=np.int64)
        self.count += count
        return found


def check_tokens(tokens: CallTokens, table: TokenTable, number: int, method: str) -> None:
    """Refuse a call in which several tokens lie at one place of the picture.

    Raises:
        RecordingError: these are channels, say, or frames.
    """
    placed = np.concatenate([each.numbers for each in table.lattices] or [np.zeros(0, int)])
    inside = tokens.queries[np.isin(tokens.queries, placed)]
    if len(np.unique(inside)) < len(inside):
        raise RecordingError(
            f"--method {method}: in call {number} the picture's encoder attends over what is no "
            "place of the picture (channels); take --method attnlrp, or attention"
        )


def handed_over(rows: Array, start: PlacedTokens, end: PlacedTokens) -> Array:
    """Rows (R, tokens) over one lattice as rows over another: each token's weight by area.

    A token covers a cell of its lattice's step. Its weight goes to the tokens of the other lattice
    by the area that they share; a token that shares nothing keeps nothing.

    Raises:
        RecordingError: the lattices lie at different places.
    """
    found = np.zeros((len(rows), len(end.numbers)))
    for tile in np.unique(start.places[:, 0]):
        these, those = (np.flatnonzero(each.places[:, 0] == tile) for each in (start, end))
        if len(those):
            part = rows[:, these]
            found[:, those] = _by_area(
                part, start.places[these, 1:], start.step, end.places[those, 1:], end.step
            )
    if found.sum() < rows.sum() / 2:
        raise RecordingError(
            "the tokens that words look at lie where the picture's encoder has none; take --method "
            "attention, or attnlrp"
        )
    return found


def _by_area(
    rows: Array,
    places: Array,
    step: tuple[float, float],
    others: Array,
    other_step: tuple[float, float],
) -> Array:
    """The same in one tile; shares of x and of y are apart, so it takes no tokens × tokens."""
    lines = [_lines(places[:, axis], step[axis]) for axis in (0, 1)]
    to_lines = [_lines(others[:, axis], other_step[axis]) for axis in (0, 1)]
    across, down = (
        _shared(lines[axis][0], step[axis], to_lines[axis][0], other_step[axis]) for axis in (0, 1)
    )
    (_, column), (_, row) = lines
    (_, to_column), (_, to_row) = to_lines
    there = np.zeros((down.shape[1], across.shape[1]))
    there[to_row, to_column] = 1
    total = (down @ there @ across.T)[row, column]
    given = rows * np.where(total > 0, 1 / np.where(total > 0, total, 1), 0)
    spread = np.zeros((len(rows), down.shape[0], across.shape[0]))
    for number, each in enumerate(given):
        np.add.at(spread[number], (row, column), each)
    found: Array = (down.T @ spread @ across)[:, to_row, to_column]
    return found


def _lines(values: Array, step: float) -> tuple[Array, Numbers]:
    """The lines that values lie on, as far as they are measured, and the number of each value's."""
    order = np.argsort(values)
    number = np.zeros(len(values), dtype=np.int64)
    number[order] = np.cumsum(np.diff(values[order], prepend=values[order[0]]) > _NOISE * step)
    return np.bincount(number, values) / np.bincount(number), number


def _shared(values: Array, step: float, others: Array, other_step: float) -> Array:
    """The lengths that cells share with others along an axis, (values, others).

    As places are measured, a cell that shares almost nothing or almost all shares nothing or all.
    """
    edges, other_edges = (
        (each[:, None] - size / 2, each[:, None] + size / 2)
        for each, size in ((values, step), (others, other_step))
    )
    found = np.minimum(edges[1], other_edges[1].T) - np.maximum(edges[0], other_edges[0].T)
    all_ = min(step, other_step)
    found = np.where(found > (1 - _NOISE) * all_, all_, found)
    return np.where(found > _NOISE * all_, found, 0)


def _nearest(places: Array, others: Array, step: tuple[float, float]) -> tuple[Numbers, Array]:
    """Of each place the number of the nearest other in its tile, and how many steps it is away.

    Others are looked for in the squares of a step around it; farther ones are at ∞.
    """
    unit = np.array([1.0, *step])
    nearest, apart = np.zeros(len(places), dtype=np.int64), np.full(len(places), np.inf)
    squares, other_squares = (np.rint(each / unit).astype(np.int64) for each in (places, others))
    codes = _codes(other_squares)
    order = np.argsort(codes)
    codes = codes[order]
    for x, y in itertools.product((-1, 0, 1), (-1, 0, 1)):
        wanted = _codes(squares + np.array([0, x, y]))
        first, last = (np.searchsorted(codes, wanted, side) for side in ("left", "right"))
        for more in range(int((last - first).max(initial=0))):
            these = np.flatnonzero(first + more < last)
            those = order[first[these] + more]
            off = (np.abs(places[these] - others[those]) / unit)[:, 1:].max(-1)
            closer = off < apart[these]
            nearest[these[closer]], apart[these[closer]] = those[closer], off[closer]
    return nearest, apart


def _codes(squares: Numbers) -> Numbers:
    """A number for each tile, column and row."""
    found: Numbers = squares @ np.array([1 << 40, 1 << 20, 1], dtype=np.int64)
    return found


def _places(call: AttentionCall, learned: AttentionCall | None, side: str) -> Array:
    """Tile, x and y of each token, (windows, tokens, 3); NaN for nowhere."""
    count = call.shape[2] if side == "query" else call.shape[3]
    found = np.full((call.shape[0], count, 3), np.nan)
    positions: Tensor | None = getattr(call, f"{side}_positions")
    if positions is not None:
        at = positions.double().cpu().numpy()
        at = np.where(np.isfinite(at).all(-1, keepdims=True), at, np.nan)
        tiles: Tensor | None = getattr(call, f"{side}_pictures")
        tile = np.zeros(at.shape[:2]) if tiles is None else tiles.double().cpu().numpy()
        found[:] = np.concatenate(
            [np.where(np.isnan(at[..., :1]), np.nan, tile[..., None]), at], -1
        )
    rows: Tensor | None = None if learned is None else getattr(learned, f"{side}_positions")
    if rows is not None:
        number = np.floor(rows[..., 1].double().cpu().numpy())
        these = np.isfinite(rows.double().cpu().numpy()).all(-1) & np.isnan(found[..., 0])
        found[these] = _copies(number[these])
    return found


def _copies(numbers: Array) -> Array:
    """Places of learned queries of these numbers: the copies of one lie in tiles of their own."""
    seen: dict[float, int] = {}
    found = np.zeros((len(numbers), 3))
    for place, number in zip(found, numbers, strict=True):
        copy = seen.get(number, 0)
        seen[number] = copy + 1
        place[:] = LEARNED - copy, 0.0, number
    return found
