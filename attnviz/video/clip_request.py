"""Runs the model on all frames of a clip, several frames per run."""

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
"""The most frames per run of the model; a run that does not fit in memory is halved."""
_PIXELS = 64_000_000
"""The most pixels of the frames that wait for a run: a fifth of a gigabyte."""


@dataclass(frozen=True)
class ClipRequest:
    """What every frame of a clip is asked: fields take the values of the options of their names."""

    clip: Clip
    model: Model
    questions: Questions
    fit: Fit = "keep"
    mask: str | None = None

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
