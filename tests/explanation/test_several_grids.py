"""Tokens of a pyramid's levels in one call: a map on the finest grid, weights shared by area."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import torch
from PIL import Image
from torch import Tensor

import attnviz
from attnviz.cli import main

NETS = '''
import torch
from torch import nn
from torch.nn import functional as F


class Pyramid(nn.Module):
    """Tokens of three levels, one behind the other, attend to each other; a class token asks."""

    def __init__(self, sharp=1.0, white=False, strides=(8, 16, 32), width=16):
        super().__init__()
        torch.manual_seed(0)
        self.sharp, self.img_size = sharp, (64, 96)
        self.embed = nn.ModuleList(nn.Conv2d(3, width, side, side) for side in strides)
        self.qkv = nn.Linear(width, 3 * width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        if white:
            for embed in self.embed:
                nn.init.constant_(embed.weight, 1 / embed.weight[0].numel())
                nn.init.zeros_(embed.bias)
            nn.init.ones_(self.qkv.weight)
            nn.init.zeros_(self.qkv.bias)
            nn.init.ones_(self.cls_token)

    def forward(self, pixels):
        tokens = torch.cat([each(pixels).flatten(2).mT for each in self.embed], 1)
        x = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, -1).permute(2, 0, 3, 1, 4)
        x = x + F.scaled_dot_product_attention(self.sharp * q, k, v).transpose(1, 2).flatten(2)
        return x[:, 0]


def pyramid(): return Pyramid()
def white(): return Pyramid(sharp=4.0, white=True)
def uneven(): return Pyramid(strides=(8, 12))
'''
GRIDS = [(8, 12), (4, 6), (2, 3)]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS, encoding="utf-8")
    pictures.noise(96, 64).save("noise.png")


def spread(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Weights of the tokens of all levels, (96 + 24 + 6,), on the cells of the finest."""
    found, begin = np.zeros(GRIDS[0]), 0
    for rows, columns in GRIDS:
        level = weights[begin : begin + rows * columns].reshape(rows, columns)
        times = GRIDS[0][0] // rows
        found += np.kron(level, np.ones((times, times))) / times**2
        begin += rows * columns
    return found


def observed(name: str) -> tuple[attnviz.Model, attnviz.Observation]:
    model = attnviz.load_model(f"py:nets.py:{name}")
    return model, attnviz.observe(attnviz.load_image("noise.png"), model, fit="squash")


def weights_of(model: attnviz.Model, seen: attnviz.Observation) -> Tensor:
    net: Any = model.module
    net = getattr(net, "module", net)
    pixels = model.pixels(attnviz.load_image("noise.png"), seen.placement)
    tokens = torch.cat([each(pixels).flatten(2).mT for each in net.embed], 1)
    x = torch.cat([net.cls_token, tokens], 1)
    q, k, _ = net.qkv(x).view(*x.shape[:2], 3, 2, -1).permute(2, 0, 3, 1, 4)
    weights: Tensor = (net.sharp * q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)[0].detach()
    return weights


def test_a_map_is_on_the_finest_grid_with_weights_shared_by_area() -> None:
    model, seen = observed("pyramid")
    found = attnviz.explain(seen, query="cls")
    expected = weights_of(model, seen).double().numpy()
    assert found.maps.shape == (1, 2, 8, 12)
    for head in range(2):
        np.testing.assert_allclose(found.maps[0, head], spread(expected[head, 0, 1:]), atol=1e-6)
        assert found.maps[0, head].sum() == pytest.approx(1 - expected[head, 0, 0], abs=1e-6)


def test_a_point_asks_from_the_tokens_of_every_level_there() -> None:
    model, seen = observed("pyramid")
    weights = weights_of(model, seen).double().numpy()
    found = attnviz.explain(seen, query="45,20")
    numbers = [1 + 2 * 12 + 5, 1 + 96 + 1 * 6 + 2, 1 + 96 + 24 + 0 * 3 + 1]
    for head in range(2):
        asked = weights[head, numbers].mean(0)
        np.testing.assert_allclose(found.maps[0, head], spread(asked[1:]), atol=1e-6)


def test_distances_are_those_between_the_tokens_own_centres() -> None:
    model, seen = observed("pyramid")
    weights = weights_of(model, seen).double().numpy()[:, 1:, 1:]
    centres = np.concatenate(
        [
            np.stack(np.meshgrid(np.arange(c) + 0.5, np.arange(r) + 0.5), -1).reshape(-1, 2)
            * (96 / c)
            for r, c in GRIDS
        ]
    )
    far = np.linalg.norm(centres[:, None] - centres, axis=2)
    inner = weights / weights.sum(2, keepdims=True)
    for head, answer in enumerate(attnviz.explain(seen).answers):
        assert answer.numbers["distance_px"] == pytest.approx(
            (inner[head] * far).sum(1).mean(), rel=1e-5
        )


def test_a_white_cell_is_found_at_its_place() -> None:
    pixels = np.zeros((64, 96, 3), dtype=np.uint8)
    pixels[40:48, 56:64] = 255
    Image.fromarray(pixels).save("cell.png")
    look = ["--fit", "squash", "--interpolation", "nearest", "--alpha", "1", "--colormap", "gray"]
    assert main(["show", "cell.png", "-m", "py:nets.py:white", *look, "--stats", "all"]) == 0
    record = json.loads(Path("attnviz-out/cell.png/stats.json").read_text())
    assert record["tokens"]["grids"] == [[8, 12], [4, 6], [2, 3]]
    assert (record["tokens"]["rows"], record["tokens"]["columns"]) == (8, 12)
    for head in record["heads"]:
        assert (head["map"]["peak_x"] // 8, head["map"]["peak_y"] // 8) == (7, 5)
        with Image.open(Path("attnviz-out/cell.png") / head["file"]) as overlay:
            values = np.asarray(overlay.convert("L"))
        assert (values[40:48, 56:64] > 250).all()


@pytest.mark.parametrize(
    "command",
    [
        ["stats", "--query", "10,10,60,50", "--stats", "all"],
        ["stats", "--method", "rollout"],
        ["stats", "--method", "relevance", "--target", "3"],
        ["stats", "--heads", "localized:2"],
        ["batch"],
        ["compare", "-m", "tiny"],
        ["explore"],
    ],
)
def test_commands_take_several_grids(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command
    model = ["-m", "py:nets.py:pyramid", "--fit", "squash"]
    assert main([name, "noise.png", *model, *options, "-o", "out"]) == 0, capsys.readouterr().err


def test_cells_that_do_not_fit_into_each_other_share_by_area() -> None:
    """Cells of 8 and of 12 pixels: a token of the second lies on four cells, whole or in part."""
    _, seen = observed("uneven")
    cover = seen.layers[0].keys.cover
    assert cover is not None
    assert cover.grids == ((8, 12), (5, 8))
    sums = np.bincount(cover.tokens, cover.shares)
    np.testing.assert_allclose(sums[sums > 0], 1)
    of_token = cover.tokens == 1 + 96 + 8 + 1  # 12…24 in both axes
    found = dict(zip(cover.cells[of_token].tolist(), cover.shares[of_token].tolist(), strict=True))
    expected = {13: 1 / 9, 14: 2 / 9, 25: 2 / 9, 26: 4 / 9}
    assert found == pytest.approx(expected)


def test_a_point_asks_from_tokens_by_the_part_of_its_cell_that_they_cover() -> None:
    """The cell 8…16 has a token of its own, and a quarter of each of four larger ones."""
    model, seen = observed("uneven")
    weights = weights_of(model, seen).double().numpy()
    asked = {1 + 13: 0.5, **{1 + 96 + n: 0.125 for n in (0, 1, 8, 9)}}
    cover = seen.layers[0].keys.cover
    assert cover is not None
    found = attnviz.explain(seen, query="13,13")
    for head in range(2):
        row = sum(share * weights[head, number] for number, share in asked.items())
        expected = np.bincount(cover.cells, row[cover.tokens] * cover.shares).reshape(8, 12)
        np.testing.assert_allclose(found.maps[0, head], expected, atol=1e-6)
