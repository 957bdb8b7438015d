"""Draws contact sheets of an explanation: the original and its maps, with titles and bars."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from PIL import Image

from attnviz.drawing.overlay import Style, mark, overlay
from attnviz.drawing.scale import Range
from attnviz.drawing.sheet import CELL, Cell, compose, thumbnail
from attnviz.explanation.explanation import Answer, Explanation, question_in_words, rows, title
from attnviz.io.picture import Picture, PictureLike, with_pixels

_STRIP = 16  # pixels: a picture with a side this short is too coarse to draw a map on


def draw(picture: Picture, answer: Answer, scale: Range, style: Style) -> Image.Image:
    """A map over its picture, with exactly the picture's size."""
    return overlay(
        picture,
        answer.values,
        drawn=answer.drawn,
        placement=answer.placement,
        scale=scale,
        style=style,
    )


def small(picture: PictureLike, side: int = CELL) -> Picture:
    """A picture reduced to its size in a sheet; a smaller picture, or a strip, does not change."""
    short, long = sorted((picture.width, picture.height))
    if long <= side or short * side < _STRIP * long:
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
        cells.append(Cell(thumbnail(image, side), title(explanation, answer), scale))
    return cells


def sheet(
    explanation: Explanation,
    cells: Sequence[Cell],
    style: Style,
    *,
    preview: Picture | None = None,
    caption: str | None = None,
) -> Image.Image:
    """The contact sheet; each of several layers has its own row, even if layers differ in heads.

    Args:
        explanation: the explanation to show.
        cells: its drawn maps.
        style: how the maps were drawn.
        preview: a smaller picture to show instead of the explanation's own.
        caption: the text above the original; by default its size.
    """
    lengths = rows(explanation)
    columns = max(lengths) if len(lengths) > 1 else None
    placed: list[Cell | None] = []
    rest = iter(cells)
    for length in lengths:
        placed += [*islice(rest, length), *[None] * ((columns or length) - length)]
    return compose(
        original(explanation, preview, caption=caption),
        placed,
        style.colours,
        title=heading(explanation),
        columns=columns,
    )


def original(
    explanation: Explanation,
    preview: Picture | None = None,
    *,
    side: int = CELL,
    caption: str | None = None,
) -> Cell:
    """The photograph (or `preview`) with marks at the queries that are places on it."""
    picture = explanation.observation.picture
    preview = preview or with_pixels(picture)
    image = preview.image()
    factors = 2 * (preview.width / picture.width, preview.height / picture.height)
    for query in dict.fromkeys(question.query for question in explanation.questions):
        numbers = [n * factor for n, factor in zip(query.numbers, factors, strict=False)]
        mark(image, replace(query, numbers=tuple(numbers)))
    return Cell(thumbnail(image, side), caption or f"original, {picture.width}x{picture.height}")


def heading(explanation: Explanation) -> str:
    """The title: picture, model, question and grids (one per layer if they differ)."""
    observation = explanation.observation
    grids = [answer.placement.grid for answer in explanation.answers]
    sizes = ", ".join(dict.fromkeys(f"{grid.columns}x{grid.rows}" for grid in grids))
    causes = (observation.assumed.get(number) for number in explanation.layers)
    assumed = next((cause for cause in causes if cause is not None), None)
    mark = "" if assumed is None else f"PLACES ASSUMED ({assumed})  ·  "
    return (
        f"{mark}{shortened(observation.picture.name)}  ·  {shortened(observation.model.spec)}  ·  "
        f"{question_in_words(explanation)}  ·  "
        f"{sizes} {observation.model.tokens}"
    )


def shortened(name: str, length: int = 32) -> str:
    """A name; if it is long, without its beginning, since the end of a path distinguishes it.

    >>> shortened("/data/experiments/2025/checkpoints/dino-run-17", 24)
    '…/checkpoints/dino-run-17'
    """
    return name if len(name) <= length else f"…{name[-length:]}"
