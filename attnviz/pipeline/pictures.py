"""From an explanation to pictures and files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from attnviz import outputs
from attnviz.drawing.overlay import Interpolation, Style, colour_table, overlay
from attnviz.drawing.scale import Range, parse_scale, ranges
from attnviz.drawing.sheet import Cell, compose, thumbnail
from attnviz.outputs import Format
from attnviz.pipeline.explanation import Explanation
from attnviz.pipeline.report import make_record
from attnviz.records import Record


@dataclass(frozen=True)
class Drawing:
    """How maps are drawn; the values that the options of the same names take."""

    scale: str = "head"
    colormap: str = "viridis"
    alpha: float = 0.5
    interpolation: Interpolation = "bicubic"
    format: Format = "png"

    def style(self) -> Style:
        """With the colour map looked up."""
        return Style(colour_table(self.colormap), self.alpha, self.interpolation)

    def ranges(self, explanation: Explanation) -> list[list[Range]]:
        """The weights that the colours span, [layer][head]."""
        scale = parse_scale(self.scale)
        return ranges(scale, explanation.maps, explanation.observation.drawn)


def render(
    explanation: Explanation, drawing: Drawing | None = None
) -> dict[tuple[int, int], Image.Image]:
    """Overlays of all maps, by (layer, head), each of exactly the picture's size.

    >>> render(explanation)[11, 3].save("head3.png")

    Raises:
        UsageError: no such scale or colour map.
    """
    drawing = drawing or Drawing()
    found = overlays(explanation, drawing.style(), drawing.ranges(explanation))
    return {(layer, head): image for layer, head, _, image in found}


def overlays(
    explanation: Explanation, style: Style, scales: list[list[Range]]
) -> Iterator[tuple[int, int, Range, Image.Image]]:
    """Layer, head, range and overlay of each map, one at a time."""
    seen = explanation.observation
    for i, layer in enumerate(explanation.layers):
        for j, head in enumerate(explanation.heads):
            scale, values = scales[i][j], explanation.maps[i, j]
            image = overlay(
                seen.picture,
                values,
                drawn=seen.drawn,
                placement=seen.placement,
                scale=scale,
                style=style,
            )
            yield layer, head, scale, image


def write_pictures(
    explanation: Explanation, folder: Path, drawing: Drawing
) -> tuple[Record, list[Path], Image.Image]:
    """Write overlays, sheet and numbers of one picture.

    Files of an earlier run that this one does not replace are removed; nothing else is touched.

    Returns:
        The record, the files in the order of writing, and the sheet.

    Raises:
        OutputError: a file cannot be written.
    """
    style, scales = drawing.style(), drawing.ranges(explanation)
    before = outputs.earlier_files(outputs.make_folder(folder))
    cells, paths = [], []
    for layer, head, scale, image in overlays(explanation, style, scales):
        name = outputs.overlay_name(layer, head, drawing.format)
        paths.append(outputs.write_whole(folder / name, outputs.encode(image, drawing.format)))
        cells.append(Cell(thumbnail(image), f"layer {layer}  head {head}", scale))
    record = make_record(explanation, scales=scales, files=_names(explanation, drawing.format))
    paths += write_numbers(record, folder)  # before the sheet, which may be too large to encode
    sheet = compose(
        Cell(thumbnail(_original(explanation)), _original_title(explanation)),
        cells,
        style.colours,
        title=_title(explanation),
        columns=len(explanation.heads) if len(explanation.layers) > 1 else None,
    )
    name = f"{outputs.SHEET}.{drawing.format}"
    paths.append(outputs.write_whole(folder / name, outputs.encode(sheet, drawing.format)))
    outputs.remove(folder, before - {path.name for path in paths})
    return record, paths, sheet


def write_numbers(record: Record, folder: Path) -> list[Path]:
    """Write `stats.json` and `stats.csv`.

    Raises:
        OutputError: a file cannot be written.
    """
    outputs.make_folder(folder)
    text = outputs.as_json(record.data(), indent=1) + "\n"
    table = outputs.as_csv(record.rows())
    return [
        outputs.write_whole(folder / outputs.STATS_JSON, text.encode()),
        outputs.write_whole(folder / outputs.STATS_CSV, table.encode()),
    ]


def write_maps(explanation: Explanation, folder: Path) -> Path:
    """Write `maps.npz`: `maps` (layers, heads, rows, columns), `layers`, `heads`, `drawn`.

    `drawn` is (rows, columns), False for tokens that are masked or lie in padding.

    Raises:
        OutputError: the file cannot be written.
    """
    data = outputs.as_npz(
        maps=explanation.maps,
        layers=np.array(explanation.layers),
        heads=np.array(explanation.heads),
        drawn=explanation.observation.drawn,
    )
    return outputs.write_whole(outputs.make_folder(folder) / outputs.MAPS, data)


def _names(explanation: Explanation, kind: Format) -> list[list[str]]:
    return [
        [outputs.overlay_name(layer, head, kind) for head in explanation.heads]
        for layer in explanation.layers
    ]


def _title(explanation: Explanation) -> str:
    seen = explanation.observation
    grid = seen.placement.grid
    return (
        f"{seen.picture.name}  ·  {seen.model.spec}  ·  {explanation.method} from "
        f"{explanation.query}  ·  {grid.columns}x{grid.rows} {seen.model.tokens}"
    )


def _original_title(explanation: Explanation) -> str:
    size = f"{explanation.observation.picture.width}x{explanation.observation.picture.height}"
    return f"original, {size}"


def _original(explanation: Explanation) -> Image.Image:
    """The photograph, with the query marked on it where it is a place."""
    picture, numbers = explanation.observation.picture, explanation.query.numbers
    image = picture.image()
    line = max(2, round(max(image.size) / 150))
    draw = ImageDraw.Draw(image)
    if len(numbers) == 2:
        x, y = (int(n) + 0.5 for n in numbers)
        for width, colour in ((2 * line, "black"), (line, "white")):
            r = 4 * line
            draw.line([(x - r, y), (x + r, y)], fill=colour, width=width)
            draw.line([(x, y - r), (x, y + r)], fill=colour, width=width)
    elif len(numbers) == 4:
        for width, colour in ((2 * line, "black"), (line, "white")):
            draw.rectangle(numbers, outline=colour, width=width)
    return image
