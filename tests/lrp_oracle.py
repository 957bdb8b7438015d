"""AttnLRP of a pre-norm transformer, written as a forward pass whose gradient × input it is.

Nothing of it is attnviz's: standard deviations and ratios y/x are cut off, and of a product each
factor is seen by half.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Affine = tuple[Tensor, Tensor | None]
"""Weight and bias."""
Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    norm: Affine
    q: Affine
    k: Affine
    v: Affine
    out: Affine
    mlp_norm: Affine
    up: Affine
    down: Affine


def layer(state: dict[str, Tensor], names: Sequence[str]) -> Layer:
    """Of a state dict, by names of the eight parts, in float64."""
    parts = [(state[f"{n}.weight"].double(), state[f"{n}.bias"].double()) for n in names]
    return Layer(*parts)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, of which each factor is seen by half."""
    return (a @ b.detach() + a.detach() @ b) / 2


def normed(x: Tensor, affine: Affine, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt().detach()
    weight, bias = affine
    return centred / spread * weight + (0 if bias is None else bias)


def activated(x: Tensor, activation: Activation) -> Tensor:
    return x * (activation(x) / x).detach()


def linear(x: Tensor, affine: Affine) -> Tensor:
    weight, bias = affine
    return x @ weight.T + (0 if bias is None else bias)


def block(
    x: Tensor,
    of: Layer,
    *,
    heads: int,
    activation: Activation,
    eps: float,
    mask: Tensor | None,
    constant: bool = False,
) -> Tensor:
    """(B, N, F) → the same; a mask (B, N) leaves keys out; CP-LRP's weights are `constant`."""
    inner = normed(x, of.norm, eps)
    q, k, v = (
        linear(inner, each).view(*x.shape[:2], heads, -1).transpose(1, 2)
        for each in (of.q, of.k, of.v)
    )
    scores = product(q, k.transpose(-2, -1)) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    weights = scores.softmax(-1)
    mixed = weights.detach() @ v if constant else product(weights, v)
    x = x + linear(mixed.transpose(1, 2).flatten(2), of.out)
    inner = activated(linear(normed(x, of.mlp_norm, eps), of.up), activation)
    return x + linear(inner, of.down)


def relevance(
    tokens: Tensor,
    layers: Sequence[Layer],
    head: Callable[[Tensor], Tensor],
    *,
    heads: int,
    activation: Activation = F.gelu,
    eps: float = 1e-5,
    mask: Tensor | None = None,
    constant: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """The score that `head` makes, and R of the tokens that enter each layer, (B, N)."""
    x = tokens.detach().double().requires_grad_()
    entering = [x]
    for each in layers:
        more: dict[str, Any] = {"activation": activation, "eps": eps, "mask": mask}
        entering.append(block(entering[-1], each, heads=heads, constant=constant, **more))
    score = head(entering[-1])
    found = torch.autograd.grad(score, entering[:-1])
    return score, [(x * g).sum(-1).detach() for x, g in zip(entering, found, strict=False)]
