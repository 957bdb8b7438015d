"""Draws an explanation, and writes its pictures, numbers and maps as files."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnviz.drawing.overlay import Interpolation, Style, colour_table
from attnviz.drawing.panels import panel, sized
from attnviz.drawing.scale import Range, ranges, scale_of
from attnviz.drawing.sheet import Cell, cells_on, draw, sheet, small
from attnviz.errors import UsageError
from attnviz.explanation.explanation import Answer, Explanation
from attnviz.explanation.naming import stem, title
from attnviz.io.picture import Picture, with_pixels
from attnviz.output import encoding, line_files, movies, whole_files
from attnviz.output.make_record import make_record
from attnviz.output.record_parts import AnimationInfo
from attnviz.output.records import Record
from attnviz.output.write_animation import By, write_animation
from attnviz.output.write_blends import blend_cells, drawn_blends, write_blends

_ROOM = 1 << 26
"""How many pixels of overlays may be drawn at once, in several threads."""


class Tabular(Protocol):
    """A record that is written as JSON and as CSV."""

    def data(self) -> dict[str, Any]:
        """As plain data."""

    def rows(self) -> list[dict[str, Any]]:
        """As flat rows of the same columns."""


@dataclass(frozen=True)
class Drawing:
    """How maps are drawn: the fields take the values of the options of the same names.

    `overlay_size` is the longest side of overlays in pixels; None draws them at the picture's size.

    >>> attnviz.render(explanation, Drawing(colormap="magma"))[5, 0].size
    (480, 320)
    """

    scale: str = "head"
    colormap: str = "viridis"
    alpha: float = 0.5
    interpolation: Interpolation = "bicubic"
    format: str = "png"
    animate: By | None = None
    movie: movies.Kind = "webp"
    fps: float = 2.0
    blend: bool = False
    overlay_size: int | None = None

    def style(self) -> Style:
        """The style of the overlays, with the table of the colour map."""
        return Style(colour_table(self.colormap), self.alpha, self.interpolation)

    def check(self) -> None:
        """Check that everything can be drawn here, before anything runs.

        Raises:
            UsageError: no such colour map.
            MissingExtraError: the library that writes the animation is not installed.
        """
        self.style()
        if self.animate is not None:
            movies.check(self.movie)

    def ranges(self, explanation: Explanation) -> list[Range]:
        """The range of weights that the colours of each answer span."""
        answers = explanation.answers
        weights = [answer.values[answer.drawn] for answer in answers]
        layers = [answer.layer for answer in answers]
        heads = None  # the words of an answer are compared: all maps of a head have one range
        if explanation.observation.text is not None:
            heads = [(answer.layer, answer.head) for answer in answers]
        scale = scale_of(explanation.method, self.scale)
        return ranges(scale, weights, layers, heads)


def render(
    explanation: Explanation, drawing: Drawing | None = None, *, on: Picture | None = None
) -> dict[tuple[int, int | None], Image.Image]:
    """Overlays of all maps by (layer, head); each has exactly the picture's size.

    If the method merges heads, head is None, or the number of a component. `on` is the picture in
    another size, to draw on.

    >>> render(explanation)[5, 3].save("head3.png")

    Raises:
        UsageError: no such scale or colour map, or the explanation has several questions, or
            several views of a clip.
        ImageError: the explanation's picture has no pixels, and `on` is None.
    """
    drawing = drawing or Drawing()
    if len(explanation.questions) > 1:
        raise UsageError("several questions were asked; render each of explanation.each()")
    explanation.require_one_view()
    picture = sized(on or with_pixels(explanation.observation.picture), drawing.overlay_size)
    style = drawing.style()
    return {
        (answer.layer, answer.part): draw(picture, _placed_on(answer, picture), scale, style)
        for answer, scale in zip(explanation.answers, drawing.ranges(explanation), strict=True)
    }


def write_pictures(
    explanation: Explanation,
    folder: Path,
    drawing: Drawing,
    *,
    threads: int | None = None,
    reduced: Picture | None = None,
) -> tuple[Record, list[Path], Image.Image]:
    """Write overlays, sheet and numbers of one picture.

    Files of an earlier run that this one does not replace are removed; nothing else is touched.
    `threads` is the number of threads that draw; by default there is one per core. Maps are drawn
    on `reduced`, a smaller picture, if the explanation's own is not in memory; one after another,
    since it may still be large.

    Returns:
        The record, the files in the order of writing, and the sheet.

    Raises:
        OutputError: a file cannot be written.
    """
    style, scales = drawing.style(), drawing.ranges(explanation)
    before = whole_files.earlier_files(whole_files.make_folder(folder))
    picture = sized(reduced or with_pixels(explanation.observation.picture), drawing.overlay_size)
    preview = None if reduced is None else small(reduced)

    def one(answer: Answer, scale: Range) -> tuple[Cell, Path]:
        image = draw(picture, _placed_on(answer, picture), scale, style)
        name = f"{stem(explanation, answer)}.{drawing.format}"
        path = line_files.write_lines(folder / name, encoding.as_parts(image, drawing.format))
        shown = panel(image, explanation.observation.picture)
        return Cell(shown, title(explanation, answer), scale), path

    room = max(1, _ROOM // (picture.width * picture.height))
    threads = threads or (min(os.cpu_count() or 1, room) if reduced is None else 1)
    drawn = _at_once(one, explanation.answers, scales, threads)
    cells, paths = [cell for cell, _ in drawn], [path for _, path in drawn]
    files = [path.name for path in paths]
    mixed = drawn_blends(explanation, picture, scales, style, wanted=drawing.blend)
    blended, more = write_blends(explanation, mixed, folder, drawing.format)
    cells, paths = [*cells, *blend_cells(explanation, mixed)], [*paths, *more]
    animation, moving = _animation(
        explanation, folder, drawing, scales=scales, style=style, preview=preview
    )
    record = make_record(
        explanation, scales=scales, files=files, animation=animation, blends=blended
    )
    paths += write_numbers(record, folder)  # before the sheet, which may be too large to encode
    whole = sheet(explanation, cells, style, preview=preview)
    name = f"{whole_files.SHEET}.{drawing.format}"
    paths.append(whole_files.write_whole(folder / name, encoding.as_image(whole, drawing.format)))
    paths += moving
    whole_files.remove(folder, before - {path.name for path in paths})
    return record, paths, whole


def _placed_on(answer: Answer, picture: Picture) -> Answer:
    """The answer for the picture in the size in which it is drawn."""
    return replace(answer, placement=answer.placement.of_size(picture.width, picture.height))


def _animation(
    explanation: Explanation,
    folder: Path,
    drawing: Drawing,
    *,
    scales: Sequence[Range],
    style: Style,
    preview: Picture | None = None,
) -> tuple[AnimationInfo | None, list[Path]]:
    """Write the animation if one is requested."""
    if drawing.animate is None:
        return None, []
    animation, path = write_animation(
        explanation,
        folder,
        drawing.animate,
        drawing.movie,
        drawing.fps,
        scales=scales,
        style=style,
        preview=preview,
    )
    return animation, [path]


def _at_once(
    do: Callable[[Answer, Range], tuple[Cell, Path]],
    answers: Sequence[Answer],
    scales: Sequence[Range],
    threads: int,
) -> list[tuple[Cell, Path]]:
    """Draw in several threads: most of the time goes into encoding, which releases the GIL."""
    if threads == 1:
        return list(map(do, answers, scales))
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(do, answers, scales))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, or Ctrl-C, start nothing more


def write_sheet(
    explanation: Explanation, folder: Path, drawing: Drawing, preview: Picture
) -> tuple[Record, list[Path], Image.Image]:
    """Write only the sheet and `stats.json`; the maps are drawn on `preview`, a small picture.

    The sheet looks like the one of `write_pictures`, which draws the maps large first.

    Returns:
        The record, the files in the order of writing, and the sheet.

    Raises:
        OutputError: a file cannot be written.
    """
    style, scales = drawing.style(), drawing.ranges(explanation)
    whole_files.make_folder(folder)
    cells = cells_on(explanation, preview, scales, style)
    mixed = drawn_blends(explanation, preview, scales, style, wanted=drawing.blend)
    cells += blend_cells(explanation, mixed)
    whole = sheet(explanation, cells, style, preview=preview)
    animation, moving = _animation(
        explanation, folder, drawing, scales=scales, style=style, preview=preview
    )
    record = make_record(explanation, scales=scales, animation=animation)
    name = f"{whole_files.SHEET}.{drawing.format}"
    paths = [
        *write_numbers(record, folder, table=False),
        whole_files.write_whole(folder / name, encoding.as_image(whole, drawing.format)),
        *moving,
    ]
    return record, paths, whole


def write_numbers(
    record: Tabular, folder: Path, stem: str = whole_files.STATS, *, table: bool = True
) -> list[Path]:
    """Write a record as `stats.json`, and with `table` also as `stats.csv`.

    Raises:
        OutputError: a file cannot be written.
    """
    whole_files.make_folder(folder)
    files = {f"{stem}.json": encoding.as_json(record.data(), indent=1) + "\n"}
    files |= {f"{stem}.csv": encoding.as_csv(record.rows())} if table else {}
    return [whole_files.write_whole(folder / name, text.encode()) for name, text in files.items()]


def write_maps(explanation: Explanation, folder: Path) -> Path:
    """Write `maps.npz`: `maps` (layers, heads, rows, columns), `layers`, `heads`, `drawn`.

    `drawn` is (rows, columns), False for tokens that are masked or lie in padding. If the method
    merges heads, there is one head with the number −1. With several questions, the first axis of
    the maps is the question; `queries`, and `targets` if there are any, name the questions. If
    layers differ in their grids or heads, each has its own arrays instead of `maps`, `heads` and
    `drawn`: `layer00` (heads, rows, columns), `layer00_heads`, `layer00_drawn`. Of localized heads
    each map has its own array, `map00` (rows, columns) and `map00_drawn`; `layers`, `heads` and,
    with several questions, `questions` have a number for each map. With a prompt `maps_view0` …
    (maps, rows, columns) are the weights on each view of the picture as they are; if layers differ
    in their views, `maps_view0_of` … are the numbers of these maps among all.

    Raises:
        OutputError: the file cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {"layers": np.array(explanation.layers)}
    if explanation.alike:
        arrays["maps"] = explanation.maps
        arrays["heads"] = _head_numbers(explanation.heads)
        arrays["drawn"] = explanation.answers[0].drawn
    elif explanation.localized:
        arrays |= _single_maps(explanation.answers)
    else:
        for layer, answers in explanation.by_layer.items():
            name = f"layer{layer:02d}"
            heads = dict.fromkeys(answer.part for answer in answers)
            maps = np.stack([answer.values for answer in answers])
            several = (len(explanation.questions),) if len(explanation.questions) > 1 else ()
            arrays[name] = maps.reshape(*several, len(heads), *maps.shape[1:])
            arrays[f"{name}_heads"] = _head_numbers(heads)
            arrays[f"{name}_drawn"] = answers[0].drawn
    arrays |= _on_views(explanation)
    questions = explanation.questions
    if len(questions) > 1:
        arrays["queries"] = np.array([str(question.query) for question in questions])
        scored = [str(q.target.target) for q in questions if q.target is not None]
        arrays |= {"targets": np.array(scored)} if scored else {}
    data = encoding.as_npz(**arrays)
    return whole_files.write_whole(whole_files.make_folder(folder) / whole_files.MAPS, data)


def _on_views(explanation: Explanation) -> dict[str, NDArray[Any]]:
    """The weights on each view of the picture, with a prompt."""
    rows = [answer.row for answer in explanation.answers if answer.row is not None]
    arrays: dict[str, NDArray[Any]] = {}
    for view in sorted({number for row in rows for number in row.views}):
        these = [n for n, row in enumerate(rows) if view in row.views]
        arrays[f"maps_view{view}"] = np.stack([rows[n].views[view] for n in these])
        if len(these) < len(rows):
            arrays[f"maps_view{view}_of"] = np.array(these)
    return arrays


def _single_maps(answers: Sequence[Answer]) -> dict[str, NDArray[Any]]:
    """An array for each map, and the layer, head and question of each."""
    arrays: dict[str, NDArray[Any]] = {
        "layers": np.array([answer.layer for answer in answers]),
        "heads": _head_numbers(answer.head for answer in answers),
    }
    if answers[-1].question:
        arrays["questions"] = np.array([answer.question for answer in answers])
    for number, answer in enumerate(answers):
        arrays[f"map{number:02d}"] = answer.values
        arrays[f"map{number:02d}_drawn"] = answer.drawn
    return arrays


def _head_numbers(heads: Iterable[int | None]) -> NDArray[np.int64]:
    return np.array([-1 if head is None else head for head in heads])
