"""Draws a comparison, and writes its pictures, numbers and maps as files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from attnviz.comparison import MOST
from attnviz.comparison.compare import Comparison
from attnviz.comparison.comparison_record import ComparisonRecord, PairInfo
from attnviz.comparison.sides import ComparisonSide, heads, names, shared
from attnviz.drawing.overlay import Interpolation, Style, colour_table, draw_region, overlay
from attnviz.drawing.panels import described, marked_panel, panel
from attnviz.drawing.scale import Range
from attnviz.drawing.sheet import Cell, compose, text_width
from attnviz.io.picture import Picture
from attnviz.output import encoding, movies, whole_files
from attnviz.output.record_info import image_info
from attnviz.output.record_parts import AnimationInfo
from attnviz.output.write_pictures import write_numbers

DIVERGING = "RdBu_r"
FULL = Range("fixed", -1.0, 1.0)
"""The range of the colours of a difference: 0, where the sides are alike, is in the middle."""
_COLUMNS = 6  # sides in a row of the sheet
_WIDEST = 320  # pixels that a title can take at most


@dataclass(frozen=True)
class ComparisonDrawing:
    """How sides and differences are drawn: fields take the values of the options of their names."""

    colormap: str = "viridis"
    diverging: str = DIVERGING
    alpha: float = 0.5
    interpolation: Interpolation = "bicubic"
    format: str = "png"
    animate: Literal["checkpoints"] | None = None
    movie: movies.Kind = "webp"
    fps: float = 2.0

    def styles(self) -> tuple[Style, Style]:
        """The styles of sides and of differences, with the tables of their colour maps.

        Raises:
            UsageError: there is no such colour map.
            MissingExtraError: the library that writes the moving picture is not installed.
        """
        if self.animate is not None:
            movies.check(self.movie)
        diverging = colour_table(
            self.diverging, option="--diverging", such="RdBu_r, coolwarm, PuOr_r"
        )
        return (
            Style(colour_table(self.colormap), self.alpha, self.interpolation),
            Style(diverging, self.alpha, self.interpolation),
        )


def overlays(comparison: Comparison, drawing: ComparisonDrawing | None = None) -> list[Image.Image]:
    """An overlay of each side, with exactly the picture's size."""
    style, _ = (drawing or ComparisonDrawing()).styles()
    return [_side(comparison.picture, side, style) for side in comparison.sides]


def differences(
    comparison: Comparison, drawing: ComparisonDrawing | None = None
) -> dict[int, Image.Image]:
    """An overlay of each side's difference from the first side, with exactly the picture's size.

    The photograph is drawn in grey, since its own reds and blues would look like differences. Parts
    that one of the two sides did not see are hatched.
    """
    _, style = (drawing or ComparisonDrawing()).styles()
    grey = comparison.picture.image().convert("L").convert("RGB")
    picture = Picture(comparison.picture.path, np.asarray(grey))
    return {
        number: overlay(
            picture,
            comparison.difference(number).astype(np.float32),
            drawn=comparison.common(0, number),
            placement=comparison.sides[0].placement,
            scale=FULL,
            style=style,
        )
        for number in range(1, len(comparison.sides))
    }


def _side(picture: Picture, side: ComparisonSide, style: Style) -> Image.Image:
    image = overlay(
        picture,
        side.values,
        drawn=side.drawn,
        placement=side.placement,
        scale=side.scale,
        style=style,
    )
    if side.region is not None:
        draw_region(image, side.region)
    return image


def write_comparison(
    comparison: Comparison, folder: Path, drawing: ComparisonDrawing
) -> tuple[ComparisonRecord, list[Path], Image.Image]:
    """Write overlays, differences, sheet, movie and numbers of one picture.

    More sides than a sheet shows have neither differences nor a sheet; the last stands for it.
    Files of an earlier comparison that this one does not replace are removed; nothing else is
    touched.

    Returns:
        The record, the files in the order of writing, and the sheet.

    Raises:
        OutputError: a file cannot be written.
    """
    before = whole_files.earlier_comparison(whole_files.make_folder(folder))
    few = len(comparison.sides) <= MOST
    sides = overlays(comparison, drawing)
    less = differences(comparison, drawing) if few else {}
    files = [f"{whole_files.COMPARE}-{number}.{drawing.format}" for number in range(len(sides))]
    of_differences = {
        number: f"{whole_files.DIFFERENCE}-{number}.{drawing.format}" for number in less
    }
    images = dict(zip([*files, *of_differences.values()], [*sides, *less.values()], strict=True))
    paths = [
        whole_files.write_whole(folder / name, encoding.as_image(image, drawing.format))
        for name, image in images.items()
    ]
    record = make_record(comparison, files=files, differences=of_differences)
    if drawing.animate is not None:
        moving = _write_movie(comparison, sides, folder, drawing)
        record = record.model_copy(update={"animation": moving})
        paths.append(folder / moving.file)
    paths += write_numbers(record, folder, whole_files.COMPARE)
    sheet = _sheet(comparison, sides, less, drawing) if few else sides[-1]
    if few:
        name = f"{whole_files.COMPARE}.{drawing.format}"
        data = encoding.as_image(sheet, drawing.format)
        paths.append(whole_files.write_whole(folder / name, data))
    whole_files.remove(folder, before - {path.name for path in paths})
    return record, paths, sheet


def _write_movie(
    comparison: Comparison,
    sides: Sequence[Image.Image],
    folder: Path,
    drawing: ComparisonDrawing,
) -> AnimationInfo:
    """Write a moving picture with a frame for each side, beside the original."""
    style, _ = drawing.styles()
    first = Cell(_original(comparison), f"original, {comparison.picture.name}")
    titles = [f"{n}  {name}" for n, name in enumerate(names(comparison.sides))]
    least = max(map(text_width, (*titles, _title(comparison))))
    frames = [
        compose(
            first,
            [Cell(panel(image, comparison.picture), title, side.scale)],
            style.colours,
            title=_title(comparison),
            columns=2,
            beside=True,
            least=least,
        )
        for image, title, side in zip(sides, titles, comparison.sides, strict=True)
    ]
    name = f"{whole_files.CHECKPOINTS}.{movies.SUFFIXES[drawing.movie]}"
    movies.write(folder / name, frames, drawing.movie, drawing.fps, colours=style.colours)
    return AnimationInfo(by="checkpoints", frames=len(frames), rate=drawing.fps, file=name)


def write_arrays(comparison: Comparison, folder: Path) -> Path:
    """Write `compare.npz`: the compared maps, on the cells of the first side.

    It has `maps` (sides, rows, columns) float32, `drawn` of the same shape, `differences` (sides,
    rows, columns), where the first side's is 0, and `spearman` (sides, sides).

    Raises:
        OutputError: the file cannot be written.
    """
    numbers = range(len(comparison.sides))
    data = encoding.as_npz(
        maps=comparison.maps,
        drawn=comparison.drawn,
        differences=np.stack([comparison.difference(number) for number in numbers]),
        spearman=comparison.matrix(),
    )
    return whole_files.write_whole(
        whole_files.make_folder(folder) / f"{whole_files.COMPARE}.npz", data
    )


def _sheet(
    comparison: Comparison,
    sides: Sequence[Image.Image],
    less: dict[int, Image.Image],
    drawing: ComparisonDrawing,
) -> Image.Image:
    """The original, beside it the sides, and below each side its difference from the first.

    More than six sides continue in further rows, each with its differences below.
    """
    style, diverging = drawing.styles()
    above = [
        Cell(panel(image, comparison.picture), f"{number}  {name}", side.scale)
        for number, (image, name, side) in enumerate(
            zip(sides, names(comparison.sides), comparison.sides, strict=True)
        )
    ]
    below = [
        Cell(
            panel(image, comparison.picture),
            _agreement(comparison, number),
            FULL,
            diverging.colours,
        )
        for number, image in less.items()
    ]
    picture, columns = comparison.picture, min(len(above), _COLUMNS)
    return compose(
        Cell(_original(comparison), described(picture)),
        _in_rows(above, [None, *below], columns),
        style.colours,
        title=_title(comparison),
        columns=columns + 1,
        beside=True,
        least=min(_WIDEST, max(text_width(cell.title) for cell in above)),
    )


def _in_rows(
    above: Sequence[Cell], below: Sequence[Cell | None], columns: int
) -> list[Cell | None]:
    """Rows of cells, each with the cells below it; the first column is for the original."""
    cells: list[Cell | None] = []
    for start in range(0, len(above), columns):
        for row in (above, below):
            part = row[start : start + columns]
            cells += [None, *part, *[None] * (columns - len(part))]
    return cells[1:]  # without the place of the original itself


def _title(comparison: Comparison) -> str:
    """The picture, and what all sides have in common."""
    sides = comparison.sides
    of_heads = list(dict.fromkeys(map(heads, sides)))
    text = [comparison.picture.name, shared(sides), *(of_heads if len(of_heads) == 1 else ())]
    return "  ·  ".join(filter(None, text))


def _agreement(comparison: Comparison, number: int) -> str:
    """The title of a difference: the two sides, and how alike they are."""
    rho = comparison.pairs[0, number]["spearman"]
    text = "–" if np.isnan(rho) else f"{round(rho, 2) + 0.0:.2f}".replace("-", "−")
    return f"{number} − 0   ρ {text}"


def _original(comparison: Comparison) -> Image.Image:
    """The photograph with marks at the queries that are places on it."""
    picture = comparison.picture
    return marked_panel(picture.image(), picture, (side.query for side in comparison.sides))


def make_record(
    comparison: Comparison,
    *,
    files: Sequence[str] | None = None,
    differences: Mapping[int, str] | None = None,
) -> ComparisonRecord:
    """The record of a comparison.

    Args:
        comparison: what `compare` returned.
        files: the name of the file that shows each side.
        differences: for each side, the name of the file that shows its difference from the first.
    """
    picture, sides = comparison.picture, comparison.sides
    drawn: Sequence[str | None] = files or [None] * len(sides)
    return ComparisonRecord(
        image=image_info(picture),
        sides=[
            side.info.model_copy(update={"name": name, "file": file})
            for side, name, file in zip(sides, names(sides), drawn, strict=True)
        ],
        pairs=[
            PairInfo(
                first=first,
                second=second,
                **numbers,
                cells=int(comparison.common(first, second).sum()),
                file=(differences or {}).get(second) if first == 0 else None,
            )
            for (first, second), numbers in comparison.pairs.items()
        ],
    )
