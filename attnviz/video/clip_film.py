"""Makes a film and a strip of the maps of a model that sees several frames of a clip at once."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnviz.drawing.overlay import Style
from attnviz.drawing.scale import Range, parse_scale, ranges
from attnviz.drawing.sheet import Cell, cells_on, compose, heading, original, small
from attnviz.explanation.explanation import Answer, Explanation
from attnviz.explanation.naming import title
from attnviz.explanation.request import answer, look
from attnviz.output import encoding, whole_files
from attnviz.output.make_record import make_record
from attnviz.output.records import Record
from attnviz.output.write_pictures import Drawing
from attnviz.video.clip_maps import ClipRequest
from attnviz.video.film import Made, Progress, Screen, drawn_ahead, write_film

CELL = 150
"""Longest side of a frame in the strip, in pixels."""


def make_clip_films(
    request: ClipRequest,
    paths: Sequence[Path],
    drawing: Drawing,
    *,
    on_record: Callable[[Record], None],
    stopped: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> list[Made]:
    """Run a model of clips once, and write a film of the frames that it saw for each method.

    A frame shows the map of the view that it lies in, and lasts until the next frame. Beside each
    film goes a strip, `NAME-strip.png`: a column for each view, a row for each head. All views of
    a head have one range of colours.

    Args:
        request: the clip, the frames that the model sees, and the questions.
        paths: path of the film of each method.
        drawing: how maps are drawn.
        on_record: is called with the record of every frame in order, method by method.
        stopped: returns True to end early.
        progress: is called with (frames drawn, frames in all).

    Raises:
        AttnvizError: an error of any kind.
        KeyboardInterrupt: `stopped` returned True.
    """
    questions, seen = request.questions, request.seen
    assert seen is not None  # the model takes clips
    observation = look(seen, request.model, questions, fit=request.fit, mask=request.mask)
    wholes = [answer(observation, questions, name) for name in questions.methods]
    report, done = progress or (lambda _, __: None), itertools.count(1)
    total = len(paths) * len(seen.frames)

    def each(record: Record) -> None:
        if stopped():
            raise KeyboardInterrupt
        on_record(record)
        report(next(done), total)

    with contextlib.ExitStack() as stack:
        made = []
        for path, whole in zip(paths, wholes, strict=True):
            temporary = stack.enter_context(whole_files.writing(path))
            made.append(_made(path, temporary, whole, drawing, each))
        return made


def _made(
    path: Path,
    temporary: Path,
    whole: Explanation,
    drawing: Drawing,
    each: Callable[[Record], None],
) -> Made:
    """Write the film and the strip of one method."""
    clip, style = whole.observation.clip, drawing.style()
    assert clip is not None  # the model saw one
    whole = replace(whole, observation=whole.observation.without_run())
    of_frames = [whole.at_frame(number) for number in range(len(clip.frames))]
    scales = _ranges(whole, len(of_frames[0].answers), drawing)
    moments = zip(clip.frames, of_frames, strict=True)
    drawn = drawn_ahead(Screen(clip.clip, path.name, style), drawing, moments, scales)
    film = write_film(path, temporary, clip.clip, drawn, each, with_sound=clip.whole)
    strip = path.with_name(f"{path.stem}-strip.png")
    image = draw_strip(whole, of_frames, scales, style)
    whole_files.write_whole(strip, encoding.as_image(image, "png"))
    of_views = dict.fromkeys(map(_head, whole.answers))
    by_head = dict(zip(of_views, scales, strict=True))
    record = make_record(
        whole,
        scales=[by_head[_head(each)] for each in whole.answers],
        files=[path.name] * len(whole.answers),
    )
    return replace(film, strip=strip, record=record)


def _head(answer: Answer) -> tuple[int, int, int | None]:
    return answer.question, answer.layer, answer.head


def _ranges(whole: Explanation, count: int, drawing: Drawing) -> list[Range]:
    """The range of weights that the colours of each head span, over all views."""
    weights: dict[tuple[int, int, int | None], list[NDArray[np.float32]]] = {}
    for each in whole.answers:
        weights.setdefault(_head(each), []).append(each.values[each.drawn])
    assert len(weights) == count  # a frame has one map of each head
    scale, layers = parse_scale(drawing.scale), [layer for _, layer, _ in weights]
    return ranges(scale, [np.concatenate(each) for each in weights.values()], layers)


def draw_strip(
    whole: Explanation,
    of_frames: Sequence[Explanation],
    scales: Sequence[Range],
    style: Style,
) -> Image.Image:
    """A sheet with a column for each view, at its first frame, and a row for each head.

    The title of a map begins with the share of the query's attention that lies in this view.
    """
    clip = whole.observation.clip
    assert clip is not None  # only a clip has views
    firsts = [
        number
        for number, one in enumerate(of_frames)
        if not number or any(each.frames[0] == number for each in one.answers)
    ]
    frames: list[Cell] = []
    columns: list[list[Cell]] = []
    for number in firsts:
        one = of_frames[number]
        preview = small(clip.frames[number].picture, CELL)
        caption = f"{clip.times[number]:.2f} s"
        frames.append(original(one, preview, side=CELL, caption=caption))
        cells = cells_on(one, preview, scales, style, CELL)
        shares = [f"{100 * float(each.values.sum()):.1f} %" for each in one.answers]
        named = number == firsts[0]
        columns.append(
            [
                replace(cell, title=f"{share}  {title(one, each)}" if named else share)
                for cell, each, share in zip(cells, one.answers, shares, strict=True)
            ]
        )
    rows = [cell for row in zip(*columns, strict=True) for cell in row]
    return compose(
        frames[0],
        [*frames[1:], *rows],
        style.colours,
        title=heading(whole),
        columns=len(firsts),
        beside=True,
        least=CELL,
    )
