"""Draws several maps over one picture, each in a colour of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from attnviz.drawing.overlay import Style, over, spread_out
from attnviz.drawing.scale import Range
from attnviz.errors import UsageError
from attnviz.explanation.explanation import Answer, Explanation
from attnviz.explanation.naming import in_words
from attnviz.io.picture import Picture

COLOURS = {
    2: ("#ff8000", "#0080ff"),
    3: ("#ff0000", "#00ff00", "#0000ff"),
}
"""Colours of two and of three maps, which add up to white."""


@dataclass(frozen=True)
class Blend:
    """Maps that are drawn together.

    Attributes:
        stem: the name of the file, without its ending.
        title: which maps these are, with their colours, in words.
        numbers: the numbers of the answers.
        colours: the colour of each.
    """

    stem: str
    title: str
    numbers: tuple[int, ...]
    colours: tuple[str, ...]


PALETTE = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00",
    "#cc79a7", "#999999", "#8b5a2b", "#7fff00", "#4b0082", "#ffffff",
)  # fmt: skip
"""Colours of clusters and factors: those of Okabe and Ito, and four more."""


def blends(explanation: Explanation, *, questions: bool = True) -> list[Blend]:
    """The maps that are drawn in one picture.

    For each layer and head these are the maps of all questions, if there are several and
    `questions` is True; of methods of components, the components of each layer.

    Raises:
        UsageError: there are more questions than colours, or several views of a clip.
    """
    if explanation.answers[0].component is not None:
        return _of_components(explanation)
    count = len(explanation.questions)
    if count == 1 or explanation.localized or not questions:
        return []
    if count not in COLOURS:
        raise UsageError(
            f"--blend tells two or three maps apart, and there are {count}; give fewer"
        )
    explanation.require_one_view()
    groups: dict[tuple[int, int | None], list[int]] = {}
    for number, answer in enumerate(explanation.answers):
        groups.setdefault((answer.layer, answer.head), []).append(number)
    named = zip(COLOURS[count], _asked(explanation), strict=True)
    title = ", ".join(f"{name} {_WORDS[colour]}" for colour, name in named)
    return [
        Blend(
            f"layer{layer:02d}{'' if head is None else f'-head{head:02d}'}-blend",
            title,
            tuple(numbers),
            COLOURS[count],
        )
        for (layer, head), numbers in groups.items()
    ]


_WORDS = {
    "#ff8000": "orange", "#0080ff": "blue",
    "#ff0000": "red", "#00ff00": "green", "#0000ff": "blue",
}  # fmt: skip


def _of_components(explanation: Explanation) -> list[Blend]:
    """The components of each layer: the first three of `pca`, all clusters and factors."""
    if explanation.views > 1:
        return []
    groups: dict[int, list[int]] = {}
    for number, answer in enumerate(explanation.answers):
        groups.setdefault(answer.layer, []).append(number)
    found = []
    for layer, numbers in groups.items():
        parts = numbers[:3] if explanation.method == "pca" else numbers
        if len(parts) < 2:
            continue
        colours = COLOURS[len(parts)] if explanation.method == "pca" else PALETTE[: len(parts)]
        names = ", ".join(str(explanation.answers[number].component) for number in parts)
        title = f"layer {layer}  {explanation.method} {names}"
        found.append(Blend(f"layer{layer:02d}-colours", title, tuple(parts), colours))
    return found


def _asked(explanation: Explanation) -> list[str]:
    """What tells the questions apart: their targets, their queries, or both."""
    questions = explanation.questions
    targets = [q.target and in_words(q.target.target) for q in questions]
    queries = [str(q.query) for q in questions]
    several = [names for names in (targets, queries) if len(set(names)) > 1]
    return [" from ".join(filter(None, names)) for names in zip(*several, strict=True)]


def draw_blend(
    picture: Picture,
    answers: Sequence[Answer],
    scales: Sequence[Range],
    colours: Sequence[str],
    style: Style,
) -> Image.Image:
    """A picture with several maps over it, of exactly the picture's size.

        light = Σ_k position(map_k)·colour_k, at most white
        pixel = (1 − alpha)·photograph + alpha·light

    A map of both signs shows what is positive: its range begins at 0.
    """
    maps = []
    for answer, scale, colour in zip(answers, scales, colours, strict=True):
        if scale.kind not in ("fixed", "log") and scale.minimum < 0 < scale.maximum:
            scale = replace(scale, minimum=0.0)  # noqa: PLW2901 — the same range, cut
        placement = answer.placement.of_size(picture.width, picture.height)
        position = scale.position(answer.values)
        spread = spread_out(position, answer.drawn, placement, style.interpolation)
        maps.append((spread, np.array(ImageColor.getrgb(colour), np.float32)))

    def light(columns: slice) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        shape = picture.height, columns.stop - columns.start
        total, visible = np.zeros((*shape, 3), dtype=np.float32), np.ones(shape, dtype=np.bool_)
        for spread, rgb in maps:
            position, seen = spread(columns)
            total += position[..., None].astype(np.float32) * rgb
            visible &= seen
        return np.minimum(total, 255, out=total), visible

    return over(picture, light, style.alpha)
