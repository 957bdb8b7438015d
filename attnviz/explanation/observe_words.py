"""Observes a model that answers in words: one recorded run over prompt and answer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import _disable_current_modes

from attnviz.attention import AttentionCall
from attnviz.errors import RecordingError, UsageError
from attnviz.explanation.inspection import Calls
from attnviz.explanation.lattices import Unplaced
from attnviz.explanation.layers import Layer
from attnviz.explanation.learned_queries import learned_queries
from attnviz.explanation.observation import Observation, PictureInput, Run
from attnviz.explanation.passing_back import WholeRun
from attnviz.explanation.prompting import Prompting
from attnviz.explanation.view_layouts import (
    View,
    layout_of,
    numbered_views,
    on_the_picture,
    places_of,
    views_of,
)
from attnviz.geometry.grid import Box, Layout, TokenGrid
from attnviz.geometry.placement import Placement
from attnviz.io.picture import PictureHeader, PictureLike, with_pixels
from attnviz.models.model import Model
from attnviz.models.processor_places import PictureTensor
from attnviz.models.prompts import PromptRun
from attnviz.models.transcript import Transcript
from attnviz.models.words import WordInput
from attnviz.recording import Recording, record
from attnviz.statistics.tokens import MassiveTokens, massive_tokens


def observe_words(
    picture: PictureLike,
    model: Model,
    prompting: Prompting,
    *,
    layers: str = "all",
    gradients: bool = False,
) -> Observation:
    """Ask a model, and record where the words of its answer look; see `observe`.

    The answer is generated once, not recorded. Then one recorded run goes over prompt and answer.
    Layers are the blocks that say the words; those are drawn whose queries reach the picture.
    """
    words = model.words
    if words is None:
        raise UsageError(f"{model.spec} was loaded without words; load it with head='words'")
    seen = with_pixels(picture).image()
    prompted = words.prompted(seen, prompting.prompt)
    answered = words.answered(prompted, prompting.answer, prompting.max_words)
    found = _observed(picture, model, answered, layers, gradients=gradients)
    if prompting.baseline_prompt is None:
        return found
    if gradients:
        raise UsageError("--baseline-prompt is of methods without a score; take --method attention")
    other = words.prompted(seen, prompting.baseline_prompt)
    again = words.answered(other, answered.ids, prompting.max_words)
    return replace(found, baseline=_observed(picture, model, again, layers, gradients=False))


def observe_mirrored(seen: Observation, *, gradients: bool) -> Observation:
    """The same model with the same prompt and answer before the mirrored picture.

    The answer is not generated again: its tokens are those of `seen`.
    """
    model, picture, text = seen.model, with_pixels(seen.picture), seen.text
    assert model.words is not None
    assert text is not None
    image = picture.image().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    answered = model.words.answered(
        model.words.prompted(image, text.prompt), text.ids, len(text.words)
    )
    header = PictureHeader(picture.path, picture.width, picture.height, mirrored=True)
    layers = ",".join(map(str, seen.layers))
    return _observed(header, model, answered, layers, gradients=gradients)


def _observed(
    picture: PictureLike, model: Model, answered: PromptRun, layers: str, *, gradients: bool
) -> Observation:
    """Record the run over prompt and answer."""
    words = model.words
    assert words is not None
    tensors = tuple(answered.pictures)
    answered = _with_one_picture(words, answered)
    (source,) = answered.pictures.values()
    found = record_words(words, answered, whole=gradients, gradients=gradients)
    recording, logits = found.language, found.logits
    tokens = recording[-1].shape[2] if len(recording) else answered.length
    text = words.transcript(answered, logits.detach(), tokens)
    whole = Box(0.0, 0.0, float(picture.width), float(picture.height))
    placed = [_placed(call, source, whole) for call in recording]

    def run_of(found: RecordedWords) -> Run:
        pixels = answered.arguments[source.name]
        return Run(found.language, (pixels,), found.logits, seen=found.seen(source, whole))

    def again() -> Run:
        return run_of(record_words(words, answered, whole=True, gradients=True))

    cached = {}
    if all(each.call is None for each in placed):
        run = learned_queries(words, answered, _whole_run(words, answered, whole))
        placed = [_read_by_queries(run, n, call) for n, call in enumerate(recording)]
        cached["whole"] = run
    seen = _observation(picture, model, (recording, text), placed, layers)
    seen = replace(
        seen,
        whole=lambda: _whole_run(words, answered, whole),
        gradients=cached,
        tensors=tensors,
    )
    return replace(
        seen,
        run=replace(run_of(found), again=again) if gradients else None,
        image_mass=_image_masses(placed, text),
        massive={
            number: each
            for number, each in enumerate(found.massive)
            if each is not None and placed[number].attends_to_itself
        },
    )


def _with_one_picture(words: WordInput, answered: PromptRun) -> PromptRun:
    """The run with one tensor of the picture, of several the first by which words reach places."""
    if len(answered.pictures) == 1:
        return answered
    each = [replace(answered, pictures={name: found}) for name, found in answered.pictures.items()]
    for one in each:
        if any(_reaches(call) for call in record_words(words, one).language):
            return one
    return each[0]


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


def _whole_run(words: WordInput, answered: PromptRun, whole: Box) -> WholeRun:
    """The run once more, with all calls, and with a graph that says which depends on which."""
    (source,) = answered.pictures.values()
    nothing = torch.empty(0)
    with torch.autograd.graph.saved_tensors_hooks(lambda _: None, lambda _: nothing):
        found = record_words(words, answered, whole=True, gradients=True)
    return WholeRun(found.recording, found.logits, found.numbers, source, whole)


def _image_masses(placed: Sequence["_Placed"], text: Transcript) -> dict[int, float]:
    """The share of attention on the picture of each drawn layer, mean over heads and words."""
    if not text.words:
        return {}
    found = {}
    for number, each in enumerate(placed):
        if each.call is None or each.keys is None:
            continue
        on_picture = torch.from_numpy(each.keys.on_picture[0])
        shares = []
        for word in text.words:
            rows = each.call.rows([token - 1 for token in word.tokens])[0]  # (heads, tokens, keys)
            shares.append(rows[..., on_picture.to(rows.device)].double().sum(-1).mean())
        found[number] = float(torch.stack(shares).mean())
    return found


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
        if _reaches(call) and not self._reached:
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
        if at not in found or _reaches(call):
            found[at] = number
    return list(found.values())


def _reaches(call: AttentionCall) -> bool:
    """Whether a call's keys lie on the picture."""
    positions = call.key_positions
    return positions is not None and bool(positions.isfinite().any())


@dataclass(frozen=True, eq=False)
class _Placed:
    """A call with its layouts; `reason` says why it is not drawn."""

    call: AttentionCall | None = None
    queries: Layout | None = None
    keys: Layout | None = None
    views: Sequence[View] = ()
    reason: str | None = None

    @property
    def attends_to_itself(self) -> bool:
        """Whether its keys are its queries, and not tokens of an encoder."""
        if self.queries is None or self.keys is None:
            return False
        return np.array_equal(self.queries.cells, self.keys.cells)


def _placed(call: AttentionCall, source: PictureTensor, whole: Box) -> _Placed:
    """The layouts of a call."""
    if not _reaches(call):
        return _Placed(reason="its words do not attend to tokens of the picture")
    try:
        keys = views_of(*places_of(call, "key", source), source, whole)
        queries = views_of(*places_of(call, "query", source), source, whole)
    except Unplaced as reason:
        return _Placed(reason=str(reason))
    if not keys:
        return _Placed(reason="its words do not attend to tokens of the picture")
    return _Placed(call, layout_of(queries, call.shape[2]), layout_of(keys, call.shape[3]), keys)


def _read_by_queries(run: WholeRun, layer: int, call: AttentionCall) -> _Placed:
    """The layouts of a call some of whose keys are learned queries that read the picture."""
    keys = run.through_learned(layer)
    if keys is None:
        return _Placed(reason="its words do not attend to what reads the picture")
    views = [View(np.asarray(keys.on_picture[0]), keys)]
    itself = call.shape[2] == call.shape[3]
    return _Placed(call, keys if itself else layout_of([], call.shape[2]), keys, views)


def _observation(
    picture: PictureLike,
    model: Model,
    run: tuple[Recording, Any],
    placed: Sequence[_Placed],
    layers: str,
) -> Observation:
    recording, text = run
    not_drawn = {n: each.reason for n, each in enumerate(placed) if each.reason is not None}
    calls = Calls(len(placed), not_drawn, {})
    if not calls.drawn:
        why = next(iter(not_drawn.values()), "no attention call was seen in it")
        raise RecordingError(
            f"{model.spec}: no word looks at the picture ({why}), nor at learned queries that read "
            "it; take --method attnlrp, or leave --prompt out to see what its image encoder does"
        )
    kept = {}
    for number in calls.choose(layers):
        each = placed[number]
        assert each.call is not None
        assert each.queries is not None
        assert each.keys is not None
        kept[number] = Layer(each.call, each.queries, each.keys)
    first = placed[calls.drawn[0]]
    assert first.keys is not None
    grid = TokenGrid(first.keys.rows, first.keys.columns, first.keys.stride or 1)
    whole = Box(0.0, 0.0, float(picture.width), float(picture.height))
    views, of_layers = numbered_views({n: placed[n].views for n in calls.drawn})
    return Observation(
        picture,
        model,
        Placement(picture.width, picture.height, whole, whole, grid),
        calls,
        kept,
        np.ones(grid.tokens, dtype=np.bool_),
        unread=tuple(recording.unread),
        text=text,
        views=views,
        views_of_layers=of_layers,
    )
