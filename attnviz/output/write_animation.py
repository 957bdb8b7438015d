"""Writes the maps of one picture as an animation: a frame for each layer, head, or word."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from PIL import Image

from attnviz.drawing.overlay import Style
from attnviz.drawing.panels import CELL
from attnviz.drawing.scale import Range
from attnviz.drawing.sheet import cells_on, compose, heading, original, small
from attnviz.explanation.explanation import Answer, Explanation
from attnviz.explanation.naming import in_sheet, merges_layers
from attnviz.io.picture import Picture
from attnviz.output import movies, whole_files
from attnviz.output.record_parts import AnimationInfo

By = Literal["layers", "heads", "words"]
LARGE = 2 * CELL
"""Longest side, in pixels, of a map that is alone in its frame."""
_WIDE = 2
"""If width / height of a picture is larger than this, its only map lies below it, not beside it."""


def animate(
    explanation: Explanation,
    by: By,
    scales: Sequence[Range],
    style: Style,
    *,
    preview: Picture | None = None,
) -> list[Image.Image]:
    """A frame for each layer, each head of each layer, or each word, all of one size.

    Each frame shows the picture first, then the maps of this layer, head or word, each with its
    title and its colour bar. If layers have different numbers of heads, some places stay empty.

    Args:
        explanation: the maps to draw.
        by: what changes from frame to frame.
        scales: the range of each map.
        style: how the maps are drawn.
        preview: a small picture to draw on; by default it is made from the explanation's own.
    """
    groups = _groups(explanation, by)
    most = max(map(len, groups))
    side = LARGE if most == 1 and preview is None else CELL
    preview = preview or small(explanation.observation.picture, side)
    first = original(explanation, preview, side=side)
    wide = preview.width > _WIDE * preview.height
    columns = None if most > 1 else 1 if wide else 2
    frames = []
    for numbers in groups:
        part = replace(explanation, answers=tuple(explanation.answers[n] for n in numbers))
        cells = cells_on(part, preview, [scales[n] for n in numbers], style, side)
        places = [*cells, *[None] * (most - len(cells))]
        caption = f"{_what(explanation, part.answers[0], by)}  ·  {heading(part)}"
        frames.append(
            compose(first, places, style.colours, title=caption, columns=columns, beside=True)
        )
    return frames


def write_animation(
    explanation: Explanation,
    folder: Path,
    by: By,
    kind: movies.Kind,
    rate: float,
    *,
    scales: Sequence[Range],
    style: Style,
    preview: Picture | None = None,
) -> tuple[AnimationInfo, Path]:
    """Write `layers.webp`, `heads.gif` …; returns its entry in the record, and its path.

    Raises:
        OutputError: the file cannot be written, or the kind cannot hold such frames.
        MissingExtraError: the kind is MP4, and PyAV is not installed.
    """
    frames = animate(explanation, by, scales, style, preview=preview)
    name = f"{by}.{movies.SUFFIXES[kind]}"
    path = whole_files.make_folder(folder) / name
    movies.write(path, frames, kind, rate, colours=style.colours)
    return AnimationInfo(by=by, frames=len(frames), rate=rate, file=name), path


def _groups(explanation: Explanation, by: By) -> list[list[int]]:
    """For each frame, the numbers of its answers; all questions share it, but for words."""
    found: dict[tuple[int, int | None], list[int]] = {}
    shown = in_sheet(explanation)
    for number, answer in enumerate(explanation.answers):
        if by == "words":
            if shown[number]:
                found.setdefault((answer.question, None), []).append(number)
            continue
        key = answer.layer, answer.head if by == "heads" else None
        found.setdefault(key, []).append(number)
    return list(found.values())


def _what(explanation: Explanation, answer: Answer, by: By) -> str:
    """The caption of a frame: which layer of how many, and which head; or which word of them."""
    if by == "words":
        count = len(explanation.questions)
        return f"{answer.query.name or answer.query}, {answer.question + 1} of {count}"
    layers = explanation.observation.count
    upto = "up to layer" if merges_layers(explanation) else "layer"
    caption = f"{upto} {answer.layer} of 0 to {layers - 1}"
    return (
        f"{caption}, head {answer.head}" if by == "heads" and answer.head is not None else caption
    )
