"""Draws one map over its picture."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from attnviz.drawing.scale import Range
from attnviz.drawing.text import font
from attnviz.errors import UsageError, did_you_mean
from attnviz.explanation.object_regions import ObjectRegion
from attnviz.geometry.placement import Placement
from attnviz.geometry.queries import Query
from attnviz.io.picture import Picture

Interpolation = Literal["bicubic", "nearest"]
_VIRIDIS = Path(__file__).with_name("viridis.npy")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}
_MARGIN = 3  # cells repeated at the border: as far as the bicubic filter reaches
STRIP = 1 << 18
"""How many pixels are drawn at once: as many as fit a cache."""
LEVELS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7")
"""Colours of points by their level, of Okabe and Ito, who see no difference of red and green."""
_HATCH = 6  # width of the stripes over undrawn parts, in pixels


@dataclass(frozen=True)
class Style:
    """How a map is drawn over a picture; `colours` is a (n, 3) uint8 table."""

    colours: NDArray[np.uint8]
    alpha: float = 0.5
    interpolation: Interpolation = "bicubic"


def colour_table(
    name: str, size: int = 1024, *, option: str = "--colormap", such: str = "viridis, magma, turbo"
) -> NDArray[np.uint8]:
    """A matplotlib colour map as (size, 3) uint8.

    The error names `option`, the option with the name, and `such`, examples of valid names.

    Raises:
        UsageError: matplotlib has no such colour map.
    """
    if name == "viridis":  # the default needs no matplotlib, which takes 0.4 s; a test compares
        table: NDArray[np.uint8] = np.load(_VIRIDIS)
        places = (np.linspace(0, 1, size) * len(table)).astype(np.intp).clip(max=255)
        return np.take(table, places, axis=0)
    import matplotlib as mpl  # noqa: PLC0415 — 0.4 s, and only other colours need it

    if name not in mpl.colormaps:
        hint = did_you_mean(name, mpl.colormaps) or f"; choose from {such} …,"
        raise UsageError(f"{option}: unknown colour map {name!r}{hint} or any other of matplotlib")
    found = np.asarray(mpl.colormaps[name](np.linspace(0, 1, size)))[:, :3]
    colours: NDArray[np.uint8] = np.rint(255 * found).astype(np.uint8)
    return colours


def overlay(
    picture: Picture,
    values: NDArray[np.float32],
    *,
    drawn: NDArray[np.bool_],
    placement: Placement,
    scale: Range,
    style: Style,
) -> Image.Image:
    """A picture with a map over it, of exactly the picture's size.

        pixel = (1 − alpha)·photograph + alpha·colour(map)

    Nothing is rescaled afterwards, so that all overlays show the photograph equally bright. Where
    no token is `drawn` (masked, cropped away), the photograph is grey and hatched.
    """
    spread = spread_out(scale.position(values), drawn, placement, style.interpolation)
    colours = style.colours.astype(np.float32)

    def light(columns: slice) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        position, visible = spread(columns)
        index = np.rint(position * (len(colours) - 1)).astype(np.intp)
        return np.take(colours, index, axis=0), visible

    return over(picture, light, style.alpha)


def over(
    picture: Picture,
    light: Callable[[slice], tuple[NDArray[np.float32], NDArray[np.bool_]]],
    alpha: float,
) -> Image.Image:
    """Colours over a picture where they are visible.

    Large pictures are drawn strip by strip, so that memory does not grow with them.

    Args:
        picture: the picture.
        light: returns the colours (height, columns, 3), 0 to 255, of some columns, and where they
            are visible, (height, columns). The colours are overwritten.
        alpha: the share of the colours.
    """
    grey = cache(lambda: _without_part(picture.pixels))

    def strip(columns: slice) -> Image.Image:
        mixed, visible = light(columns)
        np.multiply(mixed, np.float32(alpha), out=mixed)
        mixed += np.multiply(picture.pixels[:, columns], np.float32(1 - alpha), dtype=np.float32)
        blended = np.rint(mixed, out=mixed).astype(np.uint8)
        if not visible.all():
            blended[~visible] = grey()[:, columns][~visible][:, None]
        return Image.fromarray(blended)

    width = max(1, STRIP // picture.height)
    if picture.width <= width:
        return strip(slice(0, picture.width))
    whole = Image.new("RGB", (picture.width, picture.height))
    for start in range(0, picture.width, width):
        whole.paste(strip(slice(start, min(start + width, picture.width))), (start, 0))
    return whole


Strips = Callable[[slice], tuple[NDArray[np.float64], NDArray[np.bool_]]]


def spread_out(
    values: NDArray[np.float64],
    drawn: NDArray[np.bool_],
    placement: Placement,
    interpolation: Interpolation,
) -> Strips:
    """A grid of values (rows, columns) as picture pixels, and where it covers them.

    Returns:
        A function that takes columns of the picture and returns their values, (height, columns)
        in 0…1, and True where the pixel's token is drawn.
    """
    spread = _on_picture(np.where(drawn, values, 0).astype(np.float32), placement, interpolation)
    if drawn.all():
        rows, across = _covered(placement)

        def whole(columns: slice) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
            found = spread(columns)
            visible = np.zeros(found.shape, dtype=np.bool_)
            start, stop = (max(0, side - columns.start) for side in (across.start, across.stop))
            visible[rows, start:stop] = True
            return np.clip(found, 0.0, 1.0, out=found), visible

        return whole
    inside = _on_picture(drawn.astype(np.float32), placement, "nearest")
    weight = _on_picture(drawn.astype(np.float32), placement, interpolation)

    def part(columns: slice) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        found = spread(columns)
        # Dividing keeps tokens that are not drawn from bleeding into their neighbours.
        found /= np.maximum(weight(columns), 0.05)
        return np.clip(found, 0.0, 1.0, out=found), inside(columns) > 0.5

    return part


def _on_picture(
    grid: NDArray[np.float32], placement: Placement, interpolation: Interpolation
) -> Callable[[slice], NDArray[np.float64]]:
    """A grid of values (rows, columns) at its place on the picture; else 0.

    Pillow resizes across, rounds to float32, and then resizes down. Here the first step is done
    once and the second for some columns, so strips have the values of the whole.

    Returns:
        A function that takes columns of the picture and returns their values, (height, columns).
    """
    rows, across = _covered(placement)
    x0, y0 = placement.to_grid(across.start, rows.start)
    x1, y1 = placement.to_grid(across.stop, rows.stop)
    padded = Image.fromarray(np.pad(grid, _MARGIN, mode="edge"))
    size, kind = (across.stop - across.start, padded.height), _FILTERS[interpolation]
    wide = padded.resize(size, kind, box=(x0 + _MARGIN, 0, x1 + _MARGIN, padded.height))

    def strip(columns: slice) -> NDArray[np.float64]:
        result = np.zeros((placement.picture_height, columns.stop - columns.start))
        start, stop = max(columns.start, across.start), min(columns.stop, across.stop)
        if start < stop:
            part = wide.crop((start - across.start, 0, stop - across.start, wide.height))
            box = (0, y0 + _MARGIN, part.width, y1 + _MARGIN)
            tall = part.resize((part.width, rows.stop - rows.start), kind, box=box)
            result[rows, start - columns.start : stop - columns.start] = tall
        return result

    return strip


def _covered(placement: Placement) -> tuple[slice, slice]:
    """Rows and columns of the picture's pixels that the model saw."""
    source = placement.source
    return slice(*_pixels(source.top, source.bottom)), slice(*_pixels(source.left, source.right))


def _pixels(start: float, stop: float) -> tuple[int, int]:
    """First and past-the-last pixel whose centre lies in [start, stop)."""
    return math.ceil(start - 0.5), math.ceil(stop - 0.5)


def _without_part(photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photograph in grey under thin diagonal stripes, for parts that the model did not use.

    Returns:
        (height, width), band by band of rows.
    """
    height, width, _ = photograph.shape
    found, rows = np.empty((height, width), dtype=np.uint8), max(1, STRIP // width)
    for start in range(0, height, rows):
        band = photograph[start : start + rows]
        luma = band @ np.array([0.299, 0.587, 0.114])
        y, x = np.indices(luma.shape, sparse=True)
        stripe = (x + y + start) % (2 * _HATCH) < 1
        grey = np.where(stripe, 0.5 * luma + 127.5, 0.75 * luma + 0.25 * 255 * 0.5)
        found[start : start + rows] = np.rint(grey)
    return found


def draw_points(image: Image.Image, points: Sequence[tuple[float, float, int, float]]) -> None:
    """Draw points, (x, y, level, weight): a disc's area is its weight, its colour its level."""
    most = max((weight for *_, weight in points), default=0.0)
    largest = max(4.0, max(image.size) / 50)
    draw = ImageDraw.Draw(image)
    for x, y, level, weight in sorted(points, key=lambda point: -point[3]):
        radius = max(1.0, largest * math.sqrt(max(weight, 0.0) / most)) if most > 0 else 1.0
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(box, fill=LEVELS[level % len(LEVELS)], outline="white")


def draw_region(image: Image.Image, region: ObjectRegion) -> None:
    """Draw the outline of an object's mask, else its box, with its label and score."""
    line, draw = max(2, round(max(image.size) / 150)), ImageDraw.Draw(image)
    across, down = (a / b for a, b in zip(image.size, region.size, strict=True))
    if region.box is None:
        return
    left, top, right, bottom = (n * f for n, f in zip(region.box, (across, down) * 2, strict=True))
    if region.mask is None:
        for width, colour in ((2 * line, "black"), (line, "white")):
            draw.rectangle((left, top, right, bottom), outline=colour, width=width)
    else:
        whole = Image.fromarray(region.mask).convert("L").resize(image.size)
        for width, colour in ((2 * line, "black"), (line, "white")):
            inside = whole.filter(ImageFilter.MinFilter(2 * width + 1))
            image.paste(colour, mask=ImageChops.subtract(whole, inside))
    letters = font(bold=True, size=max(11, round(max(image.size) / 28)))
    text = f" {region.found} "
    wide, high = letters.getlength(text), letters.size + 4
    x = min(max(left, 0), max(0, image.width - wide))
    y = min(max(top - high, 0), image.height - high)
    draw.rectangle((x, y, x + wide, y + high), fill="black")
    draw.text((x, y + 1), text, fill="white", font=letters)


def mark(image: Image.Image, query: Query) -> None:
    """Mark a point with a cross and a box with its outline; other queries get no mark."""
    line, numbers = max(2, round(max(image.size) / 150)), query.numbers
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
