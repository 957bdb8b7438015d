"""Makes a film and a strip of the maps of a model that sees several frames of a clip at once."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from attnviz.drawing.scale import scale_of
from attnviz.drawing.strip import head_ranges, strip
from attnviz.explanation.explanation import Explanation, by_head
from attnviz.explanation.request import answer, look
from attnviz.output import encoding, whole_files
from attnviz.output.make_record import make_record
from attnviz.output.records import Record
from attnviz.output.write_pictures import Drawing
from attnviz.video.clip_maps import ClipRequest
from attnviz.video.film import Made, Progress, Screen, drawn_ahead, write_film


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
    a head have one range of colours. After an error, or if `stopped` returns True, nothing is left.

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
        made, strips = [], []
        for path, whole in zip(paths, wholes, strict=True):
            temporary = stack.enter_context(whole_files.writing(path))
            film, image = _made(path, temporary, whole, drawing, each)
            made.append(film)
            strips.append(encoding.as_image(image, "png"))
        for film, data in zip(made, strips, strict=True):  # once all films are whole
            assert film.strip is not None
            whole_files.write_whole(film.strip, data)
        return made


def _made(
    path: Path,
    temporary: Path,
    whole: Explanation,
    drawing: Drawing,
    each: Callable[[Record], None],
) -> tuple[Made, Image.Image]:
    """Write the film of one method, and draw its strip."""
    clip, style = whole.observation.clip, drawing.style()
    assert clip is not None  # the model saw one
    whole = replace(whole, observation=whole.observation.without_run())
    scales = head_ranges(whole, scale_of(whole.method, drawing.scale))
    moments = ((frame, whole.at_frame(number)) for number, frame in enumerate(clip.frames))
    drawn = drawn_ahead(Screen(clip.clip, path.name, style), drawing, moments, scales)
    film = write_film(path, temporary, clip.clip, drawn, each, with_sound=clip.whole)
    of_heads = by_head(whole.answers)
    record = make_record(
        whole,
        scales=[s for s, views in zip(scales, of_heads.values(), strict=True) for _ in views],
        files=[path.name] * len(whole.answers),
    )
    strip_path = path.with_name(f"{path.stem}-strip.png")
    return replace(film, strip=strip_path, record=record), strip(whole, scales, style)
