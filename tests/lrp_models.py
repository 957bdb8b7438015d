"""A small classifier for relevance, and how near numbers must be."""

from typing import Any

import pytest
import torch
from torch import Tensor

HEADS, FEATURES, LAYERS, CLASS = 4, 32, 3, 2


def close(found: Tensor, expected: Tensor, relative: float = 1e-9) -> None:
    scale = float(expected.abs().max())
    assert scale > 0
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=relative * scale)


def classifier(attention: str, act: str = "gelu") -> Any:
    """A small ViT of transformers in float64, off its initial values."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=FEATURES, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=48, patch_size=8, image_size=32, num_labels=4, hidden_act=act,
    )  # fmt: skip
    config._attn_implementation = attention
    model = transformers.ViTForImageClassification(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def pixels(kind: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 32, 32, dtype=kind).requires_grad_()
