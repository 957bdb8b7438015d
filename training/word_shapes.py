"""Outlines of the things that sentences name, drawn in a square from −1 to 1, y down."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import ImageDraw

Point = tuple[float, float]
Shade = float
"""How light a part is: 0 the colour itself, −1 black, 1 white."""


class Pen:
    """Draws parts of one thing into a mask and into its shades, with its turn and size.

    Args:
        mask, shades: draw into the same square of pixels: 255 where the thing is, and its shades
            from 0 (black) over 128 (its colour) to 255 (white).
        place: a function from points (n, 2) of the thing to pixels.
    """

    def __init__(
        self,
        mask: ImageDraw.ImageDraw,
        shades: ImageDraw.ImageDraw,
        place: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self.mask, self.shades, self.place = mask, shades, place

    def polygon(self, points: Sequence[Point], shade: Shade = 0.0, *, hole: bool = False) -> None:
        """Fill a polygon; a hole is cut out of the thing."""
        pixels = [tuple(each) for each in self.place(np.array(points, dtype=np.float64))]
        self.mask.polygon(pixels, fill=0 if hole else 255)
        self.shades.polygon(pixels, fill=round(128 + 127 * shade))

    def ellipse(
        self, x: float, y: float, width: float, height: float, shade: Shade = 0.0,
        *, hole: bool = False, share: tuple[float, float] = (0.0, 1.0),
    ) -> None:  # fmt: skip
        """Fill an ellipse of half axes `width`, `height`, or the part of it between two shares."""
        angles = 2 * np.pi * np.linspace(*share, 48)
        points = np.stack([x + width * np.cos(angles), y + height * np.sin(angles)], 1)
        self.polygon([(a, b) for a, b in points.tolist()], shade, hole=hole)

    def box(self, x0: float, y0: float, x1: float, y1: float, shade: Shade = 0.0) -> None:
        """Fill a rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], shade)


def fish(pen: Pen) -> None:
    """A body, a tail, fins and an eye."""
    pen.polygon([(0.4, 0), (1, -0.55), (0.85, 0), (1, 0.55)], -0.25)
    pen.polygon([(-0.3, -0.35), (0.15, -0.75), (0.3, -0.3)], -0.25)
    pen.ellipse(-0.2, 0, 0.78, 0.45)
    pen.ellipse(-0.62, -0.1, 0.11, 0.11, 0.85)
    pen.ellipse(-0.62, -0.1, 0.05, 0.05, -0.9)


def bird(pen: Pen) -> None:
    """A round body with a wing, a head with a beak, a tail and legs."""
    pen.polygon([(0.3, 0), (1, -0.35), (0.95, 0.1)], -0.25)
    pen.box(-0.12, 0.4, -0.05, 0.95, -0.5)
    pen.box(0.12, 0.4, 0.19, 0.95, -0.5)
    pen.ellipse(0, 0.1, 0.55, 0.42)
    pen.ellipse(-0.48, -0.4, 0.32, 0.3)
    pen.polygon([(-0.74, -0.5), (-1, -0.34), (-0.72, -0.28)], -0.55)
    pen.ellipse(0.1, 0.08, 0.36, 0.2, -0.3)
    pen.ellipse(-0.55, -0.46, 0.06, 0.06, -0.9)


def tree(pen: Pen) -> None:
    """Three tiers on a trunk."""
    pen.box(-0.14, 0.5, 0.14, 1, -0.6)
    for top, width in ((-1.0, 0.45), (-0.6, 0.62), (-0.15, 0.8)):
        pen.polygon([(0, top), (width, top + 0.75), (-width, top + 0.75)], -0.1 * (top < -0.5))


def house(pen: Pen) -> None:
    """Walls, a roof, a door and two windows."""
    pen.box(-0.7, -0.1, 0.7, 0.95)
    pen.polygon([(-0.95, -0.1), (0, -0.95), (0.95, -0.1)], -0.4)
    pen.box(-0.15, 0.4, 0.15, 0.95, -0.65)
    for x in (-0.45, 0.45):
        pen.box(x - 0.14, 0.1, x + 0.14, 0.36, 0.6)


def mug(pen: Pen) -> None:
    """A cylinder with a handle."""
    pen.ellipse(0.55, 0.05, 0.42, 0.42, -0.15)
    pen.ellipse(0.55, 0.05, 0.24, 0.24, hole=True)
    pen.box(-0.75, -0.65, 0.5, 0.65)
    pen.ellipse(-0.125, 0.65, 0.625, 0.2)
    pen.ellipse(-0.125, -0.65, 0.625, 0.2, -0.5)


def boat(pen: Pen) -> None:
    """A hull with a mast and two sails."""
    pen.polygon([(-1, 0.4), (1, 0.4), (0.65, 0.9), (-0.65, 0.9)], -0.3)
    pen.box(-0.05, -0.95, 0.05, 0.42, -0.6)
    pen.polygon([(0.1, -0.85), (0.8, 0.25), (0.1, 0.25)])
    pen.polygon([(-0.1, -0.7), (-0.65, 0.25), (-0.1, 0.25)], 0.3)


def car(pen: Pen) -> None:
    """A body with a cabin, windows and wheels."""
    pen.polygon([(-0.55, -0.05), (-0.35, -0.5), (0.3, -0.5), (0.6, -0.05)], -0.15)
    pen.polygon([(-1, -0.05), (0.95, -0.05), (1, 0.4), (-1, 0.4)])
    for x0, x1 in ((-0.4, -0.05), (0.03, 0.4)):
        pen.polygon([(x0, -0.08), (x0 + 0.1, -0.4), (x1 - 0.1, -0.4), (x1, -0.08)], 0.65)
    for x in (-0.55, 0.55):
        pen.ellipse(x, 0.42, 0.25, 0.25, -0.8)
        pen.ellipse(x, 0.42, 0.1, 0.1, 0.4)


def flower(pen: Pen) -> None:
    """Six petals about a middle."""
    for n in range(6):
        angle = n * np.pi / 3
        pen.ellipse(0.55 * np.cos(angle), 0.55 * np.sin(angle), 0.36, 0.36, 0.12 * (n % 2))
    pen.ellipse(0, 0, 0.3, 0.3, -0.55)


def mushroom(pen: Pen) -> None:
    """A cap with spots on a stem."""
    pen.polygon([(-0.25, 0), (0.25, 0), (0.32, 0.95), (-0.32, 0.95)], 0.6)
    pen.ellipse(0, 0.1, 0.95, 0.95, share=(0.5, 1.0))
    for x, y, r in ((-0.45, -0.25, 0.15), (0.1, -0.5, 0.17), (0.5, -0.15, 0.12)):
        pen.ellipse(x, y, r, r, 0.75)


def star(pen: Pen) -> None:
    """Five points."""
    angles = np.pi * (np.arange(10) / 5 - 0.5)
    radii = np.where(np.arange(10) % 2, 0.42, 1.0)
    pen.polygon([(r * np.cos(a), r * np.sin(a)) for r, a in zip(radii, angles, strict=True)])
    pen.ellipse(0, 0, 0.22, 0.22, 0.3)


def heart(pen: Pen) -> None:
    """Two round tops and a point."""
    t = 2 * np.pi * np.arange(64) / 64
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    pen.polygon(list(zip(x.tolist(), y.tolist(), strict=True)))
    pen.ellipse(-0.45, -0.4, 0.16, 0.12, 0.5)


def moon(pen: Pen) -> None:
    """A sickle."""
    pen.ellipse(0, 0, 0.95, 0.95)
    pen.ellipse(0.45, -0.1, 0.75, 0.75, hole=True)


def key(pen: Pen) -> None:
    """A ring, a shaft and two teeth."""
    pen.box(-0.3, -0.1, 1, 0.1)
    pen.box(0.55, 0.1, 0.68, 0.4, -0.2)
    pen.box(0.82, 0.1, 0.95, 0.5, -0.2)
    pen.ellipse(-0.6, 0, 0.4, 0.4)
    pen.ellipse(-0.6, 0, 0.2, 0.2, hole=True)


def umbrella(pen: Pen) -> None:
    """A canopy in panels, a stick and a hook."""
    pen.box(-0.05, -0.3, 0.05, 0.75, -0.65)
    pen.ellipse(0.17, 0.75, 0.22, 0.22, -0.65, share=(0.0, 0.5))
    pen.ellipse(0.17, 0.75, 0.11, 0.11, hole=True)
    pen.ellipse(0, 0.05, 0.98, 0.98, share=(0.5, 1.0))
    pen.ellipse(0, 0.05, 0.36, 0.98, 0.35, share=(0.5, 1.0))


def apple(pen: Pen) -> None:
    """A round body with a stalk and a leaf."""
    pen.ellipse(-0.3, 0.15, 0.55, 0.7)
    pen.ellipse(0.3, 0.15, 0.55, 0.7)
    pen.box(-0.05, -0.9, 0.05, -0.4, -0.7)
    pen.ellipse(0.32, -0.72, 0.27, 0.13, -0.35)
    pen.ellipse(-0.45, -0.1, 0.14, 0.2, 0.5)


def hat(pen: Pen) -> None:
    """A brim, a crown and a band."""
    pen.ellipse(0, 0.55, 1, 0.25)
    pen.box(-0.55, -0.6, 0.55, 0.5)
    pen.ellipse(0, -0.6, 0.55, 0.16, 0.25)
    pen.box(-0.55, 0.15, 0.55, 0.42, -0.6)


SHAPES: dict[str, Callable[[Pen], None]] = {
    each.__name__: each
    for each in (
        fish, bird, tree, house, mug, boat, car, flower, mushroom, star, heart, moon, key,
        umbrella, apple, hat,
    )
}  # fmt: skip
"""How each thing is drawn, by its name."""
