"""The expensive pass over a clip: every frame is shown to the model, several in a run."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from attnviz.errors import UsageError
from attnviz.explanation.explanation import Explanation
from attnviz.explanation.request import Questions, answer, check_picture, look_many
from attnviz.geometry.placement import Fit
from attnviz.io.clips import Clip, Frame, frames
from attnviz.models.model import Model

T = TypeVar("T")
TOGETHER = 16
"""Frames in a run of the model, at most; what does not fit in memory is run in halves."""
_PIXELS = 64_000_000
"""Of the frames that wait for it, at most: a fifth of a gigabyte."""


@dataclass(frozen=True)
class ClipRequest:
    """What is asked of every frame of a clip; the values that the options of the names take."""

    clip: Clip
    model: Model
    questions: Questions
    fit: Fit = "keep"
    mask: str | None = None

    def answered(self, stopped: Callable[[], bool]) -> Iterator[tuple[Frame, Explanation]]:
        """Every frame, and what was answered, without the tensors of the run.

        Raises:
            UsageError: a question that cannot be asked, or not of every frame.
            ImageError: a clip that is damaged, or a mask picture that cannot be read.
            KeyboardInterrupt: it was `stopped`.
        """
        together = max(1, min(TOGETHER, _PIXELS // (self.clip.width * self.clip.height)))
        expected: int | None = None
        for group in _groups(frames(self.clip), together):
            if stopped():
                raise KeyboardInterrupt
            if expected is None:
                check_picture(group[0].picture, self.model, self.questions, fit=self.fit)
            for frame, found in zip(group, self._answers(group), strict=True):
                expected = expected or len(found.answers)
                if len(found.answers) != expected:
                    raise UsageError(
                        f"--target auto is another of the targets in frame {frame.number}, and not "
                        "in frame 0; give auto alone, or targets by name"
                    )
                yield frame, found

    def _answers(self, group: list[Frame]) -> Iterator[Explanation]:
        observation = look_many(
            [frame.picture for frame in group],
            self.model,
            self.questions,
            fit=self.fit,
            mask=self.mask,
        )
        for one in observation:
            found = answer(one, self.questions, self.questions.methods[0])
            yield replace(found, observation=one.without_run())


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
