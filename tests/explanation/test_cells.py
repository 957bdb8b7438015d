"""One white cell in a black picture, and a model that attends to white: found in every layout."""

import json
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pictures
import pytest
import torch
from PIL import Image

import attnviz
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


class Views(White):
    """The same of several grids in one call: two sizes of cells, or four tiles and a thumbnail."""

    def __init__(self, size, kernel, tiles):
        super().__init__(size, kernel)
        self.tiles = tiles

    def forward(self, pixels):
        half = F.avg_pool2d(pixels, 2)
        whole = pixels
        if self.tiles:
            (b, c, h, w), (down, across) = pixels.shape, half.shape[2:]
            whole = pixels.reshape(b, c, 2, down, 2, across).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        views = [self.embed(each).flatten(2).mT.reshape(1, -1, 4) for each in (whole, half)]
        tokens = torch.cat(views, 1)[:, None]
        return F.scaled_dot_product_attention(0 * tokens + 2.0, tokens, tokens)[:, 0].mean(1)


class Reader(nn.Module):
    """Two layers over patches of any shape, with a class token, positions and a class head."""

    def __init__(self, size, patch, width=32, heads=4):
        super().__init__()
        torch.manual_seed(0)
        self.img_size, self.heads = size, heads
        self.embed = nn.Conv2d(3, width, patch, patch)
        count = (size[0] // patch[0]) * (size[1] // patch[1])
        self.pos = nn.Parameter(0.3 * torch.randn(1, count, width))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.head = nn.Linear(width, 10)

    def forward(self, pixels):
        x = self.embed(pixels).flatten(2).mT + self.pos.to(pixels.dtype)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for layer in self.qkv:
            q, k, v = (3 * layer(x)).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x[:, 0])


class TwoScales(nn.Module):
    """Two branches, of patches of 8 and of 16 (CrossViT)."""

    img_size = (64, 96)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.coarse = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(3, 8, 16, 16)

    def forward(self, pixels):
        found = []
        for embed in (self.fine, self.coarse):
            x = embed(pixels).flatten(2).mT[:, None]
            found.append(F.scaled_dot_product_attention(x, x, x).mean((1, 2)))
        return torch.cat(found, 1)


def text_line(): return Reader((32, 448), (32, 4))
def text_wide(): return Reader((32, 128), (4, 8))
def square(): return White((96, 144), 16)
def wide(): return White((32, 128), (4, 8))
def high(): return White((64, 96), (8, 4))
def line(): return White((32, 448), (32, 4))
def column(): return White((448, 32), (4, 32))
def overlapping(): return White((96, 144), 16, 8, 4)
def unpadded(): return White((92, 140), (20, 12), (12, 8))
def remainder(): return White((64, 157), 16, 10)
def cut(): return White((92, 140), (16, 20), padded=(0, 0, 0, 4))
def beyond(): return White((96, 144), 16, 16, 8)
def windows(): return White((64, 96), (4, 8), windows=(4, 4))
def shuffled(): return White((64, 96), (8, 4), order=True)
def two_grids(): return Views((64, 96), 8, tiles=False)
def tiles(): return Views((64, 96), 8, tiles=True)
'''
# Input, and the white cell: its row, its column, height and width, and where the first begins.
LAYOUTS: dict[str, tuple[tuple[int, int], ...]] = {
    "square": ((96, 144), (2, 7), (16, 16), (0, 0)),
    "wide": ((32, 128), (1, 11), (4, 8), (0, 0)),
    "high": ((64, 96), (6, 20), (8, 4), (0, 0)),
    "line": ((32, 448), (0, 77), (32, 4), (0, 0)),
    "column": ((448, 32), (90, 0), (4, 32), (0, 0)),
    "overlapping": ((96, 144), (3, 11), (8, 8), (0, 0)),
    "unpadded": ((92, 140), (2, 9), (12, 8), (4, 2)),
    "remainder": ((64, 157), (2, 13), (10, 10), (3, 3)),
    "cut": ((92, 140), (5, 6), (16, 20), (0, 0)),
    "beyond": ((96, 144), (1, 9), (16, 16), (-8, -8)),
    "windows": ((64, 96), (9, 2), (4, 8), (0, 0)),
    "shuffled": ((64, 96), (1, 3), (8, 4), (0, 0)),
    "two_grids": ((64, 96), (5, 7), (8, 8), (0, 0)),
    "tiles": ((64, 96), (5, 7), (8, 8), (0, 0)),
}


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS, encoding="utf-8")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_white_cell_is_found_at_its_place(name: str) -> None:
    (height, width), (row, column), (tall, wide), first = LAYOUTS[name]
    top, left = (a + b for a, b in zip(first, (row * tall, column * wide), strict=True))
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


def oracle(model: attnviz.Model, picture: attnviz.Picture) -> torch.Tensor:
    """Weights of the last layer of a Reader in float64, (heads, 1 + N, 1 + N)."""
    net: Any = model.module
    net = getattr(net, "module", net).double()
    pixels = model.pixels(picture, model.place(picture, fit="squash")).double()
    x = net.embed(pixels).flatten(2).mT + net.pos
    x = torch.cat([net.cls_token, x], 1)
    weights = x
    for layer in net.qkv:
        q, k, v = (3 * layer(x)).view(*x.shape[:2], 3, net.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + (weights @ v).transpose(1, 2).flatten(2)
    net.float()
    return weights[0].detach()


@pytest.mark.parametrize(
    ("name", "size", "cell"), [("text_line", (32, 448), (32, 4)), ("text_wide", (32, 128), (4, 8))]
)
def test_numbers_of_cells_that_are_not_square_are_those_of_the_formula(
    name: str, size: tuple[int, int], cell: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.noise(*size[::-1]).save("line.png")
    spec = f"py:nets.py:{name}"
    assert main(["stats", "line.png", "-m", spec, "--fit", "squash", "--json", "-o", "out"]) == 0
    record = json.loads(capsys.readouterr().out)
    model = attnviz.load_model(spec)
    weights = oracle(model, attnviz.load_image("line.png")).numpy()
    rows, columns = size[0] // cell[0], size[1] // cell[1]
    y, x = np.divmod(np.arange(rows * columns), columns)
    centres = np.stack([(x + 0.5) * cell[1], (y + 0.5) * cell[0]], 1)
    far = np.linalg.norm(centres[:, None] - centres, axis=2)
    for head, a in zip(record["heads"], weights, strict=True):
        inner = a[1:, 1:] / a[1:, 1:].sum(1, keepdims=True)
        assert head["distance_px"] == pytest.approx((inner * far).sum(1).mean(), rel=1e-5)
        assert head["entropy"] == pytest.approx(-(a * np.log(a)).sum(1)[1:].mean(), rel=1e-5)
        seen = a[0, 1:]
        assert head["map"]["maximum"] == pytest.approx(seen.max(), rel=1e-5)
        peak = centres[seen.argmax()]
        assert abs(head["map"]["peak_x"] - peak[0]) <= 1
        assert abs(head["map"]["peak_y"] - peak[1]) <= 1


@pytest.mark.parametrize("name", ["text_line", "text_wide"])
@pytest.mark.parametrize(
    "command",
    [
        ["show", "--query", "40,16", "--method", "rollout"],
        ["show", "--method", "relevance", "--target", "3"],
        ["stats", "--stats", "all", "--heads", "localized"],
        ["explore"],
        ["batch"],
        ["compare", "-m", "tiny"],
        ["evaluate"],
    ],
)
def test_every_command_takes_a_line_of_text_and_patches_of_4_by_8(
    name: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.noise(448 if name == "text_line" else 128, 32).save("line.png")
    first, *options = command
    arguments = [first, "line.png", "-m", f"py:nets.py:{name}", "--fit", "squash", *options]
    assert main([*arguments, "-o", "out"]) == 0, capsys.readouterr().err
    assert any(path.is_file() for path in Path("out").rglob("*"))


def test_a_model_of_transformers_with_patches_of_4_by_8_equals_its_eager_attention() -> None:
    transformers: Any = pytest.importorskip("transformers")
    shape = {**checkpoints.SMALL, "image_size": [32, 128], "patch_size": [4, 8]}
    checkpoints.build(transformers, "ViTModel", Path("vit"), **shape)
    model = attnviz.load_model("vit")
    assert model.patch == (4, 8)
    pictures.noise(256, 64).save("wide.png")
    seen = attnviz.observe(attnviz.load_image("wide.png"), model)
    found = attnviz.explain(seen, layers="all", query="cls")
    grid = found.answers[0].placement.grid
    assert (grid.cell_height, grid.cell_width) == (4, 8)
    own = transformers.ViTModel.from_pretrained("vit", attn_implementation="eager")
    pixels = model.pixels(attnviz.load_image("wide.png"), seen.placement)
    with torch.no_grad():
        eager = own(pixels, output_attentions=True).attentions
    for layer, weights in enumerate(eager):
        maps = weights[0, :, 0, 1:].reshape(-1, grid.rows, grid.columns)
        np.testing.assert_allclose(found.maps[layer], maps.numpy(), atol=1e-5)


def test_layers_of_several_grids_are_several_views(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (96, 64), "white").save("white.png")
    args = ["stats", "white.png", "-m", "py:nets.py:TwoScales", "--json"]
    assert main([*args, "--layers", "all"]) == 0
    record = json.loads(capsys.readouterr().out)
    place = {"kind": "whole", "x0": 0, "y0": 0, "x1": 96, "y1": 64}
    assert record["views"] == [
        {"view": 0, "rows": 8, "columns": 12, **place},
        {"view": 1, "rows": 4, "columns": 6, **place},
    ]
    assert [head["view"] for head in record["heads"]] == [0, 1]
    assert main([*args, "--layers", "1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert "views" not in record
    assert "view" not in record["heads"][0]
