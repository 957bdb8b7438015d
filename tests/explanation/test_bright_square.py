"""A layer that attends to brightness finds a bright square: the overlay lies where it should."""

import itertools
import json
from pathlib import Path

import numpy as np
import pictures
import pytest
from PIL import Image

from attnviz.cli import main

PICTURES = {
    "square": (320, 320, (190, 90, 260, 160)),
    "wide": (480, 270, (200, 60, 280, 140)),
    "tall": (210, 400, (30, 160, 110, 240)),
    "small": (40, 30, (22, 8, 32, 18)),
}
TOKENS = 14


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.brightness_layer(tmp_path_factory.mktemp("layer") / "bright.safetensors")


def hot_box(overlay: Image.Image, fit: str) -> tuple[int, int, int, int]:
    """Bounding box of the upper half of the colour scale, in the part that the model saw."""
    width, height = overlay.size
    side = min(width, height) if fit == "crop" else max(width, height)
    left, top = max(0, (width - side) // 2), max(0, (height - side) // 2)
    seen = np.asarray(overlay.convert("L"))[top : top + side, left : left + side]
    y, x = np.nonzero(seen > 127)
    return int(x.min()) + left, int(y.min()) + top, int(x.max()) + left + 1, int(y.max()) + top + 1


@pytest.mark.parametrize(
    ("shape", "fit", "orientation"),
    list(itertools.product(PICTURES, ["keep", "crop", "pad", "squash"], range(1, 9))),
)
def test_the_hot_region_is_the_square_to_within_one_token(
    shape: str, fit: str, orientation: int, layer: Path, tmp_path: Path
) -> None:
    width, height, box = PICTURES[shape]
    image = pictures.bright_square(width, height, box)
    path = pictures.save(image, tmp_path / "square.png", orientation)
    for interpolation in ("nearest", "bicubic"):
        options = ["-m", "random", "--heads", "2", "--fit", fit, "--weights", str(layer), "--quiet"]
        look = ["--alpha", "1", "--colormap", "gray", "--interpolation", interpolation]
        assert main(["show", str(path), *options, *look, "-o", str(tmp_path / "out")]) == 0
        folder = tmp_path / "out" / "square.png"
        record = json.loads((folder / "stats.json").read_text())
        assert (record["image"]["width"], record["image"]["height"]) == (width, height)
        token = max(width, height) / TOKENS if fit == "pad" else _token(record, width, height, fit)
        for head in record["heads"]:
            with Image.open(folder / head["file"]) as overlay:
                assert overlay.size == (width, height)
                hot = hot_box(overlay, fit)
            assert np.abs(np.subtract(hot, box)).max() <= token, (hot, box, token)
            assert box[0] <= head["map"]["peak_x"] <= box[2]
            assert box[1] <= head["map"]["peak_y"] <= box[3]


def _token(record: dict[str, dict[str, int]], width: int, height: int, fit: str) -> float:
    """The longer side of a token in picture pixels."""
    if fit == "crop":
        return min(width, height) / TOKENS
    return max(width / record["tokens"]["columns"], height / record["tokens"]["rows"])
