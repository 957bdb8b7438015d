"""Vision models of transformers that `AutoModel` lacks, or whose sub-configs say what they take.

Each is made small, saved to a folder, loaded as a user would and compared with its own attention.
"""

import re
from pathlib import Path
from typing import Any

import pictures
import pytest
import torch
from families import check_predictions
from softmaxes import Softmaxes, as_call

import attnviz
from attnviz.models.auto_classes import find_class
from attnviz.models.configs import bytes_of_patch, multiple
from attnviz.models.vision import Vision

transformers: Any = pytest.importorskip("transformers")
SMALL = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
         "intermediate_size": 64}  # fmt: skip
VIT = {"image_size": 64, "patch_size": 16, **SMALL}
BACKBONE = {**VIT, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False}
HIDDEN = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8, "head_hidden_size": 8}


def depth_anything() -> Any:
    backbone = transformers.Dinov2Config(**BACKBONE)
    return transformers.DepthAnythingConfig(
        backbone_config=backbone, patch_size=16, reassemble_hidden_size=48, **HIDDEN
    )


def vit_pose() -> Any:
    backbone = transformers.VitPoseBackboneConfig(**SMALL, image_size=[64, 48], patch_size=[16, 16])
    return transformers.VitPoseConfig(backbone_config=backbone)


def eomt() -> Any:
    return transformers.EomtConfig(**VIT, num_blocks=1, num_queries=5, num_upscale_blocks=1)


def characters() -> Any:
    return transformers.MgpstrConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4)


def swin2sr() -> Any:
    return transformers.Swin2SRConfig(
        image_size=32, embed_dim=24, depths=[1, 2], num_heads=[2, 4], window_size=4
    )


def depth_pro() -> Any:
    """An encoder of 21 crops of pictures of three sizes, and one of the whole picture."""
    encoder = {"model_type": "dinov2", **SMALL, "image_size": 32, "patch_size": 8}
    encoders = {f"{name}_model_config": encoder for name in ("image", "patch", "fov")}
    return transformers.DepthProConfig(
        patch_size=32, **encoders, intermediate_hook_ids=[3, 1], fusion_hidden_size=8,
        intermediate_feature_dims=[8, 8], scaled_images_feature_dims=[8, 8, 8],
        merge_padding_value=0,
    )  # fmt: skip


def separable() -> Any:
    """Each pixel of 2×2 patches pools all patches apart, as MobileViTv2 does."""
    return transformers.MobileViTV2Config(
        image_size=64, width_multiplier=0.25, n_attn_blocks=[1, 1, 1],
        base_attn_unit_dims=[32, 32, 32],
    )  # fmt: skip


def latents() -> Any:
    """It takes pixels by name, after other kinds of input."""
    return transformers.PerceiverConfig(
        image_size=64, num_latents=8, d_latents=32, num_blocks=1, num_self_attends_per_block=2,
        num_self_attention_heads=4, num_cross_attention_heads=1, num_labels=3,
    )  # fmt: skip


MODELS = {"separable": separable, "latents": latents, "depth": depth_anything, "crops": depth_pro,
          "pose": vit_pose, "segmentation": eomt,
          "images": swin2sr, "characters": characters}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    config = MODELS[request.param]()
    model = find_class(transformers, "", config)._from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(path)
    return path


def test_it_attends_as_its_own_eager_attention(folder: Path) -> None:
    pictures.noise(200, 120).save(folder / "noise.png")
    model = attnviz.load_model(str(folder))
    seen = attnviz.observe(attnviz.load_image(str(folder / "noise.png")), model)
    assert isinstance(model.module, Vision)
    kind: Any = type(model.module.model)
    oracle = kind.from_pretrained(folder, attn_implementation="eager").eval()
    arguments = model.module.arguments(model.pixels(seen.picture, seen.placement))
    with torch.no_grad(), Softmaxes() as own:
        oracle(**arguments)
    assert not seen.unexplained
    recorded = {number: layer.call.matrix() for number, layer in seen.layers.items()}
    assert recorded
    assert len(own.found) >= seen.count  # MGP-STR then pools by softmaxes that have no queries
    for number, weights in recorded.items():
        expected = as_call(own.found[number], weights.shape)
        torch.testing.assert_close(weights, expected, atol=1e-5, rtol=0)
    check_predictions(seen)


def test_the_output_of_another_task_is_a_vector(folder: Path) -> None:
    model = attnviz.load_model(str(folder))
    side = model.size if model.fixed else 64
    shape = next(iter(model.other_shapes), model.own_shape) or (side, side)
    with torch.no_grad():
        output = model.module(torch.zeros(1, 3, *shape))
    output = output[0] if isinstance(output, tuple) else output
    assert isinstance(output, torch.Tensor)
    assert len(output) == 1


def test_the_memory_of_swin2sr_is_that_of_its_layers() -> None:
    """Its stages keep the number of tokens and the width: q, k, v and the output of each layer."""
    config = transformers.Swin2SRConfig()
    kept = 4 * sum(config.depths) * config.embed_dim * 4
    assert kept < bytes_of_patch(config) < 2 * kept


def test_grids_that_are_cut_into_windows_are_multiples_of_them() -> None:
    backbone = transformers.LwDetrConfig().backbone_config
    windows = int(backbone.num_windows**0.5)
    assert multiple(transformers.LwDetrConfig()) == backbone.patch_size * windows
    inner = transformers.RfDetrConfig().backbone_config
    assert multiple(transformers.RfDetrConfig()) == inner.patch_size * inner.num_windows


def test_a_stride_that_a_config_leaves_open_is_not_counted() -> None:
    """MaskFormer's decoder has the config of a backbone without `output_stride`."""
    decoder = transformers.DetrConfig()
    assert decoder.backbone_config.output_stride is None
    assert multiple(decoder) == 32


def refused(config: Any, folder: Path) -> str:
    config.save_pretrained(folder)
    pictures.noise(64, 48).save(folder / "noise.png")
    picture = attnviz.load_image(str(folder / "noise.png"))
    with pytest.raises(attnviz.AttnvizError) as error:
        attnviz.observe(picture, attnviz.load_model(str(folder), random_weights=True))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("ImageGPTConfig", {"n_layer": 1}, r"more than a picture \(.* input_ids of pixels\)"),
        ("ShieldGemma2Config", {}, r"more than a picture \(input_ids\)"),
        (
            "EfficientLoFTRConfig",
            {"stage_num_blocks": [1, 1, 1, 1], "num_attention_layers": 1},
            r"takes pairs of pictures, \(batch, 2, 3, .* torch.stack",
        ),
        ("HGNetV2Config", {}, "made no attention call: it is convolutional"),
        (
            "Dinov2Config",
            {**VIT, "image_size": [64, 32]},
            "pictures of 32x64, .* give a model whose image_size is square",
        ),
    ],
)
def test_what_does_not_work_says_why(
    name: str, settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    line = refused(getattr(transformers, name)(**settings), tmp_path)
    assert re.search(told, line), line


@pytest.mark.parametrize("shape", [(64, 32), (128, 32)])
def test_an_image_size_that_is_not_square_is_its_only_one(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    """64 positions of 16×4 patches would also fill a square."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(**{**VIT, "image_size": list(shape), "patch_size": 8})
    own = transformers.ViTModel(config).eval()
    own.save_pretrained(tmp_path)
    model = attnviz.load_model(str(tmp_path))
    assert model.own_shape == shape
    pictures.noise(64, 48).save(tmp_path / "noise.png")
    seen = attnviz.observe(attnviz.load_image(str(tmp_path / "noise.png")), model)
    pixels = model.pixels(seen.picture, seen.placement)
    assert tuple(pixels.shape[2:]) == shape
    with torch.no_grad():
        torch.testing.assert_close(model.module(pixels), own(pixels).last_hidden_state)
    assert not seen.unexplained


def test_of_a_model_that_writes_the_image_encoder_is_shown(tmp_path: Path) -> None:
    torch.manual_seed(0)
    decoder = transformers.TrOCRConfig(
        vocab_size=32, d_model=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**VIT), decoder
    )
    whole = transformers.VisionEncoderDecoderModel(config).eval()
    whole.save_pretrained(tmp_path)
    pictures.noise(96, 64).save(tmp_path / "noise.png")
    model = attnviz.load_model(str(tmp_path))
    seen = attnviz.observe(attnviz.load_image(str(tmp_path / "noise.png")), model)
    own = whole.encoder
    own.set_attn_implementation("eager")
    pixels = model.pixels(seen.picture, seen.placement)
    with torch.no_grad():
        output = own(pixels, interpolate_pos_encoding=True, output_attentions=True)
        torch.testing.assert_close(model.module(pixels), output.last_hidden_state)
    assert len(output.attentions) == len(seen.layers) == 4
    for number, weights in enumerate(output.attentions):
        found = seen.layers[number].call.matrix()
        torch.testing.assert_close(found, weights, atol=1e-5, rtol=0)


def test_the_class_of_a_checkpoint_of_which_a_part_without_attention_ran_is_named(
    tmp_path: Path,
) -> None:
    config = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic",
        architectures=["Detector"],
    )  # fmt: skip
    assert refused(config, tmp_path).endswith(" ran, without the rest of Detector)")


def test_a_fault_that_is_of_no_size_is_one_of_its_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(_: Any, pixel_values: torch.Tensor, **__: Any) -> None:
        raise TypeError(f"no thresholds for {tuple(pixel_values.shape)}")

    monkeypatch.setattr(transformers.ViTModel, "forward", forward)
    line = refused(transformers.ViTConfig(**VIT), tmp_path)
    assert re.search(r"its forward raised TypeError: no thresholds .*; correct its config", line)
