"""Passes rows of words back through the calls of a run, to the picture that its encoder reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from attnviz.attention import AttentionCall
from attnviz.attribution.head_fusion import Fusion, MergedHeads
from attnviz.attribution.vector_products import discarding, vec_residual
from attnviz.explanation.call_tokens import (
    Array,
    CallTokens,
    PlacedTokens,
    TokenTable,
    check_tokens,
    handed_over,
)
from attnviz.explanation.view_layouts import layout_of, on_the_picture, views_of
from attnviz.geometry.grid import Box, Layout
from attnviz.models.processor_places import PictureTensor
from attnviz.recording import Recording


class Merging(NamedTuple):
    """How heads become one matrix: `fusion` and `discard` of `rollout`."""

    fusion: Fusion = "mean"
    discard: float = 0.0


@dataclass(frozen=True, eq=False)
class WholeRun:
    """The calls of all parts of a model, in a run over prompt and answer.

    Attributes:
        recording: the calls.
        output: a result of the model, with its graph; tensors that the graph saves are gone.
        language: numbers of the calls of the language model, by layer.
        source: where the model's tensor of the picture lies in the picture.
        whole: the picture.
        learned: the same calls with the places of learned queries; empty without any.
    """

    recording: Recording
    output: Tensor
    language: Sequence[int]
    source: PictureTensor
    whole: Box
    learned: Sequence[AttentionCall] = ()
    _behind: dict[int, set[int]] = field(default_factory=dict, repr=False)

    def behind(self, number: int) -> list[int]:
        """Numbers of the calls that a call depends on, in order."""
        if number not in self._behind:
            self._behind[number] = self.recording.behind(self.output, number)
        return sorted(self._behind[number])

    @cached_property
    def numbered(self) -> tuple[TokenTable, Mapping[int, CallTokens]]:
        """The tokens of all calls that the last layer depends on."""
        table, last = TokenTable(), self.language[-1]
        tokens = {
            n: table.numbered(self.recording[n], n, self.learned[n] if self.learned else None)
            for n in [*self.behind(last), last]
        }
        return table, tokens

    @cached_property
    def first_lattice(self) -> PlacedTokens:
        """The tokens of the picture that its encoder reads first."""
        table, tokens = self.numbered
        for each in tokens.values():
            found = table.lattice_of(each.queries)
            if found is not None:
                return found
        return next(each for each in table.lattices if not each.learned)

    @cached_property
    def first_layout(self) -> Layout:
        """The cells of the tokens that the encoder reads first."""
        return self.layout_of(self.first_lattice)

    def layout_of(self, lattice: PlacedTokens) -> Layout:
        """The cells of a lattice's tokens, (1, tokens), in picture pixels."""
        at, tiles = lattice.places[:, 1:], lattice.places[:, 0]
        at = on_the_picture(at, tiles, self.source)
        return layout_of(views_of(at, tiles, self.source, self.whole), len(at))

    def rows_of(self, layer: int, rows: Tensor, merging: Merging) -> Array:
        """Rows of a layer's queries, (R, queries), over the cells of the encoder's first tokens.

            r ← r·rownorm([M I])              # every call, the last first: its keys get r·M,
                                              # and its queries keep the rest

        Where tokens of one grid are made of those of a finer one, each gives its weight to the
        tokens that it covers, by area.

        Raises:
            RecordingError: a call attends over what is no place.
        """
        table, tokens = self.numbered
        number = self.language[layer]
        state = rows.new_zeros(len(rows), table.count)
        state[:, torch.from_numpy(tokens[number].queries[0]).to(rows.device)] = rows
        for n in reversed([*self.behind(number), number]):
            state = self._gathered(state, n)
            state = self._through(state, n, merging, "rollout")
        state = self._gathered(state, -1, self.first_lattice)
        return self.first_layout.summed(_of(state, self.first_lattice))

    def through_learned(self, layer: int) -> Layout | None:
        """The cells that a layer's keys read as learned queries; None if no key is one.

        A token's share of a cell is that of its row through the calls between: those whose queries
        are no tokens of the picture. Rows over cells are scaled to sum to 1.
        """
        table, tokens = self.numbered
        keys = tokens[self.language[layer]].keys[0]
        queries = next((each for each in table.lattices if each.learned), None)
        among = np.flatnonzero(np.isin(keys, [] if queries is None else queries.numbers))
        if not len(among):
            return None
        state = torch.zeros(len(among), table.count)
        state[torch.arange(len(among)), torch.from_numpy(keys[among])] = 1.0
        seen = None
        for n in reversed(self.behind(self.language[0])):
            if table.lattice_of(tokens[n].queries) is None:
                state = self._through(state, n, Merging(), "attention")
                seen = seen or table.lattice_of(tokens[n].keys)
        if seen is None:
            return None
        layout = self.layout_of(seen)
        of_cells = layout.summed(_of(state, seen))
        total = of_cells.sum(-1, keepdims=True)
        return layout.read_by(of_cells / np.where(total > 0, total, 1), among, len(keys))

    def _gathered(self, state: Tensor, number: int, end: PlacedTokens | None = None) -> Tensor:
        """Hand weights over from lattices that no call up to this one has, to that of the call."""
        table, tokens = self.numbered
        if end is None:
            each = tokens[number]
            end = table.lattice_of(each.queries) or table.lattice_of(each.keys)
        for start in table.lattices:
            if end is None or start is end or start.learned or start.first <= number:
                continue
            rows = _of(state, start)
            if rows.any():
                state[:, torch.from_numpy(start.numbers)] = 0
                given = torch.from_numpy(handed_over(rows, start, end)).to(state)
                state[:, torch.from_numpy(end.numbers)] += given
        return state

    def _through(self, state: Tensor, number: int, merging: Merging, method: str) -> Tensor:
        """Rows over tokens after a call as rows over those before it."""
        table, tokens = self.numbered
        each, call = tokens[number], self.recording[number]
        queries, keys = (torch.from_numpy(side).to(state.device) for side in each)
        rows = state[:, queries].transpose(0, 1)  # (windows, R, queries)
        check_tokens(each, table, number, method)
        if not bool(rows.any()):
            return state
        fused = MergedHeads(call, merging.fusion)
        if merging.discard:
            placed = np.concatenate([lattice.numbers for lattice in table.lattices])
            itself = (
                bool((each.queries == each.keys).all()) if queries.shape == keys.shape else False
            )
            spared = torch.from_numpy(~np.isin(each.keys[:, 0], placed) & itself)
            fused = discarding(fused, merging.discard, spared.to(call.query.device))
        given, kept = (each.to(state) for each in vec_residual(fused, rows.to(call.query.device)))
        state = state.index_fill(1, queries.flatten(), 0)
        for numbers, weights in ((queries, kept), (keys, given)):
            state.index_add_(1, numbers.flatten(), weights.transpose(0, 1).flatten(1))
        return state


def _of(state: Tensor, lattice: PlacedTokens) -> Array:
    """The weights of a lattice's tokens, (R, tokens)."""
    found: Array = state[:, torch.from_numpy(lattice.numbers)].double().cpu().numpy()
    return found
