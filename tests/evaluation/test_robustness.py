# mypy: disable-error-code="no-untyped-call,no-any-return"
"""Sensitivity and randomisation, held to their formulas on eager attention in float64."""

import itertools
import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

import attnviz
from attnviz.cli import main
from attnviz.errors import UsageError
from attnviz.evaluation import METRICS, settings_of
from attnviz.evaluation.robustness import (
    cascade_rank,
    cascade_ssim,
    parts_of,
    redrawn,
    restored,
    sensitivity,
    sensitivity_avg,
    sensitivity_max,
    ssim,
)
from attnviz.io.picture import Picture

CAT = Path(__file__).parents[2] / "sample_images" / "cat.jpg"
Map = NDArray[np.float64]
SIDE = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        patch_size=8, image_size=96, initializer_range=0.3, num_labels=5,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


@cache
def shown() -> Picture:
    return Picture("cat.png", np.asarray(Image.open(CAT).convert("RGB").resize((96, 96))))


@cache
def explained(folder: Path) -> attnviz.Explanation:
    model = attnviz.load_model(str(folder))
    return attnviz.explain(attnviz.observe(shown(), model, fit="squash"))


def eager(folder: Path) -> Any:
    from transformers import ViTModel  # noqa: PLC0415

    model = ViTModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)
    return model.eval()


def map_of(model: Any, noise: Map | float = 0.0) -> Map:
    """The mean over heads of the class token's row in the last layer."""
    values = (shown().pixels / 255 + noise - 0.5) / 0.5
    pixels = torch.from_numpy(values).permute(2, 0, 1)[None]
    with torch.no_grad():
        attention = deepcopy(model).double()(pixels, output_attentions=True).attentions[-1]
    return attention[0, :, 0, 1:].mean(0).reshape(SIDE, SIDE).numpy()


def test_sensitivity_is_its_formula_on_eager_attention(folder: Path) -> None:
    found = attnviz.evaluate(explained(folder), sensitivity=True, draws=4, radius=0.1, seed=3)
    stream, model = np.random.RandomState(3), eager(folder)
    own = map_of(model)
    changes = []
    for _ in range(4):
        other = map_of(model, stream.uniform(-0.1, 0.1, (96, 96, 3)))
        changes.append(((other - own) ** 2).sum() ** 0.5 / (own**2).sum() ** 0.5)
    (mean,) = (score for score in found if score.head == "mean")
    assert mean.numbers["sensitivity_max"] == pytest.approx(max(changes), rel=1e-3)
    assert mean.numbers["sensitivity_avg"] == pytest.approx(sum(changes) / 4, rel=1e-3)
    assert all("sensitivity_max" not in each.numbers for each in found if each.head != "mean")


def windows(a: Map, b: Map) -> float:
    """SSIM window by window."""
    side, found = min(7, *a.shape), []
    for row, column in itertools.product(
        range(a.shape[0] - side + 1), range(a.shape[1] - side + 1)
    ):
        x, y = (m[row : row + side, column : column + side].ravel() for m in (a, b))
        (xx, xy), (_, yy) = np.cov(x, y)
        mx, my = x.mean(), y.mean()
        found.append(
            (2 * mx * my + 1e-4) * (2 * xy + 9e-4)
            / ((mx**2 + my**2 + 1e-4) * (xx + yy + 9e-4))
        )  # fmt: skip
    return float(np.mean(found))


def test_a_cascade_is_that_of_a_model_whose_parts_are_redrawn_by_hand(folder: Path) -> None:
    explanation, model = explained(folder), eager(folder)
    module = explanation.observation.model.module
    before = {name: each.clone() for name, each in module.state_dict().items()}
    found = attnviz.evaluate(explanation, randomisation=True, seed=3)
    assert all(torch.equal(before[name], each) for name, each in module.state_dict().items())
    own, maps = map_of(model), []
    layers = model.layers if hasattr(model, "layers") else model.encoder.layer
    parts = [[model.layernorm], *([each] for each in reversed(layers)), [model.embeddings]]
    for number, part in enumerate(parts, start=1):
        torch.manual_seed(3 + number)
        for each in [m for whole in part for m in whole.modules()]:
            if hasattr(each, "reset_parameters"):
                each.reset_parameters()
                continue
            for parameter in each.parameters(recurse=False):
                spread = parameter.std(correction=0)
                parameter.data = torch.randn(parameter.shape) * spread + parameter.mean()
        maps.append(map_of(model))
    ranks = [spearmanr(own.ravel(), other.ravel()).statistic for other in maps]
    assert ranks[0] == pytest.approx(1)  # no map of attention sees the last norm
    spanned = [(m - m.min()) / np.ptp(m) for m in (own, *maps)]
    alike = [windows(spanned[0], other) for other in spanned[1:]]
    (mean,) = (score for score in found if score.head == "mean")
    assert mean.numbers["cascade_rank"] == pytest.approx(np.mean(ranks), abs=1e-3)
    assert mean.numbers["cascade_ssim"] == pytest.approx(np.mean(alike), abs=1e-4)
    first = attnviz.evaluate(explanation, randomisation=True, cascade_steps=1, seed=3)
    assert next(s for s in first if s.head == "mean").numbers["cascade_rank"] == pytest.approx(1)


def test_parts_are_the_head_the_blocks_and_the_rest(folder: Path) -> None:
    model = attnviz.load_model(str(folder), head="class")
    names = {module: name for name, module in model.module.named_modules()}
    parts = [[names[m] for m in part] for part in parts_of(model.module, model.blank((96, 96)))]
    assert len(parts) == 5
    assert parts[0][-1].endswith("classifier")
    assert all(".2." in name for name in parts[1])
    assert all(".0." in name for name in parts[3])
    assert all("embeddings" in name for name in parts[4])
    together = [module for part in parts for module in part]
    assert len(together) == len(set(together))
    whole = {id(p) for p in model.module.parameters()}
    assert {id(p) for name in together for p in model.module.get_submodule(name).parameters(
        recurse=False)} == whole  # fmt: skip


def test_without_blocks_each_module_is_a_part() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    assert parts_of(net, torch.zeros(1, 3, 8, 8)) == [[net[2]], [net[0]]]


@pytest.mark.parametrize("shape", [(12, 12), (5, 9), (20, 7)])
def test_numbers_of_maps_are_their_formulas(shape: tuple[int, int]) -> None:
    stream = np.random.RandomState(1)
    own, others = stream.rand(*shape), stream.rand(3, *shape)
    drawn = np.ones(shape, dtype=np.bool_)
    spanned = [(m - m.min()) / np.ptp(m) for m in (own, *others)]
    for a, b in itertools.pairwise(spanned):
        if min(shape) >= 7:
            assert ssim(a, b) == pytest.approx(windows(a, b), abs=1e-12)
    assert ssim(own, own) == pytest.approx(1)
    ranks = [spearmanr(own.ravel(), each.ravel()).statistic for each in others]
    assert cascade_rank(own, others, drawn) == pytest.approx(np.mean(ranks))
    assert cascade_ssim(own, others, drawn) == pytest.approx(
        np.mean([ssim(spanned[0], each) for each in spanned[1:]])
    )
    flat = np.zeros_like(others)
    assert cascade_rank(own, flat, drawn) == 0
    both = sensitivity_max(own, flat, drawn), sensitivity_avg(own, flat, drawn)
    assert both == pytest.approx((1, 1))
    assert np.isnan(sensitivity_max(flat[0], others, drawn))


def test_the_command_line_measures_what_is_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--metrics", "sensitivity,randomisation", "--draws", "2", "--cascade-steps", "2"]
    arguments = ["evaluate", str(CAT), "-m", "tiny", "--size", "64", *options]
    assert main([*arguments, "--json", "-o", str(tmp_path)]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    names = [name for name, each in METRICS.items() if each.group in options[1].split(",")]
    own, control = (
        next(r for r in rows if r["baseline"] == baseline and r["head"] == "mean")
        for baseline in (None, "random weights")
    )
    assert list(own["metrics"]) == names
    assert all(own["metrics"][name]["mean"] is not None for name in names)
    assert control["metrics"]["sensitivity_max"] is not None
    assert control["metrics"]["cascade_rank"] is None  # its weights are redrawn already
    assert (tmp_path / "evaluation.png").is_file()
    assert main(["evaluate", str(CAT), "--radius", "0.1"]) == 2
    assert "--radius is of --metrics sensitivity; add it" in capfd.readouterr().err
    with pytest.raises(UsageError, match="--draws 0: give a value from 1 to 1000"):
        settings_of(("sensitivity",), {"draws": 0})


def test_buffers_are_restored_too() -> None:
    """A normalisation that is reset forgets its running mean."""
    linear, norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
    model = nn.Sequential(linear, norm).eval()
    assert norm.running_mean is not None
    norm.running_mean += 3
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with restored(model):
        for _ in redrawn([[norm], [linear]], 0):
            pass
        assert not torch.equal(norm.running_mean, before["1.running_mean"])
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name])


def test_smoothed_maps_are_compared_with_smoothed_ones() -> None:
    seen = attnviz.observe(attnviz.load_image("sample_images/cat.jpg"), attnviz.load_model("tiny"))
    plain, smooth = (attnviz.explain(seen, smooth=each) for each in (None, "noise:4"))
    rows = [sensitivity(each, draws=2, radius=0.02, seed=0) for each in (plain, smooth)]
    of_plain, of_smooth = (next(iter(each.values()))["sensitivity_max"] for each in rows)
    assert of_smooth < 2 * of_plain  # with an unsmoothed map it is over ten times as much


def test_localized_heads_have_no_robustness() -> None:
    seen = attnviz.observe(attnviz.load_image("sample_images/cat.jpg"), attnviz.load_model("tiny"))
    found = attnviz.explain(seen, layers="all", heads="localized")
    with pytest.raises(UsageError, match="not of localized heads; explain with heads='all'"):
        attnviz.evaluate(found, sensitivity=True)
