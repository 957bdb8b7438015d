"""From a comparison to pictures and files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from attnviz.comparison.compare import Comparison
from attnviz.comparison.comparison_record import ComparisonRecord, PairInfo
from attnviz.comparison.sides import ComparisonSide, heads, names, shared
from attnviz.drawing.overlay import Interpolation, Style, colour_table, mark, overlay
from attnviz.drawing.scale import Range
from attnviz.drawing.sheet import Cell, compose, text_width, thumbnail
from attnviz.io.picture import Picture
from attnviz.output import encoding, whole_files
from attnviz.output.make_record import image_info

DIVERGING = "RdBu_r"
FULL = Range("fixed", -1.0, 1.0)
"""What the colours of a difference span: its middle is 0, where the sides are alike."""
_COLUMNS = 6  # sides in a row of the sheet
_WIDEST = 320  # place that a title is given, in pixels


@dataclass(frozen=True)
class ComparisonDrawing:
    """How sides and differences are drawn; the values that the options of the same names take."""

    colormap: str = "viridis"
    diverging: str = DIVERGING
    alpha: float = 0.5
    interpolation: Interpolation = "bicubic"
    format: str = "png"

    def styles(self) -> tuple[Style, Style]:
        """Of sides and of differences, with their colour maps looked up.

        Raises:
            UsageError: there is no such colour map.
        """
        diverging = colour_table(
            self.diverging, option="--diverging", such="RdBu_r, coolwarm, PuOr_r"
        )
        return (
            Style(colour_table(self.colormap), self.alpha, self.interpolation),
            Style(diverging, self.alpha, self.interpolation),
        )


def overlays(comparison: Comparison, drawing: ComparisonDrawing | None = None) -> list[Image.Image]:
    """Every side over the picture, of exactly its size."""
    style, _ = (drawing or ComparisonDrawing()).styles()
    return [_side(comparison.picture, side, style) for side in comparison.sides]


def differences(
    comparison: Comparison, drawing: ComparisonDrawing | None = None
) -> dict[int, Image.Image]:
    """What each side has beyond the first, over the picture, of exactly its size.

    The photograph below is grey, since its own reds and blues would be taken for differences; what
    one of the two did not see is hatched.
    """
    _, style = (drawing or ComparisonDrawing()).styles()
    picture = _grey(comparison.picture)
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


def _grey(picture: Picture) -> Picture:
    return Picture(picture.path, np.asarray(picture.image().convert("L").convert("RGB")))


def _side(picture: Picture, side: ComparisonSide, style: Style) -> Image.Image:
    return overlay(
        picture,
        side.values,
        drawn=side.drawn,
        placement=side.placement,
        scale=side.scale,
        style=style,
    )


def write_comparison(
    comparison: Comparison, folder: Path, drawing: ComparisonDrawing
) -> tuple[ComparisonRecord, list[Path], Image.Image]:
    """Write overlays, differences, sheet and numbers of one picture.

    Files of an earlier comparison that this one does not replace are removed; nothing else is
    touched.

    Returns:
        The record, the files in the order of writing, and the sheet.

    Raises:
        OutputError: a file cannot be written.
    """
    before = whole_files.earlier_comparison(whole_files.make_folder(folder))
    sides, less = overlays(comparison, drawing), differences(comparison, drawing)
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
    paths += _write_numbers(record, folder)
    sheet = _sheet(comparison, sides, less, drawing)
    name = f"{whole_files.COMPARE}.{drawing.format}"
    paths.append(whole_files.write_whole(folder / name, encoding.as_image(sheet, drawing.format)))
    whole_files.remove(folder, before - {path.name for path in paths})
    return record, paths, sheet


def _write_numbers(record: ComparisonRecord, folder: Path) -> list[Path]:
    text = encoding.as_json(record.data(), indent=1) + "\n"
    table = encoding.as_csv(record.rows())
    return [
        whole_files.write_whole(folder / f"{whole_files.COMPARE}.json", text.encode()),
        whole_files.write_whole(folder / f"{whole_files.COMPARE}.csv", table.encode()),
    ]


def write_arrays(comparison: Comparison, folder: Path) -> Path:
    """Write `compare.npz`: what is compared, on the cells of the first side.

    `maps` (sides, rows, columns) float32, `drawn` alike, `differences` (sides, rows, columns), of
    which the first is 0, and `spearman` (sides, sides).

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
    """The original, beside it the sides, and below each what it has beyond the first.

    More than six sides go on in further rows, each again with its differences below.
    """
    style, diverging = drawing.styles()
    above = [
        Cell(thumbnail(image), f"{number}  {name}", side.scale)
        for number, (image, name, side) in enumerate(
            zip(sides, names(comparison.sides), comparison.sides, strict=True)
        )
    ]
    below = [
        Cell(thumbnail(image), _agreement(comparison, number), FULL, diverging.colours)
        for number, image in less.items()
    ]
    picture, columns = comparison.picture, min(len(above), _COLUMNS)
    original = thumbnail(_original(comparison))
    return compose(
        Cell(original, f"original, {picture.width}x{picture.height}"),
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
    """Cells of so many columns and those below them; a first column is left to the original."""
    cells: list[Cell | None] = []
    for start in range(0, len(above), columns):
        for row in (above, below):
            part = row[start : start + columns]
            cells += [None, *part, *[None] * (columns - len(part))]
    return cells[1:]  # the original itself


def _title(comparison: Comparison) -> str:
    """The picture, and what all sides have in common."""
    sides = comparison.sides
    of_heads = list(dict.fromkeys(map(heads, sides)))
    text = [comparison.picture.name, shared(sides), *(of_heads if len(of_heads) == 1 else ())]
    return "  ·  ".join(filter(None, text))


def _agreement(comparison: Comparison, number: int) -> str:
    """What stands over a difference: of what it is, and how alike the two are."""
    rho = comparison.pairs[0, number]["spearman"]
    text = "–" if np.isnan(rho) else f"{round(rho, 2) + 0.0:.2f}".replace("-", "−")
    return f"{number} − 0   ρ {text}"


def _original(comparison: Comparison) -> Image.Image:
    """The photograph, with the queries marked on it where they are places."""
    image = comparison.picture.image()
    for query in dict.fromkeys(side.query for side in comparison.sides):
        mark(image, query)
    return image


def make_record(
    comparison: Comparison,
    *,
    files: Sequence[str] | None = None,
    differences: Mapping[int, str] | None = None,
) -> ComparisonRecord:
    """All that is said about one picture.

    Args:
        comparison: what `compare` gave.
        files: the file that each side was drawn to.
        differences: the file that the difference of a side from the first was drawn to.
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
