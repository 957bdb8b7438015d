"""Chooses the most localized heads of a clip once, so that all its frames show the same ones."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from attnviz.explanation.explanation import LocalizedHead
from attnviz.explanation.request import check_picture, look, rank
from attnviz.explanation.selection import Localized, parse_heads
from attnviz.io.clips import Clip, frames
from attnviz.methods import METHODS
from attnviz.video.clip_maps import ClipRequest

SAMPLED = 16
"""Heads are chosen from about so many frames of a clip."""


def choose_heads(request: ClipRequest, stopped: Callable[[], bool]) -> ClipRequest:
    """The request with the localized heads of its clip; unchanged if these are not requested.

    A head's score is the mean of its scores in the sampled frames, without those where its map is
    flat. Heads that are flat in fewer frames come first, then those with the lower score, the lower
    layer and the lower head. Only sums are kept, so memory does not grow with the clip.

    Raises:
        UsageError: the model cannot answer the question, or has fewer heads.
        ImageError: the clip is damaged.
        KeyboardInterrupt: `stopped` returned True.
    """
    wanted, asked = parse_heads(request.questions.heads), request.questions
    names = [name for name in asked.methods if METHODS[name].merges == "nothing"]
    if not isinstance(wanted, Localized) or not names:
        return request
    step = sampling(request.clip)
    scores: dict[str, dict[int, _Scores]] = {name: defaultdict(_Scores) for name in names}
    for frame in frames(request.clip):
        if stopped():
            raise KeyboardInterrupt
        if frame.number % step:
            continue
        if frame.number == 0:
            check_picture(frame.picture, request.model, asked, fit=request.fit)
        seen = look(frame.picture, request.model, asked, fit=request.fit, mask=request.mask)
        for name in names:
            for question, heads in enumerate(rank(seen, asked, name)):
                scores[name][question].add(heads)
    chosen = {
        name: [of_questions[n].lowest(wanted.count) for n in sorted(of_questions)]
        for name, of_questions in scores.items()
    }
    return replace(request, questions=replace(asked, chosen=chosen))


def sampling(clip: Clip) -> int:
    """Of how many frames one is sampled: about `SAMPLED` in all, or one a second if unknown."""
    return max(1, clip.expected // SAMPLED if clip.expected else round(clip.rate))


class _Scores:
    """The sum of each head's scores, and the number of frames in which its map is flat."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], _ScoreSum] = defaultdict(_ScoreSum)

    def add(self, heads: Iterable[LocalizedHead]) -> None:
        """Add the scores of one frame."""
        for each in heads:
            self._sums[each.layer, each.head].add(each.score)

    def lowest(self, count: int) -> tuple[LocalizedHead, ...]:
        """The heads with the lowest scores."""
        order = sorted(self._sums, key=lambda at: (self._sums[at].flat, self._sums[at].mean, at))
        return tuple(LocalizedHead(*at, self._sums[at].mean) for at in order[:count])


@dataclass
class _ScoreSum:
    sum: float = 0.0
    count: int = 0
    flat: int = 0

    def add(self, score: float) -> None:
        if math.isinf(score):
            self.flat += 1
        else:
            self.sum, self.count = self.sum + score, self.count + 1

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else math.inf
