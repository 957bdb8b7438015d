import pytest
import torch

import attnviz
from attnviz.attention import Recording, reference
from attnviz.attention.reading import Reading

N = 90


def reading(weights: torch.Tensor, part: torch.Tensor | None = None) -> Reading:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 3, N, 4).unbind()
    part = torch.ones(N, dtype=torch.bool) if part is None else part
    calls = [
        attnviz.AttentionCall(q * scale, k, k, 0.5, bias=part[None, None, None])
        for scale in (1.0, 2.0)
    ]
    positions = torch.stack([torch.arange(N) % 10, torch.arange(N) // 10], dim=-1).float()
    return Reading(Recording(calls), (0, 1), torch.arange(N) < 2, part, positions, weights)


def one_hot() -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(17), N).double()


@pytest.mark.parametrize("kind", ["one", "many", "uniform", "masked"])
def test_received_is_the_weighted_sum_of_rows_however_it_is_got(kind: str) -> None:
    part = torch.ones(N, dtype=torch.bool)
    if kind == "masked":
        part[::3] = False
    weights = {
        "one": one_hot(),
        "many": torch.rand(N).double(),
        "uniform": torch.full((N,), 1 / N).double(),
        "masked": part / part.sum().double(),
    }[kind]
    asked = reading(weights, part)
    for layer in asked.layers:
        call = asked.call(layer)
        a = reference.attention_matrix(call.query, call.key, scale=call.scale, bias=call.bias)
        expected = reference.received(a, weights)
        torch.testing.assert_close(asked.received(layer).double(), expected, atol=1e-6, rtol=1e-5)


def test_a_layer_is_swept_once() -> None:
    asked = reading(torch.rand(N))
    assert asked.sweep(1) is asked.sweep(1)


def test_progress_runs_over_all_layers() -> None:
    seen: list[tuple[int, int]] = []
    asked = reading(one_hot())
    asked = Reading(
        asked.recording, asked.layers, asked.prefix, asked.taking_part, asked.positions,
        asked.weights, progress=lambda done, of: seen.append((done, of)),
    )  # fmt: skip
    for layer in asked.layers:
        asked.sweep(layer)
    assert seen == sorted(set(seen))
    assert seen[-1] == (2 * N, 2 * N)
