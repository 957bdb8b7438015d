"""Draw the sample pictures and the exact masks of their main objects."""

import argparse
from collections.abc import Callable
from pathlib import Path

import cat
import lighthouse
import teapot
import train
from canvas import Canvas
from PIL import Image

FOLDER = Path(__file__).parents[2] / "sample_images"

# Each picture has a format of its own, so that the samples cover what people bring along.
SCENES: dict[str, Callable[[], Canvas]] = {
    "cat.jpg": cat.draw,
    "lighthouse.png": lighthouse.draw,
    "train.webp": train.draw,
    "teapot.jpg": teapot.draw,
}

# A camera held upright stores its picture lying on its side and leaves a note to turn it.
STORED_ON_ITS_SIDE = "teapot.jpg"
ORIENTATION_TAG, TURN_CLOCKWISE = 0x0112, 6


def main() -> None:
    """Draw everything into one folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER")
    out: Path = parser.parse_args().out
    (out / "masks").mkdir(parents=True, exist_ok=True)
    for name, draw in SCENES.items():
        picture, mask = draw().finish()
        _save(picture, out / name)
        mask.save(out / "masks" / f"{Path(name).stem}.png", optimize=True)


def _save(picture: Image.Image, path: Path) -> None:
    """Save a picture, the teapot on its side."""
    exif = Image.Exif()
    if path.name == STORED_ON_ITS_SIDE:
        exif[ORIENTATION_TAG] = TURN_CLOCKWISE
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    picture.save(path, quality=92, optimize=True, exif=exif)


if __name__ == "__main__":
    main()
