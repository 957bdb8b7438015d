"""More statistics of heads and layers against brute force in float64, and what is known by hand."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import layers
import numpy as np
import oracle
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import attnviz
from attnviz import statistics
from attnviz.attention import call as calls
from attnviz.attention import scores
from attnviz.attention.layer_input import LayerInput, LayerTokens
from attnviz.statistics import heads
from attnviz.statistics.tokens import Token

ROWS, COLUMNS = 5, 6
WHOLE = np.concatenate([[-1] * 3, np.arange(ROWS * COLUMNS), [-1] * 2])[None]
WINDOWS = layers.windows(ROWS, COLUMNS, side=4, shift=1)


def side(
    cells: NDArray[np.int64], columns: int, part: NDArray[np.bool_] | None = None
) -> LayerTokens:
    """Tokens of cells of 16 pixels, (windows, tokens); False cells of `part` take no part."""
    places = 16 * np.stack([cells % columns + 0.5, cells // columns + 0.5], axis=-1)
    places[cells < 0] = 1e6  # nothing of it may be used
    kept = np.ones(cells.shape, dtype=np.bool_) if part is None else (cells < 0) | part[cells]
    return LayerTokens(
        torch.from_numpy(cells), torch.from_numpy(places).float(), torch.from_numpy(kept)
    )


def layer(
    queries: NDArray[np.int64] = WHOLE,
    keys: NDArray[np.int64] | None = None,
    *,
    heads: int = 4,
    groups: int | None = None,
    outputs: int | None = None,
    part: NDArray[np.bool_] | None = None,
    bias: str = "none",
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> LayerInput:
    """A reading of random tensors that knows of everything there is to know."""
    torch.manual_seed(len(queries) + heads)
    keys = queries if keys is None else keys
    (batch, n), m = queries.shape, keys.shape[1]
    of_queries, of_keys = side(queries, COLUMNS, part), side(keys, COLUMNS, part)
    kinds: dict[str, Callable[[], Tensor | None]] = {
        "none": lambda: None,
        "mask": lambda: of_keys.taking_part[:, None, None],
        "per head": lambda: torch.randn(heads, n, m),
        "boolean": lambda: (torch.rand(n, m) > 0.4) | torch.eye(n, m, dtype=torch.bool),
        "blind": lambda: torch.arange(n)[:, None].expand(n, m) != 9,
        "per window": lambda: torch.randn(batch, 1, n, m).masked_fill(
            torch.rand(batch, 1, n, m) > 0.7, -torch.inf
        ),
    }
    outputs = outputs or heads
    value_heads = groups or outputs
    call = attnviz.AttentionCall(
        query=2 * torch.randn(batch, heads, n, 8).to(dtype),
        key=torch.randn(batch, groups or heads, m, 8).to(dtype),
        value=(torch.randn(batch, value_heads, m, 7) * torch.rand(m, 1)).to(dtype),
        scale=0.5,
        bias=kinds[bias](),
        gradient=torch.randn(batch, outputs, n, 7).to(dtype),
        projection=torch.randn(outputs, 7, 11).to(dtype),
        **more,
    )
    tokens = torch.randn(batch, n, 13).to(dtype)
    tokens[-1, 5 % n] *= 40
    uniform = torch.full((batch, 1, n), 1 / (batch * n))
    return LayerInput(call, of_queries, of_keys, uniform, int(keys.max()) + 1, tokens)


PART = np.arange(ROWS * COLUMNS) % 4 != 1
POOL = np.array([[-1, -1]])
MIXING = torch.linspace(-1, 1, 12).view(3, 4)
READINGS: dict[str, Callable[[], LayerInput]] = {
    "plain": layer,
    "one head": lambda: layer(heads=1),
    "masked": lambda: layer(part=PART, bias="mask"),
    "bias": lambda: layer(bias="per head"),
    "boolean": lambda: layer(bias="boolean"),
    "a blind query": lambda: layer(bias="blind"),
    "causal": lambda: layer(causal=True),
    "grouped": lambda: layer(heads=6, groups=2, bias="per head"),
    "bfloat16": lambda: layer(dtype=torch.bfloat16, bias="boolean"),
    "float16": lambda: layer(dtype=torch.float16),
    "windows": lambda: layer(WINDOWS, bias="per window"),
    "masked windows": lambda: layer(WINDOWS, part=PART, bias="mask"),
    "grouped windows": lambda: layer(WINDOWS, groups=2, bias="per head"),
    "pyramid": lambda: layer(WHOLE, np.arange(12)[None], bias="per head"),
    "pool": lambda: layer(POOL, WHOLE),
    "mixed": lambda: layer(outputs=3, mixing=(MIXING, torch.ones(3))),
    "nowhere": lambda: LayerInput.of(layer().call, torch.eye(WHOLE.size)[:1]),
}


class Brute:
    """The stitched matrix of a reading in float64, and what the formulas are of."""

    def __init__(self, reading: LayerInput) -> None:
        call = reading.call
        batch, heads, n, m = call.shape
        bias = torch.zeros(call.shape, dtype=torch.float64)
        if call.bias is not None and call.bias.dtype == torch.bool:
            bias = bias.masked_fill(~call.bias, -math.inf)
        elif call.bias is not None:
            bias = bias + call.bias
        if call.causal:
            bias = bias.masked_fill(torch.ones(n, m, dtype=torch.bool).triu(1), -math.inf)
        q, k = self.double(call.query, heads), self.double(call.key, heads)
        windows = [oracle.attention(q[b], k[b], call.scale, bias[b].numpy()) for b in range(batch)]
        self.a = oracle.stitch(np.array(windows))
        queries, keys = reading.queries, reading.keys
        self.everybody = queries.taking_part.flatten().nonzero()[:, 0].tolist()
        lying = queries.grid.flatten().nonzero()[:, 0].tolist()
        self.pooled = not bool(queries.on_picture.any())
        self.rows = self.everybody if self.pooled else lying
        self.inside = keys.grid.flatten().nonzero()[:, 0].tolist()
        self.keys = keys.taking_part.flatten().nonzero()[:, 0].tolist()
        self.places = self.where(queries), self.where(keys)
        assert call.gradient is not None
        assert call.projection is not None
        outputs = len(call.projection)
        self.value = self.flat(self.double(call.value, outputs))
        self.gradient = self.flat(self.double(call.gradient, outputs))
        self.projection = call.projection.double().numpy()
        mixing = torch.eye(heads) if call.mixing is None else call.mixing[0]
        self.mixing = mixing.double().numpy()

    @staticmethod
    def where(of: LayerTokens) -> NDArray[np.float64]:
        return of.positions.flatten(0, 1).double().numpy()

    @staticmethod
    def double(x: Tensor, heads: int) -> NDArray[np.float64]:
        return x.double().repeat_interleave(heads // x.shape[1], dim=1).numpy()

    @staticmethod
    def flat(x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(W, H, n, d) → (H, W·n, d)."""
        return np.concatenate(list(x), axis=1)


@pytest.fixture(params=["small blocks", "streamed", "as it is"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way there is to the same numbers."""
    if request.param == "small blocks":
        monkeypatch.setitem(scores.BLOCK, "cpu", 1 << 9)
        monkeypatch.setattr(heads, "CHUNK", 200)
    if request.param == "streamed":
        monkeypatch.setattr(calls, "SMALL", 0)


def close(found: Tensor, expected: Any) -> None:
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.double().numpy(), expected, atol=1e-5, rtol=1e-5)


@cache
def by_hand(kind: str) -> dict[str, Any]:
    """Every number of a layer but those of single tokens."""
    brute = Brute(READINGS[kind]())
    cosine, divergence = oracle.similarity(brute.a, brute.rows)
    slopes = brute.value, brute.gradient, brute.everybody, brute.mixing
    norms = oracle.brought(brute.value, brute.projection, brute.mixing)
    where = brute.rows, brute.inside, brute.places
    return {
        "cosine": cosine,
        "jensen_shannon": divergence,
        "head_cosine": oracle.others(cosine),
        "head_jensen_shannon": oracle.others(divergence),
        "importance": oracle.importance(brute.a, *slopes),
        "value_distance_px": [math.nan] * len(cosine)
        if brute.pooled
        else oracle.value_distance(brute.a, norms, *where),
    }


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("kind", READINGS)
def test_every_number_is_that_of_the_stitched_matrix(kind: str) -> None:
    expected, found = by_hand(kind), statistics.more(READINGS[kind]())
    close(found.cosine, expected["cosine"])
    close(found.jensen_shannon, expected["jensen_shannon"])
    for name in ("head_cosine", "head_jensen_shannon", "importance", "value_distance_px"):
        close(found.numbers[name], expected[name])
    assert torch.equal(found.cosine, found.cosine.T)
    assert torch.equal(found.jensen_shannon, found.jensen_shannon.T)
    assert 0 <= found.jensen_shannon.min() <= found.jensen_shannon.max() <= math.log(2) + 1e-6


@pytest.mark.parametrize("kind", READINGS)
def test_tokens_that_stand_out_are_those_of_the_stitched_matrix(kind: str) -> None:
    reading = READINGS[kind]()
    key = reading.call.key.clone()
    key[0, :, 5] = 2.0  # which all queries then like
    reading = replace(reading, call=replace(reading.call, query=reading.call.query + 2, key=key))
    brute, found = Brute(reading), statistics.more(reading)
    cells, width = reading.keys.cells.flatten().tolist(), reading.keys.cells.shape[1]
    expected = []
    for head, a in enumerate(brute.a):
        alpha = np.array([a[brute.everybody, j].mean() for j in brute.keys])
        chosen, _ = oracle.outstanding(alpha, 10 * alpha.mean())
        for j in chosen:
            number = brute.keys[j]
            expected.append((head, *divmod(number, width), cells[number], pytest.approx(alpha[j])))
    assert [(t.head, t.window, t.token, t.cell, t.value) for t in found.sinks] == expected
    assert {token.token for token in found.sinks} == {5}
    counts = [sum(token.head == head for token in found.sinks) for head in range(len(brute.a))]
    assert found.numbers["sinks"].tolist() == counts


@pytest.mark.parametrize("kind", [kind for kind in READINGS if kind != "nowhere"])
def test_high_norms_are_those_of_the_tokens_that_take_part(kind: str) -> None:
    reading = READINGS[kind]()
    if kind == "pool":
        reading = replace(reading, tokens=torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]))
    assert reading.tokens is not None
    everybody = reading.queries.taking_part.flatten().nonzero()[:, 0].tolist()
    tokens = reading.tokens.double().flatten(0, 1).numpy()
    norms = np.array([math.sqrt((tokens[i] ** 2).sum()) for i in everybody])
    chosen, limit = oracle.outstanding(norms, 2 * float(np.median(norms)))
    found = statistics.more(reading).high_norm
    assert found is not None
    assert (found.median, found.limit) == pytest.approx((float(np.median(norms)), limit))
    width = reading.queries.cells.shape[1]
    expected = [(*divmod(everybody[i], width), None, pytest.approx(norms[i])) for i in chosen]
    assert [(t.window, t.token, t.head, t.value) for t in found.tokens] == expected
    assert len(found.tokens) == (
        0 if kind == "pool" or not reading.queries.taking_part[-1, 5] else 1
    )


def known(a: Tensor, **more: Any) -> LayerInput:
    """A reading whose weights are a given (H, N, N), of tokens in a row."""
    cells = torch.arange(a.shape[2])[None].numpy()
    key = torch.eye(a.shape[2]).expand(1, len(a), -1, -1)
    call = attnviz.AttentionCall(a.log()[None], key, key, 1.0, **more)
    tokens = side(cells, a.shape[2])
    return LayerInput(
        call, tokens, tokens, torch.full((1, 1, a.shape[1]), 1 / a.shape[1]), a.shape[2]
    )


def one_hot(columns: Tensor) -> Tensor:
    """Nearly: what takes no part has a logarithm too."""
    return torch.nn.functional.one_hot(columns, len(columns)).float().clamp_min(1e-37)


def test_the_same_heads_and_disjoint_ones() -> None:
    torch.manual_seed(0)
    one = torch.randn(50, 50).softmax(-1)
    same = statistics.more(known(torch.stack([one, one, one])))
    close(same.cosine, np.ones((3, 3)))
    assert same.jensen_shannon.abs().max() < 1e-6
    order = torch.arange(50)
    apart = statistics.more(known(torch.stack([one_hot(order), one_hot(order.roll(1))])))
    close(apart.cosine, np.eye(2))
    close(apart.jensen_shannon, math.log(2) * (1 - np.eye(2)))
    close(apart.numbers["head_cosine"], [0, 0])
    close(apart.numbers["head_jensen_shannon"], [math.log(2)] * 2)


def test_uniform_attention_has_no_sink_and_a_planted_one_is_found() -> None:
    uniform = torch.full((2, 60, 60), 1 / 60)
    assert statistics.more(known(uniform)).sinks == ()
    planted = uniform.clone()
    planted[1] *= 0.6 * 60 / 59
    planted[1, :, 17] = 0.4
    (sink,) = statistics.more(known(planted)).sinks
    assert sink == Token(0, 17, 17, sink.value, head=1)
    assert sink.value == pytest.approx(0.4, abs=1e-6)
    assert statistics.more(known(planted)).numbers["sinks"].tolist() == [0, 1]


def test_norms_that_differ_little_do_not_stand_out() -> None:
    reading = layer()
    tokens = torch.zeros(1, WHOLE.size, 3)
    tokens[0, :, 1] = 5
    tokens[0, 3, 1] = 5.1
    even = statistics.more(replace(reading, tokens=tokens)).high_norm
    assert even is not None
    assert (even.tokens, even.limit) == ((), 10)
    tokens[0, [4, 9, 1], 1] = torch.tensor([50.0, 60, 11])
    found = statistics.more(replace(reading, tokens=tokens)).high_norm
    assert found is not None
    assert [(token.token, token.cell) for token in found.tokens] == [(9, 6), (4, 1), (1, -1)]


def test_what_a_token_is() -> None:
    tokens = torch.zeros(1, WHOLE.size, 1)
    tokens[0, :, 0] = 1 + torch.arange(WHOLE.size) % 7 / 10
    tokens[0, [0, 2, 5, 34]] = torch.tensor([40.0, 30, 20, 10])[:, None]
    found = statistics.more(replace(layer(), tokens=tokens)).high_norm
    assert found is not None
    assert [(token.token, token.kind(class_token=0)) for token in found.tokens] == [
        (0, "cls"), (2, "prefix"), (5, "cell"), (34, "other"),
    ]  # fmt: skip
    assert found.tokens[0].kind(class_token=None) == "prefix"
    windows = layer(WINDOWS)
    window, padding = np.argwhere(WINDOWS < 0)[0]
    many = torch.ones(*WINDOWS.shape, 1)
    many[window, padding] = 9
    found = statistics.more(replace(windows, tokens=many)).high_norm
    assert found is not None
    assert [token.kind(class_token=0) for token in found.tokens] == ["other"]


def test_what_is_not_known_is_not_a_number() -> None:
    reading = layer(heads=1)
    bare = replace(reading.call, gradient=None, projection=None)
    found = statistics.more(replace(reading, call=bare, tokens=None))
    assert found.high_norm is None
    assert found.numbers["sinks"].tolist() == [0]
    for name in ("head_cosine", "head_jensen_shannon", "value_distance_px", "importance"):
        assert found.numbers[name].isnan().all(), name


def test_keys_that_bring_nothing_are_no_distance_away() -> None:
    """However much of the attention they have, and however little the others bring."""
    torch.manual_seed(0)
    a = torch.rand(2, 40, 40).softmax(-1)
    a[:, :, 30] = 1e4
    a = a / a.sum(-1, keepdim=True)
    reading = known(a, projection=torch.ones(2, 40, 1))
    value = torch.zeros(1, 2, 40, 40)
    value[..., 5, 0] = 1e-6
    found = statistics.more(replace(reading, call=replace(reading.call, value=value)))
    expected = 16 * sum(abs(i - 5) for i in range(40)) / 40
    close(found.numbers["value_distance_px"], [expected] * 2)
    nothing = replace(reading, call=replace(reading.call, value=torch.zeros(1, 2, 40, 40)))
    close(statistics.more(nothing).numbers["value_distance_px"], [0, 0])


def test_values_of_one_length_leave_the_distance_as_it_is() -> None:
    reading = layer(bias="per head")
    call = reading.call
    value = torch.nn.functional.normalize(torch.randn_like(call.value), dim=-1)
    turned = torch.linalg.qr(torch.randn(4, 11, 7)).Q.mT
    reading = replace(reading, call=replace(call, value=value, projection=turned))
    close(
        statistics.more(reading).numbers["value_distance_px"],
        statistics.measure(reading)["distance_px"].numpy(),
    )


def test_importance_is_the_slope_of_a_factor_on_the_head() -> None:
    """Michel et al.'s ξ, by autograd in float64 through something that is not linear."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 3, 20, 4, dtype=torch.float64).unbind()
    factor = torch.ones(3, dtype=torch.float64, requires_grad=True)
    output = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.7)
    output.requires_grad_()
    score = (factor[:, None, None] * output).sum(1).tanh().square().sum()
    slope, gradient = torch.autograd.grad(score, (factor, output))
    call = attnviz.AttentionCall(q.float(), k.float(), v.float(), 0.7, gradient=gradient.float())
    found = statistics.more(LayerInput.of(call, torch.eye(20)[:1])).numbers["importance"]
    close(found, slope.abs().numpy())
    close(found, (gradient * output.detach()).sum((0, 2, 3)).abs().numpy())


def test_a_larger_matrix_in_its_own_blocks() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 4, 700, 16).unbind()
    reading = LayerInput.of(attnviz.AttentionCall(q, k, k, 0.5), torch.eye(700)[:1])
    a = (q.double() @ k.double().mT * 0.5).softmax(-1)[0]
    found = statistics.more(reading)
    flat = torch.nn.functional.normalize(a.flatten(1), dim=1)
    close(found.cosine, (flat @ flat.T).numpy())
    for one, two in itertools.combinations(range(4), 2):
        middle = (a[one] + a[two]) / 2
        own = (torch.special.entr(a[one]) + torch.special.entr(a[two])) / 2
        rise = (torch.special.entr(middle) - own).sum(-1).mean()
        assert float(found.jensen_shannon[one, two]) == pytest.approx(float(rise), abs=1e-6)


def test_gradients_and_autocast_around_a_question_change_nothing() -> None:
    expected = statistics.more(layer())
    reading = layer()
    reading.call.query.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = statistics.more(reading)
    assert torch.equal(found.cosine, expected.cosine)
    assert torch.equal(found.jensen_shannon, expected.jensen_shannon)
    for name, numbers in found.numbers.items():
        assert torch.equal(numbers, expected.numbers[name]), name
        assert not numbers.requires_grad
