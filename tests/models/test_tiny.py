"""The embedded model: offline, pinned, and what it says it is."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cutouts
import numpy as np
import pictures
import pytest
import torch
from lessons import OF_SCENES
from safetensors.torch import save_file
from scenes import KINDS, UNSEEN

import attnviz
from attnviz.cli import main
from attnviz.errors import ModelError, UsageError
from attnviz.models.state_dicts import read_state
from attnviz.models.tiny import HEADS, LABELS, LAYERS, PATCH, WEIGHTS, VisionTransformer

SAMPLES = Path(__file__).parents[2] / "sample_images"
PINNED = Path(__file__).with_name("tiny_cat.npy")


@pytest.fixture(scope="module")
def model() -> attnviz.Model:
    return attnviz.load_model()


@pytest.fixture(scope="module")
def cat(model: attnviz.Model) -> attnviz.Observation:
    return attnviz.observe(attnviz.load_image(SAMPLES / "cat.jpg"), model)


def test_it_is_what_load_model_gives_unasked(model: attnviz.Model) -> None:
    assert (model.spec, model.weights, model.class_token) == ("tiny", "pretrained", True)
    assert (model.layers, model.heads, model.patch) == (LAYERS, HEADS, PATCH)
    assert WEIGHTS.stat().st_size <= 8_000_000
    state = read_state(str(WEIGHTS))
    assert all(value.dtype == torch.float16 for value in state.values())
    assert all(torch.isfinite(value).all() for value in state.values())


def test_its_labels_are_the_kinds_that_it_was_trained_on() -> None:
    assert {kind for kind, _ in cutouts.KINDS} == {*LABELS, cutouts.LEFT_OUT}
    assert set(OF_SCENES.values()) <= set(LABELS)
    assert set(OF_SCENES) <= set(KINDS) - set(UNSEEN)


def test_its_maps_are_pinned(cat: attnviz.Observation) -> None:
    """Written by `np.save(PINNED, maps)` when weights are meant to change, and then only."""
    maps = attnviz.explain(cat).maps[0]
    pinned = np.load(PINNED)
    assert maps.shape == pinned.shape
    assert np.abs(maps - pinned).max() <= 1e-4 * pinned.max()


def test_eight_heads_find_the_cat_and_differ(cat: attnviz.Observation) -> None:
    answer = attnviz.explain(cat)
    maps = answer.maps[0]
    picture = cat.picture
    mask = attnviz.load_mask(
        str(SAMPLES / "masks" / "cat.png"), width=picture.width, height=picture.height
    )
    share = answer.answers[0].placement.average(mask)
    inside = (maps * share).sum((1, 2)) / maps.sum((1, 2))
    assert (inside > share.mean()).all()  # each looks at the cat more than its size would say
    assert inside.mean() > 1.4 * share.mean()
    assert share.flat[maps.mean(0).argmax()] > 0.5
    likeness = np.corrcoef(maps.reshape(HEADS, -1))
    apart = likeness[~np.eye(HEADS, dtype=bool)]
    assert apart.max() < 0.9
    assert np.median(apart) < 0.6


def test_recorded_weights_are_its_own(model: attnviz.Model) -> None:
    module = model.module
    assert isinstance(module, VisionTransformer)
    pixels = torch.randn(2, 3, 40, 72, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), attnviz.record() as recording:
        module(pixels)
    assert len(recording) == LAYERS
    x = module.tokens(pixels)
    for call, block in zip(recording, module.blocks, strict=True):
        x, weights = block(x, need_weights=True)
        assert torch.allclose(call.matrix(), weights, atol=1e-5)
        assert call.check() is not None


def test_its_tokens_lie_where_it_is_said_that_they_do(model: attnviz.Model) -> None:
    """Measured from the picture, as for any other model, they are the prefix and the grid."""
    picture = attnviz.load_image(SAMPLES / "cat.jpg")
    said = attnviz.observe(picture, model)
    measured = attnviz.observe(picture, replace(model, plain=False))
    assert len(said.layers) == len(measured.layers) == LAYERS
    for number, layer in said.layers.items():
        for side in ("queries", "keys"):
            a, b = getattr(layer, side), getattr(measured.layers[number], side)
            assert (a.rows, a.columns) == (b.rows, b.columns) == (15, 22)
            assert np.array_equal(a.cells, b.cells)


def test_what_a_token_sees_lies_about_its_patch() -> None:
    """What a token depends on before attention is as far to the left of its centre as right."""
    pixels = torch.zeros(1, 3, 240, 240, requires_grad=True)
    centred = VisionTransformer()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in centred.embed.parameters():
            parameter.uniform_(0.01, 0.02, generator=generator)
    middle = centred.tokens(pixels)[0, centred.prefix + 15 * 30 + 15].sum()
    (gradient,) = torch.autograd.grad(middle, pixels)
    seen = gradient[0].abs().sum(0)
    across = seen.sum(0).nonzero()[:, 0].double()
    assert float(across.min() + across.max()) / 2 + 0.5 == 15 * 8 + 4
    assert len(across) == 22 + 12 * 8


def test_a_mask_leaves_tokens_out(model: attnviz.Model) -> None:
    picture = attnviz.load_image(SAMPLES / "teapot.jpg")
    mask = np.ones((picture.height, picture.width), dtype=bool)
    mask[:, : picture.width // 2] = False
    seen = attnviz.observe(picture, model, mask=mask)
    assert seen.masked > 0
    maps = attnviz.explain(seen, layers="all").maps
    assert not maps[:, :, ~seen.drawn].any()
    assert maps[:, :, seen.drawn].any()


def test_random_weights_come_from_their_seed() -> None:
    one, same, other = (
        attnviz.load_model(random_weights=True, seed=seed).module.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert (one["norm.weight"] == 1).all()
    assert (one["norm.bias"] == 0).all()


def test_weights_of_another_kind_are_told(tmp_path: Path) -> None:
    layer = pictures.uniform_layer(tmp_path / "layer.safetensors")
    with pytest.raises(ModelError, match="add --model random"):
        attnviz.load_model(weights=str(layer))
    state = VisionTransformer().state_dict()
    save_file(state, tmp_path / "own.safetensors")
    own = attnviz.load_model(weights=str(tmp_path / "own.safetensors"))
    assert own.weights == str(tmp_path / "own.safetensors")
    del state["norm.bias"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(ModelError, match=r"norm\.bias is missing"):
        attnviz.load_model(weights=str(tmp_path / "less.safetensors"))


@pytest.mark.parametrize("option", [{"patch": 4}, {"features": 64}, {"tokens": "pixels"}])
def test_what_only_random_takes_is_not_ignored(option: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="add --model random"):
        attnviz.load_model(**option)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_explains_itself(dtype: str) -> None:
    half = attnviz.load_model(dtype=dtype)
    seen = attnviz.observe(attnviz.load_image(SAMPLES / "cat.jpg"), half)
    assert not seen.unexplained


def test_showing_a_picture_needs_no_library_of_models(tmp_path: Path) -> None:
    code = (
        "import sys; from attnviz.cli import main; "
        f"code = main(['show', {str(SAMPLES / 'cat.jpg')!r}, '--heads', '8', '-o', "
        f"{str(tmp_path)!r}, '--quiet']); "
        "print({'transformers', 'timm', 'huggingface_hub', 'matplotlib'} & set(sys.modules)); "
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    record = json.loads((tmp_path / "cat.jpg" / "stats.json").read_text())
    assert (record["model"]["spec"], record["query"]) == ("tiny", {"kind": "cls"})
    assert record["tokens"]["prefix"] == 5
    assert record["check"]["verified"]
    assert len(list((tmp_path / "cat.jpg").glob("layer05-head0*.png"))) == 8


def test_more_heads_than_it_has_is_an_error_that_says_how_many(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", str(SAMPLES / "cat.jpg"), "--heads", "9"]) == 2
    assert "8 heads" in capsys.readouterr().err


def test_its_class_head_can_be_asked(capfd: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(SAMPLES / "cat.jpg"), "--metrics", "perturbation", "--json"]
    assert main([*command, "--size", "32"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {row["baseline"] for row in rows} == {None, "random weights", "gaussian", "saliency"}
    for row in rows:
        assert 1 / len(LABELS) / 10 < row["metrics"]["deletion"]["mean"] < 1
        assert 0 <= row["metrics"]["positive"]["mean"] <= 90
