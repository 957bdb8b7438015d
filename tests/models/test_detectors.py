# mypy: disable-error-code="no-untyped-call,no-any-return"
"""Detectors, segmenters and models with words of transformers, built small: calls against eager.

A model run with `attn_implementation="eager"` and `output_attentions=True` returns its weights.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

import attnviz
from attnviz.recording import Recording

transformers = pytest.importorskip("transformers")

SIZES = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "num_queries": 5, "num_labels": 3, "use_pretrained_backbone": False,
}  # fmt: skip


def resnet(*stages: str) -> Any:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, out_features=list(stages)
    )


def detr(name: str, **more: Any) -> Any:
    config = getattr(transformers, f"{name}Config")(
        backbone_config=resnet("stage4"), use_timm_backbone=False, **SIZES, **more
    )
    return getattr(transformers, f"{name}ForObjectDetection")(config)


def deformable() -> Any:
    backbone = resnet("stage2", "stage3", "stage4")
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone, use_timm_backbone=False, num_feature_levels=3,
        disable_custom_kernels=True, **SIZES,
    )  # fmt: skip
    return transformers.DeformableDetrForObjectDetection(config)


def rt_detr(name: str, **more: Any) -> Any:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    sizes = {name: SIZES[name] for name in SIZES if name != "encoder_layers"}
    config = getattr(transformers, f"{name}Config")(
        backbone_config=backbone, encoder_hidden_dim=32, encoder_in_channels=[16, 24, 32],
        decoder_in_channels=[32, 32, 32], num_denoising=0, hidden_expansion=0.5, **sizes, **more,
    )  # fmt: skip
    return getattr(transformers, f"{name}ForObjectDetection")(config)


MODELS: dict[str, Callable[[], Any]] = {
    "DETR": lambda: detr("Detr"),
    "Conditional DETR": lambda: detr("ConditionalDetr"),
    "DAB-DETR": lambda: detr("DabDetr", hidden_size=32),
    "Deformable DETR": deformable,
    "RT-DETR": lambda: rt_detr("RTDetr"),
    "D-FINE": lambda: rt_detr("DFine", decoder_n_points=4),
}


def run(model: Any, **inputs: Any) -> tuple[Recording, Any]:
    model.eval().set_attn_implementation("eager")
    picture = inputs["pixel_values"]
    picture = picture if picture.ndim == 4 else None
    with torch.no_grad(), attnviz.record(picture=picture) as recording:
        output = model(**inputs, output_attentions=True)
    return recording, output


def laid(call: attnviz.AttentionCall, weights: Tensor) -> Tensor:
    """(B, H, N, M), or (B, N, H, levels, points) as a window for each query."""
    return weights if call.kind != "sampled" else weights.flatten(3).flatten(0, 1)[:, :, None]


def decoder(self_attention: Iterable[Tensor], cross: Iterable[Tensor]) -> list[Tensor]:
    return [each for pair in zip(self_attention, cross, strict=True) for each in pair]


@pytest.mark.parametrize("name", MODELS)
def test_every_call_of_a_detector_has_the_eager_weights(name: str) -> None:
    torch.manual_seed(0)
    recording, output = run(MODELS[name](), pixel_values=torch.randn(1, 3, 64, 96))
    pieces = decoder(output.decoder_attentions, output.cross_attentions)
    expected = [*output.encoder_attentions, *pieces]
    assert recording.unread == []
    assert len(recording) == len(expected)
    for call, weights in zip(recording, expected, strict=True):
        torch.testing.assert_close(call.matrix(), laid(call, weights), atol=1e-5, rtol=0)
        assert (call.check() or 0) < 1e-5


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("RT-DETR", "D-FINE")])
def test_object_queries_lie_nowhere(name: str) -> None:
    """Those of RT-DETR and D-FINE are tokens of their encoders, which they pick."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad(), attnviz.record(picture=(x := torch.randn(1, 3, 64, 96))) as recording:
        model(pixel_values=x)
    objects = [call for call in recording if call.query.shape[2] == 5 or len(call.query) == 5]
    assert len(objects) == 4
    for call in objects:
        places = call.query_positions
        assert places is None or bool(places.isnan().all())


def test_masked_attention_and_deformable_attention_of_mask2former_are_recorded() -> None:
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        image_size=64, embed_dim=12, depths=[1] * 4, num_heads=[1, 2, 3, 4], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=32, encoder_layers=2, decoder_layers=3, num_attention_heads=4,
        dim_feedforward=32, num_queries=5, use_pretrained_backbone=False,
    )  # fmt: skip
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    recording, output = run(model, pixel_values=torch.randn(1, 3, 64, 96))
    assert [call.kind for call in recording[:6]] == ["softmax"] * 4 + ["sampled"] * 2
    for call, weights in zip(recording[7::2], output.attentions, strict=True):
        torch.testing.assert_close(call.matrix(), weights, atol=1e-5, rtol=0)
        assert call.query_positions is not None
        assert bool(call.query_positions.isnan().all())
    assert max(call.check() or 0 for call in recording) < 1e-5
    assert recording.unread == []


WORDS = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip


def test_gemma_3_has_the_eager_weights() -> None:
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=WORDS | {"head_dim": 8, "sliding_window": 8}, vision_config=vision,
        mm_tokens_per_image=4, image_token_index=63, boi_token_index=61, eoi_token_index=62,
    )  # fmt: skip
    words = torch.tensor([[5, 61, 63, 63, 63, 63, 62, 7, 8, 9]])
    recording, output = run(
        transformers.Gemma3ForConditionalGeneration(config),
        pixel_values=torch.randn(1, 3, 32, 32),
        input_ids=words,
        token_type_ids=(words == 63).long(),
    )
    assert recording.unread == []
    found = recording[len(recording) - len(output.attentions) :]
    for call, weights in zip(found, output.attentions, strict=True):
        torch.testing.assert_close(call.matrix(), weights, atol=1e-5, rtol=0)
    assert max(call.check() or 0 for call in recording) < 1e-5


def test_mllama_has_the_eager_weights() -> None:
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_global_layers": 1, "attention_heads": 4, "image_size": 32, "patch_size": 8,
        "max_num_tiles": 1, "vision_output_dim": 64, "intermediate_layers_indices": [0],
        "supported_aspect_ratios": [[1, 1]],
    }  # fmt: skip
    text = WORDS | {"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default"}}
    config = transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=63)
    recording, output = run(
        transformers.MllamaForConditionalGeneration(config),
        pixel_values=torch.randn(1, 1, 1, 3, 32, 32),
        aspect_ratio_ids=torch.ones(1, 1, dtype=torch.long),
        aspect_ratio_mask=torch.ones(1, 1, 1, dtype=torch.long),
        input_ids=torch.tensor([[63, 5, 7, 8]]),
        cross_attention_mask=torch.ones(1, 4, 1, 1, dtype=torch.long),
    )
    assert recording.unread == []
    found = recording[len(recording) - len(output.attentions) :]
    for call, weights in zip(found, output.attentions, strict=True):
        torch.testing.assert_close(call.matrix(), weights, atol=1e-5, rtol=0)
    assert max(call.check() or 0 for call in recording) < 1e-5
