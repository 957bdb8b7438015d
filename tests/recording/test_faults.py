"""Models that were recorded wrongly once: each a kind with its test."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from attnviz.recording import Recording

Watch = Callable[..., tuple[Recording, Any]]
B, GROUPS, SHARED, N, D = 2, 2, 3, 7, 4


def test_packed_grouped_queries_are_heads(watch: Watch) -> None:
    """transformers packs the heads of a group as queries, where there is one query."""
    q, k, v = (torch.randn(B, h, n, D) for h, n in ((6, 1), (GROUPS, N), (GROUPS, N)))
    mask = torch.zeros(B, 1, 1, N).masked_fill(torch.arange(N) > 4, -torch.inf)
    project = torch.randn(24, 5)

    def run() -> Tensor:
        packed = q.reshape(B, GROUPS, SHARED, D)
        output = F.scaled_dot_product_attention(packed, k, v, attn_mask=mask)
        output = output.reshape(B, GROUPS * SHARED, 1, D)
        return output.transpose(1, 2).contiguous().reshape(B, 1, -1) @ project

    recording, _ = watch(run)
    (call,) = recording
    shared = k.repeat_interleave(SHARED, 1)
    expected = (q @ shared.mT / D**0.5 + mask).softmax(-1)
    assert call.shape == (B, GROUPS * SHARED, 1, N)
    torch.testing.assert_close(call.matrix(), expected, atol=1e-6, rtol=0)
    assert (call.check() or 0) < 1e-5
    assert call.projection is not None
    assert call.projection.shape == (6, D, 5)


def attend(x: Tensor) -> Tensor:
    """Three heads of four features, by hand, (B, N, 12) → (B, N, 12)."""
    q = x.reshape(*x.shape[:2], 3, 4).transpose(1, 2)
    output: Tensor = (q @ q.mT).softmax(-1) @ q
    return output.transpose(1, 2).flatten(2)


def patches(picture: Tensor) -> Tensor:
    torch.manual_seed(1)
    return F.conv2d(picture, torch.randn(12, 3, 8, 8), stride=8).flatten(2).mT


CENTRES = torch.tensor([[4.0 + 8 * x, 4.0 + 8 * y] for y in range(2) for x in range(3)])


def test_writes_into_views_move_places(watch: Watch) -> None:
    picture = torch.randn(1, 3, 16, 24)

    def run() -> Tensor:
        buffer = torch.zeros(1, 7, 12)
        buffer[:, 1:] = patches(picture)
        buffer[:, 0] = 1.0
        buffer[:, 1:].mul_(2.0)
        return attend(buffer)

    (call,), _ = watch(run, picture=picture)
    assert call.key_positions is not None
    assert bool(call.key_positions[0, 0].isnan().all())
    torch.testing.assert_close(call.key_positions[0, 1:], CENTRES)


def test_a_block_that_is_called_again_is_a_call_each_time(watch: Watch) -> None:
    picture = torch.randn(1, 3, 16, 24)

    def run() -> Tensor:
        x = patches(picture)
        for _ in range(3):
            x = x + attend(F.layer_norm(x, (12,)))
        return x

    recording, _ = watch(run, picture=picture)
    assert len(recording) == 3
    for call in recording:
        assert call.key_positions is not None
        torch.testing.assert_close(call.key_positions[0], CENTRES)
        assert (call.check() or 0) < 1e-5


def test_object_queries_lie_nowhere_behind_a_fused_kernel(watch: Watch) -> None:
    picture, objects = torch.randn(1, 3, 16, 24), torch.randn(1, 4, 12)

    def run() -> Tensor:
        keys = patches(picture).view(1, 6, 3, 4).transpose(1, 2)
        x = objects
        for _ in range(2):
            q = x.view(1, 4, 3, 4).transpose(1, 2)
            x = F.scaled_dot_product_attention(q, keys, keys).transpose(1, 2).flatten(2)
        return x

    recording, _ = watch(run, picture=picture)
    assert recording.operators == []
    first, second = recording
    assert first.query_positions is None
    assert second.query_positions is not None
    assert bool(second.query_positions.isnan().all())


@pytest.mark.parametrize("bias", [True, False])
def test_the_last_layer_of_a_pool_may_have_no_bias(bias: bool, watch: Watch) -> None:
    picture = torch.randn(1, 3, 16, 24)
    layer = torch.nn.Linear(12, 1, bias=bias)

    def run() -> tuple[Tensor, Tensor]:
        x = patches(picture)[0]
        weights = layer(x.tanh()).T.softmax(1)
        return weights @ x, weights

    (call,), (_, weights) = watch(run, picture=picture)
    assert call.kind == "pooling"
    torch.testing.assert_close(call.matrix()[0, 0], weights, atol=1e-6, rtol=0)
    assert call.key_positions is not None
    torch.testing.assert_close(call.key_positions[0], CENTRES)


def test_weights_over_a_memory_are_named(watch: Watch) -> None:
    picture, memory = torch.randn(1, 3, 16, 24), torch.randn(5, 12)
    layer = torch.nn.Linear(12, 5)
    recording, _ = watch(lambda: layer(patches(picture)[0]).softmax(-1) @ memory, picture=picture)
    assert len(recording) == 0
    assert recording.unread == ["weights over a memory that is no part of the picture"]


def test_external_attention_is_named(watch: Watch) -> None:
    """Guo et al. (2105.02358): keys and values are parameters; a softmax over tokens between."""
    picture = torch.randn(2, 3, 16, 24)
    keys, values = torch.nn.Linear(12, 5, bias=False), torch.nn.Linear(5, 12, bias=False)

    def run() -> Tensor:
        weights = keys(patches(picture)).softmax(1)
        output: Tensor = values(weights / (1e-9 + weights.sum(2, keepdim=True)))
        return output

    recording, _ = watch(run, picture=picture)
    assert len(recording) == 0
    assert recording.unread == ["weights over a memory that is no part of the picture"]


def test_gates_of_channels_and_branches_are_no_attention(watch: Watch) -> None:
    picture = torch.randn(1, 3, 16, 24)
    layer = torch.nn.Linear(12, 24)

    def run() -> Tensor:
        x = patches(picture).mT.reshape(1, 12, 2, 3)
        gates: Tensor = layer(x.mean((2, 3)))
        x = x * gates[:, :12].sigmoid()[:, :, None, None]  # squeeze and excite
        branches = torch.stack([x, x.relu()], 1)
        mixed = (branches * gates.view(1, 2, 12).softmax(1)[..., None, None]).sum(1)
        result: Tensor = F.glu(mixed, 1).flatten(2) @ mixed.flatten(2).mT
        return result

    recording, _ = watch(run, picture=picture)
    assert len(recording) == 0
    assert recording.unread == []
