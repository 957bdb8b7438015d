"""Draws a picture, or a map over it, at its size in a sheet; a sound with seconds and hertz."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from attnviz.drawing.overlay import mark
from attnviz.drawing.text import FAINT, INK, PAPER, font
from attnviz.geometry.queries import Query
from attnviz.geometry.sound_axes import SoundAxes, ticks
from attnviz.io.picture import Picture, PictureLike

CELL = 256  # longest side of a picture in the sheet
_LEFT, _BELOW, _TICK = 34, 16, 3
"""Room for the labels of hertz and of seconds, and the length of a tick, in pixels."""
_APART = 18, 34
"""The least distances of two labels, up and across, in pixels."""
_FLATTEST = 0.5
"""A panel is at least half as high as it is wide, and the other way round."""
_ROUND = tuple(f * 10**power for power in (1, 2, 3, 4) for f in (1, 2, 5))


def thumbnail(image: Image.Image, side: int = CELL) -> Image.Image:
    """A picture at its size in the sheet: its longest side has `side` pixels.

    Small pictures are enlarged without smoothing, so that their tokens stay sharp.
    """
    factor = side / max(image.size)
    width, height = (max(1, round(length * factor)) for length in image.size)
    kind = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
    # Much larger pictures are first averaged over blocks of pixels: three times as fast.
    return image.resize((width, height), kind, reducing_gap=2.0)


def sized(picture: Picture, side: int | None) -> Picture:
    """A picture reduced to a longest side of so many pixels; a smaller one is left."""
    if side is None or max(picture.width, picture.height) <= side or picture.sound is not None:
        return picture
    return Picture(picture.path, np.asarray(thumbnail(picture.image(), side)))


def panel(image: Image.Image, picture: PictureLike, side: int = CELL) -> Image.Image:
    """A picture, or a map over it, at its size in the sheet; that of a sound has axes."""
    if picture.sound is None:
        return thumbnail(image, side)
    return with_axes(stretched(image, side), picture.sound, picture.width)


def marked_panel(
    image: Image.Image, picture: PictureLike, queries: Iterable[Query], side: int = CELL
) -> Image.Image:
    """A picture, perhaps reduced, at its size in the sheet, with marks at places on it."""
    if picture.sound is not None:  # marks are drawn on the large panel
        image = stretched(image, side)
    factors = 2 * (image.width / picture.width, image.height / picture.height)
    for query in dict.fromkeys(queries):
        numbers = [n * factor for n, factor in zip(query.numbers, factors, strict=False)]
        mark(image, replace(query, numbers=tuple(numbers)))
    if picture.sound is not None:
        return with_axes(image, picture.sound, picture.width)
    return thumbnail(image, side)


def described(picture: PictureLike) -> str:
    """The caption of the original: its size, or how long a sound is."""
    sound = picture.sound
    if sound is None:
        return f"original, {picture.width}x{picture.height}"
    end = sound.time(picture.width)
    heard = f"first {end:.3g} s of " if sound.duration > 1.1 * end else ""
    return f"sound, {heard}{sound.duration:.3g} s"


def stretched(image: Image.Image, side: int) -> Image.Image:
    """A spectrogram with a longest side of so many pixels; seconds and hertz have no common unit.

    Small ones are enlarged without smoothing, so that their tokens stay sharp.
    """
    long = max(image.size)
    width, height = (max(round(side * _FLATTEST), round(side * n / long)) for n in image.size)
    if width < image.width:
        image = image.resize((width, image.height), Image.Resampling.LANCZOS)
    if height < image.height:
        image = image.resize((image.width, height), Image.Resampling.LANCZOS)
    return image.resize((width, height), Image.Resampling.NEAREST)


def with_axes(image: Image.Image, axes: SoundAxes, columns: int) -> Image.Image:
    """A stretched spectrogram of so many columns, with hertz at its left and seconds below."""
    width, height = image.size
    panel = Image.new("RGB", (width + _LEFT, height + _BELOW), PAPER)
    panel.paste(image, (_LEFT, 0))
    draw, small = ImageDraw.Draw(panel), font(bold=False, size=10)
    for hertz, y in _heights(axes, height):
        draw.line([(_LEFT - _TICK, y), (_LEFT - 1, y)], fill=INK)
        label = f"{hertz / 1000:g}k" if hertz >= 1000 else f"{hertz:g}"
        draw.text((_LEFT - _TICK - 2, y), label, fill=FAINT, font=small, anchor="rm")
    draw.text((0, 0), "Hz", fill=FAINT, font=small)
    first, last = max(0.0, axes.time(0) - axes.step), axes.time(columns)
    for seconds in ticks(first, last, max(1, width // _APART[1])):
        x = _LEFT + min(width - 1, max(0, round(axes.x(seconds) * width / columns)))
        draw.line([(x, height), (x, height + _TICK - 1)], fill=INK)
        where = min(x, panel.width - small.getlength(f"{seconds:g} s") / 2)
        draw.text((where, height + _TICK), f"{seconds:g} s", fill=FAINT, font=small, anchor="ma")
    return panel


def _heights(axes: SoundAxes, height: int) -> list[tuple[float, int]]:
    """Round frequencies and where they lie in a panel of this height, not too near each other."""
    found: list[tuple[float, int]] = []
    low, high = axes.span
    for hertz in reversed([each for each in _ROUND if low < each < high]):
        y = round(axes.y(hertz) * height / axes.height)
        if _APART[0] // 2 + (12 if not found else 0) <= y < height - 4 and (
            not found or y - found[-1][1] >= _APART[0]
        ):
            found.append((hertz, y))
    return found
