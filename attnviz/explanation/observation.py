"""An observation: a picture as a model saw it, with the recorded attention calls."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz.attention.layer_input import LayerInput
from attnviz.attention.sweep_together import to_host
from attnviz.errors import UsageError
from attnviz.explanation.inspection import Calls
from attnviz.explanation.layers import Layer
from attnviz.explanation.object_regions import ObjectRegion, region_of
from attnviz.explanation.view_layouts import View
from attnviz.geometry.detections import DetectedObject
from attnviz.geometry.grid import Box, Layout, TokenGrid
from attnviz.geometry.placement import Placement
from attnviz.geometry.queries import Query
from attnviz.io.clip_frames import ClipFrames
from attnviz.io.picture import PictureLike
from attnviz.models.model import Model
from attnviz.models.predictions import Predictions
from attnviz.models.processor_places import PictureTensor
from attnviz.models.transcript import Transcript
from attnviz.recording import Recording
from attnviz.recording.recorded import call_table
from attnviz.statistics import More
from attnviz.statistics.tokens import MassiveTokens


@dataclass(frozen=True, eq=False)
class PictureInput:
    """Where the picture enters a model with words.

    Attributes:
        source: where the model's tensor of the picture lies in the picture.
        tokens: what enters the first block of the encoder, (…, features), with its graph; None if
            it is not known.
        layout: the cells of these tokens, (1, tokens), in picture pixels.
    """

    source: PictureTensor
    tokens: torch.Tensor | None = None
    layout: Layout | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """What a run keeps so that gradients can be taken.

    Attributes:
        recording: the recorded calls, with the way back from a score to each of them.
        inputs: the inputs of the model.
        output: the output of the model, with the graph of its operations.
        predictions: what a detector or segmenter predicts for its object queries; None for other
            models.
        again: runs the model once more in the same way; None if it cannot.
        seen: where the picture enters a model with words; None for other models.
    """

    recording: Recording
    inputs: tuple[torch.Tensor, ...]
    output: Any
    predictions: Predictions | None = None
    again: Callable[[], "Run"] | None = None
    seen: PictureInput | None = None


@dataclass(frozen=True, eq=False)
class Observation:
    """A picture as a model saw it, with its attention calls; `explain` can use it many times.

    >>> observation.count, list(observation.layers)[-1]
    (6, 5)
    >>> observation.errors[5] < 1e-5                           # how far A·V is from the model's own
    True

    Attributes:
        picture, model: the picture, and the model that ran on it.
        placement: how the picture lies in the input, on the model's own grid.
        calls: all attention calls of the model, which of them are drawn, and why others are not.
        layers: the kept layers by their number in call order.
        taking_part: (prefix + rows·columns,) boolean, False for masked tokens.
        unread: operations that look like attention but could not be recorded, in words.
        run: what is needed for gradients; None if the model ran without them.
        gradients, numbers, more: cached results, so that each is computed once.
        inputs: layer inputs by layer and queries, swept together with those of other pictures.
        checked: errors of the self-check, kept if their tensors are released.
        channels: channels of the input that the model was given.
        suggested: layer and head of the most localized heads, which sheets mark; empty unless
            they were looked for.
        clip: the frames, if the model saw a clip; `picture` is then the first of them.
        text: prompt and answer, of a model that answers in words.
        views: of such a model the views of the picture that its words attend to in any layer.
        views_of_layers: those of each drawn layer, with its own tokens, by their numbers in
            `views`.
        image_mass: of such a model the share of attention on the picture of each drawn layer, mean
            over heads and words of the answer.
        massive: of such a model the tokens with massive activations before each layer.
        baseline: the same answer after another prompt, by whose maps those of this are divided.
        objects: what a detector or segmenter predicts for each of its object queries, by number.
        object_masks: (objects, h, w) logits of the masks of a segmenter; they span the input.
        pixels: the model's input for this picture; None if it was asked in words.
        whole: runs a model with words once more, with the calls of all of its parts.
        tensors: names of the tensors of the picture that a model with words takes.
    """

    picture: PictureLike
    model: Model
    placement: Placement
    calls: Calls
    layers: Mapping[int, Layer]
    taking_part: NDArray[np.bool_]
    unread: tuple[str, ...] = ()
    run: Run | None = None
    gradients: dict[Any, Any] = field(default_factory=dict, repr=False)
    numbers: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict, repr=False)
    more: dict[int, More] = field(default_factory=dict, repr=False)
    inputs: dict[tuple[int, tuple[Query, ...]], LayerInput] = field(
        default_factory=dict, repr=False
    )
    checked: Mapping[int, float] | None = None
    channels: int = 3
    suggested: tuple[tuple[int, int], ...] = ()
    clip: ClipFrames | None = None
    text: Transcript | None = None
    views: tuple[View, ...] = ()
    views_of_layers: Mapping[int, Mapping[int, View]] = field(default_factory=dict, repr=False)
    image_mass: Mapping[int, float] = field(default_factory=dict)
    massive: Mapping[int, MassiveTokens] = field(default_factory=dict, repr=False)
    baseline: "Observation | None" = None
    objects: tuple[DetectedObject, ...] = ()
    object_masks: torch.Tensor | None = None
    pixels: torch.Tensor | None = field(default=None, repr=False)
    whole: Callable[[], Any] | None = field(default=None, repr=False)
    tensors: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of the model's attention calls, including those that are not drawn."""
        return self.calls.count

    @property
    def learned_queries(self) -> int:
        """How many learned queries the words see the picture through; 0 if they see its tokens."""
        return max((layer.keys.learned for layer in self.layers.values()), default=0)

    def whole_run(self) -> Any:
        """The `WholeRun` of a model with words, made once.

        Raises:
            UsageError: it cannot run again.
        """
        if "whole" not in self.gradients:
            if self.whole is None:
                raise UsageError("the model cannot be run again; take --method attention")
            self.gradients["whole"] = self.whole()
        return self.gradients["whole"]

    @property
    def image_layer(self) -> int | None:
        """The layer that looks at the picture most while it says the words.

        None if no layer stands out, as where all words look across to an encoder.
        """
        masses = self.image_mass
        if not masses or max(masses.values()) - min(masses.values()) < 1e-4:
            return None
        return max(masses, key=lambda number: masses[number])

    @property
    def assumed(self) -> Mapping[int, str]:
        """Layers whose tokens' places are assumed and not measured, each with the reason."""
        found = {number: layer.assumed for number, layer in self.layers.items()}
        return {number: reason for number, reason in found.items() if reason is not None}

    def __repr__(self) -> str:
        grid = self.placement.grid
        return (
            f"Observation({self.picture.name} as {self.model.spec} sees it: {self.count} layers, "
            f"{grid.columns}x{grid.rows} {self.model.tokens})"
        )

    def _repr_html_(self) -> str:
        """A row for each layer, for notebooks."""
        calls = {number: layer.call for number, layer in self.layers.items()}
        return call_table(repr(self), "layer", calls, self.errors)

    def require(self, numbers: Sequence[int]) -> None:
        """Check that these layers were kept.

        Raises:
            UsageError: a layer was not kept.
        """
        missing = [str(number) for number in numbers if number not in self.layers]
        if missing:
            raise UsageError(
                f"layer {', '.join(missing)} was not kept when the model ran; observe it with "
                "layers='all'"
            )

    @cached_property
    def recording(self) -> Recording:
        """The recorded attention calls."""
        return Recording([layer.call for layer in self.layers.values()])

    def placed(self, layout: Layout) -> Placement:
        """How the picture lies on the cells of a layout."""
        grid, target = self.placement.grid, self.placement.target
        filling = grid.input_height / layout.rows, grid.input_width / layout.columns
        height, width = (
            int(side) if side == int(side) else side for side in layout.stride or filling
        )
        cell = height if height == width else (height, width)
        cells = TokenGrid(layout.rows, layout.columns, cell, layout.outside)
        x, y = layout.left, layout.top
        shifted = Box(target.left - x, target.top - y, target.right - x, target.bottom - y)
        return replace(self.placement, grid=cells, target=shifted)

    def tokens_taking_part(self, layout: Layout) -> NDArray[np.bool_]:
        """Tokens of a layout that are not masked, (windows, tokens); a cell's middle decides."""
        grid = self.placement.grid
        rows = (2 * np.arange(layout.rows) + 1) * grid.rows // (2 * layout.rows)
        columns = (2 * np.arange(layout.columns) + 1) * grid.columns // (2 * layout.columns)
        part = self.taking_part[grid.prefix :].reshape(grid.rows, grid.columns)
        of_cells = np.tile(part[np.ix_(rows, columns)].ravel(), layout.views)
        return layout.of_tokens(of_cells, np.True_)

    def drawn_on(self, layout: Layout) -> NDArray[np.bool_]:
        """Cells that touch the picture and have a token that takes part, (views, rows, columns).

        A picture is one view.
        """
        placement = self.placed(layout)
        size = placement.picture_width, placement.picture_height
        part = (layout.count(self.tokens_taking_part(layout)) > 0) | layout.points
        drawn: NDArray[np.bool_] = placement.coverage(0, 0, *size) > 0
        return drawn & part.reshape(layout.views, *drawn.shape)

    @cached_property
    def drawn(self) -> NDArray[np.bool_]:
        """Tokens of the model's own grid that take part and touch the picture, (rows, columns)."""
        drawn: NDArray[np.bool_] = self.drawn_on(Layout.whole(self.placement.grid))[0]
        return drawn

    def view_at(self, layout: Layout, seconds: float | None) -> int | None:
        """The view of a clip's layout at a time; None without a time, or for a picture.

        Raises:
            UsageError: the clip does not last so long.
        """
        if seconds is None or self.clip is None:
            return None
        frame = self.clip.frame_at(seconds)
        return int(np.abs(np.array(layout.moments) - frame).argmin())

    def shows(self, seconds: float | None) -> bool:
        """Whether `picture` is the frame that is shown at a time of the clip; True without one."""
        if seconds is None or self.clip is None:
            return True
        return self.picture is self.clip.frames[self.clip.frame_at(seconds)].picture

    def frames_of(self, layout: Layout) -> list[tuple[int, ...]]:
        """The frames of each view of a layout, by their numbers among those that the model saw.

        A frame belongs to the view whose middle is nearest. A picture's only view has none.
        """
        if self.clip is None:
            return [()]
        found: list[tuple[int, ...]] = [()] * layout.views
        moments = np.array(layout.moments or (0.0,))
        for frame in range(len(self.clip.frames)):
            view = int(np.abs(moments - frame).argmin())
            found[view] = *found[view], frame
        return found

    def region(self, found: DetectedObject) -> ObjectRegion:
        """Where an object lies on the picture."""
        return region_of(found, self.placement, self.object_masks)

    @property
    def masked(self) -> int:
        """Number of masked tokens."""
        return int((~self.taking_part).sum())

    @cached_property
    def errors(self) -> Mapping[int, float]:
        """Error of the self-check of each kept layer; see `AttentionCall.check`."""
        if self.checked is not None:
            return self.checked
        errors = [layer.call.check_error() for layer in self.layers.values()]
        found = to_host([torch.tensor(math.inf) if each is None else each for each in errors])
        values = (each.item() for each in found)
        return {
            n: math.inf if math.isnan(e) else e for n, e in zip(self.layers, values, strict=True)
        }

    def without_run(self) -> "Observation":
        """The observation without tensors: it can be drawn and reported, not explained again."""
        return replace(
            self,
            layers={n: layer.without_tensors() for n, layer in self.layers.items()},
            run=None,
            pixels=None,
            whole=None,
            baseline=None if self.baseline is None else self.baseline.without_run(),
            gradients={},
            numbers={},
            more={},
            inputs={},
            checked=self.errors,
        )

    @property
    def unexplained(self) -> tuple[int, ...]:
        """Layers whose recorded weights do not explain the model's output.

        The limit is 1e-3 for a call in float32 and 1e-2 in half precision.
        """
        return tuple(number for number, error in self.errors.items() if error > self._limit(number))

    def _limit(self, number: int) -> float:
        return 1e-3 if self.layers[number].call.query.dtype == torch.float32 else 1e-2
