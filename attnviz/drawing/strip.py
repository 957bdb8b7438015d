"""Draws the maps of a clip that a model saw at once as a strip: a column for each view."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from attnviz.drawing.overlay import Style
from attnviz.drawing.scale import Range, Scale, ranges
from attnviz.drawing.sheet import Cell, cells_on, compose, heading, original, small
from attnviz.explanation.explanation import Explanation, by_head
from attnviz.explanation.naming import title

SIDE = 150
"""Longest side of a frame in the strip, in pixels."""


def head_ranges(explanation: Explanation, scale: Scale) -> list[Range]:
    """The range of weights that the colours of each head span, over all views of a clip."""
    heads = by_head(explanation.answers)
    weights = [np.concatenate([a.values[a.drawn] for a in views]) for views in heads.values()]
    return ranges(scale, weights, [layer for _, layer, _ in heads])


def strip(explanation: Explanation, scales: Sequence[Range], style: Style) -> Image.Image:
    """A sheet with a column for each view of a clip, at its first frame, and a row for each head.

    The title of a map begins with the share of the query's attention that lies in this view.

    Args:
        explanation: the maps of a clip.
        scales: the range of each head; see `head_ranges`.
        style: how maps are drawn.
    """
    clip = explanation.observation.clip
    assert clip is not None  # callers checked it
    numbers = sorted({answer.frames[0] for answer in explanation.answers})
    frames: list[Cell] = []
    columns: list[list[Cell]] = []
    for number in numbers:
        one = explanation.at_frame(number)
        preview = small(clip.frames[number].picture, SIDE)
        frames.append(original(one, preview, side=SIDE, caption=f"{clip.times[number]:.2f} s"))
        cells = cells_on(one, preview, scales, style, SIDE)
        shares = [f"{100 * float(answer.values.sum()):.1f} %" for answer in one.answers]
        if number == numbers[0]:
            names = [title(one, answer) for answer in one.answers]
            shares = [f"{share}  {name}" for share, name in zip(shares, names, strict=True)]
        columns.append([replace(c, title=share) for c, share in zip(cells, shares, strict=True)])
    rows = [cell for row in zip(*columns, strict=True) for cell in row]
    return compose(
        frames[0],
        [*frames[1:], *rows],
        style.colours,
        title=heading(explanation),
        columns=len(numbers),
        beside=True,
        least=SIDE,
    )
