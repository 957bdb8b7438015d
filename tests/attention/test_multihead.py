import math

import pytest
import torch
from torch import Tensor, nn

import attnviz


class Seed(nn.Module):
    """The layer that this project started from: everything materialised, nothing clever."""

    def __init__(self, n_heads: int, n_features: int) -> None:
        super().__init__()
        self.h, self.d = n_heads, n_features // n_heads
        self.q_linear = nn.Linear(n_features, n_features)
        self.k_linear = nn.Linear(n_features, n_features)
        self.v_linear = nn.Linear(n_features, n_features)
        self.out = nn.Linear(n_features, n_features)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        b, n, f = x.shape
        q = self.q_linear(x).view(b, n, self.h, self.d).transpose(1, 2)
        k = self.k_linear(x).view(b, n, self.h, self.d).transpose(1, 2)
        v = self.v_linear(x).view(b, n, self.h, self.d).transpose(1, 2)
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(self.d)
        if mask is not None:
            mask = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
            scores = scores.masked_fill(mask == 0, -1e9)
        attentions = torch.softmax(scores, dim=-1)
        heads = torch.matmul(attentions, v)
        return self.out(heads.transpose(1, 2).reshape(b, n, f)), attentions


def masks(kind: str, batch: int, tokens: int) -> Tensor | None:
    torch.manual_seed(3)
    if kind == "none":
        return None
    shape = (batch, tokens) if kind == "keys" else (batch, tokens, tokens)
    mask = (torch.rand(shape) < 0.6).long()
    mask[..., 0] = 1  # no row without a key: there the seed has no good answer
    return mask


@pytest.mark.parametrize("kind", ["none", "keys", "pairs"])
@pytest.mark.parametrize(("heads", "features"), [(1, 6), (8, 64), (3, 48)])
@torch.no_grad()
def test_output_and_weights_equal_the_seed_layer(kind: str, heads: int, features: int) -> None:
    torch.manual_seed(0)
    seed, ours = Seed(heads, features), attnviz.MultiHeadAttention(heads, features)
    ours.load_state_dict(seed.state_dict())
    x = torch.randn(2, 37, features)
    mask = masks(kind, 2, 37)
    expected, expected_weights = seed(x, mask)
    output, weights = ours(x, mask)
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights, expected_weights, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["none", "keys", "pairs"])
@torch.no_grad()
def test_the_fused_path_gives_the_same_output_and_no_weights(kind: str) -> None:
    torch.manual_seed(1)
    layer = attnviz.MultiHeadAttention(4, 32)
    x = torch.randn(2, 50, 32)
    mask = masks(kind, 2, 50)
    fused, weights = layer(x, mask, need_weights=False)
    assert weights is None
    torch.testing.assert_close(fused, layer(x, mask)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_row_whose_keys_are_all_masked_is_zero_and_its_gradient_finite(
    need_weights: bool,
) -> None:
    layer = attnviz.MultiHeadAttention(2, 8)
    x = torch.randn(1, 5, 8, requires_grad=True)
    mask = torch.ones(1, 5, 5)
    mask[0, 2] = 0
    output, weights = layer(x, mask, need_weights=need_weights)
    torch.testing.assert_close(output[0, 2], layer.out.bias)
    output.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    if weights is not None:
        assert (weights[0, :, 2] == 0).all()
        torch.testing.assert_close(weights[0, :, 3].sum(-1), torch.ones(2))


def test_every_token_masked_gives_zeros_not_nan() -> None:
    layer = attnviz.MultiHeadAttention(2, 8)
    output, weights = layer(torch.randn(1, 5, 8), torch.zeros(1, 5))
    assert (weights == 0).all()
    torch.testing.assert_close(output, layer.out.bias.expand(1, 5, 8))


def test_parameters_are_the_four_linear_layers() -> None:
    layer = attnviz.MultiHeadAttention(8, 64)
    expected = {
        f"{name}.{part}"
        for name in ("q_linear", "k_linear", "v_linear", "out")
        for part in ("weight", "bias")
    }
    assert set(layer.state_dict()) == expected


def test_features_that_heads_do_not_divide_are_refused_with_both_numbers() -> None:
    with pytest.raises(attnviz.AttnvizError, match=r"65 features .* 8 heads"):
        attnviz.MultiHeadAttention(8, 65)
