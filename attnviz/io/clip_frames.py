"""Chooses the frames of a clip that a model of clips sees at once."""

from contextlib import closing
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from attnviz.errors import UsageError
from attnviz.io.clips import Clip, Frame, frames, open_clip
from attnviz.io.parts import FrameSelection, parse_frames


@dataclass(frozen=True, eq=False)
class ClipFrames:
    """The frames of a clip that a model of clips sees at once.

    Attributes:
        clip: the clip.
        frames: the frames; each lasts until the next one.
        whole: whether they are spread over the whole clip.
    """

    clip: Clip
    frames: tuple[Frame, ...]
    whole: bool = True

    @property
    def times(self) -> tuple[float, ...]:
        """The time of each frame, in seconds."""
        return tuple(float(frame.pts * self.clip.time_base) for frame in self.frames)

    @property
    def end(self) -> float:
        """The end of the last frame, in seconds."""
        last = self.frames[-1]
        return float((last.pts + last.duration) * self.clip.time_base)

    def frame_at(self, seconds: float) -> int:
        """The frame that is shown at a time, by its number among these frames.

        Raises:
            UsageError: none of them is.
        """
        if not self.times[0] <= seconds < self.end:
            raise UsageError(
                f"--query …@{seconds:g}: the model sees {self.times[0]:.4g} to {self.end:.4g} "
                f"seconds of {self.clip.path}; give a time between these"
            )
        return sum(time <= seconds for time in self.times) - 1


def load_clip(path: str | Path, frames: str = "::16") -> ClipFrames:
    """Read some frames of a clip, evenly spread, for a model that takes clips.

    >>> seen = load_clip("clip.mp4", "::4")
    >>> len(seen.frames), seen.times[0]
    (4, 0.0)

    Args:
        path: path of the clip.
        frames: `A:B:N`: N frames from frame A to before frame B; see `select`.

    Raises:
        UsageError: there are not so many frames.
        ImageError, MissingExtraError: as of `open_clip`.
    """
    return select(open_clip(path), parse_frames(frames), 16)


def select(clip: Clip, selection: FrameSelection, count: int) -> ClipFrames:
    """The chosen frames of a clip, evenly spread from the first to the last; `count` by default.

    Frame i of n is that of number round(A + i·(B − 1 − A)/(n − 1)).

    Raises:
        UsageError: the clip has fewer frames.
        ImageError: the clip is damaged.
    """
    start, wanted = selection.start or 0, selection.count or count
    stop = selection.stop or sum(1 for _ in frames(clip))
    if stop - start < wanted:
        raise UsageError(
            f"--frames: {clip.path} has {max(0, stop - start)} frames there, and the model takes "
            f"{wanted}; give a longer clip, or a longer part of it"
        )
    step = (stop - 1 - start) / max(1, wanted - 1)
    numbers = [round(start + n * step) for n in range(wanted)]
    found = {}
    with closing(frames(clip)) as moving:
        for each in takewhile(lambda frame: frame.number <= numbers[-1], moving):
            if each.number in numbers:
                found[each.number] = each
    if len(found) < wanted:
        raise UsageError(
            f"--frames: {clip.path} ends before frame {stop - 1}; leave the second number out"
        )
    chosen = [found[number] for number in numbers]
    ends = [each.pts for each in chosen[1:]] + [chosen[-1].pts + chosen[-1].duration]
    lasting = [replace(f, duration=end - f.pts) for f, end in zip(chosen, ends, strict=True)]
    return ClipFrames(clip, tuple(lasting), not start and selection.stop is None)
