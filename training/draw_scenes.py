"""Draw scenes and their masks as files: `attnviz evaluate FOLDER/pictures --masks FOLDER/masks`.

python training/draw_scenes.py --out scenes                  # the 500 held-out scenes
python training/draw_scenes.py --out more --seed 7 --unseen 0
"""

import argparse
import colorsys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scenes import Scenes

SEED, COUNT, UNSEEN_SHARE = 1_000_003, 500, 0.15
"""Held-out scenes: no training uses this seed, and 1/7 of the objects are of untrained kinds."""
SHAPES = ((144, 144), (128, 160), (160, 128), (112, 184))


def main() -> None:
    """Draw everything into one folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--unseen", type=float, default=UNSEEN_SHARE)
    options = parser.parse_args()
    draw(options.out, seed=options.seed, count=options.count, unseen=options.unseen)


def draw(out: Path, *, seed: int, count: int, unseen: float) -> None:
    """Write pictures with at least one object, and masks with a colour per object, as PNG."""
    for name in ("pictures", "masks"):
        (out / name).mkdir(parents=True, exist_ok=True)
    scenes, number, batch = Scenes(seed, unseen=unseen), 0, 0
    while number < count:
        height, width = SHAPES[batch % len(SHAPES)]
        drawn = scenes.draw(25, height=height, width=width, number=batch)
        batch += 1
        for pixels, objects in zip(drawn.pictures, drawn.objects, strict=True):
            if number == count or not (objects > 0).any():
                continue
            name = f"{number:04}.png"
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(out / "pictures" / name)
            coloured(objects.numpy()).save(out / "masks" / name)
            number += 1


def coloured(objects: NDArray[np.uint8]) -> Image.Image:
    """The numbers of objects as a picture: one colour per object, black for none."""
    hues = (number * 0.618 % 1 for number in range(1, 256))
    colours = [[round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.8, 1.0)] for hue in hues]
    palette = np.array([[0, 0, 0], *colours], dtype=np.uint8)
    return Image.fromarray(palette[objects])


if __name__ == "__main__":
    main()
