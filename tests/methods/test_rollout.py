from dataclasses import replace
from typing import Any

import method_oracle as oracle
import pytest
import torch
from method_models import NAMES, close, readings, seen

from attnviz.attention import AttentionCall
from attnviz.attention.layer_input import LayerInput
from attnviz.attribution import head_fusion
from attnviz.attribution import vector_products as carry
from attnviz.errors import RecordingError, UsageError
from attnviz.methods.rollout import rollout

N = 40


def questions(tokens: int) -> torch.Tensor:
    """The first token, one in the middle, and all alike."""
    return torch.cat([torch.eye(tokens)[[0, tokens // 2]], torch.full((1, tokens), 1 / tokens)])


def calls(
    count: int = 3, *, batch: int = 2, heads: int = 3, tokens: int = N
) -> list[AttentionCall]:
    """Layers of random queries, keys and values."""
    torch.manual_seed(0)
    shape = batch, heads, tokens, 8
    return [
        AttentionCall(torch.randn(shape), torch.randn(shape), torch.randn(shape), 0.6)
        for _ in range(count)
    ]


def matrices(layers: list[AttentionCall]) -> list[torch.Tensor]:
    """A in float64, with biases and causality."""
    found = []
    for call in layers:
        k = call.key.double().repeat_interleave(call.heads // call.key.shape[1], 1)
        s = call.scale * call.query.double() @ k.transpose(-2, -1)
        if call.bias is not None and call.bias.dtype == torch.bool:
            s = s.masked_fill(~call.bias, -torch.inf)
        elif call.bias is not None:
            s = s + call.bias.double()
        if call.causal:
            s = s.masked_fill(torch.ones(s.shape[-2:]).tril() == 0, -torch.inf)
        found.append(s.softmax(-1).nan_to_num(0.0))
    return found


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("discard", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_product_of_eager_attention(name: str, discard: float, fusion: Any) -> None:
    model = seen(name)
    count = model.calls[0].shape[3]
    layers = len(model.calls) - model.pool
    for start in range(layers):
        own = model.attentions[start:layers]
        pool = model.attentions[-1] if model.pool else None
        expected = oracle.rollout(own, fusion, discard, spare=model.prefix > 0, pool=pool)
        weights = torch.ones(1, 1) if model.pool else questions(count)
        found = rollout(readings(model, weights)[start:], fusion=fusion, discard=discard)
        close(found[:, :, 0], weights.double() @ expected)


@pytest.mark.parametrize("kind", ["bias", "mask", "rows", "causal", "grouped", "large", "half"])
@pytest.mark.parametrize("discard", [0.0, 0.7])
def test_every_kind_of_call(kind: str, discard: float) -> None:
    layers = calls(heads=4)
    if kind == "bias":
        layers = [replace(c, bias=torch.randn(1, 4, N, N)) for c in layers]
    elif kind == "mask":
        layers = [replace(c, bias=torch.rand(2, 1, 1, N) > 0.3) for c in layers]
    elif kind == "rows":  # some queries attend to nothing, in some heads
        layers = [
            replace(c, bias=(torch.rand(2, 4, N, 1) > 0.3).expand(-1, -1, -1, N)) for c in layers
        ]
    elif kind == "causal":
        layers = [replace(c, causal=True) for c in layers]
    elif kind == "grouped":
        layers = [replace(c, key=c.key[:, :2], value=c.value[:, :2]) for c in layers]
    elif kind == "large":  # scores that float32 can raise to a power only after the largest is off
        layers = [replace(c, scale=20.0) for c in layers]
    elif kind == "half":
        layers = [replace(c, query=c.query.bfloat16(), key=c.key.bfloat16()) for c in layers]
    for fusion in ("mean", "max", "min"):
        expected = questions(N).double() @ oracle.rollout(matrices(layers), fusion, discard)
        asked = [LayerInput.of(call, questions(N)) for call in layers]
        found = rollout(asked, fusion=fusion, discard=discard)[:, :, 0]
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_other_devices_take_all_pictures_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_fusion.MergedHeads, "on_cpu", property(lambda _: False))
    monkeypatch.setattr(head_fusion, "LARGE", 2 * 3 * N * 11)  # 11 rows at a time
    monkeypatch.setattr(carry, "HELD", 0)
    layers = calls()
    for discard in (0.0, 0.8):
        for fusion in ("mean", "max"):
            expected = questions(N).double() @ oracle.rollout(matrices(layers), fusion, discard)
            asked = [LayerInput.of(call, questions(N)) for call in layers]
            found = rollout(asked, fusion=fusion, discard=discard)[:, :, 0]
            torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("held", [0, 1 << 22])
@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_and_threads_change_nothing(
    threads: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    monkeypatch.setattr(carry, "INLINE", 1)
    monkeypatch.setattr(carry, "HELD", held)
    monkeypatch.setattr(head_fusion, "PANEL", 1)  # 16 rows at a time
    monkeypatch.setattr(head_fusion, "TILE", 2 * 16 * N)  # two heads at a time
    try:
        layers = calls()
        for discard in (0.0, 0.8):
            for fusion in ("mean", "max"):
                expected = questions(N).double() @ oracle.rollout(matrices(layers), fusion, discard)
                asked = [LayerInput.of(call, questions(N)) for call in layers]
                found = rollout(asked, fusion=fusion, discard=discard)[:, :, 0]
                torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_uniform_layers() -> None:
    uniform = [replace(c, query=torch.zeros_like(c.query)) for c in calls(5)]
    found = rollout([LayerInput.of(c, torch.eye(N)) for c in uniform])[:, :, 0]
    expected = (1 - 2**-5) / N + 2**-5 * torch.eye(N, dtype=torch.float64)
    close(found, expected.expand(2, -1, -1))


def test_ties_with_the_threshold_stay() -> None:
    same = [replace(c, query=torch.zeros_like(c.query)) for c in calls(1)]
    found = rollout([LayerInput.of(c, torch.eye(N)[1:2]) for c in same], discard=0.9)
    close(found[0, 0], 0.5 / N + 0.5 * torch.eye(N, dtype=torch.float64)[1:2])


@pytest.mark.parametrize("held", [0, 1 << 22])
@pytest.mark.parametrize("share", [0.0, 1e-3, 0.37, 0.5, 0.9, 0.999])
def test_the_threshold_is_the_order_statistic(
    share: float, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry, "HELD", held)
    call = calls(1, heads=2, tokens=300)[0]
    whole = head_fusion.MergedHeads(call, "max")
    found = carry.discarding(whole, share).least
    assert found is not None
    for part in whole.parts(256):
        rows = [part.matrix(r).clone() for r in head_fusion.chunks(torch.arange(300), 256)]
        ordered = torch.cat(rows, 1).flatten(1).sort(1).values
        assert torch.equal(found[part.items], ordered[:, int(share * 300**2)])


def test_what_cannot_be_merged_is_refused() -> None:
    few, many = calls(1), calls(1, tokens=N + 1)
    with pytest.raises(RecordingError, match="differ"):
        rollout(
            [LayerInput.of(few[0], torch.eye(N)[:1]), LayerInput.of(many[0], torch.eye(N + 1)[:1])]
        )
    one = [LayerInput.of(few[0], torch.eye(N)[:1])]
    with pytest.raises(UsageError, match="median"):
        rollout(one, fusion="median")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"1\.5"):
        rollout(one, discard=1.5)
