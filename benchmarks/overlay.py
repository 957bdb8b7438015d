"""Measures the time of one overlay, beside a matplotlib figure of the same picture.

    python benchmarks/overlay.py

The picture is a 451×300 photograph under a 14×21 map. `ours` is drawn as `attnviz show` does it;
`figure` as most scripts do, imshow over imshow, with the same number of pixels. Both run in turn in
one process.
"""

import io
import statistics
import time
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
from PIL import Image

from attnviz.drawing.overlay import Style, colour_table, overlay
from attnviz.drawing.scale import Range
from attnviz.geometry.placement import place
from attnviz.io.picture import Picture
from attnviz.output.encoding import as_image

ROUNDS = 25
PLACEMENT = place(451, 300, size=137, patch=8)
COARSE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
PICTURE = Picture("noise", np.asarray(COARSE.resize((451, 300))))
VALUES = np.random.default_rng(1).random((14, 21), dtype=np.float32)
DRAWN = np.ones((14, 21), dtype=np.bool_)


def figure() -> bytes:
    """Two layers of imshow, saved without borders."""
    from matplotlib import pyplot as plt  # noqa: PLC0415

    canvas, axis = plt.subplots(figsize=(4.51, 3.0), dpi=100)
    axis.imshow(PICTURE.pixels)
    axis.imshow(VALUES, alpha=0.5, interpolation="bicubic", extent=(0, 451, 300, 0))
    axis.set_axis_off()
    canvas.subplots_adjust(0, 0, 1, 1)
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png")
    plt.close(canvas)
    return buffer.getvalue()


def ours(kind: str = "png") -> bytes:
    """Blended and encoded."""
    image = overlay(
        PICTURE,
        VALUES,
        drawn=DRAWN,
        placement=PLACEMENT,
        scale=Range("head", 0.0, 1.0),
        style=STYLE,
    )
    return as_image(image, kind)


def milliseconds(run: Callable[[], bytes]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    mpl.use("agg")
    ways: dict[str, Callable[[], bytes]] = {
        "figure": figure,
        "ours, png": ours,
        "ours, jpg": lambda: ours("jpg"),
        "ours, webp": lambda: ours("webp"),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            taken[name].append(milliseconds(run))
    for name, times in taken.items():
        ratios = [a / b for a, b in zip(taken["figure"], times, strict=True)]
        print(f"{name:<12} {statistics.median(times):6.1f} ms   1/{statistics.median(ratios):.1f}")


STYLE = Style(colour_table("viridis"))

if __name__ == "__main__":
    main()
