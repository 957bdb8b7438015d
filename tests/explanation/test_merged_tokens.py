"""Tokens that are tiles, dropped, merged or nested: a white cell is found where it is, by layer."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import torch
from PIL import Image

import attnviz
from attnviz.cli import main
from attnviz.explanation.observe_batch import observe_many

pytest_plugins = ["browsing"]
NETS = '''
import torch
from torch import nn
from torch.nn import functional as F

SIZE, PATCH, WIDTH = (64, 96), 8, 16


class Block(nn.Module):
    """Every head attends to the brightest tokens; what it adds is small."""

    def __init__(self, white=True):
        super().__init__()
        self.heads, self.white, self.seen, self.of = 2, white, [], {"cells": None}
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(),
                                 nn.Linear(WIDTH, WIDTH))
        for part in (self.out, self.mlp[-1]):
            nn.init.normal_(part.weight, std=0.002)

    def attend(self, x, bias=None):
        self.seen.append(self.of["cells"])
        qkv = self.qkv(self.norm(x)).view(*x.shape[:2], 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.white:  # the first feature is how bright a token is
            q, k = 0 * q + 1, 3 * x[:, None, :, :1].expand_as(k)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return x + self.out(y.transpose(1, 2).flatten(2)), k

    def forward(self, x):
        x, _ = self.attend(x)
        return x + self.mlp(x)


class Plain(nn.Module):
    """A vision transformer, whose subclasses drop or merge tokens between their blocks."""

    block, cls = Block, True

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.img_size = SIZE
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        with torch.no_grad():
            self.embed.weight[0], self.embed.bias[0] = 1 / self.embed.weight[0].numel(), 0
        self.pos = nn.Parameter(0.3 * torch.randn(1, 96, WIDTH))
        self.pos.data[..., 0] = 0
        if self.cls:
            self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
            self.cls_token.data[..., 0] = 0
        self.blocks = nn.ModuleList(self.block() for _ in range(4))
        self.seen, self.of = [], {}  # which cells the tokens of each block are made of
        for block in self.blocks:
            block.seen, block.of = self.seen, self.of

    def tokens(self, pixels):
        x = self.embed(pixels).flatten(2).mT + self.pos
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) if self.cls else x

    def between(self, x, number):
        return x

    def forward(self, pixels):
        self.seen.clear()
        self.of.clear()
        self.of["cells"] = torch.eye(97)[None, :, 1:]
        x = self.tokens(pixels)
        for number, block in enumerate(self.blocks):
            x = self.between(block(x), number)
        return x[:, 0]


class EViTBlock(Block):
    """EViT (2202.07800): the tokens that the class token attends to least become one."""

    keep = 0.6

    def forward(self, x):
        attended, k = self.attend(x)
        seen = k[..., 1:, :].sum(-1).mean(1).softmax(-1)  # of a class token that looks for white
        x, rest = attended[:, :1], attended[:, 1:]
        count = int(self.keep * rest.shape[1])
        index = seen.topk(count, dim=1).indices
        kept = rest.gather(1, index[..., None].expand(-1, -1, WIDTH))
        others = torch.ones_like(seen, dtype=torch.bool).scatter(1, index, False)
        others = others.nonzero()[:, 1].view(len(x), -1)
        lost = rest.gather(1, others[..., None].expand(-1, -1, WIDTH))
        fused = (lost * seen.gather(1, others)[..., None]).sum(1, keepdim=True)
        x = torch.cat([x, kept, fused], 1)
        first, rest = self.of["cells"][:, :1], self.of["cells"][:, 1:]
        each = rest.expand(len(x), -1, -1)
        lost = each.gather(1, others[..., None].expand(-1, -1, 96)).sum(1, keepdim=True)
        kept = each.gather(1, index[..., None].expand(-1, -1, 96))
        self.of["cells"] = torch.cat([first.expand(len(x), -1, -1), kept, lost], 1)
        return x + self.mlp(x)


class EViT(Plain):
    block = EViTBlock


class ToMeBlock(Block):
    """ToMe (2210.09461): pairs of alike tokens become one; attention is proportional to size."""

    def forward(self, x):
        size = self.info.get("size", torch.ones_like(x[..., :1]))
        x, k = self.attend(x, size.log()[:, None, None, :, 0])
        merge = matching(k.mean(1) + x[..., 8:], 12)
        x, self.info["size"] = merge(x * size), merge(size)
        self.of["cells"] = merge(self.of["cells"].expand(len(x), -1, -1))
        x = x / self.info["size"]
        return x + self.mlp(x)


class ToMe(Plain):
    block = ToMeBlock

    def forward(self, pixels):
        info = {}
        for block in self.blocks:
            block.info = info
        return super().forward(pixels)


def matching(metric, r):
    with torch.no_grad():
        metric = metric / metric.norm(dim=-1, keepdim=True)
        a, b = metric[..., ::2, :], metric[..., 1::2, :]
        scores = a @ b.transpose(-1, -2)
        scores[..., 0, :] = -torch.inf
        best, index = scores.max(dim=-1)
        edge = best.argsort(dim=-1, descending=True)[..., None]
        apart, source = edge[..., r:, :], edge[..., :r, :]
        target = index[..., None].gather(dim=-2, index=source)
        apart = apart.sort(dim=1)[0]

    def merge(x):
        src, dst = x[..., ::2, :], x[..., 1::2, :]
        n, t1, c = src.shape
        unmerged = src.gather(dim=-2, index=apart.expand(n, t1 - r, c))
        src = src.gather(dim=-2, index=source.expand(n, r, c))
        dst = dst.scatter_reduce(-2, target.expand(n, r, c), src, reduce="sum")
        return torch.cat([unmerged, dst], dim=1)

    return merge


class DynamicViT(Plain):
    """DynamicViT (2106.02034): a small network says which tokens stay."""

    def __init__(self):
        super().__init__()
        self.local = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.score = nn.Sequential(nn.Linear(WIDTH, 8), nn.GELU(), nn.Linear(8, 2))

    def between(self, x, number):
        if number == 3:
            return x
        rest = x[:, 1:]
        local = self.local(rest)
        half, ones = local.shape[-1] // 2, torch.ones_like(rest[..., :1])
        whole = (local[..., half:] * ones).sum(1, keepdim=True) / ones.sum(1, keepdim=True)
        score = self.score(torch.cat([local[..., :half], whole.expand_as(local[..., half:])], -1))
        count = int(0.7 * rest.shape[1])
        score = score.log_softmax(-1)[..., 0] + 9 * rest[..., 0]
        keep = score.argsort(dim=1, descending=True)[:, :count]
        keep = torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], 1)
        b, n, c = x.shape
        offset = torch.arange(b)[:, None] * n
        return x.reshape(b * n, c)[(keep + offset).reshape(-1)].reshape(b, -1, c)


class HIPT(nn.Module):
    """HIPT (2206.02647): a transformer in each region; its class tokens go into a second one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.img_size, self.side = (64, 96), 32
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        with torch.no_grad():
            self.embed.weight[0], self.embed.bias[0] = 1 / self.embed.weight[0].numel(), 0
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.cls_of_regions = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.cells = nn.ModuleList(Block() for _ in range(2))
        self.regions = nn.ModuleList(Block() for _ in range(2))

    def forward(self, pixels):
        b, c, h, w = pixels.shape
        parts = pixels.unfold(2, self.side, self.side).unfold(3, self.side, self.side)
        parts = parts.permute(0, 2, 3, 1, 4, 5).reshape(-1, c, self.side, self.side)
        found = []
        for few in parts.split(256):
            x = self.embed(few).flatten(2).mT
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
            for block in self.cells:
                x = block(x)
            brightest = torch.tensor(x[:, 1:, 0].amax(1, keepdim=True).tolist())  # has no place
            found.append((x[:, 0] + brightest * F.one_hot(torch.tensor(0), WIDTH)).detach().cpu())
        x = torch.vstack(found).reshape(h // self.side, w // self.side, WIDTH)
        x = x.permute(2, 0, 1)[None].flatten(2).mT
        x = torch.cat([self.cls_of_regions.expand(len(x), -1, -1), x], 1)
        for block in self.regions:
            x = block(x)
        return x[:, 0]


class MAE(Plain):
    """A masked autoencoder's encoder: a quarter of the tokens, in a random order."""

    def tokens(self, pixels):
        x = self.embed(pixels).flatten(2).mT + self.pos
        noise = torch.rand(x.shape[:2], generator=torch.manual_seed(5)) - (x[..., 0] > 0).float()
        keep = noise.argsort(dim=1)[:, :24]
        x = x.gather(1, keep[..., None].expand(-1, -1, WIDTH))
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)


class Tiles(Plain):
    """Four tiles and a thumbnail of the picture, as windows or in one sequence."""

    cls = False

    def __init__(self, windows=False, crosses=False):
        super().__init__()
        self.windows = windows

    def tokens(self, pixels):
        b, c, h, w = pixels.shape
        tiles = pixels.reshape(b, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5)
        small = F.interpolate(pixels, (h // 2, w // 2), mode="bilinear", antialias=True)
        views = torch.cat([tiles.reshape(-1, c, h // 2, w // 2), small])
        x = self.embed(views).flatten(2).mT
        return x if self.windows else x.reshape(1, -1, WIDTH)


class Uneven(Plain):
    """Patches of 8 pixels on the left, of 16 on the right."""

    def __init__(self):
        super().__init__()
        self.larger = nn.Conv2d(3, WIDTH, 16, 16)
        with torch.no_grad():
            self.larger.weight[0], self.larger.bias[0] = 1 / self.larger.weight[0].numel(), 0

    def tokens(self, pixels):
        parts = self.embed(pixels[..., :48]), self.larger(pixels[..., 48:])
        x = torch.cat([self.cls_token, *(each.flatten(2).mT for each in parts)], 1)
        self.of["cells"] = None
        return x


class Unseen(ToMe):
    """The same where no gradient shows what becomes what."""

    def forward(self, pixels):
        with torch.no_grad():
            return super().forward(pixels)


class Levels(Plain):
    """Cells of 8 and of 12 pixels in one sequence, which do not fit into each other."""

    cls = False

    def __init__(self):
        super().__init__()
        self.larger = nn.Conv2d(3, WIDTH, 12, 12)
        for block in self.blocks:
            block.white = False

    def tokens(self, pixels):
        return torch.cat([each(pixels).flatten(2).mT for each in (self.embed, self.larger)], 1)


def tiles(): return Tiles()
def tile_windows(): return Tiles(windows=True)
'''
SIZE, CELL = (64, 96), 8


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS, encoding="utf-8")


def white_cell(row: int, column: int) -> attnviz.Picture:
    pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
    pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = 255
    Image.fromarray(pixels).save("cell.png")
    return attnviz.load_image("cell.png")


def observed(name: str, picture: attnviz.Picture) -> Any:
    return attnviz.observe(picture, attnviz.load_model(f"py:nets.py:{name}"), fit="squash")


@pytest.mark.parametrize(
    ("name", "layers"),
    [("EViT", 4), ("ToMe", 4), ("DynamicViT", 4), ("HIPT", 4), ("MAE", 4), ("tiles", 4),
     ("tile_windows", 4)],
)  # fmt: skip
def test_a_white_cell_is_found_in_every_layer(name: str, layers: int) -> None:
    row, column = 5, 7
    seen = observed(name, white_cell(row, column))
    assert seen.calls.not_drawn == {}
    assert len(seen.layers) == layers
    for answer in attnviz.explain(seen, layers="all", query="mean").answers:
        values = np.where(answer.drawn, answer.values, -1)
        y, x = np.unravel_index(values.argmax(), values.shape)
        grid = answer.placement.grid
        tall, wide = grid.cell_height, grid.cell_width
        assert abs((y + 0.5) * tall - (row + 0.5) * CELL) <= tall / 2, answer.layer
        assert abs((x + 0.5) * wide - (column + 0.5) * CELL) <= wide / 2, answer.layer


def test_both_levels_of_a_nested_model_are_drawn_each_on_its_own_grid() -> None:
    pictures.noise(96, 64).save("noise.png")
    seen = observed("HIPT", attnviz.load_image("noise.png"))
    grids = {0: (8, 12), 1: (8, 12), 2: (2, 3), 3: (2, 3)}
    for answer in attnviz.explain(seen, layers="all", query="cls").answers:
        call = seen.layers[answer.layer].call
        assert answer.values.shape == grids[answer.layer]
        of_class = call.matrix()[:, answer.head, 0, 1:].numpy()  # (windows, tokens)
        if answer.layer < 2:  # six regions of 4 × 4 cells, each asked by its own class token
            of_class = of_class.reshape(2, 3, 4, 4).swapaxes(1, 2) / 6
        np.testing.assert_allclose(answer.values.ravel(), of_class.ravel(), atol=1e-6)


@pytest.mark.parametrize("name", ["EViT", "ToMe"])
def test_merged_tokens_cover_the_cells_that_they_are_made_of(name: str) -> None:
    model = attnviz.load_model(f"py:nets.py:{name}")
    pictures.noise(96, 64).save("noise.png")
    seen = attnviz.observe(attnviz.load_image("noise.png"), model, fit="squash")
    net: Any = model.module
    net = getattr(net, "module", net)
    with torch.no_grad():
        net(model.pixels(attnviz.load_image("noise.png"), seen.placement))
    truth = [each[0].numpy() for each in net.seen]  # (tokens, cells), 1 where a token is made of it
    assert max(each.sum(1).max() for each in truth) > 3
    found = attnviz.explain(seen, layers="all", query="cls")
    for number, made in enumerate(truth):
        row = seen.layers[number].call.matrix()[0, :, 0].numpy()  # (heads, tokens)
        spread = row @ (made / made.sum(1, keepdims=True).clip(1))
        np.testing.assert_allclose(found.maps[number].reshape(2, -1), spread, atol=1e-6)
        # A cell asks from the token that it belongs to.
        token = made[:, 30].argmax()
        asked = attnviz.explain(seen, layers=str(number), query="52,20").maps[0].reshape(2, -1)
        row = seen.layers[number].call.matrix()[0, :, token].numpy()
        spread = row @ (made / made.sum(1, keepdims=True).clip(1))
        np.testing.assert_allclose(asked, spread, atol=1e-6)


@pytest.mark.parametrize(("name", "tokens"), [("Uneven", 60), ("Unseen", 96)])
def test_tokens_that_lie_unevenly_are_points(
    name: str, tokens: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.noise(96, 64).save("noise.png")
    command = ["show", "noise.png", "-m", f"py:nets.py:{name}", "--fit", "squash", "--json"]
    assert main([*command, "--layers", "all"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    uneven = [0, 1, 2, 3] if name == "Uneven" else [1, 2, 3]
    assert record["check"]["uneven"] == uneven
    assert "merged" not in record["check"]
    assert "lie unevenly over the picture; each is drawn in the cell that holds its" in said.err
    seen = observed(name, attnviz.load_image("noise.png"))
    for answer in attnviz.explain(seen, layers="all", query="cls").answers:
        if answer.layer not in uneven:
            assert not answer.points
            continue
        call = seen.layers[answer.layer].call
        places = call.key_positions[0, 1:].numpy()
        row = call.matrix()[0, answer.head, 0, 1:].numpy()
        assert len(row) == tokens - 12 * answer.layer * (name == "Unseen")
        expected = sorted(zip(*places.T.tolist(), row.tolist(), strict=True), key=lambda p: -p[2])
        found = [(point.x, point.y, point.weight) for point in answer.points]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        cells = (places[:, 1] // CELL * 12 + places[:, 0] // CELL).astype(int)
        np.testing.assert_allclose(answer.values.ravel(), np.bincount(cells, row, 96), atol=1e-6)
        assert np.flatnonzero(answer.drawn.ravel()).tolist() == np.unique(cells).tolist()


@pytest.mark.parametrize("name", ["ToMe", "Levels"])
def test_a_page_shows_the_same_maps(name: str, page: Any, tmp_path: Path) -> None:
    pictures.noise(96, 64).save("noise.png")
    seen = observed(name, attnviz.load_image("noise.png"))
    (tmp_path / "page.html").write_text(attnviz.explore(seen, localized=0).html, encoding="utf-8")
    page.goto((tmp_path / "page.html").as_uri() + "#layer=1&a=2,5")
    page.evaluate("attnviz.drawn")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save CSV").click()
    rows = csv.DictReader(saved.value.path().read_text(encoding="utf-8").splitlines())
    cells = [row for row in rows if row["token"] == "grid"]
    for answer in attnviz.explain(seen, layers="1", query="44,20").answers:
        got = [float(row[f"head_{answer.head}"] or "nan") for row in cells]
        wanted = np.where(answer.drawn.ravel(), answer.values.ravel(), np.nan)
        rounded = float(seen.layers[1].call.matrix().max()) / 255  # weights are bytes
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=rounded)


def test_pictures_of_a_batch_have_their_own_merged_tokens() -> None:
    model = attnviz.load_model("py:nets.py:EViT")
    for number in range(2):
        pictures.noise(96, 64, seed=number).save(f"{number}.png")
    loaded = [attnviz.load_image(f"{number}.png") for number in range(2)]
    together = observe_many(loaded, model, fit="squash")
    for picture, seen in zip(loaded, together, strict=True):
        alone = attnviz.observe(picture, model, fit="squash")
        for number in (1, 3):
            found, expected = (each.layers[number].keys.cover for each in (seen, alone))
            assert found is not None
            assert expected is not None
            assert set(zip(found.tokens.tolist(), found.cells.tolist(), strict=True)) == set(
                zip(expected.tokens.tolist(), expected.cells.tolist(), strict=True)
            )


@pytest.mark.parametrize(
    "command",
    [
        ["stats", "--query", "10,10,60,50", "--stats", "all", "--heads", "localized:2"],
        ["stats", "--method", "gradient-attention", "--target", "norm", "--layers", "all"],
        ["compare", "-m", "tiny"],
        ["batch"],
        ["stats", "--method", "rollout"],
    ],
)
def test_commands_take_merged_tokens(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.noise(96, 64).save("noise.png")
    name, *options = command
    model = ["-m", "py:nets.py:ToMe", "--fit", "squash"]
    code = main([name, "noise.png", *model, *options, "-o", "out"])
    said = capsys.readouterr().err
    if "rollout" in options:
        assert code == 2
        assert "layer 1 has other tokens than layer 0" in said
    else:
        assert code == 0, said
