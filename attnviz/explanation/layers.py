"""Finds the cell of the picture that each token of a recorded call stands for, by measurement."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention import AttentionCall
from attnviz.explanation.lattices import Unplaced, layout_of
from attnviz.geometry.grid import Layout, TokenGrid


@dataclass(frozen=True)
class Layer:
    """An attention call, and the cells that its tokens stand for.

    Attributes:
        call: the call; its batch are the windows that tile one picture.
        queries, keys: the cell of every token, (windows, tokens).
        tokens: the queries' tokens after the block of the call, (1, queries, features); None if
            they were not kept, or the block returns something else.
        assumed: why the tokens' places follow from their number alone, in a few words; None if
            they were measured.
        class_rank: place of the class token among the tokens outside of the grid.
        objects: numbers of the object queries of a detector or segmenter among all queries,
            (windows · tokens,); empty if the layer has none.
    """

    call: AttentionCall
    queries: Layout
    keys: Layout
    tokens: Tensor | None = None
    assumed: str | None = None
    class_rank: int = 0
    objects: tuple[int, ...] = ()

    @property
    def prefix(self) -> tuple[int, ...]:
        """Numbers of the tokens beside the grid that are queries and keys; the class token first.

        The others are registers, in their order.
        """
        outside = self.outside
        if self.class_rank >= len(outside):
            return outside
        of_class = outside[self.class_rank]
        return (of_class, *(number for number in outside if number != of_class))

    @property
    def outside(self) -> tuple[int, ...]:
        """Numbers of the tokens before and behind the grid that are queries and keys."""
        count = min(self.queries.cells.shape[1], self.keys.cells.shape[1])
        beside = [side.cells[:, :count] < 0 for side in (self.queries, self.keys)]
        if any(side.all() for side in beside):  # an attention pool, or class attention
            alone = [~side.on_picture.any() for side in (self.queries, self.keys)]
            beside = [side for side, none in zip(beside, alone, strict=True) if not none]
            if not beside:
                return ()
        in_both = np.all([side.all(0) for side in beside], axis=0)
        if in_both.all():
            return tuple(range(count))
        before = tuple(range(int(in_both.argmin())))
        if self.queries.cells.shape != self.keys.cells.shape:
            return before
        return *before, *range(count - int(in_both[::-1].argmin()), count)

    def without_tensors(self) -> "Layer":
        """The layer with an empty call, which keeps only the number of heads."""
        call = self.call
        query, key, value = (
            torch.empty((0, *each.shape[1:]), dtype=each.dtype)
            for each in (call.query, call.key, call.value)
        )
        weights = None if call.weights is None else call.weights[:0]
        small = AttentionCall(query, key, value, call.scale, kind=call.kind, weights=weights)
        return replace(self, call=small, tokens=None)


class PositionsLost(Unplaced):
    """Positions of tokens are not known: an operator lost them, or the picture left PyTorch.

    Attributes:
        cause: what lost the positions, in a few words.
    """

    def __init__(self, call: AttentionCall, cause: str) -> None:
        super().__init__(f"{_size(call)} tokens whose places are {cause}")
        self.cause = cause


def find_layer(call: AttentionCall, grid: TokenGrid, operators: Sequence[str] = ()) -> Layer:
    """A call as a layer over a picture whose pixels fill the input of `grid`.

    Positions of tokens are traced from the picture (`record(picture=…)`). `operators` are the names
    of operators that lost positions (`Recording.operators`).

    Raises:
        PositionsLost: positions of tokens are not known.
        Unplaced: its tokens are not places: they are channels, say, or not on a lattice.
    """
    for positions in (call.key_positions, call.query_positions):
        operator = _lost_by(positions, operators)
        if operator is not None:
            raise PositionsLost(call, f"lost by {operator}")
    if call.query_positions is None and call.key_positions is None:
        raise PositionsLost(call, "not seen to come from the picture")
    keys = _layout(call.key_positions, call.key_pictures, grid, call)
    if not keys.on_picture.any():
        whole = assume_layer(call, grid, None)
        if grid.grid_tokens == 1 and whole is not None:  # a mean over the whole picture
            return whole
        raise Unplaced(f"{_size(call)} tokens of which the keys are no part of the picture")
    if call.query_positions is None:
        windows, _, count, _ = call.shape
        nowhere = np.full((windows, count), -1, dtype=np.int64)
        return Layer(call, replace(keys, cells=nowhere, cover=None), keys)
    queries = _layout(call.query_positions, call.query_pictures, grid, call)
    if _is_part_of(queries, keys):
        raise Unplaced(
            f"{_size(call)} tokens whose queries are a part of the picture: a piece of one "
            "attention that is not put together"
        )
    return Layer(call, queries, keys)


def _is_part_of(queries: Layout, keys: Layout) -> bool:
    """Whether the queries are a part of the keys' cells."""
    if (queries.rows, queries.columns, queries.moments) != (keys.rows, keys.columns, keys.moments):
        return False
    some, all_ = ({*side.cells[side.on_picture].tolist()} for side in (queries, keys))
    return bool(some) and some < all_


def assume_layer(call: AttentionCall, grid: TokenGrid, cause: str | None) -> Layer | None:
    """A layer whose tokens are assumed to be the grid itself; None if their number differs.

    `cause` says why their positions are not known; None if they are known to be the grid.
    """
    if call.shape[0] != 1 or call.shape[2:] != (grid.tokens, grid.tokens):
        return None
    whole = Layout.whole(grid)
    return Layer(call, whole, whole, assumed=cause)


def _lost_by(positions: Tensor | None, operators: Sequence[str]) -> str | None:
    """The operator that lost some of the positions, (windows, tokens, 2); None if none did."""
    if positions is None or not operators:  # no position was lost in the run
        return None
    lost = positions[..., 0].isinf()
    if not bool(lost.any()):
        return None
    number = int(positions[..., 1][lost].max())
    return operators[number] if 0 <= number < len(operators) else operators[0]


def _layout(
    positions: Tensor | None, frames: Tensor | None, grid: TokenGrid, call: AttentionCall
) -> Layout:
    """Cells of tokens at these positions, (windows, tokens, 2) in input pixels.

    `frames`, (windows, tokens), are the frames that the tokens of a clip lie in.

    A token stands for the cell of its number in the lattice. Convolutions with padding see a little
    more on its left than on its right; models themselves treat the token as this cell when they
    scale their maps up.
    """
    if positions is None:
        raise Unplaced(f"{_size(call)} tokens of which the keys are no part of the picture")
    windows, tokens, _ = positions.shape
    found = positions.float().cpu().numpy().tobytes()
    layout = layout_of(found, windows, tokens, grid, _size(call))
    if frames is None or not layout.on_picture.any():
        return layout
    return _in_time(layout, frames.cpu().numpy())


def _in_time(layout: Layout, frames: NDArray[np.generic]) -> Layout:
    """The layout of a clip's tokens, whose cells lie in these frames, (windows, tokens)."""
    moments, view = np.unique(frames[layout.on_picture], return_inverse=True)
    first = np.zeros_like(layout.cells)  # cell of the view of each token
    first[layout.on_picture] = view * layout.rows * layout.columns
    cover = layout.cover
    if cover is not None:
        cover = replace(cover, cells=cover.cells + first.ravel()[cover.tokens])
    moments = tuple(moments.tolist())
    return replace(layout, cells=layout.cells + first, cover=cover, moments=moments)


def _size(call: AttentionCall) -> str:
    return f"{call.shape[2]}x{call.shape[3]}"
