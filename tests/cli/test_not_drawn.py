"""What no map shows is named: in the record, on stderr, and where it is asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from PIL import Image

import attnviz
from attnviz.cli import main
from attnviz.drawing.sheet import heading

MODELS = '''
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width=32, heads=2):
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(b, n, c))


class Plain(nn.Module):
    patch_size, image_size = 16, 64

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 16, 16)
        self.blocks = nn.ModuleList([Block() for _ in range(3)])

    def pixels(self, x):
        return x

    def between(self, x, number):
        return x

    def forward(self, x):
        x = self.patches(self.pixels(x)).flatten(2).mT
        for number, block in enumerate(self.blocks):
            x = self.between(block(x), number)
        return x


class Merged(Plain):
    """Pairs of tokens become one behind the first block, where no gradient shows of what."""

    def between(self, x, number):
        return (x[:, :8] + x[:, 8:]).detach() / 2 if number == 0 else x


class Dropped(Plain):
    """Tokens that are kept behind the first block."""

    kept = [1, 2, 5, 7, 11, 12]

    def between(self, x, number):
        return x[:, self.kept] if number == 0 else x


class Mirrored(Plain):
    def pixels(self, x):
        return torch.from_numpy(x.numpy()[..., ::-1].copy())


class Solved(Plain):
    def pixels(self, x):
        return torch.linalg.solve(torch.eye(x.shape[2]), x)


class Cropped(Plain):
    """Lost, and not as many tokens as cells."""

    def pixels(self, x):
        return torch.linalg.solve(torch.eye(x.shape[2]), x)[:, :, :32]


class Beside(Plain):
    """A second stream of tokens that is always the same."""

    def __init__(self):
        super().__init__()
        self.register_buffer("depth", torch.randn(1, 16, 32))
        self.depths = Block()

    def forward(self, x):
        self.depths(self.depth.expand(len(x), -1, -1))
        return super().forward(x)


class Between(Plain):
    """Channels attend to channels between the blocks."""

    def between(self, x, number):
        if number:
            return x
        q = F.layer_norm(x, x.shape[-1:]).mT
        return x + F.scaled_dot_product_attention(q, q, q).mT


class NormedHeads(Plain):
    """Heads one after the other, with a norm between them and their place beside the others."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.ModuleList([nn.Linear(32, 48) for _ in range(2)])
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        heads = []
        for layer in self.qkv:
            q, k, v = layer(x)[:, None].chunk(3, -1)
            heads.append(self.norm(F.scaled_dot_product_attention(q, k, v)[:, 0]))
        return x + torch.cat(heads, -1)


class OddChunks(Plain):
    """Chunks of queries that each have keys of their own."""

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        q = x[:, None]
        one = F.scaled_dot_product_attention(q[:, :, :7], q, q)
        other = F.scaled_dot_product_attention(q[:, :, 7:], 2 * q, q)
        return x + torch.cat([one, other], 2)[:, 0]


class Drawing(Plain):
    """Noise from PyTorch's own generator while it runs."""

    def pixels(self, x):
        return x + torch.randn_like(x)


class OneCell(Plain):
    """Patches by a linear map, of a picture that is one of them."""

    patch_size, image_size = 16, 16

    def __init__(self):
        super().__init__()
        self.patches = nn.Linear(768, 32)

    def forward(self, x):
        x = self.patches(x.flatten(1))[:, None]
        for block in self.blocks:
            x = block(x)
        return x


class Behind(Plain):
    """A class token behind the patches."""

    def __init__(self):
        super().__init__()
        self.cls = nn.Parameter(torch.randn(1, 1, 32))

    def forward(self, x):
        x = torch.cat([self.patches(x).flatten(2).mT, self.cls.expand(len(x), -1, -1)], 1)
        for block in self.blocks:
            x = block(x)
        return x
'''
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(MODELS, encoding="utf-8")
    pictures.noise(64, 64).save("noise.png")
    return tmp_path


def stats(capsys: Capture, model: str, *options: str) -> tuple[dict[str, Any], str]:
    """The record, and what was said beside it."""
    code = main(["stats", "noise.png", "-m", f"py:nets.py:{model}", "--json", *options])
    said = capsys.readouterr()
    assert code == 0, said.err
    record: dict[str, Any] = json.loads(said.out)
    return record, said.err


def refused(capsys: Capture, model: str, *options: str) -> str:
    assert main(["stats", "noise.png", "-m", f"py:nets.py:{model}", *options]) != 0
    said = capsys.readouterr()
    assert not said.out
    *notes, line = said.err.strip().splitlines()
    assert all("note: " in note for note in notes)
    return line


@pytest.mark.usefixtures("folder")
def test_a_plain_model_has_nothing_to_be_named(capsys: Capture) -> None:
    record, said = stats(capsys, "Plain", "--layers", "all")
    assert record["check"]["places"] == "measured"
    assert record["check"]["not_drawn"] == []
    assert "places_reason" not in record["check"]
    assert not said


@pytest.mark.usefixtures("folder")
def test_layers_keep_their_numbers_and_the_last_that_is_drawn_is_named(capsys: Capture) -> None:
    record, said = stats(capsys, "Merged")
    assert {head["layer"] for head in record["heads"]} == {0}
    assert record["model"]["layers"] == 3
    assert [one["layer"] for one in record["check"]["not_drawn"]] == [1, 2]
    assert all(one["reason"] for one in record["check"]["not_drawn"])
    (line,) = said.splitlines()
    assert "not drawn: layer 1, 2 of 0 to 2: " in line
    assert line.endswith("the last layer that is drawn is 0")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("layers", ["1", "0-2", "-2"])
def test_a_layer_that_is_not_drawn_is_refused_where_it_is_asked_for(
    layers: str, capsys: Capture
) -> None:
    line = refused(capsys, "Merged", "--layers", layers)
    assert "layer 1 is not drawn (" in line
    assert line.endswith("take 0")


@pytest.mark.usefixtures("folder")
def test_no_method_merges_over_a_layer_that_is_not_drawn(capsys: Capture) -> None:
    record, _ = stats(capsys, "Between", "--layers", "all")
    assert {head["layer"] for head in record["heads"]} == {0, 2, 3}
    assert [one["layer"] for one in record["check"]["not_drawn"]] == [1]
    line = refused(capsys, "Between", "--method", "rollout")
    assert "--method rollout: layer 1 is not drawn (" in line


@pytest.mark.usefixtures("folder")
def test_heads_that_were_not_put_together_are_no_chain_of_layers(capsys: Capture) -> None:
    record, _ = stats(capsys, "NormedHeads", "--layers", "all")
    assert record["model"]["layers"] == 2
    line = refused(capsys, "NormedHeads", "--method", "rollout")
    assert "layers 0, 1 have one head each and no projection" in line
    assert "may be heads of one attention" in line


@pytest.mark.usefixtures("folder")
def test_pieces_of_queries_that_do_not_fit_together_are_refused(capsys: Capture) -> None:
    line = refused(capsys, "OddChunks")
    assert "7x16 tokens whose queries are a part of the picture" in line


@pytest.mark.usefixtures("folder")
def test_what_a_model_draws_at_random_is_the_same_every_time(capsys: Capture) -> None:
    assert stats(capsys, "Drawing") == stats(capsys, "Drawing")


@pytest.mark.usefixtures("folder")
def test_cells_whose_tokens_were_dropped_are_not_drawn(capsys: Capture) -> None:
    record, said = stats(capsys, "Dropped", "--layers", "all", "-q", "mean")
    assert {head["layer"] for head in record["heads"]} == {0, 1, 2}
    assert {(head["rows"], head["columns"]) for head in record["heads"]} == {(4, 4)}
    assert not said
    seen = attnviz.observe(
        attnviz.load_image("noise.png"), attnviz.load_model("py:nets.py:Dropped")
    )
    answer = attnviz.explain(seen, query="mean").answers[0]
    kept = [1, 2, 5, 7, 11, 12]
    assert np.flatnonzero(answer.drawn.ravel()).tolist() == kept
    rows = seen.layers[2].call.matrix()[0, 0].mean(0).numpy()
    np.testing.assert_allclose(answer.values.ravel()[kept], rows, atol=1e-6)
    assert answer.values.sum() == pytest.approx(1, abs=1e-5)
    assert "no token that takes part" in refused(capsys, "Dropped", "-q", "8,8")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("model", "reason"),
    [("Solved", "lost by _linalg_solve_ex"), ("Mirrored", "not seen to come from the picture")],
)
def test_places_that_are_assumed_are_named(model: str, reason: str, capsys: Capture) -> None:
    record, said = stats(capsys, model, "--layers", "all")
    assert record["check"]["places"] == "assumed"
    assert record["check"]["places_reason"] == reason
    assert {head["layer"] for head in record["heads"]} == {0, 1, 2}
    (line,) = said.splitlines()
    assert f"assumed from their number ({reason})" in line
    seen = attnviz.observe(
        attnviz.load_image("noise.png"), attnviz.load_model(f"py:nets.py:{model}")
    )
    assert heading(attnviz.explain(seen)).startswith(f"PLACES ASSUMED ({reason})")


@pytest.mark.usefixtures("folder")
def test_places_that_are_lost_are_not_assumed_of_another_number_of_tokens(capsys: Capture) -> None:
    line = refused(capsys, "Cropped")
    assert "8x8 tokens whose places are lost by _linalg_solve_ex" in line


@pytest.mark.usefixtures("folder")
def test_tokens_that_do_not_depend_on_the_picture_are_not_drawn_over_it(capsys: Capture) -> None:
    record, said = stats(capsys, "Beside", "--layers", "all")
    assert {head["layer"] for head in record["heads"]} == {1, 2, 3}
    (one,) = record["check"]["not_drawn"]
    assert one == {"layer": 0, "reason": "its tokens do not depend on the picture"}
    assert "layer 0 of 0 to 3: its tokens do not depend on the picture" in said


@pytest.mark.usefixtures("folder")
def test_a_single_token_is_the_grid_of_a_picture_of_one_cell(capsys: Capture) -> None:
    record, said = stats(capsys, "OneCell", "-q", "mean")
    assert not said
    assert (record["tokens"]["rows"], record["tokens"]["columns"]) == (1, 1)
    assert record["check"]["places"] == "measured"


@pytest.mark.usefixtures("folder")
def test_a_class_token_that_stands_last_is_found(capsys: Capture) -> None:
    record, said = stats(capsys, "Behind", "--target", "norm", "--method", "gradient-attention")
    assert not said
    assert record["query"]["kind"] == "cls"
    assert record["tokens"]["prefix"] == 1
    model = attnviz.load_model("py:nets.py:Behind")
    picture = attnviz.load_image("noise.png")
    pixels = model.pixels(picture, model.place(picture))
    last = model.module(pixels)[0, -1]
    assert record["target"]["score"] == pytest.approx(float(last.norm()), rel=1e-5)
    seen = attnviz.observe(picture, model)
    row = seen.layers[2].call.matrix()[0, :, -1, :-1].numpy()
    values = [answer.values.ravel() for answer in attnviz.explain(seen, query="cls").answers]
    np.testing.assert_allclose(values, row, atol=1e-6)


def test_a_folder_counts_what_is_not_drawn(folder: Path, capsys: Capture) -> None:
    (folder / "in").mkdir()
    for number in range(3):
        Image.fromarray(np.full((64, 64, 3), 60 * number, np.uint8)).save(f"in/{number}.png")
    command = ["batch", "in", "-o", "out", "-m", "py:nets.py:Merged", "--pictures", "none"]
    assert main([*command, "--quiet"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "not drawn" in line]
    assert len(said) == 1
    assert said[0].endswith("(in 3 pictures)")
    records = (folder / "out" / "stats.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line)["check"]["not_drawn"] for line in records)
