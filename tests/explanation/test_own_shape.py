"""A model of its own shape that attends to brightness: the overlay lies where the square is."""

import itertools
import json
from pathlib import Path

import numpy as np
import pictures
import pytest
from numpy.typing import NDArray
from PIL import Image

import attnviz
from attnviz.cli import main
from attnviz.geometry.placement import Fit

Values = NDArray[np.float64]
BRIGHT = """
import torch
from torch import nn
from torch.nn import functional as F

HEIGHT, WIDTH, PATCH = {height}, {width}, 16

class Bright(nn.Module):
    \"\"\"Positions are of one input; every query attends to bright tokens, wherever they are.\"\"\"
    {stated}

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, PATCH, PATCH, bias=False)
        nn.init.zeros_(self.embed.weight)
        self.embed.weight.data[0] = 1 / (3 * PATCH * PATCH)  # the mean, in one feature
        tokens = torch.randn(1, HEIGHT // PATCH * (WIDTH // PATCH), 4)
        tokens[..., 0] = 0
        self.pos_embed = nn.Parameter(tokens)

    def forward(self, pixels):
        x = self.embed(pixels).flatten(2).mT + self.pos_embed
        keys = x[..., :1].expand(-1, -1, 4)
        queries = torch.full_like(keys, 0.5)  # 4 · ½ / √4: the score is the brightness, -1…1
        return F.scaled_dot_product_attention(queries[:, None], keys[:, None], x[:, None])[:, 0]
"""
SHAPES = {"tall": (256, 128), "wide": (96, 240), "thin": (400, 48)}
PICTURES = {
    # width, height, and a bright box about the middle
    "square": (320, 320, (110, 100, 230, 240)),
    "wide": (480, 270, (170, 60, 320, 210)),
    "tall": (300, 400, (90, 120, 230, 290)),
}


def own(folder: Path, shape: str, *, config: bool = False) -> str:
    """The model's spec; its size is an attribute as people have it, or as timm has it."""
    height, width = SHAPES[shape]
    line = f"input_size = (3, {height}, {width})" if config else f"img_size = ({height}, {width})"
    (folder / "bright.py").write_text(
        BRIGHT.replace("{height}", str(height))
        .replace("{width}", str(width))
        .replace("{stated}", line)
    )
    return f"py:{folder / 'bright.py'}:Bright"


def sampled(picture: Values, shape: str, fit: str) -> tuple[Values, Values, Values]:
    """Where every pixel of the input lies in the picture, x and y, and its level there, by hand.

    Padding is of level ½, and lies outside.
    """
    (own_height, own_width), (height, width) = SHAPES[shape], picture.shape
    across, down = width / own_width, height / own_height  # picture pixels of an input pixel
    if fit == "pad":
        across = down = max(across, down)
    elif fit != "squash":
        across = down = min(across, down)
    y, x = np.mgrid[0:own_height, 0:own_width] + 0.5
    x = (x - own_width / 2) * across + width / 2
    y = (y - own_height / 2) * down + height / 2
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    rows, columns = (np.floor(v).astype(int).clip(0, n - 1) for v, n in ((y, height), (x, width)))
    return x, y, np.where(inside, picture[rows, columns] / 255, np.where(inside, 0, 0.5))


def of_tokens(values: Values) -> Values:
    """Means over squares of 16 × 16, (rows, columns)."""
    height, width = values.shape
    means: Values = values.reshape(height // 16, 16, width // 16, 16).mean((1, 3))
    return means


@pytest.mark.parametrize(
    ("shape", "picture", "fit"),
    list(itertools.product(SHAPES, PICTURES, ["keep", "crop", "pad", "squash"])),
)
def test_every_token_is_drawn_where_it_was_seen(
    shape: str, picture: str, fit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    width, height, box = PICTURES[picture]
    image = pictures.bright_square(width, height, box)
    orientation = 1 + list(PICTURES).index(picture) * 2  # EXIF: as it is, turned, transposed
    path = pictures.save(image, tmp_path / "square.png", orientation)
    command = ["show", str(path), "-m", own(tmp_path, shape, config=picture == "wide")]
    command += ["--fit", fit, "--alpha", "1", "--colormap", "gray", "--interpolation", "nearest"]
    assert main([*command, "--quiet", "-o", str(tmp_path / "out")]) == 0
    own_height, own_width = SHAPES[shape]
    said = f"takes {own_width}x{own_height} pixels only: it is shown the centre of the picture"
    assert (said in capsys.readouterr().err) == (fit == "keep")
    folder = tmp_path / "out" / "square.png"
    record = json.loads((folder / "stats.json").read_text())
    tokens = record["tokens"]
    assert (tokens["input_width"], tokens["input_height"]) == (own_width, own_height)
    assert (tokens["rows"], tokens["columns"]) == (own_height // 16, own_width // 16)

    x, y, levels = sampled(np.asarray(image.convert("L"), dtype=np.float64), shape, fit)
    weights = np.exp(2 * of_tokens(levels))  # of values -1…1 the score
    weights /= weights.sum()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    drawn = of_tokens(inside.astype(np.float64)) > 0.1
    scaled = (weights - weights[drawn].min()) / np.ptp(weights[drawn])
    with Image.open(folder / record["heads"][0]["file"]) as overlay:
        assert overlay.size == (width, height)
        found = np.asarray(overlay.convert("L"), dtype=np.float64) / 255
    near = 2, 13  # of the 16 pixels of a token, so that a shift of a few shows
    for (row, column), down, across in itertools.product(np.argwhere(drawn), near, near):
        at = 16 * row + down, 16 * column + across
        if inside[at]:
            pixel = int(y[at]), int(x[at])
            assert abs(found[pixel] - scaled[row, column]) < 0.12, (row, column, at)
    counts = of_tokens(inside.astype(np.float64))
    middle_x, middle_y = (of_tokens(np.where(inside, v, 0)) / counts.clip(1e-9) for v in (x, y))
    peak = record["heads"][0]["map"]
    side = max(width / own_width, height / own_height) * 16
    largest = drawn & (scaled > 1 - 1e-3)  # several tokens may see nothing but the square
    apart = np.maximum(abs(peak["peak_x"] - middle_x), abs(peak["peak_y"] - middle_y))
    assert apart[largest].min() <= side
    assert peak["maximum"] == pytest.approx(weights[drawn].max(), rel=0.1)


@pytest.mark.parametrize("fit", ["keep", "crop", "pad", "squash"])
def test_a_query_lies_where_it_is_asked(fit: Fit, tmp_path: Path) -> None:
    """The map of a point is that of the token which holds it."""
    model = attnviz.load_model(own(tmp_path, "tall"))
    assert model.own_shape == (256, 128)
    path = pictures.save(pictures.noise(300, 200), tmp_path / "noise.png")
    seen = attnviz.observe(attnviz.load_image(path), model, fit=fit)
    assert seen.placement.grid.tokens == 128
    row, column = 8, 4  # the middle is where four tokens meet
    left, top, right, bottom = seen.placement.token_box(row, column)
    assert left <= 151 < right
    assert top <= 103 < bottom
    assert seen.placement.token_at(151, 103) == (row, column)


@pytest.mark.parametrize(("size", "given"), [(None, False), (96, True)])
def test_its_own_shape_is_kept_until_a_size_is_asked_for(
    size: int | None, given: bool, tmp_path: Path
) -> None:
    model = attnviz.load_model(own(tmp_path, "tall"), size=size)
    assert (model.own_shape is None) == given
    assert model.size_given == given
    assert model.size == (96 if given else 181)
    assert model.other_shapes[0] == (256, 128)
