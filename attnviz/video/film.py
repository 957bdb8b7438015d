"""Makes a film of the maps of a clip, frame by frame."""

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

from PIL import Image

from attnviz.drawing.overlay import Style
from attnviz.drawing.scale import Range, parse_scale, scale_of
from attnviz.drawing.sheet import cells_on, draw, sheet, small
from attnviz.errors import ImageError
from attnviz.explanation.explanation import Explanation
from attnviz.io.clips import Clip, Frame, frames
from attnviz.io.sound import Sound
from attnviz.output import whole_files
from attnviz.output.make_record import make_record
from attnviz.output.movies import Film
from attnviz.output.record_parts import Moment
from attnviz.output.records import Record
from attnviz.output.write_blends import drawn_blends
from attnviz.output.write_pictures import Drawing
from attnviz.video.clip_heads import choose_heads
from attnviz.video.clip_maps import ClipRequest, MapSpool, on

S = TypeVar("S")
T = TypeVar("T")
Progress = Callable[[int, int], None]
_AHEAD = 8
"""The most frames that are drawn at once; encoding keeps other cores busy."""


@dataclass(frozen=True)
class Made:
    """A film that was written.

    Attributes:
        path: path of the film.
        frames: number of its frames.
        size: (width, height) of each frame.
        sound: the new codec of each sound codec of the clip that the file cannot hold.
        has_sound: whether it has the clip's sound.
        strip: path of the strip, of a model that sees several frames at once.
        record: the record of all frames, of such a model.
    """

    path: Path
    frames: int
    size: tuple[int, int]
    sound: dict[str, str]
    has_sound: bool = False
    strip: Path | None = None
    record: Record | None = None


def _again(clip: Clip, spool: MapSpool) -> Iterator[tuple[Frame, Explanation]]:
    """Every frame, decoded again, with its explanation.

    Raises:
        ImageError: the clip has another number of frames than before.
    """
    for frame, explanation in zip_longest(frames(clip), spool.explanations()):
        if frame is None or explanation is None:
            raise ImageError(f"{clip.path}: was changed while it was looked at; run again")
        yield frame, explanation


@dataclass(frozen=True)
class Drawn:
    """A frame of a film, drawn, and its record."""

    frame: Frame
    image: Image.Image
    record: Record


@dataclass(frozen=True)
class Screen:
    """Draws the frames of a film: a single map at the frame's own size, several maps as a sheet.

    The components of one layer are one picture in colours.

    Attributes:
        clip: the clip.
        name: name of the film.
        style: how maps are drawn.
    """

    clip: Clip
    name: str
    style: Style

    def draw(self, frame: Frame, explanation: Explanation, ranges: Sequence[Range]) -> Drawn:
        """Draw a frame, and make its record."""
        answers = explanation.answers
        seconds = float(frame.pts * self.clip.time_base)
        record = make_record(
            explanation,
            scales=ranges,
            files=[self.name] * len(answers),
            moment=Moment(frame=frame.number, time=seconds, rate=float(self.clip.rate)),
        )
        colours = drawn_blends(explanation, frame.picture, ranges, self.style, wanted=False)
        if len(colours) == 1:
            return Drawn(frame, colours[0][1], record)
        if len(answers) == 1:
            return Drawn(frame, draw(frame.picture, answers[0], ranges[0], self.style), record)
        thumbnail = small(frame.picture)
        cells = cells_on(explanation, thumbnail, ranges, self.style)
        caption = f"frame {frame.number}, {seconds:.2f} s"
        image = sheet(explanation, cells, self.style, preview=thumbnail, caption=caption)
        return Drawn(frame, image, record)


def make_films(
    request: ClipRequest,
    paths: Sequence[Path],
    drawing: Drawing,
    *,
    on_record: Callable[[Record], None],
    stopped: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> list[Made]:
    """Explain every frame of a clip, and write a film of as many frames for each method.

    The model sees every frame once. A first pass keeps the maps in files and finds the scale; each
    film then decodes the frames again. One method with a scale of LO:HI needs no first pass.
    Neither the frames nor their maps are kept in memory. Localized heads are chosen before, from
    some of the frames, and are the same in all. All films get their names at the end:
    after an error, or if `stopped` returns True, none of them is left behind.

    Args:
        request: the clip and the questions.
        paths: path of the film of each method; the endings are of `movies.FILMS`.
        drawing: how maps are drawn.
        on_record: is called with the record of every frame in order, method by method.
        stopped: returns True to end early.
        progress: is called with (frames explained plus frames drawn, the total of both).

    Raises:
        AttnvizError: an error of any kind.
        KeyboardInterrupt: `stopped` returned True.
    """
    scale, clip = parse_scale(drawing.scale), request.clip
    request = choose_heads(request, stopped)
    report, done = progress or (lambda _, __: None), itertools.count(1)
    total = clip.expected
    spools: list[MapSpool] = []

    def each(record: Record) -> None:
        if stopped():
            raise KeyboardInterrupt
        on_record(record)
        so_far = next(done)
        report(so_far, max(total, so_far))

    with contextlib.ExitStack() as stack:
        if scale.kind != "fixed" or len(paths) > 1:
            spools = [stack.enter_context(MapSpool.beside(path)) for path in paths]
            passes = len(paths) + 1
            for _, explanations in request.answered(stopped):
                for spool, explanation in zip(spools, explanations, strict=True):
                    spool.add(explanation)
                report(next(done), passes * max(clip.expected, spools[0].count))
            total = passes * spools[0].count
        made = []
        for number, path in enumerate(paths):
            moments: Iterable[tuple[Frame, Explanation]] = (
                _again(clip, spools[number])
                if spools
                else ((frame, explanation) for frame, (explanation,) in request.answered(stopped))
            )
            ranges = (
                None
                if scale.kind == "fixed"
                else spools[number].ranges(
                    scale_of(request.questions.methods[number], drawing.scale)
                )
            )
            temporary = stack.enter_context(whole_files.writing(path))
            screen = Screen(clip, path.name, drawing.style())
            drawn = drawn_ahead(screen, drawing, moments, ranges)
            made.append(write_film(path, temporary, clip, drawn, each))
        return made


def drawn_ahead(
    screen: Screen,
    drawing: Drawing,
    moments: Iterable[tuple[Frame, Explanation]],
    ranges: Sequence[Range] | None,
) -> Generator[Drawn, None, None]:
    """The frames of a film; without `ranges`, each frame has the ranges of the fixed scale."""

    def one(moment: tuple[Frame, Explanation]) -> Drawn:
        frame, explanation = moment[0], on(moment[1], moment[0])
        return screen.draw(frame, explanation, ranges or drawing.ranges(explanation))

    return _ahead(one, moments)


def write_film(
    path: Path,
    temporary: Path,
    clip: Clip,
    drawn: Generator[Drawn, None, None],
    each: Callable[[Record], None],
    *,
    with_sound: bool = True,
) -> Made:
    """Write frames as they arrive, with the clip's sound; the first frame sets the size.

    `each` is called with the record of every frame.
    """
    first = next(drawn)
    count = 0
    with (
        contextlib.closing(drawn),
        Sound.of(clip) if with_sound else contextlib.nullcontext() as sound,
        Film.writing(
            path,
            first.image.size,
            rate=clip.rate,
            time_base=clip.time_base,
            sound=sound,
            temporary=temporary,
        ) as film,
    ):
        for one in chain([first], drawn):
            each(one.record)
            film.add(one.image, pts=one.frame.pts, duration=one.frame.duration)
            count += 1
    encoded = {} if sound is None else sound.encoded
    return Made(path, count, film.size, encoded, sound is not None)


def _ahead(do: Callable[[S], T], items: Iterable[S]) -> Generator[T, None, None]:
    """Results of `do` for each item, in order, on several cores; a few are computed ahead."""
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
        pool.shutdown(cancel_futures=True)  # after an error, or Ctrl-C, start nothing more
