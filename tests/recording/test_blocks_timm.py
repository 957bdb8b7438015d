"""Blocks of models of timm and torchvision."""

from typing import Any

import pytest
import torch
import torchvision_schemas

import attnviz
from attnviz.recording import run_tail

timm: Any = torchvision_schemas.import_or_skip("timm")
vision: Any = torchvision_schemas.import_or_skip("torchvision.models")


def of_timm() -> Any:
    make = timm.models.vision_transformer.VisionTransformer
    return make(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, init_values=0.1)


def of_torchvision() -> Any:
    return vision.VisionTransformer(32, 8, 3, 2, 24, 48)


@pytest.mark.parametrize(
    ("make", "stack"), [(of_timm, "blocks"), (of_torchvision, "encoder.layers")]
)
def test_a_model_ends_with_each_of_its_blocks(make: Any, stack: str) -> None:
    torch.manual_seed(0)
    model = make().eval().requires_grad_(False)
    pixels = torch.randn(2, 3, 32, 32, requires_grad=True)
    with attnviz.record(blocks=model, gradients=True) as recording:
        whole = model(pixels)
    blocks = model.get_submodule(stack)
    assert [block.module for block in recording.blocks.values()] == list(blocks)
    ended = [run_tail(model, pixels, recording.blocks, number) for number in range(3)]
    assert torch.equal(ended[2], whole)
    for number in (1, 0):
        del blocks[number + 1 :]
        assert torch.equal(ended[number], model(pixels))
        found = recording.gradients(ended[number].square().sum())
        assert list(found) == list(range(number + 1))
