"""How soon the page is there and how fast it follows, of models of the sizes that people use."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pictures
import pytest
import torch

import attnviz
from attnviz.io.picture import Picture

pytest_plugins = ["browsing"]
# Model: config, settings, limits of the first view and of a hover, in ms of one thread.
SIZES: dict[str, tuple[str, str, dict[str, Any], float, float]] = {
    "ViT-B/16 at 224": ("ViTConfig", "ViTModel", {"image_size": 224}, 1500, 50),
    # Two layers of twelve: the first view inflates one, and a hover asks one.
    "DINOv2-S at 518": (
        "Dinov2Config",
        "Dinov2Model",
        {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 2, "patch_size": 14,
         "image_size": 518},
        1500,
        100,
    ),
}  # fmt: skip
# Each is drawn before the next one comes.
HOVERS = """async () => {
    const frame = document.getElementById("frame-a"), box = frame.getBoundingClientRect();
    for (let i = 0; i < 15; i += 1) {
        const place = {clientX: box.left + box.width * (0.1 + 0.05 * i),
            clientY: box.top + box.height * (0.2 + 0.04 * i), bubbles: true};
        frame.dispatchEvent(new PointerEvent("pointermove", place));
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    }
}"""


def busy(session: Any) -> float:
    """How long the page's thread has computed, in ms: what else the machine does does not count."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    found: dict[str, float] = {metric["name"]: metric["value"] for metric in metrics}
    return 1000 * found["TaskDuration"]


@pytest.mark.parametrize("size", SIZES)
def test_the_first_view_is_soon_there_and_hovers_are_followed(
    size: str, new_page: Any, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    config, kind, settings, first, redraw = SIZES[size]
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        model = getattr(transformers, kind)(getattr(transformers, config)(**settings))
        model.save_pretrained(folder)
        loaded = attnviz.load_model(folder)
    side = settings["image_size"]
    picture = Picture("noise.png", np.asarray(pictures.noise(side, side)))
    file = attnviz.explore(attnviz.observe(picture, loaded)).save(tmp_path / "page.html")
    page = new_page()
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(file.as_uri())
    page.evaluate("attnviz.drawn")
    assert busy(session) < first
    page.evaluate("Promise.all(layers.map(load)).then(() => 0)")
    before = busy(session)
    page.evaluate(HOVERS)
    assert (busy(session) - before) / 15 < redraw
