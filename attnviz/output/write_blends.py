"""Draws pictures of several maps each, for the sheet and as files."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from attnviz.drawing.blend import Blend, blends, draw_blend
from attnviz.drawing.overlay import Style
from attnviz.drawing.panels import panel
from attnviz.drawing.scale import Range
from attnviz.drawing.sheet import Cell
from attnviz.explanation.explanation import Explanation
from attnviz.io.picture import Picture
from attnviz.output import encoding, line_files
from attnviz.output.record_parts import BlendInfo


def drawn_blends(
    explanation: Explanation,
    picture: Picture,
    scales: Sequence[Range],
    style: Style,
    *,
    wanted: bool,
) -> list[tuple[Blend, Image.Image]]:
    """Every blend, drawn on the picture; those of questions only if they are `wanted`."""
    answers = explanation.answers
    return [
        (
            blend,
            draw_blend(
                picture,
                [answers[number] for number in blend.numbers],
                [scales[number] for number in blend.numbers],
                blend.colours,
                style,
            ),
        )
        for blend in blends(explanation, questions=wanted)
    ]


def blend_cells(explanation: Explanation, drawn: Sequence[tuple[Blend, Image.Image]]) -> list[Cell]:
    """The blends at their size in the sheet."""
    shown = explanation.observation.picture
    return [Cell(panel(image, shown), blend.title) for blend, image in drawn]


def write_blends(
    explanation: Explanation,
    drawn: Sequence[tuple[Blend, Image.Image]],
    folder: Path,
    kind: str,
) -> tuple[list[BlendInfo], list[Path]]:
    """Write each blend as a file; returns their entries in the record, and their paths.

    Raises:
        OutputError: a file cannot be written.
    """
    infos, paths = [], []
    for blend, image in drawn:
        name, first = f"{blend.stem}.{kind}", explanation.answers[blend.numbers[0]]
        paths.append(line_files.write_lines(folder / name, encoding.as_parts(image, kind)))
        colours = list(blend.colours)
        infos.append(BlendInfo(layer=first.layer, head=first.head, colours=colours, file=name))
    return infos, paths
