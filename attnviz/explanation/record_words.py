"""Records a model that answers in words: one run over prompt and answer, and its calls by part."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import _disable_current_modes

from attnviz.attention import AttentionCall
from attnviz.explanation.lattices import Unplaced
from attnviz.explanation.observation import PictureInput
from attnviz.explanation.view_layouts import (
    layout_of,
    on_the_picture,
    views_of,
)
from attnviz.geometry.grid import Box
from attnviz.models.processor_places import PictureTensor
from attnviz.models.prompts import PromptRun
from attnviz.models.words import WordInput
from attnviz.recording import Recording, record
from attnviz.statistics.tokens import MassiveTokens, massive_tokens


@dataclass(frozen=True, eq=False)
class RecordedWords:
    """A recorded run over prompt and answer.

    Attributes:
        recording: the recorded calls.
        logits: the logits, with their graph if there are gradients.
        numbers: of the calls of the language model, one for each of its blocks.
        entered: what entered the block of the first call that reaches the picture.
        massive: for each of these calls the massive tokens before its block, if it had them.
    """

    recording: Recording
    logits: torch.Tensor
    numbers: list[int]
    entered: "_Entered | None" = None
    massive: Sequence[MassiveTokens | None] = ()

    @property
    def language(self) -> Recording:
        """The calls of the language model."""
        return self.recording.choose(self.numbers) if len(self.recording) else self.recording

    def seen(self, source: PictureTensor, whole: Box) -> PictureInput:
        """Where the picture enters the model."""
        if self.entered is None or self.entered.tokens._version != self.entered.version:  # noqa: SLF001
            return PictureInput(source)
        places = self.entered.places.reshape(-1, 2).double().cpu().numpy()
        places = np.where(np.isfinite(places).all(-1, keepdims=True), places, np.nan)
        pictures = self.entered.pictures
        tiles = (
            np.zeros(len(places)) if pictures is None else pictures.flatten().double().cpu().numpy()
        )
        try:
            views = views_of(on_the_picture(places, tiles, source), tiles, source, whole)
        except Unplaced:
            return PictureInput(source)
        if not views:
            return PictureInput(source)
        return PictureInput(source, self.entered.tokens, layout_of(views, len(places)))


def record_words(
    words: WordInput, answered: PromptRun, *, whole: bool = False, gradients: bool = False
) -> RecordedWords:
    """Record the run over prompt and answer; positions start at the tensor of the picture.

    The language model ends the model. With `whole` the calls of all other parts are kept, too.
    """
    (source,) = answered.pictures.values()
    tensor, places = answered.arguments[source.name], source.places
    tensor.requires_grad_(gradients)
    blocks = _BlockNumbers(words.module, answered.length - len(answered.placeholders))
    recorded = record(
        picture=tensor,
        time=source.dim,
        places=None if places is None else places.to(tensor.device),
        where=(lambda call: blocks.counts(call) or True) if whole else blocks.counts,
        gradients=gradients,
    )
    with (
        torch.set_grad_enabled(gradients),
        recorded as recording,
        blocks.watching(recording if gradients else None),
    ):
        logits = words.run(answered)
    if not len(recording):
        return RecordedWords(recording, logits, [])
    numbers = _language_calls(recording, blocks)
    massive = [blocks.massive.get(blocks.block(recording[number])) for number in numbers]
    return RecordedWords(recording, logits, numbers, blocks.entered, massive)


@dataclass(eq=False)
class _Entered:
    """What entered a block of the model.

    Attributes:
        order: how many blocks were entered before.
        tokens: the tokens, with their graph.
        places, pictures: their places (…, 2), and numbers of their pictures if there are several.
        version: counts what was written into the tokens before.
        reaches: whether the first call that reaches the picture is one of the block.
    """

    order: int
    tokens: torch.Tensor
    places: torch.Tensor
    pictures: torch.Tensor | None
    version: int
    reaches: bool = False


@dataclass(eq=False)
class _BlockNumbers:
    """Numbers the blocks of the language model while it runs, by the calls that they make.

    Attributes:
        module: the model.
        text: number of text tokens: at least so many queries of a call lie nowhere.
        entered: the tokens that entered the block of the first call that reaches the picture.
        massive: the tokens with massive activations that enter each block, by its identity.
    """

    module: nn.Module
    text: int
    entered: _Entered | None = None
    massive: dict[int | None, MassiveTokens] = field(default_factory=dict)
    _open: list[nn.Module] = field(default_factory=list)
    _of_calls: dict[tuple[int, int], int] = field(default_factory=dict)
    _entering: list[_Entered | None] = field(default_factory=list)
    _order: int = 0
    _reached: bool = False

    @contextmanager
    def watching(self, recording: Recording | None) -> Iterator[None]:
        """Watch which elements of the model's lists of modules run.

        With a recording, the tokens that enter them are noted, too.
        """
        lists = (part for part in self.module.modules() if isinstance(part, nn.ModuleList))
        elements = {element for each in lists for element in each}

        def entered(module: nn.Module, given: tuple[Any, ...]) -> None:
            if module not in elements:
                return
            tokens = given[0] if given else None
            if not self._open and isinstance(tokens, Tensor) and tokens.ndim == 3:
                with _disable_current_modes():  # the recording does not look at this
                    self.massive[id(module)] = massive_tokens(tokens[0])
            self._open.append(module)

        def returned(module: nn.Module, _: Any, __: Any) -> None:
            if module in elements and self._open:
                self._open.pop()

        hooks = [
            register_module_forward_pre_hook(entered),
            register_module_forward_hook(returned),
        ]
        if recording is not None:
            stacks = [p for p in self.module.modules() if isinstance(p, nn.Sequential)]
            hooks += self._watch_tokens(
                {*elements, *(each for s in stacks for each in s)}, recording
            )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _watch_tokens(self, elements: set[nn.Module], recording: Recording) -> list[Any]:
        """Note the tokens that enter each of some modules, with their places."""

        def entered(_: nn.Module, given: Any, named: Mapping[str, Any]) -> None:
            found = None
            each = (x for x in (*given, *named.values()) if isinstance(x, torch.Tensor))
            tokens = next((x for x in each if x.is_floating_point()), None)
            wanted = self.entered is None and tokens is not None
            if tokens is not None and wanted and tokens.ndim in (2, 3) and tokens.requires_grad:
                places = recording.places_of(tokens)
                if places is not None and bool(places[0].isfinite().any()):
                    version = tokens._version  # noqa: SLF001 — autograd's own count of writes
                    found = _Entered(self._order, tokens, *places, version)
                    self._order += 1
            self._entering.append(found)

        def returned(_: nn.Module, __: Any, ___: Any) -> None:
            found = self._entering.pop()
            first = found is not None and (self.entered is None or found.order < self.entered.order)
            if found is not None and found.reaches and first:
                self.entered = found

        hooks: list[Any] = [
            part.register_forward_pre_hook(entered, with_kwargs=True) for part in elements
        ]
        return hooks + [part.register_forward_hook(returned) for part in elements]

    def counts(self, call: AttentionCall) -> bool:
        """Whether a call may be one of the language model: enough queries lie nowhere.

        The recording asks this while the block runs that makes the call.
        """
        if self._open:
            self._of_calls[_memory(call)] = id(self._open[0])
        if reaches(call) and not self._reached:
            self._reached = True
            for each in self._entering:
                if each is not None:
                    each.reaches = True
        return self.counted(call)

    def counted(self, call: AttentionCall) -> bool:
        """The same of a call that was recorded."""
        if call.shape[0] != 1 or call.shape[2] < self.text:
            return False
        positions = call.query_positions
        if positions is None:
            return True
        return int((~positions[0].isfinite().all(-1)).sum()) >= self.text

    def block(self, call: AttentionCall) -> int | None:
        """The identity of the block that made a recorded call; None outside of any block."""
        return self._of_calls.get(_memory(call))


def _memory(call: AttentionCall) -> tuple[int, int]:
    """Where queries and keys of a call lie in memory, which tells calls apart."""
    return call.query.data_ptr(), call.key.data_ptr()


def _language_calls(recording: Recording, blocks: _BlockNumbers) -> list[int]:
    """Numbers of the calls of the language model, one for each of its blocks.

    It ends the model. Of several calls of a block, the one counts whose keys lie on the picture.
    """
    counted = [number for number, call in enumerate(recording) if blocks.counted(call)]
    found: dict[Any, int] = {}
    for number in counted:
        call = recording[number]
        if call.shape[2] != recording[counted[-1]].shape[2]:
            continue
        block = blocks.block(call)
        at = number if block is None else block
        if at not in found or reaches(call):
            found[at] = number
    return list(found.values())


def reaches(call: AttentionCall) -> bool:
    """Whether a call's keys lie on the picture."""
    positions = call.key_positions
    return positions is not None and bool(positions.isfinite().any())
