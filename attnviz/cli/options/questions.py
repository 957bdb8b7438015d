"""Options of the question: methods, layers, heads, queries and targets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from attnviz import methods
from attnviz.cli.options.completion import HEADS, LAYERS, QUERIES, TARGETS, method_names
from attnviz.cli.options.groups import WHERE, AllSettings, Settings, option_field
from attnviz.errors import UsageError
from attnviz.explanation.prompting import parse_prompting
from attnviz.explanation.selection import parse_heads, parse_layers
from attnviz.explanation.smoothing import Smoothing, check_smoothing, parse_smoothing
from attnviz.geometry import queries
from attnviz.geometry.detections import THRESHOLD, check_threshold
from attnviz.models import SOURCES, find_source, targets
from attnviz.statistics import check_options

if TYPE_CHECKING:
    from typing import Self

    from attnviz.explanation.prompting import Prompting
    from attnviz.explanation.request import Questions

_OF_TEXT = ("word", "prompt:", "token:")
"""How queries begin that name a part of a text; of a model with words they name the score, too."""


_LAYERS: dict[str, Any] = {
    "help": "Layers: -1 (the last), upper (the upper half), all, or a list (0,5-11). auto is -1, "
    "with localized heads upper.",
    "complete": lambda: LAYERS,
    "metavar": "WHICH",
}
_QUERY: dict[str, Any] = {
    "panel": WHERE,
    "names": "--query -q",
    "complete": lambda: QUERIES,
    "metavar": "WHERE",
}


@dataclass(frozen=True, repr=False, eq=False)
class WhereOptions:
    """Which maps: heads, layers and queries."""

    heads: str = option_field(
        "all",
        "Heads: all, a count (8, the first ones), a list (0,3,5-7), or localized:3, the most "
        "localized of all the layers, and their mean.",
        complete=lambda: HEADS,
        metavar="WHICH",
    )
    layers: str = option_field("auto", **_LAYERS)
    query: list[str] | None = option_field(
        None,
        "Query to look from: auto, cls, registerN, mean, pool, X,Y, X0,Y0,X1,Y1 or a mask "
        "picture; X,Y@T of a model of clips, 1.2s,800Hz of sounds; objects, object:LABEL or "
        "object:N of a detector or segmenter. May be repeated.  [default: auto]",
        **_QUERY,
    )

    def __post_init__(self) -> None:
        parse_heads(self.heads)
        parse_layers(self.layers)
        for query in self.queries:
            queries.parse(query)

    @property
    def queries(self) -> tuple[str, ...]:
        """The queries, each once."""
        return tuple(dict.fromkeys(self.query or ["auto"]))


@dataclass(frozen=True, repr=False, eq=False)
class PromptOptions(WhereOptions):
    """What a model that answers in words is asked."""

    prompt: str | None = option_field(
        None,
        "Question about the picture, for a model that answers in words. Each word of its answer "
        "has a map.",
        WHERE,
        metavar="TEXT",
    )
    answer: str | None = option_field(
        None,
        "Answer to look at.  [default: what the model says]",
        WHERE,
        metavar="TEXT",
    )
    max_words: int | None = option_field(
        None, "The most words of an answer.  [default: 32]", WHERE, min=1, max=4096
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._prompting

    @property
    def _prompting(self) -> Prompting | None:
        """What a model that answers in words is asked."""
        return parse_prompting(self.prompt, self.answer, self.max_words, None, self.queries)

    def of_model(self, spec: str) -> Self:
        """The same options, of a model by its spec: some describe the picture without a question.

        Raises:
            UsageError: the spec is unknown.
        """
        if self.asks_words or not SOURCES[find_source(spec)].words:
            return self
        return replace(self, prompt="")

    @property
    def asks_words(self) -> bool:
        """Whether the model is asked in words."""
        return self._prompting is not None


_THRESHOLD: dict[str, Any] = {
    "default": THRESHOLD,
    "help": "Score over which a detector's objects are drawn, 0 to 1.",
    "panel": WHERE,
}


@dataclass(frozen=True, repr=False, eq=False)
class StartOptions(PromptOptions):
    """The contents of a page, and its first query."""

    layers: str = option_field("all", **_LAYERS)
    query: list[str] | None = option_field(
        None,
        "Query that the page shows first: auto, cls, registerN, mean, pool, X,Y, object:N or "
        "object:LABEL of a detector, or with a prompt word:cat or prompt:cat.  [default: auto]",
        **_QUERY,
    )
    threshold: float = option_field(**_THRESHOLD)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threshold(self.threshold)
        if len(self.queries) > 1:
            raise UsageError("explore takes one --query, which its page shows first; give one")
        asked = queries.parse(self.queries[0])
        if asked.kind in ("box", "mask", "objects"):
            raise UsageError(
                f"--query {asked}: a page looks from single tokens; give X,Y, mean, cls or "
                "registerN"
            )

    def to_questions(self) -> Questions:
        """The questions for `look`; rollout needs all layers, even if the page has fewer."""
        from attnviz.explanation.request import Questions  # noqa: PLC0415 — torch, once options are checked

        return Questions(
            methods=("attention",) if self.asks_words else ("attention", "rollout"),
            queries=self.queries,
            layers=self.layers,
            heads=self.heads,
            prompting=self._prompting,
        )


@dataclass(frozen=True, repr=False, eq=False)
class SettingOptions:
    """The target of the gradient, and the methods' own options."""

    target: list[str] | None = option_field(
        None,
        "Score for methods that take gradients: auto (the predicted class, else the "
        "norm), a class number or label, norm, or norm:QUERY; of a segmenter or depth model "
        "class:NAME@PLACE or pixel:X,Y, of a detector object:N. May be repeated.  "
        "[default: auto]",
        WHERE,
        complete=lambda: TARGETS,
        metavar="SCORE",
    )
    text: list[str] | None = option_field(
        None,
        "Score for models of pictures and texts: how well the picture matches this text. "
        "May be repeated.",
        WHERE,
        metavar="TEXT",
    )
    against: list[str] | None = option_field(
        None,
        "Subtract the score of this class (or text) from each target's: what speaks for one and "
        "not the other. rest is the mean of all others. May be repeated.",
        WHERE,
        metavar="SCORE",
    )
    smooth: str | None = option_field(
        None,
        "Smooth maps: flips, the mean with the mirrored picture, or noise:N, the mean over N "
        "noisy pictures. The model runs as often again.",
        complete=lambda: ("flips", "noise:16"),
        metavar="HOW",
    )
    sigma: float | None = option_field(
        None,
        "Standard deviation of the noise of --smooth noise:N, for pixel values of 0 to 1.  "
        "[default: 0.15]",
    )
    settings: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.target and self.text:
            raise UsageError("--target and --text exclude one another; give one of them")
        _ = self.smoothing
        _ = self.targets

    @property
    def smoothing(self) -> Smoothing | None:
        """How maps are smoothed; the command gives the seed."""
        return parse_smoothing(self.smooth, self.sigma)

    @property
    def target_masks(self) -> tuple[str, ...]:
        """The mask pictures that targets name."""
        paths = (each.query.path for each in self.targets if each.query is not None)
        return tuple(path for path in paths if path is not None)

    @property
    def targets(self) -> tuple[targets.Target, ...]:
        """The targets of the gradients, each once."""
        found = [targets.parse(each) for each in self.target or ()]
        found += [targets.of_text(each) for each in self.text or ()]
        return targets.contrasts(tuple(dict.fromkeys(found)), self.against or ())


def _questions(
    where: QuestionsOptions, setting: SettingOptions, names: tuple[str, ...], **more: Any
) -> Questions:
    """All questions, in the form for `look`."""
    from attnviz.explanation.request import Questions  # noqa: PLC0415 — torch, once the options are checked

    settings = dict(setting.settings)
    return Questions(
        methods=names,
        queries=where.queries,
        targets=setting.targets,
        layers=where.layers,
        heads=where.heads,
        threshold=where.threshold,
        start_layer=settings.pop("start_layer", None),
        smoothing=setting.smoothing,
        settings=settings,
        **more,
    )


def _check(
    names: tuple[str, ...],
    where: WhereOptions,
    setting: SettingOptions,
    *,
    stats: str | None = None,
) -> None:
    """Check that the methods exist, and that each given option belongs to one of them.

    `stats` names the statistics with options of their own; all need a gradient for one of them.

    Raises:
        UsageError: a method does not exist, or an option belongs to none of the methods.
    """
    methods.check_request(
        names,
        setting.settings,
        query=any(query != "auto" and not query.startswith(_OF_TEXT) for query in where.queries),
        targets=[each.option for each in setting.targets],
        importance=stats == "all",
        others=check_options(setting.settings, stats) if stats else (),
    )
    if setting.smoothing is not None:
        check_smoothing(setting.smoothing, names)
    merging = [name for name in names if methods.METHODS[name].merges != "nothing"]
    if where.heads != WhereOptions.heads and len(merging) == len(names):
        raise UsageError(f"--heads {where.heads}: {names[0]} merges all heads; leave it out")


@dataclass(frozen=True, repr=False, eq=False)
class QuestionsOptions(WhereOptions, SettingOptions):
    """What is computed, with one or several methods."""

    method: list[str] | None = option_field(
        None,
        f"Method; `attnviz methods` lists them. May be repeated.  [default: {methods.DEFAULT}]",
        complete=method_names,
        metavar="NAME",
    )
    threshold: float = option_field(**_THRESHOLD)

    def __post_init__(self) -> None:
        WhereOptions.__post_init__(self)
        SettingOptions.__post_init__(self)
        check_threshold(self.threshold)
        _check(self.methods, self, self, stats=self._stats)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, each once."""
        return tuple(dict.fromkeys(self.method or [methods.DEFAULT]))

    def check_one_object(self, command: str) -> None:
        """Check that each query names one object; of a label it is the best one.

        Raises:
            UsageError: a query names all objects of a picture.
        """
        if "objects" in self.queries:
            raise UsageError(
                f"--query objects: {command} takes one object for each map; give object:LABEL, "
                "whose best one is taken, or object:N"
            )

    @property
    def _stats(self) -> str | None:
        """Which statistics are computed, if their options can be given."""
        return None

    def to_questions(self) -> Questions:
        """The questions for `look`."""
        return _questions(self, self, self.methods)


@dataclass(frozen=True, repr=False, eq=False)
class QuestionOptions(PromptOptions, QuestionsOptions):
    """What is computed, and which statistics with it."""

    baseline_prompt: str | None = option_field(
        None,
        'Prompt to compare with, such as "describe the picture": each map is divided by that of '
        "the same word there.",
        WHERE,
        metavar="TEXT",
    )
    stats: Literal["basic", "all"] = option_field(
        "basic", "Statistics; all adds head similarity, sinks, importance and more."
    )
    settings: AllSettings = field(default_factory=dict)

    @property
    def _prompting(self) -> Prompting | None:
        """What a model that answers in words is asked."""
        return parse_prompting(
            self.prompt, self.answer, self.max_words, self.baseline_prompt, self.queries
        )

    @property
    def _stats(self) -> str:
        return self.stats

    def to_questions(
        self, animate: str | None = None, *, suggest: bool = False, blend: bool = False
    ) -> Questions:
        """The questions for `look`, with enough layers or heads to `animate`.

        An animation by layers takes all layers instead of the default, the last layer alone. Heads
        are suggested if nothing but the query was chosen.

        Raises:
            UsageError: the animation is by heads, and a method merges them; or too few or too many
                questions are asked for a `blend`.
        """
        count = len(self.queries) * max(len(self.targets), 1)
        if blend and count not in (2, 3):
            raise UsageError(
                f"--blend draws two or three maps in one picture, and {count} are asked for; give "
                "two or three of --target, --text or --query"
            )
        merging = [name for name in self.methods if methods.METHODS[name].merges != "nothing"]
        if animate == "words" and self._prompting is None:
            raise UsageError("--animate words shows the words of an answer; add --prompt TEXT")
        if animate == "heads" and merging:
            raise UsageError(
                f"--animate heads: {merging[0]} merges all heads; use --animate layers"
            )
        to_questions = _questions(
            self, self, self.methods, statistics=self.stats, prompting=self._prompting
        )
        default = (self.layers, self.heads) == (WhereOptions.layers, WhereOptions.heads)
        if self._prompting is not None and default and not merging:
            to_questions = replace(to_questions, heads="localized")  # the last layer tells least
        if animate == "layers" and self.layers == WhereOptions.layers:
            return replace(to_questions, layers="all")
        plain = default and self.methods == (methods.DEFAULT,) and self.stats == "basic"
        suggest = suggest and plain and len(self.queries) == 1 and self._prompting is None
        return replace(to_questions, suggest=suggest)
