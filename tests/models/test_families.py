"""Vision models of transformers of every kind: what their configs say, and that they run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import state

import attnviz
from attnviz.geometry.grid import sides
from attnviz.models import configs
from attnviz.models.vision import Vision

transformers: Any = pytest.importorskip("transformers")
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 64}  # fmt: skip
VIT = {"image_size": 64, "patch_size": 16, **SMALL}
SWIN = {"image_size": 64, "embed_dim": 24, "depths": [1, 2, 1], "num_heads": [2, 4, 4],
        "window_size": 2}  # fmt: skip
WIDTHS = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 2, 1]}
SAM = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 64,
       "window_size": 3, "global_attn_indexes": [2], "output_channels": 16}  # fmt: skip
CONVOLUTIONS = {"hidden_sizes": [32, 32, 64, 64], "depths": [1, 1, 1, 1]}
# Config: settings; then multiple, own size, prefix tokens, known to take one shape only.
FAMILIES: dict[str, tuple[dict[str, Any], int, int, int, bool]] = {
    "SwinConfig": (SWIN, 16, 64, 0, False),
    "Swinv2Config": (SWIN, 16, 64, 0, False),
    "DonutSwinConfig": (SWIN, 16, 64, 0, False),
    "Swin2SRConfig": ({**SWIN, "depths": [1, 2], "num_heads": [2, 4]}, 1, 64, 0, False),
    "PvtConfig": ({"image_size": 64, **WIDTHS}, 32, 64, 1, True),
    "PvtV2Config": ({"image_size": 64, **WIDTHS}, 32, 64, 0, False),
    "SegformerConfig": (WIDTHS, 32, 224, 0, False),
    "GLPNConfig": (WIDTHS, 32, 224, 0, False),
    "HieraConfig": ({"embed_dim": 24, "depths": [1, 1, 2, 1]}, 32, 224, 0, False),
    "YolosConfig": ({**VIT, "image_size": [64, 96], "num_detection_tokens": 5}, 16, 78, 1, False),
    "DPTConfig": ({**VIT, "neck_hidden_sizes": [8, 8, 8], "backbone_out_indices": [0, 1, 2]},
                  16, 64, 1, False),
    "SamVisionConfig": (SAM, 16, 64, 0, True),
    "ViTMAEConfig": (VIT, 16, 64, 1, False),
    "VitDetConfig": ({**VIT, "pretrain_image_size": 64, "window_size": 3,
                      "window_block_indices": [0]}, 16, 64, 0, False),
    "SiglipVisionConfig": (VIT, 16, 64, 0, False),
    "Siglip2VisionConfig": ({**SMALL, "num_patches": 16, "patch_size": 16}, 16, 64, 0, False),
    "CLIPVisionConfig": (VIT, 16, 64, 1, False),
    "ChineseCLIPVisionConfig": (VIT, 16, 64, 1, False),
    "PixioConfig": (VIT, 16, 64, 8, False),
    "Aimv2VisionConfig": (VIT, 16, 64, 0, True),
    "RadioConfig": ({**SMALL, "patch_size": 16}, 16, 224, 10, False),
    "LevitConfig": ({"hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2],
                     "depths": [1, 1, 1]}, 64, 224, 0, True),
    "CvtConfig": ({}, 16, 224, 1, False),
    "MobileViTConfig": ({"hidden_sizes": [16, 16, 16], "image_size": 64}, 64, 64, 0, False),
    "BitConfig": ({**CONVOLUTIONS, "embedding_size": 32, "num_groups": 8}, 32, 224, 0, False),
    "ResNetConfig": ({**CONVOLUTIONS, "embedding_size": 16}, 32, 224, 0, False),
    "RegNetConfig": ({**CONVOLUTIONS, "embedding_size": 16, "groups_width": 16}, 32, 224, 0, False),
    "ConvNextConfig": ({**CONVOLUTIONS}, 32, 224, 0, False),
    "FocalNetConfig": ({"embed_dim": 16, "depths": [1, 1, 1, 1]}, 32, 224, 0, False),
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> attnviz.Model:
    folder = tmp_path_factory.mktemp("models")
    getattr(transformers, family)(**FAMILIES[family][0]).save_pretrained(folder)
    return attnviz.load_model(str(folder), random_weights=True)


def test_what_the_config_says(family: str, model: attnviz.Model) -> None:
    _, patch, size, prefix, fixed = FAMILIES[family]
    assert (model.patch, model.size, model.prefix, model.fixed) == (patch, size, prefix, fixed)
    assert model.class_token == (prefix > 0)
    plain = "hidden_size" in FAMILIES[family][0]
    assert (model.layers, model.features) == ((3, 48) if plain else (None, None))


def test_it_runs_on_multiples_and_predicts_the_same_when_recorded(
    family: str, model: attnviz.Model
) -> None:
    """The last stage has a token for each `patch`² pixels, and nothing is cut or padded."""
    square = model.fixed or family in ("HieraConfig", "Swin2SRConfig")
    tall, wide = sides(model.patch)
    height, width = (model.size,) * 2 if square else (6 * tall, 4 * wide)
    pixels = torch.randn(1, 3, height, width)
    with torch.no_grad():
        expected = model.module(pixels)
        with attnviz.record():
            found = model.module(pixels)
    assert torch.equal(state(found), state(expected))


def test_heads_of_a_pyramid_are_no_single_number() -> None:
    config = transformers.SwinConfig(**SWIN)
    assert configs.count(config, "num_attention_heads") is None


def saved(name: str, folder: Path, **settings: Any) -> Any:
    """A model saved to a folder, all of its parameters moved off their initial values."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(getattr(transformers, name)(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def test_mae_sees_all_patches_in_their_order(tmp_path: Path) -> None:
    own = saved("ViTMAEConfig", tmp_path, **VIT)
    assert own.config.mask_ratio == 0.75
    model = attnviz.load_model(str(tmp_path))
    pixels = torch.randn(2, 3, 48, 80)
    # A ViT of the same weights and MAE's positions, which masks nothing.
    embeddings = own.embeddings.patch_embeddings(pixels).detach()
    positions = own.embeddings.interpolate_pos_encoding(embeddings, 48, 80)
    first = own.embeddings.cls_token + positions[:, :1]
    tokens = torch.cat([first.expand(2, -1, -1), embeddings + positions[:, 1:]], dim=1)
    with torch.no_grad():
        for layer in own.layers:
            tokens = layer(tokens)
        expected = own.layernorm(tokens)
        found = [model.module(pixels) for _ in range(2)]
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)
    for name, value in own.state_dict().items():
        assert torch.equal(model.module.model.state_dict()[name], value)  # type: ignore[union-attr]


def test_siglip_2_gets_the_patches_of_its_own_preprocessing(tmp_path: Path) -> None:
    saved("Siglip2VisionConfig", tmp_path, **SMALL, num_patches=16, patch_size=4)
    model = attnviz.load_model(str(tmp_path))
    assert isinstance(model.module, Vision)
    pixels = torch.randn(2, 3, 12, 20)
    given = model.module.arguments(pixels)
    # As transformers.models.siglip2.image_processing_siglip2 says: (rows·columns, side·side·3).
    blocks = pixels.numpy().reshape(2, 3, 3, 4, 5, 4)
    expected = np.transpose(blocks, (0, 2, 4, 3, 5, 1)).reshape(2, 15, 48)
    np.testing.assert_array_equal(given["pixel_values"].numpy(), expected)
    assert given["spatial_shapes"].tolist() == [[3, 5], [3, 5]]
    assert given["pixel_attention_mask"].shape == (2, 15)


def test_the_image_encoder_of_two_is_taken(tmp_path: Path) -> None:
    text = {**SMALL, "vocab_size": 50, "max_position_embeddings": 8}
    for name in ("CLIPConfig", "SiglipConfig"):
        own = saved(name, tmp_path / name, vision_config=VIT, text_config=text)
        model = attnviz.load_model(str(tmp_path / name))
        pixels = torch.randn(1, 3, 48, 80)
        with torch.no_grad():
            expected = own.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
            assert torch.equal(state(model.module(pixels)), expected)


def test_the_pooling_head_of_siglip_runs(tmp_path: Path) -> None:
    saved("SiglipVisionConfig", tmp_path, **VIT)
    model = attnviz.load_model(str(tmp_path))
    ran: list[bool] = []
    head = model.module.model.head  # type: ignore[union-attr]
    head.register_forward_hook(lambda *_: ran.append(True))  # type: ignore[union-attr]
    model.module(torch.zeros(1, 3, 64, 64))
    assert ran == [True]


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("SegGptConfig", {**VIT}, "prompt_pixel_values and prompt_masks"),
        ("OneFormerConfig", {}, r"more than a picture \(task_inputs\)"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(
    name: str, settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    getattr(transformers, name)(**settings).save_pretrained(tmp_path)
    with pytest.raises(attnviz.AttnvizError, match=told):
        attnviz.load_model(str(tmp_path), random_weights=True)


def test_another_size_than_its_only_one_is_refused(tmp_path: Path) -> None:
    transformers.SamVisionConfig(**SAM).save_pretrained(tmp_path)
    with pytest.raises(attnviz.AttnvizError, match=r"--size 96: .* takes 64x64 pixels only"):
        attnviz.load_model(str(tmp_path), random_weights=True, size=96)


def test_preprocessing_inside_a_processor_is_found(tmp_path: Path) -> None:
    saved("ViTConfig", tmp_path, **VIT)
    (tmp_path / "processor_config.json").write_text(
        '{"image_processor": {"image_mean": [0.1, 0.2, 0.3], "size": {"shortest_edge": 48}}}'
    )
    model = attnviz.load_model(str(tmp_path))
    assert (model.mean, model.size) == ((0.1, 0.2, 0.3), 48)
