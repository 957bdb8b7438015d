"""From a clip to a film of its maps, frame by frame."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

from PIL import Image

from attnviz.drawing.explained_sheet import cells_on, draw, sheet, small
from attnviz.drawing.overlay import Style
from attnviz.drawing.scale import Range, parse_scale
from attnviz.errors import ImageError
from attnviz.explanation.explanation import Explanation
from attnviz.io.clips import Clip, Frame, frames
from attnviz.io.sound import Sound
from attnviz.output.make_record import make_record
from attnviz.output.movies import Film
from attnviz.output.records import Moment, Record
from attnviz.output.write_pictures import Drawing
from attnviz.video.clip_request import ClipRequest
from attnviz.video.map_spool import MapSpool, on

S = TypeVar("S")
T = TypeVar("T")
Progress = Callable[[int, int], None]
_AHEAD = 8
"""Frames that are drawn at once, at most: encoding keeps other cores busy."""


@dataclass(frozen=True)
class Made:
    """A film that was written.

    Attributes:
        path: where.
        frames: how many it has.
        size: (width, height) of each.
        sound: of each codec of the clip's sound that the file cannot hold, what it is now.
    """

    path: Path
    frames: int
    size: tuple[int, int]
    sound: dict[str, str]


def _again(clip: Clip, spool: MapSpool) -> Iterator[tuple[Frame, Explanation]]:
    """Every frame once more, with what was answered of it.

    Raises:
        ImageError: they are not as many as before.
    """
    for frame, explanation in zip_longest(frames(clip), spool.explanations()):
        if frame is None or explanation is None:
            raise ImageError(f"{clip.path}: was changed while it was looked at; run again")
        yield frame, explanation


@dataclass(frozen=True)
class _Drawn:
    frame: Frame
    image: Image.Image
    record: Record


@dataclass(frozen=True)
class _Screen:
    """What frames are drawn on: one map at the frame's own size, of several a sheet.

    Attributes:
        clip: whose frames.
        name: of the film.
        style: how maps are drawn.
    """

    clip: Clip
    name: str
    style: Style

    def draw(self, frame: Frame, explanation: Explanation, ranges: Sequence[Range]) -> _Drawn:
        """A frame, and all that is said about it."""
        answers = explanation.answers
        seconds = float(frame.pts * self.clip.time_base)
        record = make_record(
            explanation,
            scales=ranges,
            files=[self.name] * len(answers),
            moment=Moment(frame=frame.number, time=seconds, rate=float(self.clip.rate)),
        )
        if len(answers) == 1:
            return _Drawn(frame, draw(frame.picture, answers[0], ranges[0], self.style), record)
        thumbnail = small(frame.picture)
        cells = cells_on(explanation, thumbnail, ranges, self.style)
        caption = f"frame {frame.number}, {seconds:.2f} s"
        image = sheet(explanation, cells, self.style, preview=thumbnail, caption=caption)
        return _Drawn(frame, image, record)


def make_film(
    request: ClipRequest,
    path: Path,
    drawing: Drawing,
    *,
    on_record: Callable[[Record], None],
    stopped: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> Made:
    """Ask every frame of a clip, and write what was answered as a film of as many.

    Where the scale is not given as LO:HI, it is found in a first pass, in which the model runs;
    frames are decoded anew for the second, and neither they nor their maps are held in memory.

    Args:
        request: what is asked of which clip.
        path: of the film; its ending is one of `movies.FILMS`.
        drawing: how maps are drawn.
        on_record: is given the record of every frame, in order.
        stopped: says whether to end early; nothing is left behind then.
        progress: is given (frames explained plus frames drawn, the total of both).

    Raises:
        AttnvizError: of any kind; nothing is left behind.
        KeyboardInterrupt: it was `stopped`.
    """
    scale, clip, style = parse_scale(drawing.scale), request.clip, drawing.style()
    tell = progress or (lambda _, __: None)
    with MapSpool.beside(path) as spool:
        moments: Iterator[tuple[Frame, Explanation]] = request.answered(stopped)
        total, ranges = clip.expected, None
        if scale.kind != "fixed":
            for _, found in moments:
                spool.add(found)
                tell(spool.count, 2 * max(clip.expected, spool.count))
            moments = _again(clip, spool)
            total, ranges = 2 * spool.count, spool.ranges(scale)

        screen = _Screen(clip, path.name, style)

        def one(moment: tuple[Frame, Explanation]) -> _Drawn:
            frame, explanation = moment[0], on(moment[1], moment[0])
            return screen.draw(frame, explanation, ranges or drawing.ranges(explanation))

        def each(drawn_frame: _Drawn) -> None:
            if stopped():
                raise KeyboardInterrupt
            on_record(drawn_frame.record)
            so_far = spool.count + drawn_frame.frame.number + 1
            tell(so_far, max(total, so_far))

        return _write(path, clip, _ahead(one, moments), each)


def _write(
    path: Path, clip: Clip, drawn: Generator[_Drawn, None, None], each: Callable[[_Drawn], None]
) -> Made:
    """Write frames as they come, with the clip's sound; the first says how large they are."""
    first = next(drawn)
    count = 0
    with (
        contextlib.closing(drawn),
        Sound.of(clip) as sound,
        Film.writing(
            path, first.image.size, rate=clip.rate, time_base=clip.time_base, sound=sound
        ) as film,
    ):
        for one in chain([first], drawn):
            each(one)
            film.add(one.image, pts=one.frame.pts, duration=one.frame.duration)
            count += 1
    return Made(path, count, film.size, {} if sound is None else sound.encoded)


def _ahead(do: Callable[[S], T], items: Iterable[S]) -> Generator[T, None, None]:
    """What `do` makes of each, in order, on every core; a few are made ahead, never more."""
    threads = min(_AHEAD, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(do, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, or Ctrl-C, nothing more is begun
