"""Gradients of a score at outputs and weights of recorded calls, and where they cannot be had."""

import gc
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from eager import Eager, attend
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import attnviz
from attnviz.attention import AttentionCall
from attnviz.attribution.call_gradients import Trace
from attnviz.errors import RecordingError, UsageError
from attnviz.recording import Recording

transformers: Any = pytest.importorskip("transformers")
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 64, "image_size": 32, "patch_size": 8}  # fmt: skip
SWIN = {"image_size": 32, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "ViTConfig": SMALL,
    "Dinov2WithRegistersConfig": SMALL | {"num_register_tokens": 3},
    "SiglipVisionConfig": SMALL,
    "CLIPVisionConfig": SMALL,
    "BeitConfig": SMALL | {"use_relative_position_bias": True},
    "SwinConfig": SWIN,
}
Run = Callable[[], Tensor]


def built(config: str, attention: str) -> nn.Module:
    """A model of transformers, frozen, off its initial values."""
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**FAMILIES[config])
    settings._attn_implementation = attention
    model: nn.Module = transformers.AutoModel.from_config(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def score(result: Tensor, number: int = 0) -> Tensor:
    """One of several numbers of a result, not linear in it."""
    torch.manual_seed(number)
    return (result.square() * torch.randn(result.shape, dtype=result.dtype)).sum()


def assert_same(found: Tensor, wanted: Tensor) -> None:
    """To 1e-5 of the largest number, or 1e-9 in float64."""
    scale = wanted.abs().max()
    atol = 1e-9 if found.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found / scale, wanted.to(found.dtype) / scale, rtol=0, atol=atol)


def check(call: AttentionCall, gradient: Tensor, outputs: Tensor, weights: Tensor) -> None:
    """A gradient is the one that autograd gives the outputs, and its rows those of the weights."""
    assert call.output is not None
    assert_same(gradient, outputs.reshape(call.output.shape))
    rows = [0, -1, call.shape[2] // 2]
    found = replace(call, gradient=gradient).weight_gradient(rows)
    assert_same(found, weights.reshape(call.shape)[:, :, rows])


def check_all(recording: Recording, result: Tensor, eager: Eager, expected: Tensor) -> None:
    """All calls, for two scores one after the other."""
    assert_same(result, expected)
    assert len(eager.outputs) == len(eager.weights) == len(recording)
    for number in range(2):
        found = recording.gradients(score(result, number))
        assert list(found) == list(range(len(recording)))
        wanted = torch.autograd.grad(
            score(expected, number), [*eager.outputs, *eager.weights], retain_graph=True
        )
        for i, call in enumerate(recording):
            assert not found[i].requires_grad
            check(call, found[i], wanted[i], wanted[i + len(recording)])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("config", FAMILIES)
def test_gradients_are_those_of_the_models_own_eager_attention(
    config: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, oracle, eager = built(config, attention), built(config, "eager"), Eager()
    pixels = torch.randn(2, 3, 32, 32, requires_grad=True)
    for part in oracle.modules():
        if isinstance(part, nn.MultiheadAttention):
            monkeypatch.setattr(part, "forward", lambda *qkv, p=part: (attend(p, *qkv),))
    with eager:
        expected = oracle(pixels)
    with attnviz.record(gradients=True) as recording:
        result = model(pixels)
    name = "pooler_output" if config == "SiglipVisionConfig" else "last_hidden_state"
    check_all(recording, result[name], eager, expected[name])


def test_gradients_of_the_embedded_model_are_those_of_its_attention_written_out() -> None:
    module = attnviz.load_model().module
    pixels = torch.randn(2, 3, 48, 64, requires_grad=True)
    with attnviz.record(gradients=True) as recording:
        result = module(pixels)
    eager = Eager()
    for block in module.blocks:  # type: ignore[union-attr]
        block.forward = lambda x, mask, f=block.forward: f(x, mask, need_weights=True)
    with eager:
        expected = module(pixels)
    check_all(recording, result, eager, expected)


@pytest.mark.parametrize("need", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_gradients_of_multihead_attention(need: bool, batch_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first).double().eval()
    x, y = torch.randn(3, 5, 8).double().requires_grad_(), torch.randn(3, 7, 8).double()
    given = [x, y, y] if batch_first else [t.transpose(0, 1) for t in (x, y, y)]
    with attnviz.record(gradients=True) as recording:
        result, _ = layer(*given, need_weights=need)
    result = result if batch_first else result.transpose(0, 1)
    eager = Eager()
    with eager:
        expected = attend(layer, x, y, y)
    check_all(recording, result, eager, expected)


@pytest.mark.parametrize("norm_first", [True, False])
def test_gradients_of_an_encoder_layer(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=norm_first)
    layer = layer.double().eval().requires_grad_(False)
    x, eager = torch.randn(3, 5, 8).double().requires_grad_(), Eager()
    with attnviz.record(gradients=True) as recording:
        result = layer(x)
    with eager:
        if norm_first:
            z = layer.norm1(x)
            z = x + attend(layer.self_attn, z, z, z)
            expected = z + layer.linear2(F.relu(layer.linear1(layer.norm2(z))))
        else:
            z = layer.norm1(x + attend(layer.self_attn, x, x, x))
            expected = layer.norm2(z + layer.linear2(F.relu(layer.linear1(z))))
    check_all(recording, result, eager, expected)


B, H, N, D = 2, 3, 5, 4


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2)


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.mT * 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)


def turned(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = v.mT @ (k @ q.mT * 0.5).softmax(-2)  # (B, H, D, N)
    return out.flatten(1, 2).mT


def heads_in_the_batch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    out = torch.bmm((torch.bmm(q, k.mT) * 0.5).softmax(-1), v)
    return out.view(B, H, N, D).transpose(1, 2).reshape(B, N, H * D)


def tokens_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(N, B·H, D), as in nn.MultiheadAttention of old."""
    q, k, v = (t.permute(2, 0, 1, 3).reshape(N, B * H, D) for t in (q, k, v))
    weights = torch.einsum("nbd,mbd->bnm", q, k).mul(0.5).softmax(-1)
    out = torch.einsum("bnm,mbd->nbd", weights, v).reshape(N, B, H * D)
    return out.transpose(0, 1)


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (torch.einsum("bhid,bhjd->bhij", q, k) * 0.5).softmax(-1)
    return torch.einsum("bhij,bhjd->bihd", weights, v).flatten(2)


def changed_in_place(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return by_hand(q, k, v).mul_(2).add_(1)


def checkpointed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    result: Tensor = checkpoint(fused, q, k, v, use_reentrant=False)
    return result


WAYS = (
    *(fused, by_hand, turned, heads_in_the_batch, tokens_first, by_einsum),
    *(changed_in_place, checkpointed),
)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_attention_in_every_layout(way: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, B, H, N, D, dtype=torch.float64).requires_grad_().unbind()
    with attnviz.record(gradients=True) as recording:
        result = way(q, k, v)
    eager = Eager()
    with eager:
        expected = changed_in_place(q, k, v) if way is changed_in_place else by_hand(q, k, v)
    check_all(recording, result, eager, expected)


@pytest.mark.parametrize("needing", [{0}, {1}, {2}])
@pytest.mark.parametrize("way", [fused, by_hand])
def test_it_is_enough_that_one_of_queries_keys_and_values_requires_gradients(
    way: Callable[..., Tensor], needing: set[int]
) -> None:
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(B, H, N, D, dtype=torch.float64).requires_grad_(i in needing) for i in range(3)
    )
    with attnviz.record(gradients=True) as recording:
        result = way(q, k, v)
    weights = (q @ k.mT * 0.5).softmax(-1)
    outputs = (weights @ v).detach().requires_grad_()
    wanted = torch.autograd.grad(score(outputs.transpose(1, 2).flatten(2)), outputs)
    found = recording.gradients(score(result))
    torch.testing.assert_close(found[0], wanted[0])


def test_queries_that_share_keys_have_gradients_of_their_own() -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 4, 5, 8, dtype=torch.float64).requires_grad_()
    k, v = torch.randn(2, 2, 2, 6, 8, dtype=torch.float64).unbind()
    call = AttentionCall(q.detach(), k, v, 0.3)
    weights = (q @ k.repeat_interleave(2, 1).mT * 0.3).softmax(-1)
    outputs = weights @ v.repeat_interleave(2, 1)
    dout, da = torch.autograd.grad(score(outputs), [outputs, weights])
    found = replace(call, gradient=dout).weight_gradient(range(-5, 0))
    torch.testing.assert_close(found, da.float())


def test_weights_of_heads_that_are_mixed_have_gradients_before_the_mixing() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 5, 4, dtype=torch.float64).requires_grad_().unbind()
    mix = nn.Linear(3, 3).double()
    with attnviz.record(gradients=True) as recording:
        weights = (q @ k.mT).softmax(-1)
        mixed = mix(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        outputs = mixed @ v
        result = outputs.transpose(1, 2).flatten(2)
    (call,) = recording
    assert call.mixing is not None
    dout, da = torch.autograd.grad(score(result), [outputs, weights], retain_graph=True)
    check(call, recording.gradients(score(result))[0], dout, da)


def test_a_score_has_gradients_of_the_calls_that_it_depends_on() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 6, 8, requires_grad=True)
    with attnviz.record(gradients=True) as recording:
        a = F.scaled_dot_product_attention(x, x, x)
        b = by_hand(a, a, a)
        c = F.scaled_dot_product_attention(x, x, x)
    assert set(recording.gradients(b.sum())) == {0, 1}
    assert set(recording.gradients(a.sum())) == {0}
    assert set(recording.gradients((a + c).sum())) == {0, 2}
    assert set(recording.gradients(b.sum() + c.sum(), calls=[-1, 1])) == {1, 2}
    assert recording.gradients((x * 2).sum()) == {}


def test_the_backward_pass_goes_no_further_than_to_the_first_call_that_is_asked_for() -> None:
    x, passed = torch.randn(1, 1, 6, 8, requires_grad=True), list[Tensor]()
    with attnviz.record(gradients=True) as recording:
        a = F.scaled_dot_product_attention(x, x, x)
        a.register_hook(passed.append)  # type: ignore[no-untyped-call]
        b = F.scaled_dot_product_attention(a, a, a)
    recording.gradients(b.sum(), calls=[1])
    assert not passed
    recording.gradients(b.sum())
    assert len(passed) == 1


def test_calls_that_were_not_kept_are_left_out_and_refused_by_name() -> None:
    x = torch.randn(1, 1, 6, 8, requires_grad=True)
    with attnviz.record(gradients=True, calls=[-1], where=lambda call: call.causal) as recording:
        a = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        a = F.scaled_dot_product_attention(a, a, a)
        a = F.scaled_dot_product_attention(a, a, a, is_causal=True)
    (wanted,) = torch.autograd.grad(score(a), a, retain_graph=True)
    found = recording.gradients(score(a))
    assert list(found) == [1]
    torch.testing.assert_close(found[1], wanted)
    torch.testing.assert_close(recording[1:].gradients(score(a))[0], wanted)
    with pytest.raises(RecordingError, match="call 0 was not kept"):
        recording.gradients(score(a), calls=[0])


def test_gradients_are_where_the_calls_are_kept() -> None:
    x = torch.randn(1, 1, 6, 8, requires_grad=True)
    with attnviz.record(gradients=True, device="meta") as recording:
        a = F.scaled_dot_product_attention(x, x, x)
    assert recording.gradients(a.sum())[0].device.type == "meta"


@pytest.mark.parametrize("way", [fused, by_hand])
def test_nothing_of_the_graph_is_held(way: Callable[..., Tensor]) -> None:
    x = torch.randn(1, 1, 6, 8, requires_grad=True)
    with attnviz.record(gradients=True) as recording:
        between = x.exp()  # which autograd keeps for its backward pass
        result = way(between + 1, between + 2, between + 3)
        activation = StorageWeakRef(between.untyped_storage())  # type: ignore[no-untyped-call]
    recording.gradients(result.sum())
    assert not any(tensor.requires_grad for tensor in tensors(recording[0]))
    gc.disable()
    try:
        del between
        assert not activation.expired()  # type: ignore[no-untyped-call]
        del result
        assert activation.expired()  # type: ignore[no-untyped-call]
    finally:
        gc.enable()


def tensors(call: AttentionCall) -> list[Tensor]:
    return [value for value in vars(call).values() if isinstance(value, Tensor)]


class Opaque(torch.autograd.Function):
    """Attention as other packages wrap it."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


def frozen(x: Tensor) -> Tensor:
    with torch.no_grad():
        return F.scaled_dot_product_attention(x, x, x)


def recomputed(x: Tensor) -> Tensor:
    result: Tensor = checkpoint(by_hand, x, x, x, use_reentrant=True)
    return result


@pytest.mark.parametrize("way", [Opaque.apply, frozen, recomputed])
def test_a_call_that_autograd_did_not_see_is_named(way: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(1, 1, 6, 8, requires_grad=True)
    with attnviz.record(gradients=True) as recording:
        result = way(x) + F.scaled_dot_product_attention(x, x, x).flatten(0, 1)
    with pytest.raises(RecordingError, match=r"did not see .* of call 0; call pixels"):
        recording.gradients(result.sum())
    assert list(recording.gradients(result.sum(), calls=[1])) == [1]


def test_what_cannot_be_asked_is_said() -> None:
    x = torch.randn(1, 1, 6, 8)
    with attnviz.record(gradients=True) as recording:
        result = F.scaled_dot_product_attention(x, x, x)
    with pytest.raises(RecordingError, match="nothing that requires gradients; call"):
        recording.gradients(result.sum())
    with pytest.raises(UsageError, match="a score is one number"):
        recording.gradients(result)
    with pytest.raises(UsageError, match="the call has no gradient"):
        recording[0].weight_gradient([0])
    with attnviz.record() as recording:
        F.scaled_dot_product_attention(x, x, x)
    with pytest.raises(UsageError, match=r"record\(gradients=True\)"):
        recording.gradients(result.sum())


def test_another_node_where_the_calls_should_be_is_no_answer() -> None:
    x = torch.randn(1, 1, 6, 8, requires_grad=True)
    with attnviz.record(gradients=True) as recording:
        result = F.scaled_dot_product_attention(x, x, x).exp()
    trace = recording._traces[0]  # type: ignore[index]
    assert isinstance(trace, Trace)
    wrong = Recording([recording[0]], [replace(trace, node=(trace.node or 0) + 1)])
    with pytest.raises(RecordingError, match="autograd has ExpBackward0 where"):
        wrong.gradients(result.sum())


def test_models_run_as_without_gradients() -> None:
    model = built("ViTConfig", "sdpa")
    pixels = torch.randn(2, 3, 32, 32, requires_grad=True)
    expected = deepcopy(model)(pixels).last_hidden_state
    with attnviz.record(gradients=True):
        result = model(pixels).last_hidden_state
    assert torch.equal(result, expected)
    (found,) = torch.autograd.grad(score(result), pixels)
    (wanted,) = torch.autograd.grad(score(expected), pixels)
    assert torch.equal(found, wanted)
