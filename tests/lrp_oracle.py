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


def normed(x: Tensor, affine: Affine, eps: float, noted: list[Tensor] | None = None) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt().detach()
    weight, bias = affine
    if noted is not None and bias is not None:
        bias = bias.expand_as(x).clone().requires_grad_()
        noted.append(bias)
    return centred / spread * weight + (0 if bias is None else bias)


def activated(x: Tensor, activation: Activation) -> Tensor:
    return x * (activation(x) / x).detach()


def linear(
    x: Tensor, affine: Affine, gamma: float = 0.0, noted: list[Tensor] | None = None
) -> Tensor:
    """W·x + b, by the γ-rule; `noted` gets b for each token, as a leaf."""
    weight, bias = affine
    if noted is not None and bias is not None:
        bias = bias.expand(*x.shape[:-1], -1).clone().requires_grad_()
        noted.append(bias)
    y = x @ weight.T + (0 if bias is None else bias)
    return favoured(x, y.detach(), affine, gamma) if gamma else y


def favoured(x: Tensor, y: Tensor, affine: Affine, gamma: float) -> Tensor:
    """The map whose gradient × input is the γ-rule, on each contribution of inputs to outputs."""
    parts = x.detach()[..., None, :] * affine[0]  # (…, outputs, inputs)
    up = torch.where(y < 0, -1.0, 1.0).double()
    favour = (up[..., None] * parts).relu()
    total = favour.sum(-1) + (0 if affine[1] is None else (up * affine[1]).relu())
    share = y / (y + gamma * up * total)
    weights = affine[0] * (1 + gamma * (favour > 0)) * share[..., None]
    found = (weights * x[..., None, :]).sum(-1)
    result: Tensor = found + (y - found).detach()
    return result


def block(
    x: Tensor,
    of: Layer,
    *,
    heads: int,
    activation: Activation,
    eps: float,
    mask: Tensor | None,
    constant: bool = False,
    gamma: float = 0.0,
    noted: list[Tensor] | None = None,
) -> Tensor:
    """(B, N, F) → the same; a mask (B, N) leaves keys out; CP-LRP's weights are `constant`."""

    def mapped(x: Tensor, affine: Affine) -> Tensor:
        return linear(x, affine, gamma, noted)

    inner = normed(x, of.norm, eps, noted)
    q, k, v = (
        mapped(inner, each).view(*x.shape[:2], heads, -1).transpose(1, 2)
        for each in (of.q, of.k, of.v)
    )
    scores = product(q, k.transpose(-2, -1)) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    weights = scores.softmax(-1)
    mixed = weights.detach() @ v if constant else product(weights, v)
    x = x + mapped(mixed.transpose(1, 2).flatten(2), of.out)
    inner = activated(mapped(normed(x, of.mlp_norm, eps, noted), of.up), activation)
    return x + mapped(inner, of.down)


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
    gamma: float = 0.0,
    biased: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """The score that `head` makes, and R of the tokens that enter each layer, (B, N).

    If they are `biased`, R has the share of the biases of this layer and of all after it.
    """
    x = tokens.detach().double().requires_grad_()
    entering = [x]
    of_layers: list[list[Tensor]] = [[] for _ in layers]
    more: dict[str, Any] = {"activation": activation, "eps": eps, "mask": mask, "gamma": gamma}
    for each, noted in zip(layers, of_layers, strict=True):
        more["noted"] = noted if biased else None
        entering.append(block(entering[-1], each, heads=heads, constant=constant, **more))
    score = head(entering[-1])
    places = [*entering[:-1], *(bias for noted in of_layers for bias in noted)]
    found = torch.autograd.grad(score, places, allow_unused=True, materialize_grads=True)
    shares = [(x * g).sum(-1).detach() for x, g in zip(places, found, strict=True)]
    counts = [len(noted) for noted in of_layers]
    first = len(layers)  # of the biases of a layer
    return score, [shares[i] + sum(shares[first + sum(counts[:i]) :]) for i in range(len(layers))]
