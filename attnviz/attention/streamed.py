"""Statistics of an attention call in O(N) memory: blocks of query rows, each used while hot."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Sweep:
    """What one pass over the rows of A gives; None where it was not asked for.

    All are (batch, heads, queries) float32 but `received`, (batch, heads, R, keys).
    """

    lse: Tensor
    entropy: Tensor
    confidence: Tensor
    prefix_mass: Tensor | None = None
    distance: Tensor | None = None
    sum_of_squares: Tensor | None = None
    received: Tensor | None = None


def bias_rows(bias: Tensor | None, index: Tensor | slice) -> Tensor | None:
    """The rows of a bias, (…, 1 or Nq, Nk), that belong to chosen queries."""
    return bias if bias is None or bias.ndim < 2 or bias.shape[-2] == 1 else bias[..., index, :]


def scores(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    bias: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """scale·q·kᵀ + bias in float32, (B, H, Nq, Nk); −∞ where a key takes no part.

    `positions` are the numbers of the queries, given when the call is causal.
    """
    groups = query.shape[1] // key.shape[1]
    key = key.float().repeat_interleave(groups, dim=1) if groups > 1 else key.float()
    result = (query.float() * scale) @ key.transpose(-2, -1)
    if bias is not None and bias.dtype == torch.bool:
        result = result.masked_fill(~bias, -torch.inf)
    elif bias is not None:
        result = result + bias
    if positions is not None:
        later = torch.arange(key.shape[2], device=key.device) > positions[:, None]
        result = result.masked_fill(later, -torch.inf)
    return result


def rows(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    bias: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """The softmax of `scores`, (B, H, Nq, Nk); a row without any key is 0."""
    s = scores(query, key, scale=scale, bias=bias, positions=positions)
    return s.softmax(-1).masked_fill(s == -torch.inf, 0.0)


def sweep(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    bias: Tensor | None = None,
    causal: bool = False,
    query_mask: Tensor | None = None,
    prefix: Tensor | None = None,
    positions: tuple[Tensor, Tensor] | None = None,
    weights: Tensor | None = None,
    squares: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """All statistics of every query row, block by block."""
    b, h, nq, _ = query.shape
    nk = key.shape[2]
    step = max(1, _BLOCK_BYTES // (4 * b * h * nk))
    parts: dict[str, list[Tensor]] = {
        n: [] for n in ("lse", "entropy", "confidence", "prefix_mass", "distance", "sum_of_squares")
    }
    received = None if weights is None else torch.zeros(b, h, len(weights), nk, device=query.device)
    for start in range(0, nq, step):
        block = slice(start, min(start + step, nq))
        index = torch.arange(block.start, block.stop, device=query.device)
        s = scores(
            query[:, :, block],
            key,
            scale=scale,
            bias=bias_rows(bias, block),
            positions=index if causal else None,
        )
        lse = s.logsumexp(-1)
        a = s.softmax(-1).masked_fill(s == -torch.inf, 0.0)
        parts["lse"].append(lse)
        parts["entropy"].append(torch.special.entr(a).sum(-1))
        parts["confidence"].append(a.amax(-1))
        if prefix is not None:
            parts["prefix_mass"].append(a[..., prefix].sum(-1))
        if positions is not None:
            grid = torch.ones(nk, device=query.device) if prefix is None else (~prefix).float()
            d = torch.cdist(positions[0][block].double(), positions[1].double()).float() * grid
            mass = (a * grid).sum(-1)
            parts["distance"].append((a * d).sum(-1) / mass.clamp_min(1e-30))
        if squares:
            parts["sum_of_squares"].append(a.square().sum(-1))
        if received is not None and weights is not None:
            received += weights[:, block] @ a
        if progress is not None:
            progress(block.stop, nq)
    done = {name: torch.cat(values, -1) for name, values in parts.items() if values}
    if query_mask is not None:
        done = {n: v.masked_fill(~query_mask, 0.0) for n, v in done.items()}
    return Sweep(**done, received=received)
