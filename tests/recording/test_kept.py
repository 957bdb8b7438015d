"""What a recording keeps: the calls that are wanted, safe from the model, and nothing beside."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

import attnviz
from attnviz.attention import AttentionCall
from attnviz.errors import RecordingError
from attnviz.recording import Recording

Watch = Callable[..., tuple[Recording, Any]]


class Block(nn.Module):
    """A ViT's block, with q, k and v of one layer or of three, with a kernel or by hand."""

    def __init__(self, *, fused: bool, together: bool = False) -> None:
        super().__init__()
        self.qkv = nn.ModuleList([nn.Linear(16, 48)] if together else [nn.Linear(16, 16)] * 3)
        self.out, self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 64), nn.Linear(64, 16)
        self.fused = fused
        self.scores: list[StorageWeakRef] = []

    def forward(self, x: Tensor) -> Tensor:
        h = F.layer_norm(x, (16,))
        parts = torch.cat([layer(h) for layer in self.qkv], -1).chunk(3, -1)
        if len(self.qkv) == 3:
            parts = tuple(layer(h) for layer in self.qkv)
        q, k, v = (part.view(*x.shape[:2], 4, 4).transpose(1, 2) for part in parts)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = q @ k.mT * 0.5
            weights = scores.softmax(-1)
            y = weights @ v
            self.scores = [
                StorageWeakRef(t.untyped_storage())  # type: ignore[no-untyped-call]
                for t in (scores, weights)
            ]
        x = x + self.out(y.transpose(1, 2).flatten(2))
        result: Tensor = x + self.down(F.gelu(self.up(x)))
        return result


def vit(blocks: int = 4, **options: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block(**options) for _ in range(blocks))).eval()


def tensors(call: AttentionCall) -> list[Tensor]:
    found = (call.query, call.key, call.value, call.output, call.bias)
    return [tensor for tensor in found if tensor is not None]


def held(recording: Recording) -> int:
    """Bytes of all memory that calls look at, once each."""
    storages = [t.untyped_storage() for call in recording for t in tensors(call)]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_no_more_than_queries_keys_values_and_outputs_is_held(
    fused: bool, together: bool, mode: Callable[[], Any]
) -> None:
    model, x = vit(fused=fused, together=together), torch.randn(2, 9, 16)
    with mode(), attnviz.record() as recording:
        model(x)
    assert len(recording) == 4
    assert held(recording) <= 4 * 4 * 2 * 9 * 16 * 4  # calls · (q, k, v, out) · B · N · H·D · bytes


@pytest.mark.parametrize("picture", [True, False])
def test_scores_that_a_model_writes_out_are_not_kept_alive(picture: bool) -> None:
    model, x = vit(fused=False), torch.randn(2, 1, 9, 16)
    with torch.no_grad(), attnviz.record(picture=x if picture else None) as recording:
        model(x[:, 0])
    for block in model:
        assert isinstance(block, Block)
        assert len(block.scores) == 2
        assert all(scores.expired() for scores in block.scores)  # type: ignore[no-untyped-call]
    assert all(call.bias is None for call in recording)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("wanted", "kept"),
    [([-1], {3}), ([0, -2], {0, 2}), ([1, 2], {1, 2}), ([-9, 7], set()), ([], set())],
)
def test_only_the_calls_that_are_wanted_are_kept(
    wanted: list[int], kept: set[int], fused: bool
) -> None:
    model, x = vit(fused=fused), torch.randn(2, 9, 16)
    with torch.no_grad():
        with attnviz.record() as everything:
            model(x)
        with attnviz.record(calls=wanted) as recording:
            model(x)
    assert len(recording) == 4
    for number in range(4):
        if number in kept:
            assert torch.equal(recording[number].matrix(), everything[number].matrix())
            assert recording[number].heads == 4
        else:
            with pytest.raises(RecordingError, match=f"call {number} was not kept"):
                recording[number]


def test_of_calls_counted_from_the_end_no_more_than_that_are_held_while_the_model_runs() -> None:
    model, x, most = vit(8, fused=True), torch.randn(2, 9, 16), []
    with torch.no_grad(), attnviz.record(calls=[-2]) as recording:
        for block in model:
            x = block(x)
            most.append(sum(call is not None for call in recording._calls))
    assert max(most) == 2
    assert sum(call is not None for call in recording._calls) == 1


@pytest.mark.parametrize("fused", [True, False])
def test_calls_that_do_not_qualify_are_neither_counted_nor_kept(fused: bool) -> None:
    model, x = vit(fused=fused), torch.randn(2, 9, 16)
    with torch.no_grad(), attnviz.record(where=lambda call: call.shape[2] > 5) as recording:
        model(x[:, :4])
        model[0](x)
        model(x[:, :5])
    assert [call.shape for call in recording] == [(2, 4, 9, 9)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_calls_are_kept_where_they_are_wanted(device: str, fused: bool) -> None:
    model, picture = vit(fused=fused), torch.randn(2, 1, 9, 16)
    with torch.no_grad(), attnviz.record(device=device, picture=picture) as recording:
        model(picture[:, 0])
    for call in recording:
        assert {tensor.device.type for tensor in tensors(call)} == {device}
        assert call.query_positions is not None
        assert call.query_positions.device.type == device


def overwritten_behind(q: Tensor, k: Tensor, v: Tensor, how: str) -> Tensor:
    if how == "kernel":
        y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
    else:
        scores = q @ k.mT
        if how == "before the softmax":
            q.zero_()
            k.fill_(3.0)
        weights = scores.mul_(0.5).softmax(-1)
        if how == "before the values":
            q.normal_()
            k.t_() if k.ndim == 2 else k.clamp_(max=0.0)
        y = weights @ v
    result = y.transpose(1, 2).flatten(2).clone()
    for tensor in (q, k, v, y):
        tensor.mul_(0).add_(7)
    return result


HOW = ["kernel", "by hand", "before the softmax", "before the values"]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("how", HOW)
def test_what_a_model_overwrites_does_not_spoil_the_record(
    how: str, mode: Callable[[], Any]
) -> None:
    torch.manual_seed(0)
    with mode():
        given = torch.randn(3, 2, 4, 6, 8)
        q, k, v = given.clone().unbind()  # one storage, as of one layer
        with attnviz.record() as recording:
            overwritten_behind(q, k, v, how)
    (call,) = recording
    q, k, v = given.unbind()
    expected = (q @ k.mT * 0.5).softmax(-1)
    torch.testing.assert_close(call.matrix(), expected, atol=1e-6, rtol=0)
    assert call.output is not None
    torch.testing.assert_close(call.output, expected @ v, atol=1e-5, rtol=1e-5)
    assert (call.check() or 0) < 1e-5


def test_what_is_overwritten_through_a_view_or_a_list_is_copied_before() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 4, 6) for _ in range(3))
    expected = (q @ k.mT / 6**0.5).softmax(-1)
    with torch.no_grad(), attnviz.record() as recording:
        F.scaled_dot_product_attention(q, k, v)
        q[0, 1].zero_()
        torch._foreach_mul_([k, v], 2.0)
        torch.add(v, 1, out=v)
    torch.testing.assert_close(recording[0].matrix(), expected)
    assert (recording[0].check() or 0) < 1e-5


def test_a_bias_that_a_model_overwrites_is_kept_as_it_was() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 6, 8).unbind()
    bias = torch.randn(4, 6, 6)
    expected = (q @ k.mT + bias).softmax(-1)
    with torch.no_grad(), attnviz.record() as recording:
        scores = q @ k.mT + bias
        bias.zero_()
        scores.softmax(-1) @ v
        bias.fill_(1)
    torch.testing.assert_close(recording[0].matrix(), expected)
