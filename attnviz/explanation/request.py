"""Checks all questions about a picture before the model runs, and runs the model for them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from attnviz.attention.sweep import Progress
from attnviz.attention.sweep_together import worthwhile
from attnviz.errors import UsageError
from attnviz.explanation.again import smoothed
from attnviz.explanation.explain_observation import explain, measure_together, rank_heads
from attnviz.explanation.explanation import Explanation, LocalizedHead
from attnviz.explanation.observation import Observation
from attnviz.explanation.observe_batch import observe_many
from attnviz.explanation.prompting import Prompting
from attnviz.explanation.query_weights import located, mask_of, place_weights
from attnviz.explanation.run_methods import Statistics
from attnviz.explanation.running import observe
from attnviz.explanation.selection import (
    choose_heads,
    choose_layers,
    parse_heads,
    parse_layers,
    requested_layers,
)
from attnviz.explanation.smoothing import Smoothing, check_smoothing
from attnviz.geometry import queries
from attnviz.geometry.detections import THRESHOLD, check_threshold, found_objects
from attnviz.geometry.placement import Fit, Placement
from attnviz.io.clip_frames import ClipFrames
from attnviz.io.picture import Picture, PictureLike, load_mask, with_pixels
from attnviz.methods import DEFAULT, METHODS, check_request, without_score
from attnviz.models import resolve_target
from attnviz.models.model import LaidPicture, Model
from attnviz.models.targets import Head, Target
from attnviz.statistics import check_options, options_of


@dataclass(frozen=True)
class Questions:
    """The questions about a picture, by the values of the options of the same names.

    Attributes:
        methods: names of methods.
        queries: where the maps look from.
        targets: scores, for methods that take gradients.
        layers, heads: which layers and heads have maps.
        start_layer: the first layer of methods that merge layers.
        settings: options of methods and statistics by name; None gives the default.
        statistics: `basic`, or `all`.
        suggest: whether heads are suggested too, for which more layers must be kept.
        chosen: by method, the localized heads of each question if they were chosen before.
        prompting: what a model that answers in words is asked.
        threshold: the score over which objects of a detector or segmenter are taken.
        one_object: whether a query takes one object only, the best, if it names several.
        smoothing: how maps are smoothed.

    Raises:
        UsageError: a method is unknown, or no method takes an option; see `check_request`.
    """

    methods: tuple[str, ...] = (DEFAULT,)
    queries: tuple[str, ...] = ("auto",)
    targets: tuple[Target, ...] = ()
    layers: str = "auto"
    heads: str = "all"
    start_layer: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    statistics: Statistics = "basic"
    suggest: bool = False
    chosen: Mapping[str, Sequence[Sequence[LocalizedHead]]] = field(default_factory=dict)
    prompting: Prompting | None = None
    threshold: float = THRESHOLD
    one_object: bool = False
    smoothing: Smoothing | None = None

    def __post_init__(self) -> None:
        if self.smoothing is not None:
            asked = self.prompting
            relative = asked is not None and asked.baseline_prompt is not None
            check_smoothing(
                self.smoothing, self.methods, words=asked is not None, relative=relative
            )
        check_threshold(self.threshold)
        check_request(
            self.methods,
            {**self.settings, "start_layer": self.start_layer},
            query=self.prompting is None and any(query != "auto" for query in self.queries),
            targets=[each.option for each in self.targets],
            importance=self.statistics == "all",
            others=check_options(self.settings, self.statistics),
        )

    def seeded(self, seed: int) -> "Questions":
        """The same questions with a seed for the noise of smoothing."""
        smoothing = self.smoothing
        return self if smoothing is None else replace(self, smoothing=replace(smoothing, seed=seed))

    @property
    def scored(self) -> bool:
        """Whether a method needs the gradient of a score."""
        of_heads = self.statistics == "all" and bool(self.targets)  # the importance of heads
        return of_heads or any(METHODS[name].scored for name in self.methods)

    @property
    def head(self) -> Head:
        """The head that the model must be loaded with."""
        if self.prompting is not None:
            return "words"
        if not self.scored:
            return "none"
        wanted = {target.head for target in self.targets} or {Target("auto").head}
        return next(h for h in ("text", "dense", "class", "any", "none") if h in wanted)

    @property
    def needs_tokens(self) -> bool:
        """Whether the tokens after each layer are needed."""
        needs = {need for name in self.methods for need in METHODS[name].needs}
        return self.statistics == "all" or bool(needs & {"tokens", "features"})

    @property
    def needed_layers(self) -> str:
        """The layers that a run must keep."""
        if any(METHODS[n].merges == "layers" for n in self.methods):
            return "all"
        if self.suggest:  # the last layer is one of them
            return "upper"
        return requested_layers(self.layers, self.heads)


def check(picture: PictureLike, model: Model, questions: Questions, *, fit: Fit = "keep") -> None:
    """Check that a model and a picture can answer all questions, as far as known before the run.

    Raises:
        UsageError: a query lies outside the picture, or the model lacks a head, a layer or a score.
        ImageError: a mask picture cannot be read.
    """
    check_model(model, questions)
    check_picture(picture, model, questions, fit=fit)


def check_model(model: Model, questions: Questions) -> None:
    """Check all that is the same for every picture; see `check`.

    Raises:
        UsageError: the model lacks a head, a layer or a score.
    """
    chosen_heads = parse_heads(questions.heads)
    chosen_layers = parse_layers(requested_layers(questions.layers, questions.heads))
    if model.plain and model.layers is not None:  # other models may have a pool beside their layers
        choose_layers(chosen_layers, model.layers)
    if model.heads is not None:
        choose_heads(chosen_heads, model.heads, model=model.spec)
    for target in questions.targets:
        _check_target(model, target)


def check_picture(
    picture: PictureLike, model: Model, questions: Questions, *, fit: Fit = "keep"
) -> None:
    """Check all that differs from picture to picture; see `check`.

    Raises:
        UsageError: a query lies outside the picture, or a sound is to be fitted.
        ImageError: a mask picture cannot be read.
    """
    if model.sound is not None and fit != "keep":
        raise UsageError(f"--fit {fit} is of pictures; {model.spec} hears sounds: leave it out")
    for text in questions.queries:
        _check_query(picture, model, text, fit)
    for target in questions.targets:
        if target.kind == "region":
            place_weights(target, model.place(picture, fit=fit), picture)


def _check_target(model: Model, target: Target) -> None:
    try:
        resolve_target.resolve(model, target)
    except UsageError as error:
        wanted = {"class": "class", "text": "text"}.get(target.kind, model.head)
        if wanted == model.head:
            raise
        line = f"{error}; or a method that takes no score: {without_score()}"
        raise UsageError(line) from error


def _check_query(picture: PictureLike, model: Model, text: str, fit: Fit) -> None:
    query = located(queries.parse(text), picture)
    if model.words is not None:
        return  # words are known once the model has answered
    if query.time is not None and model.clip is None:
        raise UsageError(
            f"--query {text}: {model.spec} sees one picture at a time; leave @{query.time:g} out"
        )
    if query.kind in ("object", "objects") and (model.plain or model.head not in ("none", "dense")):
        found_objects([], 0, asked=text)  # it predicts no objects
    if query.kind not in ("auto", "pool"):
        registers = model.prefix - model.class_token
        queries.resolve(query, has_class_token=model.class_token, registers=registers)
    if query.kind in ("point", "box", "mask"):
        placement = model.place(picture, fit=fit)
        everything = np.ones(placement.grid.grid_tokens, dtype=np.bool_)
        queries.weights(query, placement, everything, mask_of(query, picture))


def look(
    picture: Picture | ClipFrames,
    model: Model,
    questions: Questions,
    *,
    fit: Fit = "keep",
    mask: str | None = None,
) -> Observation:
    """Run a model on a picture so that all questions can be answered.

    Questions are checked before the run.

    Args:
        picture: the picture, or the frames of a clip.
        model: the model.
        questions: the questions that the run must serve.
        fit: how the picture is laid into the input.
        mask: path of a mask picture: white takes part.
    """
    first = picture.frames[0].picture if isinstance(picture, ClipFrames) else picture
    check(first, model, questions, fit=fit)
    if isinstance(picture, ClipFrames):
        for query in map(queries.parse, questions.queries):
            if query.time is not None:
                picture.frame_at(query.time)
    part = None if mask is None else load_mask(mask, width=first.width, height=first.height)
    return observe(
        picture,
        model,
        fit=fit,
        mask=part,
        layers=questions.needed_layers,
        gradients=questions.scored,
        tokens=questions.needs_tokens,
        **_prompt(questions),
    )


def _prompt(questions: Questions) -> dict[str, Any]:
    """The arguments of `observe` for what is asked in words."""
    return {} if questions.prompting is None else asdict(questions.prompting)


def look_many(
    pictures: Sequence[PictureLike],
    model: Model,
    questions: Questions,
    *,
    fit: Fit = "keep",
    mask: str | None = None,
    lay: Callable[[int, Placement], LaidPicture] | None = None,
) -> list[Observation]:
    """Run a model on several checked pictures; see `look` and `observe_many`."""
    if questions.prompting is not None:
        return [look(with_pixels(each), model, questions, fit=fit, mask=mask) for each in pictures]
    sizes = [(picture.width, picture.height) for picture in pictures]
    mask_of_size = {
        size: None if mask is None else load_mask(mask, width=size[0], height=size[1])
        for size in dict.fromkeys(sizes)  # frames of a clip share one size
    }
    masks = [mask_of_size[size] for size in sizes]
    found = observe_many(
        pictures,
        model,
        fit=fit,
        masks=masks,
        layers=questions.needed_layers,
        gradients=questions.scored,
        tokens=questions.needs_tokens,
        lay=lay,
    )
    if worthwhile(model.device) and len(found) > 1:
        for method in questions.methods:
            measure_together(found, **_arguments(questions, method))
    return found


def answer(
    observation: Observation,
    questions: Questions,
    method: str = DEFAULT,
    *,
    progress: Progress | None = None,
) -> Explanation:
    """The explanation of one method.

    Each method gets only the queries, heads and settings that it takes.
    """
    found = explain(
        observation,
        **_arguments(questions, method),
        chosen=questions.chosen.get(method),
        progress=progress,
    )
    return found if questions.smoothing is None else smoothed(found, questions.smoothing)


def rank(
    observation: Observation, questions: Questions, method: str = DEFAULT
) -> list[tuple[LocalizedHead, ...]]:
    """All heads for each question of one method, the most localized first; see `rank_heads`."""
    return rank_heads(observation, **_arguments(questions, method))


def _arguments(questions: Questions, method: str) -> dict[str, Any]:
    """The arguments of `explain` for one method."""
    entry = METHODS[method]
    shared = any(METHODS[name].merges == "nothing" for name in questions.methods)
    names = [option.name for option in entry.options]
    names += options_of(questions.statistics) if entry.merges == "nothing" else {}
    options: dict[str, Any] = {name: questions.settings.get(name) for name in names}
    return {
        "query": questions.queries if entry.asks or questions.prompting else "auto",
        "method": method,
        "target": questions.targets if entry.scored or questions.statistics == "all" else (),
        "layers": requested_layers(questions.layers, questions.heads),
        "threshold": questions.threshold,
        "one_object": questions.one_object,
        "heads": questions.heads if entry.merges == "nothing" or not shared else "all",
        "start_layer": questions.start_layer if entry.merges == "layers" else None,
        "statistics": questions.statistics,
        **options,
    }
