from dataclasses import replace

import method_oracle as oracle
import pytest
import torch
from method_models import NAMES, Seen, close, readings, seen
from torch import Tensor

from attnviz.attention import AttentionCall
from attnviz.attention.layer_input import LayerInput
from attnviz.errors import RecordingError
from attnviz.methods.gradients import gradient_attention, gradient_rollout, legrad, relevance

N = 21


def questions(model: Seen) -> Tensor:
    """The first token, one in the middle, and all alike; of a pool its own query."""
    if model.pool:
        return torch.ones(1, 1)
    tokens = model.calls[0].shape[3]
    return torch.cat([torch.eye(tokens)[[0, 7]], torch.full((1, tokens), 1 / tokens)])


def below(
    model: Seen, start: int
) -> tuple[list[Tensor], list[Tensor], tuple[Tensor, Tensor] | None]:
    """A and ∇A from a layer on, and those of the pool."""
    stop = len(model.calls) - model.pool
    pool = (model.attentions[-1], model.gradients[-1]) if model.pool else None
    return model.attentions[start:stop], model.gradients[start:stop], pool


@pytest.mark.parametrize("name", NAMES)
def test_dO_times_V_is_the_gradient_by_autograd(name: str) -> None:  # noqa: N802
    model = seen(name)
    tokens = model.calls[0].shape[3]
    for number, reading in enumerate(readings(model, torch.eye(tokens)[[0, 7]])):
        expected = oracle.gradient_attention(
            model.attentions[number], model.gradients[number], reading.weights.double()
        )
        close(gradient_attention(reading)[:, :, 0], expected)


@pytest.mark.parametrize("discard", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_rollout(name: str, start: int, discard: float) -> None:
    model = seen(name)
    attentions, gradients, pool = below(model, start)
    r = oracle.gradient_rollout(attentions, gradients, discard, spare=model.prefix > 0, pool=pool)
    found = gradient_rollout(readings(model, questions(model))[start:], discard=discard)
    close(found[:, :, 0], questions(model).double() @ r)


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_relevance(name: str, start: int) -> None:
    model = seen(name)
    attentions, gradients, pool = below(model, start)
    r = oracle.relevance(attentions, gradients, pool)
    if pool is None:
        r = r - torch.eye(r.shape[-1], dtype=torch.float64)
    found = relevance(readings(model, questions(model))[start:])
    close(found[:, :, 0], questions(model).double() @ r)


def test_relevance_of_a_class_token_is_the_papers_row_on_the_grid() -> None:
    model = seen("vit")
    r = oracle.relevance(model.attentions, model.gradients)
    found = relevance(readings(model, torch.eye(model.calls[0].shape[3])[:1]))
    close(found[:, 0, 0, 1:], r[:, 0, 1:])


@pytest.mark.parametrize("name", NAMES)
def test_legrad(name: str) -> None:
    model = seen(name)
    weights = torch.eye(model.calls[0].shape[3])[:2]
    found = legrad(readings(model, weights, own=True))
    assert found.shape[1:3] == (1, 1)
    close(found[:, 0, 0], oracle.legrad(model.block_gradients))


@pytest.mark.parametrize("kind", ["grouped", "mixed", "masked", "biased"])
def test_gradients_of_every_kind_of_call(kind: str) -> None:
    torch.manual_seed(1)
    q, k = torch.randn(2, 2, 4, N, 6).unbind()
    v = torch.randn(2, 4, N, 6)
    if kind == "grouped":
        k, v = k[:, ::2], v[:, ::2]
    mixing = (torch.randn(3, 4), torch.randn(3)) if kind == "mixed" else None
    if kind == "mixed":
        v = v[:, :3]
    bias = {"masked": torch.rand(2, 1, 1, N) > 0.3, "biased": torch.randn(4, N, N)}.get(kind)
    call = AttentionCall(q, k, v, 0.4, bias=bias, mixing=mixing)
    part = torch.ones(2, N, dtype=torch.bool)
    if kind == "masked":
        part[:, ::4] = False
    keys, values = call.key.double(), call.value.double()
    s = 0.4 * q.double() @ keys.repeat_interleave(4 // keys.shape[1], 1).transpose(-2, -1)
    if bias is not None:
        s = s.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else s + bias
    a = s.softmax(-1).requires_grad_()
    mixed = a if mixing is None else torch.einsum("gh,bhij->bgij", mixing[0].double(), a)
    output = mixed @ values.repeat_interleave(mixed.shape[1] // values.shape[1], 1)
    output.retain_grad()
    (output.sin() * torch.randn_like(output)).sum().backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None
    assert output.grad is not None
    reading = LayerInput.of(replace(call, gradient=output.grad.float()), torch.eye(N)[:3])
    reading = replace(reading, queries=replace(reading.queries, taking_part=part))
    a_part, found = a.detach() * part[:, None, :, None], relevance([reading, reading])
    one = torch.eye(N, dtype=torch.float64)
    close(found[:, :, 0], (oracle.relevance([a_part] * 2, [a.grad] * 2) - one)[:, :3])
    rolled = gradient_rollout([reading, reading], discard=0.3)
    expected = oracle.gradient_rollout([a_part] * 2, [a.grad] * 2, 0.3)
    close(rolled[:, :, 0], expected[:, :3])


def test_a_layer_without_a_score_is_refused() -> None:
    reading = LayerInput.of(replace(seen("vit").calls[0], gradient=None), torch.eye(16)[:1])
    for method in (gradient_rollout, relevance, legrad):
        with pytest.raises(RecordingError, match="gradient"):
            method([reading])
    with pytest.raises(RecordingError, match="gradient"):
        gradient_attention(reading)
