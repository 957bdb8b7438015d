"""Rules of AttnLRP one by one: what each operation makes of the relevance of its result."""

import math
from collections.abc import Callable

import lrp_oracle as oracle
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnviz.attribution import propagate
from attnviz.attribution.backward_rules import rules_for

Function = Callable[[Tensor], Tensor]


def drawn(*shape: int, seed: int = 0, kind: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(*shape, dtype=kind)


def each(score: Tensor, x: Tensor) -> Tensor:
    """Relevance of every element of x, as the only feature of a token."""
    assert x.shape[-1] == 1
    return propagate(score, x)


OF_ELEMENTS: dict[str, Function] = {
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "relu": F.relu,
    "leaky relu": F.leaky_relu,
    "prelu": lambda x: F.prelu(x, torch.full((1,), 0.3, dtype=x.dtype)),
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.7),
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "quick gelu, turned": lambda x: (1.702 * x).sigmoid() * x,
    "gelu by hand": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu, tanh, by hand": lambda x: (
        0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))
    ),
    "mish by hand": lambda x: x * F.softplus(x).tanh(),
    "square": lambda x: x * x,
    "half": lambda x: x.half().double() * 3,
}


@pytest.mark.parametrize("name", OF_ELEMENTS)
def test_functions_of_elements_pass_relevance_on(name: str) -> None:
    x = drawn(200, 1).mul(3).requires_grad_()
    y, w = OF_ELEMENTS[name](x), drawn(200, 1, seed=1)
    assert torch.autograd.grad(y.sum(), x, retain_graph=True)[0].abs().max() > 0
    near = 1e-2 if name == "half" else 1e-9
    torch.testing.assert_close(each((y * w).sum(), x), (y * w).detach()[:, 0], rtol=near, atol=near)


@pytest.mark.parametrize("name", OF_ELEMENTS)
def test_what_lies_behind_an_input_of_zero_is_finite(name: str) -> None:
    """g is the limit of y/x, which the linear map before it takes on."""
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64, requires_grad=True)
    y = OF_ELEMENTS[name](x.sum(0, keepdim=True))
    found = each(y.sum(), x)
    if name in ("sigmoid", "hardsigmoid", "square", "relu", "leaky relu", "prelu", "relu6"):
        assert torch.isfinite(found).all()
        return
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, (x * slope).detach()[:, 0])


@pytest.mark.parametrize("value", [9.0, 30.0, -30.0, 0.0])
def test_a_gate_that_is_full_or_empty_is_read_from_the_product(value: float) -> None:
    """The sigmoid of 30·1.7 is 1 in float32, so that nothing could be told from it alone."""
    x = torch.full((1, 1), value, requires_grad=True)
    y = OF_ELEMENTS["quick gelu"](x)
    torch.testing.assert_close(each(y.sum(), x), y.detach()[:, 0])


NORMS: dict[str, Function] = {
    "layer norm": lambda x: F.layer_norm(x, (6,), drawn(6, seed=5)),
    "layer norm of two axes": lambda x: F.layer_norm(x, (4, 6), drawn(4, 6, seed=5)),
    "rms norm": lambda x: F.rms_norm(x, (6,), drawn(6, seed=5)),
    "rms norm by hand": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "turned": lambda x: torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * x,
    "layer norm by hand": lambda x: (
        (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()
    ),
    "standard deviation": lambda x: x / (x.std(-1, keepdim=True) + 1e-6),
    "unit": lambda x: F.normalize(x, dim=-1),
    "unit by hand": lambda x: x / x.norm(p=2, dim=-1, keepdim=True),
    "batch norm": lambda x: (
        F.batch_norm(
            x.mT, drawn(6) * 0, drawn(6, seed=3).exp(), drawn(6, seed=5), training=False
        ).mT
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_are_constants(name: str) -> None:
    x, w = drawn(3, 4, 6).requires_grad_(), drawn(3, 4, 6, seed=1)
    y = NORMS[name](x)
    found = propagate((y * w).sum(), x)
    torch.testing.assert_close(found.sum((1,)), (y * w).sum((1, 2)).detach())
    if "two axes" not in name:  # a token's stays with it
        torch.testing.assert_close(found, (y * w).sum(-1).detach())


def test_a_layer_norm_shares_among_features() -> None:
    x, w, weight = (drawn(6, 6, seed=i) for i in range(3))
    mixed = x.requires_grad_() @ weight  # features lie on others
    ours = F.layer_norm(mixed, (6,), weight[0], weight[1])
    written = oracle.normed(mixed, (weight[0], weight[1]), 1e-5)
    (g,) = torch.autograd.grad((written * w).sum(), x, retain_graph=True)
    torch.testing.assert_close(propagate((ours * w).sum(), x), (x * g).sum(-1).detach())


def test_the_fused_rms_norm_of_other_devices() -> None:
    class Stub:
        next_functions = ((None, 0), (None, 0))
        _saved_weight, _saved_result1 = drawn(6), drawn(3, 4, 1).exp()

        def name(self) -> str:
            return "FusedRmsNormBackward0"

    first, second = rules_for(Stub(), (True, False))  # type: ignore[arg-type]
    g = drawn(3, 4, 6, seed=1)
    assert callable(first)
    torch.testing.assert_close(first(g), g * Stub._saved_weight * Stub._saved_result1)
    assert second == 1


def test_a_cosine_is_shared_out_and_so_is_a_norm() -> None:
    x, w = drawn(3, 4).requires_grad_(), drawn(4, seed=1)
    vector = x.sum(0)
    cosine = torch.cosine_similarity(vector, w, dim=0)
    expected = (x @ w).detach() / (vector.norm() * w.norm()).detach()
    torch.testing.assert_close(propagate(cosine, x), expected)
    along = (F.normalize(vector, dim=0) * F.normalize(w, dim=0)).sum()
    torch.testing.assert_close(propagate(along, x), expected)
    norm = torch.linalg.vector_norm(vector)
    torch.testing.assert_close(propagate(norm, x), (x @ vector / norm).detach())


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mm": lambda a, b: a @ b.mT,
    "bmm": lambda a, b: a[None] @ b[None].mT,
    "einsum": lambda a, b: torch.einsum("if,jf->ij", a, b),
    "baddbmm": lambda a, b: torch.baddbmm(torch.ones(1, dtype=a.dtype), a[None], b[None].mT),
    "addmm": lambda a, b: torch.addmm(torch.ones(1, dtype=a.dtype), a, b.mT),
    "mv": lambda a, b: a @ b[0],
    "dot": lambda a, b: a[1] @ b[0],
    "mul": lambda a, b: a * b,
    "addcmul": lambda a, b: torch.addcmul(torch.ones(1, dtype=a.dtype), a, b, value=2),
    "gate": lambda a, b: F.silu(a) * b,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_factors_that_both_depend_have_half_each(name: str) -> None:
    x = drawn(2, 4, 3).requires_grad_()
    function = PRODUCTS[name]
    y = function(x[0], x[1])
    w = drawn(1, *y.shape, seed=1)[0]
    constant = 1.0 if name in ("baddbmm", "addmm", "addcmul") else 0.0
    half = ((y - constant) * w).sum().detach() / 2
    found = propagate((y * w).sum(), x).sum(-1)
    torch.testing.assert_close(found, half.expand(2))
    alone = propagate((function(x[0], x[1].detach()) * w).sum(), x).sum(-1)
    torch.testing.assert_close(alone, torch.stack([2 * half, 0 * half]))


def test_a_softmax_has_taylors_rule() -> None:
    """R_i = x_i·(R^s_i − s_i·Σ R^s), equation 8."""
    x, w = drawn(5, 1).requires_grad_(), drawn(5, seed=1)
    s = x[:, 0].softmax(0)
    of_s = (s * w).detach()
    expected = x.detach()[:, 0] * (of_s - s.detach() * of_s.sum())
    torch.testing.assert_close(each((s * w).sum(), x), expected)


def test_a_convolution_is_a_linear_map() -> None:
    x, w = drawn(1, 3, 8, 8).requires_grad_(), drawn(1, 4, 3, 3, seed=1)
    conv = nn.Conv2d(3, 4, 3, 2, 0, bias=False).double()
    y = F.avg_pool2d(F.interpolate(conv(x), scale_factor=2.0, mode="bilinear"), 2)
    found = propagate((y * w).sum(), x).sum()
    torch.testing.assert_close(found, (y * w).sum().detach())
