"""The expensive step: run the model once and keep its attention calls."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz import memory
from attnviz.attention import AttentionCall, Block, Recording, record
from attnviz.errors import AttnvizError, RecordingError, UsageError
from attnviz.geometry import Fit, Placement, TokenGrid
from attnviz.images import Picture
from attnviz.models.code_errors import describe
from attnviz.models.model import Model
from attnviz.pipeline.forward_errors import (
    ForwardError,
    UnevenError,
    explain,
    out_of_memory,
    refused_size,
)
from attnviz.pipeline.input_shapes import placements
from attnviz.pipeline.layers import Layer, Unplaced, find_layer
from attnviz.pipeline.observation import Observation, Run
from attnviz.selection import choose_layers, parse_layers

GRAPH = 5
"""Times the memory that a run takes where its graph is kept: every step of every block is."""


def observe(
    picture: Picture,
    model: Model,
    *,
    fit: Fit = "keep",
    mask: NDArray[np.bool_] | None = None,
    layers: str = "all",
    gradients: bool = False,
    tokens: bool = False,
) -> Observation:
    """Run a model once on a picture and record its attention.

    Args:
        picture: what `load_image` gave.
        model: what `load_model` gave.
        fit: how the picture is laid into the input: keep, crop, pad or squash.
        mask: (height, width), False where the picture takes no part, as key or as query. A token
            is masked when less than half of it is True; padding counts as False.
        layers: those that will be asked: `-1`, `all`, `0,5-11`.
        gradients: keep the graph of the run, so that methods can ask for the gradient of a score.
        tokens: keep the tokens after each layer's block too.

    Raises:
        UsageError: the mask leaves no token, the model takes none, or has no such layer.
        MemoryLimitError: so many tokens do not fit; nothing was begun.
        ModelError: the model does not run on the picture; says why.
        RecordingError: it made no attention call.
    """
    shown = Shown(
        (picture,), model, fit=fit, masks=(mask,), layers=layers, gradients=gradients, tokens=tokens
    )
    return shown.alone(0)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Pictures that are shown to a model.

    Attributes:
        fit, layers, gradients, tokens: as `observe` takes them.
        masks: of each picture, or None.
        lay: a picture, by its number, laid as a placement says; see `Model.lay`.
    """

    pictures: Sequence[Picture] = field(kw_only=False)
    model: Model = field(kw_only=False)
    fit: Fit
    masks: Sequence[NDArray[np.bool_] | None]
    layers: str
    gradients: bool
    tokens: bool
    lay: Callable[[int, Placement], NDArray[np.uint8]] | None = None

    def alone(self, number: int) -> Observation:
        """Run the model on one picture; where it does not take its shape, on one that it does.

        Raises:
            UsageError: it takes another size than was asked for.
            ModelError: it runs on none; says why.
        """
        model, failures = self.model, list[ForwardError]()
        for placement, asked in placements(model, self.pictures[number], self.fit, failures):
            try:
                seen = self.at_once({number: placement})[number]
            except ForwardError as error:
                failures.append(error)
                continue
            except Exception as error:
                if isinstance(error, AttnvizError) or not memory.is_exhausted(error):
                    raise
                raise out_of_memory(model, placement.grid) from error
            if model.size_given and not asked:
                raise refused_size(model, placement.grid)
            return seen
        raise explain(model, failures, gradients=self.gradients) from failures[0].error

    def at_once(self, placements: Mapping[int, Placement]) -> dict[int, Observation]:
        """Run the model once on some of the pictures, by number, whose grids are the same.

        Raises:
            ForwardError: it does not run on this shape, or on several pictures.
        """
        grid = next(iter(placements.values())).grid
        _check_memory(self.model, grid, len(placements), gradients=self.gradients)
        parts = {
            number: self._taking_part(number, placement) for number, placement in placements.items()
        }
        arguments: tuple[torch.Tensor, ...] = ()
        if any(self.masks[number] is not None for number in placements):
            mask = np.stack(list(parts.values()))
            arguments = (torch.from_numpy(mask).to(self.model.device),)
        lay = self.lay or (lambda n, placement: self.model.lay(self.pictures[n], placement))
        pixels = self.model.normalised([lay(*each) for each in placements.items()])
        found = _Found(grid, parse_layers(self.layers), len(placements))
        run = self._run((pixels.requires_grad_(self.gradients), *arguments), found)
        if found.uneven:
            raise UnevenError(f"{self.model.spec} cannot take several pictures at once", pixels)
        if not run.recording:
            raise RecordingError(f"{self.model.spec} {found.instead(run.recording)}")
        unread = found.unread(run.recording)
        return {
            number: replace(
                self._seen(number, placements[number], parts[number], run, (i, len(placements))),
                unread=unread,
            )
            for i, number in enumerate(placements)
        }

    def _seen(
        self,
        number: int,
        placement: Placement,
        taking_part: NDArray[np.bool_],
        run: Run,
        part: tuple[int, int],
    ) -> Observation:
        """What concerns one picture of a run; `part` is which one, and of how many."""
        recording = run.recording
        blocks = recording.blocks if self.tokens or self.gradients else {}
        return Observation(
            self.pictures[number],
            self.model,
            placement,
            len(recording),
            {
                n: _layer(recording[n], blocks.get(n), part, placement.grid)
                for n in choose_layers(parse_layers(self.layers), len(recording))
            },
            taking_part,
            run=run if self.gradients else None,
        )

    def _taking_part(self, number: int, placement: Placement) -> NDArray[np.bool_]:
        mask = self.masks[number]
        if mask is None:
            return np.ones(placement.grid.tokens, dtype=np.bool_)
        return _unmasked(placement, mask, takes_mask=self.model.takes_mask)

    def _run(self, inputs: tuple[torch.Tensor, ...], found: "_Found") -> Run:
        """Every layer of one run of the model."""
        pixels = inputs[0]
        watching = record(
            calls=found.wanted,
            where=found,
            picture=None if self.model.plain else pixels,  # where tokens lie is measured
            gradients=self.gradients,
            blocks=self.model.module if self.tokens or self.gradients else None,
        )
        try:
            with torch.set_grad_enabled(self.gradients), watching as made:
                output = self.model.module(*inputs)
        except (AttnvizError, MemoryError):
            raise
        except (Exception, SystemExit) as error:  # why is looked into when no other shape is left
            if memory.is_exhausted(error):
                raise
            line = f"{self.model.spec}: {describe(error)}"
            raise ForwardError(line, pixels.detach()) from error
        return Run(made, inputs, output)


def _layer(
    call: AttentionCall, block: Block | None, part: tuple[int, int], grid: TokenGrid
) -> Layer:
    """One picture's part of a call, with the tokens after its block where these are its queries."""
    number, count = part
    layer = find_layer(_part(call, number, count), grid)
    if block is None or len(block.output) % count:
        return layer
    each = len(block.output) // count
    tokens = block.output.detach()[number * each : (number + 1) * each]
    return replace(layer, tokens=tokens) if tokens.shape[:2] == layer.queries.cells.shape else layer


def _part(call: AttentionCall, number: int, count: int) -> AttentionCall:
    """A picture's part of a call over `count` of them: its windows follow one another."""
    windows = len(call.query) // count
    return call if count == 1 else call.batch(slice(number * windows, (number + 1) * windows))


@dataclass
class _Found:
    """Tells the calls that are layers from those that are not, while the model runs."""

    grid: TokenGrid
    wanted: tuple[int, ...] | None
    pictures: int = 1

    def __post_init__(self) -> None:
        self._others: list[str] = []
        self.uneven = False
        """Whether a call was not the same for every picture."""

    def __call__(self, call: AttentionCall) -> bool:
        """Whether a call is a layer."""
        if not _is_even(call, self.pictures):
            self.uneven = True
            return False
        try:
            find_layer(_part(call, 0, self.pictures), self.grid)
        except Unplaced as reason:
            if str(reason) not in self._others:
                self._others.append(str(reason))
            return False
        return True

    def unread(self, recording: Recording) -> tuple[str, ...]:
        """What looked like attention and is none over the picture, the first few."""
        return tuple([*self._others, *recording.unread][:3])

    def instead(self, recording: Recording) -> str:
        """What a model did that made no attention over the picture."""
        said = self.unread(recording)
        if not said:
            return "made no attention call: it is convolutional, or its attention has no softmax"
        return f"made no attention call over the picture, but {'; '.join(said)}"


def _is_even(call: AttentionCall, pictures: int) -> bool:
    """Whether a call's batch are as many windows of each picture, one picture after the other."""
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


def _check_memory(model: Model, grid: TokenGrid, pictures: int, *, gradients: bool) -> None:
    tokens = grid.tokens * pictures
    needed = tokens * model.token_bytes * (GRAPH if gradients else 1)
    fits = math.floor(model.size * math.sqrt(memory.available(str(model.device)) / max(needed, 1)))
    advice = f"take --size {fits} or smaller"
    memory.require(needed, f"{tokens} tokens", advice, device=str(model.device))


def _unmasked(
    placement: Placement, mask: NDArray[np.bool_], *, takes_mask: bool
) -> NDArray[np.bool_]:
    if not takes_mask:
        raise UsageError("--mask: this model cannot leave tokens out; leave the option out")
    part = placement.average(mask).ravel() >= 0.5
    if not part.any():
        raise UsageError("--mask leaves no token; paint white what is to take part")
    return np.concatenate([np.ones(placement.grid.prefix, dtype=np.bool_), part])
