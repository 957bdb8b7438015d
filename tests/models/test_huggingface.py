"""Vision transformers of transformers, built from configs and saved to a folder."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import torch
from families import state

import attnviz
from attnviz.cli import main

transformers: Any = pytest.importorskip("transformers")
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 64}  # fmt: skip
# Family: config, further settings, patch, class token and all prefix tokens.
FAMILIES: dict[str, tuple[str, dict[str, Any], int, bool, int]] = {
    "vit": ("ViTConfig", {"image_size": 64, "patch_size": 8}, 8, True, 1),
    "deit": ("DeiTConfig", {"image_size": 64, "patch_size": 16}, 16, True, 2),
    "dinov2": ("Dinov2Config", {"image_size": 70, "patch_size": 14}, 14, True, 1),
    "dinov2 with registers": (
        "Dinov2WithRegistersConfig",
        {"image_size": 70, "patch_size": 14, "num_register_tokens": 5}, 14, True, 6,
    ),
    "dinov3": (
        "DINOv3ViTConfig",
        {"image_size": 64, "patch_size": 16, "num_register_tokens": 3}, 16, True, 4,
    ),
    "clip": ("CLIPVisionConfig", {"image_size": 64, "patch_size": 16}, 16, True, 1),
    "siglip": ("SiglipVisionConfig", {"image_size": 64, "patch_size": 16}, 16, False, 0),
    "beit": ("BeitConfig", {"image_size": 64, "patch_size": 16}, 16, True, 1),
    "data2vec": ("Data2VecVisionConfig", {"image_size": 64, "patch_size": 16}, 16, True, 1),
    "msn": ("ViTMSNConfig", {"image_size": 64, "patch_size": 8}, 8, True, 1),
    "ijepa": ("IJepaConfig", {"image_size": 64, "patch_size": 16}, 16, False, 0),
}  # fmt: skip


def build(family: str, folder: Path) -> Path:
    """A folder with a model of a family, all of its parameters moved off their initial values."""
    name, settings, *_ = FAMILIES[family]
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(getattr(transformers, name)(**SMALL, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processing = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(family, tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> attnviz.Picture:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    pictures.noise(200, 120).save(path)
    return attnviz.load_image(path)


def test_grid_and_prefix_are_what_the_config_says(
    family: str, folder: Path, picture: attnviz.Picture
) -> None:
    model = attnviz.load_model(str(folder))
    seen = attnviz.observe(picture, model)
    _, _, patch, class_token, prefix = FAMILIES[family]
    grid = seen.placement.grid
    assert (grid.patch, grid.prefix, model.class_token) == (patch, prefix, class_token)
    assert grid.columns > grid.rows
    assert model.layers == 3
    assert seen.layers[2].keys.outside == prefix


def test_predictions_are_bit_identical_while_they_are_recorded(
    folder: Path, picture: attnviz.Picture
) -> None:
    model = attnviz.load_model(str(folder))
    pixels = model.pixels(picture, model.place(picture))
    with torch.no_grad():
        expected = model.module(pixels)
        with attnviz.record() as recording:
            found = model.module(pixels)
    assert torch.equal(state(found), state(expected))
    assert len(recording) >= 3


def test_the_models_own_preprocessing_is_used(folder: Path, picture: attnviz.Picture) -> None:
    model = attnviz.load_model(str(folder))
    assert (model.mean, model.std) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    placement = model.place(picture)
    size = placement.grid.input_width, placement.grid.input_height
    resized = np.asarray(picture.image().resize(size, 2), dtype=np.float32) / 255
    expected = (resized - np.array(model.mean)) / np.array(model.std)
    found = model.pixels(picture, placement)[0].permute(1, 2, 0)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_random_weights_are_the_same_architecture(folder: Path, picture: attnviz.Picture) -> None:
    models = [attnviz.load_model(str(folder), seed=s, random_weights=True) for s in (1, 1, 2)]
    maps = [attnviz.explain(attnviz.observe(picture, model)).maps for model in models]
    assert np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])
    assert (models[0].weights, models[0].seed) == ("random", 1)


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2-shaped model of 12 layers of 12 heads."""
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=96, num_hidden_layers=12, num_attention_heads=12, patch_size=14, image_size=70
    )
    path = tmp_path_factory.mktemp("models") / "twelve"
    transformers.AutoModel.from_config(config).save_pretrained(path)
    return path


def test_all_layers_and_heads_are_drawn(twelve: Path, tmp_path: Path) -> None:
    pictures.noise(640, 360).save(tmp_path / "wide.png")
    command = ["show", str(tmp_path / "wide.png"), "-m", str(twelve), "--layers", "all"]
    assert main([*command, "-o", str(tmp_path / "out"), "--quiet"]) == 0
    folder = tmp_path / "out" / "wide.png"
    assert len(list(folder.glob("layer*-head*.png"))) == 144
    record = json.loads((folder / "stats.json").read_text())
    assert record["model"]["weights"] == "pretrained"
    assert (record["model"]["layers"], record["model"]["heads"]) == (12, 12)
    assert (record["tokens"]["columns"], record["tokens"]["rows"]) == (7, 4)
    assert record["query"] == {"kind": "cls"}
    assert {(head["layer"], head["head"]) for head in record["heads"]} == {
        (layer, head) for layer in range(12) for head in range(12)
    }
    assert all(head["prefix_mass"] > 0 for head in record["heads"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--patch", "16"], "--patch 16 is for the model random"),
        (["--features", "64"], "--features 64 is for the model random"),
        (["--tokens", "pixels"], "--tokens pixels is for the model random"),
        (["--heads", "13"], "has 12 heads"),
        (["--layers", "12"], "the model has 12 layers"),
        (["--mask", "{picture}"], "this model cannot leave tokens out"),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused(
    options: list[str],
    told: str,
    *,
    twelve: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "a.png"
    pictures.noise(40, 30).save(path)
    options = [option.format(picture=path) for option in options]
    assert main(["stats", str(path), "-m", str(twelve), *options]) == 2
    assert told in capsys.readouterr().err


def test_folders_that_hold_no_such_model_say_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    pictures.noise(40, 30).save(path)
    (tmp_path / "empty").mkdir()
    swin = transformers.SwinConfig(image_size=64, embed_dim=24, depths=[1], num_heads=[2])
    swin.save_pretrained(tmp_path / "swin")
    bert = transformers.BertConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    bert.save_pretrained(tmp_path / "bert")
    told = {
        "empty": "save_pretrained",  # no config
        "swin": "save_pretrained",  # no weights
        "bert": "takes no pictures; give a vision model",
    }
    for name, said in told.items():
        assert main(["stats", str(path), "-m", str(tmp_path / name)]) == 1
        line = capsys.readouterr().err
        assert said in line
        assert line.count("\n") == 1


def test_without_the_extra_it_says_what_to_install(
    twelve: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(attnviz.AttnvizError, match=r"pip install 'attnviz\[hf\]'"):
        attnviz.load_model(str(twelve))
