"""Measures the numbers of the model card on held-out pictures, each kind in a folder of its own.

    python training/figures.py --out figures
    python training/figures.py --out figures --material material.npz --beside deit-tiny
    python training/figures.py --out figures --photographs FOLDER      # FOLDER/pictures, /masks

Writes the pictures with their masks into the folder, then measures them with `attnviz evaluate`:
held-out scenes, four photographs of scikit-image with masks from `tests/photographs.py`, crops of
them, composites of cut-outs that training never saw, and photographs of your own, whole and
cropped. `--beside` names another model, whose layers stand in the table too.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import draw_scenes
import numpy as np
from composites import Composites
from material import read
from numpy.typing import NDArray
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import photographs

COMPOSITES, CROPS, OWN_CROPS = 200, 25, 2
"""The numbers of composites, of crops of each of the four photographs, and of each of yours."""
SEED = 20_261_124
SHAPES = ((144, 144), (128, 160), (160, 128), (112, 184))
METRICS = ("pointing", "jaccard_area", "auc", "jaccard60")


def main() -> None:
    """Make the pictures, and measure them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--material", type=Path, metavar="NPZ", help="for held-out composites")
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="with pictures, masks")
    parser.add_argument("--beside", metavar="MODEL", help="another model to measure")
    parser.add_argument("options", nargs="*", help="for `attnviz evaluate`, behind --")
    given = parser.parse_args()
    out: Path = given.out
    for name in make(out, given.material, given.photographs):
        rows = measured(out / name, "tiny", given.options)
        if given.beside is not None:
            rows += measured(out / name, given.beside, [])
        print(f"\n{name}\n\n{table(rows)}", flush=True)


def make(out: Path, collection: Path | None, own: Path | None) -> list[str]:
    """Write all pictures and masks; the names of their folders."""
    draw_scenes.draw(
        out / "scenes",
        seed=draw_scenes.SEED,
        count=draw_scenes.COUNT,
        unseen=draw_scenes.UNSEEN_SHARE,
    )
    names = ["scenes", "photographs", "crops"]
    four = {}
    for name in photographs.OBJECTS:
        pixels = photographs.photograph(name)
        four[name] = pixels, photographs.mask(name, pixels.shape[1], pixels.shape[0])
    written(out / "photographs", out / "crops", four, CROPS)
    if collection is not None:
        composed(out / "composites", collection)
        names.append("composites")
    if own is not None:
        written(out / "own", out / "own-crops", _own(own), OWN_CROPS)
        names += ["own", "own-crops"]
    return names


def measured(folder: Path, model: str, options: list[str]) -> list[dict[str, Any]]:
    """The rows of `attnviz evaluate` of the upper layers; of a model beside, without baselines."""
    result = folder / f"figures-{Path(model).name}"
    command = [sys.executable, "-m", "attnviz", "evaluate", str(folder / "pictures"), "-m", model]
    command += ["--masks", str(folder / "masks"), "-o", str(result), "--layers", "upper"]
    subprocess.run([*command, "--quiet", *options], check=True)
    lines = (result / "evaluation.jsonl").read_text().splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    last = max(row["layer"] for row in rows if row["layer"] is not None)
    if model == "tiny":
        return [row | {"model": ""} for row in rows if row["layer"] in (None, last)]
    kept = [row for row in rows if not row["baseline"] and row["head"] in ("mean", "localized")]
    return [row | {"model": f"{Path(model).name}, "} for row in kept]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown: means, and their 95 % intervals."""
    lines = ["| map | " + " | ".join(METRICS) + " |", "|---|" + "---|" * len(METRICS)]
    for row in rows:
        if row["baseline"] is not None and row["head"] not in ("mean", None):
            continue
        head = f"head {row['head']}" if isinstance(row["head"], int) else str(row["head"])
        if row["model"] and row["head"] == "mean":
            head = f"layer {row['layer']}"
        cells = [_cell(row["metrics"].get(name)) for name in METRICS]
        lines.append(f"| {row['model']}{row['baseline'] or head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(interval: dict[str, float] | None) -> str:
    if interval is None:
        return ""
    mean, low, high = (f"{interval[name]:.3f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low}–{high})"


def composed(out: Path, collection: Path) -> None:
    """Write composites of held-out cut-outs and grounds."""
    composites, number, batch = Composites(read(collection, held_out=True), SEED), 0, 0
    while number < COMPOSITES:
        height, width = SHAPES[batch % len(SHAPES)]
        drawn = composites.draw(25, height=height, width=width, number=batch)
        batch += 1
        for pixels, objects in zip(drawn.pictures, drawn.objects.numpy(), strict=True):
            if number < COMPOSITES and objects.any():
                _save(out, f"{number:04}", pixels.permute(1, 2, 0).numpy(), objects > 0)
                number += 1


Photographs = dict[str, tuple[NDArray[np.uint8], NDArray[np.bool_]]]


def _own(folder: Path) -> Photographs:
    """Pictures of a folder with their masks, at most 448 pixels long."""
    found: Photographs = {}
    for path in sorted((folder / "pictures").iterdir()):
        picture = Image.open(path).convert("RGB")
        mask = Image.open(next((folder / "masks").glob(f"{path.stem}.*"))).convert("L")
        picture.thumbnail((448, 448))
        found[path.stem] = np.asarray(picture), np.asarray(mask.resize(picture.size)) > 127
    return found


def written(whole: Path, crops: Path, pictures: Photographs, count: int) -> None:
    """Write whole photographs, and crops with their object off-centre, the same each time."""
    rng = np.random.default_rng(SEED)
    for name, (pixels, mask) in pictures.items():
        _save(whole, name, pixels, mask)
        made, tries = 0, 0
        while made < count and (tries := tries + 1) < 2000:
            rows, columns = (_span(rng, length) for length in mask.shape)
            if off_centre(mask[rows, columns]):
                _save(crops, f"{name}-{made:02}", pixels[rows, columns], mask[rows, columns])
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
