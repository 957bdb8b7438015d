"""Models whose weights are no softmax of q·kᵀ, through the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forms import COLUMNS, FORMS, HEADS, ROWS, Local, Stack
from numpy.typing import NDArray
from PIL import Image

from attnviz.cli import main

FILE = Path(__file__).parents[1] / "forms.py"


def run(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, str, dict[str, Any]]:
    """`stats --json` of a picture of the model's own size: exit code, stderr, record."""
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "picture.png")
    words = ["stats", str(folder / "picture.png"), "-m", f"py:{FILE}:{name}", "--json"]
    code = main([*words, "--npz", "-o", str(folder / "out"), *more])
    out, errors = capsys.readouterr()
    return code, errors, json.loads(out) if code == 0 and out else {}


def pixels(folder: Path) -> torch.Tensor:
    """What the model is given."""
    values = torch.from_numpy(np.array(Image.open(folder / "picture.png"))).float() / 255
    return ((values - 0.5) / 0.5).permute(2, 0, 1)[None]


@pytest.mark.parametrize("name", FORMS)
def test_maps_are_rows_of_the_weights_that_the_module_computed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = FORMS[name]().eval()
    query = () if module.pools else ("-q", "20,12")
    code, errors, record = run(name, tmp_path, capsys, *query)
    assert code == 0, errors
    with np.load(tmp_path / "out/picture.png/maps.npz") as arrays:
        maps = arrays["maps"][0]
    with torch.no_grad():
        module(pixels(tmp_path))
    assert module.weights is not None
    if isinstance(module, Local):
        expected = np.zeros((1, ROWS, COLUMNS))
        for number, weight in enumerate(module.weights[8, 0, 0].tolist()):
            expected[0, number // 3, 1 + number % 3] = weight
    else:
        rows = module.weights.mean(2) if module.pools else module.weights[:, :, 8]
        expected = rows[0].reshape(-1, ROWS, COLUMNS).numpy()
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    assert record["check"]["verified"]
    assert record["check"]["places"] == "measured"
    assert record["check"]["not_drawn"] == []
    for head in record["heads"]:
        assert (head["kind"], head["sums_to_one"]) == (module.kind, module.sums_to_one)
        numbers = [head[key] for key in ("entropy", "entropy_ratio", "confidence", "sink_mass")]
        assert numbers.count(None) == (0 if module.sums_to_one else 4)


@pytest.mark.parametrize("method", ["rollout", "mass"])
def test_methods_that_need_distributions_refuse_other_weights_by_name(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors, _ = run("Difference", tmp_path, capsys, "--method", method)
    assert code == 2
    assert "the weights of layer 0 (difference) do not sum to 1; choose from attention" in errors


def test_rollout_of_weights_that_sum_to_one_is_that_of_any_attention(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors, _ = run("Additive", tmp_path, capsys, "--method", "rollout", "-q", "20,12")
    assert code == 0, errors
    module = FORMS["Additive"]().eval()
    with torch.no_grad():
        module(pixels(tmp_path))
    assert module.weights is not None
    expected = (module.weights[0].mean(0) + torch.eye(ROWS * COLUMNS)) / 2
    with np.load(tmp_path / "out/picture.png/maps.npz") as arrays:
        found = arrays["maps"].reshape(-1)
    np.testing.assert_allclose(found, expected[8], atol=1e-6)


def test_rollout_of_layers_of_several_kinds_is_the_product_of_their_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors, record = run("Stack", tmp_path, capsys, "--method", "rollout", "-q", "20,12")
    assert code == 0, errors
    assert record["check"]["not_drawn"] == []
    module = Stack().eval()
    with torch.no_grad():
        module(pixels(tmp_path))
    expected = torch.eye(ROWS * COLUMNS)
    for layer in module.layers:
        assert isinstance(layer.weights, torch.Tensor)
        expected = (layer.weights[0].mean(0) + torch.eye(ROWS * COLUMNS)) / 2 @ expected
    with np.load(tmp_path / "out/picture.png/maps.npz") as arrays:
        found = arrays["maps"].reshape(-1)
    np.testing.assert_allclose(found, expected[8], atol=1e-6)


@pytest.mark.parametrize("method", ["relevance", "gradient-rollout", "gradient-attention"])
def test_gradients_go_through_layers_of_several_kinds_or_are_refused(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--method", method, "--target", "norm", "-q", "20,12", "--layers", "-1")
    code, errors, record = run("Stack", tmp_path, capsys, *more)
    assert code == 0, errors
    assert record["heads"][-1]["map"]["maximum"] > 0
    name = "Difference" if method == "gradient-attention" else "StackWithDifference"
    code, errors, _ = run(name, tmp_path, capsys, *more)
    assert code == 2
    number = 0 if method == "gradient-attention" else 1
    assert f"the weights of layer {number} (difference) do not sum to 1" in errors


def test_methods_that_need_keys_refuse_weights_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors, _ = run("Distances", tmp_path, capsys, "--method", "similarity")
    assert code == 2
    assert "layer 0 has weights without keys (softmax)" in errors


def test_a_page_shows_weights_that_do_not_sum_to_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("Sink", tmp_path, capsys)
    words = ["explore", str(tmp_path / "picture.png"), "-m", f"py:{FILE}:Sink"]
    assert main([*words, "-o", str(tmp_path / "page.html")]) == 0


def test_more_statistics_of_weights_that_do_not_sum_to_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors, record = run("Difference", tmp_path, capsys, "--stats", "all")
    assert code == 0, errors
    for head in record["heads"]:
        assert head["sinks"] is None
        assert head["head_jensen_shannon"] is None
        assert head["value_distance_px"] is None
        assert -1 <= head["head_cosine"] <= 1
    assert record["layers"][0]["sinks"] == []


@pytest.mark.parametrize("name", FORMS)
def test_all_statistics_are_defined_or_null_for_every_form(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors, record = run(name, tmp_path, capsys, "--stats", "all")
    assert code == 0, errors
    for head in record["heads"]:
        assert (head["entropy"] is not None) == FORMS[name].sums_to_one


def test_the_weights_of_values_are_those_of_the_module_also_without_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors, record = run("Additive", tmp_path, capsys, "--stats", "all")
    assert code == 0, errors
    module = FORMS["Additive"]().eval()
    with torch.no_grad():
        x = module.embed(pixels(tmp_path)).flatten(2).mT + module.pos
        module.attend(x)
        values = module.heads(x)[2][0]  # (H, N, D)
        output = module.out.weight.T.reshape(HEADS, -1, module.out.weight.shape[0])
        norms = (values @ output).norm(dim=-1)
    assert module.weights is not None
    weights = module.weights[0] * norms[:, None]
    weights /= weights.sum(-1, keepdim=True)
    y, x = torch.meshgrid(torch.arange(ROWS) * 8.0, torch.arange(COLUMNS) * 8.0, indexing="ij")
    places = torch.stack([x, y], -1).reshape(-1, 2)
    expected = (weights * torch.cdist(places, places)).sum(-1).mean(-1)
    found = [head["value_distance_px"] for head in record["heads"]]
    assert found == pytest.approx(expected.tolist(), rel=1e-5)


DEFORMABLE = '''
import torch
from torch import nn
from torch.nn import functional as F


class Deformable(nn.Module):
    """Zhu et al. (2010.04159), one level: points around each token, and their weights."""

    patch_size, image_size = 8, (32, 48)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 16, 8, 8)
        self.offsets, self.scores = nn.Linear(16, 2 * 4 * 2), nn.Linear(16, 2 * 4)
        self.value, self.out = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, pixels):
        maps = self.embed(pixels)
        b, _, h, w = maps.shape
        x = maps.flatten(2).mT
        v = self.value(x).mT.reshape(b * 2, 8, h, w)
        y, z = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        at = torch.stack([z, y], -1).reshape(1, h * w, 1, 1, 2)
        at = at + self.offsets(x).view(b, h * w, 2, 4, 2)
        a = self.scores(x).view(b, h * w, 2, 4).softmax(-1)
        at = at.transpose(1, 2).flatten(0, 1)  # (b * heads, tokens, points, 2)
        found = F.grid_sample(v, at, align_corners=True)  # (b * heads, 8, tokens, points)
        a = a.transpose(1, 2).reshape(b * 2, 1, h * w, 4)
        self.weights, self.at = a, at
        output = (found * a).sum(-1).view(b, 16, h * w).mT
        return self.out(output)
'''


def deformable(folder: Path) -> tuple[Any, str]:
    """The module after a run on `a.png`, which is written, and its spec."""
    rng = np.random.default_rng(2)
    Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(folder / "picture.png")
    (folder / "deformable.py").write_text(DEFORMABLE)
    names: dict[str, Any] = {}
    exec(DEFORMABLE, names)
    module = names["Deformable"]().eval()
    with torch.no_grad():
        module(pixels(folder))
    return module, f"py:{folder / 'deformable.py'}:Deformable"


def cells_of(module: Any) -> NDArray[np.int64]:
    """The cell that each point lies in, (queries, heads, points); outside of the picture: -1."""
    at = module.at.view(HEADS, ROWS * COLUMNS, 4, 2).transpose(0, 1)
    # align_corners: -1 and 1 are the centres of the first and the last patch.
    x, y = ((at + 1) / 2 * torch.tensor([COLUMNS - 1, ROWS - 1]) + 0.5).unbind(-1)
    inside = (x > 0) & (x < COLUMNS) & (y > 0) & (y < ROWS)
    column = x.clamp(0.5, COLUMNS - 0.5).long()  # at the border values are those of the last patch
    row = y.clamp(0.5, ROWS - 0.5).long()
    return torch.where(inside, row * COLUMNS + column, -1).numpy()


def test_points_of_deformable_attention_count_for_the_cells_that_they_lie_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, spec = deformable(tmp_path)
    words = ["stats", str(tmp_path / "picture.png"), "-m", spec, "--json", "--npz", "-q", "20,12"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    record = json.loads(capsys.readouterr().out)
    weights = module.weights.view(HEADS, ROWS * COLUMNS, 4).transpose(0, 1).numpy()
    cells = cells_of(module)
    with np.load(tmp_path / "out/picture.png/maps.npz") as arrays:
        maps = arrays["maps"][0]
    for head, entry in enumerate(record["heads"]):
        expected = np.zeros(ROWS * COLUMNS)
        for cell, weight in zip(cells[8, head], weights[8, head], strict=True):
            expected[cell] += weight * (cell >= 0)
        np.testing.assert_allclose(maps[head].reshape(-1), expected, atol=1e-6)
        own = weights[:, head]
        entropy = -(own * np.log(own)).sum(-1).mean()
        assert entry["kind"] == "sampled"
        assert entry["entropy"] == pytest.approx(entropy, rel=1e-5)
        assert entry["entropy_ratio"] == pytest.approx(entropy / np.log(4), rel=1e-5)
        assert entry["confidence"] == pytest.approx(own.max(-1).mean(), rel=1e-5)
    assert record["check"]["verified"]
    assert record["check"]["places"] == "measured"
    assert record["check"]["not_drawn"] == []


def test_points_of_one_place_are_in_the_record_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module, spec = deformable(tmp_path)
    words = ["show", str(tmp_path / "picture.png"), "-m", spec, "-o", str(tmp_path / "out")]
    assert main([*words, "-q", "20,12", "--json", "--no-preview"]) == 0
    record = json.loads(capsys.readouterr().out)
    at = module.at.view(HEADS, ROWS * COLUMNS, 4, 2)[:, 8]
    places = ((at + 1) / 2 * torch.tensor([COLUMNS - 1, ROWS - 1]) + 0.5) * 8
    weights = module.weights.view(HEADS, ROWS * COLUMNS, 4)[:, 8]
    corner = torch.tensor([8 * COLUMNS - 4, 8 * ROWS - 4])  # the centre of the last patch
    for head, entry in enumerate(record["heads"]):
        order = weights[head].argsort(descending=True).tolist()
        near = [n for n in order if ((places[head, n] > 4) & (places[head, n] < corner)).all()]
        found = {round(point["weight"], 5): point for point in entry["points"]}
        given = [point["weight"] for point in entry["points"]]
        assert given == sorted(given, reverse=True)
        assert near
        for number in near:
            point = found[round(weights[head, number].item(), 5)]
            assert (point["x"], point["y"]) == pytest.approx(
                places[head, number].tolist(), abs=1e-3
            )
            assert point["level"] == 0
    for entry in record["heads"]:
        image = np.asarray(Image.open(tmp_path / "out/picture.png" / entry["file"]))
        point = entry["points"][-1]  # the lightest is drawn last
        assert image[int(point["y"]), int(point["x"])].tolist() == [0xE6, 0x9F, 0x00]
    columns, *_ = (tmp_path / "out/picture.png/stats.csv").read_text().splitlines()
    assert "points" not in columns


@pytest.mark.parametrize("method", ["rollout", "similarity"])
def test_methods_that_points_have_no_meaning_for_refuse_them_by_name(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, spec = deformable(tmp_path)
    words = ["stats", str(tmp_path / "picture.png"), "-m", spec, "--method", method]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "each query has points of its own" in said or "weights without keys (sampled)" in said


def test_points_have_no_sinks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, spec = deformable(tmp_path)
    words = ["stats", str(tmp_path / "picture.png"), "-m", spec, "--stats", "all", "--json"]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["layers"][0]["sinks"] == []
    for head in record["heads"]:
        assert head["sinks"] is None
        assert head["head_cosine"] == 0  # heads share no point
