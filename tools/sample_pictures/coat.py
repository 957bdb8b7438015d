"""What the parts of the cat share: its colours, its fur and its stripes."""

import numpy as np
from canvas import Canvas
from shapes import Array, Point, Points, blur, mirror, ramp, rgb, spline

GINGER = rgb("#e0964f")
STRIPE = rgb("#9c4f22")
CREAM = rgb("#fbeed8")
PINK = rgb("#e89a8f")
INK = rgb("#3a2019")


def symmetric(path: Points) -> list[Point]:
    """Complete an outline from its right half, given from top to bottom."""
    return [*path, *mirror(path)[::-1]]


def ginger(canvas: Canvas) -> Array:
    """Give ginger fur its uneven colour."""
    patches = canvas.noise(26, 4)
    return ramp([(-1, "#cf7f3a"), (0, "#e0964f"), (1, "#efb069")], patches)


def stripes(canvas: Canvas, part: Array, paths: list[Points], width: float) -> None:
    """Paint tapering tabby stripes inside one part."""
    strokes = [canvas.stroke(spline(path, False), [0.5, width, width * 0.8, 0.5]) for path in paths]
    canvas.paint(blur(np.maximum.reduce(strokes), 0.5) * part, STRIPE, 0.78)
