"""Draws contact sheets: the original and its maps, with titles and colour bars."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attnviz.drawing.overlay import Style, draw_points, draw_region, overlay
from attnviz.drawing.panels import CELL, described, marked_panel, panel, thumbnail
from attnviz.drawing.scale import Range
from attnviz.drawing.text import FAINT, INK, PAPER, font
from attnviz.explanation.explanation import Answer, Explanation
from attnviz.explanation.naming import STAR, in_sheet, marked, question_in_words, rows, title
from attnviz.io.picture import Picture, PictureLike, with_pixels

_WIDTH = 170  # narrowest cell, so that titles of a layer and a head fit
_WIDEST = 320  # of a cell, for the titles of objects
_GAP, _BAR, _TITLE = 14, 8, 19
_TITLE_ROOM = 2 * CELL  # a narrower sheet is made wider for its title, up to this


@dataclass(frozen=True)
class Cell:
    """One picture of the sheet, already small, with the text above it and its colour bar below.

    `colours` is the table of its own bar, if it differs from that of the sheet.
    """

    thumbnail: Image.Image
    title: str
    scale: Range | None = None
    colours: NDArray[np.uint8] | None = None


def compose(
    original: Cell,
    cells: Sequence[Cell | None],
    colours: NDArray[np.uint8],
    *,
    title: str,
    columns: int | None = None,
    beside: bool = False,
    least: int = _WIDTH,
) -> Image.Image:
    """The original and all cells in rows, under a title.

    Args:
        original: the first picture; with `columns` it has its own row, unless `beside` is True.
        cells: the maps; None leaves a place empty.
        colours: the colour table of the bars, (n, 3).
        title: one line at the top.
        columns: number of places in a row, such as one per head for several layers; None chooses
            a number that makes the sheet a little wider than high.
        beside: the original takes the first place of the first row.
        least: smallest width of a place in pixels, so that titles fit.
    """
    first = 1 if beside or columns is None else columns
    cells = [original, *cells]
    width = max(least, *(cell.thumbnail.width for cell in cells if cell is not None))
    height = max(cell.thumbnail.height for cell in cells if cell is not None)
    step = (width + _GAP, height + 2 * _TITLE + _BAR + _GAP)
    columns = columns or _columns(len(cells), step)
    places = [0, *range(first, first + len(cells) - 1)]
    rows = math.ceil((places[-1] + 1) / columns)
    head = _TITLE + _GAP
    room = min(_TITLE_ROOM, math.ceil(font(bold=True).getlength(_one_line(title))) + 2 * _GAP)
    size = max(columns * step[0] + _GAP, room), head + rows * step[1] + _GAP
    sheet = Image.new("RGB", size, PAPER)
    _write(sheet, (_GAP, _GAP), title, INK, sheet.width - 2 * _GAP, bold=True)
    for place, cell in zip(places, cells, strict=True):
        if cell is None:
            continue
        row, column = divmod(place, columns)
        origin = (_GAP + column * step[0], head + _GAP + row * step[1])
        _draw_cell(sheet, cell, origin, width, colours)
    return sheet


def text_width(text: str) -> int:
    """The width of a title in pixels."""
    return math.ceil(font(bold=False).getlength(text))


def _columns(number: int, step: tuple[int, int]) -> int:
    """The number of columns that makes the sheet about 1.5 times as wide as high."""
    columns_for_ratio = math.sqrt(1.5 * number * step[1] / step[0])
    return max(1, min(number, round(columns_for_ratio)))


def _draw_cell(
    sheet: Image.Image,
    cell: Cell,
    origin: tuple[int, int],
    width: int,
    colours: NDArray[np.uint8],
) -> None:
    x, y = origin
    _write(sheet, (x, y), cell.title, INK, width)
    y += _TITLE
    sheet.paste(cell.thumbnail, (x, y))
    if cell.scale is None:
        return
    y += cell.thumbnail.height + 4
    bar = _bar(colours if cell.colours is None else cell.colours, cell.thumbnail.width)
    sheet.paste(bar, (x, y))
    _write(sheet, (x, y + _BAR + 1), bar_label(cell.scale), FAINT, width)


def bar_label(scale: Range) -> str:
    """The label under a colour bar: its two ends, with enough digits to distinguish them.

    >>> bar_label(Range("head", 0.0004, 0.031))
    '0.0004 … 0.031'
    >>> bar_label(Range("head", 0.01401, 0.01404))
    '0.01401 … 0.01404'
    """
    if scale.kind != "fixed" and scale.flat:
        return f"{scale.minimum:.2g} everywhere"
    for digits in range(2, 9):
        low, high = f"{scale.minimum:.{digits}g}", f"{scale.maximum:.{digits}g}"
        if low != high:
            break
    return f"{low} … {high}" + (" (log)" if scale.kind == "log" else "")


def _bar(colours: NDArray[np.uint8], width: int) -> Image.Image:
    """The colour table from its lowest to its highest, `width` pixels long."""
    index = np.linspace(0, len(colours) - 1, max(width, 64)).round().astype(np.intp)
    return Image.fromarray(np.broadcast_to(colours[index], (_BAR, len(index), 3)).copy())


def _write(
    sheet: Image.Image,
    where: tuple[int, int],
    text: str,
    colour: str,
    width: int,
    *,
    bold: bool = False,
) -> None:
    """A line of text, its end cut to fit."""
    letters = font(bold=bold)
    text = _one_line(text)
    if letters.getlength(text) > width:
        while text and letters.getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    ImageDraw.Draw(sheet).text(where, text, fill=colour, font=letters)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


_STRIP = 16  # pixels: a picture with a side this short is too coarse to draw a map on


def draw(picture: Picture, answer: Answer, scale: Range, style: Style) -> Image.Image:
    """A map over its picture, with exactly the picture's size, its sampled points and object."""
    image = overlay(
        picture,
        answer.values,
        drawn=answer.drawn,
        placement=answer.placement,
        scale=scale,
        style=style,
    )
    place = answer.placement.to_picture
    draw_points(image, [(*place(p.x, p.y), p.level, p.weight) for p in answer.points])
    if answer.region is not None:
        draw_region(image, answer.region)
    return image


def small(picture: PictureLike, side: int = CELL) -> Picture:
    """A picture reduced to its size in a sheet; a smaller one, a strip or a sound is left."""
    short, long = sorted((picture.width, picture.height))
    if picture.sound is not None or long <= side or short * side < _STRIP * long:
        return with_pixels(picture)
    return Picture(picture.path, np.asarray(thumbnail(with_pixels(picture).image(), side)))


def cells_on(
    explanation: Explanation,
    preview: Picture,
    scales: Sequence[Range],
    style: Style,
    side: int = CELL,
) -> list[Cell]:
    """Each map drawn on `preview`, a small picture, for a place in the sheet `side` pixels long."""
    cells = []
    for answer, scale in zip(explanation.answers, scales, strict=True):
        placement = answer.placement.of_size(preview.width, preview.height)
        image = draw(preview, replace(answer, placement=placement), scale, style)
        image = panel(image, explanation.observation.picture, side)
        cells.append(Cell(image, title(explanation, answer), scale))
    return cells


def sheet(
    explanation: Explanation,
    cells: Sequence[Cell],
    style: Style,
    *,
    preview: Picture | None = None,
    caption: str | None = None,
    side: int = CELL,
) -> Image.Image:
    """The contact sheet; each of several layers has its own row, even if layers differ in heads.

    Args:
        explanation: the explanation to show.
        cells: its drawn maps.
        style: how the maps were drawn.
        preview: a smaller picture to show instead of the explanation's own.
        caption: the text above the original; by default its size.
        side: longest side of the original in the sheet, in pixels.
    """
    shown = in_sheet(explanation)  # other cells, of several maps, follow
    cells = [cell for n, cell in enumerate(cells) if n >= len(shown) or shown[n]]
    lengths = rows(explanation)
    columns = max(lengths) if len(lengths) > 1 else None
    placed: list[Cell | None] = []
    rest = iter(cells)
    for length in lengths:
        placed += [*islice(rest, length), *[None] * ((columns or length) - length)]
    placed += rest  # blends
    return compose(
        original(explanation, preview, side=side, caption=caption),
        placed,
        style.colours,
        title=heading(explanation),
        columns=columns,
        least=_least(explanation),
    )


def _least(explanation: Explanation) -> int:
    """The smallest width of a place in the sheet; titles of objects are longer than others."""
    named = [title(explanation, each) for each in explanation.answers if each.region is not None]
    return min(_WIDEST, max(_WIDTH, *map(text_width, named))) if named else _WIDTH


def original(
    explanation: Explanation,
    preview: Picture | None = None,
    *,
    side: int = CELL,
    caption: str | None = None,
) -> Cell:
    """The photograph (or `preview`) with marks at the queries that are places or objects on it."""
    picture = explanation.observation.picture
    image = (preview or with_pixels(picture)).image()
    regions = {each.query: each.region for each in explanation.answers if each.region is not None}
    for region in regions.values():
        draw_region(image, region)
    questions = (question.query for question in explanation.questions)
    asked = [query for query in questions if explanation.observation.shows(query.time)]
    return Cell(marked_panel(image, picture, asked, side), caption or described(picture))


def heading(explanation: Explanation) -> str:
    """The title: picture, model, question and grids (one per layer if they differ)."""
    observation = explanation.observation
    grids = [answer.placement.grid for answer in explanation.answers]
    sizes = ", ".join(dict.fromkeys(f"{grid.columns}x{grid.rows}" for grid in grids))
    causes = (observation.assumed.get(number) for number in explanation.layers)
    assumed = next((cause for cause in causes if cause is not None), None)
    tiles = "" if explanation.tiles is None else f" of {explanation.tiles.count} tiles"
    mark = "" if assumed is None else f"PLACES ASSUMED ({assumed})  ·  "
    starred = any(marked(explanation, answer) for answer in explanation.answers)
    return (
        f"{mark}{shortened(observation.picture.name)}  ·  {shortened(observation.model.spec)}  ·  "
        f"{question_in_words(explanation)}  ·  "
        f"{sizes} {observation.model.tokens}{tiles}" + f"  ·  {STAR} most localized" * starred
    )


def shortened(name: str, length: int = 32) -> str:
    """A name; if it is long, without its beginning, since the end of a path distinguishes it.

    >>> shortened("/data/experiments/2025/checkpoints/dino-run-17", 24)
    '…/checkpoints/dino-run-17'
    """
    return name if len(name) <= length else f"…{name[-length:]}"
