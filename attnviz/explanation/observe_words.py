"""Observes a model that answers in words: one recorded run over prompt and answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from attnviz.attention import AttentionCall
from attnviz.errors import RecordingError, UsageError
from attnviz.explanation.inspection import Calls
from attnviz.explanation.lattices import Unplaced
from attnviz.explanation.layers import Layer
from attnviz.explanation.learned_queries import learned_queries
from attnviz.explanation.observation import Observation, Run
from attnviz.explanation.passing_back import WholeRun
from attnviz.explanation.prompting import Prompting
from attnviz.explanation.record_words import RecordedWords, reaches, record_words
from attnviz.explanation.view_layouts import (
    View,
    layout_of,
    numbered_views,
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
from attnviz.recording import Recording


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
        if any(reaches(call) for call in record_words(words, one).language):
            return one
    return each[0]


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
    if not reaches(call):
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
