"""Nested tensors, strided and jagged: several sequences of their own lengths in one call."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import attnviz
from attnviz.recording import Recording

pytestmark = pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
Watch = Callable[..., tuple[Recording, Any]]
MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "gradients": torch.enable_grad,
}
LENGTHS = 6, 4
CENTRES = torch.tensor([[4.0 + 8 * x, 4.0 + 8 * y] for y in range(2) for x in range(3)])


def patches(picture: Tensor) -> list[Tensor]:
    """Two sequences of patches of 8 pixels, six and four of width 16."""
    torch.manual_seed(3)
    tokens = F.conv2d(picture, torch.randn(16, 3, 8, 8) / 20, stride=8).flatten(2).mT
    return [tokens[number, :length] for number, length in enumerate(LENGTHS)]


def projections() -> Tensor:
    torch.manual_seed(4)
    return torch.randn(3, 16, 16) / 3


def jagged(picture: Tensor) -> Tensor:
    """Two blocks of two heads, one after the other."""
    x: Any = torch.nested.as_nested_tensor(patches(picture), layout=torch.jagged)
    for _ in range(2):
        q, k, v = ((x @ w).unflatten(-1, (2, 8)).transpose(1, 2) for w in projections())
        output = F.scaled_dot_product_attention(q, k, v)
        x = x + output.transpose(1, 2).flatten(2)
    result: Tensor = x.values()
    return result


def strided(picture: Tensor) -> Tensor:
    """The same, projected before they are nested; one block."""
    parts = patches(picture)
    q, k, v = (
        torch.nested.as_nested_tensor([part @ w for part in parts])
        .reshape(2, -1, 2, 8)
        .transpose(1, 2)
        .contiguous()
        for w in projections()
    )
    return F.scaled_dot_product_attention(q, k, v)


def values(picture: Tensor) -> Tensor:
    return strided(picture).values()


def by_hand(picture: Tensor) -> Tensor:
    """The same without heads."""
    parts = patches(picture)
    q, k, v = (torch.nested.as_nested_tensor([x @ w for x in parts]) for w in projections())
    weights = (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1)
    result: Tensor = (weights @ v).values()
    return result


def expected(picture: Tensor, heads: int, blocks: int = 1) -> list[list[Tensor]]:
    """Weights (H, N, N) of each sequence, for each block."""
    found = []
    sequences = patches(picture)
    for _ in range(blocks):
        weights = []
        for number, x in enumerate(sequences):
            q, k, v = ((x @ w).unflatten(-1, (heads, -1)).transpose(0, 1) for w in projections())
            a = (q @ k.mT * 8**-0.5).softmax(-1)
            weights.append(a)
            sequences[number] = x + (a @ v).transpose(0, 1).flatten(1)
        found.append(weights)
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("model", "heads", "blocks"), [(jagged, 2, 2), (values, 2, 1)])
def test_nested_tensors_are_a_batch_with_masked_ends(
    model: Callable[[Tensor], Tensor], heads: int, blocks: int, mode: str, watch: Watch
) -> None:
    picture = torch.randn(2, 3, 16, 24)
    with MODES[mode]():
        recording, _ = watch(lambda: model(picture), picture=picture)
    assert recording.unread == []
    assert recording.operators == []
    assert len(recording) == blocks
    for call, weights in zip(recording, expected(picture, heads, blocks), strict=True):
        assert (call.check() or 0) < 1e-5
        assert call.query_positions is not None
        for number, (length, each) in enumerate(zip(LENGTHS, weights, strict=True)):
            found = call.matrix()[number]
            torch.testing.assert_close(found[:, :length, :length], each, atol=1e-6, rtol=0)
            assert found[:, length:].abs().sum() == found[:, :, length:].abs().sum() == 0
            torch.testing.assert_close(call.query_positions[number, :length], CENTRES[:length])
            assert bool(call.query_positions[number, length:].isnan().all())
        torch.testing.assert_close(call.key_positions, call.query_positions, equal_nan=True)


def test_attention_by_hand_over_nested_tensors_is_read_or_named(watch: Watch) -> None:
    picture = torch.randn(2, 3, 16, 24)
    with torch.no_grad():
        recording, _ = watch(lambda: by_hand(picture), picture=picture)
    assert len(recording) == 0  # the product was scaled, which is not followed
    assert recording.unread == ["_softmax of nested tensors"]

    def changed() -> Tensor:
        q = torch.nested.as_nested_tensor(patches(picture))
        result: Tensor = (((q @ q.transpose(-1, -2)).softmax(-1) * 2) @ q).values()
        return result

    with torch.no_grad():
        recording, _ = watch(changed, picture=picture)
    assert len(recording) == 0
    assert recording.unread == ["weights of nested tensors, changed by mul"]


def test_gradients_at_nested_outputs_are_those_of_autograd() -> None:
    picture = torch.randn(2, 3, 16, 24).requires_grad_()
    with attnviz.record(gradients=True) as recording:
        output = strided(picture)
        score = torch.stack([item.square().sum() for item in output.unbind()]).sum()
        torch.autograd.grad(score, picture, retain_graph=True)  # what runs there is no attention
    assert len(recording) == 1
    assert recording.unread == []
    found = recording.gradients(score)
    for number, item in enumerate(output.unbind()):
        length = item.shape[1]
        torch.testing.assert_close(found[0][number, :, :length], 2 * item.detach())
    call = replace(recording[0], gradient=found[0])
    assert call.weight_gradient([0]).shape == (2, 2, 1, 6)
