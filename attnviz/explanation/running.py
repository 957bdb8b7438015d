"""The expensive step: lays pictures into an input that fits, and runs the model once, recorded."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz.errors import AttnvizError, UsageError
from attnviz.explanation.class_token import class_token_rank
from attnviz.explanation.forward_errors import (
    ForwardError,
    explain,
    out_of_memory,
    refused_size,
)
from attnviz.explanation.inspection import Calls, part_of, place_layer
from attnviz.explanation.layers import Layer
from attnviz.explanation.object_queries import first_objects, objects_of, with_objects
from attnviz.explanation.observation import Observation, Run
from attnviz.explanation.observe_words import observe_words
from attnviz.explanation.prompting import MAX_WORDS, Prompting
from attnviz.explanation.recorded_run import RunRequest, run_recorded
from attnviz.explanation.shapes_to_try import placements
from attnviz.explanation.trials import with_clips
from attnviz.geometry.grid import TokenGrid
from attnviz.geometry.placement import Fit, Placement
from attnviz.io.clip_frames import ClipFrames
from attnviz.io.picture import Picture, PictureLike
from attnviz.models import memory
from attnviz.models.model import LaidPicture, Model
from attnviz.recording import Block


def observe(
    picture: Picture | ClipFrames,
    model: Model,
    *,
    fit: Fit = "keep",
    mask: NDArray[np.bool_] | None = None,
    layers: str = "all",
    gradients: bool = False,
    tokens: bool = False,
    prompt: str | None = None,
    answer: str | None = None,
    max_words: int = MAX_WORDS,
    baseline_prompt: str | None = None,
) -> Observation:
    """Run a model once on a picture and record its attention.

    >>> observe(picture, model)
    Observation(cat.jpg as tiny sees it: 6 layers, 22x15 patches)

    Args:
        picture: result of `load_image`; for a model of clips, of `load_clip`.
        model: result of `load_model`.
        fit: how the picture is laid into the input: keep, crop, pad or squash.
        mask: (height, width), False where the picture takes no part, as key or as query. A token
            is masked when less than half of it is True; padding counts as False.
        layers: layers to keep for `explain`: `-1`, `all`, `0,5-11`.
        gradients: keep the graph of the run, so that methods can take the gradient of a score.
        tokens: keep the tokens after each layer's block too.
        prompt: the question, for a model that was loaded with `head="words"`.
        answer: an answer to look at; by default the model generates one, greedily.
        max_words: the most words of the answer.
        baseline_prompt: another prompt: maps are divided by those of the same words there.

    Raises:
        UsageError: the mask leaves no token, the model takes no mask, or it has no such layer.
        MemoryLimitError: so many tokens do not fit into memory; the run did not begin.
        ModelError: the model does not run on the picture; the line says why.
        RecordingError: the model made no attention call that can be drawn.
    """
    if model.words is not None or prompt is not None:
        return _observe_words(
            picture, model, Prompting(prompt or "", answer, max_words, baseline_prompt),
            (layers, gradients), fitted=fit != "keep" or mask is not None,
        )  # fmt: skip
    clip = picture if isinstance(picture, ClipFrames) else None
    first = picture.frames[0].picture if isinstance(picture, ClipFrames) else picture
    model = model if clip is None else with_clips(model, len(clip.frames))
    inputs = ModelInputs(
        (first,), model, fit=fit, masks=(mask,), layers=layers, gradients=gradients, tokens=tokens,
        clip=clip,
    )  # fmt: skip
    return inputs.alone(0)


def _observe_words(
    picture: Picture | ClipFrames,
    model: Model,
    prompting: Prompting,
    keep: tuple[str, bool],
    *,
    fitted: bool,
) -> Observation:
    """Observe a model that answers in words; `fitted` says whether --fit or --mask is given."""
    layers, gradients = keep
    if fitted:
        raise UsageError(
            "with a prompt the model's own processor fits the picture; leave --fit and --mask out"
        )
    if isinstance(picture, ClipFrames):
        raise UsageError("a prompt is about one picture; give a picture, or leave --prompt out")
    return observe_words(picture, model, prompting, layers=layers, gradients=gradients)


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """Pictures for a model, and how to run it on them.

    Attributes:
        fit, layers, gradients, tokens: as for `observe`.
        masks: for each picture its mask, or None.
        lay: a function from a picture's number and a placement to the laid picture; see
            `Model.lay`.
        tensor: (pictures, channels, height, width), inputs to use as they are; else the pictures
            are laid in and normalised.
        clip: the frames of a clip, whose first is the only one of `pictures`.
        taking_part: which tokens take part, of one picture, in the place of a mask.
    """

    pictures: Sequence[PictureLike] = field(kw_only=False)
    model: Model = field(kw_only=False)
    fit: Fit
    masks: Sequence[NDArray[np.bool_] | None]
    layers: str
    gradients: bool
    tokens: bool
    lay: Callable[[int, Placement], LaidPicture] | None = None
    tensor: torch.Tensor | None = None
    clip: ClipFrames | None = None
    taking_part: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        wanted = None if self.model.clip is None else self.model.clip.frames
        given = None if self.clip is None else len(self.clip.frames)
        if wanted != given:
            raise UsageError(_other_input(self.model.spec, wanted, given))

    def alone(self, number: int) -> Observation:
        """Run the model on one picture; if it refuses the input shape, try other shapes.

        Raises:
            UsageError: it takes another size than the requested one.
            ModelError: it runs on no shape; the line says why.
        """
        model, failures = self.model, list[ForwardError]()
        for placement, only_shape in placements(model, self.pictures[number], self.fit, failures):
            try:
                observation = self.at_once({number: placement})[number]
            except ForwardError as error:
                failures.append(error)
                continue
            except Exception as error:
                if isinstance(error, AttnvizError) or not memory.is_exhausted(error):
                    raise
                raise out_of_memory(model, placement.grid) from error
            if model.size_given and not only_shape:
                raise refused_size(model, placement.grid)
            return observation
        raise explain(model, failures, gradients=self.gradients) from failures[0].error

    def at_once(self, placements: Mapping[int, Placement]) -> dict[int, Observation]:
        """Run the model once on some of the pictures, by number; their grids are the same.

        Raises:
            ForwardError: it does not run on this shape, or on several pictures.
        """
        grid = next(iter(placements.values())).grid
        together = len(placements) * (1 if self.clip is None else len(self.clip.frames))
        _check_memory(self.model, grid, together, gradients=self.gradients)
        parts = {
            number: self._taking_part(number, placement) for number, placement in placements.items()
        }
        arguments: tuple[torch.Tensor, ...] = ()
        masked = any(self.masks[number] is not None for number in placements)
        if masked or self.taking_part is not None:
            mask = np.stack(list(parts.values()))
            arguments = (torch.from_numpy(mask).to(self.model.device),)
        pixels = self._pixels(placements)
        request = RunRequest(
            model=self.model,
            inputs=(pixels.requires_grad_(self.gradients), *arguments),
            grid=grid,
            layers=self.layers,
            gradients=self.gradients,
            blocks=self.tokens or self.gradients,
            pictures=len(placements),
        )
        run, calls = run_recorded(request)
        observations = {
            number: self._observation(
                placement, parts[number], number, run, calls, (i, len(placements))
            )
            for i, (number, placement) in enumerate(placements.items())
        }
        return {
            number: _with_objects(_with_class_token(each, request), run, i, request)
            for i, (number, each) in enumerate(observations.items())
        }

    def _pixels(self, placements: Mapping[int, Placement]) -> torch.Tensor:
        """The model's input for some of the pictures, (pictures, channels, height, width)."""
        if self.tensor is not None:
            return self.tensor[list(placements)]
        if self.clip is not None:
            (placement,) = placements.values()
            each = [self.model.lay(frame.picture, placement) for frame in self.clip.frames]
            return self.model.normalised([np.stack(each)])
        lay = self.lay or (lambda n, placement: self.model.lay(self.pictures[n], placement))
        return self.model.normalised([lay(*each) for each in placements.items()])

    def _observation(  # noqa: PLR0917
        self,
        placement: Placement,
        taking_part: NDArray[np.bool_],
        number: int,
        run: Run,
        calls: Calls,
        part: tuple[int, int],
    ) -> Observation:
        """The observation of one picture of a run; `part` is its number and how many there are."""
        recording = run.recording
        blocks = recording.blocks if self.tokens or self.gradients else {}
        layers = {}
        for n in calls.choose(self.layers):
            call, merged = part_of(recording[n], *part), calls.merged.get(n)
            layer = place_layer(
                call, placement.grid, recording.operators, calls.assumed.get(n),
                None if merged is None else merged[part[0]], plain=self.model.plain,
            )  # fmt: skip
            layers[n] = _with_tokens(layer, blocks.get(n), part)
        return Observation(
            self.pictures[number],
            self.model,
            placement,
            calls,
            layers,
            taking_part,
            unread=tuple(recording.unread),
            run=run if self.gradients else None,
            channels=self.model.channels if self.clip else run.inputs[0].shape[1],
            pixels=_part(run.inputs[0], *part),
            clip=self.clip,
        )

    def _taking_part(self, number: int, placement: Placement) -> NDArray[np.bool_]:
        mask = self.masks[number]
        if self.taking_part is not None:
            return self.taking_part
        if mask is None:
            return np.ones(placement.grid.tokens, dtype=np.bool_)
        return _unmasked(placement, mask, takes_mask=self.model.takes_mask)


def _other_input(spec: str, wanted: int | None, given: int | None) -> str:
    """The error for a clip where pictures are wanted, or for another number of frames."""
    if wanted is None:
        return f"{spec} takes pictures, not clips; it sees each frame alone: leave --frames out"
    if given is None:
        return f"{spec} takes clips of {wanted} frames; give `attnviz video CLIP -m {spec}`"
    return f"--frames: {spec} takes {wanted} frames, and {given} were chosen; give ::{wanted}"


def _with_class_token(observation: Observation, request: RunRequest) -> Observation:
    """The observation, whose layers know which token beside the grid is the class token."""
    layers, drawn = observation.layers, observation.calls.drawn
    ranks = {
        number: class_token_rank(request.model, request.inputs, number, layer, drawn)
        for number, layer in layers.items()
    }
    if not any(ranks.values()):
        return observation
    ranked = {n: replace(layer, class_rank=ranks[n]) for n, layer in layers.items()}
    return replace(observation, layers=ranked)


def _with_objects(
    observation: Observation, run: Run, picture: int, request: RunRequest
) -> Observation:
    """The observation of one picture of a run with the objects that the model predicts for it."""
    predictions = run.predictions
    if predictions is None or len(predictions.scores) != request.pictures:
        return observation
    layers = dict(observation.layers)
    first = first_objects(request.model, request.inputs, layers, predictions.count)
    return replace(
        observation,
        layers={
            n: with_objects(each, predictions.count, first.get(n)) for n, each in layers.items()
        },
        objects=objects_of(predictions, picture, observation.placement.grid),
        object_masks=None if predictions.masks is None else predictions.masks[picture],
    )


def _with_tokens(layer: Layer, block: Block | None, part: tuple[int, int]) -> Layer:
    """A layer with the tokens after its block, if these correspond to its queries."""
    number, count = part
    if block is None or len(block.output) % count:
        return layer
    each = len(block.output) // count
    tokens = block.output.detach()[number * each : (number + 1) * each]
    return replace(layer, tokens=tokens) if tokens.shape[:2] == layer.queries.cells.shape else layer


def _part(pixels: torch.Tensor, number: int, count: int) -> torch.Tensor:
    """The input of one of `count` pictures."""
    each = len(pixels) // count
    return pixels.detach()[number * each : (number + 1) * each]


def _check_memory(model: Model, grid: TokenGrid, pictures: int, *, gradients: bool) -> None:
    tokens = grid.tokens * pictures
    needed = tokens * model.token_bytes * (memory.GRAPH if gradients else 1)
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
