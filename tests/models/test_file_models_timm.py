"""Files of timm, torchvision and vit-pytorch alone: logits and attention are the library's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision_schemas
from softmaxes import Softmaxes, as_call
from torch import nn

import attnviz
from attnviz.errors import AttnvizError
from attnviz.geometry.grid import sides

timm: Any = torchvision_schemas.import_or_skip("timm")
MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {},
    "deit_small_distilled_patch16_224": {},
    "deit3_small_patch16_224": {},
    "vit_small_patch14_dinov2": {"img_size": 98},
    "vit_small_patch14_reg4_dinov2": {"img_size": 98},
    "vit_giant_patch14_dinov2": {"img_size": 98, "embed_dim": 384, "num_heads": 6},
    "vit_base_patch32_clip_224": {},
    "vit_base_patch32_clip_quickgelu_224": {},
    "vit_small_patch16_224": {"global_pool": "avg"},  # as MAE is fine-tuned
    "vit_base_patch16_gap_224": {"num_heads": 12},
}


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def made(name: str, **settings: Any) -> Any:
    return randomised(timm.create_model(name, depth=2, dynamic_img_size=True, **settings))


def saved(model: nn.Module, folder: Path) -> str:
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "best.pth.tar")
    return str(folder / "best.pth.tar")


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_attention_are_timms(name: str, tmp_path: Path) -> None:
    timm.layers.set_fused_attn(False)
    try:
        own = made(name, **MODELS[name])
    finally:
        timm.layers.set_fused_attn(True)
    settings = {"act": "quick_gelu"} if "quickgelu" in name else {}
    model = attnviz.load_model(saved(own, tmp_path), settings=settings)
    assert model.prefix == own.num_prefix_tokens
    patch, _ = sides(model.patch)
    for rows, columns in ((model.size // patch,) * 2, (4, 6)):
        pixels = torch.randn(1, 3, rows * patch, columns * patch)
        with torch.no_grad():
            with Softmaxes() as weights:
                expected = own(pixels) if model.head == "class" else own.forward_features(pixels)
            with attnviz.record() as recording:
                found = model.module(pixels)
        assert torch.allclose(found, expected, atol=1e-5, rtol=0)
        assert len(recording) == len(weights.found) == 2
        for call, oracle in zip(recording, weights.found, strict=True):
            matrix = call.matrix()
            assert torch.allclose(matrix, as_call(oracle, matrix.shape), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("beit_base_patch16_224", "BEiT.*-m timm:beit_base_patch16_224 --weights"),
        ("swin_tiny_patch4_window7_224", "Swin.*-m timm:swin_tiny_patch4_window7_224 --weights"),
        ("vit_base_patch16_siglip_224", "SigLIP.*-m timm:vit_base_patch16_siglip_224"),
        ("vit_base_patch16_rpn_224", r"norms may stand behind its layers, as in timm's vit_\*_rpn"),
        ("vit_base_patch16_xp_224", "mlp_bias has no place"),
        ("vit_small_patch16_18x2_224", "attns.* has no place"),
        ("vit_relpos_small_patch16_224", "has no table of positions"),
        ("eva02_tiny_patch14_224", "not a plain vision transformer"),
        ("resnet18", "convolutional, not a plain"),
    ],
)
def test_others_are_refused_by_name(name: str, words: str, tmp_path: Path) -> None:
    shallow = {} if name.startswith(("swin", "resnet")) else {"depth": 1}
    path = saved(timm.create_model(name, **shallow), tmp_path)
    with pytest.raises(AttnvizError, match=words):
        attnviz.load_model(path)


def test_a_pretraining_file_of_mae_is_its_encoder(tmp_path: Path) -> None:
    own = made("vit_small_patch16_224", num_classes=0)
    decoder = {
        "mask_token": torch.ones(1, 1, 512),
        "decoder_embed.weight": torch.ones(512, 384),
        "decoder_blocks.0.attn.qkv.weight": torch.ones(1536, 512),
        "decoder_pos_embed": torch.ones(1, 197, 512),
    }
    torch.save({"model": {**own.state_dict(), **decoder}}, tmp_path / "mae.pth")
    model = attnviz.load_model(str(tmp_path / "mae.pth"))
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(model.module(pixels), own.forward_features(pixels), atol=1e-5, rtol=0)
    assert any("not used: mask_token, decoder_embed.weight" in note for note in model.notes)


def test_a_file_of_dino_is_its_teacher(tmp_path: Path) -> None:
    own = made("vit_tiny_patch16_224", num_classes=0)
    half = {f"backbone.{name}": tensor for name, tensor in own.state_dict().items()}
    heads = {"head.mlp.0.weight": torch.ones(3, 192), "head.last_layer.weight_g": torch.ones(3, 1)}
    teacher = {**half, **heads}
    student = {f"module.{name}": tensor * 2 for name, tensor in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 3}, tmp_path / "dino.pth")
    model = attnviz.load_model(str(tmp_path / "dino.pth"))
    assert any("read 'teacher'" in note for note in model.notes)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(model.module(pixels), own.forward_features(pixels), atol=1e-5, rtol=0)


def test_a_file_of_torchvision(tmp_path: Path) -> None:
    models: Any = torchvision_schemas.import_or_skip("torchvision.models")
    own = randomised(
        models.VisionTransformer(
            image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=128, mlp_dim=96,
            num_classes=5,
        )
    )  # fmt: skip
    model = attnviz.load_model(saved(own, tmp_path))
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model.module(pixels), own(pixels), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_file_of_vit_pytorch(pool: str, tmp_path: Path) -> None:
    vit = pytest.importorskip("vit_pytorch")
    own = randomised(
        vit.ViT(
            image_size=64, patch_size=16, num_classes=5, dim=96, depth=2, heads=3, mlp_dim=64,
            pool=pool,
        )
    )  # fmt: skip
    model = attnviz.load_model(saved(own, tmp_path))
    assert (model.heads, model.features, model.prefix) == (3, 96, int(pool == "cls"))
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model.module(pixels), own(pixels), atol=1e-5, rtol=0)


def test_weights_beside_the_name_of_a_model_of_timm(tmp_path: Path) -> None:
    """The forms that differ from the plain one: prefixes, another head, another grid."""
    own = made("vit_tiny_patch16_224", num_classes=7, img_size=96)
    path = str(tmp_path / "x.ckpt")
    torch.save({"state_dict": {f"model.{n}": t for n, t in own.state_dict().items()}}, path)
    full = timm.create_model
    timm.create_model = lambda name, **settings: full(name, depth=2, **settings)
    try:
        model = attnviz.load_model("timm:vit_tiny_patch16_224", weights=path)
    finally:
        timm.create_model = full
    assert (model.head, model.loaded) == ("none", 1.0)
    assert any("6x6 patches are interpolated to 14x14" in note for note in model.notes)
    assert any("no class head" in note for note in model.notes)
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = own.forward_head(own.forward_features(pixels), pre_logits=True)
        assert torch.allclose(model.module(pixels), expected, atol=1e-5, rtol=0)
