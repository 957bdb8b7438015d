"""Draw one small picture for each method, of the sample cat.

    python tools/method_pictures.py --out docs/images/methods
    python tools/method_pictures.py -m CHECKPOINT --target tabby --sheet SHEET.webp

Without `--sheet` it is a file for each method, by the embedded model; methods of single heads show
head 0 of the last layer, whose head looks at the whole object. A sheet shows all methods together
with their names, by a classifier, and each rule of LRP: methods of single heads the mean of the
last layer, and as `localized` that of the most localized heads.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import attnviz
from attnviz.io.picture import with_pixels
from attnviz.methods import METHODS
from attnviz.output.write_blends import drawn_blends

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "sample_images" / "cat.jpg"
WIDTH, QUALITY = 240, 80
CELL, COLUMNS, LINE = 160, 5, 18  # of a sheet: width of a picture, pictures in a row, and a title
EYE = "362,98"
DRAWING = attnviz.Drawing(alpha=0.65)
LIKE = ("similarity", "token-similarity")


def main() -> None:
    """Draw every method into one folder, or onto one sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    folder = ROOT / "docs" / "images" / "methods"
    parser.add_argument("--out", type=Path, default=folder, metavar="FOLDER")
    parser.add_argument("--sheet", type=Path, metavar="FILE")
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--target", default="mammal")
    options = parser.parse_args()
    picture = attnviz.load_image(PICTURE)
    model = attnviz.load_model(options.model, head="class", device="cpu")
    seen = attnviz.observe(picture, model, gradients=True, tokens=True)
    if options.sheet is not None:
        sheet = _sheet(list(_titled(seen, options.target)))
        sheet.save(options.sheet, quality=70, method=6)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for name in METHODS:
        image = _picture(_asked(seen, name, options.target))
        image.thumbnail((WIDTH, WIDTH))
        image.save(options.out / f"{name}.webp", quality=QUALITY, method=6)


def _asked(
    seen: attnviz.Observation, name: str, target: str, heads: str = "all", **options: Any
) -> attnviz.Explanation:
    """What a method answers, from an eye if it looks for what is alike."""
    query = EYE if name in LIKE else "auto"
    targets = [target] if METHODS[name].scored else []
    return attnviz.explain(seen, method=name, query=query, target=targets, heads=heads, **options)


def _titled(seen: attnviz.Observation, target: str) -> Iterator[tuple[str, Image.Image]]:
    """The pictures of a sheet with their titles."""
    yield "", with_pixels(seen.picture).image()
    for name, method in METHODS.items():
        found = _asked(seen, name, target)
        if method.merges == "nothing":
            values = np.stack([answer.values for answer in found.answers]).mean(0, dtype=np.float64)
            mean = replace(found.answers[0], values=np.asarray(values, dtype=np.float32), head=None)
            found = replace(found, answers=(mean,))
        yield name, _picture(found)
        if name == "attention":
            chosen = _asked(seen, name, target, heads="localized")
            found = replace(chosen, answers=chosen.answers[-1:])
            yield f"{name}, localized", _picture(found)
        for option in (each for each in method.options if each.name == "rule"):
            assert isinstance(option.kind, tuple)
            for rule in option.kind[1:]:
                yield f"{name}, {rule}", _picture(_asked(seen, name, target, rule=rule))


def _sheet(titled: list[tuple[str, Image.Image]]) -> Image.Image:
    """Small pictures in rows, each under its title."""
    width, height = titled[0][1].size
    height = round(height * CELL / width)
    rows = -(-len(titled) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 6) - 6, rows * (height + LINE)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (title, image) in enumerate(titled):
        x, y = number % COLUMNS * (CELL + 6), number // COLUMNS * (height + LINE)
        pen.text((x, y + 1), title, fill="black", font=font)
        sheet.paste(image.convert("RGB").resize((CELL, height)), (x, y + LINE))
    return sheet


def _picture(answer: attnviz.Explanation) -> Image.Image:
    """The map of head 0 or of all heads; components together in colours."""
    scales, style = DRAWING.ranges(answer), DRAWING.style()
    picture = with_pixels(answer.observation.picture)
    for _, image in drawn_blends(answer, picture, scales, style, wanted=False):
        return image
    return attnviz.render(answer, DRAWING)[answer.answers[0].layer, answer.heads[0]]


if __name__ == "__main__":
    main()
