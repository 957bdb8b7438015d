"""The result of `explain`: maps, the numbers of their heads, and their names in words and files."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import UsageError
from attnviz.explanation.object_regions import ObjectRegion
from attnviz.explanation.observation import Observation
from attnviz.explanation.smoothing import Smoothing
from attnviz.geometry.placement import Placement
from attnviz.geometry.queries import Query
from attnviz.geometry.tiling import TilePlan
from attnviz.models.scoring import Scored
from attnviz.registry import load
from attnviz.statistics import More
from attnviz.statistics.tokens import HighNorm


@dataclass(frozen=True)
class SampledPoint:
    """A point that a query of deformable attention looks at.

    Attributes:
        x, y: where it lies, in pixels of the model's input.
        level: number of the map of features that it samples.
        weight: the model's own weight.
    """

    x: float
    y: float
    level: int
    weight: float


class SeenRow(NamedTuple):
    """Where the row of a word goes.

    Attributes:
        image: its share on tokens of the picture.
        text: its share on tokens of text but the first; NaN if the layer sees no text.
        image_sinks: its share on visual sinks; NaN if the tokens before the layer are not known.
        views: its weights on the cells of each view that the layer sees, (rows, columns) each, by
            their numbers in `Observation.views`.
    """

    image: float
    text: float
    image_sinks: float
    views: Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Answer:
    """One map: where a head looks, or all heads together.

    >>> explanation.answers[3].layer, explanation.answers[3].head
    (5, 3)

    Attributes:
        layer: number of the layer; for methods that merge layers, of the last of them.
        head: number of the head; None if the method merges heads.
        query: the query as resolved for this layer.
        values: (rows, columns) float32 weights of the layer's own cells; masked cells are 0.
        numbers: the head's statistics by name; NaN if one is not defined. Empty for merged heads.
        placement: where the cells lie on the picture.
        drawn: (rows, columns) boolean, False for cells that are masked or lie in padding.
        question: number of the question in the explanation.
        points: of deformable attention from one place, the points themselves, the heaviest first.
        view: number of the view of a clip that the map shows; 0 for a picture.
        frames: the frames of this view, by their numbers among those that the model saw.
        row: with a prompt, where the row of the word goes; None without, and for merged heads.
        region: where the object lies that the map looks from; None for other queries.
        component: of methods with several maps of a layer, its number from 1.
        share: what the component explains: a share of the variance, of the tokens, or of weights.
    """

    layer: int
    head: int | None
    query: Query
    values: NDArray[np.float32]
    numbers: dict[str, float]
    placement: Placement
    drawn: NDArray[np.bool_]
    question: int = 0
    points: tuple[SampledPoint, ...] = ()
    view: int = 0
    frames: tuple[int, ...] = ()
    row: SeenRow | None = None
    region: ObjectRegion | None = None
    component: int | None = None
    share: float | None = None

    @property
    def part(self) -> int | None:
        """The number of its head, or of its component; None if all heads are merged."""
        return self.head if self.component is None else self.component


def by_head(answers: Iterable[Answer]) -> dict[tuple[int, int, int | None], list[Answer]]:
    """The answers of each question, layer and head: one for each view, in their order."""
    found: dict[tuple[int, int, int | None], list[Answer]] = {}
    for answer in answers:
        found.setdefault((answer.question, answer.layer, answer.part), []).append(answer)
    return found


@dataclass(frozen=True)
class LocalizedHead:
    """A head that was chosen because its map is localized.

    Attributes:
        layer, head: its numbers.
        score: spatial entropy plus twice the border mass of its map; the lower, the more localized.
    """

    layer: int
    head: int
    score: float


@dataclass(frozen=True, eq=False)
class ResolvedQuestion:
    """One question: a query and, for methods that take gradients, a target.

    Attributes:
        query: the query as resolved for the last layer.
        target: the score whose gradient was taken, and its value; None without a gradient.
        localized: the chosen heads, the most localized first; empty unless these were requested.
    """

    query: Query
    target: Scored | None = None
    localized: tuple[LocalizedHead, ...] = ()


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps that answer one question or several, and the numbers of their heads.

    >>> explanation.maps.shape                                # layers, heads, rows, columns
    (1, 8, 15, 22)
    >>> float(explanation.numbers["entropy"][0, 3]) > 0
    True

    Attributes:
        observation: the observation that the maps were computed from.
        questions: each query with each target.
        method: name of the method.
        answers: one for each question, layer, head and view, in this order.
        settings: the method's options with their values.
        more: further numbers of each layer; empty unless `statistics="all"` was given.
        high_norm: of methods of components, the tokens of high norm of each layer.
        smoothing: how the maps were smoothed; None if they are those of the picture alone.
        tiles: the tiles that the maps were joined from; None if the model saw the picture whole.
            The observation is then that of the first tile.
    """

    observation: Observation
    questions: tuple[ResolvedQuestion, ...]
    method: str
    answers: tuple[Answer, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[int, More] = field(default_factory=dict)
    high_norm: Mapping[int, HighNorm] = field(default_factory=dict)
    tiles: TilePlan | None = None
    smoothing: Smoothing | None = None

    @property
    def query(self) -> Query:
        """The query of the first question."""
        return self.questions[0].query

    def each(self) -> "tuple[Explanation, ...]":
        """One explanation for each question.

        >>> [attnviz.render(one)[5, 3].size for one in explanation.each()]
        [(480, 320)]
        """
        return tuple(
            replace(
                self,
                questions=(question,),
                answers=tuple(
                    replace(answer, question=0)
                    for answer in self.answers
                    if answer.question == number
                ),
            )
            for number, question in enumerate(self.questions)
        )

    @cached_property
    def by_layer(self) -> dict[int, tuple[Answer, ...]]:
        """The answers of each layer."""
        found: dict[int, tuple[Answer, ...]] = {}
        for answer in self.answers:
            found[answer.layer] = (*found.get(answer.layer, ()), answer)
        return found

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers that have maps."""
        return tuple(self.by_layer)

    @property
    def heads(self) -> tuple[int | None, ...]:
        """Numbers of the heads, or components, of all these layers; None for merged heads."""
        return tuple(dict.fromkeys(answer.part for answer in self.answers))

    @property
    def views(self) -> int:
        """The largest number of views of a map; 1 for a picture."""
        return 1 + max(answer.view for answer in self.answers)

    def at_frame(self, number: int) -> "Explanation":
        """The maps of one frame of a clip, by its number among those that the model saw.

        It can be drawn as a picture's maps are: `render(explanation.at_frame(3))`. Colours then
        span the weights of this frame; a scale of `LO:HI` compares frames.

        Raises:
            UsageError: the model saw a picture, or not so many frames.
        """
        clip = self.observation.clip
        if clip is None or not 0 <= number < len(clip.frames):
            seen = "a picture" if clip is None else f"frames 0 to {len(clip.frames) - 1}"
            raise UsageError(f"there is no frame {number}: the model saw {seen}")
        return replace(
            self,
            observation=replace(self.observation, picture=clip.frames[number].picture),
            answers=tuple(replace(a, view=0) for a in self.answers if number in a.frames),
        )

    def require_one_view(self) -> None:
        """Check that the maps can be drawn on one picture.

        Raises:
            UsageError: they are those of a clip.
        """
        if self.views > 1:
            raise UsageError(
                f"{self.observation.picture.name} is a clip, whose frames have maps of their own; "
                "take one of them: explanation.at_frame(0)"
            )

    def require_one_component(self) -> None:
        """Check that each layer has one map, or one of each head.

        Raises:
            UsageError: there are several components.
        """
        if len({answer.component for answer in self.answers}) > 1:
            advice = "--components 1" if self.method == "pca" else "--method attention"
            raise UsageError(
                f"--method {self.method}: it makes several maps of a layer, and one is taken here; "
                f"give {advice}"
            )

    @property
    def localized(self) -> bool:
        """Whether the most localized heads were chosen: then the last map of each is their mean."""
        return bool(self.questions[0].localized)

    @property
    def alike(self) -> bool:
        """Whether all layers have the same heads and the same grid of cells."""
        if self.localized:
            return False
        count = len(self.questions) * len(self.layers) * len(self.heads) * self.views
        return len(self.answers) == count and all(
            np.array_equal(answer.drawn, self.answers[0].drawn) for answer in self.answers
        )

    @cached_property
    def maps(self) -> NDArray[np.float32]:
        """All maps, (layers, heads, rows, columns); of several, (questions, layers, …).

        If heads are merged, the axis of heads has length 1, or one place for each component. Of a
        clip there is an axis of views behind that of heads.

        Raises:
            UsageError: grids or heads differ from layer to layer.
        """
        if not self.alike:
            raise UsageError(
                "layers differ in their grids or heads; take the maps from `answers`, or --layers "
                "one at a time"
            )
        maps = np.stack([answer.values for answer in self.answers])
        views = () if self.observation.clip is None else (self.views,)
        shape = *self._questions, len(self.layers), len(self.heads), *views
        return maps.reshape(*shape, *maps.shape[1:])

    @cached_property
    def numbers(self) -> dict[str, NDArray[np.float32]]:
        """Each statistic, (layers, heads), the same for all questions; empty if heads are merged.

        Raises:
            UsageError: heads differ from layer to layer.
        """
        if self.localized:
            raise UsageError(
                "localized heads have no common shape; take the numbers from `answers`"
            )
        shape = len(self.layers), len(self.heads)
        first = [each for each in self.answers if each.question == 0 and each.view == 0]
        if len(first) != shape[0] * shape[1]:
            raise UsageError("layers differ in their heads; take the numbers from `answers`")
        return {
            name: np.array([answer.numbers[name] for answer in first], dtype=np.float32)
            .reshape(shape)
            for name in first[0].numbers
        }  # fmt: skip

    def __repr__(self) -> str:
        queries = ", ".join(dict.fromkeys(str(each.query) for each in self.questions))
        layers = ", ".join(map(str, self.layers))
        name, spec = self.observation.picture.path, self.observation.model.spec
        return (
            f"Explanation({name} as {spec} sees it: {self.method} from {queries}, "
            f"layer {layers}: {len(self.answers)} maps)"
        )

    def _repr_png_(self) -> bytes:
        """The sheet as PNG, for notebooks."""
        png: bytes = load("attnviz.output.notebook:png")(self)  # drawing is a higher layer
        return png

    def _repr_html_(self) -> str:
        """The sheet and the numbers as HTML, for notebooks."""
        html: str = load("attnviz.output.notebook:html")(self)
        return html

    @property
    def _questions(self) -> tuple[int, ...]:
        """The shape of the axis of questions; empty if there is one question."""
        return (len(self.questions),) if len(self.questions) > 1 else ()
