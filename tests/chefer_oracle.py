"""LRP of Chefer et al. 2021 (2012.09838) for a pre-norm transformer, layer by layer, in float64.

Each rule is written out on the contributions of inputs to outputs. Nothing of it is attnviz's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lrp_oracle import Affine, Layer
from lrp_oracle import linear as mapped
from torch import Tensor
from torch.nn import functional as F


def shared(relevance: Tensor, total: Tensor) -> Tensor:
    """R / z, 0 where z is 0; the code of the paper adds 1e-9."""
    return torch.where(total == 0, 0, relevance / (total + 1e-9))


def linear(x: Tensor, of: Affine, relevance: Tensor) -> Tensor:
    """α = 1, β = 0: by the positive contributions."""
    positive = (x[..., None, :] * of[0]).relu()  # (…, outputs, inputs)
    share: Tensor = shared(relevance, positive.sum(-1))
    return (share[..., None] * positive).sum(-2)


def added(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """By elements, then scaled to what each sum is of both."""
    parts = [each * shared(relevance, a + b) for each in (a, b)]
    sums = [part.sum() for part in parts]
    whole = sums[0].abs() + sums[1].abs()
    first, second = (
        part * relevance.sum() * each.abs() / whole / each
        for part, each in zip(parts, sums, strict=True)
    )
    return first, second


def product(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Of a @ b: each factor half, by the terms of every sum."""
    terms = a[..., :, :, None] * b[..., None, :, :]  # (…, i, k, j)
    share = terms * shared(relevance, a @ b)[..., :, None, :] / 2
    return share.sum(-1), share.sum(-3)


def normed(x: Tensor, of: Affine, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], of[0], of[1], eps)


class Block:
    """x + attention(norm(x)), then x + mlp(norm(x)), of (N, F), and what it computed.

    `scales` are those of the two branches (LayerScale), which pass relevance on.
    """

    def __init__(
        self, of: Layer, heads: int, activation: Any, eps: float, scales: Sequence[Tensor | float]
    ) -> None:
        self.of, self.heads, self.activation, self.eps = of, heads, activation, eps
        self.scales = scales

    def run(self, x: Tensor) -> Tensor:
        of = self.of
        self.x, self.inner = x, normed(x, of.norm, self.eps)
        self.q, self.k, self.v = (
            mapped(self.inner, each).view(len(x), self.heads, -1).transpose(0, 1)
            for each in (of.q, of.k, of.v)
        )
        self.a = (self.q @ self.k.mT / self.q.shape[-1] ** 0.5).softmax(-1)
        self.mixed = self.a @ self.v
        self.joined = self.mixed.transpose(0, 1).flatten(1)
        self.attended = mapped(self.joined, of.out) * self.scales[0]
        self.middle = x + self.attended
        self.up_in = normed(self.middle, of.mlp_norm, self.eps)
        self.down_in = self.activation(mapped(self.up_in, of.up))
        self.added = mapped(self.down_in, of.down) * self.scales[1]
        return self.middle + self.added

    def back(self, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """R of what entered, and of A, (heads, N, N)."""
        of = self.of
        kept, branch = added(self.middle, self.added, relevance)
        branch = linear(self.down_in, of.down, branch)  # GELU passes it on
        middle = kept + linear(self.up_in, of.up, branch)  # and so does the norm
        kept, branch = added(self.x, self.attended, middle)
        branch = linear(self.joined, of.out, branch)
        of_a, of_v = product(
            self.a, self.v, branch.view(len(branch), self.heads, -1).transpose(0, 1)
        )
        of_q, of_k = product(self.q, self.k.mT, of_a)  # the softmax passes it on
        parts = [each.transpose(0, 1).flatten(1) for each in (of_q, of_k.mT, of_v)]
        maps = (of.q, of.k, of.v)
        inner = sum(linear(self.inner, each, r) for each, r in zip(maps, parts, strict=True))
        return kept + inner, of_a


def maps(
    tokens: Tensor,
    layers: Sequence[Layer],
    head: Callable[[Tensor], Tensor],
    back: Callable[[Tensor], Tensor],
    *,
    heads: int,
    activation: Any = F.gelu,
    eps: float = 1e-5,
    scales: Sequence[Sequence[Tensor | float]] | None = None,
) -> list[Tensor]:
    """mean_h relu(∇A⊙R_A) of every layer, (N, N), for (N, F) tokens.

    `head` makes the score of the last tokens, `back` their relevance.
    """
    x = tokens.detach().double().requires_grad_()
    scales = [(1.0, 1.0) for _ in layers] if scales is None else scales
    blocks = [
        Block(each, heads, activation, eps, scale)
        for each, scale in zip(layers, scales, strict=True)
    ]
    for block in blocks:
        x = block.run(x)
    gradients = torch.autograd.grad(head(x), [block.a for block in blocks])
    relevance, found = back(x.detach()), []
    with torch.no_grad():
        for block, gradient in zip(reversed(blocks), reversed(gradients), strict=True):
            relevance, of_a = block.back(relevance)
            found.append((gradient * of_a).relu().mean(0))
    return found[::-1]


def rolled_out(layers: Sequence[Tensor]) -> Tensor:
    """(I + M_L) ⋯ (I + M_1)."""
    eye = torch.eye(len(layers[0]), dtype=torch.float64)
    result = eye
    for each in layers:
        result = (each + eye) @ result
    return result
