"""Attention of transformers' vision models, recorded and compared with their own eager attention.

Every family is built from a config with sizes that are no defaults, saved to a folder, loaded as
a user would, and shown a picture that is not square. The rows of the table in docs/models.md are
what is found here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import many
import pictures
import pytest
import torch
from softmaxes import Softmaxes, as_call, asked_again
from torch import Tensor

import attnviz
from attnviz.models.vision import Vision

transformers: Any = pytest.importorskip("transformers")
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 64}  # fmt: skip
VIT = {"image_size": 64, "patch_size": 16, **SMALL}
SWIN = {"image_size": 96, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
WIDTHS = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 2, 1]}
PYRAMID = (4, 8, 16, 16, 32)


@dataclass(frozen=True)
class Family:
    """A config, and what a model of it must be seen as: the stride of each layer, its prefix."""

    config: str
    settings: dict[str, Any]
    strides: tuple[int, ...]
    prefix: int = 0
    keys: tuple[int, ...] = ()
    pool: bool = False


def plain(config: str, prefix: int, *, patch: int = 16, pool: bool = False, **more: Any) -> Family:
    settings = {**VIT, "image_size": 4 * patch, "patch_size": patch, **more}
    return Family(config, settings, (patch,) * (3 + pool), prefix, pool=pool)


FAMILIES = {
    "ViT": plain("ViTConfig", 1, patch=8),
    "DeiT": plain("DeiTConfig", 2),
    "DINOv2": plain("Dinov2Config", 1, patch=14),
    "DINOv2 with registers": plain("Dinov2WithRegistersConfig", 6, patch=14, num_register_tokens=5),
    "DINOv3": plain("DINOv3ViTConfig", 4, num_register_tokens=3),
    "MAE": plain("ViTMAEConfig", 1),
    "MSN": plain("ViTMSNConfig", 1, patch=8),
    "I-JEPA": plain("IJepaConfig", 0),
    "BEiT": plain("BeitConfig", 1),
    "Data2Vec": plain("Data2VecVisionConfig", 1),
    "CLIP": plain("CLIPVisionConfig", 1),
    "Chinese CLIP": plain("ChineseCLIPVisionConfig", 1),
    "SigLIP": plain("SiglipVisionConfig", 0, pool=True),
    "SigLIP 2": Family(
        "Siglip2VisionConfig", {**SMALL, "num_patches": 16, "patch_size": 16}, (16,) * 4, pool=True
    ),
    "AIMv2": plain("Aimv2VisionConfig", 0, pool=True),
    "Pixio": plain("PixioConfig", 8),
    "RADIO": Family("RadioConfig", {**SMALL, "patch_size": 16}, (16,) * 3, 10),
    "DPT": plain("DPTConfig", 1, neck_hidden_sizes=[8, 8, 8], backbone_out_indices=[0, 1, 2]),
    "YOLOS (tokens behind the grid)": plain(
        "YolosConfig", 6, image_size=[64, 96], num_detection_tokens=5
    ),
    "ViTDet (windows)": plain(
        "VitDetConfig", 0, pretrain_image_size=64, window_size=3, window_block_indices=[0]
    ),
    "SAM (windows)": plain(
        "SamVisionConfig", 0, window_size=3, global_attn_indexes=[2], output_channels=16
    ),
    "Swin (windows)": Family("SwinConfig", SWIN, (4, 4, 8, 8)),
    "Swin v2 (windows)": Family("Swinv2Config", SWIN, (4, 4, 8, 8)),
    "Donut Swin (windows)": Family("DonutSwinConfig", SWIN, (4, 4, 8, 8)),
    "PVT (pyramid)": Family("PvtConfig", {"image_size": 64, **WIDTHS}, PYRAMID, 1, keys=(32,) * 5),
    "PVT v2 (pyramid)": Family(
        "PvtV2Config", {"image_size": 64, **WIDTHS}, PYRAMID, keys=(32,) * 5
    ),
    "SegFormer (pyramid)": Family("SegformerConfig", WIDTHS, PYRAMID, keys=(32,) * 5),
    "GLPN (pyramid)": Family("GLPNConfig", WIDTHS, PYRAMID, keys=(32,) * 5),
    "Hiera (windows, pyramid)": Family(
        "HieraConfig",
        {"image_size": [64, 64], "embed_dim": 24, "depths": [1, 1, 2, 1]},
        PYRAMID,
        keys=(4, 4, 8, 16, 16),
    ),
    "LeViT (pyramid)": Family(
        "LevitConfig",
        {"hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1]},
        (16, 32, 32, 64, 64),
        keys=(16, 16, 32, 32, 64),
    ),
    "CvT (pyramid)": Family(
        "CvtConfig",
        {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
        (4, 8, 8, 16, 16, 16),
        1,
        keys=(8, 16, 16, 32, 32, 32),
    ),
    "MobileViT (windows)": Family(
        "MobileViTConfig",
        {"hidden_sizes": [16, 16, 16], "image_size": 64},
        (8,) * 2 + (16,) * 4 + (32,) * 3,
    ),
}


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of the family, its parameters moved off their initial values."""
    family, path = FAMILIES[name], tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    config = getattr(transformers, family.config)(**family.settings)
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def seen(folder: Path) -> attnviz.Observation:
    pictures.noise(200, 120).save(folder / "noise.png")
    picture = attnviz.load_image(str(folder / "noise.png"))
    return attnviz.observe(picture, attnviz.load_model(str(folder)))


def test_weights_of_every_layer_equal_the_models_own(
    folder: Path, seen: attnviz.Observation
) -> None:
    oracle = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    if hasattr(oracle.config, "mask_ratio"):
        oracle.config.mask_ratio = 0.0
    assert isinstance(seen.model.module, Vision)
    arguments = seen.model.module.arguments(seen.model.pixels(seen.picture, seen.placement))
    with torch.no_grad(), Softmaxes() as own, asked_again(oracle) as pooled:
        told = oracle(output_attentions=True, **arguments)
    assert len(own.found) + len(pooled) == len(seen.layers) == seen.count
    for layer, expected in zip(seen.layers.values(), own.found + pooled, strict=True):
        weights = layer.call.matrix()
        torch.testing.assert_close(weights, as_call(expected, weights.shape), atol=1e-5, rtol=0)
    assert not seen.unexplained
    # What the library hands out, where it does (Swin: one a stage), is among them, in order.
    rest = iter(own.found)
    for weights in flat(getattr(told, "attentions", None)):
        assert any(torch.equal(w.flatten(), weights.flatten()) for w in rest)


def flat(attentions: Any) -> list[Tensor]:
    """Of lists of lists, as some pyramids give them."""
    if isinstance(attentions, Tensor):
        return [attentions]
    return [tensor for part in attentions or () for tensor in flat(part)]


def test_grid_and_prefix_are_the_models(name: str, seen: attnviz.Observation) -> None:
    family, grid = FAMILIES[name], seen.placement.grid
    width, height = grid.input_width, grid.input_height
    assert [layer.keys.columns for layer in seen.layers.values()] == [
        -(-width // stride) for stride in family.keys or family.strides
    ]
    found = [(layer.queries.rows, layer.queries.columns) for layer in seen.layers.values()]
    assert found == [(-(-height // stride), -(-width // stride)) for stride in family.strides]


def test_predictions_are_bit_identical_while_they_are_recorded(seen: attnviz.Observation) -> None:
    families.check_predictions(seen)


def test_several_pictures_at_once_are_seen_as_one_by_one(folder: Path) -> None:
    many.check(attnviz.load_model(str(folder)), folder, count=2)


def test_the_row_of_the_documentation_is_true(name: str, seen: attnviz.Observation) -> None:
    families.check_row("transformers", name, seen)
