from typing import Any

import pytest
import torch

import attnviz
from attnviz.attention import layer_input as module
from attnviz.attention import reference
from attnviz.attention.layer_input import LayerInput, LayerTokens
from attnviz.attention.sweep import Progress, Sweep
from attnviz.attention.sweep_together import TOGETHER, sweep_together, to_host
from attnviz.statistics import measure_all

N = 90


def side(cells: torch.Tensor, part: torch.Tensor | None = None) -> LayerTokens:
    """Tokens of a picture of 10 columns."""
    positions = torch.stack([cells % 10, cells // 10], dim=-1).float()
    return LayerTokens(
        cells, positions, torch.ones_like(cells, dtype=torch.bool) if part is None else part
    )


def reading(
    weights: torch.Tensor, part: torch.Tensor | None = None, progress: Progress | None = None
) -> LayerInput:
    """One window of 90 tokens of which two are no part of the picture."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 3, N, 4).unbind()
    part = torch.ones(N, dtype=torch.bool) if part is None else part
    call = attnviz.AttentionCall(q, k, k, 0.5, bias=part[None, None, None])
    tokens = side((torch.arange(N) - 2).clamp_min(-1)[None], part[None])
    return LayerInput(call, tokens, tokens, weights[None, None], N - 2, progress=progress)


def one_hot() -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(17), N).double()


@pytest.mark.parametrize("small", [1024, 10])
@pytest.mark.parametrize("kind", ["one", "many", "uniform", "masked"])
def test_received_is_the_weighted_sum_of_rows_however_it_is_got(
    kind: str, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SMALL", small)
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
    call = asked.call
    a = reference.attention_matrix(call.query, call.key, scale=call.scale, bias=call.bias)
    expected = reference.received(a, weights)[0, :, 2:]
    maps = asked.on_cells(asked.received())[0]
    torch.testing.assert_close(maps.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("small", [1024, 10])
def test_windows_give_to_the_cells_that_their_keys_stand_for(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SMALL", small)
    torch.manual_seed(1)
    cells = torch.where(torch.rand(5, 12) > 0.2, torch.randint(0, 40, (5, 12)), -1)
    q, k, bias = torch.randn(5, 2, 8, 4), torch.randn(5, 2, 12, 4), torch.randn(5, 1, 8, 12)
    call = attnviz.AttentionCall(q, k, k, 0.5, bias=bias)
    for chosen in (
        [(3, 2)],
        [(0, 1), (4, 7), (4, 0)],
        [(w, i) for w in range(5) for i in range(8)],
    ):
        weights = torch.zeros(5, 8)
        for where in chosen:
            weights[where] = torch.rand(())
        asked = LayerInput(
            call, side(torch.arange(40).view(5, 8)), side(cells), weights[:, None], 40
        )
        expected = torch.zeros(2, 40, dtype=torch.float64)
        a = reference.attention_matrix(q, k, scale=0.5, bias=bias)
        for window, j in (cells >= 0).nonzero().tolist():
            expected[:, cells[window, j]] += a[window, :, :, j] @ weights[window].double()
        maps = asked.on_cells(asked.received())[0]
        torch.testing.assert_close(maps.double(), expected, atol=1e-6, rtol=1e-5)


def test_a_layer_is_swept_once() -> None:
    asked = reading(torch.rand(N))
    assert asked.sweep() is asked.sweep()


def test_progress_is_told() -> None:
    seen: list[tuple[int, int]] = []
    reading(one_hot(), progress=lambda done, of: seen.append((done, of))).sweep()
    assert seen == sorted(set(seen))
    assert seen[-1] == (N, N)


def test_several_questions_are_answered_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    for small in (1024, 10):
        monkeypatch.setattr(module, "_SMALL", small)
        torch.manual_seed(3)
        for weights in (torch.eye(N)[[3, 50, 3]], torch.rand(2, N), torch.full((2, N), 1 / N)):
            together = LayerInput.of(reading(weights[0]).call, weights).received()
            for i, each in enumerate(weights):
                alone = reading(each).received()
                torch.testing.assert_close(together[:, i : i + 1], alone, atol=1e-6, rtol=1e-5)


def test_layers_of_one_shape_are_swept_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    sweep = attnviz.AttentionCall.sweep

    def counted(call: attnviz.AttentionCall, *given: Any, **more: Any) -> Sweep:
        seen.append(call.shape)
        return sweep(call, *given, **more)

    def layers() -> list[LayerInput]:
        found, stream = [], torch.Generator().manual_seed(1)
        for number, tokens in enumerate([20, 20, 30, 20, 20]):
            q, k = torch.randn(2, 2, 3, tokens, 4, generator=stream).unbind()
            bias = torch.randn(1, 1, tokens, tokens, generator=stream) if number == 4 else None
            call = attnviz.AttentionCall(q, k, k, 0.5, bias=bias)
            cells = (torch.arange(tokens) - 2).clamp_min(-1).repeat(2, 1)
            part = torch.rand(2, tokens, generator=stream) > 0.2
            weights = torch.rand(2, 1, tokens, generator=stream)
            tokens_of = side(cells, part)
            found.append(LayerInput(call, tokens_of, tokens_of, weights, tokens, progress=done))
        return found

    def done(rows: int, of: int) -> None:
        assert rows == of

    alone, together = layers(), layers()
    sweep_together(together)  # a CPU sweeps each for itself, when it is asked
    assert not any("_sweep" in vars(each) for each in together)
    monkeypatch.setitem(TOGETHER, "cpu", 1 << 20)
    monkeypatch.setattr(attnviz.AttentionCall, "sweep", counted)
    sweep_together(together)
    assert seen == [(6, 3, 20, 20)]
    for one, other in zip(measure_all(alone), measure_all(together), strict=True):
        assert one.keys() == other.keys()
        for name, values in one.items():
            torch.testing.assert_close(other[name], values, rtol=1e-6, atol=1e-6)
    for one_layer, other_layer in zip(alone, together, strict=True):
        torch.testing.assert_close(other_layer.received(), one_layer.received())


def test_numbers_come_to_the_host_as_they_are() -> None:
    given = [torch.rand(3), torch.rand(2, 4).double(), torch.zeros(0)]
    for found, each in zip(to_host(given), given, strict=True):
        torch.testing.assert_close(found, each.float())
    assert to_host([]) == []
