"""The methods as their papers write them, on whole N×N matrices in float64; no code of attnviz.

Layers are lists, first to last, of A and ∇A, (B, H, N, N); results have the batch in front.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Layers = Sequence[Tensor]


def fused(a: Tensor, fusion: str) -> Tensor:
    """Heads as one matrix, (B, N, N)."""
    return {"mean": a.mean(1), "max": a.amax(1), "min": a.amin(1)}[fusion]


def without_lowest(m: Tensor, share: float, *, spare: bool) -> Tensor:
    """Each picture's matrix without what is below the ⌊share·N²⌋-th smallest entry."""
    if not share:
        return m
    kept = []
    for one in m:
        least = one.flatten().sort().values[int(share * one.numel())]
        cut = torch.where(one < least, torch.zeros_like(one), one)
        if spare:
            cut[0, 0] = one[0, 0]
        kept.append(cut)
    return torch.stack(kept)


def rollout(
    attentions: Layers,
    fusion: str = "mean",
    discard: float = 0.0,
    *,
    spare: bool = True,
    pool: Tensor | None = None,
) -> Tensor:
    """R of 2005.00928, (B, N, N); with the attention of a pool on top, (B, Nq, N)."""
    count = attentions[0].shape[-1]
    one = torch.eye(count, dtype=torch.float64)
    r = one
    for a in attentions:
        m = without_lowest(fused(a, fusion), discard, spare=spare) + one
        r = m / m.sum(-1, keepdim=True) @ r
    if pool is None:
        return r
    return without_lowest(fused(pool, fusion), discard, spare=False) @ r


def gradient_rollout(
    attentions: Layers,
    gradients: Layers,
    discard: float = 0.0,
    *,
    spare: bool = True,
    pool: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """vit-explain's product of (relu(mean_h A⊙∇A) + I)/2."""
    one = torch.eye(attentions[0].shape[-1], dtype=torch.float64)
    r = one
    for a, g in zip(attentions, gradients, strict=True):
        m = without_lowest((a * g).mean(1).relu(), discard, spare=spare)
        r = (m + one) / 2 @ r
    if pool is None:
        return r
    return without_lowest((pool[0] * pool[1]).mean(1).relu(), discard, spare=False) @ r


def relevance(
    attentions: Layers, gradients: Layers, pool: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """R of 2103.15679: R ← R + ĀR; a pool's queries s have Ā·R̄ (eqs. 8 to 11, R_ss = I)."""
    one = torch.eye(attentions[0].shape[-1], dtype=torch.float64)
    r = one
    for a, g in zip(attentions, gradients, strict=True):
        r = r + (a * g).relu().mean(1) @ r
    if pool is None:
        return r
    others = r - one
    total = others.sum(-1, keepdim=True)
    normalised = torch.where(total > 0, others / total, 0.0) + one
    return (pool[0] * pool[1]).relu().mean(1) @ normalised


def gradient_attention(a: Tensor, g: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i mean_h relu(A⊙∇A)_ij, (B, R, N)."""
    return weights @ (a * g).relu().mean(1)


def legrad(gradients: Layers) -> Tensor:
    """mean_l mean_h mean_i relu(∂s^l/∂A^l)_ij of 2404.03214, (B, N)."""
    return torch.stack([g.relu().mean(1).mean(1) for g in gradients]).mean(0)


def transformed(value: Tensor, projection: Tensor) -> Tensor:
    """f(v_j) = v_j·W_O^h of 2004.10102, (B, H, N, F)."""
    return torch.einsum("bhjd,hdf->bhjf", value, projection)


def value_norm(a: Tensor, value: Tensor, projection: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i α_ij‖f(v_j)‖ of each head, (B, R, H, N)."""
    norms = transformed(value, projection).norm(dim=-1)
    return torch.einsum("bri,bhij,bhj->brhj", weights, a, norms)


def value_norm_sum(a: Tensor, value: Tensor, projection: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i ‖Σ_h α_ij f(v_j)‖, (B, R, N)."""
    f = transformed(value, projection)
    summed = torch.einsum("bhij,bhjf->bijf", a, f)
    norms: Tensor = torch.linalg.vector_norm(summed, dim=-1)
    return weights @ norms


def cosine(features: Tensor, weights: Tensor) -> Tensor:
    """Cosine of every token with Σ_i w_i of them, (B, R, …, N), of (B, …, N, F)."""
    found = []
    for one, w in zip(features, weights, strict=True):
        for row in w:
            mean = (row[:, None] * one).sum(-2, keepdim=True)
            found.append((one * mean).sum(-1) / (one.norm(dim=-1) * mean.norm(dim=-1)))
    stacked = torch.stack(found)
    return stacked.view(*weights.shape[:2], *stacked.shape[1:])
