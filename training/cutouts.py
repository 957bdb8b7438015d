"""Collects cut-outs and photographs from unpacked packages into one file, for `train_tiny.py`.

    python training/cutouts.py FOLDER --out material.npz

FOLDER holds unpacked packages (docs/tiny.md names them); pictures with alpha become cut-outs,
opaque photographs become grounds. Folder and file names say what kind of thing a cut-out shows.
Resource files of Qt (`.rcc`) are searched for pictures by their signatures.
"""

import argparse
import io
import re
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

SIDE, GROUND_SIDE, LEAST_GROUND = 208, 640, 300
"""Largest side of a cut-out; of a ground; and the least short side of a ground's file."""
PHOTOGRAPHIC = 150
"""A cut-out with more colours than this, of 32 levels each, is a photograph."""
PUZZLES = ("paintings.rcc", "details.rcc")
"""Their cut-outs are pieces of a puzzle, their pictures have holes."""
UNLABELLED = "thing"
SIGNATURES = re.compile(rb"\x89PNG\r\n|\xff\xd8\xff[\xe0\xe1\xdb]|RIFF....WEBP", re.DOTALL)
"""How PNG, JPEG and WebP files begin."""
WORDS = """
-: alphabet, symbol, sign, flag, icon, button, arrow, callout, logo, card, shape, special,
  decoration, diagram, geograph, math, money, smil, connector, chess, geometric, pattern,
  unsorted, stickmen, roadsign, bubble, keycap, clock face, moon phase, heart, squared, circled,
  letter, skin
bird: bird, penguin, duck, owl, eagle, rooster, hen, chick, parrot, flamingo, swan, dove, turkey,
  peacock, goose, dodo, phoenix
reptile: lizard, amphibian, dinosaur, frog, snake, turtle, crocodile, sauropod, t-rex, dragon
fish: fish, aquatic, whale, dolphin, shark, octopus, squid, shrimp, crab, lobster, coral, seal
insect: insect, bug, butterfly, bee, beetle, spider, ant, snail, scorpion, cricket, mosquito, fly,
  worm, ladybird
flower: flower, rose, tulip, hibiscus, blossom, bouquet, lotus, hyacinth, rosette
fruit: fruit, nuts, apple, banana, pear, grapes, melon, lemon, cherries, strawberry, peach,
  pineapple, mango, coconut, kiwifruit, tangerine, blueberries, tomato, olive
vegetable: vegetable, mushroom, spices, carrot, corn, broccoli, potato, pepper, cucumber, garlic,
  onion, aubergine, leafy green, beans, pea pod, ginger
mammal: mammal, marsupial, animals, cat, dog, cow, pig, horse, sheep, goat, rabbit, monkey, bear,
  tiger, lion, elephant, camel, fox, wolf, mouse, rat, hamster, giraffe, zebra, deer, koala,
  panda, gorilla, orangutan, otter, sloth, skunk, kangaroo, badger, bison, ox, buffalo, ram,
  llama, hippopotamus, rhinoceros, mammoth, beaver, bat, hedgehog, leopard, poodle, boar, raccoon,
  chipmunk, donkey, moose
tree: plants, tree, cactus, leaf, herb, shamrock, seedling, palm, bamboo, potted
aircraft: flight, plane, airplane, helicopter, rocket, satellite, aircraft, parachute, saucer
ship: ship, boat, boating, canoe, sailboat, ferry, speedboat, anchor
vehicle: vehicle, auto, car, automobile, truck, lorry, bus, train, locomotive, tractor, bicycle,
  motorcycle, scooter, tram, railway, taxi, ambulance, engine, trolleybus, metro, van, skateboard,
  transportation, rickshaw, wheelchair
instrument: music, guitar, violin, trumpet, drum, saxophone, accordion, banjo, flute, maracas,
  musical, harp
clothing: clothes, clothing, hat, shirt, shoe, dress, jeans, coat, boot, socks, scarf, gloves,
  kimono, sari, bikini, handbag, backpack, helmet, cap, crown, necktie, sandal, trousers, shorts,
  purse, glasses, goggles, ring
furniture: furniture, chair, couch, bed, bathtub, toilet, door, mirror, window, lamp
dish: dishes, containers, beverages, cup, glass, mug, bottle, teapot, beer, wine, cocktail, spoon,
  knife, fork, pot, jar, amphora, bowl, beverage, tea, coffee, sake, bucket, basket
food: food, dessert, bread, cheese, pizza, hamburger, cake, pie, cookie, egg, meat, sushi, rice,
  noodle, sandwich, burrito, taco, pancakes, waffle, candy, chocolate, ice cream, doughnut,
  croissant, bacon, fries, popcorn, honey, dumpling, salad, soup, butter, custard, lollipop
building: building, house, monument, castle, church, mosque, temple, tower, hotel, hospital, bank,
  factory, stadium, school, homes, town, bridge, tent, hut, shrine, synagogue, store
device: electronic, computer, telephone, phone, camera, television, radio, printer, laptop,
  keyboard, joystick, battery, watch, clock, office, video, game
tool: tools, arttools, hammer, wrench, saw, axe, pick, screwdriver, scissors, pencil, pen, brush,
  weapon, military, sword, dagger, key, lock, magnet, ladder, telescope, microscope, medical,
  syringe, hook, razor, plunger, shovel, gun
person: people, person, man, woman, boy, girl, baby, child, human, bodypart, bust, prince,
  princess, superhero, zombie, fairy, mermaid, vampire, ninja, guard, worker, elf, mage, santa
"""
"""Kinds, and the words that tell them; the first that fits counts, of the folders from the inner
to the outer, then of the name. What the words of `-` tell is left out."""
KINDS = tuple(
    (kind.strip(), "|".join(word.strip() for word in words.split(",")))
    for kind, words in (line.split(":") for line in WORDS.strip().replace("\n  ", " ").split("\n"))
)
LEFT_OUT = "-"


@dataclass(frozen=True)
class Found:
    """A picture of a package: pixels with alpha or without, and what its name says."""

    pixels: Pixels
    kind: str
    source: str


def main() -> None:
    """Collect everything into one file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    options = parser.parse_args()
    cutouts, grounds = collect(options.folder)
    if not cutouts or not grounds:
        parser.error(f"{options.folder}: no cut-outs and grounds; unpack the packages into it")
    counts = {kind: sum(one.kind == kind for one in cutouts) for kind, _ in KINDS[1:]}
    colours = np.array([_colours(one.pixels) for one in cutouts])
    clip_art = np.array(["openclipart" in one.source or "emoji" in one.source for one in cutouts])
    arrays = _packed("cutout", cutouts) | _packed("ground", grounds)
    arrays["photographic"] = (colours > PHOTOGRAPHIC) & ~clip_art
    np.savez(options.out, allow_pickle=False, **arrays)
    print(f"{len(cutouts)} cut-outs, {len(grounds)} grounds\n{counts}")


def collect(folder: Path) -> tuple[list[Found], list[Found]]:
    """The cut-outs and grounds of a folder, each picture once."""
    cutouts: list[Found] = []
    grounds: list[Found] = []
    seen: set[int] = set()
    for name, picture in _pictures(folder):
        if any(puzzle in name for puzzle in PUZZLES):
            continue
        alpha = "A" in picture.getbands() or "transparency" in picture.info
        kind = kind_of(name) if alpha else UNLABELLED
        if kind == LEFT_OUT or "_mirror" in name or "screenshot" in name:
            continue
        try:
            one = _cutout(picture) if alpha else _ground(picture)
        except OSError:
            continue
        if (
            one is None
            or (not alpha and "openclipart" in name)
            or (digest := zlib.crc32(one.tobytes())) in seen
        ):
            continue
        seen.add(digest)
        (cutouts if alpha else grounds).append(Found(one, kind, name))
    return cutouts, grounds


def kind_of(name: str) -> str:
    """The kind of thing that a path tells; an emoji's by the Unicode name of its character."""
    parts = Path(name.lower())
    if "emoji" in name:
        code = parts.stem.split("-")[0]
        if re.search(r"-1f3f[b-f]", parts.stem) or len(code) < 4:
            return LEFT_OUT
        told = [unicodedata.name(chr(int(code, 16)), "").lower()]
        if "face" in told[0].split() and ord(chr(int(code, 16))) >= 0x1F600:
            return LEFT_OUT
    else:
        told = [*reversed(parts.parts[:-1]), parts.stem.replace("_", " ")]
        told = [part for part in told if part not in ("stamps", "png", "usr", "share")]
    joined = " / ".join(reversed(told))
    if _has(KINDS[0][1], joined):
        return LEFT_OUT
    for part in told:
        for kind, words in KINDS[1:]:
            if _has(words, part):
                return kind
    return UNLABELLED


def _has(words: str, text: str) -> bool:
    return re.search(rf"(?<![a-z])(?:{words})(?:s|es|ies)?(?![a-z])", text) is not None


def _pictures(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """The names and pictures of all files below a folder."""
    Image.MAX_IMAGE_PIXELS = None
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".rcc":
            for number, data in enumerate(carved(path.read_bytes())):
                yield from _opened(f"{name}/{number}", io.BytesIO(data))
        elif path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp") and path.is_file():
            yield from _opened(name, path)


def _opened(name: str, file: Path | io.BytesIO) -> Iterator[tuple[str, Image.Image]]:
    try:
        with Image.open(file) as picture:
            yield name, picture
    except OSError:
        return


def carved(data: bytes) -> Iterator[bytes]:
    """The PNG, JPEG and WebP files that a file contains as they are."""
    for match in re.finditer(SIGNATURES, data):
        start = match.start()
        if data[start : start + 4] == b"RIFF":
            yield data[start : start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")]
        elif data[start] == 0x89:
            end = data.find(b"IEND", start)
            yield data[start : end + 8]
        else:
            length = int.from_bytes(data[start - 4 : start], "big")  # Qt writes it before the file
            yield data[start : start + length] if 500 < length < 8_000_000 else b""


def _cutout(picture: Image.Image) -> Pixels | None:
    """The pixels of a cut-out, cropped to what its alpha shows; None if it is a whole rectangle."""
    if min(picture.size) < 32:
        return None
    picture.draft("RGB", (SIDE, SIDE))
    whole = picture.convert("RGBA")
    box = whole.getchannel("A").point(lambda value: 255 * (value > 20)).getbbox()
    if box is None:
        return None
    whole = whole.crop(box)
    whole.thumbnail((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    pixels = np.asarray(whole)
    share = float((pixels[..., 3] > 128).mean())
    if not 0.12 < share < 0.95 or min(pixels.shape[:2]) < 24:
        return None
    return pixels


def _ground(picture: Image.Image) -> Pixels | None:
    """The pixels of a ground; None if it is too small, or almost of one colour."""
    if min(picture.size) < LEAST_GROUND:
        return None
    picture.draft("RGB", (GROUND_SIDE, GROUND_SIDE))
    whole = picture.convert("RGB")
    whole.thumbnail((GROUND_SIDE, GROUND_SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    pixels = np.asarray(whole)
    return pixels if pixels.std() > 4 else None


def _colours(pixels: Pixels) -> int:
    solid = pixels[..., :3][pixels[..., 3] > 128].astype(np.int64) // 8
    return len(np.unique(solid @ np.array([1, 32, 1024])))


def _packed(name: str, found: list[Found]) -> dict[str, NDArray[np.generic]]:
    """Pictures of many sizes as one row of bytes, with their shapes, kinds and sources."""
    return {
        f"{name}_pixels": np.concatenate([one.pixels.ravel() for one in found]),
        f"{name}_shapes": np.array([one.pixels.shape for one in found]),
        f"{name}_kinds": np.array([one.kind for one in found]),
        f"{name}_sources": np.array([one.source for one in found]),
    }


if __name__ == "__main__":
    main()
