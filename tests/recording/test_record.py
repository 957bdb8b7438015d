import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attnviz
from attnviz.attention import reference


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4)
        return x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@torch.no_grad()
def test_every_call_is_recorded_in_order_and_the_output_is_bit_identical() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Block(), Block(), Block()), torch.randn(2, 9, 16)
    expected = model(x)
    with attnviz.record() as recording:
        output = model(x)
    assert torch.equal(output, expected)
    assert len(recording) == 3
    assert len(recording[1:]) == 2
    for call in recording:
        assert call.shape == (2, 4, 9, 9)
        error = call.check()
        assert error is not None
        assert error < 1e-5
    qkv = model[0].qkv
    assert isinstance(qkv, nn.Linear)
    first = qkv(x)[..., :16].view(2, 9, 4, 4).transpose(1, 2)
    torch.testing.assert_close(recording[0].query, first)


def test_what_is_kept_is_detached_and_nothing_stays_watched() -> None:
    model, x = Block(), torch.randn(1, 3, 16)
    with attnviz.record() as recording:
        model(x).sum().backward()
    assert not recording[0].query.requires_grad
    model(x)
    with pytest.raises(RuntimeError), attnviz.record() as broken:
        model(x[:, :, :3])
    model(x)
    assert (len(recording), len(broken)) == (1, 0)


def test_recordings_nest_and_only_the_recording_thread_is_seen() -> None:
    model, x = Block(), torch.randn(1, 3, 16)
    with attnviz.record() as outer:
        model(x)
        with attnviz.record() as inner:
            model(x)
            other = threading.Thread(target=model, args=(x,))
            other.start()
            other.join()
    assert (len(outer), len(inner)) == (2, 1)


@pytest.mark.parametrize("bias", ["none", "added", "allowed", "causal"])
@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_arguments_of_every_shape_explain_the_output(bias: str, dimensions: int) -> None:
    torch.manual_seed(1)
    lead = {2: (), 3: (3,), 4: (2, 3)}[dimensions]
    q, k, v = torch.randn(*lead, 6, 8), torch.randn(*lead, 7, 8), torch.randn(*lead, 7, 5)
    mask = {"added": torch.randn(*lead, 6, 7), "allowed": torch.rand(*lead, 6, 7) < 0.6}.get(bias)
    with attnviz.record() as recording:
        F.scaled_dot_product_attention(q, k, v, mask, is_causal=bias == "causal", scale=0.3)
    call = recording[0]
    error = call.check()
    assert error is not None
    assert error < 1e-5
    given = [tensor[(None,) * (4 - tensor.ndim)].movedim(-3, 1) for tensor in (q, k)]
    if dimensions == 3:  # a batch without heads
        given = [tensor.unsqueeze(1) for tensor in (q, k)]
    expected = reference.attention_matrix(
        *given,
        scale=0.3,
        bias=mask if mask is None or dimensions != 3 else mask.unsqueeze(1),
        causal=bias == "causal",
    )
    torch.testing.assert_close(call.matrix().double(), expected, atol=1e-6, rtol=0)


def test_what_follows_from_a_call_equals_the_reference() -> None:
    torch.manual_seed(2)
    q, k, v = torch.randn(3, 2, 4, 11, 6).unbind()
    with attnviz.record() as recording:
        F.scaled_dot_product_attention(q, k, v)
    call = recording[0]
    a = reference.attention_matrix(call.query, call.key, scale=call.scale)
    weights = torch.rand(11)
    pairs = [
        (call.rows([0, 5, -1]), a[:, :, [0, 5, 10]]),
        (call.received(), a.mean(2)),
        (call.received(weights), reference.received(a, weights)),
        (call.entropy(), reference.row_entropy(a)),
        (call.matrix(), a),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


def test_rows_that_are_not_there_or_too_many_are_refused() -> None:
    q = torch.zeros(1, 8, 50176, 8)
    call = attnviz.AttentionCall(q, q, q, 1.0)
    assert call.rows([]).shape == (1, 8, 0, 50176)
    for query in (50176, -50177):
        with pytest.raises(attnviz.AttnvizError, match="numbered 0 to 50175"):
            call.rows([query])
    with pytest.raises(attnviz.AttnvizError, match="over the limit"):
        call.rows(range(50176))


@pytest.mark.parametrize("bias", [False, True])
def test_calls_of_five_dimensions_are_batches(bias: bool) -> None:
    q, k, v = torch.randn(3, 2, 3, 4, 5, 6).unbind()
    mask = torch.randn(2, 3, 1, 5, 5) if bias else None
    with attnviz.record() as recording:
        F.scaled_dot_product_attention(q, k, v, mask)
    call = recording[0]
    assert call.shape == (6, 4, 5, 5)
    error = call.check()
    assert error is not None
    assert error < 1e-5


def test_a_matrix_over_the_limit_is_refused_with_the_numbers() -> None:
    q = torch.zeros(1, 8, 50176, 8)
    call = attnviz.AttentionCall(q, q, q, 1.0)
    with pytest.raises(attnviz.AttnvizError, match=r"50176x50176 weights take 80\.6 GB"):
        call.matrix()
    with pytest.raises(attnviz.AttnvizError, match=r"limit of 0\.0 GB"):
        attnviz.AttentionCall(q[:, :, :9], q[:, :, :9], q[:, :, :9], 1.0).matrix(limit=100)
