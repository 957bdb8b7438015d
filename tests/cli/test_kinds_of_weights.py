"""Models whose weights are no softmax of q·kᵀ, through the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forms import COLUMNS, FORMS, ROWS, Local
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
        assert (None in numbers) == (not module.sums_to_one)


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
