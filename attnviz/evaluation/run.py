"""Evaluates pictures: finds them and their masks, scores each one, and stores finished scores."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attnviz.errors import ImageError, UsageError
from attnviz.evaluation import MASKS, RANDOM
from attnviz.evaluation.map_scorer import Among, MapScorer, Score
from attnviz.evaluation.named_objects import NamedObjects, WordMeans, object_of
from attnviz.evaluation.objects import Objects, load_objects
from attnviz.evaluation.summary import SummaryEntry, as_data, from_data
from attnviz.explanation.observation import Observation
from attnviz.explanation.prompting import Prompting
from attnviz.explanation.request import Questions, answer, look
from attnviz.explanation.selection import Localized, parse_heads
from attnviz.geometry.placement import Fit
from attnviz.io.parts import WHOLE, Part
from attnviz.io.picture import Picture
from attnviz.io.picture_files import SUFFIXES, pictures_in
from attnviz.io.ranges import FULL
from attnviz.models.model import Model
from attnviz.output import encoding, line_files, whole_files
from attnviz.output.record_info import readable


@dataclass(frozen=True)
class Pair:
    """The paths of a picture and of its mask; the mask is None if no masks are needed.

    `names` are the words for the objects of the mask, if maps of words are evaluated.
    """

    image: str
    mask: str | None
    names: NamedObjects | None = None


def find_pictures(named: Sequence[str]) -> tuple[list[str], list[ImageError]]:
    """The named pictures and those in the named folders, and errors for names that fail.

    Raises:
        UsageError: a picture is named twice, or a name is standard input.
    """
    found: list[str] = []
    failed = []
    for path in named:
        if path == "-":
            raise UsageError(
                "evaluate compares files with masks of their names; name a file, not -"
            )
        try:
            found += pictures_in(path) if os.path.isdir(path) else [_there(path)]  # noqa: PTH112
        except ImageError as error:
            failed.append(error)
    whole_files.folder_names(found)
    return found, failed


def _there(path: str) -> str:
    if not os.path.exists(path):  # noqa: PTH110 — any bytes
        raise ImageError(f"{path}: no such file; check the path")
    return path


def find_masks(pictures: Sequence[str], masks: str) -> tuple[list[Pair], list[ImageError]]:
    """Each picture with its mask, and errors for the pictures without one.

    `masks` is a folder, or the mask of the only picture. In a folder the mask of `cat.jpg` is
    `cat.png`, or `cat` with the ending of any other picture format. If several folders have
    pictures of the same name, their masks lie in folders with the same names.

    Raises:
        UsageError: there is one mask for several pictures.
    """
    if not os.path.isdir(masks):  # noqa: PTH112 — any bytes
        if len(pictures) > 1:
            raise UsageError(
                f"--masks {masks}: one file for {len(pictures)} pictures; give a folder "
                "with a mask of each"
            )
        return [Pair(path, masks) for path in pictures], []
    pairs: list[Pair] = []
    missing = []
    for path, name in zip(pictures, whole_files.folder_names(pictures), strict=True):
        if (mask := _mask(path, Path(masks) / name)) is not None:
            pairs.append(Pair(path, str(mask)))
        else:
            expected = (Path(masks) / name).with_suffix(".png")
            message = f"{path}: no mask {expected}, nor one with another ending; add it"
            missing.append(ImageError(message))
    return pairs, missing


def _mask(picture: str, name: Path) -> Path | None:
    """The file `name` with the ending of any picture format, .png first; not the picture itself."""
    stems = dict.fromkeys([name.with_suffix(""), name])  # `cat.v2` has no ending: `cat.v2.png`
    for stem in stems:
        for suffix in SUFFIXES:
            for ending in (suffix, suffix.upper()):
                path = stem.with_name(stem.name + ending)
                if path.is_file() and not os.path.samefile(path, picture):  # noqa: PTH121
                    return path
    return None


@dataclass(frozen=True)
class EvaluationRequest:
    """What every picture is asked: fields take the values of the options of the same names.

    Of the questions, localized heads are replaced by all heads: `localized` says how many of them,
    and `among` of which layers, have a row; see `MapScorer`.
    """

    questions: Questions
    groups: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    fit: Fit = "keep"
    mask: str | None = None
    seed: int = 0
    range: str = FULL
    part: Part = WHOLE
    localized: int | None = None
    among: Among = "upper"

    @classmethod
    def of(cls, questions: Questions, groups: tuple[str, ...], **more: Any) -> "EvaluationRequest":
        """The request of these options; with localized heads all layers unless some are given."""
        wanted = parse_heads(questions.heads)
        if not isinstance(wanted, Localized):
            return cls(questions, groups, **more)
        default = questions.layers.strip() == "auto"
        every = replace(questions, heads="all", layers="all" if default else questions.layers)
        among: Among = "upper" if default else "all"
        return cls(every, groups, **more, localized=wanted.count, among=among)


def examine(
    pair: Pair, model: Model, control: Model | None, request: EvaluationRequest
) -> tuple[SummaryEntry, Observation]:
    """Score one picture: the maps of the model, those of its control, and the other baselines.

    Args:
        pair: the picture and its mask.
        model: the model to evaluate; for perturbation it needs its class head.
        control: the same architecture with random weights, or None.
        request: the questions and the metrics.

    Raises:
        AttnvizError: something is wrong with the picture, the mask or the question.
    """
    picture = model.load(pair.image, request.range, request.part)
    objects, questions = None, request.questions
    if MASKS in request.groups and pair.mask is not None:
        objects = load_objects(pair.mask, width=picture.width, height=picture.height)
    if pair.names is not None:
        prompting = Prompting(pair.names.prompt, pair.names.answer)
        questions = replace(questions, prompting=prompting)
    observation = look(picture, model, questions, fit=request.fit, mask=request.mask)
    seen: tuple[Observation, Observation | None] = observation, None
    if control is not None:
        seen = observation, _seen_by_control(observation, picture, control, request, questions)
    if pair.names is None or objects is None:
        scores = _scores(seen, objects, replace(request, questions=questions))
    else:
        means = WordMeans()
        for word, one in _named(pair.names, objects, observation):
            asked = replace(questions, queries=(f"word:{word}",))
            means.add(_scores(seen, one, replace(request, questions=asked)))
        scores = means.scores()
    mask = None if pair.mask is None else readable(pair.mask)
    entry = SummaryEntry(
        readable(pair.image), mask, model.spec, readable(model.weights), tuple(scores)
    )
    return entry, observation


def _named(
    names: NamedObjects, objects: Objects, observation: Observation
) -> list[tuple[str, Objects]]:
    """Words of the answer, each with the object that it names.

    Raises:
        ImageError: the answer has none of the words, or the mask none of their colours.
    """
    text = observation.text
    assert text is not None
    found = [
        (word, one)
        for colour, word in names.words
        if text.find(word) is not None and (one := object_of(objects, colour)) is not None
    ]
    if not found:
        words = ", ".join(f"{word} (#{colour:06x})" for colour, word in names.words)
        raise ImageError(
            f"{observation.picture.path}: of its words and colours {words}, none is in the answer "
            f"{text.answer!r} and in {objects.path}; give an `answer` in --words"
        )
    return found


def _seen_by_control(
    observation: Observation,
    picture: Picture,
    control: Model,
    request: EvaluationRequest,
    questions: Questions,
) -> Observation:
    """The observation of the control; it gets the same input, and the same answer in words."""
    text = observation.text
    if text is not None:
        questions = replace(questions, prompting=Prompting(text.prompt, text.answer))
    fit = request.fit if control.sound else observation.placement.fit
    return look(picture, control, questions, fit=fit, mask=request.mask)


def _scores(
    seen: tuple[Observation, Observation | None],
    objects: Objects | None,
    request: EvaluationRequest,
) -> Sequence[Score]:
    """Scores of one question: of the model, of its control if there is one, and of baselines."""
    observation, of_control = seen
    scorer = MapScorer(
        observation,
        objects,
        groups=request.groups,
        settings=request.settings,
        seed=request.seed,
        localized=request.localized,
        among=request.among,
    )
    questions = request.questions
    answers = [answer(observation, questions, method) for method in questions.methods]
    if observation.text is not None and len(answers[0].questions) > 1:
        raise UsageError(
            "evaluate takes one word: give -q word:NAME, or the words for the objects of all masks "
            "with --words FILE"
        )
    for each in answers:  # the command line allows one question only
        assert len(each.questions) == 1
    scores = [score for each in answers for score in scorer.maps(each)]
    if of_control is not None:
        query = answers[0].query
        if query.found is not None:  # the same object query
            questions = replace(questions, queries=(str(query),))
        for method in questions.methods:
            scores += scorer.maps(answer(of_control, questions, method), RANDOM)
    return [*scores, *scorer.trivial(answers[0])]


NAME = "pictures.jsonl"


class Store:
    """The entries of a folder, by key; without a folder, the entries of this run.

    Each finished picture adds a line to `pictures.jsonl`. `close` rewrites the file in the order of
    this run, with the entries of this run only.

    >>> store = Store(Path("out"))
    >>> store.get("the digest of settings and files") is None         # nothing was done yet
    True
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / NAME
        self._lines: dict[str, str] = {}
        if folder is not None and self._path is not None:
            whole_files.check_folder(folder)
            lines = line_files.whole_lines(self._path)
            self._lines = {key: line for line in lines if (key := _key(line)) is not None}
            if lines:  # drops an unfinished last line
                self._write(self._lines)

    @property
    def lasting(self) -> bool:
        """Whether the entries are kept in a file."""
        return self._path is not None

    def get(self, key: str) -> SummaryEntry | None:
        """The entry of a key, or None."""
        line = self._lines.get(key)
        return None if line is None else from_data(json.loads(line))

    def add(self, key: str, entry: SummaryEntry) -> None:
        """Add an entry.

        Raises:
            OutputError: the file cannot be written.
        """
        line = encoding.as_json({"key": key, **as_data(entry)})
        self._lines[key] = line
        if self._path is not None:
            line_files.append(whole_files.make_folder(self._path.parent) / NAME, line)

    def close(self, keys: Sequence[str]) -> list[Path]:
        """Write exactly the entries of these keys, in their order.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._path is None:
            return []
        return [self._write({key: self._lines[key] for key in keys})]

    def _write(self, lines: Mapping[str, str]) -> Path:
        assert self._path is not None
        return line_files.write_lines(self._path, (f"{line}\n".encode() for line in lines.values()))


def _key(line: str) -> str | None:
    """The key of a line; None if the line is incomplete or unusable."""
    try:
        data = json.loads(line)
        from_data(data)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    key = data.get("key")
    return key if isinstance(key, str) else None
