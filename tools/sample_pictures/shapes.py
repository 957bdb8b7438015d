"""Colours, outlines and blurs: the pure functions beneath the painting kit.

Every length is in pixels of the finished picture. Fields are arrays SCALE times larger, because
all is drawn large and shrunk at the end, which is what makes the edges smooth.
"""

from collections.abc import Sequence
from math import cos, radians, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SCALE = 3

Array = NDArray[np.floating[Any]]
Point = tuple[float, float]
Points = Sequence[Point]


def rgb(code: str) -> Array:
    """Turn a colour such as "#c08040" into three numbers from 0 to 1."""
    return np.frombuffer(bytes.fromhex(code[1:]), np.uint8).astype(np.float32) / 255


def mix(first: Array, second: Array, share: Array | float) -> Array:
    """Blend two colours, or two fields of colour, by a number or by a field of numbers."""
    weight = np.asarray(share, np.float32)
    if weight.ndim == 2:
        weight = weight[..., None]
    return (first + (second - first) * weight).astype(np.float32)


def ramp(stops: Sequence[tuple[float, str]], values: Array) -> Array:
    """Colour a field by a gradient through (value, colour) stops."""
    places = [place for place, _ in stops]
    colours = np.array([rgb(code) for _, code in stops])
    channels = [np.interp(values, places, colours[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def smooth(low: float, high: float, values: Array) -> Array:
    """Rise softly from 0 at low to 1 at high."""
    step = np.clip((values - low) / (high - low), 0, 1)
    rise: Array = (step * step * (3 - 2 * step)).astype(np.float32)
    return rise


def spline(path: Points, closed: bool = True, steps: int = 10) -> list[Point]:
    """Run a smooth Catmull-Rom curve through the points of a path."""
    before, after = (path[-1:], path[:2]) if closed else (path[:1], path[-1:])
    knots = np.array([*before, *path, *after])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False):
        bend = (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
        pieces.append(b + 0.5 * ((c - a) * t + bend))
    curve = np.concatenate(pieces if closed else [*pieces, knots[-1:]])
    return [(float(x), float(y)) for x, y in curve]


def place(path: Points, origin: Point, scale: float = 1, angle: float = 0) -> list[Point]:
    """Move points from a part's own frame into the picture; the angle is in degrees."""
    c, s = cos(radians(angle)) * scale, sin(radians(angle)) * scale
    return [(origin[0] + x * c - y * s, origin[1] + x * s + y * c) for x, y in path]


def points(text: str) -> list[Point]:
    """Read an outline written as "x,y x,y", which keeps long ones short."""
    pairs = (pair.split(",") for pair in text.split())
    return [(float(x), float(y)) for x, y in pairs]


def mirror(path: Points) -> list[Point]:
    """Flip points to the other side of the vertical axis."""
    return [(-x, y) for x, y in path]


def oval(centre: Point, radii: Point, angle: float = 0) -> list[Point]:
    """Give the outline of a turned ellipse."""
    turns = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = [(float(np.cos(t)) * radii[0], float(np.sin(t)) * radii[1]) for t in turns]
    return place(ring, centre, 1, angle)


def arc(centre: Point, radii: Point) -> list[Point]:
    """Give the lower half of an ellipse, from left to right."""
    turns = np.linspace(-np.pi / 2, np.pi / 2, 40)
    ring = [(float(np.sin(t)) * radii[0], float(np.cos(t)) * radii[1]) for t in turns]
    return place(ring, centre)


def box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    """Give the four corners of a rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def move(field: Array, shift: Point) -> Array:
    """Shift a field, drawing its border out behind it."""
    columns, rows = round(shift[0] * SCALE), round(shift[1] * SCALE)
    height, width = field.shape
    room = np.pad(field, ((abs(rows),) * 2, (abs(columns),) * 2), mode="edge")
    top, left = abs(rows) - rows, abs(columns) - columns
    return room[top : top + height, left : left + width]


def window(mask: Array, margin: float) -> tuple[slice, slice]:
    """Find the smallest rectangle that holds a mask and a margin round it."""
    reach = round(margin * SCALE) + 1
    spans = []
    for axis in (1, 0):
        hits = np.flatnonzero(mask.any(axis=axis))
        first, last = (int(hits[0]), int(hits[-1])) if hits.size else (0, 0)
        spans.append(slice(max(first - reach, 0), last + reach + 1))
    return spans[0], spans[1]


def blur(field: Array, radius: float) -> Array:
    """Blur a field by three box passes, which come close to a Gaussian."""
    reach = max(1, round(radius * SCALE))
    # Beyond three times the reach a blur stays zero, so only this part needs work.
    part = window(field, 3 * reach / SCALE)
    result = np.zeros_like(field)
    result[part] = field[part]
    for axis in (0, 1) * 3:
        result[part] = _box_pass(result[part], reach, axis)
    return result


def _box_pass(field: Array, reach: int, axis: int) -> Array:
    """Average each value with its neighbours along one axis."""
    rows = np.moveaxis(field, axis, 0)
    padded = np.pad(rows, ((reach + 1, reach), (0, 0)), mode="edge")
    total = np.cumsum(padded, axis=0, dtype=np.float64)
    width = 2 * reach + 1
    mean = (total[width:] - total[:-width]) / width
    return np.moveaxis(mean, 0, axis).astype(np.float32)


def fractal_noise(
    rng: np.random.RandomState, shape: tuple[int, int], cell: Point, octaves: int
) -> Array:
    """Sum ever finer random grids into a cloudy field between about -1 and 1."""
    height, width = shape
    total = np.zeros(shape, np.float32)
    weight = 0.0
    for octave in range(octaves):
        columns = int(width / SCALE / cell[0] * 2**octave) + 2
        rows = int(height / SCALE / cell[1] * 2**octave) + 2
        grid = rng.random_sample((rows, columns)).astype(np.float32) * 2 - 1
        image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(image) / 2**octave
        weight += 1 / 2**octave
    return total / np.float32(weight * 0.6)
