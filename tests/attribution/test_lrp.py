"""AttnLRP of whole models against a transformer written out, and what it keeps of a score."""

from collections.abc import Callable
from typing import Any

import lrp_oracle as oracle
import pytest
import torch
from lrp_models import CLASS, FEATURES, HEADS, LAYERS, classifier, close, pixels
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import attnviz
from attnviz.attribution import propagate
from attnviz.attribution.backward_rules import rules_for
from attnviz.errors import RecordingError, UsageError

VIT = (
    "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj",
    "layernorm_after", "mlp.fc1", "mlp.fc2",
)  # fmt: skip
TINY = (
    "attention.q_linear", "attention.k_linear", "attention.v_linear", "attention.out",
    "mlp_norm", "mlp.0", "mlp.2",
)  # fmt: skip


def quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("act", "activation"),
    [
        ("gelu", F.gelu), ("gelu_new", tanh_gelu), ("gelu_pytorch_tanh", tanh_gelu),
        ("quick_gelu", quick), ("silu", F.silu), ("relu", F.relu),
    ],
)  # fmt: skip
def test_a_vit_of_transformers_is_the_transformer_written_out(
    attention: str, act: str, activation: oracle.Activation
) -> None:
    model = classifier(attention, act)
    with attnviz.record(gradients=True, blocks=model) as recording:
        logits = model(pixels()).logits
    state = model.state_dict()
    names = [[f"vit.layers.{i}.{n}" for n in ("layernorm_before", *VIT)] for i in range(LAYERS)]
    for index in (CLASS, 0):  # the graph is kept for other scores
        norm = state["vit.layernorm.weight"], state["vit.layernorm.bias"]
        last = state["classifier.weight"], state["classifier.bias"]

        def head(x: Tensor, index: int = index, norm: Any = norm, last: Any = last) -> Tensor:
            return oracle.linear(oracle.normed(x[:, 0], norm, 1e-12), last)[:, index].sum()

        score, expected = oracle.relevance(
            recording.blocks[0].input,
            [oracle.layer(state, each) for each in names],
            head,
            heads=HEADS, activation=activation, eps=1e-12,
        )  # fmt: skip
        near = 1e-9 if attention == "sdpa" else 1e-5  # the eager softmax is in float32
        found = logits[:, index].sum()
        torch.testing.assert_close(found, score, rtol=near, atol=near)
        for number in range(LAYERS):
            close(propagate(found, recording.blocks[number].input), expected[number], near)
        _, constant = oracle.relevance(
            recording.blocks[0].input, [oracle.layer(state, each) for each in names], head,
            heads=HEADS, activation=activation, eps=1e-12, constant=True,
        )  # fmt: skip
        by_cp = propagate(found, recording.blocks[0].input, rule="cp")
        close(by_cp, constant[0], near)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_the_embedded_model_is_the_transformer_written_out(kind: torch.dtype, masked: bool) -> None:
    module: Any = attnviz.load_model("tiny", head="class").module.to(kind)
    torch.manual_seed(3)
    mask = (torch.rand(2, 5 + 16) > 0.3) if masked else None
    with attnviz.record(gradients=True, blocks=module) as recording:
        logits = module(pixels(kind), mask)
    state = module.state_dict()
    names = [[f"blocks.{i}.{n}" for n in ("attention_norm", *TINY)] for i in range(6)]

    def head(x: Tensor) -> Tensor:
        norm, last = [
            (state[f"{n}.weight"].double(), state[f"{n}.bias"].double()) for n in ("norm", "head")
        ]
        return oracle.linear(oracle.normed(x[:, 0], norm, 1e-5), last)[0, 7]

    layers = [oracle.layer(state, each) for each in names]
    _, expected = oracle.relevance(recording.blocks[0].input, layers, head, heads=8, mask=mask)
    for number in (0, 1, 5):
        found = propagate(logits[0, 7], recording.blocks[number].input)
        assert found.dtype == kind
        assert not found.requires_grad
        close(found, expected[number], 1e-9 if kind == torch.float64 else 1e-5)


class Plain(nn.Module):
    """A block without biases and softmax, of which nothing that relevance lies on is lost."""

    def __init__(self, mlp: str) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(FEATURES, bias=False) for _ in range(2))
        self.qkv = nn.Linear(FEATURES, 3 * FEATURES, bias=False)
        self.out = nn.Linear(FEATURES, FEATURES, bias=False)
        self.up = nn.Linear(FEATURES, 64, bias=False)
        self.down = nn.Linear(32 if mlp == "gated" else 64, FEATURES, bias=False)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1)).relu() / x.shape[1]
        x = x + self.out((weights @ v).transpose(1, 2).flatten(2))
        inner = self.up(self.norms[1](x))
        if self.mlp == "gated":
            a, b = inner.chunk(2, -1)
            inner = F.silu(a) * b
        else:
            inner = quick(inner) if self.mlp == "quick" else F.gelu(inner)
        added: Tensor = self.down(inner)
        return x + added


@pytest.mark.parametrize("mlp", ["gelu", "quick", "gated"])
def test_without_biases_and_softmax_the_whole_score_arrives_at_every_layer(mlp: str) -> None:
    torch.manual_seed(0)
    blocks = [Plain(mlp).double() for _ in range(3)]
    weight = torch.randn(FEATURES, dtype=torch.float64)
    entering = [torch.randn(2, 7, FEATURES, dtype=torch.float64, requires_grad=True)]
    for block in blocks:
        entering.append(block(entering[-1]))
    score = (F.rms_norm(entering[-1], (FEATURES,)).mean(1) @ weight).sum()
    for tokens in entering:
        found = propagate(score, tokens)
        assert float(found.sum()) == pytest.approx(score.item(), rel=1e-9)


@pytest.mark.parametrize("rule", ["epsilon", "cp"])
@pytest.mark.parametrize("kind", ["plain", "masked", "causal", "biased"])
def test_fused_attention_is_attention_written_out(kind: str, rule: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 12, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    keep = torch.rand(2, 1, 6, 6) > 0.4
    keep |= torch.eye(6, dtype=torch.bool)
    q, k, v = x.chunk(3, -1)
    # Made of the picture, as SAM's: PyTorch then computes attention by its composite.
    bias = (q @ torch.randn(4, 6, dtype=torch.float64)) if kind == "biased" else None
    if kind == "causal":
        fused = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7)
        keep = torch.ones(6, 6, dtype=torch.bool).tril()
    else:
        mask = {"masked": keep, "biased": bias}.get(kind)
        fused = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.7)
    scores = oracle.product(q, k.mT) * 0.7
    if kind in ("masked", "causal"):
        scores = scores.masked_fill(~keep, -torch.inf)
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(-1)
    expected = weights.detach() @ v if rule == "cp" else oracle.product(weights, v)
    torch.testing.assert_close(fused, expected)
    (g,) = torch.autograd.grad((expected * w).sum(), x, retain_graph=True)
    close(propagate((fused * w).sum(), x, rule=rule), (x * g).sum(-1).detach())
    by_hand = (q @ k.mT) * 0.7
    if kind in ("masked", "causal"):
        by_hand = by_hand.masked_fill(~keep, -torch.inf)
    if bias is not None:
        by_hand = by_hand + bias
    found = propagate(((by_hand.softmax(-1) @ v) * w).sum(), x, rule=rule)
    close(found, (x * g).sum(-1).detach())


@pytest.mark.parametrize("fused", [False, True])
def test_what_is_made_of_parameters_alone_is_constant(fused: bool) -> None:
    """A pool's learned query, with or without gradients of its own: keys have all of q·kᵀ."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 5, 8, dtype=torch.float64, requires_grad=True)
    w = torch.randn(8, dtype=torch.float64)
    found = []
    for learned in (False, True):
        torch.manual_seed(1)
        probe = nn.Parameter(torch.randn(1, 1, 1, 8, dtype=torch.float64), requires_grad=learned)
        q = probe * 2 + 1
        if fused:
            y = F.scaled_dot_product_attention(q, x, x, scale=1.0)
        else:
            y = (q @ x.mT).softmax(-1) @ x
        found.append(propagate((y @ w).sum(), x))
    expected = oracle.product((q.detach() @ x.mT).softmax(-1), x)
    (g,) = torch.autograd.grad((expected @ w).sum(), x)
    for each in found:
        close(each, (x * g).sum(-1).detach())


def test_an_ordinary_gradient_is_as_before() -> None:
    model = classifier("sdpa")
    given = pixels()
    with attnviz.record(gradients=True, blocks=model) as recording:
        score = model(given).logits[:, 1].sum()
    (before,) = torch.autograd.grad(score, given, retain_graph=True)
    tokens = recording.blocks[0].input
    first = propagate(score, tokens)
    assert torch.equal(torch.autograd.grad(score, given, retain_graph=True)[0], before)
    assert torch.equal(propagate(score, tokens), first)
    assert given.grad is None
    bad = score + tokens.exp().sum()
    with pytest.raises(RecordingError, match="no rule for exp"):
        propagate(bad, tokens)
    assert torch.equal(torch.autograd.grad(score, given, retain_graph=True)[0], before)


def test_half_precision_is_near() -> None:
    model = classifier("sdpa").float()
    found = []
    for kind in (torch.float32, torch.bfloat16):
        model.to(kind)
        with attnviz.record(gradients=True, blocks=model) as recording:
            score = model(pixels(kind)).logits[0, CLASS].float()
        found.append(propagate(score, recording.blocks[1].input))
    assert found[1].dtype == torch.float32
    close(found[1], found[0], 0.1)


class Mul(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


def written(x: Tensor) -> Tensor:
    y = x * 1
    y[:, 0].exp_()
    return y


UNKNOWN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "exp": (torch.exp, "no rule for exp,"),
    "pow": (lambda x: x**3, "no rule for pow,"),
    "max": (lambda x: x.amax(-1), "no rule for amax,"),
    "log softmax": (lambda x: x.log_softmax(-1), "no rule for log_softmax,"),
    "reciprocal": (lambda x: 1 / x, "no rule for reciprocal,"),
    "quotient": (lambda x: x / (x + 3), "no rule for div by what depends on the picture"),
    "quotient of a constant": (lambda x: torch.ones(4) / x, "no rule for div by what depends"),
    "kernels": (lambda x: F.conv1d(x, x[None, :, :2]), "no rule for convolution with kernels"),
    "norm in training": (
        lambda x: F.batch_norm(x, None, None, training=True),
        "no rule for native_batch_norm in training",
    ),
    "function": (Mul.apply, "no rule for mul_backward,"),
    "write": (written, "no rule for copy_slices,"),
    "saturated tanh": (lambda x: (100 * x).tanh(), "tanh is so close to 1"),
    "saturated sigmoid": (lambda x: (100 * x).sigmoid(), "sigmoid is so close to 1"),
    "nothing": (lambda x: x.detach() + torch.ones(1, requires_grad=True), "does not depend on"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_there_is_no_rule_for_is_named(name: str) -> None:
    function, words = UNKNOWN[name]
    x = torch.arange(1.0, 13).reshape(1, 3, 4).requires_grad_()
    with pytest.raises(RecordingError, match=words):
        propagate(function(x[0]).sum(), x)


def test_what_is_no_score_or_has_no_graph_is_said() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(UsageError, match="one number"):
        propagate(x * 2, x)
    with pytest.raises(RecordingError, match="requires_grad_"):
        propagate((x * 2).sum(), x.detach())
    with pytest.raises(RecordingError, match="requires_grad_"):
        propagate((x.detach() * 2).sum(), x)


def test_what_is_beside_the_way_needs_no_rule() -> None:
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    tokens = x.exp() + 1
    score = (tokens * 3).sum() + x.cos().sum()
    torch.testing.assert_close(propagate(score, tokens), 3 * tokens.detach().sum(-1))


def test_layers_that_were_checkpointed_are_refused() -> None:
    x = torch.randn(2, 3, 8, requires_grad=True)
    layer = nn.Sequential(nn.Linear(8, 8), nn.GELU())
    with pytest.raises(RecordingError, match="checkpoint"):
        propagate(checkpoint(layer, x, use_reentrant=False).sum(), x)


@pytest.mark.parametrize(
    ("name", "depends", "expected"),
    [
        ("ScaledDotProductEfficientAttentionBackward0", (1, 1, 1, 0), [0.25, 0.25, 0.5, 0.5]),
        ("ScaledDotProductEfficientAttentionBackward0", (1, 1, 1, 1), [0.25, 0.25, 0.5, 0.5]),
        ("ScaledDotProductCudnnAttentionBackward0", (1, 1, 1), [0.25, 0.25, 0.5]),
        ("ScaledDotProductFlashAttentionBackward0", (0, 1, 1), [0.5, 0.5, 0.5]),
        ("ScaledDotProductFlashAttentionBackward0", (0, 0, 1), [1, 1, 1]),
        ("ScaledDotProductFlashAttentionBackward0", (1, 1, 0), [0.5, 0.5, 1]),
    ],
)
def test_kernels_of_other_devices_share_alike(
    name: str, depends: tuple[int, ...], expected: list[float]
) -> None:
    class Stub:
        next_functions = ((None, 0),) * len(depends)

        def name(self) -> str:
            return name

    assert rules_for(Stub(), tuple(map(bool, depends))) == expected  # type: ignore[arg-type]
