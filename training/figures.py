"""Measures the numbers of the model card on held-out scenes, four photographs, and their crops.

    python training/figures.py --out figures

Writes the pictures with their masks into the folder, then measures them with `attnviz evaluate`.
The photographs come with scikit-image; their masks are polygons of `tests/photographs.py`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import draw_scenes
import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import photographs

CROPS = 25
"""The number of crops of each photograph."""
SEED = 20_261_124
METRICS = ("pointing", "jaccard_area", "auc", "jaccard60")


def main() -> None:
    """Make the pictures, and measure them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("options", nargs="*", help="for `attnviz evaluate`, behind --")
    given = parser.parse_args()
    out: Path = given.out
    draw_scenes.draw(
        out / "scenes",
        seed=draw_scenes.SEED,
        count=draw_scenes.COUNT,
        unseen=draw_scenes.UNSEEN_SHARE,
    )
    whole(out / "photographs")
    cropped(out / "crops")
    for name in ("scenes", "photographs", "crops"):
        folder = out / name
        command = [sys.executable, "-m", "attnviz", "evaluate", str(folder / "pictures")]
        command += ["--masks", str(folder / "masks"), "-o", str(folder / "figures")]
        subprocess.run([*command, "--quiet", *given.options], check=True)
        lines = (folder / "figures" / "evaluation.jsonl").read_text().splitlines()
        print(f"\n{name}\n\n{table([json.loads(line) for line in lines])}", flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of `attnviz evaluate` as Markdown: means, and their 95 % intervals."""
    lines = ["| map | " + " | ".join(METRICS) + " |", "|---|" + "---|" * len(METRICS)]
    for row in rows:
        if row["baseline"] is not None and row["head"] not in ("mean", None):
            continue
        head = row["head"] if row["head"] in ("mean", "best") else f"head {row['head']}"
        cells = [_cell(row["metrics"].get(name)) for name in METRICS]
        lines.append(f"| {row['baseline'] or head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(interval: dict[str, float] | None) -> str:
    if interval is None:
        return ""
    mean, low, high = (f"{interval[name]:.3f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low}–{high})"


def whole(out: Path) -> None:
    """Write the whole photographs."""
    for name in photographs.OBJECTS:
        pixels = photographs.photograph(name)
        height, width = pixels.shape[:2]
        _save(out, name, pixels, photographs.mask(name, width, height))


def cropped(out: Path) -> None:
    """Write crops whose object is off the centre; they are the same each time."""
    rng = np.random.default_rng(SEED)
    for name in photographs.OBJECTS:
        pixels = photographs.photograph(name)
        mask = photographs.mask(name, pixels.shape[1], pixels.shape[0])
        made = 0
        while made < CROPS:
            rows, columns = (_span(rng, length) for length in mask.shape)
            if off_centre(mask[rows, columns]):
                _save(out, f"{name}-{made:02}", pixels[rows, columns], mask[rows, columns])
                made += 1


def off_centre(mask: NDArray[np.bool_]) -> bool:
    """Whether an object fills 2 to 70 % of a crop, with its centroid 1/6 of a side off-centre."""
    if not 0.02 <= mask.mean() <= 0.7:
        return False
    rows, columns = np.nonzero(mask)
    away = [
        abs(places.mean() / length - 0.5)
        for places, length in zip((rows, columns), mask.shape, strict=True)
    ]
    return bool(max(away) >= 1 / 6)


def _span(rng: np.random.Generator, length: int) -> slice:
    """A random part of a side, 35 to 90 % of its length."""
    size = int(length * rng.uniform(0.35, 0.9))
    start = int(rng.integers(0, length - size + 1))
    return slice(start, start + size)


def _save(out: Path, name: str, pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    for folder, picture in (("pictures", pixels), ("masks", mask.astype(np.uint8) * 255)):
        (out / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(out / folder / f"{name}.png")


if __name__ == "__main__":
    main()
