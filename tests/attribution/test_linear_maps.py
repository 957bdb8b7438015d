"""Rules for linear maps: γ, α = 1 and biases, on every operator that makes one; what is kept."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lrp_models import CLASS, classifier, close, pixels
from torch import Tensor, nn
from torch.nn import functional as F

import attnviz
from attnviz.attribution import propagate
from attnviz.attribution.operator_inputs import OperatorInputs
from attnviz.attribution.propagation import modified_gradient, relevance_at
from attnviz.errors import RecordingError, UsageError


def drawn(*shape: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64)


def at(x: Tensor) -> Callable[[Tensor], dict[int, Tensor]]:
    """What goes back from a score to one tensor."""
    return lambda score: {0: torch.autograd.grad(score, x, retain_graph=True)[0]}


BIAS = drawn(4, seed=8)
KERNEL, IMAGE_BIAS = drawn(4, 2, 2, 2, seed=9), drawn(4, seed=10)
MAPS: dict[str, tuple[tuple[int, ...], Tensor | None, Callable[[Tensor], Tensor]]] = {
    "mm": ((3, 6), None, lambda x: x @ drawn(6, 4, seed=1)),
    "addmm": ((3, 6), BIAS, lambda x: F.linear(x, drawn(4, 6, seed=1), BIAS)),
    "several": ((2, 3, 6), BIAS, lambda x: F.linear(x, drawn(4, 6, seed=1), BIAS)),
    "factors": (
        (3, 6),
        2 * BIAS,
        lambda x: torch.addmm(BIAS, x, drawn(6, 4, seed=1), beta=2, alpha=-3),
    ),
    "bmm": ((2, 3, 6), None, lambda x: torch.bmm(x, drawn(2, 6, 4, seed=1))),
    "baddbmm": ((2, 3, 6), BIAS, lambda x: torch.baddbmm(BIAS, x, drawn(2, 6, 4, seed=1))),
    "from the left": ((6, 3), None, lambda x: drawn(4, 6, seed=1) @ x),
    "mv": ((3, 6), None, lambda x: x @ drawn(6, seed=1)),
    "of a vector": ((6,), None, lambda x: drawn(4, 6, seed=1) @ x),
    "addmv": ((6,), BIAS, lambda x: torch.addmv(BIAS, drawn(4, 6, seed=1), x)),
    "dot": ((6,), None, lambda x: x @ drawn(6, seed=1)),
    "convolution": (
        (1, 2, 5, 4),
        IMAGE_BIAS[:, None, None],
        lambda x: F.conv2d(x, KERNEL, IMAGE_BIAS, stride=(2, 1), padding=1),
    ),
    "of groups": ((1, 4, 5, 4), None, lambda x: F.conv2d(x, KERNEL, groups=2)),
    "transposed": ((1, 4, 3, 3), None, lambda x: F.conv_transpose2d(x, KERNEL, stride=2)),
}


def contributions(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What each element of x adds to each of y, (y, x)."""
    eye = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    zero = function(torch.zeros_like(x))
    rows = [(function(each) - zero).flatten() for each in eye]
    return torch.stack(rows, 1).detach() * x.detach().flatten()


@pytest.mark.parametrize("name", MAPS)
def test_gamma_favours_what_speaks_for_an_output(name: str) -> None:
    shape, bias, function = MAPS[name]
    x = drawn(*shape).requires_grad_()
    with OperatorInputs() as kept:
        y = function(x)
    w, parts, z = drawn(*y.shape, seed=2), contributions(function, x), y.detach().flatten()
    added = torch.zeros_like(z) if bias is None else bias.expand_as(y).flatten()
    up = z.sign()
    favour = up[:, None] * (up[:, None] * parts).relu()
    total = favour.sum(1) + up * (up * added).relu()
    share = (w.flatten() * z) / (z + 0.3 * total)
    expected = (share[:, None] * (parts + 0.3 * favour)).sum(0)
    g = modified_gradient((y * w).sum(), x, "gamma", gamma=0.3, inputs=kept)
    close((x * g).flatten().detach(), expected, 1e-6)


@pytest.mark.parametrize("name", MAPS)
def test_positive_contributions_alone_share_relevance(name: str) -> None:
    shape, _, function = MAPS[name]
    x = drawn(*shape).requires_grad_()
    with OperatorInputs() as kept:
        y = function(x)
        score = torch.linalg.vector_norm(y)  # R of y is y²/Σy²
    positive = contributions(function, x).relu()
    relevance = y.detach().flatten() ** 2 / (y**2).sum().detach()
    shares = (positive / positive.sum(1, keepdim=True)).nan_to_num(0)  # of what has none, nothing
    expected = (relevance[:, None] * shares).sum(0)
    found = relevance_at(score, kept, at(x))
    close(found[0].flatten(), expected, 1e-6)


SUMS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "addmm": ((4, 6), lambda x: torch.addmm(x, x, drawn(6, 6, seed=1))),
    "baddbmm": ((2, 4, 6), lambda x: torch.baddbmm(x, x, drawn(2, 6, 6, seed=1))),
    "addmv": ((6,), lambda x: torch.addmv(x, drawn(6, 6, seed=1), x)),
}


@pytest.mark.parametrize("rule", ["epsilon", "gamma"])
@pytest.mark.parametrize("name", SUMS)
def test_what_is_added_to_a_product_may_depend_on_the_input_too(name: str, rule: Any) -> None:
    shape, fused = SUMS[name]
    x = drawn(*shape).requires_grad_()
    with OperatorInputs() as kept:
        score = fused(x).sum()
    found = propagate(score, x, rule=rule, inputs=kept).sum()
    close(found, score.detach(), 1e-6)  # no relevance is lost
    with OperatorInputs() as kept:
        score = torch.linalg.vector_norm(fused(x))
    with pytest.raises(RecordingError, match=f"attribution has no rule for {name}"):
        relevance_at(score, kept, at(x))


@pytest.mark.parametrize("act", ["gelu", "silu", "quick_gelu"])
def test_libra_is_complete(act: str) -> None:
    """Over all tokens of a layer, R is the score less the bias of the head."""
    model = classifier("sdpa", act)
    given = pixels()[:1].detach().requires_grad_()
    with OperatorInputs() as kept, attnviz.record(gradients=True, blocks=model) as recording:
        logits = model(given).logits
    score = logits[0, CLASS]
    for block in recording.blocks.values():
        found = propagate(score, block.input, rule="libra", inputs=kept)
        expected = score - model.classifier.bias[CLASS]
        assert float(found.sum()) == pytest.approx(float(expected.detach()), rel=1e-9)


def test_no_relevance_is_lost_on_the_way_to_attribution() -> None:
    """Products have half each, sums what each term is of them, norms and the softmax all."""
    model = classifier("sdpa")
    given = pixels()[:1].detach().requires_grad_()
    with OperatorInputs() as kept, attnviz.record(gradients=True, blocks=model) as recording:
        logits = model(given).logits

    def at_blocks(score: Tensor) -> dict[int, Tensor]:
        tokens = [block.input for block in recording.blocks.values()]
        return dict(enumerate(torch.autograd.grad(score, tokens, retain_graph=True)))

    with kept:
        score = logits[0, CLASS]
    for found in relevance_at(score, kept, at_blocks).values():
        assert float(found.sum()) == pytest.approx(1, rel=1e-4)
        assert found.abs().max() > 0


def test_what_is_overwritten_is_kept_as_it_was() -> None:
    x, w = drawn(3, 4).requires_grad_(), drawn(4, 4, seed=1)
    with OperatorInputs() as kept:
        y = x @ w
        z = y @ w
        y.mul_(2)  # frozen weights need no input, so autograd allows it
        z += y
    entries = kept.of(z.grad_fn.next_functions[0][0]), kept.of(z.grad_fn)  # type: ignore[union-attr]
    assert entries[0] is not None
    assert entries[1] is not None
    torch.testing.assert_close(entries[0].tensor(0), (x @ w).detach())
    torch.testing.assert_close(entries[1].tensor(0), (x @ w @ w).detach())
    torch.testing.assert_close(entries[1].tensor(1), (2 * x @ w).detach())


def test_what_is_missing_is_said() -> None:
    x = drawn(3, 4).requires_grad_()
    with pytest.raises(UsageError, match="OperatorInputs"):
        propagate((x @ drawn(4, seed=1)).sum(), x, rule="gamma")
    with (
        OperatorInputs() as kept,
        pytest.raises(RecordingError, match="attribution has no rule for exp"),
    ):
        relevance_at(x.exp().sum() * 2, kept, at(x))


class Gated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return F.silu(a) * b


def test_a_gate_and_a_difference_share_relevance() -> None:
    x = drawn(3, 4).requires_grad_()
    with OperatorInputs() as kept:
        score = torch.linalg.vector_norm(Gated()(x))
    found = relevance_at(score, kept, at(x))
    y = Gated()(x).detach()
    half = y**2 / (y**2).sum() / 2
    close(found[0], torch.cat([half, half], -1), 1e-6)
