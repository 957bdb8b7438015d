"""Runs the model on all frames of a clip, and keeps the maps until the scale is known.

Maps are small and are kept in a file. Frames are large: they are decoded again for the drawing.
"""

import contextlib
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray

from attnviz.drawing.scale import Range, Scale, ranges
from attnviz.errors import OutputError, UsageError
from attnviz.explanation.explanation import Answer, Explanation, ResolvedQuestion
from attnviz.explanation.object_regions import ObjectRegion
from attnviz.explanation.request import Questions, answer, check_picture, look_many
from attnviz.geometry.placement import Fit
from attnviz.geometry.queries import Query
from attnviz.io.clip_frames import ClipFrames
from attnviz.io.clips import Clip, Frame, frames
from attnviz.models.model import Model
from attnviz.statistics import More

T = TypeVar("T")
TOGETHER = 16
"""The most frames per run of the model; a run that does not fit in memory is halved."""
_PIXELS = 64_000_000
"""The most pixels of the frames that wait for a run: a fifth of a gigabyte."""


@dataclass(frozen=True)
class ClipRequest:
    """What every frame of a clip is asked: fields take the values of the options of their names.

    `seen` are the frames that a model of clips sees at once; None for a model of pictures.
    """

    clip: Clip
    model: Model
    questions: Questions
    fit: Fit = "keep"
    mask: str | None = None
    seen: ClipFrames | None = None

    def answered(
        self, stopped: Callable[[], bool]
    ) -> Iterator[tuple[Frame, tuple[Explanation, ...]]]:
        """Every frame with its explanation by each method, without the tensors of the run.

        Raises:
            UsageError: the model cannot answer the question, or not for every frame.
            ImageError: the clip is damaged, or a mask picture cannot be read.
            KeyboardInterrupt: `stopped` returned True.
        """
        together = max(1, min(TOGETHER, _PIXELS // (self.clip.width * self.clip.height)))
        expected: list[int] | None = None
        for group in _groups(frames(self.clip), together):
            if stopped():
                raise KeyboardInterrupt
            if expected is None:
                check_picture(group[0].picture, self.model, self.questions, fit=self.fit)
            for frame, found in zip(group, self._answers(group), strict=True):
                counts = [len(each.answers) for each in found]
                expected = expected or counts
                if counts != expected and self.questions.prompting is not None:
                    raise UsageError(
                        f"the answer about frame {frame.number} has other words than that about "
                        "frame 0; give --answer TEXT, to follow the same words"
                    )
                if counts != expected:
                    raise UsageError(
                        f"--target auto equals another target in frame {frame.number}, but not in "
                        "frame 0; give auto alone, or targets by name"
                    )
                yield frame, found

    def _answers(self, group: list[Frame]) -> Iterator[tuple[Explanation, ...]]:
        observations = look_many(
            [frame.picture for frame in group],
            self.model,
            self.questions,
            fit=self.fit,
            mask=self.mask,
        )
        for one in observations:
            found = [answer(one, self.questions, name) for name in self.questions.methods]
            kept = one.without_run()
            yield tuple(replace(each, observation=kept) for each in found)


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group


@dataclass(frozen=True)
class _Part:
    """The parts of an explanation that differ from frame to frame."""

    questions: tuple[ResolvedQuestion, ...]
    values: tuple[NDArray[np.float32], ...]
    places: tuple[tuple[Query, ObjectRegion | None], ...]
    numbers: tuple[dict[str, float], ...]
    more: Mapping[int, More]
    errors: Mapping[int, float]
    drawn: tuple[NDArray[np.bool_], ...] = ()
    """Of components, which cells are not left out; of other methods all frames have the same."""


class MapSpool:
    """Explanations of consecutive frames by one method, and the range of their weights."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._first: Explanation | None = None
        self._extremes: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        self.count = 0

    @classmethod
    @contextlib.contextmanager
    def beside(cls, path: Path) -> Iterator["MapSpool"]:
        """A spool in the folder of the film, in a file without a name: it ends with the process.

        Raises:
            OutputError: the folder cannot be written, or the disk is full.
        """
        try:
            with tempfile.TemporaryFile(dir=path.parent) as file:
                yield cls(file)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error

    def add(self, explanation: Explanation) -> None:
        """Keep the explanation of the next frame."""
        answers = explanation.answers
        if self._first is None:
            self._first = explanation
            nothing = np.array([np.inf, np.inf, -np.inf], dtype=np.float32)
            self._extremes = np.tile(nothing, (len(answers), 1))
        part = _Part(
            tuple(map(_without_graph, explanation.questions)),
            tuple(answer.values for answer in answers),
            tuple((answer.query, answer.region) for answer in answers),
            tuple(answer.numbers for answer in answers),
            explanation.more,
            explanation.observation.errors,
            tuple(answer.drawn for answer in answers) if answers[0].component else (),
        )
        pickle.dump(part, self._file, pickle.HIGHEST_PROTOCOL)
        for extremes, one in zip(self._extremes, answers, strict=True):
            _widen(extremes, one)
        self.count += 1

    def ranges(self, scale: Scale) -> list[Range]:
        """The range of weights that the colours of each map span, over all frames."""
        assert self._first is not None  # a clip has a frame
        spanned = [each[np.isfinite(each)] for each in self._extremes]
        return ranges(scale, spanned, [answer.layer for answer in self._first.answers])

    def explanations(self) -> Iterator[Explanation]:
        """The explanations, in the order of the frames."""
        first = self._first
        self._file.seek(0)
        for _ in range(self.count):
            assert first is not None
            part: _Part = pickle.load(self._file)  # no other process can write to it
            before = [one.drawn for one in first.answers]
            answers = zip(
                first.answers, part.values, part.places, part.numbers, part.drawn or before,
                strict=True,
            )  # fmt: skip
            yield replace(
                first,
                observation=replace(first.observation, checked=part.errors),
                questions=part.questions,
                answers=tuple(
                    replace(one, values=v, query=query, region=region, numbers=n, drawn=d)
                    for one, v, (query, region), n, d in answers
                ),
                more=part.more,
            )


def on(explanation: Explanation, frame: Frame) -> Explanation:
    """An explanation with the frame as its picture."""
    return replace(explanation, observation=replace(explanation.observation, picture=frame.picture))


def _without_graph(question: ResolvedQuestion) -> ResolvedQuestion:
    """The question with its score detached from the graph."""
    scored = question.target
    if scored is None:
        return question
    return replace(question, target=replace(scored, value=scored.value.detach().cpu()))


def _widen(extremes: NDArray[np.float32], answer: Answer) -> None:
    """Update the smallest weight so far, the smallest above 0, and the largest."""
    weights = answer.values[answer.drawn]
    positive = weights[weights > 0]
    extremes[0] = min(extremes[0], weights.min())
    extremes[1] = min(extremes[1], positive.min(initial=np.inf))
    extremes[2] = max(extremes[2], weights.max())
