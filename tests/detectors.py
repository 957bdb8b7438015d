# mypy: disable-error-code="no-untyped-call,no-any-return"
"""Small detectors and segmenters of transformers, saved with the image processors of their kind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

LABELS = {0: "cat", 1: "dog", 2: "blue mug"}
OBJECTS = 5
SIZES = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "num_queries": OBJECTS, "id2label": LABELS, "use_pretrained_backbone": False,
}  # fmt: skip
SIDES = {"shortest_edge": 96, "longest_edge": 192}


def resnet(transformers: Any, *stages: str) -> Any:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, out_features=list(stages)
    )


def detr(transformers: Any, name: str, **more: Any) -> Any:
    config = getattr(transformers, f"{name}Config")(
        backbone_config=resnet(transformers, "stage4"), use_timm_backbone=False, **SIZES | more
    )
    return getattr(transformers, f"{name}ForObjectDetection")(config)


def deformable(transformers: Any, **more: Any) -> Any:
    backbone = resnet(transformers, "stage2", "stage3", "stage4")
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone, use_timm_backbone=False, num_feature_levels=3,
        disable_custom_kernels=True, **SIZES, **more,
    )  # fmt: skip
    return transformers.DeformableDetrForObjectDetection(config)


def rt_detr(transformers: Any, name: str, **more: Any) -> Any:
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


def swin(transformers: Any) -> Any:
    return transformers.SwinConfig(
        image_size=64, embed_dim=12, depths=[1] * 4, num_heads=[1, 2, 3, 4], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def yolos(transformers: Any) -> Any:
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        image_size=[64, 96], patch_size=16, num_detection_tokens=OBJECTS, id2label=LABELS,
    )  # fmt: skip
    return transformers.YolosForObjectDetection(config)


def maskformer(transformers: Any) -> Any:
    decoder = transformers.DetrConfig(
        **{k: v for k, v in SIZES.items() if k not in ("id2label", "use_pretrained_backbone")},
        use_timm_backbone=False, backbone_config=resnet(transformers, "stage4"),
    )  # fmt: skip
    backbone = resnet(transformers, "stage1", "stage2", "stage3", "stage4")
    config = transformers.MaskFormerConfig(
        backbone_config=backbone, decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32,
        id2label=LABELS,
    )  # fmt: skip
    return transformers.MaskFormerForInstanceSegmentation(config)


def mask2former(transformers: Any) -> Any:
    config = transformers.Mask2FormerConfig(
        backbone_config=swin(transformers), feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=32, encoder_layers=2, decoder_layers=3, num_attention_heads=4,
        dim_feedforward=32, num_queries=OBJECTS, use_pretrained_backbone=False, id2label=LABELS,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config)


def eomt(transformers: Any) -> Any:
    config = transformers.EomtConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48,
        image_size=96, patch_size=16, num_queries=OBJECTS, num_blocks=2, num_register_tokens=2,
        num_upscale_blocks=1, id2label=LABELS,
    )  # fmt: skip
    return transformers.EomtForUniversalSegmentation(config)


@dataclass(frozen=True)
class Family:
    """A model, and the image processor of its kind with its settings."""

    build: Callable[[Any], Any]
    processor: str
    settings: dict[str, Any]


FAMILIES: dict[str, Family] = {
    "DETR": Family(lambda t: detr(t, "Detr"), "Detr", {"size": SIDES}),
    "Conditional DETR": Family(
        lambda t: detr(t, "ConditionalDetr"), "ConditionalDetr", {"size": SIDES}
    ),
    "DAB-DETR": Family(
        lambda t: detr(t, "DabDetr", hidden_size=32), "ConditionalDetr", {"size": SIDES}
    ),
    "Deformable DETR": Family(deformable, "DeformableDetr", {"size": SIDES}),
    "RT-DETR": Family(
        lambda t: rt_detr(t, "RTDetr"), "RTDetr", {"size": {"height": 96, "width": 96}}
    ),
    "D-FINE": Family(
        lambda t: rt_detr(t, "DFine", decoder_n_points=4),
        "RTDetr",
        {"size": {"height": 96, "width": 96}},
    ),
    "YOLOS": Family(yolos, "Yolos", {"size": SIDES}),
    "MaskFormer": Family(maskformer, "MaskFormer", {"size": SIDES, "size_divisor": 32}),
    "Mask2Former": Family(mask2former, "Mask2Former", {"size": SIDES, "size_divisor": 32}),
    "EoMT": Family(eomt, "Eomt", {"size": {"shortest_edge": 96, "longest_edge": 96}}),
}


def save(transformers: Any, name: str, folder: Path) -> Any:
    """A model with scores that differ, and its processor, in a folder; returns the model."""
    torch.manual_seed(0)
    family = FAMILIES[name]
    model = family.build(transformers).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if ("quer" in path and "embed" in path) or "detection_tokens" in path:
                parameter.mul_(3)
            if "class" in path and "weight" in path:
                parameter.mul_(3)
    model.save_pretrained(folder)
    processor = getattr(transformers, f"{family.processor}ImageProcessorPil")
    processor(**family.settings).save_pretrained(folder)
    return model
