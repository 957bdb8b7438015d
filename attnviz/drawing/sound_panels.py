"""Draws a spectrogram, or a map over it, for a sheet: with axes in seconds and hertz."""

from PIL import Image, ImageDraw

from attnviz.drawing.text import FAINT, INK, PAPER, font
from attnviz.geometry.sound_axes import SoundAxes, ticks

_LEFT, _BELOW, _TICK = 34, 16, 3
"""Room for the labels of hertz and of seconds, and the length of a tick, in pixels."""
_APART = 18, 34
"""The least distances of two labels, up and across, in pixels."""
_FLATTEST = 0.5
"""A panel is at least half as high as it is wide, and the other way round."""
_ROUND = tuple(f * 10**power for power in (1, 2, 3, 4) for f in (1, 2, 5))


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
