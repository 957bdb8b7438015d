"""The painting kit: a canvas that fills soft shapes, lights them and brushes fur on them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapes import SCALE, Array, Point, Points, blur, fractal_noise, mix, move, rgb, window

LIGHT = (-0.55, -0.62, 0.56)
SHADOW_TINT = rgb("#84697a")
HIGHLIGHT = rgb("#fff3d8")

Flow = Callable[[Point], Point]


class Canvas:
    """A picture being painted, together with the mask of its main object."""

    def __init__(self, width: int, height: int, seed: int) -> None:
        """Start with a black picture and an empty mask."""
        self.rng = np.random.RandomState(seed)
        self.shape = (height * SCALE, width * SCALE)
        self.pixels: Array = np.zeros((*self.shape, 3), np.float32)
        self.subject: Array = np.zeros(self.shape, np.float32)
        rows, columns = np.mgrid[0 : self.shape[0], 0 : self.shape[1]].astype(np.float32)
        self.x: Array = (columns + np.float32(0.5)) / np.float32(SCALE)
        self.y: Array = (rows + np.float32(0.5)) / np.float32(SCALE)

    def polygon(self, *outlines: Points) -> Array:
        """Give the mask of the area inside any of the outlines."""
        image = Image.new("L", self.shape[::-1])
        draw = ImageDraw.Draw(image)
        for outline in outlines:
            draw.polygon([(x * SCALE, y * SCALE) for x, y in outline], fill=255)
        return np.asarray(image, np.float32) / np.float32(255)

    def stroke(self, path: Points, widths: Sequence[float]) -> Array:
        """Give the mask of a brush stroke whose width changes evenly along the path."""
        image = Image.new("L", self.shape[::-1])
        draw = ImageDraw.Draw(image)
        spots = np.linspace(0, len(path) - 1, max(len(path), round(_length(path) * 1.5)))
        xs, ys = (np.interp(spots, range(len(path)), axis) for axis in zip(*path, strict=True))
        sizes = np.interp(spots, np.linspace(0, len(path) - 1, len(widths)), widths)
        for x, y, size in zip(xs * SCALE, ys * SCALE, sizes * SCALE / 2, strict=True):
            draw.ellipse((x - size, y - size, x + size, y + size), fill=255)
        return np.asarray(image, np.float32) / np.float32(255)

    def noise(self, cell: float | Point, octaves: int = 4) -> Array:
        """Give a cloudy field whose largest spots are about one cell wide."""
        sides = cell if isinstance(cell, tuple) else (cell, cell)
        return fractal_noise(self.rng, self.shape, sides, octaves)

    def paint(self, mask: Array, colour: Array, opacity: float = 1) -> None:
        """Lay a colour, or a field of colour, over the picture where the mask is set."""
        part = window(mask, 0)
        ink = colour[part] if colour.ndim == 3 else colour
        self.pixels[part] = mix(self.pixels[part], ink, mask[part] * np.float32(opacity))

    def solid(self, mask: Array, colour: Array, depth: float, subject: bool = False) -> None:
        """Paint a rounded, lit shape; the depth is how far its edges bend away."""
        part = window(mask, depth * 3)
        base = colour[part] if colour.ndim == 3 else colour
        lit = light_up(base, relief(mask[part], depth))
        self.pixels[part] = mix(self.pixels[part], lit, mask[part])
        if subject:
            self.claim(mask)

    def claim(self, mask: Array) -> None:
        """Count a shape as part of the main object."""
        self.subject = np.maximum(self.subject, mask)

    def shadow(self, mask: Array, shift: Point, softness: float, opacity: float) -> None:
        """Darken the picture under a shape, moved and blurred."""
        part = window(mask, softness * 3 + max(abs(shift[0]), abs(shift[1])))
        cast = np.zeros_like(mask)
        cast[part] = blur(move(mask[part], shift), softness)
        self.paint(cast, self.pixels * (SHADOW_TINT * np.float32(0.6)), opacity)

    def glow(self, field: Array, colour: Array, strength: float) -> None:
        """Add light to the picture."""
        self.pixels += field[..., None] * colour * np.float32(strength)

    def fur(
        self,
        mask: Array,
        flow: Flow,
        *,
        count: int,
        length: float,
        jitter: float,
        subject: bool = False,
    ) -> None:
        """Brush short hairs in the picture's own colours along the flow, over the edges too."""
        picture = Image.fromarray(self._bytes())
        hair_mask = Image.fromarray((self.subject * 255).astype(np.uint8))
        brushes = ImageDraw.Draw(picture), ImageDraw.Draw(hair_mask)
        rows, columns = np.nonzero(mask > 0.5)
        for pick in self.rng.randint(0, len(rows), count):
            y, x = int(rows[pick]), int(columns[pick])
            dx, dy = flow((x / SCALE, y / SCALE))
            turn, stretch, tone = self.rng.normal(0, 1, 3) * (0.25, 0.25, jitter)
            reach = length * SCALE * (1 + stretch)
            line = (x, y, x + (dx - dy * turn) * reach, y + (dy + dx * turn) * reach)
            red, green, blue = np.clip(self.pixels[y, x] * (1 + tone), 0, 1) * 255
            brushes[0].line(line, fill=(int(red), int(green), int(blue)), width=2)
            brushes[1].line(line, fill=255, width=2)
        self.pixels = np.asarray(picture, np.float32) / np.float32(255)
        if subject:
            self.subject = np.asarray(hair_mask, np.float32) / np.float32(255)

    def finish(self) -> tuple[Image.Image, Image.Image]:
        """Shrink the picture and its mask to their final size."""
        height, width = (side // SCALE for side in self.shape)
        picture = Image.fromarray(self._bytes()).resize((width, height), Image.Resampling.LANCZOS)
        mask = Image.fromarray((self.subject * 255).astype(np.uint8))
        shrunk = np.asarray(mask.resize((width, height), Image.Resampling.BOX))
        return picture, Image.fromarray(_without_lone_pixels(shrunk >= 128))

    def _bytes(self) -> NDArray[np.uint8]:
        """Give the picture as whole numbers from 0 to 255."""
        return (np.clip(self.pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def _without_lone_pixels(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Drop the specks that single hairs leave, and fill the pinholes between them."""
    framed = np.pad(mask, 1, mode="edge").astype(np.uint8)
    rows, columns = framed[:, 1:-1], framed[1:-1]
    neighbours = rows[:-2] + rows[2:] + columns[:, :-2] + columns[:, 2:]
    kept = (mask & (neighbours > 0)) | (neighbours == 4)
    return np.where(kept, 255, 0).astype(np.uint8)


def steady(direction: Point) -> Flow:
    """Let hair lie the same way everywhere."""
    return lambda _: direction


def relief(mask: Array, depth: float) -> Array:
    """Light a shape as if it were inflated: above 0 towards the light, below 0 away from it."""
    wide, narrow = blur(mask, depth), blur(mask, depth / 3)
    height = (wide * 1.6 + narrow * 0.35) * depth * SCALE
    slope_y, slope_x = np.gradient(height)
    facing = LIGHT[2] - LIGHT[0] * slope_x - LIGHT[1] * slope_y
    length = np.sqrt(1 + slope_x**2 + slope_y**2)
    light: Array = (facing / length - LIGHT[2]).astype(np.float32)
    return light


def light_up(colour: Array, light: Array) -> Array:
    """Tint a colour towards shadow or towards highlight."""
    base = np.broadcast_to(colour, (*light.shape, 3))
    shaded = mix(base, base * SHADOW_TINT, np.clip(-light * 1.5, 0, 1))
    return mix(shaded, HIGHLIGHT, np.clip(light * 0.7, 0, 0.6))


def _length(path: Points) -> float:
    """Measure a path, in drawn rather than finished pixels."""
    return float(np.hypot(*np.diff(np.array(path), axis=0).T).sum()) * SCALE
