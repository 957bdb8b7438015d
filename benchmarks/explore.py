"""Measures the size of the pages of `attnviz explore`, and their speed in a browser.

    python benchmarks/explore.py [--write]

There are two models, both with random weights that attend unevenly: a ViT-B/16 at 224 pixels (12
layers of 12 heads, weights in 8 bits), and a model shaped like DINOv2-S with registers at 518
pixels (12 layers of 6 heads, queries and keys in 16 bits). Measured are the time of the run, the
time to make the page, and its size; then, in headless Chromium with the page opened as a file, the
time to the first view and the time to redraw when the pointer moves. The promises are 8 MB, 1.5 s
and 50 ms for the first model, and 40 MB and 100 ms for the second. It needs transformers,
playwright and chromium. `--write` puts the table into RESULTS.md.
"""

import datetime
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from playwright.sync_api import sync_playwright

import attnviz

RESULTS = Path(__file__).with_name("RESULTS.md")
CAT = Path(__file__).parents[1] / "sample_images" / "cat.jpg"
MODELS = {
    "ViT-B/16, 224 px": ("ViTModel", "ViTConfig", {}),
    "DINOv2-S with registers, 518 px": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14, "image_size": 518},
    ),
}
OPENINGS, MOVES = 5, 60
HOVER = """([x, y]) => new Promise((done) => {
    const frame = document.getElementById("frame-a"), box = frame.getBoundingClientRect();
    const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height,
        bubbles: true, pointerType: "mouse" };
    const start = performance.now();
    frame.dispatchEvent(new PointerEvent("pointermove", at));
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
})"""


def build(name: str, folder: Path) -> Path:
    """A checkpoint of random weights, whose queries and keys are larger than they are drawn."""
    kind, config, settings = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim > 1 and re.search("query|key", parameter_name):
                parameter.mul_(4)
    model.save_pretrained(folder)
    return folder


def make(name: str, folder: Path) -> tuple[Path, float, float]:
    """The page, and the seconds that the run and the page took; the second of two pages."""
    model = attnviz.load_model(str(build(name, folder / "model")))
    picture = attnviz.load_image(CAT)
    for _ in range(2):
        start = time.perf_counter()
        seen = attnviz.observe(picture, model, fit="squash")
        middle = time.perf_counter()
        path = attnviz.explore(seen).save(folder / "page.html")
        end = time.perf_counter()
    return path, middle - start, end - middle


def in_browser(path: Path) -> tuple[float, list[float]]:
    """Seconds to the first view, the median of some, and milliseconds of each move."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        views = []
        for _ in range(OPENINGS):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            start = time.perf_counter()
            page.goto(path.as_uri(), wait_until="domcontentloaded")
            page.evaluate("attnviz.drawn")
            views.append(time.perf_counter() - start)
            if len(views) < OPENINGS:
                page.close()
        moves = hover(page)
        browser.close()
    return statistics.median(views), moves


def hover(page: Any) -> list[float]:
    """Milliseconds from the pointer's move until its frame is drawn, all over the picture."""
    while not page.evaluate("[...layers, ...ends].every(({ arrays }) => arrays)"):
        page.wait_for_timeout(200)  # the other layers are inflated in idle time
    found = []
    for i in range(MOVES):
        found.append(page.evaluate(HOVER, [(0.07 + 0.137 * i) % 1, (0.11 + 0.383 * i) % 1]))
        page.wait_for_timeout(30)
    return found


def main() -> None:
    lines = ["| model | MB | run, s | page, s | first view, s | move, median ms | 95 %, ms |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            path, run, page = make(name, Path(folder))
            megabytes = path.stat().st_size / 1e6
            view, moves = in_browser(path)
        late = statistics.quantiles(moves, n=20)[-1]
        lines.append(
            f"| {name} | {megabytes:.1f} | {run:.2f} | {page:.2f} | {view:.2f} | "
            f"{statistics.median(moves):.0f} | {late:.0f} |"
        )
    where = (
        f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, "
        f"attnviz {attnviz.__version__}, {datetime.datetime.now(tz=datetime.UTC).date()}."
    )
    table = "\n".join([where, "", *lines])
    print(table)
    if "--write" in sys.argv:
        text = RESULTS.read_text(encoding="utf-8")
        part = re.compile(r"(?s)(<!-- explore -->\n).*?(<!-- /explore -->)")
        RESULTS.write_text(
            part.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
