"""Measures the speed of whole folders beside the bare model, and the memory as the folder grows.

    python benchmarks/batch.py [--pictures 500] [--model FOLDER] [--small] [--memory 200 5000]

Pictures of mixed sizes are drawn into a folder, and a vision transformer of ViT-B's size with
random weights is saved to another (or give your own with --model). These run in turn in one
process:

    bare    the forward pass alone, on as many inputs, in batches of the shapes that batch makes
    none    the engine with `--pictures none`: files in, records out
    sheet   the engine with `--pictures sheet`

With `--small` the model is a ViT of width 48 and 12 layers, and all pictures have 1000×750 pixels.
The output has core-milliseconds a picture: of decoding, resizing and the forward pass
alone, of `none` and of `sheet`. The promises are 1.15 and 1.6 times the first.

The output has pictures per second, the number of busy cores, and for each pair of runs the ratio to
the bare one. The promises are 0.95 for `none` and 0.85 for `sheet`. With `--model tiny`, drawing
takes more time than the model; then all cores must be busy. The model is loaded before the clock
starts. Memory is the peak of a process that processes so many pictures with the model `random`; the
promise is 10 % growth from 200 to 5 000.
"""

import argparse
import io
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import attnviz
from attnviz.batch.jobs import Pictures, Settings
from attnviz.batch.ledger import Ledger
from attnviz.batch.local import most
from attnviz.batch.run import Batch
from attnviz.batch.sources import find
from attnviz.explanation.request import Questions
from attnviz.geometry.grid import TokenGrid
from attnviz.output.write_pictures import Drawing

SIZES = ((640, 480), (480, 640), (800, 600), (1024, 683), (683, 1024), (500, 500), (1280, 720))


def draw(
    folder: Path, number: int, scale: float = 1.0, sizes: Sequence[tuple[int, int]] = SIZES
) -> None:
    """Photographs, as far as their files and sizes go."""
    rng = np.random.default_rng(0)
    for i in range(number):
        width, height = (max(8, round(scale * side)) for side in sizes[i % len(sizes)])
        small = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        path = folder / f"{i // 100:03d}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)


def save_vit(folder: Path, *, small: bool) -> None:
    """ViT-B/16, or one of width 48, with random weights, as transformers saves it."""
    import transformers  # noqa: PLC0415

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 192}
    config = transformers.ViTConfig.from_dict(sizes if small else {})
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)


def shapes(model: attnviz.Model, photos: Path) -> Counter[TokenGrid]:
    """How many inputs there are of every shape."""
    found: Counter[TokenGrid] = Counter()
    for path in sorted(photos.rglob("*.jpg")):
        with Image.open(path) as image:
            blank = np.broadcast_to(np.uint8(0), (image.height, image.width, 3))
        found[model.place(attnviz.Picture(str(path), blank)).grid] += 1
    return found


class Spent(NamedTuple):
    """Seconds by the clock, and of all cores."""

    wall: float
    cores: float


def now() -> Spent:
    return Spent(time.perf_counter(), time.process_time())


def since(start: Spent) -> Spent:
    return Spent(*(end - begin for begin, end in zip(start, now(), strict=True)))


def bare(model: attnviz.Model, inputs: Counter[TokenGrid]) -> Spent:
    """The forward passes alone."""
    spent = Spent(0.0, 0.0)
    for grid, number in inputs.items():
        size = most(model, grid, None)
        whole, rest = divmod(number, size)
        for count in [size] * whole + [rest] * (rest > 0):
            pixels = torch.rand(count, 3, grid.input_height, grid.input_width)
            start = now()
            with torch.no_grad():
                model.module(pixels)
            spent = Spent(*map(sum, zip(spent, since(start), strict=True)))
    return spent


def decoded(model: attnviz.Model, photos: Path) -> Spent:
    """Decoding and resizing alone, as a script does it."""
    start = now()
    for path in sorted(photos.rglob("*.jpg")):
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            grid = model.place(attnviz.Picture(str(path), np.asarray(image))).grid
            size = (grid.input_width, grid.input_height)
            np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    return since(start)


def engine(model: attnviz.Model, photos: Path, pictures: Pictures) -> Spent:
    """A whole run into a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        start = now()
        items = find([str(photos)], out).items
        settings = Settings(Questions(), Drawing(), "benchmark", pictures=pictures)
        with Ledger(out) as ledger:
            batch = Batch(items, settings, out, ledger)
            batch.work(model, batch=None, stop=Event(), on_outcome=lambda *_: None)
            batch.finish()
            assert batch.count.done == len(items)
        return since(start)


def speed(model: attnviz.Model, photos: Path, rounds: int) -> None:
    """Print pictures a second and ratios."""
    inputs = shapes(model, photos)
    number = sum(inputs.values())
    runs: dict[str, Callable[[], Spent]] = {
        "bare": lambda: bare(model, inputs),
        "none": lambda: engine(model, photos, "none"),
        "sheet": lambda: engine(model, photos, "sheet"),
    }
    found: dict[str, list[Spent]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    for name, spent in found.items():
        ratios = [a.wall / b.wall for a, b in zip(found["bare"], spent, strict=True)]
        print(
            f"{name:6} {number / statistics.median(each.wall for each in spent):8.2f} pictures/s  "
            f"{statistics.median(each.cores / each.wall for each in spent):.2f} cores  ratio "
            f"{statistics.median(ratios):.3f}  ({min(ratios):.3f} to {max(ratios):.3f})"
        )


def small(model: attnviz.Model, photos: Path, rounds: int) -> None:
    """Print core-milliseconds a picture beside decoding, resizing and the model alone."""
    inputs = shapes(model, photos)
    number = sum(inputs.values())
    for _ in range(rounds):
        torch.set_num_threads(1)
        alone = bare(model, inputs).cores + decoded(model, photos).cores
        torch.set_num_threads(2)
        line = f"alone {1000 * alone / number:.1f} core-ms"
        for pictures in ("none", "sheet"):
            spent = engine(model, photos, pictures)
            line += f"; {pictures} {1000 * spent.cores / number:.1f} core-ms, "
            line += f"ratio {spent.cores / alone:.2f}, {spent.cores / spent.wall:.2f} cores"
        print(line)


def memory(numbers: list[int]) -> None:
    """Print the peak memory of processes that do ever more pictures."""
    peaks = []
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder) / "photos", number, scale=0.2)
            line = [sys.executable, __file__, "--child", folder]
            found = subprocess.run(line, capture_output=True, text=True, check=True)
        peaks.append(int(found.stdout))
        print(f"{number:6} pictures: {peaks[-1] / 1024:.0f} MiB")
    print(f"ratio {peaks[-1] / peaks[0]:.3f}")


def child(folder: Path) -> None:
    from attnviz.cli import main  # noqa: PLC0415

    line = ["batch", str(folder / "photos"), "-o", str(folder / "out"), "-m", "random", "--quiet"]
    sys.stdout = sys.stderr
    assert main([*line, "--size", "64", "--pictures", "none"]) == 0
    sys.__stdout__.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))  # type: ignore[union-attr]


def options() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--memory", type=int, nargs="*", default=[200, 5000])
    parser.add_argument("--child", type=Path)
    return parser.parse_args()


def main() -> None:
    given = options()
    if given.child is not None:
        child(given.child)
        return
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        photos, checkpoint = Path(folder) / "photos", Path(folder) / "model"
        draw(photos, given.pictures, sizes=[(1000, 750)] if given.small else SIZES)
        if given.model is None:
            save_vit(checkpoint, small=given.small)
        model = attnviz.load_model(given.model or str(checkpoint))
        if given.pictures:
            (small if given.small else speed)(model, photos, given.rounds)
    if given.memory:
        memory(given.memory)


if __name__ == "__main__":
    main()
