"""Draws scenes of one or two things and the sentence about each: what `tiny-words` learns from.

    python training/word_scenes.py --out scenes --count 200 --seed 1000003

Writes `pictures/0000.png`, `masks/0000.png` with a colour for each thing, and `words.jsonl`.
A sentence begins with the larger thing: "a red fish", "a red fish left of a blue mug".
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from word_shapes import SHAPES, Pen

COLOURS = {
    "red": (358, 0.85, 0.8), "orange": (25, 0.95, 0.95), "yellow": (53, 0.85, 0.95),
    "green": (125, 0.7, 0.6), "blue": (218, 0.8, 0.8), "purple": (283, 0.65, 0.7),
    "white": (0, 0.0, 0.97), "black": (0, 0.0, 0.08),
}  # fmt: skip
"""Hue in degrees, saturation and value of each colour; a thing differs a little from it."""
RELATIONS = "left of", "right of", "above", "below"
OVERSAMPLED = 3
HELD_OUT = 1_000_003
"""No training uses this seed."""


@dataclass(frozen=True, eq=False)
class Thing:
    """One thing of a scene: its name, colour, middle and half side in pixels."""

    kind: str
    colour: str
    x: float
    y: float
    reach: float

    @property
    def words(self) -> str:
        """Its name with its colour and an article."""
        return f"{'an' if self.colour[0] in 'aeiou' else 'a'} {self.colour} {self.kind}"


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and what is in it.

    Attributes:
        pixels: (height, width, 3) uint8.
        objects: (height, width) uint8: 0 the ground, 1 the thing named first, 2 the other.
        sentence: what is in it.
    """

    pixels: NDArray[np.uint8]
    objects: NDArray[np.uint8]
    sentence: str


def scenes(seed: int, first: int = 0, scale: int = 1) -> Iterator[Scene]:
    """Endless scenes from one number on; the same seed draws the same ones."""
    for number in itertools.count(first):
        yield draw(np.random.default_rng((seed, number)), scale)


def draw(random: np.random.Generator, scale: int = 1) -> Scene:
    """A scene of some 160 pixels a side times `scale`, with one thing (one in four) or two."""
    sizes = ((160, 160), (176, 144), (144, 176), (192, 128))
    width, height = (scale * side for side in sizes[random.integers(4)])
    things = _things(random, width, height)
    picture = Image.fromarray(_ground(random, width, height))
    objects = np.zeros((height, width), dtype=np.uint8)
    for number, thing in reversed(list(enumerate(things, 1))):
        picture = _put(picture, objects, thing, number, random)
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(random.uniform(0, 0.7) * scale)))
    noise = random.normal(0, random.uniform(0, 5), pixels.shape)
    pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
    return Scene(pixels, objects, _sentence(things))


def _things(random: np.random.Generator, width: int, height: int) -> list[Thing]:
    """One thing, or two beside or above each other, the larger first, within the picture."""
    side = min(width, height)
    kinds = random.choice(list(SHAPES), 2, replace=False)
    colours = random.choice(list(COLOURS), 2, replace=bool(random.random() < 0.3))
    if random.random() < 0.25:
        reach = side * random.uniform(0.16, 0.36)
        x, y = (random.uniform(reach, length - reach) for length in (width, height))
        return [Thing(str(kinds[0]), str(colours[0]), x, y, reach)]
    while True:
        large = side * random.uniform(0.19, 0.27)
        reaches = large, large * random.uniform(0.55, 0.72)
        (x0, y0), (x1, y1) = (
            [random.uniform(reach, length - reach) for length in (width, height)]
            for reach in reaches
        )
        across, down = abs(x0 - x1), abs(y0 - y1)
        apart = max(across, down) > sum(reaches) * 1.02
        if apart and max(across, down) > 1.6 * min(across, down):
            break
    middles = (x0, y0), (x1, y1)
    return [Thing(str(kinds[n]), str(colours[n]), *middles[n], reaches[n]) for n in range(2)]


def _sentence(things: list[Thing]) -> str:
    if len(things) == 1:
        return things[0].words
    one, other = things
    if abs(one.x - other.x) > abs(one.y - other.y):
        relation = RELATIONS[0] if one.x < other.x else RELATIONS[1]
    else:
        relation = RELATIONS[2] if one.y < other.y else RELATIONS[3]
    return f"{one.words} {relation} {other.words}"


def _put(
    picture: Image.Image, objects: NDArray[np.uint8], thing: Thing, number: int,
    random: np.random.Generator,
) -> Image.Image:  # fmt: skip
    """The picture with a thing in it, shaded and perhaps with a shadow; its number in `objects`."""
    scale = min(picture.size) // 128  # the short side of a scene is 128 to 160 pixels
    left, top = int(thing.x - 1.4 * thing.reach), int(thing.y - 1.4 * thing.reach)
    side = int(2.8 * thing.reach) + 2
    size = (side * OVERSAMPLED, side * OVERSAMPLED)
    mask, shades = Image.new("L", size, 0), Image.new("L", size, 128)
    angle, mirrored = random.normal(0, 0.18), random.random() < 0.5
    squeeze = random.uniform(0.85, 1.0, 2)

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = (points * thing.reach * 0.93 * squeeze).T
        x = -x if mirrored else x
        turned = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
        return np.stack([turned[0] + thing.x - left, turned[1] + thing.y - top], 1) * OVERSAMPLED

    SHAPES[thing.kind](Pen(ImageDraw.Draw(mask), ImageDraw.Draw(shades), place))
    around = left, top, left + side, top + side
    drawn_mask, drawn_shades = (Image.new("L", picture.size, ground) for ground in (0, 128))
    drawn_mask.paste(mask.resize((side, side), Image.Resampling.BOX), around)
    drawn_shades.paste(shades.resize((side, side), Image.Resampling.BOX), around)
    mask, shades = drawn_mask, drawn_shades
    cover = np.asarray(mask, dtype=np.float32)[..., None] / 255
    objects[cover[..., 0] > 0.5] = number
    below: NDArray[np.floating] = np.asarray(picture, dtype=np.float32)
    if random.random() < 0.5:
        away = int(random.integers(2, 6)) * scale
        shadow = (
            np.asarray(mask.filter(ImageFilter.GaussianBlur(3 * scale)), dtype=np.float32) / 255
        )
        shadow = np.roll(shadow, (away, away), (0, 1))[..., None] * random.uniform(0.2, 0.5)
        below = below * (1 - shadow)
    colour = _colour(random, thing.colour)
    shade = (np.asarray(shades, dtype=np.float32)[..., None] - 128) / 127
    light = _slope(random, *picture.size) * random.uniform(0, 0.18)
    drawn = np.where(shade < 0, colour * (1 + 0.75 * shade), colour + (255 - colour) * shade)
    drawn = np.where((colour.max() < 60) & (shade < 0), colour - 55 * shade, drawn)
    drawn = drawn * (1 + light)
    return Image.fromarray((below * (1 - cover) + drawn * cover).clip(0, 255).astype(np.uint8))


def _colour(random: np.random.Generator, name: str) -> NDArray[np.float64]:
    """A colour of this name, 0 to 255."""
    hue, saturation, value = COLOURS[name]
    turned = hue + random.uniform(-7, 7)
    saturation = min(1.0, saturation * random.uniform(0.85, 1.1))
    value = min(1.0, value * random.uniform(0.88, 1.04))
    return _rgb(turned, saturation, value)


def _rgb(hue: float, saturation: float, value: float) -> NDArray[np.float64]:
    """A colour of HSV, hue in degrees, as RGB 0 to 255."""
    sector = (np.array([5, 3, 1]) + hue / 60) % 6
    share = np.minimum(np.minimum(sector, 4 - sector), 1).clip(0)
    return np.asarray(255 * value * (1 - saturation * share), dtype=np.float64)


def _slope(random: np.random.Generator, width: int, height: int) -> NDArray[np.float64]:
    """A plane through −1 to 1 in any direction, (height, width, 1)."""
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.asarray((x * np.cos(angle) + y * np.sin(angle))[..., None] / np.sqrt(2))


def _ground(random: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """A ground of middle tones: two colours, patches of several sizes, sometimes stripes."""
    one, other = (
        _rgb(random.uniform(0, 360), random.uniform(0, 0.35), random.uniform(0.35, 0.75))
        for _ in range(2)
    )
    share = 0.5 + 0.5 * _slope(random, width, height)
    for cells in (4, 9, 25):
        rough = random.normal(0, 1, (cells, cells)).astype(np.float32)
        smooth = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
        share = share + random.uniform(0, 0.22) * np.asarray(smooth)[..., None]
    if random.random() < 0.25:
        waves = np.sin(_slope(random, width, height) * random.uniform(8, 40))
        share = share + random.uniform(0.05, 0.25) * waves
    ground = one + (other - one) * share.clip(-0.3, 1.3)
    return np.asarray(ground.clip(40, 215), dtype=np.uint8)


def write(out: Path, drawn: Iterator[Scene], count: int) -> None:
    """Write scenes, masks and sentences into a folder."""
    for name in ("pictures", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    palette = np.array([[0, 0, 0], [255, 80, 80], [80, 160, 255]], dtype=np.uint8)
    lines = []
    for number, scene in enumerate(itertools.islice(drawn, count)):
        name = f"{number:04}.png"
        Image.fromarray(scene.pixels).save(out / "pictures" / name)
        Image.fromarray(palette[scene.objects]).save(out / "masks" / name)
        nouns = [word for word in scene.sentence.split() if word in SHAPES]
        words = dict(zip(("ff5050", "50a0ff"), nouns, strict=False))
        line = {"path": name, "sentence": scene.sentence, "words": words}
        lines.append(json.dumps(line))
    (out / "words.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Write scenes into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=HELD_OUT)
    parser.add_argument("--first", type=int, default=0, help="number of the first scene")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--scale", type=int, default=1, help="times 160 pixels a side")
    options = parser.parse_args()
    write(options.out, scenes(options.seed, options.first, options.scale), options.count)


if __name__ == "__main__":
    main()
