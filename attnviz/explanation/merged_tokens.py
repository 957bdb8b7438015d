"""Measures which cells merged tokens are made of, where their mean place says too little.

A model that merges tokens (ToMe, EViT) runs once more, with its graph. Between two attention calls
tokens are merged and dropped, but do not mix: so a score of some tokens of the next call has a
gradient at those outputs of the last call that these tokens are made of.
"""

import weakref
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attnviz.errors import AttnvizError
from attnviz.explanation.inspection import CallReport, part_of
from attnviz.explanation.lattices import Unplaced
from attnviz.explanation.layers import find_layer
from attnviz.geometry.grid import Cover, Layout, TokenGrid
from attnviz.models import memory
from attnviz.models.model import Model
from attnviz.models.weights import seeded
from attnviz.recording import Recording, record

_UNKNOWN: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Models that do not run with their graph, or whose calls with such tokens are in no block."""
_NONE, _SEVERAL = -1, -2
_ALONE = 0.9
"""An output that belongs to one token has this share of its gradient from it, or more."""


def merged_numbers(reports: Sequence[CallReport]) -> list[int]:
    """Numbers of the calls whose tokens may be merged ones, by their places and number."""
    beside = next((report.beside for report in reports if report.places is not None), 0)
    return [
        number
        for number, report in enumerate(reports)
        if number and (report.uneven or (report.dropped and report.beside > beside))
    ]


def measure_merged(
    model: Model,
    inputs: tuple[Tensor, ...],
    grid: TokenGrid,
    reports: Sequence[CallReport],
) -> dict[int, tuple[Layout, ...]]:
    """The cells of the keys of calls with merged tokens, by picture, where they can be known.

    They are not known if the model does not run with gradients, or its graph does not fit into
    memory, if a call is in no block of a list, or if outputs of the last call are in several of its
    tokens.
    """
    numbers = merged_numbers(reports)
    needed = grid.tokens * len(inputs[0]) * model.token_bytes * memory.GRAPH
    if not numbers or model.plain or needed > memory.available(str(model.device)):
        return {}
    if model.module in _UNKNOWN or model.clip is not None:  # tokens of clips are in several views
        return {}
    pixels = inputs[0].detach().requires_grad_()
    try:
        with (
            seeded(model.seed or 0),
            torch.enable_grad(),
            record(picture=pixels, gradients=True, blocks=model.module) as recording,
        ):
            model.module(pixels, *inputs[1:])
    except Exception as error:  # whatever keeps a model from running with its graph
        if not memory.is_exhausted(error):
            _UNKNOWN.add(model.module)
        return {}
    if len(recording) != len(reports):
        return {}
    if not recording.blocks.keys() & set(numbers):
        _UNKNOWN.add(model.module)
        return {}
    owners = [_Owners(grid, recording, picture, len(pixels)) for picture in range(len(pixels))]
    found: dict[int, tuple[Layout, ...]] = {}
    for number in range(max(numbers) + 1):
        if number not in numbers:
            for each in owners:
                each.begin(number)
            continue
        same = _alike(reports[number].places, recording[number].key_positions)
        sources = _sources(recording, number) if same else None
        layouts = [each.follow(number, sources) for each in owners]
        known = tuple(layout for layout in layouts if layout is not None)
        if len(known) == len(owners):
            found[number] = known
    return found


def _alike(places: Tensor | None, again: Tensor | None) -> bool:
    """Whether keys lie where they lay in the first run."""
    if places is None or again is None or places.shape != again.shape:
        return False
    return torch.allclose(places, again, atol=1e-3, equal_nan=True)


class _Owners:
    """Follows which token each cell of one picture belongs to, from call to call."""

    def __init__(self, grid: TokenGrid, recording: Recording, picture: int, pictures: int) -> None:
        self._grid, self._recording = grid, recording
        self._picture, self._pictures = picture, pictures
        self._base: Layout | None = None
        self._owner = np.empty(0, dtype=np.int64)

    def begin(self, number: int) -> None:
        """Begin with the cells of a call that merges nothing."""
        call = part_of(self._recording[number], self._picture, self._pictures)
        try:
            layout = find_layer(call, self._grid, self._recording.operators).queries
        except Unplaced:
            self._base = None
            return
        tokens = np.flatnonzero(layout.cells[0] >= 0)
        cells = layout.cells[0, tokens]
        several = layout.windows > 1 or layout.cover is not None or layout.uneven
        if several or not len(cells) or len(np.unique(cells)) < len(cells):
            self._base = None
            return
        self._base, self._owner = layout, np.full(layout.rows * layout.columns, _NONE)
        self._owner[cells] = tokens

    def follow(self, number: int, sources: NDArray[np.int64] | None) -> Layout | None:
        """The cells of a call's keys, by what its tokens are made of; None if that is not known."""
        base, before = self._base, self._owner >= 0
        call = part_of(self._recording[number], self._picture, self._pictures)
        self._base = None
        if base is None or sources is None or len(sources) != self._pictures:
            return None
        owner = np.full_like(self._owner, _NONE)
        owner[before] = sources[self._picture][self._owner[before]]
        if (owner == _SEVERAL).any() or (owner < 0).all():
            return None
        if call.shape[2] == call.shape[3]:
            self._base, self._owner = base, owner
        elif call.query_positions is not None and bool(call.query_positions.isfinite().any()):
            return None  # some of the tokens ask
        return _covering(base, owner, call.shape[3])


def _covering(base: Layout, owner: NDArray[np.int64], count: int) -> Layout:
    """The layout of `count` tokens of which each covers the cells that it owns."""
    cells = np.flatnonzero(owner >= 0)
    tokens = owner[cells]
    sizes = np.bincount(tokens, minlength=count)
    places = np.stack(np.divmod(cells, base.columns), 1).astype(np.float64)
    middles = np.zeros((count, 2))
    np.add.at(middles, tokens, places)
    far = np.linalg.norm(places - middles[tokens] / sizes[tokens, None], axis=1)
    order = np.argsort(-far, kind="stable")  # the last one that is written is the nearest
    at = np.full((1, count), -1, dtype=np.int64)
    at[0, tokens[order]] = cells[order]
    cover = Cover((), tokens, cells, 1 / sizes[tokens], np.ones(len(cells)))
    return replace(base, cells=at, cover=cover if sizes.max() > 1 else None)


def _sources(recording: Recording, number: int) -> NDArray[np.int64] | None:
    """For each output of the call before, the token of a call that it is part of: (batch, tokens).

    −1 for none, −2 for several; None if it cannot be measured. Tokens are told apart by signs: with
    each, a pass backward; bit by bit of the tokens' numbers.
    """
    block = recording.blocks.get(number)
    if block is None or block.input.ndim != 3:
        return None
    tokens = block.input
    count = tokens.shape[1]
    if count != recording[number].shape[3]:
        return None
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(tokens.shape[-1], generator=generator).to(tokens)
    scores = (tokens * directions).sum(-1)  # (batch, tokens)

    def back(signs: Tensor) -> Tensor | None:
        score = (scores * signs.to(scores)).sum()
        found = recording.gradients(score, calls=[number - 1]).get(number - 1)
        return None if found is None else found.movedim(1, 2).flatten(2).double().cpu()

    try:
        together = back(torch.ones(count))
        if together is None:
            return None
        strength = together.square().sum(-1)
        sources = torch.zeros(strength.shape, dtype=torch.long)
        numbers = torch.arange(count)
        for bit in range(max(1, (count - 1).bit_length())):
            found = back((numbers >> bit) % 2 * 2 - 1)
            assert found is not None  # as before
            share = (found * together).sum(-1) / strength.clamp_min(1e-300)
            sources += torch.where(share > 0, 1 << bit, 0)
            sources[share.abs() < _ALONE] = -(1 << 40)
    except AttnvizError:
        return None
    sources[sources < 0] = _SEVERAL
    sources[strength == 0] = _NONE
    return sources.numpy()
