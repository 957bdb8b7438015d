"""Models with their class heads: `load_model(…, head="class")`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import torch

import attnviz

transformers: Any = pytest.importorskip("transformers")
CLASSES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT with a class head, moved off its initial values."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        image_size=64, patch_size=16, num_labels=CLASSES,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("models") / "vit"
    model.save_pretrained(path)
    processing = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    (path / "preprocessor_config.json").write_text(json.dumps(processing))
    return path


@pytest.fixture
def picture(tmp_path: Path) -> attnviz.Picture:
    return attnviz.load_image(pictures.save(pictures.noise(64, 48), tmp_path / "a.png"))


def test_a_classifier_gives_the_logits_of_its_checkpoint(
    folder: Path, picture: attnviz.Picture
) -> None:
    model = attnviz.load_model(str(folder), head="class")
    own = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = model.pixels(picture, model.place(picture))
    with torch.no_grad():
        expected = own(pixels, interpolate_pos_encoding=True).logits
        assert torch.equal(model.module(pixels), expected)
    assert expected.shape == (1, CLASSES)


def test_its_attention_is_that_of_the_model_without_the_head(
    folder: Path, picture: attnviz.Picture
) -> None:
    models = [attnviz.load_model(str(folder), head=wanted) for wanted in ("none", "class")]
    maps = [attnviz.explain(attnviz.observe(picture, model), layers="all") for model in models]
    np.testing.assert_array_equal(maps[0].maps, maps[1].maps)
    assert models[0].prefix == models[1].prefix == 1


def test_random_weights_have_a_class_head_too(folder: Path, picture: attnviz.Picture) -> None:
    model = attnviz.load_model(str(folder), head="class", random_weights=True)
    with torch.no_grad():
        assert model.module(model.pixels(picture, model.place(picture))).shape == (1, CLASSES)


def test_clip_is_read_through_its_vision_config(tmp_path: Path) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32}  # fmt: skip
    vision = {**small, "image_size": 64, "patch_size": 16}
    config = transformers.CLIPConfig(vision_config=vision, text_config=small, num_labels=3)
    transformers.CLIPForImageClassification(config).save_pretrained(tmp_path / "clip")
    model = attnviz.load_model(str(tmp_path / "clip"), head="class")
    assert (model.patch, model.heads, model.layers) == (16, 2, 2)
    with torch.no_grad():
        assert model.module(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_without_a_class_head_it_says_so(tmp_path: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "base")
    with pytest.raises(attnviz.AttnvizError, match=r"no class head \(its checkpoint is a ViTModel"):
        attnviz.load_model(str(tmp_path / "base"), head="class")
    with pytest.raises(attnviz.AttnvizError, match="random has no class head"):
        attnviz.load_model("random", head="class")
