"""Forms of attention that are no textbook softmax(q·kᵀ)·v, against the weights of each module."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from forms import COLUMNS, FORMS, ROWS, Form, Local
from torch import Tensor

import attnviz
from attnviz.recording import Recording

Watch = Callable[..., tuple[Recording, Any]]
MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "gradients": torch.enable_grad,
}


def pixels() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(1, 3, 32, 48)


def centres() -> Tensor:
    """(tokens, 2): x and y of the middle of each patch."""
    y, x = torch.meshgrid(torch.arange(ROWS) * 8.0, torch.arange(COLUMNS) * 8.0, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1) + 4


def neighbours() -> Tensor:
    """(tokens, 9, 2): centres of the 3×3 neighbours; NaN outside of the picture."""
    off = torch.tensor([(x, y) for y in (-8.0, 0.0, 8.0) for x in (-8.0, 0.0, 8.0)])
    found = centres()[:, None] + off
    inside = ((found > 0) & (found < torch.tensor([48.0, 32.0]))).all(-1, keepdim=True)
    return found.where(inside, torch.nan)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_recorded_with_its_own_weights_and_places(
    name: str, mode: str, watch: Watch
) -> None:
    module, x = FORMS[name]().eval(), pixels()
    with MODES[mode]():
        recording, _ = watch(lambda: module(x), picture=x)
    assert recording.unread == []
    (call,) = recording
    assert module.weights is not None
    assert call.shape == module.weights.shape
    assert (call.matrix() - module.weights.detach()).abs().max() < 1e-6
    assert (call.kind, call.sums_to_one) == (module.kind, module.sums_to_one)
    error = call.check()
    assert error is not None
    assert error < 1e-5
    _check_places(module, call.query_positions, call.key_positions)


def _check_places(module: Form, queries: Tensor | None, keys: Tensor | None) -> None:
    assert queries is not None
    assert keys is not None
    if isinstance(module, Local):
        torch.testing.assert_close(queries[:, 0], centres())
        torch.testing.assert_close(keys, neighbours(), equal_nan=True)
        return
    torch.testing.assert_close(keys[0], centres())
    if module.pools:
        assert bool(queries.isnan().all())
    else:
        torch.testing.assert_close(queries[0], centres())


@pytest.mark.parametrize("name", [name for name in FORMS if name != "PoolOfSigmoids"])
def test_a_form_is_recorded_without_a_picture(name: str, watch: Watch) -> None:
    module, x = FORMS[name]().eval(), pixels()
    with torch.no_grad():
        recording, _ = watch(lambda: module(x))
    assert recording.unread == []
    (call,) = recording
    assert module.weights is not None
    assert call.matrix().numel() == module.weights.numel()
    assert (call.matrix().flatten() - module.weights.flatten()).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["Additive", "Difference", "Sink"])
def test_gradients_at_explicit_weights_are_those_of_autograd(name: str) -> None:
    module, x = FORMS[name]().eval(), pixels()
    with attnviz.record(picture=x, gradients=True) as recording:
        score = module(x).square().sum()
    assert module.weights is not None
    (expected,) = torch.autograd.grad(score, [module.weights], retain_graph=True)
    found = recording.gradients(score)
    call = replace(recording[0], gradient=found[0])
    rows = call.weight_gradient(range(call.shape[2]))
    torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-4)


def test_statistics_that_need_a_distribution_are_nan_without_one(watch: Watch) -> None:
    module, x = FORMS["Difference"]().eval(), pixels()
    with torch.no_grad():
        (call,), _ = watch(lambda: module(x), picture=x)
    assert bool(call.entropy().isnan().all())
    assert module.weights is not None
    torch.testing.assert_close(call.received(), module.weights.mean(2))
