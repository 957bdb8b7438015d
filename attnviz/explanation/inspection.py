"""Finds which attention calls of a run can be drawn, and why others cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.attention import AttentionCall
from attnviz.errors import UsageError
from attnviz.explanation.lattices import Uneven, Unplaced
from attnviz.explanation.layers import Layer, PositionsLost, assume_layer, find_layer
from attnviz.explanation.sampled_points import sampled_layer
from attnviz.explanation.selection import choose_layers, parse_layers
from attnviz.geometry.grid import Layout, TokenGrid


@dataclass(frozen=True)
class CallReport:
    """Facts about an attention call, kept even if its tensors are released.

    Attributes:
        reason: why it is not drawn; None if it is drawn.
        cause: what lost the positions of its tokens; None if they are known.
        traced: whether positions show that its tokens come from the picture at all.
        fits: whether it has as many queries and keys as the grid has tokens.
        alone: whether it has one head without a recorded output projection, as a single head of
            several computed apart has.
        uneven: whether its tokens lie unevenly: they may be merged ones.
        dropped: whether some cells have no token.
        beside: number of keys that lie nowhere.
        places: places of its keys, if they are known.
        picked: number of its tokens, if all are queries and keys and they leave cells out; else 0.
    """

    reason: str | None = None
    cause: str | None = None
    traced: bool = True
    fits: bool = False
    alone: bool = False
    uneven: bool = False
    dropped: bool = False
    beside: int = 0
    places: Tensor | None = None
    picked: int = 0


_PLACES = ("query_positions", "key_positions", "query_pictures", "key_pictures")


@dataclass
class Inspector:
    """Inspects every attention call of a run in its final form.

    Attributes:
        grid: of the model's input.
        pictures: number of pictures in the batch.
        plain: whether every call is over the prefix and then the grid, so nothing was traced.
        operators: names of the operators that lost positions; they are added while the model runs.
        uneven: whether a call did not treat every picture alike.
    """

    grid: TokenGrid
    pictures: int = 1
    plain: bool = False
    operators: Sequence[str] = ()
    uneven: bool = field(default=False, init=False)
    _made: dict[Any, tuple[Any, CallReport]] = field(default_factory=dict, init=False)
    """Reports by all that they depend on; tensors of positions by `id`, and kept."""

    def __call__(self, call: AttentionCall) -> CallReport:
        """The report on a call; calls of one shape whose tokens lie alike have the same."""
        if call.points is not None:
            return self._report(call)
        places = tuple(getattr(call, name) for name in _PLACES)
        facts = call.shape, call.kind, call.projection is None, len(self.operators)
        key = facts, tuple(map(id, places))
        if key not in self._made:
            self._made[key] = places, self._report(call)
        return self._made[key][1]

    def _report(self, call: AttentionCall) -> CallReport:
        if not is_even(call, self.pictures):
            self.uneven = True
            return CallReport("its batch is not as many windows of each picture")
        first = part_of(call, 0, self.pictures)
        fits = assume_layer(first, self.grid, None) is not None
        if self.plain:
            return CallReport(None if fits else "its tokens are not those of the grid", fits=fits)
        if first.points is not None and _may_be_laid(first.points, self.grid):
            return CallReport()
        try:
            layer = find_layer(first, self.grid, self.operators)
        except PositionsLost as reason:
            traced = call.query_positions is not None or call.key_positions is not None
            return CallReport(str(reason), cause=reason.cause, traced=traced, fits=fits)
        except Unplaced as reason:
            uneven = isinstance(reason, Uneven)
            why = _sampled(call) or str(reason)
            places = call.key_positions if uneven else None
            return CallReport(why, uneven=uneven, places=places, picked=_tokens_alike(first))
        keys = layer.keys
        held = np.bincount(keys.cells[keys.on_picture])  # faster than np.unique
        dropped = int(np.count_nonzero(held)) < keys.size
        return CallReport(
            fits=fits,
            alone=call.heads == 1 and call.projection is None,
            uneven=keys.uneven,
            dropped=dropped,
            beside=keys.outside,
            places=call.key_positions,
            picked=_tokens_alike(first) if dropped else 0,
        )


def without_objects(reports: Sequence[CallReport], count: int) -> Sequence[CallReport]:
    """The reports, where attention among the `count` objects that a model predicts is not drawn.

    A detector of two stages picks its objects among tokens, and these have places.
    """
    among = CallReport("attention among objects, which lie nowhere")
    return [among if report.picked == count else report for report in reports]


def _tokens_alike(call: AttentionCall) -> int:
    """The number of tokens of a call whose queries and keys lie at the same places; else 0."""
    places, of_keys = call.query_positions, call.key_positions
    if places is None or of_keys is None or places.shape != of_keys.shape:
        return 0
    return places[..., 0].numel() if torch.equal(places, of_keys) else 0


def _may_be_laid(points: Tensor, grid: TokenGrid) -> bool:
    """Whether sampled points can be laid onto the cells of a grid: their places are known."""
    return grid.grid_tokens > 1 and bool(points.isfinite().any()) and not points.isinf().any()


def _sampled(call: AttentionCall) -> str | None:
    """Why points that each query samples for itself are not drawn; None for other calls."""
    if call.kind != "sampled":
        return None
    queries, heads, count = call.shape[0] * call.shape[2], call.heads, call.shape[3]
    levels = 1 if call.points is None else call.points.shape[2]
    what = f"{count} points" if levels == 1 else f"{count} points, {count // levels} on each of "
    what = what if levels == 1 else f"{what}{levels} levels,"
    return (
        f"{what} for each of {queries} queries and {heads} heads, sampled between tokens "
        "(deformable attention)"
    )


@dataclass(frozen=True)
class Calls:
    """All attention calls of a run, which of them are drawn, and how.

    Attributes:
        count: number of all calls; layers are numbered in call order.
        not_drawn: numbers and reasons of calls that are not drawn.
        assumed: numbers of calls whose tokens' places are assumed, and what lost their positions.
        alone: numbers of consecutive calls of one head that may be heads of one attention.
        merged: of calls with merged tokens the cells of their keys, for each picture.
    """

    count: int
    not_drawn: Mapping[int, str]
    assumed: Mapping[int, str]
    alone: frozenset[int] = frozenset()
    merged: Mapping[int, Sequence[Layout]] = field(default_factory=dict)

    @staticmethod
    def of(
        reports: Sequence[CallReport],
        depend: Mapping[int, bool],
        merged: Mapping[int, Sequence[Layout]],
    ) -> "Calls":
        """Combine the reports on all calls.

        `depend` says, for calls without a trace to the picture, whether they depend on it.
        """
        not_drawn: dict[int, str] = {}
        assumed: dict[int, str] = {}
        for number, report in enumerate(reports):
            if report.reason is None or number in merged:
                continue
            if not report.traced and not depend.get(number, True):
                not_drawn[number] = "its tokens do not depend on the picture"
            elif report.cause is not None and report.fits:
                assumed[number] = report.cause
            else:
                not_drawn[number] = report.reason
        alone = {n for n, report in enumerate(reports) if report.alone}
        beside = {n for n in alone if {n - 1, n + 1} & alone}
        return Calls(len(reports), not_drawn, assumed, frozenset(beside), merged)

    @property
    def drawn(self) -> tuple[int, ...]:
        """Numbers of the calls that are drawn."""
        return tuple(number for number in range(self.count) if number not in self.not_drawn)

    def choose(self, layers: str) -> tuple[int, ...]:
        """Numbers of the requested layers: `-1`, `all`, `upper`, `0,5-11`.

        `all` means all drawn layers, `-1` the last, and `upper` the upper half of these.

        Raises:
            UsageError: the model has no such layer, or it is not drawn.
        """
        numbers = parse_layers(layers)
        if numbers is None:
            return self.drawn[len(self.drawn) // 2 :] if layers.strip() == "upper" else self.drawn
        last = self.count - 1
        if last in self.not_drawn and self.drawn:
            numbers = tuple(self.drawn[-1] if number == -1 else number for number in numbers)
        chosen = choose_layers(numbers, self.count)
        for number in chosen:
            if number in self.not_drawn:
                raise UsageError(
                    f"--layers: layer {number} is not drawn ({self.not_drawn[number]}); take "
                    f"{_ranges(self.drawn)}"
                )
        return chosen


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers as they are typed: 0,2-5.

    >>> _ranges([0, 2, 3, 4, 5])
    '0,2-5'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def place_layer(
    call: AttentionCall,
    grid: TokenGrid,
    operators: Sequence[str],
    assumed: str | None,
    merged: Layout | None = None,
    *,
    plain: bool,
) -> Layer:
    """The layer of a call that is drawn; `merged` are the cells of keys that are merged tokens."""
    if merged is not None:
        count = call.shape[2]
        alone = Layout(merged.rows, merged.columns, np.full((1, count), -1, dtype=np.int64))
        return Layer(call, merged if count == call.shape[3] else alone, merged)
    if plain or assumed is not None:
        found = assume_layer(call, grid, assumed)
        assert found is not None  # an inspector has checked it
        return found
    if call.points is not None:
        return sampled_layer(call, grid)
    return find_layer(call, grid, operators)


def part_of(call: AttentionCall, number: int, count: int) -> AttentionCall:
    """One picture's part of a call over `count` pictures: its windows are consecutive."""
    windows = len(call.query) // count
    return call if count == 1 else call.batch(slice(number * windows, (number + 1) * windows))


def is_even(call: AttentionCall, pictures: int) -> bool:
    """Whether the batch of a call has equally many windows of each picture, picture by picture."""
    if len(call.query) % pictures:
        return False
    if pictures == 1 or len(call.query) == pictures:
        return True
    for positions in (call.query_positions, call.key_positions):
        if positions is not None:
            each = positions.reshape(pictures, -1)
            if not torch.equal(each.nan_to_num(-1), each[:1].expand_as(each).nan_to_num(-1)):
                return False
    return True
