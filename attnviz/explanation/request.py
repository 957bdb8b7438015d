"""All that is asked of a picture, checked before the model runs; and the run that it needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.attention.sweep import Progress
from attnviz.errors import UsageError
from attnviz.explanation.explain_observation import explain
from attnviz.explanation.explanation import Explanation
from attnviz.explanation.observation import Observation
from attnviz.explanation.observe_batch import observe_many
from attnviz.explanation.query_weights import mask_of
from attnviz.explanation.run_methods import Statistics
from attnviz.explanation.running import observe
from attnviz.explanation.selection import choose_heads, choose_layers, parse_heads, parse_layers
from attnviz.geometry import queries
from attnviz.geometry.placement import Fit, Placement
from attnviz.io.picture import Picture, PictureLike, load_mask
from attnviz.methods import DEFAULT, METHODS, check_request, without_score
from attnviz.models import scoring
from attnviz.models.model import Model
from attnviz.models.targets import Head, Target


@dataclass(frozen=True)
class Questions:
    """What is asked; the values that the options of the same names take.

    Attributes:
        methods: names of methods.
        queries: where from.
        targets: whose gradients, for methods that take some.
        layers, heads: which.
        start_layer: where methods that merge layers begin.
        settings: options of the methods, by name; what is None is their own default.
        statistics: `basic`, or `all`.

    Raises:
        UsageError: an unknown method, or an option that no method takes; see `check_request`.
    """

    methods: tuple[str, ...] = (DEFAULT,)
    queries: tuple[str, ...] = ("auto",)
    targets: tuple[Target, ...] = ()
    layers: str = "-1"
    heads: str = "all"
    start_layer: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    statistics: Statistics = "basic"

    def __post_init__(self) -> None:
        check_request(
            self.methods,
            {**self.settings, "start_layer": self.start_layer},
            query=any(query != "auto" for query in self.queries),
            targets=["--text" if each.kind == "text" else "--target" for each in self.targets],
            importance=self.statistics == "all",
        )

    @property
    def scored(self) -> bool:
        """Whether a method asks for the gradient of a score."""
        of_heads = self.statistics == "all" and bool(self.targets)  # their importance
        return of_heads or any(METHODS[name].scored for name in self.methods)

    @property
    def head(self) -> Head:
        """The head that a model is loaded with."""
        if not self.scored:
            return "none"
        wanted = {target.head for target in self.targets} or {Target("auto").head}
        return next(head for head in ("text", "class", "any", "none") if head in wanted)

    @property
    def needs_tokens(self) -> bool:
        """Whether the tokens after each layer are asked for."""
        return self.statistics == "all" or any("tokens" in METHODS[n].needs for n in self.methods)

    @property
    def needed_layers(self) -> str:
        """The layers that a run must keep."""
        return "all" if any(METHODS[n].merges == "layers" for n in self.methods) else self.layers


def check(picture: PictureLike, model: Model, questions: Questions, *, fit: Fit = "keep") -> None:
    """Whether all can be asked of a model and a picture, as far as is known before the run.

    Raises:
        UsageError: a query beside the picture, or heads or layers that the model does not have, or
            a score.
        ImageError: a mask picture that cannot be read.
    """
    check_model(model, questions)
    check_picture(picture, model, questions, fit=fit)


def check_model(model: Model, questions: Questions) -> None:
    """What `check` looks at that is the same for every picture.

    Raises:
        UsageError: heads or layers that the model does not have, or a score.
    """
    chosen_layers, chosen_heads = parse_layers(questions.layers), parse_heads(questions.heads)
    if model.plain and model.layers is not None:  # others may have a pool beside their layers
        choose_layers(chosen_layers, model.layers)
    if model.heads is not None:
        choose_heads(chosen_heads, model.heads, model=model.spec)
    for target in questions.targets:
        _check_target(model, target)


def check_picture(
    picture: PictureLike, model: Model, questions: Questions, *, fit: Fit = "keep"
) -> None:
    """What `check` looks at that differs from picture to picture.

    Raises:
        UsageError: a query beside the picture.
        ImageError: a mask picture that cannot be read.
    """
    for text in questions.queries:
        _check_query(picture, model, text, fit)


def _check_target(model: Model, target: Target) -> None:
    try:
        scoring.resolve(model, target)
    except UsageError as error:
        wanted = {"class": "class", "text": "text"}.get(target.kind, model.head)
        if wanted == model.head:
            raise
        line = f"{error}; or a method that takes no score: {without_score()}"
        raise UsageError(line) from error


def _check_query(picture: PictureLike, model: Model, text: str, fit: Fit) -> None:
    query = queries.parse(text)
    if query.kind not in ("auto", "pool"):
        registers = model.prefix - model.class_token
        queries.resolve(query, has_class_token=model.class_token, registers=registers)
    if query.kind in ("point", "box", "mask"):
        placement = model.place(picture, fit=fit)
        everything = np.ones(placement.grid.grid_tokens, dtype=np.bool_)
        queries.weights(query, placement, everything, mask_of(query, picture))


def look(
    picture: Picture,
    model: Model,
    questions: Questions,
    *,
    fit: Fit = "keep",
    mask: str | None = None,
) -> Observation:
    """Run a model on a picture so that all that is asked can be answered.

    A slip in the questions is found before.

    Args:
        picture: what is looked at.
        model: by what.
        questions: what is asked.
        fit: how the picture is laid into the input.
        mask: path of a picture of what takes part.
    """
    check(picture, model, questions, fit=fit)
    part = None if mask is None else load_mask(mask, width=picture.width, height=picture.height)
    return observe(
        picture,
        model,
        fit=fit,
        mask=part,
        layers=questions.needed_layers,
        gradients=questions.scored,
        tokens=questions.needs_tokens,
    )


def look_many(
    pictures: Sequence[PictureLike],
    model: Model,
    questions: Questions,
    *,
    fit: Fit = "keep",
    mask: str | None = None,
    lay: Callable[[int, Placement], NDArray[np.uint8]] | None = None,
) -> list[Observation]:
    """Run a model on several pictures, which were checked; see `look` and `observe_many`."""
    sizes = [(picture.width, picture.height) for picture in pictures]
    found = {
        size: None if mask is None else load_mask(mask, width=size[0], height=size[1])
        for size in dict.fromkeys(sizes)  # of a clip, say, all are one
    }
    masks = [found[size] for size in sizes]
    return observe_many(
        pictures,
        model,
        fit=fit,
        masks=masks,
        layers=questions.needed_layers,
        gradients=questions.scored,
        tokens=questions.needs_tokens,
        lay=lay,
    )


def answer(
    observation: Observation,
    questions: Questions,
    method: str = DEFAULT,
    *,
    progress: Progress | None = None,
) -> Explanation:
    """What one of the methods answers.

    Queries, heads and settings are given to the methods that take them.
    """
    entry = METHODS[method]
    shared = any(METHODS[name].merges == "nothing" for name in questions.methods)
    options: dict[str, Any] = {
        option.name: questions.settings.get(option.name) for option in entry.options
    }
    return explain(
        observation,
        query=questions.queries if entry.asks else "auto",
        method=method,
        target=questions.targets if entry.scored or questions.statistics == "all" else (),
        layers=questions.layers,
        heads=questions.heads if entry.merges == "nothing" or not shared else "all",
        start_layer=questions.start_layer if entry.merges == "layers" else None,
        statistics=questions.statistics,
        progress=progress,
        **options,
    )
