"""One white cell in a black picture, and a model that attends to white: found in every layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnviz.cli import main

NETS = '''
import torch
from torch import nn
from torch.nn import functional as F


class White(nn.Module):
    """Every token attends to the brightest one."""

    def __init__(self, size, kernel, stride=None, padding=0, windows=None, order=None, padded=()):
        super().__init__()
        self.img_size, self.windows, self.order, self.padded = size, windows, order, padded
        self.embed = nn.Conv2d(3, 4, kernel, stride or kernel, padding)
        nn.init.constant_(self.embed.weight, 4 / self.embed.weight[0].numel())
        nn.init.zeros_(self.embed.bias)

    def forward(self, pixels):
        grid = self.embed(F.pad(pixels, self.padded) if self.padded else pixels)
        if self.windows:
            (h, w), (a, b) = grid.shape[2:], self.windows
            grid = grid.reshape(len(grid), 4, h // a, a, w // b, b).permute(0, 2, 4, 1, 3, 5)
            tokens = grid.reshape(-1, 4, a * b).mT
        else:
            tokens = grid.flatten(2).mT
        if self.order:
            tokens = tokens[:, torch.randperm(tokens.shape[1], generator=torch.manual_seed(1))]
        query = (0 * tokens + 2.0)[:, None]
        out = F.scaled_dot_product_attention(query, tokens[:, None], tokens[:, None])
        return out[:, 0].mean(1)


def square(): return White((96, 144), 16)
def wide(): return White((32, 128), (4, 8))
def high(): return White((64, 96), (8, 4))
def line(): return White((32, 448), (32, 4))
def column(): return White((448, 32), (4, 32))
def overlapping(): return White((96, 144), 16, 8, 4)
def unpadded(): return White((92, 140), (20, 12), (12, 8))
def cut(): return White((92, 140), (16, 20), padded=(0, 0, 0, 4))
def beyond(): return White((96, 144), 16, 16, 8)
def windows(): return White((64, 96), (4, 8), windows=(4, 4))
def shuffled(): return White((64, 96), (8, 4), order=True)
'''
# Input, and the white cell: its row, its column, height and width, and where the first begins.
LAYOUTS = {
    "square": ((96, 144), (2, 7), (16, 16), 0),
    "wide": ((32, 128), (1, 11), (4, 8), 0),
    "high": ((64, 96), (6, 20), (8, 4), 0),
    "line": ((32, 448), (0, 77), (32, 4), 0),
    "column": ((448, 32), (90, 0), (4, 32), 0),
    "overlapping": ((96, 144), (3, 11), (8, 8), 0),
    "unpadded": ((92, 140), (2, 9), (12, 8), (4, 2)),
    "cut": ((92, 140), (5, 6), (16, 20), 0),
    "beyond": ((96, 144), (1, 9), (16, 16), (-8, -8)),
    "windows": ((64, 96), (9, 2), (4, 8), 0),
    "shuffled": ((64, 96), (1, 3), (8, 4), 0),
}


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS, encoding="utf-8")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_white_cell_is_found_at_its_place(name: str) -> None:
    (height, width), (row, column), (tall, wide), first = LAYOUTS[name]
    top, left = (a + b for a, b in zip(first or (0, 0), (row * tall, column * wide), strict=True))
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[max(0, top) : top + tall, max(0, left) : left + wide] = 255
    Image.fromarray(pixels).save("cell.png")
    look = [
        "--fit",
        "squash",
        "--interpolation",
        "nearest",
        "--alpha",
        "1",
        "--colormap",
        "gray",
        "--npz",
    ]
    code = main(["show", "cell.png", "-m", f"py:nets.py:{name}", *look, "--query", "mean"])
    assert code == 0
    record = json.loads(Path("attnviz-out/cell.png/stats.json").read_text())
    tokens, (head,) = record["tokens"], record["heads"]
    assert (tokens["cell_height"], tokens["cell_width"]) == (tall, wide)
    assert tokens["patch"] == (tall if tall == wide else None)
    assert (tokens["input_width"], tokens["input_height"]) == (width, height)
    assert abs(head["map"]["peak_x"] - (left + wide / 2)) <= wide / 2
    assert abs(head["map"]["peak_y"] - (top + tall / 2)) <= tall / 2
    with Image.open(Path("attnviz-out/cell.png") / head["file"]) as overlay:
        y, x = np.nonzero(np.asarray(overlay.convert("L")) > 127)
    box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
    white = np.array([left, top, left + wide, top + tall]).clip(0, [width, height] * 2)
    assert (np.abs(box - white) <= np.array([wide, tall] * 2) / 2).all(), (box, white)
