"""Methods of one layer at a time."""

from dataclasses import replace

import method_oracle as oracle
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_models import NAMES, close, readings, seen

from attnviz.attention import AttentionCall
from attnviz.attention.layer_input import LayerInput
from attnviz.errors import RecordingError, UsageError
from attnviz.methods import attention as per_layer
from attnviz.methods.attention import mass, received, smallest_set, value_norm, value_norm_sum
from attnviz.methods.rollout import similarity, token_similarity
from attnviz.statistics.maps import smallest_count


def questions(tokens: int) -> torch.Tensor:
    """The first token, one in the middle, and a region."""
    return torch.cat([torch.eye(tokens)[[0, 7]], torch.rand(1, tokens) / tokens])


@pytest.mark.parametrize("name", NAMES)
def test_value_norms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_layer, "KEYS", 6)
    monkeypatch.setattr(per_layer, "PAIRS", 150)
    model = seen(name)
    for number, reading in enumerate(readings(model, questions(model.calls[0].shape[3]))):
        call, weights = reading.call, reading.weights.double()
        assert call.projection is not None
        given = model.attentions[number], call.value.double(), call.projection.double(), weights
        close(value_norm(reading), oracle.value_norm(*given))
        close(value_norm_sum(reading)[:, :, 0], oracle.value_norm_sum(*given))


def test_value_norms_of_heads_that_cancel_and_of_one_head() -> None:
    torch.manual_seed(2)
    q, k, v = torch.randn(3, 2, 1, 9, 4).unbind()
    w = torch.randn(1, 4, 11)
    one = LayerInput.of(AttentionCall(q, k, v, 0.5, projection=w), questions(9))
    close(value_norm_sum(one), value_norm(one).double())
    two = [x.repeat(1, 2, 1, 1) for x in (q, k, v)]
    twice = AttentionCall(two[0], two[1], two[2], 0.5)
    against = replace(twice, projection=torch.cat([w, -w]))
    assert value_norm_sum(LayerInput.of(against, questions(9))).abs().max() < 1e-6
    grouped = replace(twice, key=k, value=v, projection=torch.cat([w, w]))
    found = value_norm_sum(LayerInput.of(grouped, one.weights[0]))
    close(found, 2 * value_norm(one).double())


def test_value_norms_that_cannot_be_are_refused() -> None:
    call = seen("vit").calls[0]
    mixed = replace(call, mixing=(torch.eye(4), None))
    for method in (value_norm, value_norm_sum):
        with pytest.raises(RecordingError, match="projection"):
            method(LayerInput.of(replace(call, projection=None), questions(16)))
        with pytest.raises(RecordingError, match="mixes"):
            method(LayerInput.of(mixed, questions(16)))


@pytest.mark.parametrize("name", NAMES)
def test_received(name: str) -> None:
    model = seen(name)
    for number, call in enumerate(model.calls):
        reading = LayerInput.of(call, torch.eye(call.shape[2])[:1])
        close(received(reading)[:, 0], model.attentions[number].mean(2))


@pytest.mark.parametrize("name", NAMES)
def test_similarity(name: str) -> None:
    model = seen(name)
    for number, call in enumerate(model.calls):
        weights = questions(call.shape[2]) if call.shape[2] > 1 else torch.ones(1, 1)
        if call.shape[2] == 1:
            with pytest.raises(RecordingError, match="not its keys"):
                similarity(LayerInput.of(call, weights))
            continue
        reading = LayerInput.of(call, weights, model.tokens[number])
        asked = reading.weights.double()
        close(similarity(reading), oracle.cosine(call.key.double(), asked))
        expected = oracle.cosine(model.tokens[number].double(), asked)
        close(token_similarity(reading)[:, :, 0], expected)
        with pytest.raises(RecordingError, match="not kept"):
            token_similarity(replace(reading, tokens=None))


def test_similarity_of_keys_that_heads_share_and_of_windows() -> None:
    torch.manual_seed(3)
    q, k = torch.randn(3, 4, 8, 5), torch.randn(3, 2, 8, 5)
    reading = LayerInput.of(AttentionCall(q, k, k, 1.0), torch.full((1, 8), 1 / 24))
    repeated = k.repeat_interleave(2, 1).double()
    close(similarity(reading), oracle.cosine(repeated, reading.weights.double()))
    windows = replace(reading, key_cells=24)
    together = repeated.transpose(0, 1).flatten(1, 2)[None]  # (1, heads, all keys, features)
    expected = oracle.cosine(together, torch.full((1, 1, 24), 1 / 24, dtype=torch.float64))
    close(similarity(windows).permute(1, 2, 0, 3).flatten(2)[None], expected)


def test_mass_keeps_118_of_196_equal_weights() -> None:
    drawn = np.ones(200, dtype=np.bool_)
    drawn[:4] = False
    values = np.full((2, 3, 200), 1 / 196, dtype=np.float32)
    found = smallest_set(values, drawn, keep=0.6)
    assert found.dtype == np.float32
    assert (found.sum(-1) == 118).all()
    assert found[0, 0, 4 : 4 + 118].all()  # the first of equals
    assert not smallest_set(np.zeros((1, 200), dtype=np.float32), drawn).any()


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30),
    st.sampled_from([0.1, 0.5, 0.6, 0.9, 1.0]),
)
def test_mass_agrees_with_area60(weights: list[float], keep: float) -> None:
    values = np.array(weights, dtype=np.float32)
    if values.sum() <= 0:
        return
    chosen = smallest_set(values, np.ones(len(values), dtype=np.bool_), keep=keep) > 0
    assert chosen.sum() == smallest_count(values.astype(np.float64), keep)
    if not chosen.all():
        assert values[chosen].min() >= values[~chosen].max()


def test_mass_is_of_the_attention() -> None:
    reading = LayerInput.of(seen("vit").calls[0], questions(16))
    assert torch.equal(mass(reading, keep=0.3), reading.received())
    for keep in (0.0, 1.5):
        with pytest.raises(UsageError, match="share"):
            mass(reading, keep=keep)
