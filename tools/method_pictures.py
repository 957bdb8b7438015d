"""Draw one small picture for each method, of the sample cat by the embedded model.

    python tools/method_pictures.py --out docs/images/methods

Methods of single heads show head 0 of the last layer, whose head looks at the whole object.
"""

import argparse
from pathlib import Path

from PIL import Image

import attnviz
from attnviz.io.picture import with_pixels
from attnviz.methods import METHODS
from attnviz.output.write_blends import drawn_blends

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "sample_images" / "cat.jpg"
WIDTH, QUALITY = 240, 80
EYE = "362,98"
DRAWING = attnviz.Drawing(alpha=0.65)
LIKE = ("similarity", "token-similarity")


def main() -> None:
    """Draw every method into one folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    folder = ROOT / "docs" / "images" / "methods"
    parser.add_argument("--out", type=Path, default=folder, metavar="FOLDER")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    picture = attnviz.load_image(PICTURE)
    model = attnviz.load_model("tiny", head="class", device="cpu")
    seen = attnviz.observe(picture, model, gradients=True, tokens=True)
    for name, method in METHODS.items():
        query = EYE if name in LIKE else "auto"
        target = ["mammal"] if method.scored else []
        answer = attnviz.explain(seen, method=name, query=query, target=target)
        image = _picture(answer)
        image.thumbnail((WIDTH, WIDTH))
        image.save(out / f"{name}.webp", quality=QUALITY, method=6)


def _picture(answer: attnviz.Explanation) -> Image.Image:
    """The map of head 0 or of all heads; components together in colours."""
    scales, style = DRAWING.ranges(answer), DRAWING.style()
    picture = with_pixels(answer.observation.picture)
    for _, image in drawn_blends(answer, picture, scales, style, wanted=False):
        return image
    return attnviz.render(answer, DRAWING)[5, answer.heads[0]]


if __name__ == "__main__":
    main()
